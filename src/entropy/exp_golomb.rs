// SPDX-License-Identifier: MPL-2.0
//! Numbers of which nothing is known but that small ones are likelier.

use super::coder::SymbolCoder;
use super::probability::Probabilities;
use super::EntropyError;

/// Most binary digits after the first.
const MAX_DIGITS: u32 = 15;

/// A number below 2^16 - 1 in Exp-Golomb code: as many ones as number + 1 has binary digits after its first, a zero, those digits.
pub(super) fn code_exp_golomb(coder: &mut impl SymbolCoder, value: u32) -> Result<u32, EntropyError> {
    let half = Probabilities::uniform(2);
    let wanted = (value + 1).ilog2();
    let mut bits = 0;
    while coder.code(&half, usize::from(bits < wanted))? == 1 {
        bits += 1;
        if bits > MAX_DIGITS {
            return Err(EntropyError::Damaged);
        }
    }
    let mut number = 1;
    for bit in (0..bits).rev() {
        number = number << 1 | coder.code(&half, ((value + 1) >> bit & 1) as usize)? as u32;
    }
    Ok(number - 1)
}
