// SPDX-License-Identifier: MPL-2.0
//! The background reference. The networks paint every unit anew and never better than they can; a macroblock that stands still shows the
//! picture that it has here instead, and what that lacks is sent once.

use super::blocks::{gather, rows, scatter, side};
use super::dct;
use crate::bitstream::Window;
use crate::codec::geometry::size_in_macroblocks;
use crate::codec::Frame;
use crate::entropy::{Levels, Macroblock, ResidualContext, ResidualMap, LUMA_BLOCKS, MACROBLOCK_BLOCKS, ZIGZAG};

/// What a whole sample weighs where static and painted ones meet.
const WHOLE: u16 = 64;
/// Over how many samples of a macroblock's side, from its edge, it gives way to a painted neighbour: one in this many.
const FEATHER: usize = 4;

/// How much coarser chroma is quantised.
const CHROMA_COARSER: f32 = 1.3;

/// The step of an index, of coefficients of samples from 0 to 255: six to the octave.
pub fn step_size(index: usize) -> f32 {
    4.0 * (index as f32 / 6.0).exp2()
}

/// The step of a macroblock's block.
pub fn block_step(index: usize, block: usize) -> f32 {
    match block {
        0..LUMA_BLOCKS => step_size(index),
        _ => step_size(index) * CHROMA_COARSER,
    }
}

/// The static pictures of a stream's macroblocks: the same in encoder and decoder.
#[derive(Debug, Default)]
pub struct Background {
    /// Of the units since the key unit.
    history: ResidualContext,
    /// Where a macroblock has never been static, what was last shown.
    picture: Option<Frame>,
}

impl Background {
    /// The picture that a macroblock would show if it were static as it is; `None` before the first unit.
    pub fn picture(&self) -> Option<&Frame> {
        self.picture.as_ref()
    }

    /// Takes what the networks made of the next unit and puts the static macroblocks into it. `residual`: `None` in a key unit.
    pub fn push(&mut self, residual: Option<&ResidualMap>, frames: &mut [Frame]) {
        if let (Some(picture), Some(residual)) = (&mut self.picture, residual.filter(|residual| residual.has_static()))
        {
            refine(picture, residual);
            let shares = Shares::new(residual, picture);
            frames.iter_mut().for_each(|frame| shares.blend(picture, frame));
        }
        self.note(residual);
        self.take_over(frames);
    }

    /// Goes on in another window, `to`: what comes in repeats the edge, and is not static.
    pub fn look(&mut self, from: &Window, to: &Window) {
        self.history.look(to.view_of_macroblocks(from).as_ref());
        if let Some(picture) = &mut self.picture {
            *picture = picture.seen(from, to);
        }
    }

    /// Takes a unit of which nothing is shown: what was never static keeps the picture that it had.
    pub fn skip(&mut self, residual: Option<&ResidualMap>) {
        let Some(picture) = &mut self.picture else { return };
        if let Some(residual) = residual {
            refine(picture, residual);
        }
        self.note(residual);
    }

    /// Which macroblocks have a picture of their own from an earlier unit.
    pub fn history(&self) -> &ResidualContext {
        &self.history
    }

    fn note(&mut self, residual: Option<&ResidualMap>) {
        if let Some(residual) = residual {
            self.history.push(residual);
        }
    }

    /// Shows what was shown last where nothing was static.
    fn take_over(&mut self, frames: &[Frame]) {
        let Some(last) = frames.last() else { return };
        let Some(picture) = &mut self.picture else {
            self.picture = Some(last.clone());
            return;
        };
        let (width, height) = size_in_macroblocks(last.width, last.height);
        for macroblock in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
            if !self.history.is_known(macroblock.1 * width + macroblock.0) {
                copy(last, macroblock, picture);
            }
        }
    }
}

fn copy(from: &Frame, macroblock: (usize, usize), to: &mut Frame) {
    for plane in 0..3 {
        for part in rows(from, macroblock, plane) {
            to.planes[plane][part.clone()].copy_from_slice(&from.planes[plane][part]);
        }
    }
}

/// Adds a unit's levels to the static pictures.
fn refine(picture: &mut Frame, residual: &ResidualMap) {
    for (at, macroblock) in residual.macroblocks.iter().enumerate() {
        let Macroblock::Residual(levels) = macroblock else {
            continue;
        };
        let place = (at % residual.width, at / residual.width);
        let mut blocks = gather(picture, place);
        for (number, block) in blocks.iter_mut().enumerate() {
            let added = dct::inverse(&dequantised(&levels[number], block_step(residual.step, number)));
            for (sample, added) in block.iter_mut().zip(added) {
                *sample = (*sample + added).clamp(0.0, 255.0);
            }
        }
        scatter(&blocks, place, picture);
    }
}

/// The coefficients of levels, row by row.
pub fn dequantised(levels: &Levels, step: f32) -> dct::Block {
    let mut block = [0.0; 64];
    for (&level, &at) in levels.iter().zip(&ZIGZAG) {
        block[usize::from(at)] = f32::from(level) * step;
    }
    block
}

/// How much of each sample is static, luma and chroma.
struct Shares([Vec<u8>; 2]);

