// SPDX-License-Identifier: MPL-2.0
//! Configurations that fully determine the networks of a model file.

use serde::{Deserialize, Serialize};

use super::ModelError;

/// How a picture becomes the channels that the tokenizer sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Colour {
    /// Y'CbCr 4:2:0: six channels at half size, the four luma samples of each 2x2 square, then Cb, Cr.
    Quad420,
    /// R'G'B', full range, at full size.
    Rgb,
}

impl Colour {
    /// Channels of one frame.
    pub fn channels(self) -> i64 {
        match self {
            Colour::Quad420 => 6,
            Colour::Rgb => 3,
        }
    }

    /// Picture samples per tensor element along each side.
    pub fn scale(self) -> i64 {
        match self {
            Colour::Quad420 => 2,
            Colour::Rgb => 1,
        }
    }
}

/// How blocks of pixels become channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transform {
    /// Space-time-to-depth.
    Raw,
    /// Three-dimensional Haar bands in the order of NVIDIA's Cosmos tokenizer.
    Haar,
}

/// Space-time patches of `time` frames by `space` x `space` tensor elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchConfig {
    pub transform: Transform,
    pub time: i64,
    pub space: i64,
}

/// One resolution of an encoder or decoder, the finest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelConfig {
    /// Channels of the residual stream.
    pub width: i64,
    /// Channels inside a residual block.
    pub hidden: i64,
    /// Residual blocks in space.
    pub blocks: i64,
    /// Residual blocks in time; each follows one of the first blocks in space.
    pub temporal_blocks: i64,
    /// Between this level and the next coarser one, time is halved.
    pub halve_time: bool,
    /// Between this level and the next coarser one, width and height are halved.
    pub halve_space: bool,
}

/// The tokenizer: frames to FSQ digits and back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerConfig {
    pub colour: Colour,
    pub patch: PatchConfig,
    pub encoder: Vec<LevelConfig>,
    pub decoder: Vec<LevelConfig>,
    /// Number of values of each digit of a token.
    pub fsq_levels: Vec<i64>,
}

/// The continuous stream: an encoder of its own at the resolution of the tokens, and the control branch that
/// brings its latents into the pictures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContinuousConfig {
    /// Values of a latent.
    pub channels: i64,
    /// Blocks between the tokenizer's second-coarsest features and the latents.
    pub encoder: LevelConfig,
    /// Control branch, the finest level first. Widths, hidden widths and scales are those of the tokenizer's
    /// decoder, whose first blocks it starts as a copy of; it may have fewer blocks.
    pub control: Vec<LevelConfig>,
}

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
}

impl PredictorConfig {
    /// The embedded default's.
    pub fn small() -> Self {
        PredictorConfig {
            width: 128,
            layers: 3,
            heads: 4,
            window: 8,
        }
    }

