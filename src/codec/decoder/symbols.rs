// SPDX-License-Identifier: MPL-2.0
//! Entropy decoding: access units to symbols. Integers only, a small part of a decoder's time.

use std::sync::Arc;

use crate::bitstream::{Clock, FrameTimes, SequenceHeader, UnitHeader};
use crate::codec::geometry::{in_macroblocks, in_tokens};
use crate::codec::CodecError;
use crate::entropy::{CodingContext, UnitSymbols, MASKED};
use crate::model::Model;

/// An access unit without its networks: its symbols, checked.
#[derive(Clone, Debug)]
pub struct ParsedUnit {
    /// The sequence header that the unit belongs to.
    pub sequence: SequenceHeader,
    /// Whether nothing before this unit is needed.
    pub is_key: bool,
    /// Presentation times of its frames.
    pub times: FrameTimes,
    /// Whether macroblocks become static that never were, as the unit before showed them last.
    pub starts_static: bool,
    pub(crate) symbols: UnitSymbols,
}

/// Access units to their symbols.
pub struct EntropyDecoder {
    model: Arc<Model>,
    stream: Option<Stream>,
}

/// What lasts from a key unit to the next.
struct Stream {
    sequence: SequenceHeader,
    context: CodingContext,
    clock: Clock,
}

impl EntropyDecoder {
    /// Before the first unit.
    pub fn new(model: Arc<Model>) -> EntropyDecoder {
        EntropyDecoder { model, stream: None }
    }

    /// Forgets everything; decoding starts at the next key unit.
    pub fn reset(&mut self) {
        self.stream = None;
    }

    /// Decodes one access unit, `unit` being exactly its bytes. After an error nothing can be decoded until
    /// the next key unit.
    pub fn decode(&mut self, unit: &[u8]) -> Result<ParsedUnit, CodecError> {
        let mut stream = self.stream.take();
        let (header, length) = UnitHeader::parse(unit)?;
        let payload = &unit[length..];
        if payload.len() != header.payload_length {
            return Err(CodecError::Truncated {
                found: unit.len(),
                expected: length + header.payload_length,
            });
        }
        if header.frames > self.model.group_frames() {
            return Err(CodecError::TooManyFrames {
                found: header.frames,
                expected: self.model.group_frames(),
            });
        }
        if let Some(sequence) = header.sequence {
            stream = Some(self.start(sequence)?);
        }
        let mut stream = stream.ok_or(CodecError::NoKeyUnit)?;
        let unit = stream.decode(&self.model, &header, payload)?;
        // A short unit ends the group of pictures: what follows would not line up with the encoder's.
        let goes_on = unit.is_key || header.frames == self.model.group_frames();
        self.stream = goes_on.then_some(stream);
        Ok(unit)
    }

    fn start(&self, sequence: SequenceHeader) -> Result<Stream, CodecError> {
        if sequence.model_id != self.model.id {
            return Err(CodecError::WrongModel {
                stream: sequence.model_id,
                loaded: self.model.id,
            });
        }
        Ok(Stream {
            sequence,
            context: CodingContext::default(),
            clock: Clock::new(&sequence),
        })
    }
}

impl Stream {
    fn decode(&mut self, model: &Model, header: &UnitHeader, payload: &[u8]) -> Result<ParsedUnit, CodecError> {
        let (times, payload) = self.times(header, payload)?;
        let macroblocks = (!header.is_key()).then(|| in_macroblocks(&self.sequence));
        let tokens = in_tokens(model, &self.sequence);
        let symbols = self.context.decode(model.contexts(), payload, tokens, macroblocks)?;
        has_check(header, symbols.check())?;
        if header.is_key() && symbols.tokens.tokens.contains(&MASKED) {
            return Err(CodecError::MaskedKeyUnit);
        }
        let starts_static = self.starts_static(&symbols);
        self.context.push(&symbols);
        Ok(ParsedUnit {
            sequence: self.sequence,
            is_key: header.is_key(),
            times,
            starts_static,
            symbols,
        })
    }

