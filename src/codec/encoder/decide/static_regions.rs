// SPDX-License-Identifier: MPL-2.0
//! Which macroblocks stand still, and what residual they lack, as an encoder finds it.

use crate::bitstream::Window;
use crate::codec::geometry::size_in_macroblocks;
use crate::codec::recon::{
    block_step, coefficients, dequantised, forward, gather, quantised, squared_error, step_size, Background, Block,
};
use crate::codec::Frame;
use crate::entropy::{Levels, Macroblock, ResidualMap, MACROBLOCK_BLOCKS};

/// Samples of a macroblock, of all planes.
const SAMPLES: f32 = 64.0 * MACROBLOCK_BLOCKS as f32;
/// Mean squared distance of frames from their mean, of samples from 0 to 255, up to which a macroblock stands still: the camera's noise.
const NOISE: f32 = 12.0;
/// The frame before the unit is not further from that mean than this many times the noise, and a little for rounding. Where something
/// drifts it is four times as far.
const DRIFT: f32 = 1.6;
const ROUNDING_NOISE: f32 = 1.0;
/// A macroblock becomes static for the first time only where the networks' mean squared error is at least this share of the squared step: plain surfaces
/// would get edges at their blocks, ...
const LEAST_ERROR: f32 = 0.02;
/// ... and where keeping it static leaves at most this share of that error.
const WORTH: f32 = 0.85;
/// The same of macroblocks that have been static.
const STILL_WORTH: f32 = 1.0;
/// How levels are rounded, those of low frequencies and the others: see [`quantised`].
const ROUNDING: [f32; 2] = [0.36, 0.30];
const LOW: usize = 6;

/// What an encoder remembers of its source and of the networks from unit to unit.
#[derive(Debug, Default)]
pub struct StaticRegionDetector {
    /// The last frame of the unit before, and its window.
    last: Option<(Frame, Window)>,
    /// Mean squared error of each macroblock as the networks painted the last frames of the unit before.
    errors: Vec<f32>,
}

/// The macroblocks of a unit.
#[derive(Debug)]
pub struct StaticRegions {
    width: usize,
    height: usize,
    /// Row by row; `None` where something moves.
    macroblocks: Vec<Option<StaticMacroblock>>,
}

/// A macroblock that stands still.
#[derive(Debug)]
struct StaticMacroblock {
    /// What the static picture lacks: coefficients.
    missing: [Block; MACROBLOCK_BLOCKS],
    /// What static macroblocks leave in any case, and what the networks leave: mean squared errors.
    noise: f32,
    painted: f32,
    /// Whether it has a static picture.
    is_known: bool,
    /// Whether it is on its way to something else.
    drifts: bool,
}

impl StaticRegionDetector {
    /// Looks at the frames of a unit in a window; `background`: that of the decoder. `None` before the first unit.
    pub fn look(&mut self, frames: &[&Frame], window: Window, background: &Background) -> Option<StaticRegions> {
        self.move_to(window);
        let picture = background.picture()?;
        let (last, _) = self.last.as_ref()?;
        let (width, height) = size_in_macroblocks(picture.width, picture.height);
        let still = |at: usize| {
            let is_known = background.history().is_known(at);
            self.still((last, frames), picture, (at % width, at / width), is_known)
        };
        Some(StaticRegions {
            width,
            height,
            macroblocks: (0..width * height).map(still).collect(),
        })
    }

    /// A macroblock of the frames after `last`, if it stands still.
    fn still(
        &self,
        (last, frames): (&Frame, &[&Frame]),
        picture: &Frame,
        macroblock: (usize, usize),
        is_known: bool,
    ) -> Option<StaticMacroblock> {
        // Two frames differ by twice the noise: most of what moves is found out at once.
        if squared_error(frames[0], frames[frames.len() - 1], macroblock) > 4.0 * NOISE {
            return None;
        }
        let (mean, noise) = mean_of(frames, macroblock);
        let drifts = distance(&gather(last, macroblock), &mean) > DRIFT * noise + ROUNDING_NOISE;
        if noise > NOISE || drifts && !is_known {
            return None;
        }
        let (width, _) = size_in_macroblocks(picture.width, picture.height);
        let wanted = mean.map(|block| forward(&block));
        let shown = coefficients(picture, macroblock);
        Some(StaticMacroblock {
            missing: std::array::from_fn(|block| std::array::from_fn(|i| wanted[block][i] - shown[block][i])),
            noise,
            painted: self.errors[macroblock.1 * width + macroblock.0],
            is_known,
            drifts,
        })
    }

