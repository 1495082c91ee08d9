// SPDX-License-Identifier: MPL-2.0
//! Spatial activity: an error in a token spoils the picture by more where the token shows more than a plain surface.

use crate::codec::Frame;

/// What is added to any activity: plain surfaces are not worthless.
const LEAST: f32 = 20.0;
/// The squared error of the picture grows about with the square root of the activity. Half of that stays: the eye is more lenient, too, where
/// there is much to see.
const EXPONENT: f32 = 0.25;
/// Of the frames of a unit every n-th is looked at.
const EVERY: usize = 2;

/// What errors in the tokens of a map of so many columns and rows are worth, row by row; their geometric mean is 1. `side`: of a token, in luma
/// samples of the frames, which show all or most of the map and have one size.
pub fn activity_weights(frames: &[&Frame], (columns, rows): (usize, usize), side: f64) -> Vec<f32> {
    let of = |at| activity(frames, (at % columns, at / columns), side) + LEAST;
    let activities: Vec<f32> = (0..columns * rows).map(of).collect();
    let usual = activities.iter().map(|activity| activity.ln()).sum::<f32>() / activities.len() as f32;
    activities
        .iter()
        .map(|activity| (EXPONENT * (activity.ln() - usual)).exp())
        .collect()
}

/// Variance of luma, over frames, in the square of a token, as far as it is in the picture.
fn activity(frames: &[&Frame], (column, row): (usize, usize), side: f64) -> f32 {
    let (width, height) = (frames[0].width, frames[0].height);
    let range = |at: usize, size: usize| {
        let from = ((at as f64 * side) as usize).min(size - 1);
        from..(((at + 1) as f64 * side) as usize).clamp(from + 1, size)
    };
    let (columns, rows) = (range(column, width), range(row, height));
    let (mut count, mut sum, mut squares) = (0, 0, 0);
    for frame in frames.iter().step_by(EVERY) {
        for line in frame.planes[0][rows.start * width..rows.end * width].chunks(width) {
            let line = &line[columns.clone()];
            count += line.len() as u64;
            sum += line.iter().map(|&v| u64::from(v)).sum::<u64>();
            squares += line.iter().map(|&v| u64::from(v).pow(2)).sum::<u64>();
        }
    }
    let mean = sum as f64 / count as f64;
    (squares as f64 / count as f64 - mean * mean) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame((width, height): (usize, usize), luma: impl Fn(usize, usize) -> u8) -> Frame {
        let mut frame = Frame::grey(width, height);
        frame.planes[0] = (0..width * height).map(|at| luma(at % width, at / width)).collect();
        frame
    }

    /// Plain to the left, stripes of a contrast to the right.
    fn half_striped(contrast: u8) -> Frame {
        frame((32, 16), move |x, _| {
            128 + contrast * u8::from(x >= 16 && x % 2 == 0) - contrast / 2
        })
    }

    #[test]
    fn errors_count_for_more_where_there_is_more_to_see() {
        let found = activity_weights(&[&half_striped(100)], (2, 1), 16.0);
        // Variances of 0 and 50^2.
        let ratio = (2520.0f32 / 20.0).powf(0.25);
        assert!((found[1] / found[0] - ratio).abs() < 1e-3 * ratio, "{found:?}");
        assert!((found[0] * found[1] - 1.0).abs() < 1e-3, "{found:?}");
    }

    #[test]
    fn what_changes_in_a_unit_is_active() {
        let change = |left: u8| frame((32, 16), move |x, _| if x < 16 { left } else { 90 });
        let [dark, light] = [change(60), change(120)];
        let fades = activity_weights(
            &[&dark, &dark, &dark, &dark, &light, &light, &light, &light],
            (2, 1),
            16.0,
        );
        assert!(fades[0] > fades[1]);
        assert_eq!(activity_weights(&[&dark; 8], (2, 1), 16.0), [1.0, 1.0]);
    }

    #[test]
    fn tokens_of_another_size_weigh_what_they_show() {
        let whole = activity_weights(&[&half_striped(100)], (2, 1), 16.0);
        let smaller = activity_weights(&[&half_striped(100)], (4, 2), 8.0);
        let expected = [whole[0], whole[0], whole[1], whole[1]].repeat(2);
        assert!(smaller.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4));
    }

    proptest! {
        #[test]
        fn weights_are_about_one_whatever_the_size(
            (width, height) in (1usize..70, 1usize..50), side in 7.0f64..33.0, seed: u8,
        ) {
            let noise = frame((width, height), |x, y| ((x * 31 + y * 57) as u8).wrapping_mul(seed));
            let size = ((width as f64 / side).ceil() as usize, (height as f64 / side).ceil() as usize + 1);
            let found = activity_weights(&[&noise], size, side);
            prop_assert_eq!(found.len(), size.0 * size.1);
            // The fourth root of the largest variance, that of black and white, over none.
            prop_assert!(found.iter().all(|weight| (0.1..=6.0).contains(weight)));
            let mean = found.iter().map(|weight| weight.ln()).sum::<f32>() / found.len() as f32;
            prop_assert!(mean.abs() < 1e-3);
        }
    }
}
