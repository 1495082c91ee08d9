// SPDX-License-Identifier: MPL-2.0
//! Token maps, and those of earlier units that a unit refers to.

use crate::bitstream::{moved, View, FSQ_LEVELS};

/// Digits of a token.
pub const DIGITS: usize = FSQ_LEVELS.len();

/// Six FSQ digits, each below its entry of [`FSQ_LEVELS`].
pub type Token = [u8; DIGITS];

/// Stands for a token that is not sent: no digit is in its range. Networks and tables take these values for "not
/// there".
pub const MASKED: Token = FSQ_LEVELS;

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

    /// What another window sees of it.
    pub fn seen(&self, view: &View) -> TokenMap {
        let (width, height) = view.size();
        TokenMap {
            width,
            height,
            tokens: view.of(&self.tokens, 1),
        }
    }

    /// The token at a column and row, `None` outside of the map.
    pub fn get(&self, x: isize, y: isize) -> Option<&Token> {
        let inside = (0..self.width as isize).contains(&x) && (0..self.height as isize).contains(&y);
        inside.then(|| &self.tokens[y as usize * self.width + x as usize])
    }
}

/// The token maps that a unit may refer to: at each place the last token that was sent.
#[derive(Clone, Debug, Default)]
pub struct TokenContext {
    /// As of the previous unit.
    pub previous: Option<TokenMap>,
    /// As of the one before.
    pub older: Option<TokenMap>,
    /// Units since the key unit.
    pub units: u32,
    /// Which tokens of the previous unit were masked.
    pub(crate) masked: Vec<bool>,
}

impl TokenContext {
    /// Goes on in another window: of what comes in nothing has been sent.
    pub fn look(&mut self, view: &View) {
        for map in [&mut self.previous, &mut self.older].into_iter().flatten() {
            (map.width, map.height) = view.size();
            map.tokens = view.within(&map.tokens, 1, MASKED);
        }
        if !self.masked.is_empty() {
            self.masked = view.within(&self.masked, 1, false);
        }
    }

    /// Moves with what a unit's window shows: see [`crate::bitstream::MotionField::sources`].
    pub fn follow(&mut self, sources: &[usize]) {
        for map in [&mut self.previous, &mut self.older].into_iter().flatten() {
            map.tokens = moved(sources, &map.tokens, 1);
        }
        self.masked = moved(sources, &self.masked, 1);
    }

    /// Makes `map` the previous unit's.
    pub fn push(&mut self, mut map: TokenMap) {
        self.masked = map.tokens.iter().map(|t| *t == MASKED).collect();
        if let Some(previous) = &self.previous {
            for (token, before) in map.tokens.iter_mut().zip(&previous.tokens) {
                if *token == MASKED {
                    *token = *before;
                }
            }
        }
        self.older = self.previous.replace(map);
        self.units += 1;
    }
}
