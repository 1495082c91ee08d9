// SPDX-License-Identifier: MPL-2.0

use std::sync::Arc;

use tch::Tensor;

use super::colour::ycbcr;
use super::past::Past;
use super::restore::{Restoration, Restorer};
use super::{CodecError, Frame};
use crate::bitstream::{Clock, FrameTimes, SequenceHeader, UnitHeader};
use crate::entropy::{symbol_check, LatentMap, Masking, TokenMap, UnitDecoder};
use crate::model::{picture, Model, StreamState};

/// Access units to frames.
pub struct Decoder {
    model: Arc<Model>,
    settings: DecoderSettings,
    stream: Option<Stream>,
}

/// What to do without, to see what it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderSettings {
    pub restoration: Restoration,
    /// Whether the latents reach the picture.
    pub control: bool,
}

impl Default for DecoderSettings {
    fn default() -> Self {
        DecoderSettings {
            restoration: Restoration::default(),
            control: true,
        }
    }
}

/// What lasts from a key unit to the next.
struct Stream {
    sequence: SequenceHeader,
    state: StreamState,
    control_state: StreamState,
    past: Past,
    restorer: Restorer,
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
        Decoder::with_settings(model, DecoderSettings::default())
    }

    pub fn with_settings(model: Arc<Model>, settings: DecoderSettings) -> Decoder {
        Decoder {
            model,
            settings,
            stream: None,
        }
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
        let (times, payload) = unit_times(&mut stream, &header, payload)?;
        let (tokens, latents) = self.decode_symbols(&stream, &header, payload)?;
        let pictures = self.pictures(&tokens, latents.as_ref(), &mut stream)?;
        let (width, height) = (stream.sequence.width as usize, stream.sequence.height as usize);
        let colour = self.model.tokenizer.config.colour();
        let quads = picture::from_network(&pictures, colour, ycbcr(&stream.sequence))?;
        let quads = quads.f_narrow(1, 0, header.frames as i64)?;
        let mut frames = Frame::from_quads(&quads, width, height)?;
        frames.iter_mut().zip(times).for_each(|(frame, time)| frame.pts = time);
        stream.past.push(tokens, latents);
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
            control_state: StreamState::default(),
            past: Past::default(),
            restorer: Restorer::new(self.settings.restoration),
            clock,
        })
    }

    fn decode_symbols(
        &self,
        stream: &Stream,
        header: &UnitHeader,
        payload: &[u8],
    ) -> Result<(TokenMap, Option<LatentMap>), CodecError> {
        let factor = self.model.tokenizer.config.spatial_factor() as usize;
        let count = |size: u32| (size as usize).div_ceil(factor);
        let mut tokens = TokenMap::zero(count(stream.sequence.width), count(stream.sequence.height));
        let (mut coder, past) = (UnitDecoder::new(payload), &stream.past);
        self.model
            .context
            .code(&mut coder, &past.tokens, Masking::None, &mut tokens)?;
        let latents = match &self.model.continuous {
            Some(continuous) => {
                let decoded = continuous
                    .context
                    .decode(&mut coder, &past.latents, (&tokens, &past.tokens))?;
                Some(decoded.1)
            }
            None => None,
        };
        match symbol_check(&tokens, latents.as_ref()) {
            found if found == header.symbol_check => Ok((tokens, latents)),
            found => Err(CodecError::SymbolCheck {
                found,
                expected: header.symbol_check,
            }),
        }
    }

    /// Runs the tokenizer's decoder over one unit, with the control branch where there are latents: pictures
    /// `[1, t, c, h', w']` in its colours.
    fn pictures(
        &self,
        tokens: &TokenMap,
        latents: Option<&LatentMap>,
        stream: &mut Stream,
    ) -> Result<Tensor, CodecError> {
        let _no_grad = tch::no_grad_guard();
        let (tokenizer, model) = (&self.model.tokenizer, &self.model);
        let restored = stream.restorer.push(model, tokens, latents)?;
        let codes = tokenizer.fsq.codes(&restored.digits)?;
        let control = match (&model.continuous, &restored.latents) {
            (Some(continuous), Some(latents)) if self.settings.control => {
                continuous
                    .fusion
                    .control(&codes, latents, 1, model.kind, &mut stream.control_state)?
            }
            _ => vec![],
        };
        Ok(tokenizer.decode_controlled(&codes, &control, 1, model.kind, &mut stream.state)?)
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
