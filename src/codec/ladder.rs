// SPDX-License-Identifier: MPL-2.0
//! Operating points: what each value of the quantizer means.

use crate::entropy::LATENT_STEPS;

/// Largest value of the quantizer.
pub const MAX_QUANTIZER: u32 = 63;
/// Middle of the range.
pub const DEFAULT_QUANTIZER: u32 = 32;
/// Latent steps finer than this one cost more bits and show nothing for them.
const FINEST_STEP: usize = 8;
/// From here on there are no latents: tokens alone.
const FIRST_WITHOUT_LATENTS: u32 = 32;
/// From here on tokens are left out.
const FIRST_MASKED: u32 = 48;
/// Share of the tokens that the last point leaves out.
const MAX_MASK_RATIO: f64 = 0.9;
/// How far a digit may be from the previous unit's value to keep it, in steps: at best, with all tokens, and at most.
const MIN_DEAD_ZONE: f64 = 0.5;
const UNMASKED_DEAD_ZONE: f64 = 1.2;
const MAX_DEAD_ZONE: f64 = 1.5;

/// What a unit spends its bits on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperatingPoint {
    /// How far a real-valued digit may be from the previous unit's value to keep it, in steps of the digit.
    pub dead_zone: f64,
    /// Index of the latents' quantisation step; None = no latents.
    pub latent_step: Option<usize>,
    /// Share of the tokens that are not sent, 0 to 0.9.
    pub mask_ratio: f64,
}

/// The point of a quantizer, 0 (best) to 63 (smallest): first the latents get coarser, then they are left out and
/// tokens become more reluctant to change, then tokens are left out. Bits for exact tokens are worth more than the same
/// bits for latents, so tokens stay exact as long as there are any; and half of the tokens near to the truth are better
/// than all of them frozen for the same bits.
pub fn operating_point(quantizer: u32) -> OperatingPoint {
    let share = |from: u32, to: u32| f64::from(quantizer.clamp(from, to) - from) / f64::from(to - from);
    let steps = (LATENT_STEPS - 1 - FINEST_STEP) as f64;
    let step = FINEST_STEP + (share(0, FIRST_WITHOUT_LATENTS - 1) * steps).round() as usize;
    OperatingPoint {
        dead_zone: MIN_DEAD_ZONE
            + (UNMASKED_DEAD_ZONE - MIN_DEAD_ZONE) * share(FIRST_WITHOUT_LATENTS, FIRST_MASKED - 1)
            + (MAX_DEAD_ZONE - UNMASKED_DEAD_ZONE) * share(FIRST_MASKED - 1, MAX_QUANTIZER),
        latent_step: (quantizer < FIRST_WITHOUT_LATENTS).then_some(step),
        mask_ratio: MAX_MASK_RATIO * share(FIRST_MASKED - 1, MAX_QUANTIZER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_spend_less_and_less() {
        let points: Vec<_> = (0..=MAX_QUANTIZER).map(operating_point).collect();
        for pair in points.windows(2) {
            assert!(pair[0].dead_zone <= pair[1].dead_zone);
            assert!(pair[0].mask_ratio <= pair[1].mask_ratio);
            assert!(pair[0] != pair[1], "{pair:?}");
        }
        assert_eq!(points[0].dead_zone, 0.5);
        assert_eq!(points[0].latent_step, Some(FINEST_STEP));
        assert_eq!(points[31].latent_step, Some(LATENT_STEPS - 1));
        assert_eq!(points[32].latent_step, None);
        assert_eq!(points[63].mask_ratio, MAX_MASK_RATIO);
    }
}
