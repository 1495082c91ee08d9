// SPDX-License-Identifier: MPL-2.0
//! Which positions keep the latents of the unit before.

use crate::entropy::LatentMap;

/// A picture stands still where at no position more than one latent in this many moved: a walker far off is a few positions of hundreds ...
const STILL_SHARE: usize = 16;
/// ... by more than this many quarters of a step.
const STILL_QUARTERS: i64 = 3;

/// Index of the coarsest step at which single positions are skipped; beyond it, all are or none is: where hardly any latent is more than a
/// step, standing still costs less than saying so.
pub const COARSEST_WITH_SKIP_MAP: usize = 43;
/// Bits of the latents of a position that is not skipped, about, ...
pub const POSITION_BITS: f64 = 1.5;
/// ... and of each of them that is not what it was.
pub const CHANGE_BITS: f64 = 5.0;
/// Hysteresis of the tokens, at least, where the latents are skipped: see [`crate::codec::OperatingPoint::hysteresis`].
pub const SKIP_HYSTERESIS: f64 = 0.8;

/// Where coding latents again with steps of `size` would gain less than the bits are worth, at a lambda, what a bit is worth in squared steps.
/// The unit before may have had finer steps: what does not move stays as good as it was.
pub fn skip_map(wanted: &LatentMap, previous: &LatentMap, size: i32, lambda: f64) -> Vec<bool> {
    let positions = wanted.values.len() / wanted.channels;
    (0..positions)
        .map(|at| is_skipped(wanted.position(at), previous.position(at), size, lambda))
        .collect()
}

/// Whether latents hardly moved anywhere, quantised with steps of `size`.
pub fn is_still(wanted: &LatentMap, previous: &LatentMap, size: i32) -> bool {
    let bound = i64::from(size) * STILL_QUARTERS;
    let moved = |(a, b): &(&i32, &i32)| (i64::from(**a) - i64::from(**b)).abs() * 4 > bound;
    let channels = wanted.channels;
    let mut positions = wanted.values.chunks(channels).zip(previous.values.chunks(channels));
    positions.all(|(a, b)| a.iter().zip(b).filter(moved).count() * STILL_SHARE <= channels)
}

/// Whether the squared error of a position grows by less, in squared steps, than its bits cost at a lambda.
fn is_skipped(wanted: &[i32], before: &[i32], size: i32, lambda: f64) -> bool {
    let size = f64::from(size);
    let (mut gained, mut changed) = (0.0, 0.0);
    for (&wanted, &before) in wanted.iter().zip(before) {
        let (wanted, before) = (f64::from(wanted) / size, f64::from(before) / size);
        gained += (wanted - before).powi(2) - (wanted - wanted.round()).powi(2);
        changed += f64::from(u8::from(wanted.round() != before.round()));
    }
    gained <= lambda * (POSITION_BITS + CHANGE_BITS * changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: i32 = 100;

    /// Positions of 16 channels, of which all but the first two are zero.
    fn map(values: &[i32]) -> LatentMap {
        let position = |pair: &[i32]| [pair, &[0; 14]].concat();
        LatentMap {
            width: values.len() / 2,
            height: 1,
            channels: 16,
            values: values.chunks(2).flat_map(position).collect(),
        }
    }

    fn skipped(wanted: &[i32], before: &[i32]) -> Vec<bool> {
        skip_map(&map(wanted), &map(before), SIZE, 0.06)
    }

    #[test]
    fn one_latent_of_a_position_may_move_in_a_still_picture_but_not_two() {
        let is_still = |wanted: &[i32]| is_still(&map(wanted), &map(&[0; 4]), SIZE);
        assert!(is_still(&[75, -75, 900, 75]));
        assert!(!is_still(&[0, 0, 76, -76]));
    }

    #[test]
    fn positions_that_hardly_move_are_skipped_and_others_not() {
        assert_eq!(skipped(&[10, 130, 400, 0], &[0, 120, 0, 0]), [true, false]);
    }

    #[test]
    fn what_was_finer_than_the_step_stays() {
        // Rounding again would leave 40 of a step of 100 where nothing is missing now.
        assert_eq!(skipped(&[140, 0], &[139, 0]), [true]);
    }

    #[test]
    fn a_little_more_error_is_worth_the_bits_of_a_change() {
        // 0.09 more in squared steps, at 6.5 bits for 0.06 each.
        assert!(is_skipped(&[60, 0], &[40, 0], SIZE, 0.06));
        assert!(!is_skipped(&[200, 0], &[0, 0], SIZE, 0.06));
    }
}
