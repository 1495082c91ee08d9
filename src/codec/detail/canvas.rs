// SPDX-License-Identifier: MPL-2.0

use super::super::Frame;
use super::cells::{gather, rows, scatter, side, size_in_cells};
use super::{block_step, transform};
use crate::entropy::{Cell, DetailHistory, DetailMap, Levels, CELL_BLOCKS, ZIGZAG};

/// What a whole sample weighs where frozen and painted ones meet.
const WHOLE: u16 = 64;
/// Over how many samples of a cell's side, from its edge, it gives way to a painted neighbour: one in this many.
const FEATHER: usize = 4;

/// The frozen pictures of a stream's cells: the same in encoder and decoder.
#[derive(Debug, Default)]
pub struct Canvas {
    pub history: DetailHistory,
    /// Where a cell has never been frozen, what was last shown.
    picture: Option<Frame>,
}

impl Canvas {
    /// The picture that a cell would show if it were frozen as it is; `None` before the first unit.
    pub fn picture(&self) -> Option<&Frame> {
        self.picture.as_ref()
    }

    /// Takes what the networks made of the next unit and puts the frozen cells into it. `detail`: `None` in a key unit.
    pub fn push(&mut self, detail: Option<&DetailMap>, frames: &mut [Frame]) {
        if let (Some(picture), Some(detail)) = (&mut self.picture, detail.filter(|detail| detail.freezes())) {
            refine(picture, detail);
            let shares = Shares::new(detail, picture);
            frames.iter_mut().for_each(|frame| shares.blend(picture, frame));
        }
        let cells = frames
            .first()
            .map_or((0, 0), |frame| size_in_cells(frame.width, frame.height));
        let none = DetailMap::none(cells.0, cells.1);
        self.history.push(detail.unwrap_or(&none));
        self.take_over(frames);
    }

    /// Takes a unit of which nothing is shown: what was never frozen keeps the picture that it had.
    pub fn skip(&mut self, detail: Option<&DetailMap>) {
        let Some(picture) = &mut self.picture else { return };
        if let Some(detail) = detail {
            refine(picture, detail);
        }
        let (width, height) = size_in_cells(picture.width, picture.height);
        self.history.push(detail.unwrap_or(&DetailMap::none(width, height)));
    }

    /// Shows what was shown last where nothing was frozen.
    fn take_over(&mut self, frames: &[Frame]) {
        let Some(last) = frames.last() else { return };
        let Some(picture) = &mut self.picture else {
            self.picture = Some(last.clone());
            return;
        };
        let (width, height) = size_in_cells(last.width, last.height);
        for cell in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
            if !self.history.is_known(cell.1 * width + cell.0) {
                copy(last, cell, picture);
            }
        }
    }
}

fn copy(from: &Frame, cell: (usize, usize), to: &mut Frame) {
    for plane in 0..3 {
        for part in rows(from, cell, plane) {
            to.planes[plane][part.clone()].copy_from_slice(&from.planes[plane][part]);
        }
    }
}

/// Adds a unit's levels to the frozen pictures.
fn refine(picture: &mut Frame, detail: &DetailMap) {
    for (at, cell) in detail.cells.iter().enumerate() {
        let Cell::Refined(levels) = cell else { continue };
        let place = (at % detail.width, at / detail.width);
        let mut blocks = gather(picture, place);
        for (number, block) in blocks.iter_mut().enumerate() {
            let added = transform::inverse(&dequantised(&levels[number], block_step(detail.step, number)));
            for (sample, added) in block.iter_mut().zip(added) {
                *sample = (*sample + added).clamp(0.0, 255.0);
            }
        }
        scatter(&blocks, place, picture);
    }
}

/// The coefficients of levels, row by row.
pub(super) fn dequantised(levels: &Levels, step: f32) -> transform::Block {
    let mut block = [0.0; 64];
    for (&level, &at) in levels.iter().zip(&ZIGZAG) {
        block[usize::from(at)] = f32::from(level) * step;
    }
    block
}

/// How much of each sample is frozen, luma and chroma.
struct Shares([Vec<u8>; 2]);

