// SPDX-License-Identifier: MPL-2.0
//! Which positions a slice has.

use crate::bitstream::Slice;

/// The positions of a slice in a map: neighbours are in different ones, so that of a lost slice all neighbours are there. The even slices
/// have the positions whose column and row add up to an even number, the odd ones the others, each in a band of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region(Slice);

impl Region {
    /// All positions.
    pub const WHOLE: Region = Region(Slice::WHOLE);

    pub fn of(slice: Slice) -> Region {
        Region(slice)
    }

    pub fn is_whole(self) -> bool {
        self == Region::WHOLE
    }

    /// Whether a column and row belong to it, of a map of some height.
    pub fn contains(self, (x, y): (usize, usize), height: usize) -> bool {
        if self.is_whole() {
            return true;
        }
        let (parity, band) = (usize::from(self.0.index % 2), usize::from(self.0.index / 2));
        let bands = usize::from(self.0.count / 2);
        let rows = height * band / bands..height * (band + 1) / bands;
        (x + y) % 2 == parity && rows.contains(&y)
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
