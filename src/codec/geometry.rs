// SPDX-License-Identifier: MPL-2.0
//! Sizes of pictures in tokens and macroblocks, and the tiles, rows of tokens with a halo, in which large pictures go through the networks, so
//! that memory does not grow with the whole picture.

use std::ops::Range;

use tch::{TchError, Tensor};

use crate::bitstream::{Grid, SequenceHeader, MAX_WINDOW_TOKENS};
use crate::model::Model;

/// From a position to those above, left, right and below.
pub const NEIGHBOURS: [(isize, isize); 4] = [(0, -1), (-1, 0), (1, 0), (0, 1)];

/// Tokens that the networks take at once, about.
const MAX_TOKENS: usize = MAX_WINDOW_TOKENS;

/// Rows of tokens beyond a tile that its networks see: further than the kernels of `tvc-small` reach.
const HALO: usize = 8;

/// Side of a macroblock in luma samples.
pub const MACROBLOCK_SIDE: usize = crate::bitstream::MACROBLOCK_SIDE as usize;

/// What windows of a stream are measured in. They move where the networks' memory can be moved with them: not that of Cosmos, which attends to
/// whole pictures, and not tiles.
pub fn grid(model: &Model, sequence: &SequenceHeader) -> Grid {
    let token = model.tokenizer.config.spatial_factor() as u32;
    let may_move = !model.tokenizer.config.is_cosmos() && Tile::cover(model, sequence).len() == 1;
    Grid::new(sequence, token, model.group_frames(), may_move)
}

/// Width and height of a stream's coded pictures in tokens.
pub fn in_tokens(model: &Model, sequence: &SequenceHeader) -> (usize, usize) {
    let factor = model.tokenizer.config.spatial_factor() as usize;
    let count = |size: u32| (size as usize).div_ceil(factor);
    let (width, height) = sequence.coded_size();
    (count(width), count(height))
}

/// Width and height of pictures in macroblocks, which are in luma samples.
pub fn size_in_macroblocks(width: usize, height: usize) -> (usize, usize) {
    (width.div_ceil(MACROBLOCK_SIDE), height.div_ceil(MACROBLOCK_SIDE))
}

/// Some rows of a picture, counted in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// The rows that count.
    pub rows: Range<usize>,
    /// Those, and what the networks must see around them.
    pub seen: Range<usize>,
}

impl Tile {
    /// The tiles of a stream's pictures. Cosmos attends to whole pictures: there is one.
    pub fn cover(model: &Model, sequence: &SequenceHeader) -> Vec<Tile> {
        let (width, height) = in_tokens(model, sequence);
        match model.tokenizer.config.is_cosmos() {
            true => Tile::cut(height, height),
            false => Tile::cut(height, MAX_TOKENS / width),
        }
    }

    /// All rows of a picture.
    pub fn whole(height: usize) -> Tile {
        Tile {
            rows: 0..height,
            seen: 0..height,
        }
    }

    /// Tiles of which at most `rows` rows are seen, or as few as make sense.
    fn cut(height: usize, rows: usize) -> Vec<Tile> {
        if height <= rows {
            return vec![Tile::whole(height)];
        }
        let step = rows.saturating_sub(2 * HALO).max(HALO);
        let tile = |from: usize| {
            let to = (from + step).min(height);
            Tile {
                rows: from..to,
                seen: from.saturating_sub(HALO)..(to + HALO).min(height),
            }
        };
        (0..height).step_by(step).map(tile).collect()
    }

    /// What the networks see of `xs`, whose dimension `dim` is the rows of tokens of a picture.
    pub fn view(&self, xs: &Tensor, dim: i64) -> Result<Tensor, TchError> {
        xs.f_narrow(dim, self.seen.start as i64, self.seen.len() as i64)
    }

