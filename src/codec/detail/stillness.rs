// SPDX-License-Identifier: MPL-2.0
//! Which cells stand still, and what detail they lack, as an encoder finds it.

use super::super::Frame;
use super::canvas::{coefficients, dequantised, quantised, Canvas};
use super::cells::{gather, size_in_cells, squared_error};
use super::transform::{self, Block};
use super::{block_step, step_size};
use crate::entropy::{Cell, DetailMap, Levels, CELL_BLOCKS};

/// Samples of a cell, of all planes.
const SAMPLES: f32 = 64.0 * CELL_BLOCKS as f32;
/// Mean squared distance of frames from their mean, of samples from 0 to 255, up to which a cell stands still: the camera's noise.
const NOISE: f32 = 12.0;
/// The frame before the unit is not further from that mean than this many times the noise, and a little for rounding. Where something
/// drifts it is four times as far.
const DRIFT: f32 = 1.6;
const ROUNDING_NOISE: f32 = 1.0;
/// A cell that was never frozen is so where the networks' mean squared error is at least this share of the squared step: plain surfaces
/// would get edges at their blocks, ...
const LEAST_ERROR: f32 = 0.02;
/// ... and where freezing leaves at most this share of that error.
const WORTH: f32 = 0.85;
/// The same of cells that have been frozen.
const STILL_WORTH: f32 = 1.0;
/// How levels are rounded, those of low frequencies and the others: see [`quantised`].
const ROUNDING: [f32; 2] = [0.36, 0.30];
const LOW: usize = 6;

/// What an encoder remembers of its source and of the networks from unit to unit.
#[derive(Debug, Default)]
pub struct Watch {
    /// The last frame of the unit before.
    last: Option<Frame>,
    /// Mean squared error of each cell as the networks painted the last frames of the unit before.
    errors: Vec<f32>,
}

/// The cells of a unit.
#[derive(Debug)]
pub struct Stillness {
    width: usize,
    height: usize,
    /// Row by row; `None` where something moves.
    cells: Vec<Option<Still>>,
}

/// A cell that stands still.
#[derive(Debug)]
struct Still {
    /// What the frozen picture lacks: coefficients.
    missing: [Block; CELL_BLOCKS],
    /// What freezing leaves in any case, and what the networks leave: mean squared errors.
    noise: f32,
    painted: f32,
    /// Whether it has a frozen picture.
    is_known: bool,
    /// Whether it is on its way to something else.
    drifts: bool,
}

impl Watch {
    /// Looks at the frames of a unit; `canvas`: that of the decoder. `None` before the first unit.
    pub fn look(&self, frames: &[&Frame], canvas: &Canvas) -> Option<Stillness> {
        let (last, picture) = (self.last.as_ref()?, canvas.picture()?);
        let (width, height) = size_in_cells(picture.width, picture.height);
        let still = |at: usize| {
            let is_known = canvas.history.is_known(at);
            self.still((last, frames), picture, (at % width, at / width), is_known)
        };
        Some(Stillness {
            width,
            height,
            cells: (0..width * height).map(still).collect(),
        })
    }

    /// A cell of the frames after `last`, if it stands still.
    fn still(
        &self,
        (last, frames): (&Frame, &[&Frame]),
        picture: &Frame,
        cell: (usize, usize),
        is_known: bool,
    ) -> Option<Still> {
        // Two frames differ by twice the noise: most of what moves is found out at once.
        if squared_error(frames[0], frames[frames.len() - 1], cell) > 4.0 * NOISE {
            return None;
        }
        let (mean, noise) = mean_of(frames, cell);
        let drifts = distance(&gather(last, cell), &mean) > DRIFT * noise + ROUNDING_NOISE;
        if noise > NOISE || drifts && !is_known {
            return None;
        }
        let (width, _) = size_in_cells(picture.width, picture.height);
        let wanted = mean.map(|block| transform::forward(&block));
        let shown = coefficients(picture, cell);
        Some(Still {
            missing: std::array::from_fn(|block| std::array::from_fn(|i| wanted[block][i] - shown[block][i])),
            noise,
            painted: self.errors[cell.1 * width + cell.0],
            is_known,
            drifts,
        })
    }

    /// Notes the last frames of a unit: their source, and what the networks made of them.
    pub fn push(&mut self, painted: &[Frame], frames: &[&Frame]) {
        let Some(last) = frames.last() else { return };
        let (width, height) = size_in_cells(last.width, last.height);
        let error = |at: usize| {
            let cell = (at % width, at / width);
            let errors = painted.iter().zip(frames).map(|(a, b)| squared_error(a, b, cell));
            errors.sum::<f32>() / frames.len() as f32
        };
        self.errors = (0..width * height).map(error).collect();
        self.last = Some((*last).clone());
    }
}

