// SPDX-License-Identifier: MPL-2.0
//! What a network costs.

use super::{ContinuousNetworks, LevelConfig, LevelNetworks, ModelConfig, NetworkConfig};

/// Time steps whose channels a block in time sees.
const TEMPORAL_TAPS: i64 = 3;

/// How 3x3 convolutions are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convolutions {
    /// As they are defined: 9 multiplications for each weight's pair of channels and output.
    Direct,
    /// Winograd's F(4x4, 3x3): 36 for 16 outputs.
    Winograd,
}

impl Convolutions {
    fn taps(self) -> f64 {
        match self {
            Convolutions::Direct => 9.0,
            Convolutions::Winograd => 36.0 / 16.0,
        }
    }
}

/// Multiplications of the decoder and the control branch for each luma sample, those of convolutions; 0 for Cosmos networks.
pub fn painter_macs(config: &ModelConfig, convolutions: Convolutions) -> f64 {
    let NetworkConfig::Levels(networks) = &config.tokenizer.networks else {
        return 0.0;
    };
    let taps = convolutions.taps();
    let digits = config.tokenizer.fsq_levels.len() as i64;
    let decoder = decoder_macs(networks, digits, config.tokenizer.patch_channels(), taps);
    let control = match config.continuous.as_ref().map(|c| (c.channels, &c.networks)) {
        Some((channels, ContinuousNetworks::Levels { control, .. })) => {
            control_macs(networks, control, digits + channels, taps)
        }
        _ => 0.0,
    };
    decoder + control
}

/// The same of the encoders of tokens and latents.
pub fn analysis_macs(config: &ModelConfig, convolutions: Convolutions) -> f64 {
    let NetworkConfig::Levels(networks) = &config.tokenizer.networks else {
        return 0.0;
    };
    let taps = convolutions.taps();
    let (levels, digits) = (&networks.encoder, config.tokenizer.fsq_levels.len() as i64);
    let coarsest = levels.len() - 1;
    let input = taps * product(config.tokenizer.patch_channels(), levels[0].width) / samples(networks, levels, 0);
    let tokens = taps * product(levels[coarsest].width, digits) / samples(networks, levels, coarsest);
    let levels_macs = (0..levels.len()).map(|i| {
        let down = if i < coarsest {
            downsample_macs(&levels[i], &levels[i + 1])
        } else {
            0.0
        };
        (block_macs(&levels[i], taps) + down) / samples(networks, levels, i)
    });
    let continuous = match config.continuous.as_ref().map(|c| (c.channels, &c.networks)) {
        Some((channels, ContinuousNetworks::Levels { encoder, .. })) => {
            let finer = &levels[coarsest.saturating_sub(1)];
            let down = downsample_macs(finer, encoder) / samples(networks, levels, coarsest.saturating_sub(1));
            let latents = taps * product(encoder.width, channels);
            down + (block_macs(encoder, taps) + latents) / samples(networks, levels, coarsest)
        }
        _ => 0.0,
    };
    input + levels_macs.sum::<f64>() + tokens + continuous
}

fn product(a: i64, b: i64) -> f64 {
    (a * b) as f64
}

/// Luma samples of which a level has one position.
fn samples(networks: &LevelNetworks, levels: &[LevelConfig], level: usize) -> f64 {
    let side = networks.colour.scale() * networks.patch.space;
    let finer = &levels[..level];
    let space = 1 << finer.iter().filter(|l| l.halve_space).count();
    let time = 1 << finer.iter().filter(|l| l.halve_time).count();
    ((side * space).pow(2) * networks.patch.time * time) as f64
}

/// Of the blocks of a level, for one position.
fn block_macs(level: &LevelConfig, taps: f64) -> f64 {
    let area = product(level.width, level.hidden);
    let spatial = (taps + 1.0) * area;
    let temporal = (TEMPORAL_TAPS + 1) as f64 * area;
    level.blocks as f64 * spatial + level.temporal_blocks as f64 * temporal
}

/// Of what leads from a level to the next finer one, for one of its positions.
fn upsample_macs(from: &LevelConfig, to: &LevelConfig) -> f64 {
    let factor = (1 + i64::from(to.halve_time)) * (1 + i64::from(to.halve_space)).pow(2);
    product(from.width * factor, to.width)
}

/// Of what leads from a level to the next coarser one, for one of its own positions.
fn downsample_macs(from: &LevelConfig, to: &LevelConfig) -> f64 {
    product(from.width, to.width)
}