    /// What counts of `xs`, whose dimension `dim` is what was seen, `scale` rows to a token.
    pub fn crop(&self, xs: &Tensor, dim: i64, scale: i64) -> Result<Tensor, TchError> {
        let start = (self.rows.start - self.seen.start) as i64;
        xs.f_narrow(dim, start * scale, self.rows.len() as i64 * scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::Window;
    use crate::codec::encoder::{Analysis, AnalysisState};
    use crate::codec::recon::{CompleteUnit, Painting, Synthesis};
    use crate::codec::Frame;
    use crate::model::TimeSteps;
    use tch::{Device, Kind};

    #[test]
    fn tiles_cover_every_row_once_and_see_what_is_near() {
        for (height, rows) in [(1, 64), (64, 64), (65, 64), (512, 32), (40, 3)] {
            let tiles = Tile::cut(height, rows);
            let covered: Vec<usize> = tiles.iter().flat_map(|s| s.rows.clone()).collect();
            assert_eq!(covered, (0..height).collect::<Vec<_>>(), "{height} rows by {rows}");
            for tile in tiles {
                assert!(tile.seen.start == 0 || tile.seen.start + HALO == tile.rows.start);
                assert!(tile.seen.end == height || tile.seen.end == tile.rows.end + HALO);
            }
        }
    }

    fn frames(width: usize, height: usize, from: usize, count: usize) -> Vec<Frame> {
        let frame = |t: usize| {
            let plane = |number: usize| {
                let (w, h) = Frame::plane_size(width, height, number);
                let sample =
                    |i: usize| 128.0 + 90.0 * ((i % w + 2 * t) as f64 / 7.0).sin() * ((i / w) as f64 / 9.0).cos();
                (0..w * h).map(|i| sample(i) as u8).collect()
            };
            Frame {
                width,
                height,
                planes: [plane(0), plane(1), plane(2)],
                pts: None,
            }
        };
        (from..from + count).map(frame).collect()
    }

    /// Digits, latents and frames of a key unit and a delta unit.
    fn run(model: &Model, tiles: &[Tile], sequence: &SequenceHeader) -> (Vec<f32>, Vec<i32>, Vec<Frame>) {
        let (mut analysis, mut synthesis) = (
            AnalysisState::new(tiles.to_vec()),
            Synthesis::new(tiles.to_vec(), false),
        );
        let (mut digits, mut latents, mut pictures) = (vec![], vec![], vec![]);
        let window = Window::picture(grid(model, sequence));
        let painting = Painting {
            latents: None,
            control: true,
            steps: TimeSteps::All,
        };
        for (from, count) in [(0, 1), (1, 8)] {
            let group = frames(sequence.width as usize, sequence.height as usize, from, count);
            let group: Vec<&Frame> = group.iter().collect();
            let found = Analysis::of(model, &group, (sequence, &window), &mut analysis).unwrap();
            let map = found.latents.unwrap();
            let image = |values: &[f32]| {
                let size = [found.height as i64, found.width as i64, -1];
                Tensor::from_slice(values).view(size).permute([2, 0, 1]).unsqueeze(0)
            };
            let complete = CompleteUnit {
                digits: image(&found.digits),
                latents: Some(image(&map.values.iter().map(|&v| v as f32 / 256.0).collect::<Vec<_>>())),
            };
            pictures.extend(synthesis.run(model, &complete, painting, (sequence, &window)).unwrap());
            digits.extend(found.digits);
            latents.extend(map.values);
        }
        (digits, latents, pictures)
    }

    #[test]
    fn tiles_leave_no_seam() {
        let file = include_bytes!("../../models/tvc-small.safetensors");
        let mut model = Model::from_bytes(file, Device::Cpu).unwrap();
        // Without rounding what is left is a real difference.
        model.kind = Kind::Float;
        let sequence = SequenceHeader {
            width: 30,
            height: 40 * 16 - 5,
            ..SequenceHeader::sample()
        };
        let whole = run(&model, &Tile::cut(40, 40), &sequence);
        let cut = run(&model, &Tile::cut(40, 28), &sequence);
        let most = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(
            most(&whole.0, &cut.0) < 1e-3,
            "digits differ by {}",
            most(&whole.0, &cut.0)
        );
        assert!(whole.1.iter().zip(&cut.1).all(|(a, b)| a.abs_diff(*b) <= 1), "latents");
        assert_eq!((whole.2.len(), cut.2.len()), (9, 9));
        for (a, b) in whole.2.iter().zip(&cut.2) {
            let planes = a.planes.iter().flatten().zip(b.planes.iter().flatten());
            assert!(planes.clone().count() > 30 * 635 && planes.clone().all(|(a, b)| a.abs_diff(*b) <= 1));
            assert_eq!((a.width, a.height), (b.width, b.height));
        }
    }
}
