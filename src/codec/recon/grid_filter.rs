// SPDX-License-Identifier: MPL-2.0
//! Fills grid artefacts: dots that the networks paint at the same places of every token. With few bits they lie on the picture as a grid that
//! stands still while the picture moves. Such places are found by what they have more of than others, and filled from around them.

use crate::codec::Frame;
use crate::entropy::LatentMode;

/// Index of the finest step of the latents at which artefacts are filled: finer ones leave few, and give textures that are none.
const FINEST_STEP: usize = 45;

/// Second differences beyond this, of samples from 0 to 255, are edges of the picture: they count no more than this.
const EDGE: f32 = 20.0;
/// A place is an artefact where its mean second difference is this many times the median of all places, ...
const ARTEFACT: f32 = 2.0;
/// ... and filled altogether where it is this much more.
const SPAN: f32 = 0.6;
/// Added to that median: what nobody sees is no artefact.
const UNSEEN: f32 = 0.25;
/// Where so much of a row or column of places is filled, it is a line of the picture that comes again with every token.
const LINE: f32 = 0.5;
/// Standard deviation and reach of the mean by which artefacts are filled, in samples.
const FILL: f32 = 1.2;
const REACH: isize = 3;

/// Whether a unit has so few latents that its artefacts are filled; `before`: whether the unit before had. Without a continuous stream,
/// none has any.
pub fn has_artefacts(mode: Option<LatentMode>, before: bool) -> bool {
    match mode {
        None | Some(LatentMode::Absent) => true,
        Some(LatentMode::Coded(step)) => step >= FINEST_STEP,
        Some(LatentMode::Skipped) => before,
    }
}

/// Fills the artefacts of a unit's pictures, whose tokens have sides of `period` luma samples from the upper left corner. They are found in
/// its last picture.
pub fn filter_grid(frames: &mut [Frame], period: usize) {
    let Some(last) = frames.last() else { return };
    let artefacts: [Option<GridArtefacts>; 3] = std::array::from_fn(|plane| {
        let (width, _) = Frame::plane_size(last.width, last.height, plane);
        GridArtefacts::find(&last.planes[plane], width, if plane == 0 { period } else { period / 2 })
    });
    for frame in frames {
        for (plane, artefacts) in artefacts.iter().enumerate() {
            if let Some(artefacts) = artefacts {
                let (width, _) = Frame::plane_size(frame.width, frame.height, plane);
                artefacts.fill(&mut frame.planes[plane], width);
            }
        }
    }
}

/// Places in a token that are artefacts.
struct GridArtefacts {
    period: usize,
    /// How much of each place is filled, row by row, 0 to 1.
    shares: Vec<f32>,
}

impl GridArtefacts {
    /// `None` where there are none, or where there is less than a token to look at.
    fn find(plane: &[u8], width: usize, period: usize) -> Option<GridArtefacts> {
        let means = mean_differences(plane, width, period)?;
        let mut sorted = means.clone();
        sorted.sort_by(f32::total_cmp);
        let median = sorted[sorted.len() / 2] + UNSEEN;
        let share = |mean: &f32| ((mean / median - ARTEFACT) / SPAN).clamp(0.0, 1.0);
        let shares: Vec<f32> = means.iter().map(share).collect();
        let is_line = |sum: f32| sum > LINE * period as f32;
        let rows = shares.chunks(period).map(|row| row.iter().sum());
        let columns = (0..period).map(|x| shares.iter().skip(x).step_by(period).sum());
        let has_artefacts = shares.iter().any(|share| *share > 0.0);
        (has_artefacts && !rows.chain(columns).any(is_line)).then_some(GridArtefacts { period, shares })
    }

    fn share(&self, x: usize, y: usize) -> f32 {
        self.shares[y % self.period * self.period + x % self.period]
    }

    fn fill(&self, plane: &mut [u8], width: usize) {
        let height = plane.len() / width;
        let original = plane.to_vec();
        for (place, &share) in self.shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            let kernel = self.kernel(place % self.period, place / self.period);
            for y in (place / self.period..height).step_by(self.period) {
                for x in (place % self.period..width).step_by(self.period) {
                    let around = weighted_mean(&original, (width, height), (x, y), &kernel);
                    let sample = &mut plane[y * width + x];
                    *sample = (f32::from(*sample) * (1.0 - share) + around * share + 0.5) as u8;
                }
            }
        }
    }

    /// Offsets in x and y of what a place is filled from, with weights: near, and no artefact itself.
    fn kernel(&self, x: usize, y: usize) -> Vec<(isize, isize, f32)> {
        let wrapped = |at: usize, offset: isize| (at as isize + offset).rem_euclid(self.period as isize) as usize;
        let offsets = (-REACH..=REACH).flat_map(|dy| (-REACH..=REACH).map(move |dx| (dx, dy)));
        let weighted = offsets.map(|(dx, dy)| {
            let near = (-((dx * dx + dy * dy) as f32) / (2.0 * FILL * FILL)).exp();
            // A little of everything, so that there is always something.
            let sound = 1.001 - self.share(wrapped(x, dx), wrapped(y, dy));
            (dx, dy, near * sound)
        });
        weighted.collect()
    }
}

