// SPDX-License-Identifier: MPL-2.0
//! Rate control: a slowly moving quality within a bounded buffer, as x264's ABR with VBV.
//!
//! [`Vbv`] is the only hard bound: the bits that a link still has to carry when a unit is due. [`SizeModel`] says what units of a
//! quality take, from what earlier ones took. [`RateControl`] plans with both: the quality at which a scene, its key unit included,
//! takes what the rate has for some seconds. [`fit`] codes a unit at the planned quality, and again only where it would not fit
//! into the buffer.

mod control;
mod operating_points;
mod resolution;
mod search;
mod size_model;
#[cfg(test)]
mod tests;
mod vbv;

pub use control::{Opening, RateControl, ScenePlan};
pub use operating_points::{
    largest_scale, operating_point, point_between, scale_of, OperatingPoint, Quality, DEFAULT_QUANTIZER, LAST_ENLARGED,
    LAST_WITH_RESIDUAL, MAX_QUANTIZER,
};
pub use resolution::better_scale;
pub use search::{fit, Room, Sized};
pub use size_model::UnitKind;
pub use vbv::{Link, DEFAULT_BUFFER_SECONDS};

/// What an encoder keeps to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RateMode {
    /// One operating point for all units.
    ConstantQuality {
        /// 0 (best) to 63 (smallest).
        quantizer: u32,
    },
    /// A mean rate, and a buffer within which units may be larger or smaller.
    Bitrate(Link),
}

impl Default for RateMode {
    fn default() -> Self {
        RateMode::ConstantQuality {
            quantizer: DEFAULT_QUANTIZER,
        }
    }
}

impl RateMode {
    /// The link, where there is one to keep to.
    pub fn link(self) -> Option<Link> {
        match self {
            RateMode::ConstantQuality { .. } => None,
            RateMode::Bitrate(link) => Some(link),
        }
    }
}
