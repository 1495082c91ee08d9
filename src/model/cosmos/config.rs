// SPDX-License-Identifier: MPL-2.0

use serde::{Deserialize, Serialize};

use crate::model::config::{MAX_BLOCKS, MAX_LEVELS, MAX_WIDTH};
use crate::model::ModelError;

/// Channels of a Haar patch: 4x4x4 samples of R, G, B.
pub const PATCH_CHANNELS: i64 = 3 * 4 * 4 * 4;
/// Both Haar levels together halve time, width and height twice.
const PATCH_LOG2: i64 = 2;

/// A tokenizer of NVIDIA's Cosmos family ("factorised video").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CosmosConfig {
    /// Channels of the encoder's first features; 128 in NVIDIA's checkpoints.
    pub channels: i64,
    /// Widths of the encoder's levels, the finest first, in `channels`.
    pub encoder: Vec<i64>,
    /// Widths of the decoder's levels, the finest first, in `channels`.
    pub decoder: Vec<i64>,
    /// Residual blocks of an encoder level; a decoder level has one more.
    pub blocks: i64,
    /// Channels between the encoder and `quant_conv`, and between `post_quant_conv` and the decoder.
    pub z_channels: i64,
    /// Frames per latent, 4 or 8.
    pub temporal_factor: i64,
    /// Samples per latent along each side, 8 or 16.
    pub spatial_factor: i64,
    /// Frames of the clips that the networks were trained on: temporal attention has seen no longer past.
    pub trained_frames: i64,
    /// Tells checkpoints of the same shape apart.
    #[serde(default)]
    pub checkpoint: String,
}

/// What happens between a level and its neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resampling {
    pub time: bool,
    pub space: bool,
}

