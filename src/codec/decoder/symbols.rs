// SPDX-License-Identifier: MPL-2.0
//! Entropy decoding: access units to symbols. Integers only, a small part of a decoder's time.

use std::sync::Arc;

use super::resilient::{slices, ReceivedSlice, Receiver};
use crate::bitstream::{Clock, FrameTimes, Resilience, SequenceHeader, Slice, UnitHeader};
use crate::codec::geometry::grid;
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
    /// Share of its positions that were lost and are concealed, 0 to 1.
    pub lost: f32,
    /// Group of pictures and number, where all of the unit has come and its sender may refer to it: see
    /// [`crate::Encoder::acknowledge`].
    pub acknowledgement: Option<(u8, u8)>,
    pub(crate) symbols: UnitSymbols,
    /// Those positions, row by row; empty where none was lost.
    pub(crate) lost_positions: Vec<bool>,
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
    /// Where units may be lost.
    receiver: Option<Receiver>,
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

    /// Whether a key unit is worth asking for: without one the stream stays broken. A lost unit that others do without is not.
    pub fn wants_key(&self) -> bool {
        match self.stream.as_ref().map(|stream| &stream.receiver) {
            None => true,
            Some(None) => false,
            Some(Some(receiver)) => receiver.wants_key(),
        }
    }

    /// Decodes one access unit, `unit` being exactly its bytes. After an error nothing can be decoded until
    /// the next key unit.
    pub fn decode(&mut self, unit: &[u8]) -> Result<ParsedUnit, CodecError> {
        let parsed = UnitHeader::parse(unit);
        if parsed.is_err() && !self.conceals() {
            self.reset();
        }
        let (header, length) = parsed?;
        if header.resilience.is_some() {
            return self.decode_resilient(unit, &header);
        }
        let mut stream = self.stream.take();
        let payload = &unit[length..];
        if payload.len() != header.payload_length {
            return Err(CodecError::Truncated {
                found: unit.len(),
                expected: length + header.payload_length,
            });
        }
        self.check_frames(&header)?;
        if let Some(sequence) = header.sequence {
            stream = Some(self.start(sequence)?);
        }
        let mut stream = stream
            .filter(|stream| stream.receiver.is_none())
            .ok_or(CodecError::NoKeyUnit)?;
        let unit = stream.decode(&self.model, &header, payload)?;
        // A short unit ends the group of pictures: what follows would not line up with the encoder's.
        let goes_on = unit.is_key || header.frames == self.model.group_frames();
        self.stream = goes_on.then_some(stream);
        Ok(unit)
    }

    /// Whether the stream is one whose lost units are concealed.
    pub fn conceals(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.receiver.is_some())
    }

    /// Frames of each unit that is missing before one: see [`EntropyDecoder::conceal`]. Empty where units need each other.
    pub fn missing_before(&self, unit: &[u8]) -> Vec<usize> {
        let header = UnitHeader::parse(unit).map(|(header, _)| header);
        let resilience = header.as_ref().ok().and_then(|header| header.resilience);
        let (Some(stream), Ok(header), Some(resilience)) = (&self.stream, &header, resilience) else {
            return vec![];
        };
        stream.missing_before(header, &resilience, self.model.group_frames())
    }

    /// Whether another unit can be concealed before one comes.
    pub fn may_conceal(&self) -> bool {
        let receiver = self.stream.as_ref().and_then(|stream| stream.receiver.as_ref());
        receiver.is_some_and(|receiver| receiver.concealable() > 0)
    }

    /// Units in place of lost ones, of so many frames each; none where there is nothing to go on from.
    pub fn conceal(&mut self, missing: Vec<usize>) -> Vec<ParsedUnit> {
        let Some(stream) = &mut self.stream else { return vec![] };
        missing
            .into_iter()
            .filter_map(|frames| stream.conceal(frames))
            .collect()
    }

    /// Of a stream of which units may be lost: an error, too, leaves it as it was.
    fn decode_resilient(&mut self, bytes: &[u8], header: &UnitHeader) -> Result<ParsedUnit, CodecError> {
        self.check_frames(header)?;
        let slices = slices(bytes);
        if slices.is_empty() {
            return Err(CodecError::Truncated {
                found: bytes.len(),
                expected: bytes.len() + 1,
            });
        }
        let mut started = match header.sequence {
            Some(sequence) => Some(self.start(sequence)?),
            None => None,
        };
        let stream = started.as_mut().or(self.stream.as_mut()).ok_or(CodecError::NoKeyUnit)?;
        let unit = stream.decode_resilient(&self.model, header.is_key(), &slices)?;
        if started.is_some() {
            self.stream = started;
        }
        Ok(unit)
    }

    fn check_frames(&self, header: &UnitHeader) -> Result<(), CodecError> {
        let (found, expected) = (header.frames, self.model.group_frames());
        match found > expected {
            true => Err(CodecError::TooManyFrames { found, expected }),
            false => Ok(()),
        }
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
            receiver: None,
        })
    }
}