/// Mean of samples around one, the edges repeated.
fn weighted_mean(
    plane: &[u8],
    (width, height): (usize, usize),
    (x, y): (usize, usize),
    kernel: &[(isize, isize, f32)],
) -> f32 {
    let (mut sum, mut weights) = (0.0, 0.0);
    for &(dx, dy, weight) in kernel {
        let column = x.saturating_add_signed(dx).min(width - 1);
        let row = y.saturating_add_signed(dy).min(height - 1);
        sum += weight * f32::from(plane[row * width + column]);
        weights += weight;
    }
    sum / weights
}

/// Mean second difference, in both directions together, at each place of the whole tokens of a plane.
fn mean_differences(plane: &[u8], width: usize, period: usize) -> Option<Vec<f32>> {
    let height = plane.len() / width;
    let (columns, rows) = (width / period, height / period);
    if columns == 0 || rows == 0 {
        return None;
    }
    let at = |x: usize, y: usize| f32::from(plane[y * width + x]);
    let mut sums = vec![0.0; period * period];
    for y in 0..rows * period {
        let (above, below) = (y.saturating_sub(1), (y + 1).min(height - 1));
        for x in 0..columns * period {
            let (before, after) = (x.saturating_sub(1), (x + 1).min(width - 1));
            let difference = at(before, y) + at(after, y) + at(x, above) + at(x, below) - 4.0 * at(x, y);
            sums[y % period * period + x % period] += difference.abs().min(EDGE);
        }
    }
    let share = 1.0 / (columns * rows) as f32;
    sums.iter_mut().for_each(|sum| *sum *= share);
    Some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ramp with a little noise, 71x50, changed by `more`.
    fn frame(more: impl Fn(usize, usize) -> i32) -> Frame {
        let (width, height) = (71, 50);
        let luma = |at: usize| {
            let (x, y) = (at % width, at / width);
            (60 + x + y + (x * 7 + y * 13) % 3) as i32 + more(x, y)
        };
        Frame {
            width,
            height,
            planes: [
                (0..width * height).map(|at| luma(at) as u8).collect(),
                vec![128; 36 * 25],
                vec![128; 36 * 25],
            ],
            pts: None,
        }
    }

    fn filled(mut frame: Frame) -> Frame {
        filter_grid(std::slice::from_mut(&mut frame), 16);
        frame
    }

    fn largest_difference(a: &Frame, b: &Frame) -> u8 {
        let samples = a.planes[0].iter().zip(&b.planes[0]);
        samples.map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    #[test]
    fn dots_in_the_grid_of_the_tokens_go_and_others_stay() {
        let clean = frame(|_, _| 0);
        // Light in one token, dark in the next.
        let dot = |x: usize, y: usize| {
            i32::from(x % 16 == 9 && y % 16 == 5) * if (x / 16).is_multiple_of(2) { 30 } else { -30 }
        };
        let after = filled(frame(dot));
        assert!(largest_difference(&after, &clean) <= 4, "a dot is left");
        let alone = frame(|x, y| i32::from((x, y) == (41, 21)) * 60);
        assert_eq!(filled(alone.clone()), alone, "one dot is no grid");
        assert_eq!(filled(clean.clone()), clean);
    }

    #[test]
    fn lines_and_squares_that_come_again_with_every_token_stay() {
        let lines = frame(|x, _| i32::from(x % 16 == 3) * 40);
        assert_eq!(filled(lines.clone()), lines);
        let squares = frame(|x, y| ((x / 8 + y / 8) % 2 * 60) as i32);
        assert_eq!(filled(squares.clone()), squares);
    }

    #[test]
    fn all_pictures_of_a_unit_lose_the_artefacts_of_the_last() {
        let dot = |x: usize, y: usize| i32::from(x % 16 == 2 && y % 16 == 14) * 30;
        let mut frames = [frame(dot), frame(dot)];
        filter_grid(&mut frames, 16);
        assert_eq!(frames[0], frames[1]);
        let mut calm = [frame(dot), frame(|_, _| 0)];
        filter_grid(&mut calm, 16);
        assert_eq!(calm, [frame(dot), frame(|_, _| 0)]);
    }

    #[test]
    fn coarse_units_and_those_that_skip_them_have_artefacts() {
        let modes = [
            LatentMode::Coded(36),
            LatentMode::Skipped,
            LatentMode::Absent,
            LatentMode::Skipped,
            LatentMode::Coded(46),
        ];
        let mut before = false;
        let found = modes.map(|mode| {
            before = has_artefacts(Some(mode), before);
            before
        });
        assert_eq!(found, [false, false, true, true, true]);
        assert!(has_artefacts(None, false));
    }

    #[test]
    fn pictures_smaller_than_a_token_stay() {
        let mut frame = frame(|_, _| 0);
        frame.width = 10;
        frame.height = 8;
        frame.planes = [vec![9; 80], vec![9; 20], vec![9; 20]];
        assert_eq!(filled(frame.clone()), frame);
    }
}
