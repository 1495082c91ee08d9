// SPDX-License-Identifier: MPL-2.0
//! What a decoder shows: what the networks paint, and what is frozen.

use super::detail::Canvas;
use super::restore::Restored;
use super::strips::Strip;
use super::synthesis::Synthesis;
use super::{CodecError, Frame};
use crate::bitstream::SequenceHeader;
use crate::entropy::DetailMap;
use crate::model::Model;

/// The pictures of a stream, unit by unit: a decoder's output, and in an encoder what its details add to.
#[derive(Debug)]
pub struct Reconstruction {
    synthesis: Synthesis,
    pub canvas: Canvas,
}

impl Reconstruction {
    pub fn new(model: &Model, sequence: &SequenceHeader) -> Reconstruction {
        Reconstruction {
            synthesis: Synthesis::new(Strip::cover(model, sequence)),
            canvas: Canvas::default(),
        }
    }

    /// What the networks make of a stream's next unit: all frames that a group has. `control`: whether the latents reach the picture.
    pub fn paint(
        &mut self,
        model: &Model,
        restored: &Restored,
        control: bool,
        sequence: &SequenceHeader,
    ) -> Result<Vec<Frame>, CodecError> {
        self.synthesis.run(model, restored, control, sequence)
    }

    /// Puts the frozen cells into what the networks made of a unit. `detail`: `None` in a key unit.
    pub fn freeze(&mut self, detail: Option<&DetailMap>, painted: &mut [Frame]) {
        self.canvas.push(detail, painted);
    }
}
