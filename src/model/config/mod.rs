// SPDX-License-Identifier: MPL-2.0
//! Configurations that fully determine the networks of a model file.

use serde::{Deserialize, Serialize};

mod continuous;
mod cost;
mod tokenizer;

pub use continuous::{ContinuousConfig, ContinuousNetworks, MAX_LATENT_CHANNELS};
pub use cost::{analysis_macs, painter_macs, Convolutions};
pub use tokenizer::{Colour, LevelConfig, LevelNetworks, NetworkConfig, PatchConfig, TokenizerConfig, Transform};

use super::ModelError;

pub(super) const MAX_WIDTH: i64 = 4096;
pub(super) const MAX_BLOCKS: i64 = 64;
pub(super) const MAX_LEVELS: usize = 8;

/// Everything that a model file says about its networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Name of the model, for people.
    pub name: String,
    pub tokenizer: TokenizerConfig,
    /// None: the model has discrete tokens only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuous: Option<ContinuousConfig>,
    /// None: masked tokens are taken from the unit before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predictor: Option<PredictorConfig>,
}

/// The transformer that predicts masked tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PredictorConfig {
    /// Channels of the residual stream, a multiple of the heads.
    pub width: i64,
    pub layers: i64,
    pub heads: i64,
    /// Side of the square of tokens that attend to each other; every second layer's squares are shifted by half.
    pub window: i64,
    /// Whether it predicts lost latents too.
    #[serde(default)]
    pub latents: bool,
}

impl PredictorConfig {
    /// The embedded default's.
    pub fn small() -> Self {
        PredictorConfig {
            width: 128,
            layers: 3,
            heads: 4,
            window: 8,
            latents: true,
        }
    }

    /// For tests.
    pub fn tiny() -> Self {
        PredictorConfig {
            width: 16,
            layers: 2,
            heads: 2,
            window: 4,
            latents: true,
        }
    }

    fn validate(&self) -> Result<(), ModelError> {
        let legal = (1..=MAX_WIDTH).contains(&self.width)
            && (1..=MAX_BLOCKS).contains(&self.layers)
            && (1..=self.width).contains(&self.heads)
            && self.width % self.heads == 0
            && [2, 4, 8, 16].contains(&self.window);
        match legal {
            true => Ok(()),
            false => Err(ModelError::Config(format!("predictor {self:?}"))),
        }
    }
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            name: "tvc-small".into(),
            tokenizer: TokenizerConfig::small(),
            continuous: Some(ContinuousConfig::small()),
            predictor: Some(PredictorConfig::small()),
        }
    }
}

impl ModelConfig {
    /// A few thousand weights with the same shape, for tests.
    pub fn tiny() -> Self {
        ModelConfig {
            name: "tiny".into(),
            tokenizer: TokenizerConfig::tiny(),
            continuous: Some(ContinuousConfig::tiny()),
            predictor: Some(PredictorConfig::tiny()),
        }
    }

    /// Refuses what the networks cannot be built from, before anything is allocated.
    pub fn validate(&self) -> Result<(), ModelError> {
        self.tokenizer.validate()?;
        if let Some(continuous) = &self.continuous {
            continuous.validate(&self.tokenizer)?;
        }
        self.predictor.as_ref().map_or(Ok(()), PredictorConfig::validate)
    }
}
