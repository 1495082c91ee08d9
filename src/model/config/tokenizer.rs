// SPDX-License-Identifier: MPL-2.0

use serde::{Deserialize, Serialize};

use super::{MAX_BLOCKS, MAX_LEVELS, MAX_WIDTH};
use crate::model::cosmos::CosmosConfig;
use crate::model::ModelError;

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

/// Encoder and decoder out of levels, as in `tvc-small`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelNetworks {
    pub colour: Colour,
    pub patch: PatchConfig,
    pub encoder: Vec<LevelConfig>,
    pub decoder: Vec<LevelConfig>,
    /// Channels between the two factors of the decoder's last convolution, 3x3 and 1x1; None: one 3x3 convolution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_rank: Option<i64>,
}

/// The two families of networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NetworkConfig {
    Levels(LevelNetworks),
    Cosmos { cosmos: CosmosConfig },
}

/// The tokenizer: frames to FSQ digits and back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerConfig {
    #[serde(flatten)]
    pub networks: NetworkConfig,
    /// Number of values of each digit of a token.
    pub fsq_levels: Vec<i64>,
}

/// NVIDIA's patches: two Haar levels.
const COSMOS_PATCH: PatchConfig = PatchConfig {
    transform: Transform::Haar,
    time: 4,
    space: 4,
};

pub(super) fn validate_level(name: &str, level: &LevelConfig) -> Result<(), ModelError> {
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

impl LevelNetworks {
    /// 8x in time, 16x16 in space, real time on two cores.
    pub(super) fn small() -> Self {
        let level = |width, hidden, blocks, temporal_blocks, halve_time, halve_space| LevelConfig {
            width,
            hidden,
            blocks,
            temporal_blocks,
            halve_time,
            halve_space,
        };
        LevelNetworks {
            colour: Colour::Quad420,
            patch: PatchConfig {
                transform: Transform::Raw,
                time: 4,
                space: 2,
            },
            encoder: vec![
                level(64, 64, 0, 0, false, true),
                level(128, 128, 3, 1, true, true),
                level(224, 112, 4, 2, false, false),
            ],
            decoder: vec![
                level(96, 96, 3, 1, false, true),
                level(160, 160, 4, 2, true, true),
                level(256, 128, 6, 3, false, false),
            ],
            output_rank: None,
        }
    }

    pub(super) fn tiny() -> Self {
        let mut networks = Self::small();
        for level in networks.encoder.iter_mut().chain(&mut networks.decoder) {
            level.width = level.width.min(16);
            level.hidden = 8;
            level.blocks = level.blocks.min(2);
            level.temporal_blocks = level.temporal_blocks.min(level.blocks);
        }
        networks
    }

    fn temporal_factor(&self) -> i64 {
        self.patch.time * (1 << self.encoder.iter().filter(|l| l.halve_time).count())
    }

    fn spatial_factor(&self) -> i64 {
        let halvings = self.encoder.iter().filter(|l| l.halve_space).count();
        self.colour.scale() * self.patch.space * (1 << halvings)
    }

    fn validate(&self) -> Result<(), ModelError> {
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
        if self.output_rank.is_some_and(|rank| !(1..=MAX_WIDTH).contains(&rank)) {
            return bad(format!(
                "output rank {:?}, legal are 1 to {MAX_WIDTH}",
                self.output_rank
            ));
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
        Ok(())
    }
}

impl TokenizerConfig {
    /// With Cosmos' FSQ levels, the only legal ones.
    fn with_networks(networks: NetworkConfig) -> Self {
        TokenizerConfig {
            networks,
            fsq_levels: crate::bitstream::FSQ_LEVELS.map(i64::from).to_vec(),
        }
    }

    /// The embedded default.
    pub fn small() -> Self {
        Self::with_networks(NetworkConfig::Levels(LevelNetworks::small()))
    }

    /// A few thousand weights with the same shape, for tests.
    pub fn tiny() -> Self {
        Self::with_networks(NetworkConfig::Levels(LevelNetworks::tiny()))
    }

    /// One of NVIDIA's networks.
    pub fn cosmos(config: CosmosConfig) -> Self {
        Self::with_networks(NetworkConfig::Cosmos { cosmos: config })
    }

    /// Whether the networks are NVIDIA's.
    pub fn is_cosmos(&self) -> bool {
        matches!(self.networks, NetworkConfig::Cosmos { .. })
    }

    pub fn colour(&self) -> Colour {
        match &self.networks {
            NetworkConfig::Levels(levels) => levels.colour,
            NetworkConfig::Cosmos { .. } => Colour::Rgb,
        }
    }

    pub fn patch(&self) -> PatchConfig {
        match &self.networks {
            NetworkConfig::Levels(levels) => levels.patch,
            NetworkConfig::Cosmos { .. } => COSMOS_PATCH,
        }
    }

    /// The patches, where they are of samples of Y'CbCr 4:2:0 as they are.
    pub fn planar_patch(&self) -> Option<PatchConfig> {
        let is_planar = self.colour() == Colour::Quad420 && self.patch().transform == Transform::Raw;
        is_planar.then(|| self.patch())
    }

    /// Frames that one token covers.
    pub fn temporal_factor(&self) -> i64 {
        match &self.networks {
            NetworkConfig::Levels(levels) => levels.temporal_factor(),
            NetworkConfig::Cosmos { cosmos } => cosmos.temporal_factor,
        }
    }

    /// Picture samples that one token covers along each side.
    pub fn spatial_factor(&self) -> i64 {
        match &self.networks {
            NetworkConfig::Levels(levels) => levels.spatial_factor(),
            NetworkConfig::Cosmos { cosmos } => cosmos.spatial_factor,
        }
    }

    /// Channels of a patch.
    pub fn patch_channels(&self) -> i64 {
        let patch = self.patch();
        self.colour().channels() * patch.time * patch.space * patch.space
    }

    /// Frames from one key unit to the next that the networks know from their training; None: any number.
    pub fn max_frames(&self) -> Option<u32> {
        match &self.networks {
            NetworkConfig::Levels(_) => None,
            NetworkConfig::Cosmos { cosmos } => u32::try_from(cosmos.trained_frames).ok(),
        }
    }

    /// Refuses what the networks cannot be built from, before anything is allocated.
    pub fn validate(&self) -> Result<(), ModelError> {
        match &self.networks {
            NetworkConfig::Levels(levels) => levels.validate()?,
            NetworkConfig::Cosmos { cosmos } => cosmos.validate()?,
        }
        if self.fsq_levels != crate::bitstream::FSQ_LEVELS.map(i64::from) {
            return Err(ModelError::Config(format!(
                "FSQ levels {:?}, legal are {:?}",
                self.fsq_levels,
                crate::bitstream::FSQ_LEVELS
            )));
        }
        Ok(())
    }
}
