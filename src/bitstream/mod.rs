// SPDX-License-Identifier: MPL-2.0
//! The token bitstream: headers of access units and the times of their frames. `docs/bitstream.md` is the
//! specification.

mod access_unit;
mod fields;
mod header;
mod limits;
mod motion_field;
mod resilience;
mod resolution;
#[cfg(test)]
pub(crate) mod samples;
mod timing;
mod window;

pub use access_unit::slices;
#[cfg(feature = "codec")]
pub(crate) use access_unit::slices_at_front;
pub(crate) use header::bytes_to_key_unit;
pub use header::{find_key_unit, SequenceHeader, UnitHeader, DELTA_FRAMES, MAX_HEADER, MAX_PAYLOAD, SYNC};
pub use limits::{FSQ_LEVELS, MACROBLOCK_SIDE, MAX_SIZE, MAX_WINDOW_TOKENS, MIN_SIZE};
pub use motion_field::{moved, Displacement, MotionField, PARTS};
pub use resilience::{Resilience, Slice, GROUPS, MAX_REFERENCE, MAX_SLICES};
pub use resolution::CodingScale;
pub use timing::{rounded_like, Clock, FrameTimes, Timing};
pub use window::{Grid, Position, View, Window, POSITIONS_PER_SAMPLE};

/// Why bytes are not an access unit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BitstreamError {
    /// More bytes may complete the header.
    #[error("the header is cut off")]
    Incomplete,
    /// The first byte is not [`SYNC`].
    #[error("no access unit starts with 0x{0:02x}")]
    NoSync(u8),
    /// A field has a value that is not legal.
    #[error("malformed {field}: {value}, legal is {legal}")]
    Malformed {
        /// Name of the field.
        field: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        legal: &'static str,
    },
    /// Made by a newer or older build.
    #[error("bitstream version {0} is not supported, this build reads version {VERSION}", VERSION = header::VERSION)]
    UnsupportedVersion(u8),
    /// The header is damaged.
    #[error("the header's check value does not match")]
    HeaderCheck,
}
