// SPDX-License-Identifier: MPL-2.0
//! Resolution control: how large pictures are coded where the rate decides.

use super::operating_points::scale_of;
use crate::bitstream::CodingScale;

/// A larger scale suits a quality that is so far within its range, ...
const ABOVE: f64 = 2.0;
/// ... and a smaller one when the quality is so far beyond that of the present one: a key unit has its price.
const BEYOND: f64 = 4.0;

/// The scale of a scene that starts at a quality, at most `largest`.
fn starting_scale(quantizer: f64, largest: CodingScale) -> CodingScale {
    scale_of(quantizer.round() as u32).min(largest)
}

/// The scale that a scene would better go on at than at `present`, if it is another one.
pub fn better_scale(present: CodingScale, quantizer: f64, largest: CodingScale) -> Option<CodingScale> {
    let least = starting_scale(quantizer + ABOVE, largest);
    let most = starting_scale((quantizer - BEYOND).max(0.0), largest);
    let better = present.clamp(least, most);
    (better != present).then_some(better)
}

#[cfg(test)]
mod tests {
    use super::*;
    use CodingScale::{Double, Half, OneAndAHalf, Single, TwoThirds};

    #[test]
    fn a_scale_stays_until_the_quality_is_clearly_out_of_its_range() {
        for (present, quantizer, better) in [
            (Single, 30.0, None),
            (Single, 14.0, None),
            (Single, 13.0, Some(OneAndAHalf)),
            (Single, 2.0, Some(Double)),
            (Single, 45.4, None),
            (Single, 46.0, Some(TwoThirds)),
            (OneAndAHalf, 19.0, None),
            (OneAndAHalf, 40.0, Some(Single)),
            (Double, 11.0, None),
            (Double, 62.0, Some(Half)),
            (TwoThirds, 40.0, None),
            (TwoThirds, 30.0, Some(Single)),
            (Half, 63.0, None),
            (Half, 40.0, Some(TwoThirds)),
        ] {
            assert_eq!(
                better_scale(present, quantizer, Double),
                better,
                "{present:?} at {quantizer}"
            );
        }
    }

    #[test]
    fn no_scale_is_larger_than_allowed() {
        assert_eq!(starting_scale(1.0, OneAndAHalf), OneAndAHalf);
        assert_eq!(better_scale(Single, 1.0, OneAndAHalf), Some(OneAndAHalf));
        assert_eq!(better_scale(OneAndAHalf, 1.0, OneAndAHalf), None);
    }
}
