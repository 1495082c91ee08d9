// SPDX-License-Identifier: MPL-2.0
//! At which positions a unit keeps the latents of the unit before.

use super::map::LatentContext;
use crate::entropy::binary::AdaptiveBits;
use crate::entropy::probability::Probabilities;
use crate::entropy::range_coder::SymbolCoder;
use crate::entropy::region::Region;
use crate::entropy::tokens::{TokenContext, TokenMap, DIGITS, MASKED};
use crate::entropy::EntropyError;

/// Neighbours that are looked at: columns and rows from the position.
const NEIGHBOURS: [(isize, isize); 4] = [(-1, 0), (0, -1), (-1, -1), (1, -1)];
/// Levels of change of a position's token.
const CHANGES: usize = 4;
/// Contexts: change of the token, number of neighbours that are skipped, whether the position was skipped in the unit before.
const CONTEXTS: usize = CHANGES * (NEIGHBOURS.len() + 1) * 2;
/// log2 of how slowly the probabilities move.
const RATE: u32 = 5;
/// Probabilities in 2^-16 that a unit begins with: counted in 18 of the clips that the model was trained on, at four operating points.
/// Rows: changes of the token; columns: by neighbours that are skipped, those of positions that were not skipped before and of those that were.
const FIRST: [u16; CONTEXTS] = [
    17552, 50697, 47633, 62360, 48181, 59742, 54248, 60669, 62998, 64553, //
    9296, 35181, 27211, 52497, 33698, 50871, 41896, 55144, 56711, 62012, //
    5013, 26688, 16040, 41607, 23843, 44242, 31974, 50239, 47741, 59439, //
    1797, 16675, 8648, 27159, 13876, 31397, 19929, 40282, 34251, 54121,
];

/// Codes whether any position of a region is skipped, and if so a bit for each. `skipped`: on an encoder's side what to say, row by row, empty for
/// no position; not used on a decoder's. Gives `None` where no position is skipped, as always without a unit before.
pub(super) fn code_skip_map(
    coder: &mut impl SymbolCoder,
    history: &LatentContext,
    (tokens, before): (&TokenMap, &TokenContext),
    region: Region,
    skipped: &[bool],
) -> Result<Option<Vec<bool>>, EntropyError> {
    let Some(previous) = &history.previous else {
        return Ok(None);
    };
    let wanted = |at: usize| skipped.get(at).copied().unwrap_or(false);
    let positions: Vec<usize> = region
        .positions(tokens.width, tokens.height)
        .enumerate()
        .filter_map(|(at, is_in)| is_in.then_some(at))
        .collect();
    let any = positions.iter().any(|&at| wanted(at));
    if coder.code(&Probabilities::uniform(2), usize::from(any))? == 0 {
        return Ok(None);
    }
    let mut bits = AdaptiveBits::new(FIRST, RATE);
    let mut coded = vec![false; tokens.tokens.len()];
    for at in positions {
        let stood = history
            .older
            .as_ref()
            .is_some_and(|older| older.position(at) == previous.position(at));
        let context = (change(tokens, before, at) * (NEIGHBOURS.len() + 1) + neighbours(&coded, tokens.width, at)) * 2
            + usize::from(stood);
        coded[at] = bits.code(coder, context, wanted(at))?;
    }
    Ok(Some(coded))
}

/// None, one, two to three, or more digits of a token changed; one where that cannot be told.
fn change(tokens: &TokenMap, before: &TokenContext, at: usize) -> usize {
    let (now, then) = (tokens.tokens[at], before.previous.as_ref().map(|map| map.tokens[at]));
    match then.filter(|then| now != MASKED && *then != MASKED) {
        Some(then) => match (0..DIGITS).filter(|&k| now[k] != then[k]).count() {
            0 => 0,
            1 => 1,
            2 | 3 => 2,
            _ => 3,
        },
        None => 1,
    }
}

/// How many of the neighbours that have been coded are skipped.
fn neighbours(coded: &[bool], width: usize, at: usize) -> usize {
    let (x, y) = ((at % width) as isize, (at / width) as isize);
    let is_skipped = |(dx, dy): &(isize, isize)| {
        let (x, y) = (x + dx, y + dy);
        (0..width as isize).contains(&x) && y >= 0 && coded[y as usize * width + x as usize]
    };
    NEIGHBOURS.iter().filter(|offset| is_skipped(offset)).count()
}

/// How many of the eight neighbours of a position are skipped.
pub(super) fn skipped_around(skipped: &[bool], width: usize, at: usize) -> usize {
    let (x, y) = ((at % width) as isize, (at / width) as isize);
    let around = (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dx, dy)));
    around
        .filter(|&(dx, dy)| {
            let (x, y) = (x + dx, y + dy);
            let inside = (0..width as isize).contains(&x) && y >= 0 && (dx, dy) != (0, 0);
            inside && skipped.get(y as usize * width + x as usize).copied().unwrap_or(false)
        })
        .count()
}
