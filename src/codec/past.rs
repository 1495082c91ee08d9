// SPDX-License-Identifier: MPL-2.0

use crate::entropy::{History, LatentHistory, LatentMap, TokenMap};

/// What encoder and decoder know of the units since the key unit, bit by bit the same.
#[derive(Debug, Default)]
pub struct Past {
    pub tokens: History,
    pub latents: LatentHistory,
}

impl Past {
    /// Makes a unit the previous one.
    pub fn push(&mut self, tokens: TokenMap, latents: Option<LatentMap>) {
        self.tokens.push(tokens);
        if let Some(latents) = latents {
            self.latents.push(latents);
        }
    }
}
