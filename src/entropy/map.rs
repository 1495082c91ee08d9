// SPDX-License-Identifier: MPL-2.0

/// Digits of a token.
pub const DIGITS: usize = crate::FSQ_LEVELS.len();

/// Six FSQ digits, each below its entry of [`crate::FSQ_LEVELS`].
pub type Token = [u8; DIGITS];

/// The tokens of one access unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMap {
    pub width: usize,
    pub height: usize,
    /// Row by row.
    pub tokens: Vec<Token>,
}

impl TokenMap {
    /// A map of zero digits.
    pub fn zero(width: usize, height: usize) -> TokenMap {
        TokenMap {
            width,
            height,
            tokens: vec![[0; DIGITS]; width * height],
        }
    }

    /// The token at a column and row, `None` outside of the map.
    pub fn get(&self, x: isize, y: isize) -> Option<&Token> {
        let inside = (0..self.width as isize).contains(&x) && (0..self.height as isize).contains(&y);
        inside.then(|| &self.tokens[y as usize * self.width + x as usize])
    }

    /// 16-bit check value: the CRC-32 of the digits in order, its halves added bit by bit.
    pub fn check(&self) -> u16 {
        let crc = crc32fast::hash(self.tokens.as_flattened());
        (crc >> 16 ^ crc) as u16
    }
}

/// The token maps that a unit may refer to.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The previous unit's.
    pub previous: Option<TokenMap>,
    /// The one before.
    pub older: Option<TokenMap>,
}

impl History {
    /// Makes `map` the previous unit's.
    pub fn push(&mut self, map: TokenMap) {
        self.older = self.previous.replace(map);
    }
}
