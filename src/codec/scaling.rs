// SPDX-License-Identifier: MPL-2.0
//! How large pictures are coded where the rate decides: finer tokens once the quantizer has nothing finer to offer.

use super::ladder::{scale_of, LAST_WITH_DETAIL, MAX_QUANTIZER};
use crate::bitstream::CodingScale;

/// How fast the mean quantizer follows.
const FOLLOW: f64 = 0.15;
/// Units after a key unit before another scale is worth the next one.
const PATIENCE: u32 = 10;
/// Units at a scale before its quantizers say that a larger one would suit: where cuts follow each other, key units take it all.
const EVIDENCE: u32 = 10;
/// Units in a row at an end of the quantizer's range before the next scale is worth a key unit: the rate cannot be kept.
const STUCK: u32 = 2;
/// A larger scale is asked for by a mean quantizer this far within its own range, ...
const ABOVE: f64 = 2.0;
/// ... and given up by one this far beyond it: then most of the bits go into tokens.
const BEYOND: f64 = 6.0;

/// The scale of a stream that keeps to a rate.
#[derive(Debug, Default)]
pub struct ScaleControl {
    scale: Option<CodingScale>,
    /// Of the delta units, about over the last two seconds.
    mean_quantizer: Option<f64>,
    /// Delta units since the scale changed.
    seen: u32,
    /// Units since the key unit, or since another scale was put off.
    units: u32,
    /// The last units of these, all at the first or all at the last quantizer: which one, and how many.
    stuck: (u32, u32),
}

impl ScaleControl {
    /// What the next key unit is to be coded at, at most `largest`; `None` before anything is known.
    pub fn wanted(&self, largest: CodingScale) -> Option<CodingScale> {
        let scale = self.scale?;
        if self.is_stuck() {
            let next = if self.stuck.0 == 0 {
                scale.larger()
            } else {
                scale.smaller()
            };
            return Some(next.unwrap_or(scale).min(largest));
        }
        let Some(mean) = self.mean_quantizer else {
            return Some(scale);
        };
        let least = scale_of((mean + ABOVE) as u32);
        let most = scale_of((mean - BEYOND).max(0.0) as u32);
        let least = if self.seen < EVIDENCE { least.min(scale) } else { least };
        Some(scale.clamp(least, most).min(largest))
    }

    /// Whether that is worth a key unit of its own.
    pub fn wants_key(&self, largest: CodingScale) -> bool {
        (self.has_waited() || self.is_stuck()) && self.wanted(largest) != self.scale
    }

    fn is_stuck(&self) -> bool {
        self.stuck.1 >= STUCK
    }

    /// Whether what stands still would get detail at the quantizers of late.
    pub fn is_fine(&self) -> bool {
        self.mean_quantizer
            .is_some_and(|mean| mean <= f64::from(LAST_WITH_DETAIL))
    }

    /// Whether a key unit would not come too soon after the last one, or one that was put off.
    pub fn has_waited(&self) -> bool {
        self.units >= PATIENCE
    }

    /// Notes a key unit.
    pub fn start(&mut self, scale: CodingScale, quantizer: u32) {
        if self.scale != Some(scale) {
            self.mean_quantizer = None;
            self.seen = 0;
            self.stuck = (0, 0);
        }
        self.scale = Some(scale);
        self.units = 0;
        self.note_end(quantizer);
    }

    /// Notes that the scale stays as it is: what is wanted cannot be paid for the time being.
    pub fn put_off(&mut self) {
        self.units = 0;
        self.stuck.1 = self.stuck.1.min(STUCK - 1);
    }

    /// Notes a delta unit.
    pub fn push(&mut self, quantizer: u32) {
        self.note_end(quantizer);
        let quantizer = f64::from(quantizer);
        let mean = self.mean_quantizer.get_or_insert(quantizer);
        *mean += FOLLOW * (quantizer - *mean);
        self.units += 1;
        self.seen += 1;
    }

