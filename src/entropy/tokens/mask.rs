// SPDX-License-Identifier: MPL-2.0
//! Which tokens of a unit are sent.

use super::map::{TokenContext, TokenMap, DIGITS, MASKED};
use crate::entropy::binary::AdaptiveBits;
use crate::entropy::probability::Probabilities;
use crate::entropy::range_coder::SymbolCoder;
use crate::entropy::region::Region;
use crate::entropy::EntropyError;

/// Probabilities in 2^-16 that a token is masked, before any is known: one for each of the contexts.
const FIRST: [u16; 16] = [1 << 15; 16];
/// log2 of how slowly they move.
const RATE: u32 = 4;

/// How a unit says which of its tokens are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masking {
    /// All of them.
    None,
    /// One, two or three tokens of every 2x2 square are left out; which ones changes from unit to unit.
    Pattern(u8),
    /// One bit per token.
    Adaptive,
}

impl Masking {
    const KINDS: usize = 5;

    fn index(self) -> usize {
        match self {
            Masking::None => 0,
            Masking::Pattern(quarters) => usize::from(quarters),
            Masking::Adaptive => 4,
        }
    }

    fn from_index(index: usize) -> Masking {
        match index {
            0 => Masking::None,
            4 => Masking::Adaptive,
            quarters => Masking::Pattern(quarters as u8),
        }
    }
}

/// True where a pattern leaves out the token at a column and row: the squares' places are taken in the order of
/// the diagonals, which begins one place later in every unit.
pub fn pattern_masks(quarters: u8, unit: u32, x: usize, y: usize) -> bool {
    const ORDER: [[u32; 2]; 2] = [[0, 2], [3, 1]];
    (ORDER[y % 2][x % 2] + unit) % 4 < u32::from(quarters)
}

/// Codes the kind of masking and, where it is adaptive, a bit per token of a region; all others are masked. On an encoder's side `map` says what is
/// masked, on a decoder's it is filled with [`MASKED`] and zeros accordingly.
pub(super) fn code_mask(
    coder: &mut impl SymbolCoder,
    masking: Masking,
    history: &TokenContext,
    region: Region,
    map: &mut TokenMap,
) -> Result<(), EntropyError> {
    let kind = coder.code(&Probabilities::uniform(Masking::KINDS), masking.index())?;
    let masking = Masking::from_index(kind);
    let mut bits = AdaptiveBits::new(FIRST, RATE);
    for y in 0..map.height {
        for x in 0..map.width {
            let at = y * map.width + x;
            if !region.contains((x, y), map.height) {
                map.tokens[at] = MASKED;
                continue;
            }
            let masked = match masking {
                Masking::None => false,
                Masking::Pattern(quarters) => pattern_masks(quarters, history.units, x, y),
                Masking::Adaptive => {
                    let context = mask_context(history, map, x, y);
                    bits.code(coder, context, map.tokens[at] == MASKED)?
                }
            };
            if masked {
                map.tokens[at] = MASKED;
            } else if map.tokens[at] == MASKED {
                map.tokens[at] = [0; DIGITS];
            }
        }
    }
    Ok(())
}

/// Left, upper and upper right neighbour, and the same place in the unit before.
fn mask_context(history: &TokenContext, map: &TokenMap, x: usize, y: usize) -> usize {
    let (x, y) = (x as isize, y as isize);
    let neighbour = |dx, dy| usize::from(map.get(x + dx, y + dy).is_some_and(|t| *t == MASKED));
    let before = history
        .masked
        .get(y as usize * map.width + x as usize)
        .copied()
        .unwrap_or(false);
    neighbour(-1, 0) + 2 * neighbour(0, -1) + 4 * neighbour(1, -1) + 8 * usize::from(before)
}
