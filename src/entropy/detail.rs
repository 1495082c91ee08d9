// SPDX-License-Identifier: MPL-2.0
//! Detail of what stands still: cells of the picture that are frozen, and the transform coefficients of what their pictures lack.

use super::adaptive::LearningBits;
use super::coder::SymbolCoder;
use super::detail_probabilities as first;
use super::exp_golomb::code_exp_golomb;
use super::probability::Probabilities;
use super::EntropyError;

/// Blocks of a cell: four of luma, row by row, one of each chroma plane.
pub const CELL_BLOCKS: usize = 6;
/// Blocks of them that are luma.
pub const LUMA_BLOCKS: usize = 4;
/// Coefficients of a block.
pub const COEFFICIENTS: usize = 64;
/// Quantisation steps that there are.
pub const DETAIL_STEPS: usize = 32;
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

/// The detail of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetailMap {
    /// In cells.
    pub width: usize,
    pub height: usize,
    /// Index of the quantisation step, below [`DETAIL_STEPS`].
    pub step: usize,
    /// Row by row.
    pub cells: Vec<Cell>,
}

/// What a unit says of a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cell {
    /// The networks paint it.
    #[default]
    Painted,
    /// It shows its frozen picture.
    Frozen,
    /// The same, after these levels have been added to that picture.
    Refined(Box<[Levels; CELL_BLOCKS]>),
}

impl Cell {
    pub fn is_frozen(&self) -> bool {
        *self != Cell::Painted
    }

    fn is_refined(&self) -> bool {
        matches!(self, Cell::Refined(_))
    }
}

impl DetailMap {
    /// A map without a frozen cell.
    pub fn none(width: usize, height: usize) -> DetailMap {
        DetailMap {
            width,
            height,
            step: 0,
            cells: vec![Cell::Painted; width * height],
        }
    }

    /// Whether any cell is frozen.
    pub fn freezes(&self) -> bool {
        self.cells.iter().any(Cell::is_frozen)
    }

    /// Adds to a check: the step, then of each cell 0, 1 or 2 and its levels as big-endian i16.
    pub(super) fn check(&self, hasher: &mut crc32fast::Hasher) {
        hasher.update(&[self.step as u8]);
        for cell in &self.cells {
            match cell {
                Cell::Painted => hasher.update(&[0]),
                Cell::Frozen => hasher.update(&[1]),
                Cell::Refined(blocks) => {
                    hasher.update(&[2]);
                    let levels = blocks.iter().flatten();
                    levels.for_each(|level| hasher.update(&level.to_be_bytes()));
                }
            }
        }
    }

    /// The cell so many columns and rows from one; `None` outside of the picture.
    pub fn near(&self, at: usize, (dx, dy): (isize, isize)) -> Option<&Cell> {
        let (x, y) = ((at % self.width) as isize + dx, (at / self.width) as isize + dy);
        let inside = (0..self.width as isize).contains(&x) && (0..self.height as isize).contains(&y);
        inside.then(|| &self.cells[y as usize * self.width + x as usize])
    }

    /// How many of the cells at offsets are as asked for.
    fn count(&self, at: usize, offsets: &[(isize, isize)], is: impl Fn(&Cell) -> bool) -> usize {
        let cells = offsets.iter().filter_map(|&offset| self.near(at, offset));
        cells.filter(|cell| is(cell)).count()
    }
}

/// What both sides know of the cells before a unit; empty after a key unit.
#[derive(Clone, Debug, Default)]
pub struct DetailHistory {
    /// Frozen in the unit before.
    frozen: Vec<bool>,
    /// Frozen in any unit.
    known: Vec<bool>,
}

impl DetailHistory {
    /// Makes a unit the previous one.
    pub fn push(&mut self, map: &DetailMap) {
        self.frozen = map.cells.iter().map(Cell::is_frozen).collect();
        self.known.resize(map.cells.len(), false);
        self.known
            .iter_mut()
            .zip(&self.frozen)
            .for_each(|(known, now)| *known |= now);
    }

