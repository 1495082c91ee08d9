// SPDX-License-Identifier: MPL-2.0
//! The numbers of a context model, as they stand in the model file, and what they mean.

use super::map::DIGITS;
use crate::bitstream::FSQ_LEVELS;
use crate::entropy::integer_net::{Layer, MULTIPLIER_BITS};
use crate::entropy::probability::POWER_BITS;
use crate::entropy::EntropyError;

/// Unit of the activations: a u8 `a` stands for a / 32.
pub const ACTIVATION_SCALE: i32 = 32;
/// Unit of the tables of the first layer: an i16 `v` stands for v / 256.
pub const TABLE_SCALE: i32 = 256;
/// Unit of the logits: log2 odds in steps of 1/1024.
pub const LOGIT_SCALE: i32 = 1 << POWER_BITS;

/// Where the context comes from: unit (0 current, 1 previous, 2 the one before), column and row offset.
pub const SOURCES: [(u8, isize, isize); 14] = [
    (0, 0, -1),
    (0, -1, 0),
    (0, 1, 0),
    (0, 0, 1),
    (1, 0, 0),
    (1, 0, -1),
    (1, -1, 0),
    (1, 1, 0),
    (1, 0, 1),
    (1, -1, -1),
    (1, 1, -1),
    (1, -1, 1),
    (1, 1, 1),
    (2, 0, 0),
];

/// Rows of a source: each digit has a row per value and one more for "not there".
pub const ROWS_PER_SOURCE: usize = rows_before(DIGITS);

pub const fn rows_before(digit: usize) -> usize {
    let (mut rows, mut k) = (0, 0);
    while k < digit {
        rows += FSQ_LEVELS[k] as usize + 1;
        k += 1;
    }
    rows
}

/// Values of all digits before `digit`.
pub const fn values_before(digit: usize) -> usize {
    rows_before(digit) - digit
}

/// All numbers of a context model, as they stand in the model file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextWeights {
    /// Width of the two trunk layers.
    pub width: usize,
    /// Width of each digit's own layer.
    pub head_width: usize,
    /// `[14 sources * 45 rows][width]`.
    pub tables: Vec<i16>,
    /// `[width]`, in the unit of the tables.
    pub table_bias: Vec<i32>,
    /// width -> width.
    pub trunk: Layer,
    /// Per digit: width -> head_width.
    pub hidden: Vec<Layer>,
    /// Per digit: `[values of the earlier digits][head_width]`, in the unit of that layer's sums.
    pub earlier: Vec<Vec<i32>>,
    /// Per digit: head_width -> values of the digit.
    pub output: Vec<Layer>,
    /// `[1024]`: 2^(30 - i/1024), rounded.
    pub powers: Vec<i32>,
}

impl ContextWeights {
    /// Rows of [`Self::tables`].
    pub const TABLE_ROWS: usize = SOURCES.len() * ROWS_PER_SOURCE;

    /// Rows of [`Self::earlier`] for a digit.
    pub const fn earlier_rows(digit: usize) -> usize {
        values_before(digit)
    }

    /// A model that has learned nothing: each digit is expected to stay as it was in the previous unit, with odds of
    /// 16 to 1 against each other value. `powers`: [`Self::powers`].
    pub fn repeating(powers: Vec<i32>) -> ContextWeights {
        const SAME_PLACE_BEFORE: usize = 4;
        const SURE: i32 = 200;
        const BONUS: i32 = 4 * LOGIT_SCALE;
        debug_assert_eq!(SOURCES[SAME_PLACE_BEFORE], (1, 0, 0));
        // One unit of the trunk for each value of each digit: on where the previous token has it.
        let width = values_before(DIGITS);
        let head_width = FSQ_LEVELS.iter().copied().map(usize::from).max().unwrap_or(0);
        let mut tables = vec![0; Self::TABLE_ROWS * width];
        for (k, levels) in FSQ_LEVELS.into_iter().enumerate() {
            for value in 0..usize::from(levels) {
                let row = SAME_PLACE_BEFORE * ROWS_PER_SOURCE + rows_before(k) + value;
                tables[row * width + values_before(k) + value] = (SURE * TABLE_SCALE / ACTIVATION_SCALE) as i16;
            }
        }
        let select = |from: usize, inputs: usize, outputs: usize, count: usize, result: i32| {
            let mut layer = Layer {
                weights: vec![0; inputs * outputs],
                biases: vec![0; outputs],
                multipliers: vec![((i64::from(result) << MULTIPLIER_BITS) / i64::from(SURE)) as i32; outputs],
            };
            for i in 0..count {
                layer.weights[i * inputs + from + i] = 1;
            }
            layer
        };
        let digits = || FSQ_LEVELS.into_iter().map(usize::from).enumerate();
        ContextWeights {
            width,
            head_width,
            tables,
            table_bias: vec![0; width],
            trunk: select(0, width, width, width, SURE),
            hidden: digits()
                .map(|(k, levels)| select(values_before(k), width, head_width, levels, SURE))
                .collect(),
            earlier: digits()
                .map(|(k, _)| vec![0; Self::earlier_rows(k) * head_width])
                .collect(),
            output: digits()
                .map(|(_, levels)| select(0, head_width, levels, levels, BONUS))
                .collect(),
            powers,
        }
    }

    /// Fails if a size does not fit or a number could overflow a sum.
    pub(super) fn check(&self) -> Result<(), EntropyError> {
        let (width, head) = (self.width, self.head_width);
        if !(1..=1024).contains(&width) || !(1..=1024).contains(&head) {
            return Err(EntropyError::Model(format!(
                "widths {width} and {head}, legal are 1 to 1024"
            )));
        }
        if self.tables.len() != Self::TABLE_ROWS * width
            || self.table_bias.len() != width
            || self.table_bias.iter().any(|b| b.unsigned_abs() >= 1 << 28)
        {
            return Err(EntropyError::Model("tables of the wrong size".into()));
        }
        if [self.hidden.len(), self.earlier.len(), self.output.len()] != [DIGITS; 3] {
            return Err(EntropyError::Model(format!("not {DIGITS} digits")));
        }
        self.trunk.check("trunk", width, width)?;
        for (k, levels) in FSQ_LEVELS.into_iter().enumerate() {
            self.hidden[k].check("hidden", width, head)?;
            self.output[k].check("output", head, levels.into())?;
            if self.earlier[k].len() != Self::earlier_rows(k) * head
                || self.earlier[k].iter().any(|e| e.unsigned_abs() >= 1 << 24)
            {
                return Err(EntropyError::Model("tables of earlier digits of the wrong size".into()));
            }
        }
        if self.powers.len() != 1 << POWER_BITS || self.powers.iter().any(|&p| !(1 << 29..=1 << 30).contains(&p)) {
            return Err(EntropyError::Model("table of powers".into()));
        }
        Ok(())
    }

    /// All numbers in one fixed order, for the identity of the model.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut ints = |values: &[i32]| out.extend(values.iter().flat_map(|v| v.to_be_bytes()));
        ints(&[self.width as i32, self.head_width as i32]);
        ints(&self.tables.iter().map(|&v| v.into()).collect::<Vec<_>>());
        ints(&self.table_bias);
        for layer in std::iter::once(&self.trunk).chain(&self.hidden).chain(&self.output) {
            layer.each(&mut ints);
        }
        self.earlier.iter().for_each(|table| ints(table));
        ints(&self.powers);
        out
    }
}
