// SPDX-License-Identifier: MPL-2.0
//! The numbers of a continuous context model, as they stand in the model file, and what they mean.

use std::ops::Range;

use crate::entropy::integer_net::Layer;
use crate::entropy::tokens::{rows_before, DIGITS, ROWS_PER_SOURCE};
use crate::entropy::EntropyError;

/// Where a latent's context comes from: unit (0 current, 1 previous, 2 the one before), column and row offset.
pub const LATENT_SOURCES: [(u8, isize, isize); 14] = [
    (0, 0, -1),
    (0, -1, 0),
    (0, 1, 0),
    (0, 0, 1),
    (1, 0, 0),
    (1, 0, -1),
    (1, -1, 0),
    (1, 1, 0),
    (1, 0, 1),
    (2, 0, 0),
    (0, -1, -1),
    (0, 1, -1),
    (0, -1, 1),
    (0, 1, 1),
];

/// Phases in which the positions of a unit are coded: the checkerboard's two colours, each in two halves.
pub const LATENT_PHASES: usize = 4;
/// Groups of channels at a position, coded one after the other: each sees what was unexpected in those before.
pub const LATENT_GROUPS: usize = 4;

/// The phase of a position: in each 2x2 square first the upper left one, then the one across, then the upper right, the lower left.
pub const fn latent_phase(x: isize, y: isize) -> usize {
    match (x.rem_euclid(2), y.rem_euclid(2)) {
        (0, 0) => 0,
        (1, 1) => 1,
        (_, 0) => 2,
        _ => 3,
    }
}

/// The groups of channels: of one size, but for the last.
pub fn channel_groups(channels: usize) -> impl Iterator<Item = Range<usize>> {
    let size = channels.div_ceil(LATENT_GROUPS);
    (0..channels)
        .step_by(size)
        .map(move |first| first..(first + size).min(channels))
}

/// Positions whose tokens are compared with those of the previous unit.
pub const CHANGE_SOURCES: [(isize, isize); 5] = [(0, 0), (0, -1), (-1, 0), (1, 0), (0, 1)];
/// Rows of such a position: the number of digits that changed, or "cannot be told".
pub const ROWS_PER_CHANGE: usize = DIGITS + 2;

/// Quantisation steps to choose from.
pub const LATENT_STEPS: usize = 48;
/// A latent of 1 as an integer.
pub const LATENT_SCALE: i32 = 256;
/// Means are in eighths of a step.
pub const MEAN_SCALE: i32 = 8;
/// A gain of 1.
pub const GAIN_SCALE: i32 = 256;
/// Scales of the distributions, four per octave; the first codes nothing: the value is the rounded mean.
pub const LATENT_SCALES: usize = 44;
/// Symbols of a table: values from -15 to 15 around the mean, and one for what is beyond on either side.
pub const LATENT_SYMBOLS: usize = 33;
/// Entries of the companding table.
pub const COMPANDING: usize = 1024;

/// First row of the position comparisons, of the steps, of the phases, of the groups, of how many of the eight neighbours are skipped; those before are the digits of this unit's token.
pub const CHANGE_ROWS: usize = ROWS_PER_SOURCE;
pub const STEP_ROWS: usize = CHANGE_ROWS + CHANGE_SOURCES.len() * ROWS_PER_CHANGE;
pub const PHASE_ROWS: usize = STEP_ROWS + LATENT_STEPS;
pub const GROUP_ROWS: usize = PHASE_ROWS + LATENT_PHASES;
pub const SKIP_ROWS: usize = GROUP_ROWS + LATENT_GROUPS;
/// Rows of [`LatentWeights::tables`].
pub const LATENT_TABLE_ROWS: usize = SKIP_ROWS + 9;

/// Row of a digit of this unit's token.
pub const fn digit_row(digit: usize, value: u8) -> usize {
    rows_before(digit) + value as usize
}

