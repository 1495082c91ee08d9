// SPDX-License-Identifier: MPL-2.0
//! The units that a unit of a resilient stream may refer to, the same in encoder and decoder.

use std::collections::VecDeque;

use super::region::Region;
use super::unit::CodingContext;
use crate::bitstream::MAX_REFERENCE;

/// The units since the key unit, as far as they can be referred to.
#[derive(Clone, Debug, Default)]
pub struct References {
    /// The key unit, then the last ones.
    units: VecDeque<Reference>,
}

#[derive(Clone, Debug)]
struct Reference {
    number: u8,
    context: CodingContext,
    /// Positions of the token map that have come, row by row.
    present: Vec<bool>,
}

impl References {
    /// Notes what is known after a unit, the key unit first. `present`: the positions whose slices are there; of the others nothing is known.
    pub fn push(&mut self, number: u8, mut context: CodingContext, present: Vec<bool>) {
        context.tokens.older = None;
        context.latents.older = None;
        self.units.push_back(Reference {
            number,
            context,
            present,
        });
        if self.units.len() > 1 + usize::from(MAX_REFERENCE) {
            self.units.remove(1);
        }
    }

    /// What is known to the unit of a number that refers so many units back, 0 to the key unit; `None` where that unit is not there.
    pub fn context(&self, number: u8, back: u8) -> Option<CodingContext> {
        let reference = self.reference(number, back)?;
        let mut context = reference.context.clone();
        context.tokens.units = number.into();
        Some(context)
    }

    /// Whether all that a slice refers to has come.
    pub fn are_present(&self, number: u8, back: u8, region: Region) -> bool {
        let Some(Reference { context, present, .. }) = self.reference(number, back) else {
            return false;
        };
        let Some(window) = context.camera.map(|camera| camera.window()) else {
            return false;
        };
        let (width, height) = window.tokens();
        let positions = region.within_other(&window).positions(width, height);
        positions
            .zip(present)
            .all(|(is_needed, &is_present)| is_present || !is_needed)
    }

    fn reference(&self, number: u8, back: u8) -> Option<&Reference> {
        let wanted = match back {
            0 => 0,
            back => number.checked_sub(back)?,
        };
        self.units.iter().find(|unit| unit.number == wanted)
    }
}