impl Stream {
    fn decode(&mut self, model: &Model, header: &UnitHeader, payload: &[u8]) -> Result<ParsedUnit, CodecError> {
        let (times, payload) = times(&mut self.clock, &self.sequence, header, payload)?;
        let grid = grid(model, &self.sequence);
        let symbols = self.context.decode(model.contexts(), payload, grid, Slice::WHOLE)?;
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
            lost: 0.0,
            acknowledgement: None,
            symbols,
            lost_positions: vec![],
        })
    }

    fn decode_resilient(
        &mut self,
        model: &Model,
        is_key: bool,
        slices: &[ReceivedSlice],
    ) -> Result<ParsedUnit, CodecError> {
        let receiver = match is_key {
            true => self.receiver.insert(Receiver::new(model, &self.sequence)),
            false => self.receiver.as_mut().ok_or(CodecError::NoKeyUnit)?,
        };
        let unit = receiver.decode(model, (&self.sequence, &mut self.clock), slices)?;
        let Resilience {
            group, unit: number, ..
        } = slices[0].resilience;
        let starts_static = self.starts_static(&unit.symbols);
        self.context.push(&unit.symbols);
        Ok(ParsedUnit {
            sequence: self.sequence,
            is_key,
            times: unit.times,
            starts_static,
            lost: share(&unit.lost),
            acknowledgement: unit.lost.is_empty().then_some((group, number)),
            symbols: unit.symbols,
            lost_positions: unit.lost,
        })
    }

    fn conceal(&mut self, frames: usize) -> Option<ParsedUnit> {
        let symbols = self.receiver.as_mut()?.conceal();
        Some(ParsedUnit {
            sequence: self.sequence,
            is_key: false,
            times: self.clock.pass(frames),
            starts_static: false,
            lost: 1.0,
            acknowledgement: None,
            lost_positions: vec![true; symbols.tokens.tokens.len()],
            symbols,
        })
    }

    fn missing_before(&self, header: &UnitHeader, resilience: &Resilience, group: usize) -> Vec<usize> {
        let Some(receiver) = &self.receiver else { return vec![] };
        match header.sequence {
            None => vec![group; receiver.missing_before(resilience)],
            Some(sequence) => {
                // A short unit stands before a key unit alone.
                let is_next = receiver.is_followed_by(resilience);
                let missing = sequence
                    .pts
                    .filter(|_| !is_next)
                    .map_or(0, |time| self.clock.missing_before(time));
                let missing = missing.min((receiver.concealable() * group) as u64) as usize;
                let whole = vec![group; missing / group];
                let rest = missing % group;
                whole.into_iter().chain((rest > 0).then_some(rest)).collect()
            }
        }
    }

    fn starts_static(&self, symbols: &UnitSymbols) -> bool {
        let known = self.context.known_macroblocks(symbols.camera.window);
        let macroblocks = symbols.residual.iter().flat_map(|residual| &residual.macroblocks);
        let mut macroblocks = macroblocks.enumerate();
        macroblocks.any(|(at, macroblock)| macroblock.is_static() && !known.is_known(at))
    }
}

/// Share of positions that are true, 0 to 1.
fn share(positions: &[bool]) -> f32 {
    let count = positions.iter().filter(|is_in| **is_in).count();
    count as f32 / positions.len().max(1) as f32
}

/// The times of a unit's frames and what follows them in the payload.
pub(super) fn times<'a>(
    clock: &mut Clock,
    sequence: &SequenceHeader,
    header: &UnitHeader,
    payload: &'a [u8],
) -> Result<(FrameTimes, &'a [u8]), CodecError> {
    if header.is_key() {
        return Ok((vec![sequence.pts], payload));
    }
    let (times, length) = clock.parse(header.timing, header.frames, payload)?;
    Ok((times, &payload[length..]))
}

/// Compares what was decoded with what the encoder meant.
pub(super) fn has_check(header: &UnitHeader, found: u16) -> Result<(), CodecError> {
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
    use crate::entropy::{as_wanted, Camera, LatentMap, LatentMode, Masking, TokenMap, WantedLatents, WantedUnit};
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
        let camera = Camera::key(grid(&model, &sequence));
        let (width, height) = camera.window.tokens();
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
                camera: camera.clone(),
                tokens,
                masking: Masking::Adaptive,
                choose: &as_wanted,
                latents: Some((LatentMode::Absent, latents)),
                residual: None,
            };
            let coded = CodingContext::default().encode(model.contexts(), wanted, 1).unwrap();
            let slice = &coded.slices[0];
            let header = UnitHeader {
                sequence: Some(sequence),
                frames: 1,
                timing: Timing::Grid,
                payload_length: slice.payload.len(),
                symbol_check: slice.check,
                resilience: None,
            };
            EntropyDecoder::new(model.clone()).decode(&[header.pack(), slice.payload.clone()].concat())
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