    /// Whether a cell has a picture of its own from an earlier unit.
    pub fn is_known(&self, at: usize) -> bool {
        self.known.get(at).copied().unwrap_or(false)
    }

    /// Whether any cell has.
    pub fn any_known(&self) -> bool {
        self.known.contains(&true)
    }

    fn was_frozen(&self, at: usize) -> bool {
        self.frozen.get(at).copied().unwrap_or(false)
    }
}

/// How many coefficients are looked at one by one in the choice of a context; the others share one.
const POSITIONS: usize = 20;
/// Classes of how many coefficients neighbouring blocks have.
const NEIGHBOURHOODS: usize = 6;
/// Classes of how many coefficients a block has: none, 1, 2 to 3, ... 64.
const LENGTHS: usize = 8;
/// Sums of the magnitudes of the two coefficients before, each up to 2.
const BEFORE: usize = 5;
/// Ones of a magnitude that have a context of their own, and those after which the rest is not adaptive.
const MAGNITUDES: usize = 3;
const LARGEST_UNARY: u32 = 15;

/// The adaptive probabilities of a unit.
struct Contexts {
    frozen: LearningBits,
    refined: LearningBits,
    /// By plane (luma, chroma), neighbourhood, class.
    lengths: LearningBits,
    /// By plane, position, magnitudes before.
    significant: LearningBits,
    /// By plane, ones so far, magnitudes before.
    magnitudes: LearningBits,
}

impl Contexts {
    fn new() -> Contexts {
        Contexts {
            frozen: LearningBits::new(&first::FROZEN),
            refined: LearningBits::new(&first::REFINED),
            lengths: LearningBits::new(&first::LENGTHS),
            significant: LearningBits::new(&first::SIGNIFICANT),
            magnitudes: LearningBits::new(&first::MAGNITUDES),
        }
    }
}

/// Codes a unit's detail. A decoder's `map` is overwritten, but for its size.
pub fn code_detail(
    coder: &mut impl SymbolCoder,
    history: &DetailHistory,
    map: &mut DetailMap,
) -> Result<(), EntropyError> {
    if coder.code(&Probabilities::uniform(2), usize::from(map.freezes()))? == 0 {
        *map = DetailMap::none(map.width, map.height);
        return Ok(());
    }
    map.step = coder.code(&Probabilities::uniform(4), map.step / 8)? * 8
        + coder.code(&Probabilities::uniform(8), map.step % 8)?;
    let mut contexts = Contexts::new();
    let mut lengths = Lengths::new(map.width, map.height);
    for at in 0..map.cells.len() {
        let frozen = map.count(at, &[(-1, 0), (0, -1), (1, -1)], Cell::is_frozen);
        let context = 2 * frozen + usize::from(history.was_frozen(at));
        if !contexts.frozen.code(coder, context, map.cells[at].is_frozen())? {
            map.cells[at] = Cell::Painted;
            continue;
        }
        let refined = map.count(at, &[(-1, 0), (0, -1)], Cell::is_refined);
        let context = 2 * refined + usize::from(history.is_known(at));
        if !contexts.refined.code(coder, context, map.cells[at].is_refined())? {
            map.cells[at] = Cell::Frozen;
            continue;
        }
        let mut blocks = match std::mem::take(&mut map.cells[at]) {
            Cell::Refined(blocks) => blocks,
            _ => Box::new([[0; COEFFICIENTS]; CELL_BLOCKS]),
        };
        let place = (at % map.width, at / map.width);
        for (number, levels) in blocks.iter_mut().enumerate() {
            let near = lengths.near(place, number);
            let plane = usize::from(number >= LUMA_BLOCKS);
            let length = code_block(coder, &mut contexts, plane, near, levels)?;
            lengths.set(place, number, length);
        }
        map.cells[at] = Cell::Refined(blocks);
    }
    Ok(())
}

/// How many coefficients the blocks so far have, up to the last that is not 0.
struct Lengths {
    /// Blocks of luma, then of either chroma plane: width and entries.
    planes: [(usize, Vec<u8>); 3],
}

