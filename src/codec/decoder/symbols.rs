// SPDX-License-Identifier: MPL-2.0
//! Entropy decoding: access units to symbols. Integers only, a small part of a decoder's time.

use std::sync::Arc;

use crate::bitstream::{Clock, FrameTimes, SequenceHeader, UnitHeader};
use crate::codec::geometry::{in_macroblocks, in_tokens};
use crate::codec::CodecError;
use crate::entropy::{CodingContext, UnitSymbols};
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
        let symbols = stream.decode(&self.model, &header, payload)?;
        self.stream = Some(stream);
        Ok(symbols)
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
