// SPDX-License-Identifier: MPL-2.0
//! Pictures between the samples: frames are cut out of their window, and put into it, at quarters of a luma sample.

use std::collections::VecDeque;

use crate::bitstream::{Position, POSITIONS_PER_SAMPLE};
use crate::codec::Frame;

/// Samples that a value between them is taken from, in a row.
pub const TAPS: usize = 8;
/// Taps before the sample that a place is at or behind.
pub const BEFORE: usize = TAPS / 2 - 1;
/// Chroma planes have half the samples: eighths of one.
pub const PHASES: usize = 2 * POSITIONS_PER_SAMPLE as usize;
/// Weights are in shares of this. Sums of samples twice weighted stay below 2^24, so that they are exact in f32, which every machine
/// multiplies fast.
pub const ONE: f32 = 128.0;

/// What each of the samples around a place weighs: the windowed sinc of Lanczos (Duchon, "Lanczos Filtering in One and Two Dimensions",
/// 1979) with four lobes; their sum is 128. `phase`: eighths of a sample behind the fourth of them.
pub fn weights(phase: usize) -> [f32; TAPS] {
    if phase == 0 {
        return std::array::from_fn(|tap| if tap == BEFORE { ONE } else { 0.0 });
    }
    let sinc = |x: f64| (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x);
    let raw: [f64; TAPS] = std::array::from_fn(|tap| {
        let x = tap as f64 - BEFORE as f64 - phase as f64 / PHASES as f64;
        sinc(x) * sinc(x / (TAPS / 2) as f64)
    });
    let sum: f64 = raw.iter().sum();
    let mut weights = raw.map(|weight| (weight / sum * f64::from(ONE)).round() as f32);
    // What rounding has taken away goes to the larger of the two in the middle.
    let nearest = if phase < PHASES / 2 { BEFORE } else { BEFORE + 1 };
    weights[nearest] += ONE - weights.iter().sum::<f32>();
    weights
}

/// A part of a picture of `width` x `height` luma samples, its edges repeated. `offset`: of its upper left corner in the picture, in
/// quarters of a luma sample.
pub fn cut(picture: &Frame, offset: Position, (width, height): (usize, usize)) -> Frame {
    let plane = |number: usize| {
        let from = Frame::plane_size(picture.width, picture.height, number);
        let to = Frame::plane_size(width, height, number);
        // In eighths of a sample of the plane.
        let eighths = |quarters: i32| if number == 0 { 2 * quarters } else { quarters };
        cut_plane(
            &picture.planes[number],
            from,
            (eighths(offset.0), eighths(offset.1)),
            to,
        )
    };
    Frame {
        width,
        height,
        planes: [plane(0), plane(1), plane(2)],
        pts: picture.pts,
    }
}

fn cut_plane(plane: &[u8], from: (usize, usize), (x, y): (i32, i32), (width, height): (usize, usize)) -> Vec<u8> {
    let phases = PHASES as i32;
    let (left, across) = (x.div_euclid(phases), weights(x.rem_euclid(phases) as usize));
    let (top, down) = (y.div_euclid(phases), weights(y.rem_euclid(phases) as usize));
    let columns = clamped(left - BEFORE as i32, width + TAPS - 1, from.0);
    let rows = clamped(top - BEFORE as i32, height + TAPS - 1, from.1);
    let mut samples = vec![0.0; columns.len()];
    let mut filter_row = |row: usize| -> Vec<f32> {
        let row = &plane[row * from.0..][..from.0];
        for (sample, &column) in samples.iter_mut().zip(&columns) {
            *sample = row[column].into();
        }
        weighted(&across, |tap| &samples[tap..tap + width])
    };
    // Rows that are filtered along; each stays for as many rows of the part as it has a weight in.
    let mut filtered: VecDeque<Vec<f32>> = rows[..TAPS - 1].iter().map(|&row| filter_row(row)).collect();
    let mut cut = Vec::with_capacity(width * height);
    for &row in &rows[TAPS - 1..] {
        filtered.push_back(filter_row(row));
        let sums = weighted(&down, |tap| &filtered[tap]);
        // A cast limits to 0 to 255.
        cut.extend(sums.iter().map(|sum| (sum / (ONE * ONE) + 0.5) as u8));
        filtered.pop_front();
    }
    cut
}

/// Weighted sums of a row for each tap, times [`ONE`].
fn weighted<'a>(weights: &[f32; TAPS], row: impl Fn(usize) -> &'a [f32]) -> Vec<f32> {
    if weights[BEFORE] == ONE {
        return row(BEFORE).iter().map(|sample| sample * ONE).collect();
    }
    let mut sums = vec![0.0; row(0).len()];
    // Four taps at a time, so that sums are read and written twice only.
    for (half, weights) in weights.chunks_exact(4).enumerate() {
        let [a, b, c, d] = std::array::from_fn(|tap| row(4 * half + tap).iter());
        for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *sum += (a * weights[0] + b * weights[1]) + (c * weights[2] + d * weights[3]);
        }
    }
    sums
}

/// So many places from one on, within a size.
fn clamped(from: i32, count: usize, size: usize) -> Vec<usize> {
    let place = |at: usize| (from + at as i32).clamp(0, size as i32 - 1) as usize;
    (0..count).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A smooth pattern, sampled from a place on, in samples.
    fn pattern(width: usize, height: usize, (left, top): (f64, f64)) -> Frame {
        let plane = |number: usize| {
            let (w, h) = Frame::plane_size(width, height, number);
            let scale = if number == 0 { 1.0 } else { 2.0 };
            let sample = |at: usize| {
                let (x, y) = (left + scale * (at % w) as f64, top + scale * (at / w) as f64);
                (128.0 + 60.0 * (x / 5.0).sin() + 50.0 * (y / 7.0).cos()).round() as u8
            };
            (0..w * h).map(sample).collect()
        };
        Frame {
            width,
            height,
            planes: [plane(0), plane(1), plane(2)],
            pts: Some(7),
        }
    }

    #[test]
    fn what_is_cut_out_is_what_is_there() {
        let picture = pattern(96, 80, (0.0, 0.0));
        for (x, y) in [(64, 32), (65, 32), (66, 35), (67, 33), (40, 61)] {
            let found = cut(&picture, (x, y), (48, 32));
            let expected = pattern(48, 32, (f64::from(x) / 4.0, f64::from(y) / 4.0));
            assert_eq!(found.pts, Some(7));
            let pairs = found.planes.iter().flatten().zip(expected.planes.iter().flatten());
            for (a, b) in pairs {
                assert!(a.abs_diff(*b) <= 2, "{a} for {b} at {x}, {y}");
            }
        }
    }

    #[test]
    fn whole_samples_are_the_samples_themselves() {
        let picture = pattern(50, 40, (0.0, 0.0));
        assert_eq!(cut(&picture, (0, 0), (50, 40)), picture);
        assert_eq!(cut(&picture, (32, 16), (24, 24)), pattern(24, 24, (8.0, 4.0)));
    }

    #[test]
    fn a_plain_picture_stays_plain_and_edges_are_repeated() {
        let picture = Frame::grey(32, 32);
        assert_eq!(cut(&picture, (-37, 501), (32, 32)).planes, picture.planes);
    }

    #[test]
    fn weights_add_up_to_one() {
        for phase in 0..PHASES {
            assert_eq!(weights(phase).iter().sum::<f32>(), ONE);
            let mirrored: Vec<f32> = weights((PHASES - phase) % PHASES).into_iter().rev().collect();
            assert!(phase == 0 || mirrored == weights(phase), "phase {phase}");
        }
    }
}
