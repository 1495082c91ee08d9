// SPDX-License-Identifier: MPL-2.0
//! Continuous latents, quantised: which positions keep theirs, and the values of the others.

mod context;
mod map;
mod skip_map;
mod weights;

pub use context::{LatentContextModel, LatentMode, Quantization, WantedLatents};
pub use map::{LatentContext, LatentMap};
pub use weights::{
    channel_groups, digit_row, latent_phase, LatentWeights, CHANGE_ROWS, CHANGE_SOURCES, COMPANDING, GAIN_SCALE,
    GROUP_ROWS, LATENT_GROUPS, LATENT_PHASES, LATENT_SCALE, LATENT_SCALES, LATENT_SOURCES, LATENT_STEPS,
    LATENT_SYMBOLS, LATENT_TABLE_ROWS, MEAN_SCALE, PHASE_ROWS, ROWS_PER_CHANGE, SKIP_ROWS, STEP_ROWS,
};
