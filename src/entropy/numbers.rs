// SPDX-License-Identifier: MPL-2.0
//! Numbers for golden tests.

use super::integer_net::Layer;
use super::latents::{
    LatentWeights, COMPANDING, LATENT_SCALES, LATENT_SOURCES, LATENT_STEPS, LATENT_SYMBOLS, LATENT_TABLE_ROWS,
};
use super::tokens::{ContextWeights, DIGITS, LOGIT_SCALE};
use crate::bitstream::FSQ_LEVELS;

/// Differences from the mean that have a symbol of their own.
const LATENT_REACH: i32 = (LATENT_SYMBOLS as i32 - 1) / 2 - 1;

/// A linear congruential generator: the golden values must not depend on any crate's random numbers.
pub struct Numbers(pub u64);

impl Numbers {
    /// A number from -range to range.
    pub fn next(&mut self, range: i32) -> i32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as i32 % (2 * range + 1) - range
    }

    pub fn many<T: TryFrom<i32>>(&mut self, count: usize, range: i32) -> Vec<T>
    where
        T::Error: std::fmt::Debug,
    {
        (0..count).map(|_| self.next(range).try_into().unwrap()).collect()
    }

    pub fn layer(&mut self, inputs: usize, outputs: usize, multiplier: i32) -> Layer {
        Layer {
            weights: self.many(inputs * outputs, 127),
            biases: self.many(outputs, 4000),
            multipliers: vec![multiplier; outputs],
        }
    }
}

/// The table of powers as model files have it.
pub fn powers() -> Vec<i32> {
    (0..LOGIT_SCALE)
        .map(|i| 2f64.powf(30.0 - f64::from(i) / 1024.0).round() as i32)
        .collect()
}

/// A context model of the tokens without any sense.
pub fn context_weights() -> ContextWeights {
    let (width, head, mut numbers) = (16, 8, Numbers(1));
    ContextWeights {
        width,
        head_width: head,
        tables: numbers.many(ContextWeights::TABLE_ROWS * width, 200),
        table_bias: numbers.many(width, 500),
        trunk: numbers.layer(width, width, 1 << 15),
        hidden: (0..DIGITS).map(|_| numbers.layer(width, head, 1 << 15)).collect(),
        earlier: (0..DIGITS)
            .map(|k| numbers.many(ContextWeights::earlier_rows(k) * head, 9000))
            .collect(),
        output: FSQ_LEVELS
            .iter()
            .map(|&l| numbers.layer(head, l.into(), 1 << 20))
            .collect(),
        powers: powers(),
    }
}

/// A table that falls off by about half per value, more slowly in wide scales.
fn row(scale: i32) -> Vec<i32> {
    let mut row: Vec<i32> = (0..LATENT_SYMBOLS as i32)
        .map(|s| 1 + (3000 >> ((s - LATENT_REACH - 1).abs() * 8 / (scale + 4)).min(20)))
        .collect();
    let rest: i32 = row.iter().enumerate().filter(|(i, _)| *i != 16).map(|(_, p)| p).sum();
    row[16] = (1 << 16) - rest;
    row
}

/// A context model of so many latents a position, without much sense.
pub fn latent_weights(channels: usize) -> LatentWeights {
    let (width, mut numbers) = (16, Numbers(3));
    let inputs = LATENT_SOURCES.len() * channels;
    let mut output: Layer = numbers.layer(width, 3 * channels, 1 << 13);
    // Scales in the middle, with the first of them below the least.
    for (i, bias) in output.biases.iter_mut().enumerate().skip(2 * channels) {
        *bias = if i == 2 * channels { -(1 << 20) } else { 1 << 15 };
    }
    LatentWeights {
        channels,
        width,
        steps: (0..LATENT_STEPS as i32).map(|i| 32 + 40 * i).collect(),
        companding: (0..COMPANDING as i32).map(|i| i.min(127)).collect(),
        input: numbers.layer(inputs, width, 1 << 16),
        tables: numbers.many(LATENT_TABLE_ROWS * width, 200),
        earlier: numbers.layer(channels, width, 1 << 16),
        trunk: numbers.layer(width, width, 1 << 15),
        output,
        probabilities: (1..LATENT_SCALES as i32)
            .flat_map(|scale| (0..8).flat_map(move |_| row(scale)))
            .collect(),
    }
}
