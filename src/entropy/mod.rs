// SPDX-License-Identifier: MPL-2.0
//! Lossless coding of the symbols of access units. Everything that a decoder needs is computed with integers, so that a stream
//! made on one machine decodes on every other.

mod binary;
mod camera;
mod integer_net;
mod latents;
mod motion;
#[cfg(test)]
pub(crate) mod numbers;
mod probability;
mod range_coder;
mod references;
mod region;
mod residual;
mod tokens;
mod unit;

pub use camera::{code_camera, Camera, CameraContext};
pub use integer_net::{Layer, MULTIPLIER_BITS};
pub use latents::{
    channel_groups, digit_row, latent_phase, LatentContext, LatentContextModel, LatentMap, LatentMode, LatentWeights,
    Quantization, WantedLatents, CHANGE_ROWS, CHANGE_SOURCES, COMPANDING, GAIN_SCALE, GROUP_ROWS, LATENT_GROUPS,
    LATENT_PHASES, LATENT_SCALE, LATENT_SCALES, LATENT_SOURCES, LATENT_STEPS, LATENT_SYMBOLS, LATENT_TABLE_ROWS,
    MEAN_SCALE, PHASE_ROWS, ROWS_PER_CHANGE, SKIP_ROWS, STEP_ROWS,
};
pub use motion::{code_motion, Motion, MotionContext, MotionVector, MAX_VECTORS};
pub use probability::{Probabilities, SymbolModel, PRECISION};
pub use range_coder::{BitCounter, SymbolCoder, UnitDecoder, UnitEncoder};
pub use references::References;
pub use region::Region;
pub use residual::{
    code_residual, Levels, Macroblock, ResidualContext, ResidualMap, COEFFICIENTS, LUMA_BLOCKS, MACROBLOCK_BLOCKS,
    MAX_LEVEL, RESIDUAL_STEPS, ZIGZAG,
};
pub use tokens::{
    as_wanted, pattern_masks, rows_before, ContextModel, ContextWeights, DigitChoice, Masking, Token, TokenContext,
    TokenMap, ACTIVATION_SCALE, DIGITS, LOGIT_SCALE, MASKED, ROWS_PER_SOURCE, SOURCES, TABLE_SCALE,
};
pub use unit::{CodedSlice, CodedUnit, CodingContext, ContextModels, UnitSymbols, WantedUnit};

/// Why a payload does not decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntropyError {
    #[error("the token payload is damaged")]
    Damaged,
    /// A kind of camera motion that a later version may know.
    #[error("this kind of camera motion is not supported")]
    CameraMotion,
    #[error("context model: {0}")]
    Model(String),
}
