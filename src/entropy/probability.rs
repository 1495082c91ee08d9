// SPDX-License-Identifier: MPL-2.0

use std::borrow::Borrow;
use std::num::NonZeroU16;

use constriction::stream::model::{ContiguousCategoricalEntropyModel, DecoderModel, EncoderModel, EntropyModel};

/// Probabilities are multiples of 2^-16.
pub const PRECISION: usize = 16;

const TOTAL: u64 = 1 << PRECISION;
/// log2 of the entries of the table of powers.
pub(super) const POWER_BITS: u32 = 10;

/// What a coder needs to know of a symbol.
pub trait SymbolModel:
    EncoderModel<PRECISION, Symbol = usize, Probability = u16> + DecoderModel<PRECISION, Symbol = usize, Probability = u16>
{
}

impl<M> SymbolModel for M where
    M: EncoderModel<PRECISION, Symbol = usize, Probability = u16>
        + DecoderModel<PRECISION, Symbol = usize, Probability = u16>
{
}

/// The model of a symbol that comes up again and again.
pub type Categorical = ContiguousCategoricalEntropyModel<u16, Vec<u16>, PRECISION>;

/// Fixed-point probabilities of the values of one digit: each at least 1, their sum 2^16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probabilities {
    values: [u16; 8],
    count: usize,
}

impl Probabilities {
    /// From log2 odds in units of 2^-10, at most 8 of them:
    /// f_i = 1 + floor(2^odds_i (2^16 - n) / sum), the last takes what is left (determinism by integer
    /// arithmetic after Ballé et al., ICLR 2019). `powers[i]` = 2^(30 - i/1024), rounded.
    pub fn from_logits(logits: &[i32], powers: &[i32]) -> Probabilities {
        let max = logits.iter().copied().max().unwrap_or(0);
        let mut odds = [0u64; 8];
        for (odd, &logit) in odds.iter_mut().zip(logits) {
            let below = max.abs_diff(logit);
            let power = powers[(below & ((1 << POWER_BITS) - 1)) as usize] as u64;
            *odd = power.checked_shr(below >> POWER_BITS).unwrap_or(0);
        }
        let count = logits.len();
        let sum: u64 = odds[..count].iter().sum();
        let mut values = [0u16; 8];
        let mut left = TOTAL;
        for i in 0..count - 1 {
            let value = 1 + odds[i] * (TOTAL - count as u64) / sum;
            values[i] = value as u16;
            left -= value;
        }
        values[count - 1] = left as u16;
        Probabilities { values, count }
    }

    /// Any, the last of which takes what the others leave.
    #[cfg(test)]
    pub(crate) fn of(values: &[u16]) -> Probabilities {
        let mut all = [0; 8];
        all[..values.len()].copy_from_slice(values);
        all[values.len() - 1] = values[..values.len() - 1]
            .iter()
            .fold(0, |sum: u16, p| sum.wrapping_sub(*p));
        Probabilities {
            values: all,
            count: values.len(),
        }
    }

    /// Equal ones for `count` values, at most 8.
    pub fn uniform(count: usize) -> Probabilities {
        let mut values = [(TOTAL / count as u64) as u16; 8];
        values[count - 1] = (TOTAL - (count as u64 - 1) * (TOTAL / count as u64)) as u16;
        Probabilities { values, count }
    }

    /// Those of 0 and 1, given that of 1 in 2^-16, which is positive.
    pub fn binary(one: u16) -> Probabilities {
        let mut values = [0; 8];
        values[..2].copy_from_slice(&[one.wrapping_neg(), one]);
        Probabilities { values, count: 2 }
    }

    pub fn values(&self) -> &[u16] {
        &self.values[..self.count]
    }
}

impl EntropyModel<PRECISION> for Probabilities {
    type Symbol = usize;
    type Probability = u16;
}

/// Without the table that `Categorical` allocates: these are used once.
impl EncoderModel<PRECISION> for Probabilities {
    fn left_cumulative_and_probability(&self, symbol: impl Borrow<usize>) -> Option<(u16, NonZeroU16)> {
        let symbol = *symbol.borrow();
        let probability = NonZeroU16::new(*self.values().get(symbol)?)?;
        Some((self.values[..symbol].iter().sum(), probability))
    }
}

impl DecoderModel<PRECISION> for Probabilities {
    fn quantile_function(&self, quantile: u16) -> (usize, u16, NonZeroU16) {
        let mut left = 0;
        for (symbol, &value) in self.values().iter().enumerate() {
            // The sum of all is 2^16: the last one may wrap, and nothing lies beyond it.
            if symbol + 1 == self.count || quantile < left + value {
                let probability = NonZeroU16::new(value).expect("probabilities are positive");
                return (symbol, left, probability);
            }
            left += value;
        }
        unreachable!("there is at least one value")
    }
}

#[cfg(test)]
mod tests {
    use super::super::numbers::powers;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_logits_give_positive_probabilities_that_add_up(logits in prop::collection::vec(any::<i32>(), 2..=8)) {
            let p = Probabilities::from_logits(&logits, &powers());
            prop_assert!(p.values().iter().all(|&v| v > 0));
            prop_assert_eq!(p.values().iter().map(|&v| u32::from(v)).sum::<u32>(), 1 << 16);
            // Encoding and decoding agree with each other and with constriction's own table.
            let table = Categorical::from_nonzero_fixed_point_probabilities(p.values(), false).unwrap();
            for symbol in 0..logits.len() {
                let (left, probability) = p.left_cumulative_and_probability(symbol).unwrap();
                prop_assert_eq!(table.left_cumulative_and_probability(symbol), Some((left, probability)));
                for quantile in [left, left + (probability.get() - 1)] {
                    prop_assert_eq!(p.quantile_function(quantile), (symbol, left, probability));
                }
            }
        }
    }

    #[test]
    fn golden_probabilities() {
        // Odds 1 : 2 : 4 : 1/1024, of 2^16 - 4.
        let p = Probabilities::from_logits(&[0, 1024, 2048, -10240], &powers());
        assert_eq!(p.values(), [9361, 18721, 37442, 12]);
    }
}
