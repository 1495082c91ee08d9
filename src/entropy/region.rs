// SPDX-License-Identifier: MPL-2.0
//! Which positions a slice has.

use crate::bitstream::{Slice, Window};

/// The positions of a slice in a map: neighbours are in different ones, so that of a lost slice all neighbours are there. The even slices
/// have the positions whose column and row add up to an even number, the odd ones the others, each in a band of rows. Columns and rows are
/// those of the world: wherever the window goes, what belongs to a slice does so for ever, if there are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    slice: Slice,
    /// 1 where the position in the upper left corner of the window is an odd one of the world.
    corner: usize,
}

impl Region {
    /// All positions.
    pub const WHOLE: Region = Region {
        slice: Slice::WHOLE,
        corner: 0,
    };

    /// Of a unit whose window is the picture.
    pub fn of(slice: Slice) -> Region {
        Region { slice, corner: 0 }
    }

    /// Of a unit with a window.
    pub fn within(slice: Slice, window: &Window) -> Region {
        Region::beginning_at(slice, window.origin_in_tokens())
    }

    /// The macroblocks of the slice, in a window.
    pub fn in_macroblocks(self, window: &Window) -> Region {
        Region::beginning_at(self.slice, window.origin_in_macroblocks())
    }

    /// In a map whose upper left position is one of the world's.
    fn beginning_at(slice: Slice, (x, y): (i32, i32)) -> Region {
        let corner = match slice == Slice::WHOLE {
            true => 0,
            false => (x + y).rem_euclid(2) as usize,
        };
        Region { slice, corner }
    }

    /// The same slice of another unit.
    pub fn within_other(self, window: &Window) -> Region {
        Region::within(self.slice, window)
    }

    /// Whether it is one of more than two: what belongs to those is not the same in every window.
    pub fn is_band(self) -> bool {
        self.slice.count > 2
    }

    pub fn is_whole(self) -> bool {
        self == Region::WHOLE
    }

    /// Whether a column and row belong to it, of a map of some height.
    pub fn contains(self, (x, y): (usize, usize), height: usize) -> bool {
        if self.is_whole() {
            return true;
        }
        let (parity, band) = (usize::from(self.slice.index % 2), usize::from(self.slice.index / 2));
        let bands = usize::from(self.slice.count / 2);
        let rows = height * band / bands..height * (band + 1) / bands;
        (x + y + self.corner) % 2 == parity && rows.contains(&y)
    }

    /// In which of the two phases of a checkerboard the token at a column and row is coded. A slice has every second position, and of those
    /// every second row makes the board.
    pub fn phase(self, x: usize, y: usize) -> usize {
        match self.is_whole() {
            true => (x + y) % 2,
            false => y % 2,
        }
    }

    /// Where the neighbour is that a position of the second phase has in the place of the upper, left, right or lower one: in a slice on the
    /// diagonals.
    pub fn neighbour(self, dx: isize, dy: isize) -> (isize, isize) {
        match self.is_whole() {
            true => (dx, dy),
            false => (dx + dy, dy - dx),
        }
    }

    /// The same as [`Region::contains`] for each position of a map, row by row.
    pub fn positions(self, width: usize, height: usize) -> impl Iterator<Item = bool> {
        (0..width * height).map(move |at| self.contains((at % width, at / width), height))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_position_is_in_one_slice_and_its_neighbours_in_others(
            width in 1usize..20, height in 1usize..20, half in 1u8..=8,
        ) {
            let slices: Vec<Region> = (0..2 * half).map(|index| Region::of(Slice { index, count: 2 * half })).collect();
            let slice_of = |x: usize, y: usize| {
                let all: Vec<usize> = (0..slices.len()).filter(|&i| slices[i].contains((x, y), height)).collect();
                assert_eq!(all.len(), 1, "position {x},{y}");
                all[0]
            };
            for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
                prop_assert!(x == 0 || slice_of(x, y) != slice_of(x - 1, y));
                prop_assert!(y == 0 || slice_of(x, y) != slice_of(x, y - 1));
            }
        }
    }
}