    fn starts_static(&self, symbols: &UnitSymbols) -> bool {
        let macroblocks = symbols.residual.iter().flat_map(|residual| &residual.macroblocks);
        let mut macroblocks = macroblocks.enumerate();
        macroblocks.any(|(at, macroblock)| macroblock.is_static() && !self.context.residual.is_known(at))
    }

    /// The times of a unit's frames and what follows them in the payload.
    fn times<'a>(&mut self, header: &UnitHeader, payload: &'a [u8]) -> Result<(FrameTimes, &'a [u8]), CodecError> {
        if header.is_key() {
            return Ok((vec![self.sequence.pts], payload));
        }
        let (times, length) = self.clock.parse(header.timing, header.frames, payload)?;
        Ok((times, &payload[length..]))
    }
}

/// Compares what was decoded with what the encoder meant.
fn has_check(header: &UnitHeader, found: u16) -> Result<(), CodecError> {
    match header.symbol_check {
        expected if expected == found => Ok(()),
        expected => Err(CodecError::SymbolCheck { found, expected }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::Timing;
    use crate::codec::{Encoder, EncoderSettings, Frame};
    use crate::entropy::{LatentMap, LatentMode, Masking, TokenMap, WantedLatents, WantedUnit};
    use crate::model::ModelSource;

    fn model() -> Arc<Model> {
        Model::load(&ModelSource::Embedded, "cpu").unwrap()
    }

    #[test]
    fn a_key_unit_with_masked_tokens_is_refused() {
        let model = model();
        let sequence = SequenceHeader {
            model_id: model.id,
            ..SequenceHeader::sample()
        };
        let (width, height) = in_tokens(&model, &sequence);
        let channels = model.latent_context().unwrap().weights().channels;
        let latents = LatentMap::zero(width, height, channels);
        let decode = |masked: bool| {
            let mut tokens = TokenMap::zero(width, height);
            if masked {
                tokens.tokens[1] = MASKED;
            }
            let latents = WantedLatents {
                latents: &latents,
                quantize: &|latent| latent.nearest(),
                skipped: &[],
            };
            let wanted = WantedUnit {
                tokens,
                masking: Masking::Adaptive,
                latents: Some((LatentMode::Absent, latents)),
                residual: None,
            };
            let coded = CodingContext::default().encode(model.contexts(), wanted).unwrap();
            let header = UnitHeader {
                sequence: Some(sequence),
                frames: 1,
                timing: Timing::Grid,
                payload_length: coded.payload.len(),
                symbol_check: coded.symbols.check(),
 resilience: None,
            };
            EntropyDecoder::new(model.clone()).decode(&[header.pack(), coded.payload].concat())
        };
        assert!(decode(false).is_ok());
        assert!(matches!(decode(true), Err(CodecError::MaskedKeyUnit)));
    }

    #[test]
    fn nothing_but_a_key_unit_follows_a_short_unit() {
        let model = model();
        let sequence = SequenceHeader::new(64, 48, (25, 1));
        let mut encoder = Encoder::new(model.clone(), sequence, EncoderSettings::default()).unwrap();
        let mut units = vec![];
        for _ in 0..12 {
            units.extend(encoder.push(Frame::grey(64, 48), false).unwrap());
        }
        units.extend(encoder.drain().unwrap());
        assert_eq!(units.iter().map(|unit| unit.frames).collect::<Vec<_>>(), [1, 8, 3]);
        let mut decoder = EntropyDecoder::new(model);
        for unit in &units {
            decoder.decode(&unit.bytes).unwrap();
        }
        assert!(matches!(decoder.decode(&units[2].bytes), Err(CodecError::NoKeyUnit)));
        assert!(decoder.decode(&units[0].bytes).is_ok());
    }
}
