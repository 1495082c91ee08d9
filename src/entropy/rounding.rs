// SPDX-License-Identifier: MPL-2.0
//! How the encoder rounds latents: to the level with the least sum of error and bits. Decoders know nothing of it.

use super::latent_weights::LATENT_SYMBOLS;
use super::probability::PRECISION;

/// What the encoder may give up to save bits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rounding {
    /// What a bit is worth in squared steps; 0 rounds to the nearest level. Finely quantised values have their optimum at
    /// ln(2) / 6 (a bit more divides the error of a twelfth of a squared step by four).
    pub bit_price: f32,
}

/// Bits of the symbols of all tables.
#[derive(Debug)]
pub(super) struct SymbolBits(Vec<f32>);

impl SymbolBits {
    /// `probabilities`: tables of [`LATENT_SYMBOLS`] each, in 2^-16.
    pub(super) fn new(probabilities: &[i32]) -> SymbolBits {
        SymbolBits(
            probabilities
                .iter()
                .map(|&p| PRECISION as f32 - (p as f32).log2())
                .collect(),
        )
    }

    /// Bits of a difference from the rounded mean, without those of what is beyond the table.
    fn of(&self, table: usize, residual: i32) -> f32 {
        let middle = LATENT_SYMBOLS as i32 / 2;
        let symbol = (residual.clamp(-middle, middle) + middle) as usize;
        self.0[table * LATENT_SYMBOLS + symbol]
    }

    /// The level for a value, in steps of `size`: the nearest, or the next one towards `base`, the rounded mean.
    pub(super) fn round(&self, value: i32, size: i32, (table, base): (usize, i32), rounding: Rounding) -> i32 {
        // A value may be anything that a network makes: the sum must not overflow.
        let nearest = (i64::from(value) + i64::from(size / 2)).div_euclid(size.into()) as i32;
        if nearest == base || rounding.bit_price == 0.0 {
            return nearest;
        }
        let nearer = nearest - (nearest - base).signum();
        let cost = |level: i32| {
            let error = value as f32 / size as f32 - level as f32;
            error * error + rounding.bit_price * self.of(table, level - base)
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
    fn bits() -> SymbolBits {
        let middle = LATENT_SYMBOLS as i32 / 2;
        let row: Vec<i32> = (0..LATENT_SYMBOLS as i32)
            .map(|symbol| (21_000 >> (symbol - middle).abs().min(14)).max(1))
            .collect();
        SymbolBits::new(&row)
    }

    proptest! {
        #[test]
        fn a_level_lies_between_the_nearest_and_the_mean(
            value: i32, size in 8i32..16_384, base in -50i32..50, bit_price in 0f32..1.0,
        ) {
            let nearest = bits().round(value, size, (0, base), Rounding::default());
            prop_assert!((i64::from(nearest) * i64::from(size) - i64::from(value)).abs() * 2 <= i64::from(size));
            let level = bits().round(value, size, (0, base), Rounding { bit_price });
            prop_assert!((nearest.min(base)..=nearest.max(base)).contains(&level));
            prop_assert!((level - nearest).abs() <= 1);
        }
    }

    #[test]
    fn a_value_moves_where_its_bits_cost_more_than_the_error() {
        let level = |value, bit_price| bits().round(value, 100, (0, 0), Rounding { bit_price });
        // 0.7 steps: the error grows by 0.49 - 0.09 for one bit less.
        assert_eq!(level(70, 0.39), 1);
        assert_eq!(level(70, 0.41), 0);
        assert_eq!(level(-70, 0.41), 0);
        assert_eq!(level(30, 5.0), 0);
    }
}
