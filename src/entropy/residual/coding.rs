// SPDX-License-Identifier: MPL-2.0
//! Codes the residual layer: adaptive binary decisions whose probabilities start from [`super::tables`].

use super::map::{
    Levels, Macroblock, ResidualContext, ResidualMap, COEFFICIENTS, LUMA_BLOCKS, MACROBLOCK_BLOCKS, MAX_LEVEL,
};
use super::tables as first;
use crate::entropy::binary::{code_exp_golomb, LearningBits};
use crate::entropy::probability::Probabilities;
use crate::entropy::range_coder::SymbolCoder;
use crate::entropy::region::Region;
use crate::entropy::EntropyError;

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
    is_static: LearningBits,
    has_levels: LearningBits,
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
            is_static: LearningBits::new(&first::STATIC),
            has_levels: LearningBits::new(&first::REFINED),
            lengths: LearningBits::new(&first::LENGTHS),
            significant: LearningBits::new(&first::SIGNIFICANT),
            magnitudes: LearningBits::new(&first::MAGNITUDES),
        }
    }
}

/// Codes a unit's residual, or a region of it beyond which the networks paint. A decoder's `map` is overwritten, but for its size.
pub fn code_residual(
    coder: &mut impl SymbolCoder,
    history: &ResidualContext,
    region: Region,
    map: &mut ResidualMap,
) -> Result<(), EntropyError> {
    if coder.code(&Probabilities::uniform(2), usize::from(map.has_static()))? == 0 {
        *map = ResidualMap::none(map.width, map.height);
        return Ok(());
    }
    map.step = coder.code(&Probabilities::uniform(4), map.step / 8)? * 8
        + coder.code(&Probabilities::uniform(8), map.step % 8)?;
    let mut contexts = Contexts::new();
    let mut lengths = Lengths::new(map.width, map.height);
    for at in 0..map.macroblocks.len() {
        if !region.contains((at % map.width, at / map.width), map.height) {
            map.macroblocks[at] = Macroblock::Neural;
            continue;
        }
        let near = map.count(at, &[(-1, 0), (0, -1), (1, -1)], Macroblock::is_static);
        let context = 2 * near + usize::from(history.was_static(at));
        if !contexts
            .is_static
            .code(coder, context, map.macroblocks[at].is_static())?
        {
            map.macroblocks[at] = Macroblock::Neural;
            continue;
        }
        let near = map.count(at, &[(-1, 0), (0, -1)], Macroblock::has_levels);
        let context = 2 * near + usize::from(history.is_known(at));
        if !contexts
            .has_levels
            .code(coder, context, map.macroblocks[at].has_levels())?
        {
            map.macroblocks[at] = Macroblock::Skip;
            continue;
        }
        let mut blocks = match std::mem::take(&mut map.macroblocks[at]) {
            Macroblock::Residual(blocks) => blocks,
            _ => Box::new([[0; COEFFICIENTS]; MACROBLOCK_BLOCKS]),
        };
        let place = (at % map.width, at / map.width);
        for (number, levels) in blocks.iter_mut().enumerate() {
            let near = lengths.near(place, number);
            let plane = usize::from(number >= LUMA_BLOCKS);
            let length = code_block(coder, &mut contexts, plane, near, levels)?;
            lengths.set(place, number, length);
        }
        map.macroblocks[at] = Macroblock::Residual(blocks);
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

    /// The plane of a macroblock's block, and its column and row there.
    fn place((x, y): (usize, usize), number: usize) -> (usize, usize, usize) {
        match number {
            0..LUMA_BLOCKS => (0, 2 * x + number % 2, 2 * y + number / 2),
            _ => (number + 1 - LUMA_BLOCKS, x, y),
        }
    }

    /// The class of what is to the left and above.
    fn near(&self, macroblock: (usize, usize), number: usize) -> usize {
        let (plane, x, y) = Lengths::place(macroblock, number);
        let (width, lengths) = &self.planes[plane];
        let left = if x > 0 { lengths[y * width + x - 1] } else { 0 };
        let above = if y > 0 { lengths[(y - 1) * width + x] } else { 0 };
        (usize::from(left) + usize::from(above))
            .div_ceil(6)
            .min(NEIGHBOURHOODS - 1)
    }

    fn set(&mut self, macroblock: (usize, usize), number: usize, length: usize) {
        let (plane, x, y) = Lengths::place(macroblock, number);
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
    use super::super::map::{RESIDUAL_STEPS, ZIGZAG};
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

    fn any_macroblock() -> impl Strategy<Value = Macroblock> {
        let blocks = prop::collection::vec(any_levels(), MACROBLOCK_BLOCKS);
        prop_oneof![
            Just(Macroblock::Neural),
            Just(Macroblock::Skip),
            blocks.prop_map(|blocks| Macroblock::Residual(Box::new(std::array::from_fn(|i| blocks[i])))),
        ]
    }

    fn any_map() -> impl Strategy<Value = ResidualMap> {
        (
            prop::collection::vec(any_macroblock(), WIDTH * HEIGHT),
            0..RESIDUAL_STEPS,
        )
            .prop_map(|(macroblocks, step)| {
                let map = ResidualMap {
                    step,
                    macroblocks,
                    ..ResidualMap::none(WIDTH, HEIGHT)
                };
                match map.has_static() {
                    true => map,
                    false => ResidualMap::none(WIDTH, HEIGHT),
                }
            })
    }

    fn history(before: &[ResidualMap]) -> ResidualContext {
        let mut history = ResidualContext::default();
        before.iter().for_each(|map| history.push(map));
        history
    }

    fn decode(history: &ResidualContext, bytes: &[u8]) -> Result<ResidualMap, EntropyError> {
        let mut map = ResidualMap::none(WIDTH, HEIGHT);
        code_residual(&mut UnitDecoder::new(bytes), history, Region::WHOLE, &mut map)?;
        Ok(map)
    }

    proptest! {
        #[test]
        fn any_residual_round_trips(map in any_map(), before in prop::collection::vec(any_map(), 0..3)) {
            let (mut coder, history) = (UnitEncoder::new(), history(&before));
            code_residual(&mut coder, &history, Region::WHOLE, &mut map.clone()).unwrap();
            prop_assert_eq!(decode(&history, &coder.finish()), Ok(map));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            let _ = decode(&ResidualContext::default(), &bytes);
        }
    }

    fn bits(history: &ResidualContext, map: &ResidualMap) -> f64 {
        let mut counter = BitCounter::default();
        code_residual(&mut counter, history, Region::WHOLE, &mut map.clone()).unwrap();
        counter.0
    }

    #[test]
    fn nothing_static_is_one_bit_and_all_static_as_before_is_a_few_bytes() {
        let none = ResidualMap::none(40, 23);
        assert_eq!(bits(&ResidualContext::default(), &none), 1.0);
        let still = ResidualMap {
            macroblocks: vec![Macroblock::Skip; 40 * 23],
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
