// SPDX-License-Identifier: MPL-2.0
//! Pictures in which what moves by itself is put where it was before the unit, and back.

use crate::bitstream::{Displacement, MotionField, PARTS};
use crate::codec::halves::in_halves;
use crate::codec::Frame;

/// Luma samples between the places for which it is known where they are taken from.
const PITCH: usize = 8;
/// Samples that a value between them is taken from, along each axis.
const TAPS: usize = 4;
/// Weights are in shares of this.
const ONE: i32 = 128;

/// Where the samples of a picture are taken from.
pub struct Warp {
    /// Luma samples along a row.
    width: usize,
    /// Of the places with a pitch of 8 luma samples, from the upper left corner on.
    columns: usize,
    /// From each to where it is taken from.
    offsets: Vec<Displacement>,
}

impl Warp {
    /// The last pictures of a unit of so many frames, in turn, each by the warp for its size and its part of the unit.
    pub fn each(
        pictures: &[&Frame],
        of: usize,
        warp: impl Fn((usize, usize), (usize, usize)) -> Warp + Sync,
    ) -> Vec<Frame> {
        let first = of.saturating_sub(pictures.len());
        let numbered: Vec<(usize, &Frame)> = (first + 1..).zip(pictures.iter().copied()).collect();
        let warped =
            |(passed, picture): &(usize, &Frame)| warp((picture.width, picture.height), (*passed, of)).of(picture);
        in_halves(&numbered, |pictures| pictures.iter().map(warped).collect())
    }

    /// Takes what moves in a picture of a size back to where it was before the unit; `part`: frames since then, and of a whole unit.
    pub fn stilled(field: &MotionField, size: (usize, usize), part: (usize, usize)) -> Warp {
        Warp::new(size, |place| field.displacement(place, part))
    }

    /// The other way.
    pub fn moved(field: &MotionField, size: (usize, usize), part: (usize, usize)) -> Warp {
        Warp::new(size, |place| field.origin(place, part))
    }

    fn new((width, height): (usize, usize), offset: impl Fn((i32, i32)) -> Displacement) -> Warp {
        let (columns, rows) = (width.div_ceil(PITCH) + 1, height.div_ceil(PITCH) + 1);
        let place = |at: usize| (at * PITCH) as i32 * PARTS;
        let offsets = (0..columns * rows).map(|at| offset((place(at % columns), place(at / columns))));
        Warp {
            width,
            columns,
            offsets: offsets.collect(),
        }
    }

    /// A picture of that size.
    pub fn of(&self, picture: &Frame) -> Frame {
        let plane = |number: usize| {
            let size = Frame::plane_size(picture.width, picture.height, number);
            self.of_plane(&picture.planes[number], size, number)
        };
        Frame {
            planes: [plane(0), plane(1), plane(2)],
            ..*picture
        }
    }

    /// A plane of such a picture, with its size; 0: luma.
    pub fn of_plane(&self, samples: &[u8], size: (usize, usize), number: usize) -> Vec<u8> {
        let mut warped = samples.to_vec();
        // Samples between two places.
        let pitch = PITCH >> usize::from(number > 0);
        let source = Plane { samples, size };
        let blocks = self.width.div_ceil(PITCH);
        let rows = self.offsets.len() / self.columns - 1;
        for block in 0..blocks * rows {
            let (column, row) = (block % blocks, block / blocks);
            let corner = row * self.columns + column;
            let corners = [corner, corner + 1, corner + self.columns, corner + self.columns + 1];
            let corners = corners.map(|at| self.offsets[at]);
            if corners != [(0, 0); 4] {
                source.warp_block((column * pitch, row * pitch), pitch, corners, &mut warped);
            }
        }
        warped
    }
}

struct Plane<'a> {
    samples: &'a [u8],
    size: (usize, usize),
}

