// SPDX-License-Identifier: MPL-2.0
//! Rate-distortion optimised choice of digits: what one costs is what the context model says, what it spoils is what the painter makes of it.

use crate::bitstream::FSQ_LEVELS;
use crate::entropy::{DigitChoice, TokenMap, DIGITS, PRECISION};
use crate::model::Model;

/// What errors of a step each in two digits of a token do to the picture together, those of one digit being 1 in the mean.
#[derive(Debug)]
pub struct Metric([[f32; DIGITS]; DIGITS]);

/// Of a tokenizer that was not measured: all digits are alike.
const UNKNOWN: Metric = Metric([
    [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
    [0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
]);

impl Metric {
    /// Of a model's digits.
    pub fn of(model: &Model) -> &'static Metric {
        match model.tokenizer.config.is_cosmos() {
            true => &UNKNOWN,
            false => &BUILT_IN,
        }
    }
}

/// Of the built-in model and those that were made from it: 0.4 of the squared error of luma, 0.6 of LPIPS, as `tvc-train sensitivity` finds
/// them. To the eye digits are much alike; of luma the first and the third take more than half, and cancel each other.
const BUILT_IN: Metric = Metric([
    [1.15, -0.14, -0.57, -0.07, 0.19, -0.19],
    [-0.14, 0.84, 0.35, 0.22, -0.12, 0.06],
    [-0.57, 0.35, 1.27, 0.11, -0.09, 0.19],
    [-0.07, 0.22, 0.11, 0.96, -0.04, 0.03],
    [0.19, -0.12, -0.09, -0.04, 0.88, -0.20],
    [-0.19, 0.06, 0.19, 0.03, -0.20, 0.91],
]);

/// Bits that a change of a digit costs in the mean.
const DIGIT_CHANGE_BITS: f32 = 7.0;
/// How much of the price of a change is what the context model asks for it, the rest being what changes cost in the mean. Where nothing else
/// changes a change is dear, but stays for many units; where all does it is cheap, and soon forgotten.
const MODEL_SHARE: f32 = 0.8;

/// Chooses between a digit's value of the unit before and the nearest one: values between them are cheap, but blur.
pub struct DigitRdoq<'a, F: Fn(usize) -> f64> {
    /// Real-valued digits, those of a token together.
    pub values: &'a [f32],
    /// Tokens of the unit before.
    pub before: &'a TokenMap,
    pub metric: &'a Metric,
    /// Of a token by its place: see [`crate::codec::OperatingPoint::hysteresis`].
    pub hysteresis: F,
    /// What an error in each token is worth: see [`super::activity_weights`].
    pub weights: &'a [f32],
}

impl<F: Fn(usize) -> f64> DigitRdoq<'_, F> {
    /// The value of a digit that costs and spoils least.
    pub fn choose(&self, choice: DigitChoice) -> u8 {
        let (at, k) = (choice.at, choice.earlier.len());
        let nearest = nearest(self.values[at * DIGITS + k], k);
        let before = self.before.tokens[at][k];
        // A token that was never sent has no digits.
        if before >= FSQ_LEVELS[k] || before == nearest {
            return nearest;
        }
        let lambda = bit_price((self.hysteresis)(at)) / self.weights[at];
        let change = DIGIT_CHANGE_BITS * (1.0 - MODEL_SHARE) * lambda;
        let cost = |digit: u8| {
            let bits = PRECISION as f32 - f32::from(choice.probabilities.values()[usize::from(digit)]).log2();
            self.distortion(&choice, digit) + MODEL_SHARE * lambda * bits
        };
        match cost(before) <= cost(nearest) + change {
            true => before,
            false => nearest,
        }
    }

    /// By how much the picture is worse for a digit, in squared steps, the digits before it being what they are.
    fn distortion(&self, choice: &DigitChoice, digit: u8) -> f32 {
        let k = choice.earlier.len();
        let values = &self.values[choice.at * DIGITS..][..DIGITS];
        let error = f32::from(digit) - values[k];
        let errors = choice
            .earlier
            .iter()
            .zip(values)
            .map(|(&digit, value)| f32::from(digit) - value);
        let together: f32 = errors.zip(self.metric.0[k]).map(|(error, metric)| error * metric).sum();
        self.metric.0[k][k] * error * error + 2.0 * together * error
    }
}

/// The legal value of the `k`-th digit that is nearest to a real one.
pub fn nearest(value: f32, k: usize) -> u8 {
    value.round_ties_even().clamp(0.0, f32::from(FSQ_LEVELS[k] - 1)) as u8
}

