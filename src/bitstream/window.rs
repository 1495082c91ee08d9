// SPDX-License-Identifier: MPL-2.0
//! Which part of the world a unit codes. The camera moves over the world, whose origin is the upper left corner of the key frame. A unit codes
//! a window that moves by whole cells, in which its frames lie anywhere: so what is remembered stays where it belongs.

use std::ops::Range;

use super::limits::{MACROBLOCK_SIDE, MAX_SIZE, MAX_WINDOW_TOKENS};
use super::{CodingScale, SequenceHeader};

/// Parts of a sample in which frames are placed.
pub const POSITIONS_PER_SAMPLE: i32 = 4;
/// How far from the world's origin frames may lie, in samples: no change from one to another is too large for its code.
const MAX_DISTANCE: i32 = 4000;
/// A window has at most so many times the tokens of the picture and a border around it.
const MAX_GROWTH: usize = 4;
/// A cell has at least so many samples along a side, where tokens are smaller.
const LEAST_CELL: u32 = 16;

/// Upper left corner of a frame in the world, in quarters of a sample: column and row.
pub type Position = (i32, i32);

/// What windows are measured in; from key unit to key unit it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Width and height of the shown pictures.
    picture: (u32, u32),
    scale: CodingScale,
    /// Coded samples along a side of a token.
    token: u32,
    /// Frames of a whole delta unit.
    pub frames: usize,
    /// Whether windows may move at all.
    pub may_move: bool,
    /// Whether what they show may move by itself.
    pub may_warp: bool,
}

impl Grid {
    /// Of a stream, and of a model with tokens of so many coded samples a side and units of so many frames. `may_move`: whether the
    /// networks can follow.
    pub fn new(sequence: &SequenceHeader, token: u32, frames: usize, may_move: bool) -> Grid {
        Grid {
            picture: (sequence.width, sequence.height),
            scale: sequence.coding_scale,
            token,
            frames,
            may_move,
            may_warp: may_move,
        }
    }

    /// Of a stream in which nothing moves by itself: units that refer to one of long ago would not find it.
    pub fn rigid(self) -> Grid {
        Grid {
            may_warp: false,
            ..self
        }
    }

    /// Tokens and shown samples along a side of a cell, the smallest square that is whole in both, of even samples.
    pub(super) fn cell(&self) -> (u32, u32) {
        let is_whole = |&tokens: &u32| {
            let shown = self.scale.shown(tokens * self.token);
            shown.is_some_and(|shown| shown % 2 == 0 && shown >= LEAST_CELL)
        };
        let tokens = (1..).find(is_whole).unwrap_or(1);
        (tokens, self.scale.shown(tokens * self.token).unwrap_or(LEAST_CELL))
    }
}

/// What a unit codes of the world: the picture, where it is in a key unit, or a rectangle of whole cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    grid: Grid,
    /// Left and upper edge in cells.
    origin: (i32, i32),
    /// Width and height in shown samples.
    size: (u32, u32),
}

impl Window {
    /// The picture itself, where it is in a key unit.
    pub fn picture(grid: Grid) -> Window {
        Window {
            grid,
            origin: (0, 0),
            size: grid.picture,
        }
    }

    /// A window by its left, upper, right and lower edge in cells; `None` where it is empty or larger than legal.
    pub fn from_edges(grid: Grid, edges: [i32; 4]) -> Option<Window> {
        let side = |from: i32, to: i32| {
            let cells = u32::try_from(to.checked_sub(from)?).ok()?;
            cells
                .checked_mul(grid.cell().1)
                .filter(|size| (1..=MAX_SIZE).contains(size))
        };
        let window = Window {
            grid,
            origin: (edges[0], edges[1]),
            size: (side(edges[0], edges[2])?, side(edges[1], edges[3])?),
        };
        let (width, height) = window.tokens();
        let (least_width, least_height) = Window::picture(grid).tokens();
        let most = MAX_WINDOW_TOKENS.min(MAX_GROWTH * (least_width + 2) * (least_height + 2));
        let fits = grid.scale.fits(window.size.0, window.size.1) && width * height <= most;
        fits.then_some(window)
    }

    /// Its left, upper, right and lower edge in cells.
    pub fn edges(&self) -> [i32; 4] {
        let side = self.grid.cell().1;
        let (x, y) = self.origin;
        let cells = |size: u32| size.div_ceil(side) as i32;
        [x, y, x + cells(self.size.0), y + cells(self.size.1)]
    }

    /// The edges of the smallest window that has frames at all these positions.
    pub fn cover(grid: Grid, positions: &[Position]) -> [i32; 4] {
        let side = POSITIONS_PER_SAMPLE * grid.cell().1 as i32;
        let edges = |values: &dyn Fn(&Position) -> i32, size: u32| {
            let low = positions.iter().map(values).min().unwrap_or(0);
            let high = positions.iter().map(values).max().unwrap_or(0) + POSITIONS_PER_SAMPLE * size as i32;
            (low.div_euclid(side), -(-high).div_euclid(side))
        };
        let (left, right) = edges(&|position| position.0, grid.picture.0);
        let (top, bottom) = edges(&|position| position.1, grid.picture.1);
        [left, top, right, bottom]
    }