    /// For tests.
    pub fn tiny() -> Self {
        PredictorConfig {
            width: 16,
            layers: 2,
            heads: 2,
            window: 4,
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

const MAX_WIDTH: i64 = 4096;
const MAX_BLOCKS: i64 = 64;
const MAX_LEVELS: usize = 8;
/// Values of a continuous latent at most: the entropy coder's working memory is sized by it.
pub const MAX_LATENT_CHANNELS: i64 = 64;

impl ContinuousConfig {
    /// For [`TokenizerConfig::small`].
    pub fn small() -> Self {
        let mut control = TokenizerConfig::small().decoder;
        for (level, (blocks, temporal_blocks)) in control.iter_mut().zip([(1, 0), (2, 1), (2, 1)]) {
            level.blocks = blocks;
            level.temporal_blocks = temporal_blocks;
        }
        ContinuousConfig {
            channels: 16,
            encoder: LevelConfig {
                width: 112,
                hidden: 112,
                blocks: 2,
                temporal_blocks: 1,
                halve_time: false,
                halve_space: false,
            },
            control,
        }
    }

    /// For [`TokenizerConfig::tiny`].
    pub fn tiny() -> Self {
        let mut config = Self::small();
        config.channels = 4;
        config.encoder.width = 16;
        config.encoder.hidden = 8;
        config.control = TokenizerConfig::tiny().decoder;
        config.control.iter_mut().for_each(|level| {
            level.blocks = 1;
            level.temporal_blocks = level.temporal_blocks.min(1);
        });
        config
    }

    fn validate(&self, tokenizer: &TokenizerConfig) -> Result<(), ModelError> {
        let bad = |what: String| Err(ModelError::Config(what));
        if !(1..=MAX_LATENT_CHANNELS).contains(&self.channels) {
            let channels = self.channels;
            return bad(format!(
                "{channels} latent channels, legal are 1 to {MAX_LATENT_CHANNELS}"
            ));
        }
        if tokenizer.encoder.len() < 2 {
            return bad("continuous latents need an encoder of two levels at least".into());
        }
        validate_level("continuous encoder", &self.encoder)?;
        if self.encoder.halve_time || self.encoder.halve_space {
            return bad("the continuous encoder cannot be halved".into());
        }
        if self.control.len() != tokenizer.decoder.len() {
            return bad("control branch and decoder have different levels".into());
        }
        for (control, decoder) in self.control.iter().zip(&tokenizer.decoder) {
            validate_level("control branch", control)?;
            let blocks = LevelConfig {
                blocks: control.blocks,
                temporal_blocks: control.temporal_blocks,
                ..*decoder
            };
            if *control != blocks
                || control.blocks > decoder.blocks
                || control.temporal_blocks > decoder.temporal_blocks
            {
                return bad("a level of the control branch is no part of the decoder's".into());
            }
        }
        Ok(())
    }
}

fn validate_level(name: &str, level: &LevelConfig) -> Result<(), ModelError> {
    for width in [level.width, level.hidden] {
        if !(1..=MAX_WIDTH).contains(&width) {
            return Err(ModelError::Config(format!(
                "{name} width {width}, legal are 1 to {MAX_WIDTH}"
            )));
        }
    }
    if !(0..=MAX_BLOCKS).contains(&level.blocks) || !(0..=level.blocks).contains(&level.temporal_blocks) {
        return Err(ModelError::Config(format!(
            "{name} has {} + {} blocks",
            level.blocks, level.temporal_blocks
        )));
    }
    Ok(())
}

impl TokenizerConfig {
    /// The embedded default: 8x in time, 16x16 in space, real time on two cores.
    pub fn small() -> Self {
        let level = |width, hidden, blocks, temporal_blocks, halve_time, halve_space| LevelConfig {
            width,
            hidden,
            blocks,
            temporal_blocks,
            halve_time,
            halve_space,
        };
        TokenizerConfig {
            colour: Colour::Quad420,
            patch: PatchConfig {
                transform: Transform::Raw,
                time: 4,
                space: 2,
            },
            encoder: vec![
                level(64, 64, 0, 0, false, true),
                level(128, 128, 2, 1, true, true),
                level(224, 112, 4, 2, false, false),
            ],
            decoder: vec![
                level(96, 96, 2, 0, false, true),
                level(160, 160, 3, 1, true, true),
                level(256, 128, 4, 2, false, false),
            ],
            fsq_levels: crate::FSQ_LEVELS.map(i64::from).to_vec(),
        }
    }

    /// A few thousand weights with the same shape, for tests.
    pub fn tiny() -> Self {
        let mut config = Self::small();
        for level in config.encoder.iter_mut().chain(&mut config.decoder) {
            level.width = level.width.min(16);
            level.hidden = 8;
            level.blocks = level.blocks.min(2);
        }
        config
    }

    /// Frames that one token covers.
    pub fn temporal_factor(&self) -> i64 {
        self.patch.time * (1 << self.encoder.iter().filter(|l| l.halve_time).count())
    }

    /// Picture samples that one token covers along each side.
    pub fn spatial_factor(&self) -> i64 {
        let halvings = self.encoder.iter().filter(|l| l.halve_space).count();
        self.colour.scale() * self.patch.space * (1 << halvings)
    }

    /// Channels of a patch.
    pub fn patch_channels(&self) -> i64 {
        self.colour.channels() * self.patch.time * self.patch.space * self.patch.space
    }

    /// Refuses what the networks cannot be built from, before anything is allocated.
    pub fn validate(&self) -> Result<(), ModelError> {
        let bad = |what: String| Err(ModelError::Config(what));
        for (name, levels) in [("encoder", &self.encoder), ("decoder", &self.decoder)] {
            if levels.is_empty() || levels.len() > MAX_LEVELS {
                return bad(format!(
                    "{name} has {} levels, legal are 1 to {MAX_LEVELS}",
                    levels.len()
                ));
            }
            for level in levels {
                validate_level(name, level)?;
            }
            if levels.last().is_some_and(|l| l.halve_time || l.halve_space) {
                return bad(format!("{name}: the coarsest level cannot be halved"));
            }
        }
        let halvings = |levels: &[LevelConfig]| -> Vec<(bool, bool)> {
            levels.iter().map(|l| (l.halve_time, l.halve_space)).collect()
        };
        if halvings(&self.encoder) != halvings(&self.decoder) {
            return bad("encoder and decoder have different scales".into());
        }
        if self.patch.time != 4 || ![2, 4].contains(&self.patch.space) {
            return bad(format!("patch {}x{}", self.patch.time, self.patch.space));
        }
        if ![4, 8].contains(&self.temporal_factor()) || ![8, 16].contains(&self.spatial_factor()) {
            return bad(format!(
                "{}x in time and {}x in space, legal are 4 or 8 and 8 or 16",
                self.temporal_factor(),
                self.spatial_factor()
            ));
        }
        if self.fsq_levels != crate::FSQ_LEVELS.map(i64::from) {
            return bad(format!(
                "FSQ levels {:?}, legal are {:?}",
                self.fsq_levels,
                crate::FSQ_LEVELS
            ));
        }
        Ok(())
    }
}
