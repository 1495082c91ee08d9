// SPDX-License-Identifier: MPL-2.0

use std::sync::Arc;

use tch::Tensor;

use super::scene::SceneDetector;
use super::{CodecError, Frame};
use crate::bitstream::{Clock, SequenceHeader, Timing, UnitHeader, DELTA_FRAMES, MAX_SIZE, MIN_SIZE};
use crate::entropy::{History, TokenMap, DIGITS};
use crate::model::{Model, StreamState};

/// Largest value of [`EncoderSettings::quantizer`].
pub const MAX_QUANTIZER: u32 = 63;
/// Middle of the range.
pub const DEFAULT_QUANTIZER: u32 = 32;

/// Automatic key units: at cuts, and at least once in this many frames so that seeking works.
const AUTOMATIC_KEY_DISTANCE: u32 = 250;
/// Automatic key units are at least this many frames apart.
const AUTOMATIC_KEY_MIN_DISTANCE: u32 = 8;
/// At the coarsest quantizer a digit stays what it was while the new one is less than this many steps away
/// from the rounding boundary.
const MAX_DEAD_ZONE: f64 = 1.5;

/// How far a real-valued digit may be from the previous unit's value to keep it, in steps of the digit.
pub fn dead_zone_reach(quantizer: u32) -> f64 {
    0.5 + MAX_DEAD_ZONE * f64::from(quantizer) / f64::from(MAX_QUANTIZER)
}

/// What may change while frames flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderSettings {
    /// 0 (best) to 63 (smallest): how far a token may stray to stay equal to the previous unit's.
    pub quantizer: u32,
    /// Frames from one key unit to the next at most; 0: at scene cuts and every 250 frames.
    pub key_int_max: u32,
}

impl Default for EncoderSettings {
    fn default() -> Self {
        EncoderSettings {
            quantizer: DEFAULT_QUANTIZER,
            key_int_max: 0,
        }
    }
}

/// A coded unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessUnit {
    pub bytes: Vec<u8>,
    pub is_key: bool,
    /// Frames that it codes, the next ones in the order in which they were pushed.
    pub frames: usize,
}

/// Frames to access units.
pub struct Encoder {
    model: Arc<Model>,
    settings: EncoderSettings,
    /// What key units repeat, but for the time.
    sequence: SequenceHeader,
    stream: Option<Stream>,
    /// Frames of the delta unit to come.
    pending: Vec<Frame>,
    scenes: SceneDetector,
}

/// What lasts from a key unit to the next.
struct Stream {
    state: StreamState,
    history: History,
    clock: Clock,
    frames: u32,
}

impl Encoder {
    /// `sequence.model_id` and `sequence.pts` are filled in here.
    pub fn new(model: Arc<Model>, sequence: SequenceHeader, settings: EncoderSettings) -> Result<Encoder, CodecError> {
        let (width, height) = (sequence.width, sequence.height);
        let legal = MIN_SIZE..=MAX_SIZE;
        if !legal.contains(&width) || !legal.contains(&height) {
            return Err(CodecError::Size { width, height });
        }
        let sequence = SequenceHeader {
            model_id: model.id,
            pts: None,
            ..sequence
        };
        Ok(Encoder {
            model,
            settings,
            sequence,
            stream: None,
            pending: Vec::new(),
            scenes: SceneDetector::default(),
        })
    }

    /// Takes effect with the next unit.
    pub fn set_settings(&mut self, settings: EncoderSettings) {
        self.settings = settings;
    }

    /// Takes a frame, and codes the units that it completes. `force_key`: the frame becomes a key unit.
    pub fn push(&mut self, frame: Frame, force_key: bool) -> Result<Vec<AccessUnit>, CodecError> {
        let is_cut = self.scenes.is_cut(&frame);
        if force_key || self.wants_key(is_cut) {
            let mut units = self.drain()?;
            units.push(self.code_key(&frame)?);
            return Ok(units);
        }
        self.pending.push(frame);
        if self.pending.len() < DELTA_FRAMES {
            return Ok(vec![]);
        }
        Ok(self.code_delta()?.into_iter().collect())
    }

    /// Codes what is pending; the next frame starts anew with a key unit.
    pub fn drain(&mut self) -> Result<Vec<AccessUnit>, CodecError> {
        let unit = self.code_delta()?;
        self.stream = None;
        Ok(unit.into_iter().collect())
    }

    /// Forgets what is pending; the next frame starts anew with a key unit.
    pub fn reset(&mut self) {
        self.pending.clear();
        self.stream = None;
        self.scenes = SceneDetector::default();
    }

