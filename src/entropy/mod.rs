// SPDX-License-Identifier: MPL-2.0
//! Lossless coding of token maps. Everything here is computed with integers, so that a stream made on one
//! machine decodes on every other.

mod context;
mod map;
mod probability;
mod weights;

pub use context::ContextModel;
pub use map::{History, Token, TokenMap, DIGITS};
pub use probability::{Probabilities, PRECISION};
pub use weights::{
    rows_before, ContextWeights, Layer, ACTIVATION_SCALE, LOGIT_SCALE, MULTIPLIER_BITS, ROWS_PER_SOURCE, SOURCES,
    TABLE_SCALE,
};

/// Why a payload does not decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntropyError {
    #[error("the token payload is damaged")]
    Damaged,
    #[error("context model: {0}")]
    Model(String),
}
