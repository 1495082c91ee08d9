// SPDX-License-Identifier: MPL-2.0

use serde::{Deserialize, Serialize};

use super::tokenizer::{validate_level, LevelConfig, NetworkConfig, TokenizerConfig};
use super::LevelNetworks;
use crate::model::cosmos::CosmosConfig;
use crate::model::ModelError;

/// Values of a continuous latent at most: the entropy coder's working memory is sized by it.
pub const MAX_LATENT_CHANNELS: i64 = 64;

/// The continuous stream: latents at the resolution of the tokens, and the control branch that brings them into the
/// pictures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContinuousConfig {
    /// Values of a latent.
    pub channels: i64,
    #[serde(flatten)]
    pub networks: ContinuousNetworks,
}

/// The networks around the latents, of the same family as the tokenizer's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ContinuousNetworks {
    Levels {
        /// Blocks between the tokenizer's second-coarsest features and the latents.
        encoder: LevelConfig,
        /// Control branch, the finest level first. Widths and scales are those of the tokenizer's decoder, whose first blocks it
        /// starts as a copy of; it may have fewer blocks, or none in a level, and narrower ones.
        control: Vec<LevelConfig>,
    },
    Cosmos {
        /// The continuous tokenizer, an encoder of its own.
        cosmos: CosmosConfig,
        /// Residual blocks of a level of the control branch, a copy of the discrete decoder's stages.
        control_blocks: i64,
    },
}

impl ContinuousConfig {
    /// For [`TokenizerConfig::small`].
    pub fn small() -> Self {
        let mut control = LevelNetworks::small().decoder;
        for (level, (blocks, temporal_blocks)) in control.iter_mut().zip([(1, 0), (2, 1), (2, 1)]) {
            level.blocks = blocks;
            level.temporal_blocks = temporal_blocks;
        }
        let encoder = LevelConfig {
            width: 112,
            hidden: 112,
            blocks: 4,
            temporal_blocks: 1,
            halve_time: false,
            halve_space: false,
        };
        ContinuousConfig {
            channels: 32,
            networks: ContinuousNetworks::Levels { encoder, control },
        }
    }

    /// For [`TokenizerConfig::tiny`].
    pub fn tiny() -> Self {
        let mut control = LevelNetworks::tiny().decoder;
        control.iter_mut().for_each(|level| {
            level.blocks = 1;
            level.temporal_blocks = level.temporal_blocks.min(1);
        });
        let encoder = LevelConfig {
            width: 16,
            hidden: 8,
            blocks: 2,
            temporal_blocks: 1,
            halve_time: false,
            halve_space: false,
        };
        ContinuousConfig {
            channels: 4,
            networks: ContinuousNetworks::Levels { encoder, control },
        }
    }

    /// A continuous Cosmos tokenizer of latents of `channels` values, beside a discrete one.
    pub fn cosmos(config: CosmosConfig, channels: i64) -> Self {
        ContinuousConfig {
            channels,
            networks: ContinuousNetworks::Cosmos {
                cosmos: config,
                control_blocks: 1,
            },
        }
    }

    pub(super) fn validate(&self, tokenizer: &TokenizerConfig) -> Result<(), ModelError> {
        if !(1..=MAX_LATENT_CHANNELS).contains(&self.channels) {
            let channels = self.channels;
            return bad(format!(
                "{channels} latent channels, legal are 1 to {MAX_LATENT_CHANNELS}"
            ));
        }
        match (&self.networks, &tokenizer.networks) {
            (ContinuousNetworks::Levels { encoder, control }, NetworkConfig::Levels(levels)) => {
                validate_levels(encoder, control, levels)
            }
            (ContinuousNetworks::Cosmos { cosmos, control_blocks }, NetworkConfig::Cosmos { cosmos: discrete }) => {
                validate_cosmos(cosmos, *control_blocks, discrete)
            }
            _ => bad("the continuous networks are of another family than the tokenizer".into()),
        }
    }
}

fn bad(what: String) -> Result<(), ModelError> {
    Err(ModelError::Config(what))
}

fn validate_levels(
    encoder: &LevelConfig,
    control: &[LevelConfig],
    tokenizer: &LevelNetworks,
) -> Result<(), ModelError> {
    if tokenizer.encoder.len() < 2 {
        return bad("continuous latents need an encoder of two levels at least".into());
    }
    validate_level("continuous encoder", encoder)?;
    if encoder.halve_time || encoder.halve_space {
        return bad("the continuous encoder cannot be halved".into());
    }
    if control.len() != tokenizer.decoder.len() {
        return bad("control branch and decoder have different levels".into());
    }
    for (control, decoder) in control.iter().zip(&tokenizer.decoder) {
        validate_level("control branch", control)?;
        let blocks = LevelConfig {
            hidden: control.hidden,
            blocks: control.blocks,
            temporal_blocks: control.temporal_blocks,
            ..*decoder
        };
        if *control != blocks || control.blocks > decoder.blocks || control.temporal_blocks > decoder.temporal_blocks {
            return bad("a level of the control branch is no part of the decoder's".into());
        }
    }
    Ok(())
}

fn validate_cosmos(continuous: &CosmosConfig, control_blocks: i64, discrete: &CosmosConfig) -> Result<(), ModelError> {
    continuous.validate()?;
    let factors = |config: &CosmosConfig| (config.temporal_factor, config.spatial_factor);
    if factors(continuous) != factors(discrete) {
        return bad(format!(
            "the continuous tokenizer's factors are {:?}, the discrete one's {:?}",
            factors(continuous),
            factors(discrete)
        ));
    }
    if !(1..=discrete.blocks + 1).contains(&control_blocks) {
        return bad(format!(
            "{control_blocks} blocks in a level of the control branch, legal are 1 to {}",
            discrete.blocks + 1
        ));
    }
    Ok(())
}