impl Shares {
    fn new(residual: &ResidualMap, picture: &Frame) -> Shares {
        let plane = |plane: usize| {
            let (width, height) = Frame::plane_size(picture.width, picture.height, plane);
            let mut shares = vec![0; width * height];
            for at in (0..residual.macroblocks.len()).filter(|&at| residual.macroblocks[at].is_static()) {
                let (x, y) = (at % residual.width, at / residual.width);
                let near = |dx, dy| residual.near(at, (dx, dy)).is_none_or(Macroblock::is_static);
                let across = ramp(side(plane), near(-1, 0), near(1, 0));
                let down = ramp(side(plane), near(0, -1), near(0, 1));
                for (row, down) in (y * down.len()..height).zip(&down) {
                    let from = row * width + x * across.len();
                    let to = (row + 1) * width;
                    for (share, across) in shares[from.min(to)..to].iter_mut().zip(&across) {
                        *share = (across * down / WHOLE) as u8;
                    }
                }
            }
            shares
        };
        Shares([plane(0), plane(1)])
    }

    fn blend(&self, background: &Frame, painted: &mut Frame) {
        for plane in 0..3 {
            let samples = painted.planes[plane].iter_mut().zip(&background.planes[plane]);
            for ((sample, background), &share) in samples.zip(&self.0[plane.min(1)]) {
                let share = u16::from(share);
                *sample =
                    ((u16::from(*sample) * (WHOLE - share) + u16::from(*background) * share + WHOLE / 2) / WHOLE) as u8;
            }
        }
    }
}

/// Shares along a side of a macroblock, of which the neighbour before and the one after are static or not.
fn ramp(side: usize, before: bool, after: bool) -> Vec<u16> {
    let width = side / FEATHER;
    let rising = |from_edge: usize| WHOLE.min((2 * from_edge + 1) as u16 * WHOLE / (2 * width) as u16);
    let share = |at: usize| {
        let left = if before { WHOLE } else { rising(at) };
        let right = if after { WHOLE } else { rising(side - 1 - at) };
        left.min(right)
    };
    (0..side).map(share).collect()
}

/// Levels of coefficients, row by row, that are nearest but for a little towards 0: `offset` is 0.5 for the nearest.
pub fn quantised(block: &dct::Block, step: f32, offset: impl Fn(usize) -> f32) -> Levels {
    let bound = crate::entropy::MAX_LEVEL as f32;
    std::array::from_fn(|i| {
        let value = block[usize::from(ZIGZAG[i])] / step;
        (value.signum() * (value.abs() + offset(i)).floor().min(bound)) as i16
    })
}

/// The coefficients of a macroblock's blocks.
pub fn coefficients(frame: &Frame, macroblock: (usize, usize)) -> [dct::Block; MACROBLOCK_BLOCKS] {
    gather(frame, macroblock).map(|block| dct::forward(&block))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(value: u8) -> Frame {
        let planes = [0, 1, 2].map(|plane| {
            let (width, height) = Frame::plane_size(47, 32, plane);
            vec![value; width * height]
        });
        Frame {
            width: 47,
            height: 32,
            planes,
            pts: None,
        }
    }

    /// Of 3x2 macroblocks.
    fn residual(is_static: impl Fn(usize) -> bool) -> ResidualMap {
        let mut map = ResidualMap::none(3, 2);
        for at in 0..6 {
            if is_static(at) {
                map.macroblocks[at] = Macroblock::Skip;
            }
        }
        map
    }

    #[test]
    fn static_macroblocks_keep_their_picture_and_give_way_at_painted_neighbours() {
        let mut background = Background::default();
        background.push(None, &mut [plain(100)]);
        let mut frames = [plain(200), plain(210)];
        background.push(Some(&residual(|at| at % 3 == 0)), &mut frames);
        let luma = |x: usize, y: usize| frames[0].planes[0][y * 47 + x];
        assert_eq!((luma(0, 0), luma(0, 31), luma(11, 16)), (100, 100, 100));
        let edge: Vec<u8> = (12..17).map(|x| luma(x, 8)).collect();
        assert!(
            edge.is_sorted() && edge[0] > 100 && edge[3] < 200 && edge[4] == 200,
            "{edge:?}"
        );
        assert_eq!((frames[1].planes[1][0], frames[1].planes[1][8]), (100, 210));
        // Static pictures outlive units in which the macroblock is painted; others follow what is shown.
        background.push(Some(&residual(|_| false)), &mut [plain(50)]);
        let picture = background.picture().unwrap();
        assert_eq!((picture.planes[0][0], picture.planes[0][46]), (100, 50));
    }

    #[test]
    fn levels_add_to_the_static_picture() {
        let mut background = Background::default();
        background.push(None, &mut [plain(100)]);
        let mut map = residual(|_| true);
        let mut blocks = Box::new([[0; 64]; MACROBLOCK_BLOCKS]);
        // Eight times the mean of the first block of luma.
        blocks[0][0] = 5;
        map.macroblocks[0] = Macroblock::Residual(blocks);
        map.step = 6;
        let mut frames = [plain(0)];
        background.push(Some(&map), &mut frames);
        let luma = |x: usize, y: usize| frames[0].planes[0][y * 47 + x];
        assert_eq!((luma(0, 0), luma(7, 7), luma(8, 7), luma(7, 8)), (105, 105, 100, 100));
    }
}
