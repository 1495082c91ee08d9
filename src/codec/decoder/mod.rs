// SPDX-License-Identifier: MPL-2.0
//! Access units to frames: first all symbols, in integers, then the networks.

mod concealment;
mod painter;
mod post_filter;
mod resilient;
mod symbols;

use std::sync::Arc;

#[cfg(feature = "train")]
pub(crate) use concealment::follow_neighbours;
pub use painter::Painter;
pub use symbols::{EntropyDecoder, ParsedUnit};

use super::recon::{ReconstructionSettings, Wanted};
use super::{CodecError, Frame};
use crate::bitstream::SequenceHeader;
use crate::model::Model;

/// Access units to frames.
pub struct Decoder {
    entropy: EntropyDecoder,
    painter: Painter,
}

/// What to do without, to see what it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderSettings {
    /// Of what later pictures refer to.
    pub reconstruction: ReconstructionSettings,
    /// Whether small changes from frame to frame are smoothed.
    pub post_filter: bool,
}

impl Default for DecoderSettings {
    fn default() -> Self {
        DecoderSettings {
            reconstruction: ReconstructionSettings::default(),
            post_filter: true,
        }
    }
}

/// The frames of one unit.
#[derive(Debug)]
pub struct Decoded {
    /// The sequence header that the unit belongs to.
    pub sequence: SequenceHeader,
    /// As they are shown, one after the other.
    pub frames: Vec<Frame>,
}

impl Decoder {
    /// With all that there is.
    pub fn new(model: Arc<Model>) -> Decoder {
        Decoder::with_settings(model, DecoderSettings::default())
    }

    /// Without some parts, to see what they are worth.
    #[doc(hidden)]
    pub fn with_settings(model: Arc<Model>, settings: DecoderSettings) -> Decoder {
        Decoder {
            entropy: EntropyDecoder::new(model.clone()),
            painter: Painter::new(model, settings),
        }
    }

    /// Forgets everything; decoding starts at the next key unit.
    pub fn reset(&mut self) {
        self.entropy.reset();
    }

    /// Decodes one access unit, `unit` being exactly its bytes. After an error nothing can be decoded until the next key unit, unless the
    /// stream is one of which units may be lost. The frames of such a stream are complete: in front of the unit's are those that stand in
    /// for units that were lost before it.
    pub fn decode(&mut self, unit: &[u8]) -> Result<Decoded, CodecError> {
        let mut frames = Vec::new();
        let missing = self.entropy.missing_before(unit);
        for symbols in self.entropy.conceal(missing) {
            frames.extend(self.paint(&symbols)?);
        }
        let symbols = self.entropy.decode(unit)?;
        frames.extend(self.paint(&symbols)?);
        Ok(Decoded {
            sequence: symbols.sequence,
            frames,
        })
    }

    fn paint(&mut self, symbols: &ParsedUnit) -> Result<Vec<Frame>, CodecError> {
        let frames = self.painter.run(symbols, Wanted::All);
        if frames.is_err() {
            self.reset();
        }
        Ok(frames?.into_iter().flatten().collect())
    }
}
