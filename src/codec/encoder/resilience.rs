// SPDX-License-Identifier: MPL-2.0
//! What units refer to where others may be lost.

use crate::bitstream::{Resilience, Slice, MAX_REFERENCE};
use crate::entropy::{CodingContext, References};

/// What of a stream may be lost without the rest being lost with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorResilience {
    /// Nothing: each unit needs all units since the key unit. The fewest bytes.
    #[default]
    None,
    /// Units: each needs the key unit alone, or one that the receiver has acknowledged.
    Units,
    /// Slices: units come in two or more parts, each of which needs the same part of the key unit alone.
    Slices {
        /// Bytes of a slice with its header, at most where 16 slices are enough for that.
        size: usize,
    },
}

/// The units of a group of pictures that later ones may refer to.
pub(super) struct Links {
    group: u8,
    references: References,
    /// Of the next unit.
    number: u8,
    acknowledged: Option<u8>,
}

impl Links {
    /// Of the group of pictures of a number, before its key unit.
    pub fn new(group: u8) -> Links {
        Links {
            group,
            references: References::default(),
            number: 0,
            acknowledged: None,
        }
    }

    /// Before the key unit again.
    pub fn forget_units(&mut self) {
        *self = Links::new(self.group);
    }

    /// Makes the next unit the one after. `context`: what is known after it. Gives what the one after it may know.
    pub fn push(&mut self, context: CodingContext) -> CodingContext {
        let positions = context.tokens.previous.as_ref().map_or(0, |map| map.tokens.len());
        let present = vec![true; positions];
        self.references.push(self.number, context, present);
        self.number = self.number.saturating_add(1);
        self.context()
    }

    /// The receiver has a unit, and what it needs.
    pub fn acknowledge(&mut self, group: u8, unit: u8) {
        if group == self.group && unit < self.number {
            self.acknowledged = self.acknowledged.max(Some(unit));
        }
    }

    /// What the next unit may know.
    pub fn context(&self) -> CodingContext {
        let context = self.references.context(self.number, self.reference());
        context.unwrap_or_default()
    }

    /// Of the next unit, since the key unit.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Whether there is no number for a further unit.
    pub fn are_full(&self) -> bool {
        self.number == u8::MAX
    }

    /// What the headers of the next unit's slices say.
    pub fn resilience(&self, slice: Slice) -> Resilience {
        Resilience {
            group: self.group,
            reference: self.reference(),
            unit: self.number,
            slice,
        }
    }

    /// How many units back the next one refers: to the last that was acknowledged, if it is near enough; 0: to the key unit.
    fn reference(&self) -> u8 {
        let back = self.acknowledged.map(|unit| self.number - unit);
        back.filter(|&back| back <= MAX_REFERENCE).unwrap_or(0)
    }
}
