// SPDX-License-Identifier: MPL-2.0
//! One range coder for all symbols of a unit.

use constriction::backends::Cursor;
use constriction::stream::queue::{RangeDecoder, RangeEncoder};
use constriction::stream::{Decode, Encode};
use constriction::UnwrapInfallible;

use super::probability::{SymbolModel, PRECISION};
use super::EntropyError;

/// What gives or takes symbols in coding order.
pub trait SymbolCoder {
    /// Codes one symbol: an encoder returns `symbol`, a decoder the one that it reads.
    fn code(&mut self, model: &impl SymbolModel, symbol: usize) -> Result<usize, EntropyError>;

    /// Bits that an encoder has written so far, to a few; 0 of others.
    fn bits(&self) -> usize {
        0
    }
}

/// Writes the symbols of a unit.
#[derive(Clone, Debug, Default)]
pub struct UnitEncoder(RangeEncoder<u16, u64>);

impl UnitEncoder {
    pub fn new() -> UnitEncoder {
        UnitEncoder::default()
    }

    /// The unit's bytes. End-of-coder overhead is at most 4 bytes.
    pub fn finish(self) -> Vec<u8> {
        let words = self.0.into_compressed().unwrap_infallible();
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u16::to_be_bytes).collect();
        // The decoder reads zeros after the end.
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        bytes
    }
}

impl SymbolCoder for UnitEncoder {
    fn code(&mut self, model: &impl SymbolModel, symbol: usize) -> Result<usize, EntropyError> {
        self.0
            .encode_symbol(symbol, model)
            .map_err(|_| EntropyError::Model(format!("symbol {symbol} is out of range")))?;
        Ok(symbol)
    }

    fn bits(&self) -> usize {
        self.0.num_bits()
    }
}

/// Reads what a [`UnitEncoder`] wrote. Damaged bytes mostly give wrong symbols rather than an error.
pub struct UnitDecoder(RangeDecoder<u16, u64, Cursor<u16, Vec<u16>>>);

impl UnitDecoder {
    pub fn new(bytes: &[u8]) -> UnitDecoder {
        let word = |pair: &[u8]| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let words: Vec<u16> = bytes.chunks(2).map(word).collect();
        UnitDecoder(RangeDecoder::from_compressed(words).unwrap_infallible())
    }
}

impl SymbolCoder for UnitDecoder {
    fn code(&mut self, model: &impl SymbolModel, _: usize) -> Result<usize, EntropyError> {
        self.0.decode_symbol(model).map_err(|_| EntropyError::Damaged)
    }
}

/// Counts bits without coding.
#[derive(Clone, Copy, Debug, Default)]
pub struct BitCounter(pub f64);

impl SymbolCoder for BitCounter {
    fn code(&mut self, model: &impl SymbolModel, symbol: usize) -> Result<usize, EntropyError> {
        let (_, probability) = model
            .left_cumulative_and_probability(symbol)
            .ok_or_else(|| EntropyError::Model(format!("symbol {symbol} is out of range")))?;
        self.0 += PRECISION as f64 - f64::from(probability.get()).log2();
        Ok(symbol)
    }
}
