// SPDX-License-Identifier: MPL-2.0
//! What a network costs.

use super::{ContinuousNetworks, LevelConfig, LevelNetworks, ModelConfig, NetworkConfig};

/// Time steps whose channels a block in time sees.
const TEMPORAL_TAPS: i64 = 3;

/// Multiplications of the decoder and the control branch for each luma sample, those of convolutions; 0 for Cosmos networks.
pub fn painter_macs(config: &ModelConfig) -> f64 {
    let NetworkConfig::Levels(networks) = &config.tokenizer.networks else {
        return 0.0;
    };
    let digits = config.tokenizer.fsq_levels.len() as i64;
    let decoder = decoder_macs(networks, digits, config.tokenizer.patch_channels());
    let control = match config.continuous.as_ref().map(|c| (c.channels, &c.networks)) {
        Some((channels, ContinuousNetworks::Levels { control, .. })) => {
            control_macs(networks, control, digits + channels)
        }
        _ => 0.0,
    };
    decoder + control
}

/// Luma samples of which a level has one position.
fn samples(networks: &LevelNetworks, level: usize) -> f64 {
    let side = networks.colour.scale() * networks.patch.space;
    let finer = &networks.decoder[..level];
    let space = 1 << finer.iter().filter(|l| l.halve_space).count();
    let time = 1 << finer.iter().filter(|l| l.halve_time).count();
    ((side * space).pow(2) * networks.patch.time * time) as f64
}

/// Of the blocks of a level, for one position.
fn block_macs(level: &LevelConfig) -> i64 {
    let (width, hidden) = (level.width, level.hidden);
    let spatial = (9 * width + width) * hidden;
    let temporal = (TEMPORAL_TAPS * width + width) * hidden;
    level.blocks * spatial + level.temporal_blocks * temporal
}

/// Of what leads from a level to the next finer one, for one of its positions.
fn upsample_macs(from: &LevelConfig, to: &LevelConfig) -> i64 {
    let factor = (1 + i64::from(to.halve_time)) * (1 + i64::from(to.halve_space)).pow(2);
    from.width * factor * to.width
}

fn decoder_macs(networks: &LevelNetworks, digits: i64, patch_channels: i64) -> f64 {
    let levels = &networks.decoder;
    let (finest, coarsest) = (levels[0].width, levels[levels.len() - 1].width);
    let output = match networks.output_rank {
        Some(rank) => (9 * finest + patch_channels) * rank,
        None => 9 * finest * patch_channels,
    };
    let input = 9 * digits * coarsest;
    (0..levels.len())
        .map(|i| {
            let ends = if i == 0 {
                output
            } else {
                upsample_macs(&levels[i], &levels[i - 1])
            };
            let start = if i + 1 == levels.len() { input } else { 0 };
            (block_macs(&levels[i]) + ends + start) as f64 / samples(networks, i)
        })
        .sum()
}

fn control_macs(networks: &LevelNetworks, control: &[LevelConfig], inputs: i64) -> f64 {
    (0..control.len())
        .map(|i| {
            let up = if i > 0 {
                upsample_macs(&control[i], &control[i - 1])
            } else {
                0
            };
            let start = if i + 1 == control.len() {
                9 * inputs * control[i].width
            } else {
                0
            };
            let join = control[i].width.pow(2);
            (block_macs(&control[i]) + up + start + join) as f64 / samples(networks, i)
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
        assert_eq!(painter_macs(&config), f64::from(decoder) / 64.0);
        config.continuous = ModelConfig::default().continuous;
        if let Some(ContinuousNetworks::Levels { control, .. }) = config.continuous.as_mut().map(|c| &mut c.networks) {
            *control = vec![level];
        }
        let control = 9 * (6 + 32) * 10 + blocks + 10 * 10;
        assert_eq!(painter_macs(&config), f64::from(decoder + control) / 64.0);
    }
}
