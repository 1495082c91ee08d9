// SPDX-License-Identifier: MPL-2.0
//! For tests: what symbols take in the integer coder.

use crate::entropy::{BitCounter, EntropyError, SymbolCoder, SymbolModel};

/// Counts the bits of what comes after the first so many symbols.
pub struct After(pub usize, pub BitCounter);

impl SymbolCoder for After {
    fn code(&mut self, model: &impl SymbolModel, symbol: usize) -> Result<usize, EntropyError> {
        if self.0 == 0 {
            return self.1.code(model, symbol);
        }
        self.0 -= 1;
        Ok(symbol)
    }
}