/// What a bit is worth, in squared steps, so that a change that costs what changes do in the mean is made beyond a hysteresis, of 0.5 at least.
fn bit_price(hysteresis: f64) -> f32 {
    if hysteresis.is_infinite() {
        return f32::INFINITY;
    }
    // What is left of the error after the change.
    let left = hysteresis - hysteresis.round();
    ((hysteresis * hysteresis - left * left).max(0.0) / f64::from(DIGIT_CHANGE_BITS)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::Probabilities;
    use proptest::prelude::*;

    /// The choice of the `earlier.len()`-th digit of the one token, of which `before` was sent. `kept`: the probability of its value before,
    /// in 2^-16; the others share the rest.
    fn chosen(values: [f32; DIGITS], before: [u8; DIGITS], earlier: &[u8], kept: u16) -> u8 {
        chosen_with((1.0, 1.0), values, before, earlier, kept)
    }

    fn chosen_with(
        (hysteresis, weight): (f64, f32),
        values: [f32; DIGITS],
        before: [u8; DIGITS],
        earlier: &[u8],
        kept: u16,
    ) -> u8 {
        let k = earlier.len();
        let mut map = TokenMap::zero(1, 1);
        map.tokens[0] = before;
        let rdoq = DigitRdoq {
            values: &values,
            before: &map,
            metric: &BUILT_IN,
            hysteresis: |_| hysteresis,
            weights: &[weight],
        };
        let count = usize::from(FSQ_LEVELS[k]);
        let mut shares = vec![((1u32 << 16) - u32::from(kept)) / (count as u32 - 1); count];
        if let Some(share) = shares.get_mut(usize::from(before[k])) {
            *share = kept.into();
        }
        let shares: Vec<u16> = shares.into_iter().map(|share| share as u16).collect();
        rdoq.choose(DigitChoice {
            at: 0,
            earlier,
            wanted: 0,
            probabilities: &Probabilities::of(&shares),
        })
    }

    const BEFORE: [u8; DIGITS] = [3; DIGITS];

    fn fourth(value: f32, kept: u16) -> u8 {
        let mut values = [3.0; DIGITS];
        values[3] = value;
        chosen(values, BEFORE, &BEFORE[..3], kept)
    }

    #[test]
    fn a_digit_changes_beyond_the_hysteresis_and_later_where_that_is_dear() {
        let (usual, sure) = (55_000, 65_000);
        assert_eq!([fourth(3.8, usual), fourth(4.0, usual), fourth(4.4, usual)], [3, 4, 4]);
        assert_eq!([fourth(3.8, sure), fourth(4.0, sure), fourth(4.4, sure)], [3, 3, 4]);
    }

    #[test]
    fn where_errors_are_worth_more_digits_change_sooner() {
        let changed = |weight, value| {
            let mut values = [3.0; DIGITS];
            values[3] = value;
            chosen_with((1.0, weight), values, BEFORE, &BEFORE[..3], 60_000) != 3
        };
        assert_eq!(
            [changed(0.5, 4.1), changed(1.0, 4.1), changed(2.0, 4.1)],
            [false, true, true]
        );
        assert_eq!(
            [changed(0.5, 3.75), changed(1.0, 3.75), changed(2.0, 3.75)],
            [false, false, true]
        );
    }

    #[test]
    fn digits_that_cancel_each_other_are_off_together_or_not_at_all() {
        // The first digit is off by 0.8: a third one that is off the same way makes up for it.
        let third = |off: f32| chosen([2.2, 3.0, 3.0 - off, 3.0, 3.0, 3.0], BEFORE, &BEFORE[..2], 40_000);
        assert_eq!((third(0.95), third(-0.95)), (3, 4));
    }

    #[test]
    fn without_end_to_the_hysteresis_nothing_changes() {
        assert_eq!(chosen_with((f64::INFINITY, 2.0), [7.0; DIGITS], BEFORE, &[], 1), 3);
    }

    #[test]
    fn tokens_that_were_never_sent_are_rounded() {
        assert_eq!(chosen([6.4; DIGITS], crate::entropy::MASKED, &[], 60_000), 6);
        assert_eq!(chosen([9.4; DIGITS], crate::entropy::MASKED, &[], 60_000), 7);
    }

    proptest! {
        #[test]
        fn the_choice_is_the_value_before_or_the_nearest(value in -3f32..11.0, before in 0u8..8, kept in 1u16..65_000) {
            let found = chosen([value; DIGITS], [before.min(4); DIGITS], &[], kept);
            prop_assert!(found == before.min(4) || found == nearest(value, 0));
        }
    }
}
