// SPDX-License-Identifier: MPL-2.0

use std::sync::Arc;

use super::candidate::{may_refine, Candidate, Stream};
use super::ladder::{largest_scale, scale_of, OperatingPoint, Quality, COARSEST_DETAIL, DEFAULT_QUANTIZER, SCALES};
use super::masking::MaskingStrategy;
use super::rate::{Chosen, RateControl};
use super::scaling::ScaleControl;
use super::scene::SceneDetector;
use super::{CodecError, Frame};
use crate::bitstream::{CodingScale, SequenceHeader, Timing, UnitHeader, MAX_SIZE, MIN_SIZE};
use crate::entropy::symbol_check;
use crate::model::Model;

/// Automatic key units: at cuts, and at least once in this many frames so that seeking works.
const AUTOMATIC_KEY_DISTANCE: u32 = 250;
/// Automatic key units are at least this many frames apart.
const AUTOMATIC_KEY_MIN_DISTANCE: u32 = 8;
/// Assumed where neither times nor a frame rate tell how long a frame lasts, in seconds.
const ASSUMED_FRAME_SECONDS: f64 = 1.0 / 30.0;
/// What a delta unit of something that moves takes, about, in what a key unit of the same quantizer takes.
const DELTA_SHARE: f64 = 0.65;
/// Seconds of the rate that a key unit may always take, however much was borrowed for the one before.
const LEAST_KEY_SECONDS: f64 = 0.1;
/// Share of a unit's budget that is kept for detail where the whole picture stands still and lacks it.
const DETAIL_SHARE: f64 = 0.7;
/// How often a unit is coded again to fit its detail into what is left, and what is too little to try.
const DETAIL_TRIES: usize = 3;
const LEAST_DETAIL_BITS: f64 = 100.0;
/// What stands around a unit's symbols, about: header, times.
const DELTA_HEADER_BITS: usize = 7 * 8;
const KEY_HEADER_BITS: usize = 40 * 8;

/// What may change while frames flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncoderSettings {
    /// 0 (best) to 63 (smallest): see [`super::operating_point`]. Not used with a rate.
    pub quantizer: u32,
    /// How much larger pictures are coded, from the next key unit on; None = as quantizer or rate ask for. Pictures that
    /// would be too large for the bitstream are coded as they are.
    pub scale: Option<CodingScale>,
    /// Taken instead of the quantizer's, to explore what is worth what.
    pub point: Option<OperatingPoint>,
    /// Bits per second to keep to; 0 = constant quality.
    pub rate: f64,
    /// Share of a delta unit's tokens that are not sent, 0 to 0.9; None = as the operating point says.
    pub mask_ratio: Option<f64>,
    /// How the masked tokens are chosen.
    pub masking: MaskingStrategy,
    /// Whether what stands still gets detail, where the quantizer is fine enough for it.
    pub detail: bool,
    /// Frames from one key unit to the next at most; 0: at scene cuts and every 250 frames. Never more than the model
    /// was trained for.
    pub key_int_max: u32,
}