impl Lengths {
    fn new(width: usize, height: usize) -> Lengths {
        let plane = |scale: usize| (width * scale, vec![0; width * height * scale * scale]);
        Lengths {
            planes: [plane(2), plane(1), plane(1)],
        }
    }

    /// The plane of a cell's block, and its column and row there.
    fn place((x, y): (usize, usize), number: usize) -> (usize, usize, usize) {
        match number {
            0..LUMA_BLOCKS => (0, 2 * x + number % 2, 2 * y + number / 2),
            _ => (number + 1 - LUMA_BLOCKS, x, y),
        }
    }

    /// The class of what is to the left and above.
    fn near(&self, cell: (usize, usize), number: usize) -> usize {
        let (plane, x, y) = Lengths::place(cell, number);
        let (width, lengths) = &self.planes[plane];
        let left = if x > 0 { lengths[y * width + x - 1] } else { 0 };
        let above = if y > 0 { lengths[(y - 1) * width + x] } else { 0 };
        (usize::from(left) + usize::from(above))
            .div_ceil(6)
            .min(NEIGHBOURHOODS - 1)
    }

    fn set(&mut self, cell: (usize, usize), number: usize, length: usize) {
        let (plane, x, y) = Lengths::place(cell, number);
        let (width, lengths) = &mut self.planes[plane];
        lengths[y * *width + x] = length as u8;
    }
}

/// Codes the levels of a block; how many there are up to the last that is not 0.
fn code_block(
    coder: &mut impl SymbolCoder,
    contexts: &mut Contexts,
    plane: usize,
    near: usize,
    levels: &mut Levels,
) -> Result<usize, EntropyError> {
    let wanted = levels.iter().rposition(|level| *level != 0).map_or(0, |last| last + 1);
    let length = code_length(coder, contexts, plane * NEIGHBOURHOODS + near, wanted)?;
    let magnitude = |level: i16| usize::from(level.unsigned_abs().min(2));
    for at in 0..length {
        let before = (1..=2)
            .filter_map(|back| at.checked_sub(back))
            .map(|i| magnitude(levels[i]))
            .sum::<usize>();
        let position = (plane * (POSITIONS + 1) + at.min(POSITIONS)) * BEFORE + before;
        let is_last = at + 1 == length;
        if !is_last && !contexts.significant.code(coder, position, levels[at] != 0)? {
            levels[at] = 0;
            continue;
        }
        let half = Probabilities::uniform(2);
        let is_negative = coder.code(&half, usize::from(levels[at] < 0))? == 1;
        let magnitude = code_magnitude(coder, contexts, (plane, before), levels[at].unsigned_abs().into())?;
        levels[at] = if is_negative { -magnitude } else { magnitude };
    }
    levels[length..].fill(0);
    Ok(length)
}

/// A number from 0 to 64: its class, then which one of that.
fn code_length(
    coder: &mut impl SymbolCoder,
    contexts: &mut Contexts,
    neighbourhood: usize,
    length: usize,
) -> Result<usize, EntropyError> {
    let wanted = length.checked_ilog2().map_or(0, |log| log as usize + 1);
    let mut class = 0;
    while class + 1 < LENGTHS
        && contexts
            .lengths
            .code(coder, neighbourhood * LENGTHS + class, class < wanted)?
    {
        class += 1;
    }
    if class == 0 {
        return Ok(0);
    }
    if class == LENGTHS - 1 {
        return Ok(COEFFICIENTS);
    }
    let half = Probabilities::uniform(2);
    let mut found = 1;
    for bit in (0..class - 1).rev() {
        found = found << 1 | coder.code(&half, length >> bit & 1)?;
    }
    Ok(found)
}

