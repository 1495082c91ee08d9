// SPDX-License-Identifier: MPL-2.0

use std::sync::Arc;

use super::analysis::in_tokens;
use super::detail::{in_cells, Canvas};
use super::past::Past;
use super::restore::{Restoration, Restorer};
use super::smoothing::Smoother;
use super::strips::Strip;
use super::synthesis::{Painting, Synthesis};
use super::{CodecError, Frame};
use crate::bitstream::{Clock, FrameTimes, SequenceHeader, UnitHeader};
use crate::entropy::{code_detail, symbol_check, DetailMap, LatentMap, LatentMode, Masking, TokenMap, UnitDecoder};
use crate::model::{Model, TimeSteps};

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

/// What lasts from a key unit to the next.
struct Stream {
    sequence: SequenceHeader,
    synthesis: Synthesis,
    canvas: Canvas,
    past: Past,
    restorer: Restorer,
    smoother: Smoother,
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
        let symbols = self.decode_symbols(&stream, &header, payload)?;
        let (tokens, latents) = (&symbols.tokens, symbols.latents.as_ref().map(|(_, map)| map));
        let restored = stream.restorer.push(&self.model, tokens, latents)?;
        let painting = Painting {
            latents: symbols.latents.as_ref().map(|(mode, _)| *mode),
            control: self.settings.control,
            steps: TimeSteps::All,
        };
        let mut frames = stream
            .synthesis
            .run(&self.model, &restored, painting, &stream.sequence)?;
        stream.canvas.push(symbols.detail.as_ref(), &mut frames);
        frames.truncate(header.frames);
        if self.settings.smoothing {
            frames.iter_mut().for_each(|frame| stream.smoother.push(frame));
        }
        frames.iter_mut().zip(times).for_each(|(frame, time)| frame.pts = time);
        stream.past.push(symbols.tokens, symbols.latents.map(|(_, map)| map));
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
            synthesis: Synthesis::new(Strip::cover(&self.model, &sequence), self.settings.spots),
            canvas: Canvas::default(),
            past: Past::default(),
            restorer: Restorer::new(self.settings.restoration),
            smoother: Smoother::default(),
            clock,
        })
    }

    fn decode_symbols(&self, stream: &Stream, header: &UnitHeader, payload: &[u8]) -> Result<Symbols, CodecError> {
        let (width, height) = in_tokens(&self.model, &stream.sequence);
        let mut tokens = TokenMap::zero(width, height);
        let (mut coder, past) = (UnitDecoder::new(payload), &stream.past);
        self.model
            .context
            .code(&mut coder, &past.tokens, Masking::None, &mut tokens)?;
        let latents = match &self.model.continuous {
            Some(continuous) => {
                let decoded = continuous
                    .context
                    .decode(&mut coder, &past.latents, (&tokens, &past.tokens))?;
                Some(decoded)
            }
            None => None,
        };
        let detail = match header.is_key() {
            true => None,
            false => {
                let (width, height) = in_cells(&stream.sequence);
                let mut detail = DetailMap::none(width, height);
                code_detail(&mut coder, &stream.canvas.history, &mut detail)?;
                Some(detail)
            }
        };
        match symbol_check(&tokens, latents.as_ref().map(|(_, map)| map), detail.as_ref()) {
            found if found == header.symbol_check => Ok(Symbols {
                tokens,
                latents,
                detail,
            }),
            found => Err(CodecError::SymbolCheck {
                found,
                expected: header.symbol_check,
            }),
        }
    }
}

/// What the range coder of a unit holds.
struct Symbols {
    tokens: TokenMap,
    latents: Option<(LatentMode, LatentMap)>,
    /// `None` in a key unit.
    detail: Option<DetailMap>,
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