fn decoder_macs(networks: &LevelNetworks, digits: i64, patch_channels: i64, taps: f64) -> f64 {
    let levels = &networks.decoder;
    let (finest, coarsest) = (levels[0].width, levels[levels.len() - 1].width);
    let output = match networks.output_rank {
        Some(rank) => taps * product(finest, rank) + product(patch_channels, rank),
        None => taps * product(finest, patch_channels),
    };
    let input = taps * product(digits, coarsest);
    (0..levels.len())
        .map(|i| {
            let ends = if i == 0 {
                output
            } else {
                upsample_macs(&levels[i], &levels[i - 1])
            };
            let start = if i + 1 == levels.len() { input } else { 0.0 };
            (block_macs(&levels[i], taps) + ends + start) / samples(networks, levels, i)
        })
        .sum()
}

fn control_macs(networks: &LevelNetworks, control: &[LevelConfig], inputs: i64, taps: f64) -> f64 {
    (0..control.len())
        .map(|i| {
            let up = if i > 0 {
                upsample_macs(&control[i], &control[i - 1])
            } else {
                0.0
            };
            let start = if i + 1 == control.len() {
                taps * product(inputs, control[i].width)
            } else {
                0.0
            };
            let join = product(control[i].width, control[i].width);
            (block_macs(&control[i], taps) + up + start + join) / samples(networks, &networks.decoder, i)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_convolution_of_the_painter_is_counted() {
        // One level of 4x4x4 samples: 3x3 in, one block, 3x3 out; the control branch has the same and a join.
        let mut config = ModelConfig::default();
        let level = LevelConfig {
            width: 10,
            hidden: 5,
            blocks: 1,
            temporal_blocks: 1,
            halve_time: false,
            halve_space: false,
        };
        if let NetworkConfig::Levels(networks) = &mut config.tokenizer.networks {
            networks.decoder = vec![level];
        }
        config.continuous = None;
        let blocks = 9 * 10 * 5 + 5 * 10 + 3 * 10 * 5 + 5 * 10;
        let decoder = 9 * 6 * 10 + blocks + 9 * 10 * 96;
        assert_eq!(painter_macs(&config, Convolutions::Direct), f64::from(decoder) / 64.0);
        config.continuous = ModelConfig::default().continuous;
        if let Some(ContinuousNetworks::Levels { control, .. }) = config.continuous.as_mut().map(|c| &mut c.networks) {
            *control = vec![level];
        }
        let control = 9 * (6 + 32) * 10 + blocks + 10 * 10;
        assert_eq!(
            painter_macs(&config, Convolutions::Direct),
            f64::from(decoder + control) / 64.0
        );
        let less = f64::from(9 * 6 * 10 + 9 * 10 * 5 + 9 * 10 * 96 + 9 * (6 + 32) * 10 + 9 * 10 * 5) * 0.75 / 64.0;
        let winograd = painter_macs(&config, Convolutions::Winograd);
        assert!((winograd - (f64::from(decoder + control) / 64.0 - less)).abs() < 1e-9);
    }

    #[test]
    fn every_convolution_of_the_encoders_is_counted() {
        let mut config = ModelConfig::default();
        let level = |halve: bool| LevelConfig {
            width: 10,
            hidden: 5,
            blocks: 1,
            temporal_blocks: 1,
            halve_time: halve,
            halve_space: halve,
        };
        if let NetworkConfig::Levels(networks) = &mut config.tokenizer.networks {
            networks.encoder = vec![level(true), level(false)];
        }
        if let Some(ContinuousNetworks::Levels { encoder, .. }) = config.continuous.as_mut().map(|c| &mut c.networks) {
            *encoder = level(false);
        }
        let blocks = f64::from(9 * 10 * 5 + 5 * 10 + 3 * 10 * 5 + 5 * 10);
        // From 64 samples a position to 512; the continuous encoder starts from the finer level, too.
        let fine = f64::from(9 * 96 * 10) + blocks + f64::from(2 * 10 * 10);
        let coarse = 2.0 * blocks + f64::from(9 * 10 * 6 + 9 * 10 * 32);
        let macs = analysis_macs(&config, Convolutions::Direct);
        assert!((macs - (fine / 64.0 + coarse / 512.0)).abs() < 1e-9, "{macs}");
    }
}