/// The mean over frames of a cell, and their mean squared distance from it.
fn mean_of(frames: &[&Frame], cell: (usize, usize)) -> ([Block; CELL_BLOCKS], f32) {
    let gathered: Vec<_> = frames.iter().map(|frame| gather(frame, cell)).collect();
    let share = 1.0 / frames.len() as f32;
    let mean = std::array::from_fn(|block| {
        std::array::from_fn(|i| gathered.iter().map(|frame| frame[block][i]).sum::<f32>() * share)
    });
    let noise = gathered.iter().map(|frame| distance(frame, &mean)).sum::<f32>() * share;
    (mean, noise)
}

/// Mean squared difference.
fn distance(a: &[Block; CELL_BLOCKS], b: &[Block; CELL_BLOCKS]) -> f32 {
    let squares = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).powi(2));
    squares.sum::<f32>() / SAMPLES
}

impl Stillness {
    /// The detail of the unit with the step of an index; `None` sends no levels. `bits`: what they may take, about; where they
    /// are worth most per bit comes first.
    pub fn detail(&self, step: Option<usize>, bits: f32) -> DetailMap {
        let mut map = DetailMap {
            width: self.width,
            height: self.height,
            step: step.unwrap_or(0),
            cells: self
                .cells
                .iter()
                .map(|still| still.as_ref().map_or(Cell::Painted, Still::idle))
                .collect(),
        };
        let mut refinements: Vec<(usize, Refinement)> = self.refinements(step.filter(|_| bits > 0.0)).collect();
        refinements.sort_by(|(_, a), (_, b)| (b.gain / b.bits).total_cmp(&(a.gain / a.bits)));
        let mut left = bits;
        for (at, refinement) in refinements {
            left -= refinement.bits;
            if left < 0.0 {
                break;
            }
            map.cells[at] = Cell::Refined(refinement.levels);
        }
        match map.freezes() {
            true => map,
            false => DetailMap::none(self.width, self.height),
        }
    }

    fn refinements(&self, step: Option<usize>) -> impl Iterator<Item = (usize, Refinement)> + '_ {
        let still = self
            .cells
            .iter()
            .enumerate()
            .filter_map(|(at, still)| Some((at, still.as_ref()?)));
        still.filter_map(move |(at, still)| Some((at, still.refinement(step?)?)))
    }
}

/// What a cell may get.
struct Refinement {
    levels: Box<[Levels; CELL_BLOCKS]>,
    /// By how much the mean squared error falls.
    gain: f32,
    /// What the levels take, about.
    bits: f32,
}

impl Still {
    /// The cell without new levels.
    fn idle(&self) -> Cell {
        match self.is_known && self.frozen() <= STILL_WORTH * self.painted {
            true => Cell::Frozen,
            false => Cell::Painted,
        }
    }

    /// Mean squared error of the frozen picture as it is.
    fn frozen(&self) -> f32 {
        let energy: f32 = self.missing.iter().flatten().map(|v| v * v).sum();
        self.noise + energy / SAMPLES
    }

    /// Levels with the step of an index, where they are worth it.
    fn refinement(&self, step: usize) -> Option<Refinement> {
        let is_worth = self.is_known || self.painted >= LEAST_ERROR * step_size(step).powi(2);
        if self.drifts || !is_worth {
            return None;
        }
        let (levels, left) = self.refined(step);
        let bound = if self.is_known { STILL_WORTH } else { WORTH } * self.painted;
        let bits: f32 = levels.iter().map(bits_of).sum();
        if bits == 0.0 || self.noise + left > bound {
            return None;
        }
        let before = if self.is_known { self.frozen() } else { self.painted };
        Some(Refinement {
            levels: Box::new(levels),
            gain: before - self.noise - left,
            bits,
        })
    }

    /// Levels, and the mean squared error that they leave.
    fn refined(&self, step: usize) -> ([Levels; CELL_BLOCKS], f32) {
        let mut left = 0.0;
        let levels = std::array::from_fn(|block| {
            let size = block_step(step, block);
            let levels = quantised(&self.missing[block], size, |i| ROUNDING[usize::from(i >= LOW)]);
            let sent = dequantised(&levels, size);
            left += sent
                .iter()
                .zip(&self.missing[block])
                .map(|(a, b)| (a - b).powi(2))
                .sum::<f32>();
            levels
        });
        (levels, left / SAMPLES)
    }
}

/// What the levels of a block take, about: 0 without any.
fn bits_of(levels: &Levels) -> f32 {
    let nonzero = levels.iter().filter(|level| **level != 0);
    nonzero
        .map(|level| 5.5 + 1.5 * f32::from(level.unsigned_abs()).log2())
        .sum()
}