    /// What it is measured in.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Width and height in shown samples.
    pub fn size(&self) -> (usize, usize) {
        (self.size.0 as usize, self.size.1 as usize)
    }

    /// Width and height in tokens.
    pub fn tokens(&self) -> (usize, usize) {
        let tokens = |size: u32| self.grid.scale.coded(size).div_ceil(self.grid.token) as usize;
        (tokens(self.size.0), tokens(self.size.1))
    }

    /// Column and row of the world's tokens that its upper left one is.
    pub fn origin_in_tokens(&self) -> (i32, i32) {
        let (tokens, _) = self.grid.cell();
        (self.origin.0 * tokens as i32, self.origin.1 * tokens as i32)
    }

    /// Column and row of the world's macroblocks that its upper left one is, rounded down.
    pub fn origin_in_macroblocks(&self) -> (i32, i32) {
        let along = |cells: i32| (cells * self.grid.cell().1 as i32).div_euclid(MACROBLOCK_SIDE as i32);
        (along(self.origin.0), along(self.origin.1))
    }

    /// Width and height in macroblocks of the residual.
    pub fn macroblocks(&self) -> (usize, usize) {
        let macroblocks = |size: u32| size.div_ceil(MACROBLOCK_SIDE) as usize;
        (macroblocks(self.size.0), macroblocks(self.size.1))
    }

    /// The header of a stream whose pictures were as large as the window.
    pub fn sequence(&self, sequence: &SequenceHeader) -> SequenceHeader {
        SequenceHeader {
            width: self.size.0,
            height: self.size.1,
            ..*sequence
        }
    }

    /// Where a frame lies in it, in quarters of a sample from its upper left corner; `None` where it goes beyond.
    pub fn offset(&self, position: Position) -> Option<Position> {
        let inside = |position: i32, origin: i32, size: u32, picture: u32| {
            let offset = position.checked_sub(origin.checked_mul(POSITIONS_PER_SAMPLE * self.grid.cell().1 as i32)?)?;
            // A picture that does not fill its last cell repeats its edge there.
            let room = POSITIONS_PER_SAMPLE * (size as i32 - picture as i32);
            (0..=room).contains(&offset).then_some(offset)
        };
        let near = |value: i32| value.abs() <= POSITIONS_PER_SAMPLE * MAX_DISTANCE;
        let (x, y) = position;
        let (width, height) = self.grid.picture;
        Some((
            inside(x, self.origin.0, self.size.0, width).filter(|_| near(x))?,
            inside(y, self.origin.1, self.size.1, height).filter(|_| near(y))?,
        ))
    }

    /// What it sees of the token maps of another window.
    pub fn view_of_tokens(&self, from: &Window) -> View {
        let (tokens, _) = self.grid.cell();
        View {
            from: from.tokens(),
            offset: self.offset_from(from, tokens),
            to: self.tokens(),
        }
    }

    /// The same of samples, luma or chroma planes.
    pub fn view_of_samples(&self, from: &Window, is_chroma: bool) -> View {
        let (_, samples) = self.grid.cell();
        let shift = u32::from(is_chroma);
        let plane = |(width, height): (usize, usize)| (width.div_ceil(1 << shift), height.div_ceil(1 << shift));
        View {
            from: plane(from.size()),
            offset: self.offset_from(from, samples >> shift),
            to: plane(self.size()),
        }
    }

    /// The same of macroblocks; `None` where they do not lie on each other.
    pub fn view_of_macroblocks(&self, from: &Window) -> Option<View> {
        let (_, samples) = self.grid.cell();
        let (x, y) = self.offset_from(from, samples);
        let side = MACROBLOCK_SIDE as isize;
        (x % side == 0 && y % side == 0).then(|| View {
            from: from.macroblocks(),
            offset: (x / side, y / side),
            to: self.macroblocks(),
        })
    }

    fn offset_from(&self, from: &Window, cell: u32) -> (isize, isize) {
        let distance = |a: i32, b: i32| (a - b) as isize * cell as isize;
        (
            distance(self.origin.0, from.origin.0),
            distance(self.origin.1, from.origin.1),
        )
    }
}

/// What one window sees of a map of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    from: (usize, usize),
    /// Column and row of its upper left corner in the map.
    offset: (isize, isize),
    to: (usize, usize),
}

impl View {
    /// Of a map that has `times` as many rows and columns.
    pub fn enlarged(&self, times: usize) -> View {
        let both = |(a, b): (usize, usize)| (a * times, b * times);
        View {
            from: both(self.from),
            offset: (self.offset.0 * times as isize, self.offset.1 * times as isize),
            to: both(self.to),
        }
    }

    /// Columns and rows of the map that it is of.
    pub fn map_size(&self) -> (usize, usize) {
        self.from
    }

    /// Columns and rows of what is seen.
    pub fn size(&self) -> (usize, usize) {
        self.to
    }

