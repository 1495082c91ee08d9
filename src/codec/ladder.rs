// SPDX-License-Identifier: MPL-2.0
//! Operating points: what each value of the quantizer means.

use crate::entropy::LATENT_STEPS;

/// Largest value of the quantizer.
pub const MAX_QUANTIZER: u32 = 63;
/// Middle of the range.
pub const DEFAULT_QUANTIZER: u32 = 32;
/// From here on there are no latents: tokens alone.
const FIRST_WITHOUT_LATENTS: u32 = LATENT_STEPS as u32;
/// From here on tokens are left out.
const FIRST_MASKED: u32 = 56;
/// Share of the tokens that the last point leaves out.
const MAX_MASK_RATIO: f64 = 0.75;
/// How much further than half a step a digit may be from the previous unit's value to keep it, in steps, where
/// latents correct it, and at most.
const LATENT_DEAD_ZONE: f64 = 0.75;
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
/// tokens become more reluctant to change, then tokens are left out.
pub fn operating_point(quantizer: u32) -> OperatingPoint {
    let share = |from: u32, to: u32| f64::from(quantizer.clamp(from, to) - from) / f64::from(to - from);
    let tokens_only = share(FIRST_WITHOUT_LATENTS - 1, FIRST_MASKED - 1);
    let with_latents = LATENT_DEAD_ZONE * share(0, FIRST_WITHOUT_LATENTS - 1);
    OperatingPoint {
        dead_zone: 0.5 + with_latents + (MAX_DEAD_ZONE - LATENT_DEAD_ZONE) * tokens_only,
        latent_step: (quantizer < FIRST_WITHOUT_LATENTS).then_some(quantizer as usize),
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
        assert_eq!(points[0].latent_step, Some(0));
        assert_eq!(points[47].latent_step, Some(LATENT_STEPS - 1));
        assert_eq!(points[48].latent_step, None);
        assert_eq!(points[63].mask_ratio, MAX_MASK_RATIO);
    }
}