    fn wants_key(&self, is_cut: bool) -> bool {
        let Some(stream) = &self.stream else { return true };
        let frames = stream.frames + self.pending.len() as u32;
        match self.settings.key_int_max {
            0 => (is_cut && frames >= AUTOMATIC_KEY_MIN_DISTANCE) || frames >= AUTOMATIC_KEY_DISTANCE,
            max => frames >= max,
        }
    }

    fn code_key(&mut self, frame: &Frame) -> Result<AccessUnit, CodecError> {
        let sequence = SequenceHeader {
            pts: frame.pts,
            ..self.sequence
        };
        let mut state = StreamState::default();
        let tokens = self.tokenize(&[frame], &mut state, None)?;
        let payload = self.model.context.encode(&History::default(), &tokens)?;
        let unit = assemble(Some(sequence), 1, Timing::Grid, &tokens, payload);
        let mut history = History::default();
        history.push(tokens);
        self.stream = Some(Stream {
            state,
            history,
            clock: Clock::new(&sequence),
            frames: 1,
        });
        Ok(unit)
    }

    fn code_delta(&mut self) -> Result<Option<AccessUnit>, CodecError> {
        let frames = std::mem::take(&mut self.pending);
        let (Some(last), Some(mut stream)) = (frames.last(), self.stream.take()) else {
            return Ok(None);
        };
        // The networks take whole groups: a short one is filled up with its last frame.
        let group: Vec<&Frame> = frames
            .iter()
            .chain(std::iter::repeat(last))
            .take(DELTA_FRAMES)
            .collect();
        let tokens = self.tokenize(&group, &mut stream.state, stream.history.previous.as_ref())?;
        let times: Vec<_> = frames.iter().map(|f| f.pts).collect();
        let mut payload = Vec::new();
        let timing = stream.clock.pack(&times, &mut payload);
        payload.extend(self.model.context.encode(&stream.history, &tokens)?);
        let unit = assemble(None, frames.len(), timing, &tokens, payload);
        stream.history.push(tokens);
        stream.frames += frames.len() as u32;
        // Frames after a short group would not line up with the decoder's: it ends the stream.
        self.stream = (frames.len() == DELTA_FRAMES).then_some(stream);
        Ok(Some(unit))
    }

    /// Runs the tokenizer's encoder over a group of frames.
    fn tokenize(
        &self,
        frames: &[&Frame],
        state: &mut StreamState,
        previous: Option<&TokenMap>,
    ) -> Result<TokenMap, CodecError> {
        let _no_grad = tch::no_grad_guard();
        let (tokenizer, model) = (&self.model.tokenizer, &self.model);
        let factor = tokenizer.config.spatial_factor() as usize;
        let align = |size: u32| (size as usize).next_multiple_of(factor);
        let (width, height) = (align(self.sequence.width), align(self.sequence.height));
        let pictures = Frame::to_quads(frames, width, height)?.f_to_device(model.device)?;
        let latents = tokenizer.encode(&pictures, model.kind, state)?;
        let digits = tokenizer.fsq.bound(&latents)?.f_squeeze_dim(0)?.f_permute([1, 2, 0])?;
        self.quantize(&digits, previous)
    }

    /// Rounds real-valued digits `[h, w, 6]`. A digit keeps its value of the previous unit while the new one
    /// is not further away than the dead zone allows: that costs next to nothing to code.
    fn quantize(&self, digits: &Tensor, previous: Option<&TokenMap>) -> Result<TokenMap, CodecError> {
        let (height, width, _) = digits.size3()?;
        let mut values = vec![0f32; (height * width) as usize * DIGITS];
        let count = values.len();
        digits
            .f_to_device(tch::Device::Cpu)?
            .f_contiguous()?
            .f_copy_data(&mut values, count)?;
        let reach = dead_zone_reach(self.settings.quantizer);
        let mut map = TokenMap::zero(width as usize, height as usize);
        for (at, token) in map.tokens.iter_mut().enumerate() {
            for (k, digit) in token.iter_mut().enumerate() {
                let value = values[at * DIGITS + k];
                let last = previous.map(|map| map.tokens[at][k]);
                *digit = match last {
                    Some(last) if (f64::from(value) - f64::from(last)).abs() <= reach => last,
                    _ => value.round_ties_even().clamp(0.0, f32::from(crate::FSQ_LEVELS[k] - 1)) as u8,
                };
            }
        }
        Ok(map)
    }
}

fn assemble(
    sequence: Option<SequenceHeader>,
    frames: usize,
    timing: Timing,
    tokens: &TokenMap,
    payload: Vec<u8>,
) -> AccessUnit {
    let header = UnitHeader {
        sequence,
        frames,
        timing,
        payload_length: payload.len(),
        token_check: tokens.check(),
    };
    let mut bytes = header.pack();
    bytes.extend(payload);
    AccessUnit {
        bytes,
        is_key: header.is_key(),
        frames,
    }
}
