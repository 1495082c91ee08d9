// SPDX-License-Identifier: MPL-2.0
//! What an encoder decides about the symbols of a unit.

mod activity;
mod digits;
mod masking;
mod rdoq;
mod skip;
mod static_regions;

pub use activity::activity_weights;
pub use digits::{nearest, DigitRdoq, Metric};
pub use masking::{mask_adaptive, mask_pattern, MaskingStrategy};
pub use rdoq::{Rdoq, SymbolBits};
pub use skip::{is_still, skip_map, CHANGE_BITS, COARSEST_WITH_SKIP_MAP, POSITION_BITS, SKIP_HYSTERESIS};
pub use static_regions::{StaticRegionDetector, StaticRegions};