impl CosmosConfig {
    /// What tells networks apart, as bytes that no change of the code may change: the numbers in the order of their declaration as big-endian
    /// i64, lists with their length in front, then the checkpoint's name.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let list = |values: &[i64]| [&[values.len() as i64], values].concat();
        let numbers = [
            vec![self.channels],
            list(&self.encoder),
            list(&self.decoder),
            vec![
                self.blocks,
                self.z_channels,
                self.temporal_factor,
                self.spatial_factor,
                self.trained_frames,
            ],
        ];
        let mut bytes: Vec<u8> = numbers
            .iter()
            .flatten()
            .flat_map(|number| number.to_be_bytes())
            .collect();
        bytes.extend(self.checkpoint.as_bytes());
        bytes
    }

    /// NVIDIA's networks of a temporal and a spatial factor; a continuous tokenizer of factor 4 in time has a decoder
    /// level less.
    pub fn new(channels: i64, temporal_factor: i64, spatial_factor: i64, continuous: bool) -> CosmosConfig {
        let short = continuous && temporal_factor == 4;
        CosmosConfig {
            channels,
            encoder: vec![2, 4, 4],
            decoder: if short { vec![2, 4] } else { vec![2, 4, 4] },
            blocks: 2,
            z_channels: 16,
            temporal_factor,
            spatial_factor,
            trained_frames: 49,
            checkpoint: String::new(),
        }
    }

    fn halvings(&self) -> (i64, i64) {
        let log2 = |factor: i64| i64::from(factor.max(1).ilog2());
        (
            log2(self.temporal_factor) - PATCH_LOG2,
            log2(self.spatial_factor) - PATCH_LOG2,
        )
    }

    /// After each level of the encoder, the finest first; the last one has none.
    pub fn downsamplings(&self) -> Vec<Resampling> {
        let (time, space) = self.halvings();
        let levels = self.encoder.len() as i64 - 1;
        let at = |i| Resampling {
            time: i < time,
            space: i < space,
        };
        (0..levels).map(at).collect()
    }

    /// After each level of the decoder but the finest, in the order of [`Self::decoder`] without its first.
    pub fn upsamplings(&self) -> Vec<Resampling> {
        let (times, spaces) = self.halvings();
        let levels = self.decoder.len() as i64;
        let at = |i| {
            let from_coarsest = levels - 1 - i;
            let time = 0 < from_coarsest && from_coarsest < times + 1;
            Resampling {
                time,
                space: time || (from_coarsest < spaces && spaces > times),
            }
        };
        (1..levels).map(at).collect()
    }

    /// Refuses what the networks cannot be built from.
    pub fn validate(&self) -> Result<(), ModelError> {
        let bad = |what: String| Err(ModelError::Config(format!("Cosmos tokenizer: {what}")));
        let factors = (self.temporal_factor, self.spatial_factor);
        if ![4, 8].contains(&factors.0) || ![8, 16].contains(&factors.1) {
            return bad(format!(
                "factors {factors:?}, legal are 4 or 8 in time and 8 or 16 in space"
            ));
        }
        for (name, levels) in [("encoder", &self.encoder), ("decoder", &self.decoder)] {
            let widths = levels.iter().map(|m| m.saturating_mul(self.channels));
            if !(2..=MAX_LEVELS).contains(&levels.len()) || widths.clone().any(|w| !(1..=MAX_WIDTH).contains(&w)) {
                return bad(format!("{name} levels {levels:?} of {} channels", self.channels));
            }
        }
        if !(1..=MAX_WIDTH).contains(&self.channels)
            || !(1..=MAX_BLOCKS).contains(&self.blocks)
            || !(1..=MAX_WIDTH).contains(&self.z_channels)
            || self.trained_frames < 1
        {
            return bad(format!("{self:?}"));
        }
        let count = |steps: &[Resampling]| {
            let times = steps.iter().filter(|s| s.time).count();
            (times as i64, steps.iter().filter(|s| s.space).count() as i64)
        };
        let (down, up) = (count(&self.downsamplings()), count(&self.upsamplings()));
        if down != self.halvings() || up != down {
            return bad(format!("too few levels for the factors {factors:?}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_networks_apart_has_the_documented_bytes() {
        let config = CosmosConfig {
            checkpoint: "DV".into(),
            ..CosmosConfig::new(128, 8, 16, false)
        };
        // channels | 3 levels 2 4 4 | 3 levels 2 4 4 | blocks, z channels, factors, trained frames | name
        let numbers: [i64; 14] = [128, 3, 2, 4, 4, 3, 2, 4, 4, 2, 16, 8, 16, 49];
        let mut expected: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        expected.extend(b"DV");
        assert_eq!(config.canonical_bytes(), expected);
    }

    const TIME_AND_SPACE: Resampling = Resampling {
        time: true,
        space: true,
    };
    const SPACE: Resampling = Resampling {
        time: false,
        space: true,
    };
    const NOTHING: Resampling = Resampling {
        time: false,
        space: false,
    };

    #[test]
    fn every_published_kind_is_legal_and_resamples_where_nvidia_does() {
        let published = [
            (4, 8, false, [SPACE, NOTHING], vec![NOTHING, SPACE]),
            (8, 8, false, [TIME_AND_SPACE, NOTHING], vec![TIME_AND_SPACE, NOTHING]),
            (8, 16, false, [TIME_AND_SPACE, SPACE], vec![TIME_AND_SPACE, SPACE]),
            (4, 8, true, [SPACE, NOTHING], vec![SPACE]),
            (8, 8, true, [TIME_AND_SPACE, NOTHING], vec![TIME_AND_SPACE, NOTHING]),
            (8, 16, true, [TIME_AND_SPACE, SPACE], vec![TIME_AND_SPACE, SPACE]),
        ];
        for (time, space, continuous, down, up) in published {
            let config = CosmosConfig::new(128, time, space, continuous);
            config.validate().unwrap();
            assert_eq!(config.downsamplings(), down, "{config:?}");
            assert_eq!(config.upsamplings(), up, "{config:?}");
        }
    }

    #[test]
    fn factors_that_the_levels_cannot_reach_are_refused() {
        let mut config = CosmosConfig::new(8, 8, 16, false);
        config.decoder.pop();
        assert!(
            config.validate().is_err(),
            "two levels cannot double time and twice space"
        );
        config = CosmosConfig::new(8, 2, 16, false);
        assert!(config.validate().is_err());
    }
}
