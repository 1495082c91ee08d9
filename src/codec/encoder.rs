// SPDX-License-Identifier: MPL-2.0

use std::sync::Arc;

use super::analysis::Analysis;
use super::candidate::{may_refine, Candidate, Stream, Unit};
use super::ladder::{largest_scale, scale_of};
use super::rate::{fit, RateControl, RateMode, Room, Sized, UnitKind};
use super::scene::SceneDetector;
use super::{CodecError, EncoderSettings, Frame};
use crate::bitstream::{CodingScale, SequenceHeader, Timing, UnitHeader, MAX_PAYLOAD, MAX_SIZE, MIN_SIZE};
use crate::entropy::symbol_check;
use crate::model::Model;

/// Automatic key units: at cuts, and at least once in this many frames so that seeking works.
const AUTOMATIC_KEY_DISTANCE: u32 = 250;
/// Automatic key units are at least this many frames apart.
const AUTOMATIC_KEY_MIN_DISTANCE: u32 = 8;
/// Assumed where neither times nor a frame rate tell how long a frame lasts, in seconds.
const ASSUMED_FRAME_SECONDS: f64 = 1.0 / 30.0;

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
    pub(super) model: Arc<Model>,
    pub(super) settings: EncoderSettings,
    /// What key units repeat, but for the time.
    pub(super) sequence: SequenceHeader,
    pub(super) stream: Option<Stream>,
    /// A key unit's frame that waits for those after it: at a rate, how good it is to be depends on how they move.
    waiting_key: Option<Frame>,
    /// Frames of the delta unit to come.
    pending: Vec<Frame>,
    /// What the networks say of those, where they have seen them already.
    pub(super) seen: Option<Analysis>,
    scenes: SceneDetector,
    /// Whether there was a cut whose key unit does not fit into the buffer yet.
    late_cut: bool,
    /// Whether the unit that is coded is the last one before a key unit.
    pub(super) key_follows: bool,
    pub(super) rate: RateControl,
    /// How long a frame of the last delta unit lasted.
    pub(super) frame_seconds: Option<f64>,
    /// Longest payload in bytes; tests lower it.
    pub(super) max_payload: usize,
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
            waiting_key: None,
            pending: Vec::new(),
            seen: None,
            scenes: SceneDetector::default(),
            late_cut: false,
            key_follows: false,
            rate: RateControl::default(),
            frame_seconds: None,
            max_payload: MAX_PAYLOAD,
        })
    }

    /// Takes effect with the next unit.
    pub fn set_settings(&mut self, settings: EncoderSettings) {
        self.settings = settings;
    }

    /// Takes a frame, and codes the units that it completes. `force_key`: the frame becomes a key unit.
    pub fn push(&mut self, frame: Frame, force_key: bool) -> Result<Vec<AccessUnit>, CodecError> {
        let is_cut = self.scenes.is_cut(&frame) || self.late_cut;
        let wants_key = self.wants_key(is_cut);
        self.late_cut = wants_key && is_cut && !force_key && !self.has_key_room();
        if force_key || wants_key && self.has_key_room() {
            let is_new = is_cut || !self.is_running();
            self.key_follows = true;
            let units = self.drain();
            self.key_follows = false;
            let mut units = units?;
            units.extend(self.start(frame, is_new)?);
            return Ok(units);
        }
        if self.pending.is_empty() && self.waiting_key.is_none() && self.wants_other_stream() {
            return self.start(frame, false);
        }
        self.pending.push(frame);
        if self.pending.len() < self.model.group_frames() {
            return Ok(vec![]);
        }
        self.code_pending()
    }

    /// Codes what is pending; the next frame starts anew with a key unit.
    pub fn drain(&mut self) -> Result<Vec<AccessUnit>, CodecError> {
        let units = self.code_pending()?;
        self.stream = None;
        Ok(units)
    }

    /// Forgets what is pending; the next frame starts anew with a key unit.
    pub fn reset(&mut self) {
        self.pending.clear();
        self.waiting_key = None;
        self.seen = None;
        self.stream = None;
        self.scenes = SceneDetector::default();
        self.late_cut = false;
        // What follows may have any time: it owes nothing for what was before.
        self.rate = RateControl::default();
        self.frame_seconds = None;
    }

    fn is_running(&self) -> bool {
        self.stream.is_some() || self.waiting_key.is_some()
    }

    fn wants_key(&self, is_cut: bool) -> bool {
        if !self.is_running() {
            return true;
        }
        let coded = self.stream.as_ref().map_or(1, |stream| stream.frames);
        let frames = coded + self.pending.len() as u32;
        frames >= self.key_distance()
            || is_cut && frames >= AUTOMATIC_KEY_MIN_DISTANCE && self.settings.key_int_max == 0
    }

    /// Whether a key unit would fit into the buffer. One that nobody has asked for waits for that.
    fn has_key_room(&self) -> bool {
        let (Some(link), Some(stream)) = (self.settings.rate_mode.link(), &self.stream) else {
            return true;
        };
        let frames = stream.frames + self.pending.len() as u32;
        let trained = self.model.tokenizer.config.max_frames();
        trained.is_some_and(|trained| frames >= trained) || self.rate.has_key_room(link)
    }

    /// Frames from one key unit to the next at most.
    pub(super) fn key_distance(&self) -> u32 {
        let asked = match self.settings.key_int_max {
            0 => AUTOMATIC_KEY_DISTANCE,
            max => max,
        };
        let trained = self.model.tokenizer.config.max_frames();
        trained.map_or(asked, |trained| asked.min(trained))
    }

    /// Starts a key unit with a frame, the last of the pending ones being coded. `is_new`: nothing is known of its scene.
    fn start(&mut self, frame: Frame, is_new: bool) -> Result<Vec<AccessUnit>, CodecError> {
        match self.settings.rate_mode {
            RateMode::ConstantQuality { quantizer } => Ok(vec![self.open_at_quality(quantizer, &frame)?]),
            RateMode::Bitrate(_) if is_new => {
                self.waiting_key = Some(frame);
                Ok(vec![])
            }
            RateMode::Bitrate(link) => Ok(vec![self.open_at_rate(link, &frame, &[], false)?]),
        }
    }

    /// A frame as a key unit: smaller than its quantizer stands for where nothing else fits into the bitstream.
    fn open_at_quality(&mut self, quantizer: u32, frame: &Frame) -> Result<AccessUnit, CodecError> {
        let mut scale = self.scale_at(quantizer);
        let (stream, coded) = loop {
            let mut stream = self.new_stream(frame, scale);
            let analysis = stream.analyse(&self.model, &[frame])?;
            let unit = stream.unit(analysis, &[frame]);
            let coded = self.code_at_quality(UnitKind::Key, (&stream, &unit), quantizer, 0)?;
            let is_too_long = coded.payload.len() > self.max_payload && !self.model.tokenizer.config.is_cosmos();
            match scale.smaller().filter(|_| is_too_long) {
                Some(smaller) => scale = smaller,
                None => break (stream, coded),
            }
        };
        let paints = coded.has_detail;
        self.enter(stream, coded, frame, paints)
    }

    /// A unit at a quantizer, or at a coarser one where its payload would be too long. `before`: bytes that stand in front of it there.
    fn code_at_quality(
        &self,
        kind: UnitKind,
        (stream, unit): (&Stream, &Unit),
        quantizer: u32,
        before: usize,
    ) -> Result<Candidate, CodecError> {
        let most = self.most_bits();
        let (coded, _) = fit(kind, quantizer.into(), Room { usual: most, most }, |quality| {
            let unit = stream.candidate(&self.model, &self.settings, unit, quality)?;
            Ok::<_, CodecError>(Sized {
                bits: 8.0 * (before + unit.payload.len()) as f64,
                detail_bits: unit.detail_bits as f64,
                unit,
            })
        })?;
        Ok(coded.unit)
    }

    /// Bits of the longest payload.
    pub(super) fn most_bits(&self) -> f64 {
        8.0 * self.max_payload as f64
    }

    /// Codes the key unit that waits, and the delta unit of the frames after it.
    fn code_pending(&mut self) -> Result<Vec<AccessUnit>, CodecError> {
        let frames = std::mem::take(&mut self.pending);
        let mut units = Vec::new();
        if let Some(key) = self.waiting_key.take() {
            let link = self.settings.rate_mode.link();
            units.push(match link {
                Some(link) => self.open_at_rate(link, &key, &frames, true)?,
                // The rate was taken away in between.
                None => return self.start_constant_late(key, frames),
            });
        }
        units.extend(self.code_delta(frames)?);
        Ok(units)
    }

    fn start_constant_late(&mut self, key: Frame, frames: Vec<Frame>) -> Result<Vec<AccessUnit>, CodecError> {
        let mut units = self.start(key, true)?;
        units.extend(self.code_delta(frames)?);
        Ok(units)
    }

    /// Goes on from a key unit. `paints`: with what the decoder shows, for details.
    pub(super) fn enter(
        &mut self,
        mut stream: Stream,
        coded: Candidate,
        frame: &Frame,
        paints: bool,
    ) -> Result<AccessUnit, CodecError> {
        let unit = self.assemble(Some(stream.sequence), 1, Timing::Grid, &coded, coded.payload.clone())?;
        if paints && may_refine(&self.model, &self.settings) {
            stream.begin_details(&self.model);
        }
        stream.push(&self.model, coded, &[frame])?;
        self.stream = Some(stream);
        Ok(unit)
    }

    fn code_delta(&mut self, frames: Vec<Frame>) -> Result<Option<AccessUnit>, CodecError> {
        let seen = self.seen.take();
        let (Some(last), Some(mut stream)) = (frames.last(), self.stream.take()) else {
            return Ok(None);
        };
        let group = self.whole_group(&frames, last);
        let analysis = match seen {
            Some(analysis) => analysis,
            None => stream.analyse(&self.model, &group)?,
        };
        let unit = stream.unit(analysis, &group);
        let times: Vec<_> = frames.iter().map(|f| f.pts).collect();
        let mut payload = Vec::new();
        let timing = stream.clock.pack(&times, &mut payload);
        let coded = match self.settings.rate_mode {
            RateMode::ConstantQuality { quantizer } => {
                self.code_at_quality(UnitKind::Delta, (&stream, &unit), quantizer, payload.len())?
            }
            RateMode::Bitrate(link) => self.delta_at_rate(link, (&stream, &unit), &frames, (timing, payload.len()))?,
        };
        payload.extend(&coded.payload);
        let unit = self.assemble(None, frames.len(), timing, &coded, payload)?;
        stream.push(&self.model, coded, &group)?;
        stream.frames += frames.len() as u32;
        // Frames after a short group would not line up with the decoder's: it ends the stream.
        self.stream = (frames.len() == self.model.group_frames()).then_some(stream);
        Ok(Some(unit))
    }

    /// The networks take whole groups: a short one is filled up with its last frame.
    pub(super) fn whole_group<'a>(&self, frames: &'a [Frame], last: &'a Frame) -> Vec<&'a Frame> {
        let filled = frames.iter().chain(std::iter::repeat(last));
        filled.take(self.model.group_frames()).collect()
    }

    /// Whether the scale is the encoder's choice. What Cosmos' networks make of other sizes was never measured.
    pub(super) fn chooses_scale(&self) -> bool {
        self.settings.scale.is_none() && !self.model.tokenizer.config.is_cosmos()
    }

    /// The largest scale that is chosen without being asked for.
    pub(super) fn largest_scale(&self) -> CodingScale {
        largest_scale((self.sequence.width, self.sequence.height))
    }

    /// The scale of a key unit at a quantizer.
    pub(super) fn scale_at(&self, quantizer: u32) -> CodingScale {
        if self.chooses_scale() {
            return scale_of(quantizer).min(self.largest_scale());
        }
        let scale = self.settings.scale.unwrap_or_default();
        let fits = scale.fits(self.sequence.width, self.sequence.height);
        if fits {
            scale
        } else {
            CodingScale::Single
        }
    }

    /// What starts with a frame as a key unit.
    pub(super) fn new_stream(&self, frame: &Frame, coding_scale: CodingScale) -> Stream {
        let sequence = SequenceHeader {
            pts: frame.pts,
            coding_scale,
            ..self.sequence
        };
        Stream::new(&self.model, sequence)
    }

    /// How long frames last: their spacing, or what the frame rate says.
    pub(super) fn seconds(&self, frames: &[Frame]) -> f64 {
        let times = frames.first().zip(frames.last()).and_then(|(a, b)| a.pts.zip(b.pts));
        let spacing = match times {
            Some((first, last)) if last > first => Some((last - first) as f64 / 1e9 / (frames.len() - 1) as f64),
            _ => self.frame_seconds,
        };
        let (num, den) = self.sequence.frame_rate;
        let nominal = (num > 0).then(|| f64::from(den) / f64::from(num));
        spacing.or(nominal).unwrap_or(ASSUMED_FRAME_SECONDS) * frames.len().max(1) as f64
    }

    fn assemble(
        &self,
        sequence: Option<SequenceHeader>,
        frames: usize,
        timing: Timing,
        coded: &Candidate,
        payload: Vec<u8>,
    ) -> Result<AccessUnit, CodecError> {
        if payload.len() > self.max_payload {
            return Err(CodecError::UnitTooLong {
                found: payload.len(),
                most: self.max_payload,
            });
        }
        let header = UnitHeader {
            sequence,
            frames,
            timing,
            payload_length: payload.len(),
            symbol_check: symbol_check(&coded.tokens, coded.latents.as_ref(), coded.detail.as_ref()),
        };
        let mut bytes = header.pack();
        bytes.extend(payload);
        Ok(AccessUnit {
            bytes,
            is_key: header.is_key(),
            frames,
        })
    }
}
