// SPDX-License-Identifier: MPL-2.0
//! Rate-distortion optimised quantisation of the latents: to the level with the least sum of error and bits.

use crate::entropy::{Quantization, LATENT_SYMBOLS, PRECISION};

/// What the encoder may give up to save bits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rdoq {
    /// What a bit is worth in squared steps; 0 rounds to the nearest level. Finely quantised values have their optimum at
    /// ln(2) / 6 (a bit more divides the error of a twelfth of a squared step by four).
    pub lambda: f32,
}

impl Rdoq {
    /// Where errors in a token are worth `weight` times the usual. Those in its latents grow more slowly: with the square root.
    pub fn weighted(self, weight: f32) -> Rdoq {
        Rdoq {
            lambda: self.lambda / weight.sqrt(),
        }
    }
}

/// Bits of the symbols of all tables.
#[derive(Debug)]
pub struct SymbolBits(Vec<f32>);

impl SymbolBits {
    /// `probabilities`: tables of [`LATENT_SYMBOLS`] each, in 2^-16.
    pub fn new(probabilities: &[i32]) -> SymbolBits {
        let bits = |&p: &i32| PRECISION as f32 - (p as f32).log2();
        SymbolBits(probabilities.iter().map(bits).collect())
    }

    /// Bits of a difference from the expected level, without those of what is beyond the table.
    fn of(&self, table: usize, difference: i32) -> f32 {
        let middle = LATENT_SYMBOLS as i32 / 2;
        let symbol = (difference.clamp(-middle, middle) + middle) as usize;
        self.0[table * LATENT_SYMBOLS + symbol]
    }

    /// The level of a latent: the nearest, or the next one towards the expected one.
    pub fn level(&self, latent: Quantization, rdoq: Rdoq) -> i32 {
        let (nearest, expected) = (latent.nearest(), latent.expected);
        if nearest == expected || rdoq.lambda == 0.0 {
            return nearest;
        }
        let nearer = nearest - (nearest - expected).signum();
        let cost = |level: i32| {
            let error = latent.value as f32 / latent.step as f32 - level as f32;
            error * error + rdoq.lambda * self.of(latent.table, level - expected)
        };
        match cost(nearer) < cost(nearest) {
            true => nearer,
            false => nearest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A table that halves from value to value.
    fn level(value: i32, step: i32, expected: i32, lambda: f32) -> i32 {
        let middle = LATENT_SYMBOLS as i32 / 2;
        let row: Vec<i32> = (0..LATENT_SYMBOLS as i32)
            .map(|symbol| (21_000 >> (symbol - middle).abs().min(14)).max(1))
            .collect();
        let latent = Quantization {
            value,
            step,
            expected,
            table: 0,
            at: 0,
        };
        SymbolBits::new(&row).level(latent, Rdoq { lambda })
    }

    proptest! {
        #[test]
        fn a_level_lies_between_the_nearest_and_the_expected_one(
            value: i32, step in 8i32..16_384, expected in -50i32..50, lambda in 0f32..1.0,
        ) {
            let nearest = level(value, step, expected, 0.0);
            prop_assert!((i64::from(nearest) * i64::from(step) - i64::from(value)).abs() * 2 <= i64::from(step));
            let found = level(value, step, expected, lambda);
            prop_assert!((nearest.min(expected)..=nearest.max(expected)).contains(&found));
            prop_assert!((found - nearest).abs() <= 1);
        }
    }

    #[test]
    fn a_value_moves_where_its_bits_cost_more_than_the_error() {
        // 0.7 steps: the error grows by 0.49 - 0.09 for one bit less.
        assert_eq!(level(70, 100, 0, 0.39), 1);
        assert_eq!(level(70, 100, 0, 0.41), 0);
        assert_eq!(level(-70, 100, 0, 0.41), 0);
        assert_eq!(level(30, 100, 0, 5.0), 0);
    }

    #[test]
    fn where_errors_are_worth_more_bits_are_worth_less() {
        let weighted = |weight| Rdoq { lambda: 0.4 }.weighted(weight).lambda;
        assert_eq!([weighted(1.0), weighted(4.0), weighted(0.25)], [0.4, 0.2, 0.8]);
    }
}
