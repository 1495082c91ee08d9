// SPDX-License-Identifier: MPL-2.0
//! Discrete tokens: which are sent, and their digits.

mod context;
mod map;
mod mask;
mod weights;

pub use context::{as_wanted, ContextModel, DigitChoice};
pub use map::{Token, TokenContext, TokenMap, DIGITS, MASKED};
pub use mask::{pattern_masks, Masking};
pub use weights::{rows_before, ContextWeights, ACTIVATION_SCALE, LOGIT_SCALE, ROWS_PER_SOURCE, SOURCES, TABLE_SCALE};
