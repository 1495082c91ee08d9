// SPDX-License-Identifier: MPL-2.0

use std::sync::Arc;

use super::reconstruction::{Reconstruction, Wanted};
use super::restore::Restoration;
use super::symbols::EntropyDecoder;
use super::{CodecError, Frame};
use crate::bitstream::SequenceHeader;
use crate::model::Model;

/// Access units to frames.
pub struct Decoder {
    entropy: EntropyDecoder,
    reconstruction: Reconstruction,
}

/// What to do without, to see what it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderSettings {
    pub restoration: Restoration,
    /// Whether the latents reach the picture.
    pub control: bool,
    /// Whether small changes from frame to frame are smoothed.
    pub smoothing: bool,
    /// Whether spots in the grid of the tokens are filled.
    pub spots: bool,
}

impl Default for DecoderSettings {
    fn default() -> Self {
        DecoderSettings {
            restoration: Restoration::default(),
            control: true,
            smoothing: true,
            spots: true,
        }
    }
}

/// The frames of one unit.
#[derive(Debug)]
pub struct Decoded {
    /// The sequence header that the unit belongs to.
    pub sequence: SequenceHeader,
    pub frames: Vec<Frame>,
}

impl Decoder {
    pub fn new(model: Arc<Model>) -> Decoder {
        Decoder::with_settings(model, DecoderSettings::default())
    }

    pub fn with_settings(model: Arc<Model>, settings: DecoderSettings) -> Decoder {
        Decoder {
            entropy: EntropyDecoder::new(model.clone()),
            reconstruction: Reconstruction::new(model, settings),
        }
    }

    /// Forgets everything; decoding starts at the next key unit.
    pub fn reset(&mut self) {
        self.entropy.reset();
    }

    /// Decodes one access unit, `unit` being exactly its bytes. After an error nothing can be decoded until
    /// the next key unit.
    pub fn decode(&mut self, unit: &[u8]) -> Result<Decoded, CodecError> {
        let symbols = self.entropy.decode(unit)?;
        let frames = self.reconstruction.run(&symbols, Wanted::All);
        if frames.is_err() {
            self.reset();
        }
        Ok(Decoded {
            sequence: symbols.sequence,
            frames: frames?.into_iter().flatten().collect(),
        })
    }
}
