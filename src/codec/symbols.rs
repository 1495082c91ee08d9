// SPDX-License-Identifier: MPL-2.0
//! Entropy decoding: access units to symbols. Integers only, a small part of a decoder's time.

use std::sync::Arc;

use super::analysis::in_tokens;
use super::detail::in_cells;
use super::past::Past;
use super::CodecError;
use crate::bitstream::{Clock, FrameTimes, SequenceHeader, UnitHeader};
use crate::entropy::{
    code_detail, symbol_check, DetailHistory, DetailMap, LatentMap, LatentMode, Masking, TokenMap, UnitDecoder,
};
use crate::model::Model;

/// The symbols of one access unit, checked.
#[derive(Clone, Debug)]
pub struct UnitSymbols {
    /// The sequence header that the unit belongs to.
    pub sequence: SequenceHeader,
    /// Whether nothing before this unit is needed.
    pub is_key: bool,
    /// Presentation times of its frames.
    pub times: FrameTimes,
    /// Whether cells that were never frozen are frozen as the unit before showed them last.
    pub freezes_shown: bool,
    pub(super) tokens: TokenMap,
    /// `None`: the model has none.
    pub(super) latents: Option<(LatentMode, LatentMap)>,
    /// `None` in a key unit.
    pub(super) detail: Option<DetailMap>,
}

/// Access units to their symbols.
pub struct EntropyDecoder {
    model: Arc<Model>,
    stream: Option<Stream>,
}

/// What lasts from a key unit to the next.
struct Stream {
    sequence: SequenceHeader,
    past: Past,
    detail: DetailHistory,
    clock: Clock,
}

impl EntropyDecoder {
    pub fn new(model: Arc<Model>) -> EntropyDecoder {
        EntropyDecoder { model, stream: None }
    }

    /// Forgets everything; decoding starts at the next key unit.
    pub fn reset(&mut self) {
        self.stream = None;
    }

    /// Decodes one access unit, `unit` being exactly its bytes. After an error nothing can be decoded until
    /// the next key unit.
    pub fn decode(&mut self, unit: &[u8]) -> Result<UnitSymbols, CodecError> {
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
            past: Past::default(),
            detail: DetailHistory::default(),
            clock: Clock::new(&sequence),
        })
    }
}

impl Stream {
    fn decode(&mut self, model: &Model, header: &UnitHeader, payload: &[u8]) -> Result<UnitSymbols, CodecError> {
        let (times, payload) = self.times(header, payload)?;
        let mut coder = UnitDecoder::new(payload);
        let (width, height) = in_tokens(model, &self.sequence);
        let mut tokens = TokenMap::zero(width, height);
        let past = &self.past;
        model
            .context
            .code(&mut coder, &past.tokens, Masking::None, &mut tokens)?;
        let latents = match &model.continuous {
            Some(continuous) => {
                let seen = (&tokens, &past.tokens);
                Some(continuous.context.decode(&mut coder, &past.latents, seen)?)
            }
            None => None,
        };
        let (width, height) = in_cells(&self.sequence);
        let mut cells = DetailMap::none(width, height);
        if !header.is_key() {
            code_detail(&mut coder, &self.detail, &mut cells)?;
        }
        let detail = (!header.is_key()).then_some(&cells);
        let check = symbol_check(&tokens, latents.as_ref().map(|(_, map)| map), detail);
        has_check(header, check)?;
        let freezes_shown = self.freezes_shown(&cells);
        self.detail.push(&cells);
        self.past
            .push(tokens.clone(), latents.as_ref().map(|(_, map)| map.clone()));
        Ok(UnitSymbols {
            sequence: self.sequence,
            is_key: header.is_key(),
            times,
            freezes_shown,
            tokens,
            latents,
            detail: (!header.is_key()).then_some(cells),
        })
    }

    /// Whether cells are frozen that never were before.
    fn freezes_shown(&self, cells: &DetailMap) -> bool {
        let is_new = |at: usize| cells.cells[at].is_frozen() && !self.detail.is_known(at);
        (0..cells.cells.len()).any(is_new)
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