/// A magnitude of 1 or more.
fn code_magnitude(
    coder: &mut impl SymbolCoder,
    contexts: &mut Contexts,
    (plane, before): (usize, usize),
    wanted: u32,
) -> Result<i16, EntropyError> {
    let mut magnitude = 1;
    loop {
        let context = (plane * MAGNITUDES + (magnitude as usize - 1).min(MAGNITUDES - 1)) * BEFORE + before;
        if !contexts.magnitudes.code(coder, context, magnitude < wanted)? {
            break;
        }
        magnitude += 1;
        if magnitude == LARGEST_UNARY {
            magnitude += code_exp_golomb(coder, wanted.saturating_sub(LARGEST_UNARY))?;
            break;
        }
    }
    match magnitude <= MAX_LEVEL as u32 {
        true => Ok(magnitude as i16),
        false => Err(EntropyError::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::{BitCounter, UnitDecoder, UnitEncoder};
    use proptest::prelude::*;

    const WIDTH: usize = 5;
    const HEIGHT: usize = 3;

    fn any_levels() -> impl Strategy<Value = Levels> {
        let level = prop_oneof![6 => Just(0i16), 3 => -3i16..=3, 1 => -(MAX_LEVEL as i16)..=MAX_LEVEL as i16];
        let levels = prop::collection::vec(level, COEFFICIENTS);
        (levels, 0..=COEFFICIENTS)
            .prop_map(|(levels, length)| std::array::from_fn(|i| if i < length { levels[i] } else { 0 }))
    }

    fn any_cell() -> impl Strategy<Value = Cell> {
        let blocks = prop::collection::vec(any_levels(), CELL_BLOCKS);
        prop_oneof![
            Just(Cell::Painted),
            Just(Cell::Frozen),
            blocks.prop_map(|blocks| Cell::Refined(Box::new(std::array::from_fn(|i| blocks[i])))),
        ]
    }

    fn any_map() -> impl Strategy<Value = DetailMap> {
        (prop::collection::vec(any_cell(), WIDTH * HEIGHT), 0..DETAIL_STEPS).prop_map(|(cells, step)| {
            let map = DetailMap {
                step,
                cells,
                ..DetailMap::none(WIDTH, HEIGHT)
            };
            match map.freezes() {
                true => map,
                false => DetailMap::none(WIDTH, HEIGHT),
            }
        })
    }

    fn history(before: &[DetailMap]) -> DetailHistory {
        let mut history = DetailHistory::default();
        before.iter().for_each(|map| history.push(map));
        history
    }

    fn decode(history: &DetailHistory, bytes: &[u8]) -> Result<DetailMap, EntropyError> {
        let mut map = DetailMap::none(WIDTH, HEIGHT);
        code_detail(&mut UnitDecoder::new(bytes), history, &mut map)?;
        Ok(map)
    }

    proptest! {
        #[test]
        fn any_detail_round_trips(map in any_map(), before in prop::collection::vec(any_map(), 0..3)) {
            let (mut coder, history) = (UnitEncoder::new(), history(&before));
            code_detail(&mut coder, &history, &mut map.clone()).unwrap();
            prop_assert_eq!(decode(&history, &coder.finish()), Ok(map));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            let _ = decode(&DetailHistory::default(), &bytes);
        }
    }

    fn bits(history: &DetailHistory, map: &DetailMap) -> f64 {
        let mut counter = BitCounter::default();
        code_detail(&mut counter, history, &mut map.clone()).unwrap();
        counter.0
    }

    #[test]
    fn nothing_frozen_is_one_bit_and_all_frozen_as_before_is_a_few_bytes() {
        let none = DetailMap::none(40, 23);
        assert_eq!(bits(&DetailHistory::default(), &none), 1.0);
        let still = DetailMap {
            cells: vec![Cell::Frozen; 40 * 23],
            ..none
        };
        let found = bits(&history(std::slice::from_ref(&still)), &still);
        assert!(found < 20.0 * 8.0, "{found} bits");
    }

    #[test]
    fn zigzag_visits_every_coefficient_once_from_low_to_high() {
        let mut seen = ZIGZAG;
        assert_eq!(seen[..6], [0, 1, 8, 16, 9, 2]);
        assert_eq!(seen[63], 63);
        seen.sort_unstable();
        assert!(seen.iter().enumerate().all(|(i, at)| i == usize::from(*at)));
    }
}
