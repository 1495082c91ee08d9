// SPDX-License-Identifier: MPL-2.0
//! The residual layer of static regions: macroblocks that keep their picture, and the transform coefficients of what that lacks.

use crate::bitstream::View;

/// Blocks of a macroblock: four of luma, row by row, one of each chroma plane.
pub const MACROBLOCK_BLOCKS: usize = 6;
/// Blocks of them that are luma.
pub const LUMA_BLOCKS: usize = 4;
/// Coefficients of a block.
pub const COEFFICIENTS: usize = 64;
/// Quantisation steps that there are.
pub const RESIDUAL_STEPS: usize = 32;
/// Bound of a level.
pub const MAX_LEVEL: i32 = 1 << 11;

/// Levels of a block, from the lowest frequency to the highest along [`ZIGZAG`].
pub type Levels = [i16; COEFFICIENTS];

/// Row x 8 + column of the coefficients in the order in which they are coded: along the diagonals.
pub const ZIGZAG: [u8; COEFFICIENTS] = {
    let mut order = [0; COEFFICIENTS];
    let (mut at, mut diagonal) = (0, 0);
    while diagonal < 15 {
        let mut k = 0;
        while k <= diagonal {
            // Every second diagonal runs upwards.
            let row = if diagonal % 2 == 0 { diagonal - k } else { k };
            let column = diagonal - row;
            if row < 8 && column < 8 {
                order[at] = (row * 8 + column) as u8;
                at += 1;
            }
            k += 1;
        }
        diagonal += 1;
    }
    order
};

/// The residual of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResidualMap {
    /// In macroblocks.
    pub width: usize,
    pub height: usize,
    /// Index of the quantisation step, below [`RESIDUAL_STEPS`].
    pub step: usize,
    /// Row by row.
    pub macroblocks: Vec<Macroblock>,
}

/// What a unit says of a macroblock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Macroblock {
    /// The networks paint it.
    #[default]
    Neural,
    /// It shows its static picture.
    Skip,
    /// The same, after these levels have been added to that picture.
    Residual(Box<[Levels; MACROBLOCK_BLOCKS]>),
}

impl Macroblock {
    pub fn is_static(&self) -> bool {
        *self != Macroblock::Neural
    }

    pub(super) fn has_levels(&self) -> bool {
        matches!(self, Macroblock::Residual(_))
    }
}

impl ResidualMap {
    /// A map without a static macroblock.
    pub fn none(width: usize, height: usize) -> ResidualMap {
        ResidualMap {
            width,
            height,
            step: 0,
            macroblocks: vec![Macroblock::Neural; width * height],
        }
    }

    /// Whether any macroblock is static.
    pub fn has_static(&self) -> bool {
        self.macroblocks.iter().any(Macroblock::is_static)
    }

    /// Adds to a check: the step, then of each macroblock 0, 1 or 2 and its levels as big-endian i16.
    pub(crate) fn check(&self, hasher: &mut crc32fast::Hasher) {
        hasher.update(&[self.step as u8]);
        for macroblock in &self.macroblocks {
            match macroblock {
                Macroblock::Neural => hasher.update(&[0]),
                Macroblock::Skip => hasher.update(&[1]),
                Macroblock::Residual(blocks) => {
                    hasher.update(&[2]);
                    let levels = blocks.iter().flatten();
                    levels.for_each(|level| hasher.update(&level.to_be_bytes()));
                }
            }
        }
    }

    /// The macroblock so many columns and rows from one; `None` outside of the picture.
    pub fn near(&self, at: usize, (dx, dy): (isize, isize)) -> Option<&Macroblock> {
        let (x, y) = ((at % self.width) as isize + dx, (at / self.width) as isize + dy);
        let inside = (0..self.width as isize).contains(&x) && (0..self.height as isize).contains(&y);
        inside.then(|| &self.macroblocks[y as usize * self.width + x as usize])
    }

    /// How many of the macroblocks at offsets are as asked for.
    pub(super) fn count(&self, at: usize, offsets: &[(isize, isize)], is: impl Fn(&Macroblock) -> bool) -> usize {
        let macroblocks = offsets.iter().filter_map(|&offset| self.near(at, offset));
        macroblocks.filter(|macroblock| is(macroblock)).count()
    }
}

/// What both sides know of the macroblocks before a unit; empty after a key unit.
#[derive(Clone, Debug, Default)]
pub struct ResidualContext {
    /// Static in the unit before.
    was_static: Vec<bool>,
    /// Static in any unit.
    known: Vec<bool>,
}

impl ResidualContext {
    /// Goes on in another window, in which nothing that comes in is known. `None`: its macroblocks do not lie on these, and none is.
    pub fn look(&mut self, view: Option<&View>) {
        for flags in [&mut self.was_static, &mut self.known] {
            *flags = match view.filter(|_| !flags.is_empty()) {
                Some(view) => view.within(flags, 1, false),
                None => vec![],
            };
        }
    }

    /// Makes a unit the previous one.
    pub fn push(&mut self, map: &ResidualMap) {
        self.was_static = map.macroblocks.iter().map(Macroblock::is_static).collect();
        self.known.resize(map.macroblocks.len(), false);
        self.known
            .iter_mut()
            .zip(&self.was_static)
            .for_each(|(known, now)| *known |= now);
    }

    /// Whether a macroblock has a picture of its own from an earlier unit.
    pub fn is_known(&self, at: usize) -> bool {
        self.known.get(at).copied().unwrap_or(false)
    }

    /// Whether any macroblock has.
    pub fn any_known(&self) -> bool {
        self.known.contains(&true)
    }

    pub(super) fn was_static(&self, at: usize) -> bool {
        self.was_static.get(at).copied().unwrap_or(false)
    }
}
