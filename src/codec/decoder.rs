// SPDX-License-Identifier: MPL-2.0

use std::sync::Arc;

use tch::Tensor;

use super::{CodecError, Frame};
use crate::bitstream::{Clock, FrameTimes, SequenceHeader, UnitHeader};
use crate::entropy::{History, TokenMap};
use crate::model::{Model, StreamState};

/// Access units to frames.
pub struct Decoder {
    model: Arc<Model>,
    stream: Option<Stream>,
}

/// What lasts from a key unit to the next.
struct Stream {
    sequence: SequenceHeader,
    state: StreamState,
    history: History,
    clock: Clock,
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
        Decoder { model, stream: None }
    }

    /// Forgets the past; the next unit must be a key unit.
    pub fn reset(&mut self) {
        self.stream = None;
    }

    /// Decodes one access unit, `unit` being exactly its bytes. After an error nothing can be decoded until
    /// the next key unit.
    pub fn decode(&mut self, unit: &[u8]) -> Result<Decoded, CodecError> {
        let mut stream = self.stream.take();
        let (header, length) = UnitHeader::parse(unit)?;
        let payload = &unit[length..];
        if payload.len() != header.payload_length {
            return Err(CodecError::Truncated {
                found: unit.len(),
                expected: length + header.payload_length,
            });
        }
        if let Some(sequence) = header.sequence {
            stream = Some(self.start(sequence)?);
        }
        let mut stream = stream.ok_or(CodecError::NoKeyUnit)?;
        let (times, payload) = unit_times(&mut stream, &header, payload)?;
        let tokens = self.decode_tokens(&stream, &header, payload)?;
        let pictures = self.detokenize(&tokens, &mut stream.state)?;
        let (width, height) = (stream.sequence.width as usize, stream.sequence.height as usize);
        let pictures = pictures.f_narrow(1, 0, header.frames as i64)?;
        let mut frames = Frame::from_quads(&pictures, width, height)?;
        frames.iter_mut().zip(times).for_each(|(frame, time)| frame.pts = time);
        stream.history.push(tokens);
        let decoded = Decoded {
            sequence: stream.sequence,
            frames,
        };
        self.stream = Some(stream);
        Ok(decoded)
    }

    fn start(&self, sequence: SequenceHeader) -> Result<Stream, CodecError> {
        if sequence.model_id != self.model.id {
            return Err(CodecError::WrongModel {
                stream: sequence.model_id,
                loaded: self.model.id,
            });
        }
        let clock = Clock::new(&sequence);
        Ok(Stream {
            sequence,
            state: StreamState::default(),
            history: History::default(),
            clock,
        })
    }

    fn decode_tokens(&self, stream: &Stream, header: &UnitHeader, payload: &[u8]) -> Result<TokenMap, CodecError> {
        let factor = self.model.tokenizer.config.spatial_factor() as usize;
        let count = |size: u32| (size as usize).div_ceil(factor);
        let (width, height) = (count(stream.sequence.width), count(stream.sequence.height));
        let tokens = self.model.context.decode(&stream.history, width, height, payload)?;
        match tokens.check() {
            found if found == header.token_check => Ok(tokens),
            found => Err(CodecError::TokenCheck {
                found,
                expected: header.token_check,
            }),
        }
    }

    /// Runs the tokenizer's decoder over one map: quad pictures `[1, t, 6, h/2, w/2]`.
    fn detokenize(&self, tokens: &TokenMap, state: &mut StreamState) -> Result<Tensor, CodecError> {
        let _no_grad = tch::no_grad_guard();
        let (tokenizer, model) = (&self.model.tokenizer, &self.model);
        let digits = Tensor::f_from_slice(tokens.tokens.as_flattened())?
            .f_view([1, tokens.height as i64, tokens.width as i64, -1])?
            .f_permute([0, 3, 1, 2])?
            .f_to_device(model.device)?;
        let codes = tokenizer.fsq.codes(&digits)?;
        Ok(tokenizer.decode(&codes, 1, model.kind, state)?)
    }
}

/// The times of a unit's frames and what follows them in the payload.
fn unit_times<'a>(
    stream: &mut Stream,
    header: &UnitHeader,
    payload: &'a [u8],
) -> Result<(FrameTimes, &'a [u8]), CodecError> {
    if header.is_key() {
        return Ok((vec![stream.sequence.pts], payload));
    }
    let (times, length) = stream.clock.parse(header.timing, header.frames, payload)?;
    Ok((times, &payload[length..]))
}
