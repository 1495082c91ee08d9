// SPDX-License-Identifier: MPL-2.0

use constriction::stream::model::ContiguousCategoricalEntropyModel;

/// Probabilities are multiples of 2^-16.
pub const PRECISION: usize = 16;

const TOTAL: u64 = 1 << PRECISION;
/// log2 of the entries of the table of powers.
pub(super) const POWER_BITS: u32 = 10;

/// The constriction model of one symbol.
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

    /// Equal ones for `count` values, at most 8.
    pub fn uniform(count: usize) -> Probabilities {
        let mut values = [(TOTAL / count as u64) as u16; 8];
        values[count - 1] = (TOTAL - (count as u64 - 1) * (TOTAL / count as u64)) as u16;
        Probabilities { values, count }
    }

    pub fn values(&self) -> &[u16] {
        &self.values[..self.count]
    }

    pub fn model(&self) -> Categorical {
        Categorical::from_nonzero_fixed_point_probabilities(self.values(), false)
            .expect("the probabilities are positive and add up to 2^16")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn powers() -> Vec<i32> {
        (0..1 << POWER_BITS)
            .map(|i| 2f64.powf(30.0 - f64::from(i) / 1024.0).round() as i32)
            .collect()
    }

    proptest! {
        #[test]
        fn any_logits_give_positive_probabilities_that_add_up(logits in prop::collection::vec(any::<i32>(), 2..=8)) {
            let p = Probabilities::from_logits(&logits, &powers());
            prop_assert!(p.values().iter().all(|&v| v > 0));
            prop_assert_eq!(p.values().iter().map(|&v| u32::from(v)).sum::<u32>(), 1 << 16);
            let _ = p.model();
        }
    }

    #[test]
    fn golden_probabilities() {
        // Odds 1 : 2 : 4 : 1/1024, of 2^16 - 4.
        let p = Probabilities::from_logits(&[0, 1024, 2048, -10240], &powers());
        assert_eq!(p.values(), [9361, 18721, 37442, 12]);
    }
}