    /// The column of the map that is seen in each column.
    pub fn columns(&self) -> impl Iterator<Item = usize> + '_ {
        nearest(0..self.to.0, self.offset.0, self.from.0)
    }

    /// The row of the map that is seen in each row.
    pub fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        nearest(0..self.to.1, self.offset.1, self.from.1)
    }

    /// What is seen of a map, row by row, with `each` values of a position together: beyond its edges they are repeated.
    pub fn of<T: Copy>(&self, values: &[T], each: usize) -> Vec<T> {
        let columns: Vec<usize> = self.columns().collect();
        let mut seen = Vec::with_capacity(self.to.0 * self.to.1 * each);
        for row in self.rows() {
            let row = &values[row * self.from.0 * each..][..self.from.0 * each];
            for &column in &columns {
                seen.extend_from_slice(&row[column * each..][..each]);
            }
        }
        seen
    }

    /// The same with a value for what lies beyond the map.
    pub fn within<T: Copy>(&self, values: &[T], each: usize, beyond: T) -> Vec<T> {
        let mut seen = self.of(values, each);
        let positions = seen.chunks_mut(each).zip(self.inside());
        positions
            .filter(|(_, is_inside)| !is_inside)
            .for_each(|(values, _)| values.fill(beyond));
        seen
    }

    /// Whether each position that is seen lies in the map, row by row.
    fn inside(&self) -> impl Iterator<Item = bool> + '_ {
        let is_in = |at: usize, offset: isize, size: usize| (0..size as isize).contains(&(at as isize + offset));
        (0..self.to.0 * self.to.1).map(move |at| {
            is_in(at % self.to.0, self.offset.0, self.from.0) && is_in(at / self.to.0, self.offset.1, self.from.1)
        })
    }
}

fn nearest(to: Range<usize>, offset: isize, from: usize) -> impl Iterator<Item = usize> {
    to.map(move |at| (at as isize + offset).clamp(0, from as isize - 1) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grid(width: u32, height: u32, coding_scale: CodingScale) -> Grid {
        let sequence = SequenceHeader {
            coding_scale,
            ..SequenceHeader::new(width, height, (25, 1))
        };
        Grid::new(&sequence, 16, 8, true)
    }

    #[test]
    fn cells_are_whole_in_tokens_and_in_even_samples() {
        let cells = CodingScale::ALL.map(|scale| grid(320, 176, scale).cell());
        assert_eq!(cells, [(1, 32), (1, 24), (1, 16), (3, 32), (2, 16)]);
    }

    #[test]
    fn a_frame_that_moved_by_less_than_a_sample_needs_another_column_of_cells() {
        let grid = grid(320, 170, CodingScale::Single);
        assert_eq!(Window::picture(grid).edges(), [0, 0, 20, 11]);
        assert_eq!(Window::cover(grid, &[(0, 0), (0, 24)]), [0, 0, 20, 11]);
        assert_eq!(Window::cover(grid, &[(1, 0)]), [0, 0, 21, 11]);
        assert_eq!(Window::cover(grid, &[(-1, 25), (5, 0)]), [-1, 0, 21, 12]);
        let window = Window::from_edges(grid, [-1, 0, 20, 11]).unwrap();
        assert_eq!((window.size(), window.tokens()), ((336, 176), (21, 11)));
        assert_eq!((window.offset((-3, 24)), window.offset((1, 0))), (Some((61, 24)), None));
    }

    #[test]
    fn what_was_beyond_the_edge_repeats_it() {
        let grid = grid(48, 32, CodingScale::Single);
        let (from, to) = (Window::picture(grid), Window::from_edges(grid, [1, -1, 4, 2]).unwrap());
        let view = to.view_of_tokens(&from);
        assert_eq!(view.of(&[1, 2, 3, 4, 5, 6], 1), [2, 3, 3, 2, 3, 3, 5, 6, 6]);
        assert_eq!(view.within(&[1, 2, 3, 4, 5, 6], 1, 0), [0, 0, 0, 2, 3, 0, 5, 6, 0]);
    }

    #[test]
    fn windows_beyond_all_sizes_are_refused() {
        let grid = grid(320, 176, CodingScale::Single);
        for edges in [
            [0, 0, 0, 11],
            [5, 0, 4, 11],
            [0, 0, 600, 11],
            [0, 0, 300, 300],
            [i32::MIN, 0, i32::MAX, 1],
        ] {
            assert_eq!(Window::from_edges(grid, edges), None, "{edges:?}");
        }
    }

    proptest! {
        #[test]
        fn a_window_that_covers_frames_has_them(
            scale in 0usize..5, width in 16u32..700, height in 16u32..400,
            positions in prop::collection::vec((-2000i32..2000, -2000i32..2000), 1..9),
        ) {
            let grid = grid(width, height, CodingScale::ALL[scale]);
            let edges = Window::cover(grid, &positions);
            if let Some(window) = Window::from_edges(grid, edges) {
                prop_assert_eq!(window.edges(), edges);
                for position in positions {
                    prop_assert!(window.offset(position).is_some());
                }
            }
        }
    }
}