/// All numbers of a continuous context model, as they stand in the model file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatentWeights {
    /// Values of a latent.
    pub channels: usize,
    /// Width of the two trunk layers.
    pub width: usize,
    /// `[48]`: quantisation steps in 1/256, growing.
    pub steps: Vec<i32>,
    /// `[1024]`: magnitudes in eighths of a step to network inputs of -127 to 127.
    pub companding: Vec<i32>,
    /// `[14 sources * channels]` -> width, from the companded context.
    pub input: Layer,
    /// `[table rows][width]`: see [`digit_row`], [`CHANGE_ROWS`], [`STEP_ROWS`], [`PHASE_ROWS`], [`GROUP_ROWS`], [`SKIP_ROWS`].
    pub tables: Vec<i16>,
    /// channels -> width, from by how much the values of the groups before missed their means, companded.
    pub earlier: Layer,
    /// width -> width.
    pub trunk: Layer,
    /// width -> `[3][channels]`: mean in eighths of a step, gain of the previous unit's value, index of the scale.
    pub output: Layer,
    /// `[43 scales][8 fractions of the mean][33 symbols]`: probabilities in 2^-16. The fraction f stands for a
    /// mean of (f - 4) / 8 steps.
    pub probabilities: Vec<i32>,
}

impl LatentWeights {
    /// Inputs of the first layer.
    pub fn inputs(&self) -> usize {
        LATENT_SOURCES.len() * self.channels
    }

    /// The part of [`Self::output`] that is about some channels.
    pub(super) fn output_of(&self, channels: Range<usize>) -> Layer {
        let rows = || (0..3).flat_map(|part| channels.clone().map(move |c| part * self.channels + c));
        let weights = |row: usize| self.output.weights[row * self.width..][..self.width].iter().copied();
        Layer {
            weights: rows().flat_map(weights).collect(),
            biases: rows().map(|row| self.output.biases[row]).collect(),
            multipliers: rows().map(|row| self.output.multipliers[row]).collect(),
        }
    }

    /// Fails if a size does not fit or a number could overflow a sum.
    pub(super) fn check(&self) -> Result<(), EntropyError> {
        let wrong = |what: &str| Err(EntropyError::Model(format!("continuous context model: {what}")));
        if !(1..=64).contains(&self.channels) || !(1..=1024).contains(&self.width) {
            return wrong("size out of range");
        }
        self.input.check("input", self.inputs(), self.width)?;
        self.earlier.check("earlier", self.channels, self.width)?;
        self.trunk.check("trunk", self.width, self.width)?;
        self.output.check("output", self.width, 3 * self.channels)?;
        if self.tables.len() != LATENT_TABLE_ROWS * self.width {
            return wrong("tables of the wrong size");
        }
        let growing = self.steps.windows(2).all(|pair| pair[0] < pair[1]);
        if self.steps.len() != LATENT_STEPS || !growing || self.steps[0] < 8 || self.steps[LATENT_STEPS - 1] > 1 << 14 {
            return wrong("quantisation steps");
        }
        if self.companding.len() != COMPANDING || self.companding.iter().any(|v| !(0..=127).contains(v)) {
            return wrong("companding table");
        }
        let rows = self.probabilities.chunks_exact(LATENT_SYMBOLS);
        let complete =
            |row: &[i32]| row.iter().all(|&p| (1..1 << 16).contains(&p)) && row.iter().sum::<i32>() == 1 << 16;
        if self.probabilities.len() != (LATENT_SCALES - 1) * 8 * LATENT_SYMBOLS || !rows.into_iter().all(complete) {
            return wrong("probabilities");
        }
        Ok(())
    }

    /// All numbers in one fixed order, for the identity of the model.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut ints = |values: &[i32]| out.extend(values.iter().flat_map(|v| v.to_be_bytes()));
        ints(&[self.channels as i32, self.width as i32]);
        ints(&self.steps);
        ints(&self.companding);
        ints(&self.tables.iter().map(|&v| v.into()).collect::<Vec<_>>());
        for layer in [&self.input, &self.earlier, &self.trunk, &self.output] {
            layer.each(&mut ints);
        }
        ints(&self.probabilities);
        out
    }
}
