// SPDX-License-Identifier: MPL-2.0
//! How far each macroblock moves while a unit lasts: tracked from frame to frame at half the size, over twice as many frames each time.

use crate::bitstream::MACROBLOCK_SIDE;
use crate::codec::recon::Warp;
use crate::codec::Frame;
use crate::entropy::MotionVector;

const SIDE: usize = MACROBLOCK_SIDE as usize;
/// Samples of half the size that are searched around, from the picture before the unit to its first frame, and at every later one around where
/// the way goes on.
const FIRST_REACH: i32 = 4;
const REACH: i32 = 2;
/// What a sample of displacement must be better, in sums of absolute differences: of equal ones the nearest to the guess.
const DISTANCE_PRICE: u32 = 4;

/// Luma of a picture.
pub struct Plane<'a> {
    samples: std::borrow::Cow<'a, [u8]>,
    width: usize,
    height: usize,
}

impl<'a> Plane<'a> {
    pub fn of(frame: &'a Frame) -> Plane<'a> {
        Plane {
            samples: (&frame.planes[0][..]).into(),
            width: frame.width,
            height: frame.height,
        }
    }

    /// Means of 2x2 samples.
    fn halved(&self) -> Plane<'static> {
        let (width, height) = ((self.width / 2).max(1), (self.height / 2).max(1));
        let mut samples = Vec::with_capacity(width * height);
        for y in 0..height {
            let row = |y: usize| &self.samples[y.min(self.height - 1) * self.width..][..self.width];
            let pairs = row(2 * y).chunks(2).zip(row(2 * y + 1).chunks(2)).take(width);
            let sum = |pair: &[u8]| u16::from(pair[0]) + u16::from(pair[pair.len() - 1]);
            samples.extend(pairs.map(|(a, b)| ((sum(a) + sum(b) + 2) / 4) as u8));
        }
        Plane {
            samples: samples.into(),
            width,
            height,
        }
    }

    /// What a warp makes of it.
    pub fn warped(&self, warp: &Warp) -> Plane<'static> {
        Plane {
            samples: warp.of_plane(&self.samples, (self.width, self.height), 0).into(),
            width: self.width,
            height: self.height,
        }
    }

    /// Sum of absolute differences from a picture of the same size; every `stride`th row.
    pub fn total_difference(&self, other: &Plane, stride: usize) -> u64 {
        let rows = self
            .samples
            .chunks_exact(self.width)
            .zip(other.samples.chunks_exact(self.width));
        let differences = rows.step_by(stride).map(|(row, other)| sum_of_differences(row, other));
        differences.map(u64::from).sum()
    }

    /// Sum of absolute differences of a square from what is at a shift in another picture, whose edges are repeated; every `stride`th row.
    pub fn difference(
        &self,
        (left, top): (usize, usize),
        (side, stride): (usize, usize),
        other: &Plane,
        shift: MotionVector,
    ) -> u32 {
        let (width, height) = (side.min(self.width - left), side.min(self.height - top));
        let from = left as i32 + shift.0;
        let is_inside = from >= 0 && from as usize + width <= other.width;
        let rows = (top..top + height).step_by(stride);
        let difference = |y: usize| -> u32 {
            let row = &self.samples[y * self.width + left..][..width];
            let below = (y as i32 + shift.1).clamp(0, other.height as i32 - 1) as usize;
            let others = &other.samples[below * other.width..][..other.width];
            if is_inside {
                return sum_of_differences(row, &others[from as usize..][..width]);
            }
            let at = |x: usize| others[(from + x as i32).clamp(0, other.width as i32 - 1) as usize];
            row.iter().enumerate().map(|(x, a)| u32::from(a.abs_diff(at(x)))).sum()
        };
        rows.map(difference).sum()
    }
}

/// Of absolute differences of samples in pairs. Eight at a time, as macroblocks have them: without a loop for the rest that is several times
/// as fast.
fn sum_of_differences(a: &[u8], b: &[u8]) -> u32 {
    let (a, b) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let of = |(a, b): (&u8, &u8)| u32::from(a.abs_diff(*b));
    let eight = |(a, b): (&[u8; 8], &[u8; 8])| -> u32 { a.iter().zip(b).map(of).sum() };
    let whole: u32 = a.0.iter().zip(b.0).map(eight).sum();
    whole + a.1.iter().zip(b.1).map(of).sum::<u32>()
}

/// The picture before a unit and the unit's frames, at half the size.
pub struct Tracker {
    before: Plane<'static>,
    /// With how many frames after it each is.
    frames: Vec<(usize, Plane<'static>)>,
}

impl Tracker {
    pub fn new(before: &Plane, frames: &[Plane]) -> Tracker {
        let mut passed: Vec<usize> = (0..)
            .map(|power| 1 << power)
            .take_while(|at| *at < frames.len())
            .collect();
        passed.push(frames.len());
        Tracker {
            before: before.halved(),
            frames: passed.into_iter().map(|at| (at, frames[at - 1].halved())).collect(),
        }
    }

    /// How far a macroblock goes to the last frame, in even luma samples.
    pub fn shift(&self, (column, row): (usize, usize)) -> MotionVector {
        let corner = (column * SIDE / 2, row * SIDE / 2);
        if corner.0 >= self.before.width || corner.1 >= self.before.height {
            return (0, 0);
        }
        let (mut shift, mut passed, mut reach) = ((0, 0), 1, FIRST_REACH);
        for (at, frame) in &self.frames {
            let on = |way: i32| (way * *at as i32 + passed / 2).div_euclid(passed);
            shift = self.nearest(corner, frame, (on(shift.0), on(shift.1)), reach);
            (passed, reach) = (*at as i32, REACH);
        }
        (2 * shift.0, 2 * shift.1)
    }

    fn nearest(&self, corner: (usize, usize), frame: &Plane, guess: MotionVector, reach: i32) -> MotionVector {
        let around = (-reach..=reach).flat_map(|y| (-reach..=reach).map(move |x| (x, y)));
        let tried = around.map(|(x, y)| {
            let shift = (guess.0 + x, guess.1 + y);
            let price = DISTANCE_PRICE * (x.unsigned_abs() + y.unsigned_abs());
            (
                self.before.difference(corner, (SIDE / 2, 1), frame, shift) + price,
                shift,
            )
        });
        tried
            .min_by_key(|(difference, _)| *difference)
            .map_or(guess, |(_, shift)| shift)
    }
}
