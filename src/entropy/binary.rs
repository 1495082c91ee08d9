// SPDX-License-Identifier: MPL-2.0
//! Binary decisions whose probabilities follow what has been coded so far, and numbers made of them.

use super::probability::Probabilities;
use super::range_coder::SymbolCoder;
use super::EntropyError;

/// How close to 0 and 1 probabilities come.
const LEAST: u32 = 1 << 7;

/// Codes a bit and moves the probability of a one, in 2^-16, by 2^-rate of the error.
fn code_bit(coder: &mut impl SymbolCoder, one: &mut u16, bit: bool, rate: u32) -> Result<bool, EntropyError> {
    const CERTAIN: u32 = (1 << 16) - LEAST;
    let bit = coder.code(&Probabilities::binary(*one), usize::from(bit))? == 1;
    let target = if bit { CERTAIN } else { LEAST };
    let moved = (u32::from(*one) * ((1 << rate) - 1) + target) >> rate;
    *one = moved.clamp(LEAST, CERTAIN) as u16;
    Ok(bit)
}

/// Probabilities of a one in 2^-16, one for each context.
pub(super) struct AdaptiveBits<const N: usize> {
    ones: [u16; N],
    /// Each bit moves its probability by 2^-rate of the error.
    rate: u32,
}

impl<const N: usize> AdaptiveBits<N> {
    pub(super) fn new(ones: [u16; N], rate: u32) -> AdaptiveBits<N> {
        AdaptiveBits { ones, rate }
    }

    pub(super) fn code(
        &mut self,
        coder: &mut impl SymbolCoder,
        context: usize,
        bit: bool,
    ) -> Result<bool, EntropyError> {
        code_bit(coder, &mut self.ones[context], bit, self.rate)
    }
}

/// How many bits of a context move its probability by less and less: the last ones by 2^-LEARNT.
const LEARNT: u32 = 5;

/// What the probabilities at first are worth, in bits.
const TRUST: u8 = 6;

/// Bits of many contexts of which little is known at first: the first ones move their probability most.
pub(super) struct LearningBits {
    /// Probability of a one in 2^-16, and bits so far.
    contexts: Vec<(u16, u8)>,
}

impl LearningBits {
    /// `first`: the probability of a one in each context, as it usually is.
    pub(super) fn new(first: &[u16]) -> LearningBits {
        LearningBits {
            contexts: first.iter().map(|&one| (one, TRUST)).collect(),
        }
    }

    pub(super) fn code(
        &mut self,
        coder: &mut impl SymbolCoder,
        context: usize,
        bit: bool,
    ) -> Result<bool, EntropyError> {
        let (one, seen) = &mut self.contexts[context];
        // A mean over the bits so far, as long as they are few.
        let rate = (u32::from(*seen) + 2).ilog2().min(LEARNT);
        *seen = seen.saturating_add(1);
        code_bit(coder, one, bit, rate)
    }
}

/// A number above -2^16 and below 2^16: whether it is none, in a context, its sign, and its size in Exp-Golomb code.
pub(super) fn code_signed(
    coder: &mut impl SymbolCoder,
    is_any: &mut LearningBits,
    context: usize,
    value: i32,
) -> Result<i32, EntropyError> {
    if !is_any.code(coder, context, value != 0)? {
        return Ok(0);
    }
    let half = Probabilities::uniform(2);
    let is_negative = coder.code(&half, usize::from(value < 0))? == 1;
    let size = 1 + code_exp_golomb(coder, value.unsigned_abs().saturating_sub(1))? as i32;
    Ok(if is_negative { -size } else { size })
}

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