impl Default for EncoderSettings {
    fn default() -> Self {
        EncoderSettings {
            quantizer: DEFAULT_QUANTIZER,
            scale: None,
            point: None,
            rate: 0.0,
            mask_ratio: None,
            masking: MaskingStrategy::default(),
            detail: true,
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
    rate: RateControl,
    scaling: ScaleControl,
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
            rate: RateControl::default(),
            scaling: ScaleControl::default(),
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
        if self.wants_scale() || self.wants_detail() {
            if let Some(unit) = self.change_scale(&frame)? {
                return Ok(vec![unit]);
            }
        }
        self.pending.push(frame);
        if self.pending.len() < self.model.group_frames() {
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
        // What follows may have any time: it owes nothing for what was before.
        self.rate = RateControl::default();
        self.scaling = ScaleControl::default();
    }

    fn wants_key(&self, is_cut: bool) -> bool {
        let Some(stream) = &self.stream else { return true };
        let frames = stream.frames + self.pending.len() as u32;
        if self
            .model
            .tokenizer
            .config
            .max_frames()
            .is_some_and(|max| frames >= max)
        {
            return true;
        }
        match self.settings.key_int_max {
            0 => (is_cut && frames >= AUTOMATIC_KEY_MIN_DISTANCE) || frames >= AUTOMATIC_KEY_DISTANCE,
            max => frames >= max,
        }
    }

    /// Whether another scale would be worth a key unit.
    fn wants_scale(&self) -> bool {
        let is_free = self.settings.rate > 0.0 && self.chooses_scale();
        self.pending.is_empty() && is_free && self.scaling.wants_key(self.largest_scale())
    }

    /// Whether a rate has risen so far, or the content calmed down so much, that details are worth a key unit: they add to pictures
    /// that only an encoder knows that has painted all of them.
    fn wants_detail(&self) -> bool {
        let lacks_mirror = self.stream.as_ref().is_some_and(|stream| stream.mirror.is_none());
        self.pending.is_empty()
            && self.settings.rate > 0.0
            && lacks_mirror
            && may_refine(&self.model, &self.settings)
            && self.scaling.has_waited()
            && self.scaling.is_fine()
    }

    fn code_key(&mut self, frame: &Frame) -> Result<AccessUnit, CodecError> {
        let budget = self.budget(&[frame], true);
        let (stream, coded) = self.key_within(frame, budget)?;
        self.start(stream, coded, frame)
    }

    /// A frame as a key unit at the scale that the rate asks for, if it can be paid now, or with details to follow.
    fn change_scale(&mut self, frame: &Frame) -> Result<Option<AccessUnit>, CodecError> {
        let present = self.stream.as_ref().map(|stream| stream.sequence.coding_scale);
        let before = self.rate.clone();
        let budget = self.budget(&[frame], true);
        let (stream, coded) = self.key_within(frame, budget)?;
        if Some(stream.sequence.coding_scale) == present && !self.wants_detail() {
            self.rate = before;
            self.rate.save_up();
            self.scaling.put_off();
            return Ok(None);
        }
        self.start(stream, coded, frame).map(Some)
    }

    /// Goes on from a key unit.
    fn start(&mut self, mut stream: Stream, coded: Candidate, frame: &Frame) -> Result<AccessUnit, CodecError> {
        let unit = assemble(Some(stream.sequence), 1, Timing::Grid, &coded, coded.payload.clone());
        self.charge(&unit, coded.quality.quantizer);
        let is_enlarged = self.settings.rate > 0.0 && stream.sequence.coding_scale > CodingScale::Single;
        let is_fine = self.settings.rate > 0.0 && self.scaling.is_fine();
        if coded.has_detail || (is_enlarged || is_fine) && may_refine(&self.model, &self.settings) {
            stream.begin_details(&self.model);
        }
        self.scaling
            .start(stream.sequence.coding_scale, coded.quality.quantizer);
        stream.push(&self.model, coded, &[frame])?;
        self.stream = Some(stream);
        Ok(unit)
    }

    /// A frame as a key unit, at the next smaller scale where the one that suited the scene before is too dear.
    fn key_within(&self, frame: &Frame, budget: Option<f64>) -> Result<(Stream, Candidate), CodecError> {
        let mut scale = self.scale_for(frame)?;
        let most = budget.map(|budget| budget.max(LEAST_KEY_SECONDS * self.settings.rate));
        loop {
            let mut stream = self.stream(frame, scale);
            let coded = self.code(&[frame], most, &mut stream)?;
            let is_dear = most.is_some_and(|most| (coded.payload.len() * 8 + KEY_HEADER_BITS) as f64 > most);
            match scale.smaller().filter(|_| is_dear && self.chooses_scale()) {
                Some(smaller) => scale = smaller,
                None => return Ok((stream, coded)),
            }
        }
    }

    /// Whether the scale is the encoder's choice. What Cosmos' networks make of other sizes was never measured.
    fn chooses_scale(&self) -> bool {
        self.settings.scale.is_none() && !self.model.tokenizer.config.is_cosmos()
    }

    /// The largest scale that is chosen without being asked for.
    fn largest_scale(&self) -> CodingScale {
        largest_scale((self.sequence.width, self.sequence.height))
    }

    /// What starts with a frame as a key unit.
    fn stream(&self, frame: &Frame, coding_scale: CodingScale) -> Stream {
        let sequence = SequenceHeader {
            pts: frame.pts,
            coding_scale,
            ..self.sequence
        };
        Stream::new(&self.model, sequence)
    }

    /// The scale of a key unit.
    fn scale_for(&self, frame: &Frame) -> Result<CodingScale, CodecError> {
        if !self.chooses_scale() {
            let scale = self.settings.scale.unwrap_or_default();
            let fits = scale.fits(self.sequence.width, self.sequence.height);
            return Ok(if fits { scale } else { CodingScale::Single });
        }
        let largest = self.largest_scale();
        if self.settings.rate <= 0.0 {
            return Ok(scale_of(self.settings.quantizer).min(largest));
        }
        match self.scaling.wanted(largest) {
            Some(scale) => Ok(scale),
            None => self.affordable_scale(frame, largest),
        }
    }

    /// The largest scale at which the rate would pay for frames like this one, by a guess of what a delta unit takes.
    fn affordable_scale(&self, frame: &Frame, largest: CodingScale) -> Result<CodingScale, CodecError> {
        let seconds = self.seconds(&[frame]) * self.model.group_frames() as f64;
        for (scale, coarsest) in SCALES.into_iter().filter(|(scale, _)| *scale <= largest) {
            if scale == CodingScale::Half {
                break;
            }
            let mut stream = self.stream(frame, scale);
            let unit = stream.look(&self.model, &[frame])?;
            let bits = stream
                .candidate(&self.model, &self.settings, &unit, coarsest.into())?
                .payload
                .len()
                * 8;
            if bits as f64 * DELTA_SHARE <= self.settings.rate * seconds {
                return Ok(scale);
            }
        }
        Ok(CodingScale::Half)
    }

    fn code_delta(&mut self) -> Result<Option<AccessUnit>, CodecError> {
        let frames = std::mem::take(&mut self.pending);
        let (Some(last), Some(mut stream)) = (frames.last(), self.stream.take()) else {
            return Ok(None);
        };
        // The networks take whole groups: a short one is filled up with its last frame.
        let count = self.model.group_frames();
        let group: Vec<&Frame> = frames.iter().chain(std::iter::repeat(last)).take(count).collect();
        let budget = self.budget(&group[..frames.len()], false);
        let coded = self.code(&group, budget, &mut stream)?;
        let times: Vec<_> = frames.iter().map(|f| f.pts).collect();
        let mut payload = Vec::new();
        let timing = stream.clock.pack(&times, &mut payload);
        payload.extend(&coded.payload);
        let unit = assemble(None, frames.len(), timing, &coded, payload);
        self.charge(&unit, coded.quality.quantizer);
        self.scaling.push(coded.quality.quantizer);
        stream.push(&self.model, coded, &group)?;
        stream.frames += frames.len() as u32;
        // Frames after a short group would not line up with the decoder's: it ends the stream.
        self.stream = (frames.len() == count).then_some(stream);
        Ok(Some(unit))
    }

    /// Tells the rate control what a unit takes.
    fn charge(&mut self, unit: &AccessUnit, quantizer: u32) {
        if self.settings.rate > 0.0 {
            self.rate.spend(unit.bytes.len() * 8, quantizer, unit.is_key);
        }
    }

    /// The bits for a unit of frames; `None`: of constant quality.
    fn budget(&mut self, frames: &[&Frame], is_key: bool) -> Option<f64> {
        let (rate, seconds) = (self.settings.rate, self.seconds(frames));
        (rate > 0.0).then(|| self.rate.budget(rate, frames[0].pts, seconds, is_key))
    }

    /// Codes a group of frames within a budget, or at the quantizer.
    fn code(&self, group: &[&Frame], budget: Option<f64>, stream: &mut Stream) -> Result<Candidate, CodecError> {
        let unit = stream.look(&self.model, group)?;
        let code = |quality| stream.candidate(&self.model, &self.settings, &unit, quality);
        let Some(budget) = budget else {
            return code(self.settings.quantizer.into());
        };
        let is_key = stream.past.tokens.previous.is_none();
        let header = if is_key { KEY_HEADER_BITS } else { DELTA_HEADER_BITS };
        let sized = |quality| {
            let candidate = code(quality)?;
            let bits = candidate.payload.len() * 8 + header;
            Ok((candidate, bits))
        };
        let Some(stillness) = &unit.stillness else {
            return Ok(self.rate.choose(budget, is_key, sized)?.unit);
        };
        let without = |quality| {
            sized(Quality {
                detail_bits: Some(0.0),
                ..quality
            })
        };
        let reserve = DETAIL_SHARE * stillness.lacking(COARSEST_DETAIL as usize);
        let base = self.rate.choose(budget * (1.0 - reserve), is_key, without)?;
        with_detail(base, budget, sized)
    }

    /// How long frames last: their spacing, or what the frame rate says.
    fn seconds(&self, frames: &[&Frame]) -> f64 {
        let spacing = match (frames[0].pts, frames[frames.len() - 1].pts) {
            (Some(first), Some(last)) if last > first => Some((last - first) as f64 / 1e9 / (frames.len() - 1) as f64),
            _ => None,
        };
        let (num, den) = self.sequence.frame_rate;
        let nominal = (num > 0).then(|| f64::from(den) / f64::from(num));
        spacing.or(nominal).unwrap_or(ASSUMED_FRAME_SECONDS) * frames.len() as f64
    }
}

/// The unit with as much detail as the budget leaves room for.
fn with_detail(
    base: Chosen<Candidate>,
    budget: f64,
    sized: impl Fn(Quality) -> Result<(Candidate, usize), CodecError>,
) -> Result<Candidate, CodecError> {
    let room = budget - base.bits as f64;
    let (mut best, mut allowance) = (base.unit, room);
    for _ in 0..DETAIL_TRIES {
        if allowance < LEAST_DETAIL_BITS {
            break;
        }
        let quality = Quality {
            detail_bits: Some(allowance),
            ..best.quality
        };
        let (candidate, bits) = sized(quality)?;
        let taken = bits as f64 - base.bits as f64;
        if taken <= room {
            best = candidate;
            break;
        }
        // What it takes is known to a factor only.
        allowance *= 0.9 * room / taken;
    }
    Ok(best)
}

fn assemble(
    sequence: Option<SequenceHeader>,
    frames: usize,
    timing: Timing,
    coded: &Candidate,
    payload: Vec<u8>,
) -> AccessUnit {
    let header = UnitHeader {
        sequence,
        frames,
        timing,
        payload_length: payload.len(),
        symbol_check: symbol_check(&coded.tokens, coded.latents.as_ref(), coded.detail.as_ref()),
    };
    let mut bytes = header.pack();
    bytes.extend(payload);
    AccessUnit {
        bytes,
        is_key: header.is_key(),
        frames,
    }
}
