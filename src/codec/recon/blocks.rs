// SPDX-License-Identifier: MPL-2.0
//! The samples of macroblocks: 16x16 of luma and 8x8 of either chroma, from the upper left corner of the shown picture, whatever the size in
//! which it is coded.

use std::ops::Range;

use super::dct::Block;
use crate::codec::geometry::MACROBLOCK_SIDE as SIDE;
use crate::codec::Frame;
use crate::entropy::{LUMA_BLOCKS, MACROBLOCK_BLOCKS};

/// Side of a block in samples of its plane.
const BLOCK: usize = 8;

/// Side of a macroblock in samples of a plane.
pub fn side(plane: usize) -> usize {
    match plane {
        0 => SIDE,
        _ => SIDE / 2,
    }
}

/// The plane of a macroblock's block, and its column and row there.
pub fn origin((x, y): (usize, usize), block: usize) -> (usize, usize, usize) {
    match block {
        0..LUMA_BLOCKS => (0, x * SIDE + block % 2 * BLOCK, y * SIDE + block / 2 * BLOCK),
        _ => (block + 1 - LUMA_BLOCKS, x * BLOCK, y * BLOCK),
    }
}

/// The samples of a macroblock's blocks; beyond the picture its edge is repeated.
pub fn gather(frame: &Frame, macroblock: (usize, usize)) -> [Block; MACROBLOCK_BLOCKS] {
    std::array::from_fn(|block| {
        let (plane, left, top) = origin(macroblock, block);
        let (width, height) = Frame::plane_size(frame.width, frame.height, plane);
        let samples = &frame.planes[plane];
        if left + BLOCK <= width && top + BLOCK <= height {
            let mut block = [0.0; BLOCK * BLOCK];
            for (row, values) in samples[top * width + left..].chunks(width).zip(block.chunks_mut(BLOCK)) {
                values
                    .iter_mut()
                    .zip(row)
                    .for_each(|(value, &sample)| *value = sample.into());
            }
            return block;
        }
        std::array::from_fn(|i| {
            let (x, y) = ((left + i % BLOCK).min(width - 1), (top + i / BLOCK).min(height - 1));
            f32::from(samples[y * width + x])
        })
    })
}

/// Where a macroblock's samples are in a plane of a frame, row by row.
pub fn rows(frame: &Frame, (x, y): (usize, usize), plane: usize) -> impl Iterator<Item = Range<usize>> {
    let (width, height) = Frame::plane_size(frame.width, frame.height, plane);
    let side = side(plane);
    let columns = x * side..((x + 1) * side).min(width);
    (y * side..((y + 1) * side).min(height)).map(move |row| row * width + columns.start..row * width + columns.end)
}

/// Mean squared difference of a macroblock's samples in two frames of equal size.
pub fn squared_error(a: &Frame, b: &Frame, macroblock: (usize, usize)) -> f32 {
    let (mut sum, mut count) = (0u32, 0);
    for plane in 0..3 {
        for part in rows(a, macroblock, plane) {
            count += part.len();
            let pairs = a.planes[plane][part.clone()].iter().zip(&b.planes[plane][part]);
            sum += pairs.map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2)).sum::<u32>();
        }
    }
    sum as f32 / count as f32
}

/// Puts samples where [`gather`] took them from.
pub fn scatter(blocks: &[Block; MACROBLOCK_BLOCKS], macroblock: (usize, usize), frame: &mut Frame) {
    for (block, values) in blocks.iter().enumerate() {
        let (plane, left, top) = origin(macroblock, block);
        let (width, height) = Frame::plane_size(frame.width, frame.height, plane);
        let samples = &mut frame.planes[plane];
        for y in top..(top + BLOCK).min(height) {
            for x in left..(left + BLOCK).min(width) {
                samples[y * width + x] = (values[(y - top) * BLOCK + x - left] + 0.5) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::geometry::size_in_macroblocks;

    #[test]
    fn macroblocks_of_any_picture_come_back() {
        for (width, height) in [(16, 16), (33, 25), (17, 48)] {
            let plane = |number: usize| {
                let (w, h) = Frame::plane_size(width, height, number);
                (0..w * h).map(|i| (i * 7 + number * 50) as u8).collect()
            };
            let frame = Frame {
                width,
                height,
                planes: [plane(0), plane(1), plane(2)],
                pts: None,
            };
            let mut copy = Frame {
                planes: frame.planes.clone().map(|plane| vec![0; plane.len()]),
                ..frame.clone()
            };
            let (w, h) = size_in_macroblocks(width, height);
            for macroblock in (0..h).flat_map(|y| (0..w).map(move |x| (x, y))) {
                scatter(&gather(&frame, macroblock), macroblock, &mut copy);
            }
            assert_eq!(copy, frame);
        }
    }
}
