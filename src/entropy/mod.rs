// SPDX-License-Identifier: MPL-2.0
//! Lossless coding of token maps and of quantised latents. Everything that a decoder needs is computed with
//! integers, so that a stream made on one machine decodes on every other.

mod adaptive;
mod coder;
mod context;
mod dense;
mod detail;
mod detail_probabilities;
mod exp_golomb;
mod held;
mod latent;
mod latent_weights;
mod map;
mod mask;
#[cfg(test)]
mod numbers;
mod probability;
mod rounding;
mod weights;

pub use coder::{BitCounter, SymbolCoder, UnitDecoder, UnitEncoder};
pub use context::ContextModel;
pub use detail::{
    code_detail, Cell, DetailHistory, DetailMap, Levels, CELL_BLOCKS, COEFFICIENTS, DETAIL_STEPS, LUMA_BLOCKS,
    MAX_LEVEL, ZIGZAG,
};
pub use latent::{LatentContextModel, LatentHistory, LatentMap, LatentMode, WantedLatents};
pub use latent_weights::{
    channel_groups, digit_row, latent_phase, LatentWeights, CHANGE_ROWS, CHANGE_SOURCES, COMPANDING, GAIN_SCALE,
    GROUP_ROWS, HELD_ROWS, LATENT_GROUPS, LATENT_PHASES, LATENT_SCALE, LATENT_SCALES, LATENT_SOURCES, LATENT_STEPS,
    LATENT_SYMBOLS, LATENT_TABLE_ROWS, MEAN_SCALE, PHASE_ROWS, ROWS_PER_CHANGE, STEP_ROWS,
};
pub use map::{History, Token, TokenMap, DIGITS, MASKED};
pub use mask::{pattern_masks, Masking};
pub use probability::{Probabilities, SymbolModel, PRECISION};
pub use rounding::Rounding;
pub use weights::{
    rows_before, ContextWeights, Layer, ACTIVATION_SCALE, LOGIT_SCALE, MULTIPLIER_BITS, ROWS_PER_SOURCE, SOURCES,
    TABLE_SCALE,
};

/// 16-bit check value over the symbols of a unit: the CRC-32 of the digits in order, then of the latents as
/// big-endian i32, then of the detail, its halves added bit by bit.
pub fn symbol_check(tokens: &TokenMap, latents: Option<&LatentMap>, detail: Option<&DetailMap>) -> u16 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(tokens.tokens.as_flattened());
    for value in latents.iter().flat_map(|map| &map.values) {
        hasher.update(&value.to_be_bytes());
    }
    if let Some(detail) = detail.filter(|detail| detail.freezes()) {
        detail.check(&mut hasher);
    }
    let crc = hasher.finalize();
    (crc >> 16 ^ crc) as u16
}

/// Why a payload does not decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntropyError {
    #[error("the token payload is damaged")]
    Damaged,
    #[error("context model: {0}")]
    Model(String),
}