    /// Notes the last frames of a unit: their source, and what the networks made of them.
    pub fn push(&mut self, painted: &[Frame], frames: &[&Frame], window: Window) {
        let Some(last) = frames.last() else { return };
        let (width, height) = size_in_macroblocks(last.width, last.height);
        let error = |at: usize| {
            let macroblock = (at % width, at / width);
            let errors = painted.iter().zip(frames).map(|(a, b)| squared_error(a, b, macroblock));
            errors.sum::<f32>() / frames.len() as f32
        };
        self.errors = (0..width * height).map(error).collect();
        self.last = Some(((*last).clone(), window));
    }

    /// Goes on in another window. Of what comes in nothing is known, and it does not become static at once.
    fn move_to(&mut self, window: Window) {
        let Some((last, from)) = self.last.as_mut().filter(|(_, from)| *from != window) else {
            return;
        };
        let (width, height) = window.macroblocks();
        self.errors = match window.view_of_macroblocks(from) {
            Some(view) => view.within(&self.errors, 1, 0.0),
            None => vec![0.0; width * height],
        };
        *last = last.seen(from, &window);
        *from = window;
    }
}

/// The mean over frames of a macroblock, and their mean squared distance from it.
fn mean_of(frames: &[&Frame], macroblock: (usize, usize)) -> ([Block; MACROBLOCK_BLOCKS], f32) {
    let gathered: Vec<_> = frames.iter().map(|frame| gather(frame, macroblock)).collect();
    let share = 1.0 / frames.len() as f32;
    let mean = std::array::from_fn(|block| {
        std::array::from_fn(|i| gathered.iter().map(|frame| frame[block][i]).sum::<f32>() * share)
    });
    let noise = gathered.iter().map(|frame| distance(frame, &mean)).sum::<f32>() * share;
    (mean, noise)
}

/// Mean squared difference.
fn distance(a: &[Block; MACROBLOCK_BLOCKS], b: &[Block; MACROBLOCK_BLOCKS]) -> f32 {
    let squares = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).powi(2));
    squares.sum::<f32>() / SAMPLES
}

impl StaticRegions {
    /// The residual of the unit with the step of an index; `None` sends no levels. `bits`: what they may take, about; where they
    /// are worth most per bit comes first.
    pub fn residual(&self, step: Option<usize>, bits: f32) -> ResidualMap {
        let mut map = ResidualMap {
            width: self.width,
            height: self.height,
            step: step.unwrap_or(0),
            macroblocks: self
                .macroblocks
                .iter()
                .map(|still| still.as_ref().map_or(Macroblock::Neural, StaticMacroblock::idle))
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
            map.macroblocks[at] = Macroblock::Residual(refinement.levels);
        }
        match map.has_static() {
            true => map,
            false => ResidualMap::none(self.width, self.height),
        }
    }

    fn refinements(&self, step: Option<usize>) -> impl Iterator<Item = (usize, Refinement)> + '_ {
        let still = self
            .macroblocks
            .iter()
            .enumerate()
            .filter_map(|(at, still)| Some((at, still.as_ref()?)));
        still.filter_map(move |(at, still)| Some((at, still.refinement(step?)?)))
    }
}

/// What a macroblock may get.
struct Refinement {
    levels: Box<[Levels; MACROBLOCK_BLOCKS]>,
    /// By how much the mean squared error falls.
    gain: f32,
    /// What the levels take, about.
    bits: f32,
}

impl StaticMacroblock {
    /// The macroblock without new levels.
    fn idle(&self) -> Macroblock {
        match self.is_known && self.static_error() <= STILL_WORTH * self.painted {
            true => Macroblock::Skip,
            false => Macroblock::Neural,
        }
    }

    /// Mean squared error of the static picture as it is.
    fn static_error(&self) -> f32 {
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
        let before = if self.is_known {
            self.static_error()
        } else {
            self.painted
        };
        Some(Refinement {
            levels: Box::new(levels),
            gain: before - self.noise - left,
            bits,
        })
    }

    /// Levels, and the mean squared error that they leave.
    fn refined(&self, step: usize) -> ([Levels; MACROBLOCK_BLOCKS], f32) {
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
