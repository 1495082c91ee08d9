// SPDX-License-Identifier: MPL-2.0
//! Bits whose probabilities follow what has been coded so far.

use super::coder::SymbolCoder;
use super::probability::Probabilities;
use super::EntropyError;

/// How close to 0 and 1 probabilities come.
const LEAST: u32 = 1 << 7;

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
        const CERTAIN: u32 = (1 << 16) - LEAST;
        let one = &mut self.ones[context];
        let bit = coder.code(&Probabilities::binary(*one), usize::from(bit))? == 1;
        let target = if bit { CERTAIN } else { LEAST };
        let moved = (u32::from(*one) * ((1 << self.rate) - 1) + target) >> self.rate;
        *one = moved.clamp(LEAST, CERTAIN) as u16;
        Ok(bit)
    }
}