impl Plane<'_> {
    /// A square with its upper left corner at a place; `corners`: offsets in parts of a luma sample.
    fn warp_block(&self, (left, top): (usize, usize), pitch: usize, corners: [Displacement; 4], samples: &mut [u8]) {
        let (width, height) = self.size;
        let pitch_ = pitch as i32;
        // Sums are offsets in parts of a sample of the plane, times a power of two.
        let whole = pitch_ * PITCH as i32;
        let shift = whole.trailing_zeros();
        for y in 0..pitch.min(height.saturating_sub(top)) {
            let down = y as i32;
            let at_row = |a: i32, c: i32| a * (pitch_ - down) + c * down;
            let [a, b, c, d] = corners;
            let (from, to) = (
                (at_row(a.0, c.0), at_row(a.1, c.1)),
                (at_row(b.0, d.0), at_row(b.1, d.1)),
            );
            for x in 0..pitch.min(width.saturating_sub(left)) {
                let across = x as i32;
                let mixed = |from: i32, to: i32| {
                    let sum = from * (pitch_ - across) + to * across;
                    (sum + whole / 2) >> shift
                };
                let column = (left + x) as i32 * PARTS + mixed(from.0, to.0);
                let row = (top + y) as i32 * PARTS + mixed(from.1, to.1);
                samples[(top + y) * width + left + x] = self.between(column, row);
            }
        }
    }

    /// A value between the samples, places in parts of one.
    fn between(&self, x: i32, y: i32) -> u8 {
        let (width, height) = self.size;
        let (column, row) = (x.div_euclid(PARTS) - 1, y.div_euclid(PARTS) - 1);
        let across = &WEIGHTS[x.rem_euclid(PARTS) as usize];
        let down = &WEIGHTS[y.rem_euclid(PARTS) as usize];
        let is_inside = |at: i32, size: usize| at >= 0 && at as usize + TAPS <= size;
        let rows: [[u8; TAPS]; TAPS] = if is_inside(column, width) && is_inside(row, height) {
            let corner = row as usize * width + column as usize;
            std::array::from_fn(|tap| {
                let samples = &self.samples[corner + tap * width..][..TAPS];
                std::array::from_fn(|beside| samples[beside])
            })
        } else {
            let at = |from: i32, tap: usize, size: usize| (from + tap as i32).clamp(0, size as i32 - 1) as usize;
            let sample = |tap, beside| self.samples[at(row, tap, height) * width + at(column, beside, width)];
            std::array::from_fn(|tap| std::array::from_fn(|beside| sample(tap, beside)))
        };
        // Downwards first: the four columns of a row are one vector.
        let mut columns = [0; TAPS];
        for (samples, weight) in rows.iter().zip(down) {
            for (sum, sample) in columns.iter_mut().zip(samples) {
                *sum += i32::from(*sample) * weight;
            }
        }
        let sum: i32 = columns.iter().zip(across).map(|(sum, weight)| sum * weight).sum();
        ((sum + ONE * ONE / 2) / (ONE * ONE)).clamp(0, 255) as u8
    }
}

/// What each of the samples around a place weighs, for each part of a sample behind the second: cubic convolution (Keys, "Cubic Convolution
/// Interpolation for Digital Image Processing", 1981).
static WEIGHTS: [[i32; TAPS]; PARTS as usize] = weights();

const fn weights() -> [[i32; TAPS]; PARTS as usize] {
    let mut weights = [[0; TAPS]; PARTS as usize];
    let mut part = 0;
    while part < PARTS {
        // Polynomials of the phase, in halves of 1 / 16^3.
        let (t, one) = (part, PARTS);
        let (t2, t3) = (t * t * one, t * t * t);
        let t1 = t * one * one;
        let cubic = [
            -t3 + 2 * t2 - t1,
            3 * t3 - 5 * t2 + 2 * one * one * one,
            -3 * t3 + 4 * t2 + t1,
            t3 - t2,
        ];
        let whole = 2 * one * one * one;
        let mut tap = 0;
        let mut sum = 0;
        while tap < TAPS {
            weights[part as usize][tap] = (2 * cubic[tap] * ONE + whole).div_euclid(2 * whole);
            sum += weights[part as usize][tap];
            tap += 1;
        }
        weights[part as usize][if 2 * part < PARTS { 1 } else { 2 }] += ONE - sum;
        part += 1;
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture whose samples are all different from those beside them.
    fn picture() -> Frame {
        let plane = |number: usize| {
            let (width, height) = Frame::plane_size(48, 32, number);
            (0..width * height)
                .map(|at| (at % width * 5 + at / width * 3 + number) as u8 % 251)
                .collect()
        };
        Frame {
            planes: [plane(0), plane(1), plane(2)],
            ..Frame::grey(48, 32)
        }
    }

    fn shifted(by: Displacement) -> Frame {
        Warp::new((48, 32), |_| by).of(&picture())
    }

    #[test]
    fn weights_add_up_to_one_and_mirror_each_other() {
        for (part, weights) in WEIGHTS.iter().enumerate() {
            assert_eq!(weights.iter().sum::<i32>(), ONE, "part {part}");
            let mirrored: Vec<i32> = WEIGHTS[(16 - part) % 16].iter().rev().copied().collect();
            assert!(part % 8 == 0 || mirrored == weights, "part {part}");
        }
    }

    #[test]
    fn whole_samples_are_the_samples_themselves_and_chroma_moves_half_as_far() {
        let (before, after) = (picture(), shifted((4 * PARTS, -2 * PARTS)));
        assert_eq!(after.planes[0][10 * 48 + 20], before.planes[0][8 * 48 + 24]);
        assert_eq!(after.planes[1][10 * 24 + 10], before.planes[1][9 * 24 + 12]);
        assert_eq!(shifted((0, 0)), before);
    }

    #[test]
    fn edges_are_repeated() {
        let (before, after) = (picture(), shifted((100 * PARTS, 0)));
        let last = |row: usize| before.planes[0][row * 48 + 47];
        assert!((0..32).all(|row| after.planes[0][row * 48..][..48]
            .iter()
            .all(|sample| *sample == last(row))));
    }

    #[test]
    fn a_half_lies_between() {
        let after = shifted((PARTS / 2, 0));
        // Columns are five apart.
        assert_eq!(after.planes[0][10 * 48 + 20], picture().planes[0][10 * 48 + 20] + 3);
    }
}