    fn note_end(&mut self, quantizer: u32) {
        let is_end = [0, MAX_QUANTIZER].contains(&quantizer);
        let before = if self.stuck.0 == quantizer { self.stuck.1 } else { 0 };
        self.stuck = if is_end { (quantizer, before + 1) } else { (0, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(scale: CodingScale, quantizer: u32) -> ScaleControl {
        let mut control = ScaleControl::default();
        control.start(scale, 30);
        (0..PATIENCE).for_each(|_| control.push(quantizer));
        control
    }

    #[test]
    fn a_scale_stays_until_the_quantizer_is_clearly_out_of_its_range() {
        use CodingScale::{Double, Half, OneAndAHalf, Single, TwoThirds};
        for (scale, quantizer, wanted) in [
            (Single, 30, Single),
            (Single, 14, Single),
            (Single, 13, OneAndAHalf),
            (Single, 1, Double),
            (Single, 0, OneAndAHalf),
            (Single, 47, Single),
            (Single, 48, TwoThirds),
            (OneAndAHalf, 21, OneAndAHalf),
            (OneAndAHalf, 40, Single),
            (Double, 13, Double),
            (Double, 62, Half),
            (Double, 63, OneAndAHalf),
            (TwoThirds, 40, TwoThirds),
            (TwoThirds, 30, Single),
            (Half, 63, Half),
            (Half, 40, TwoThirds),
        ] {
            let control = after(scale, quantizer);
            assert_eq!(control.wanted(Double), Some(wanted), "{scale:?} at {quantizer}");
            assert_eq!(control.wants_key(Double), wanted != scale);
        }
    }

    #[test]
    fn no_scale_is_larger_than_allowed() {
        let largest = CodingScale::OneAndAHalf;
        assert_eq!(after(CodingScale::Single, 1).wanted(largest), Some(largest));
        assert_eq!(after(largest, 0).wanted(largest), Some(largest));
    }

    #[test]
    fn a_rate_that_a_scale_cannot_keep_gets_the_next_one_soon() {
        use CodingScale::{Half, Single, TwoThirds};
        for (scale, quantizers, wanted) in [
            (TwoThirds, [5, 5, 0, 0], Some(Single)),
            (TwoThirds, [0, 0, 1, 0], None),
            (Single, [40, 40, 63, 63], Some(TwoThirds)),
            (Half, [63, 63, 63, 63], None),
            (Single, [0, 63, 0, 63], None),
        ] {
            let mut control = ScaleControl::default();
            control.start(scale, 30);
            quantizers.into_iter().for_each(|quantizer| control.push(quantizer));
            assert_eq!(control.wants_key(Single), wanted.is_some(), "{scale:?} {quantizers:?}");
            assert!(wanted.is_none() || control.wanted(Single) == wanted);
        }
    }

    #[test]
    fn key_units_that_cannot_use_the_rate_either_do_not_hide_that_a_scale_cannot_keep_it() {
        let mut control = ScaleControl::default();
        for _ in 0..STUCK {
            control.start(CodingScale::TwoThirds, 0);
            control.push(0);
        }
        assert_eq!(control.wanted(CodingScale::Double), Some(CodingScale::Single));
    }

    #[test]
    fn a_scale_that_was_put_off_is_wanted_again_as_long_as_the_rate_cannot_be_kept() {
        let largest = CodingScale::Double;
        let mut control = after(CodingScale::Single, 0);
        control.put_off();
        assert!(!control.wants_key(largest));
        control.push(0);
        assert!(control.wants_key(largest));
        control.put_off();
        control.push(2);
        assert!(!control.wants_key(largest), "within its range again");
    }

    #[test]
    fn one_cut_after_another_makes_no_scale_larger() {
        let mut control = ScaleControl::default();
        for cut in 0..EVIDENCE {
            control.start(CodingScale::Single, 30);
            assert_eq!(
                control.wanted(CodingScale::Double),
                Some(CodingScale::Single),
                "cut {cut}"
            );
            control.push(8);
        }
        assert_eq!(control.wanted(CodingScale::Double), Some(CodingScale::OneAndAHalf));
    }

    #[test]
    fn a_key_unit_starts_the_patience_anew() {
        let mut control = after(CodingScale::Single, 0);
        control.start(CodingScale::Double, 30);
        control.push(63);
        assert!(!control.wants_key(CodingScale::Double));
        assert_eq!(ScaleControl::default().wanted(CodingScale::Double), None);
    }
}