impl Shares {
    fn new(detail: &DetailMap, picture: &Frame) -> Shares {
        let plane = |plane: usize| {
            let (width, height) = Frame::plane_size(picture.width, picture.height, plane);
            let mut shares = vec![0; width * height];
            for at in (0..detail.cells.len()).filter(|&at| detail.cells[at].is_frozen()) {
                let (x, y) = (at % detail.width, at / detail.width);
                let near = |dx, dy| detail.near(at, (dx, dy)).is_none_or(Cell::is_frozen);
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

    fn blend(&self, frozen: &Frame, painted: &mut Frame) {
        for plane in 0..3 {
            let samples = painted.planes[plane].iter_mut().zip(&frozen.planes[plane]);
            for ((sample, frozen), &share) in samples.zip(&self.0[plane.min(1)]) {
                let share = u16::from(share);
                *sample =
                    ((u16::from(*sample) * (WHOLE - share) + u16::from(*frozen) * share + WHOLE / 2) / WHOLE) as u8;
            }
        }
    }
}

/// Shares along a side of a cell, of which the neighbour before and the one after are frozen or not.
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
pub(super) fn quantised(block: &transform::Block, step: f32, offset: impl Fn(usize) -> f32) -> Levels {
    let bound = crate::entropy::MAX_LEVEL as f32;
    std::array::from_fn(|i| {
        let value = block[usize::from(ZIGZAG[i])] / step;
        (value.signum() * (value.abs() + offset(i)).floor().min(bound)) as i16
    })
}

/// The coefficients of a cell's blocks.
pub(super) fn coefficients(frame: &Frame, cell: (usize, usize)) -> [transform::Block; CELL_BLOCKS] {
    gather(frame, cell).map(|block| transform::forward(&block))
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

    /// Of 3x2 cells.
    fn detail(frozen: impl Fn(usize) -> bool) -> DetailMap {
        let mut map = DetailMap::none(3, 2);
        for at in 0..6 {
            if frozen(at) {
                map.cells[at] = Cell::Frozen;
            }
        }
        map
    }

    #[test]
    fn frozen_cells_keep_their_picture_and_give_way_at_painted_neighbours() {
        let mut canvas = Canvas::default();
        canvas.push(None, &mut [plain(100)]);
        let mut frames = [plain(200), plain(210)];
        canvas.push(Some(&detail(|at| at % 3 == 0)), &mut frames);
        let luma = |x: usize, y: usize| frames[0].planes[0][y * 47 + x];
        assert_eq!((luma(0, 0), luma(0, 31), luma(11, 16)), (100, 100, 100));
        let edge: Vec<u8> = (12..17).map(|x| luma(x, 8)).collect();
        assert!(
            edge.is_sorted() && edge[0] > 100 && edge[3] < 200 && edge[4] == 200,
            "{edge:?}"
        );
        assert_eq!((frames[1].planes[1][0], frames[1].planes[1][8]), (100, 210));
        // Frozen pictures outlive units in which the cell is painted; others follow what is shown.
        canvas.push(Some(&detail(|_| false)), &mut [plain(50)]);
        let picture = canvas.picture().unwrap();
        assert_eq!((picture.planes[0][0], picture.planes[0][46]), (100, 50));
    }

    #[test]
    fn levels_add_to_the_frozen_picture() {
        let mut canvas = Canvas::default();
        canvas.push(None, &mut [plain(100)]);
        let mut map = detail(|_| true);
        let mut blocks = Box::new([[0; 64]; CELL_BLOCKS]);
        // Eight times the mean of the first block of luma.
        blocks[0][0] = 5;
        map.cells[0] = Cell::Refined(blocks);
        map.step = 6;
        let mut frames = [plain(0)];
        canvas.push(Some(&map), &mut frames);
        let luma = |x: usize, y: usize| frames[0].planes[0][y * 47 + x];
        assert_eq!((luma(0, 0), luma(7, 7), luma(8, 7), luma(7, 8)), (105, 105, 100, 100));
    }
}
