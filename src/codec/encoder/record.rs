// SPDX-License-Identifier: MPL-2.0
//! What the encoder sends, for those who learn from it.

use super::unit::{Gop, TrialUnit};
use super::Encoder;
use crate::entropy::{CodingContext, UnitSymbols};

/// A unit as it was sent.
pub struct SentUnit {
    /// What was known before it, in the window of the unit that it refers to.
    pub before: CodingContext,
    /// As the decoder has them.
    pub symbols: UnitSymbols,
    /// The positions that keep the latents of the unit before, row by row; empty for none.
    pub skipped: Vec<bool>,
    /// In how many slices it was sent.
    pub slices: u8,
}

impl Encoder {
    /// Notes from now on what it sends: see [`Self::take_sent`].
    pub(crate) fn note_sent(&mut self) {
        self.sent = Some(vec![]);
    }

    /// What it has sent and noted.
    pub(crate) fn take_sent(&mut self) -> Vec<SentUnit> {
        self.sent.take().unwrap_or_default()
    }

    /// Notes the next unit of a group of pictures, if that is wanted.
    pub(super) fn note(&mut self, gop: &Gop, trial: &TrialUnit) {
        if let Some(sent) = &mut self.sent {
            sent.push(SentUnit {
                before: gop.context.clone(),
                symbols: trial.coded.symbols.clone(),
                skipped: trial.skipped.clone(),
                slices: trial.coded.slices.len() as u8,
            });
        }
    }
}
