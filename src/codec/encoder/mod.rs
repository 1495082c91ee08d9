// SPDX-License-Identifier: MPL-2.0

//! Frames to access units: a frame in, the units that it completes out.

mod analysis;
mod bitrate;
mod camera;
mod decide;
mod gop;
mod local_motion;
mod package;
mod quality;
mod rate;
mod record;
mod resilience;
mod scene_cut;
mod settings;
mod unit;

#[cfg(test)]
pub use analysis::{Analysis, AnalysisState};
#[cfg(feature = "train")]
pub(crate) use camera::camera_path;
#[cfg(test)]
pub use decide::skip_map;
pub use decide::{MaskingStrategy, Rdoq, CHANGE_BITS, COARSEST_WITH_SKIP_MAP, POSITION_BITS};
pub use rate::{
    operating_point, scale_of, Link, OperatingPoint, RateMode, DEFAULT_BUFFER_SECONDS, DEFAULT_QUANTIZER, MAX_QUANTIZER,
};
#[cfg(feature = "train")]
pub(crate) use record::SentUnit;
pub use resilience::ErrorResilience;
pub use settings::{EncoderAblation, EncoderSettings};

use std::sync::Arc;

use decide::SymbolBits;
use gop::Role;
use rate::{RateControl, UnitKind};
use resilience::Links;
use scene_cut::SceneDetector;
use unit::{may_refine, Gop, TrialUnit, Unit};

use super::{CodecError, Frame};
use crate::bitstream::{CodingScale, SequenceHeader, Timing, GROUPS, MAX_PAYLOAD, MAX_SIZE, MIN_SIZE};
use crate::model::Model;

/// Assumed where neither times nor a frame rate tell how long a frame lasts, in seconds.
const ASSUMED_FRAME_SECONDS: f64 = 1.0 / 30.0;

/// A coded unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessUnit {
    /// Header and payload.
    pub bytes: Vec<u8>,
    /// Whether a decoder can start here.
    pub is_key: bool,
    /// Frames that it codes, the next ones in the order in which they were pushed.
    pub frames: usize,
}

/// Frames to access units.
pub struct Encoder {
    pub(super) model: Arc<Model>,
    settings: EncoderSettings,
    /// What key units repeat, but for the time.
    sequence: SequenceHeader,
    /// What symbols cost, for the quantisation of latents.
    bits: Arc<SymbolBits>,
    /// `None`: the next frame starts with a key unit.
    gop: Option<Gop>,
    /// A key unit's frame that waits for those after it: at a rate, how good it is to be depends on how they move.
    waiting_key: Option<Frame>,
    /// Frames of the delta unit to come.
    pending: Vec<Frame>,
    /// What the networks say of those, where they have seen them already.
    seen: Option<Unit>,
    scenes: SceneDetector,
    /// Whether there was a cut whose key unit does not fit into the buffer yet.
    late_cut: bool,
    /// Whether the unit that is coded is the last one before a key unit.
    key_follows: bool,
    rate: RateControl,
    /// How long a frame of the last delta unit lasted.
    frame_seconds: Option<f64>,
    /// Number of the next group of pictures.
    group: u8,
    /// Longest payload in bytes; tests lower it.
    pub(super) max_payload: usize,
    /// What was sent, where somebody wants to learn from it.
    sent: Option<Vec<record::SentUnit>>,
}

impl Encoder {
    /// Fails if `sequence` has a size or a fraction that is not legal. `sequence.model_id` and `sequence.pts` are filled in here.
    pub fn new(model: Arc<Model>, sequence: SequenceHeader, settings: EncoderSettings) -> Result<Encoder, CodecError> {
        let (width, height) = (sequence.width, sequence.height);
        let legal = MIN_SIZE..=MAX_SIZE;
        if !legal.contains(&width) || !legal.contains(&height) {
            return Err(CodecError::Size { width, height });
        }
        sequence.validate()?;
        let sequence = SequenceHeader {
            model_id: model.id,
            pts: None,
            ..sequence
        };
        let continuous = model.continuous.as_ref();
        let probabilities = continuous.map_or(&[][..], |continuous| &continuous.context.weights().probabilities);
        let bits = Arc::new(SymbolBits::new(probabilities));
        Ok(Encoder {
            model,
            settings,
            sequence,
            bits,
            gop: None,
            waiting_key: None,
            pending: Vec::new(),
            seen: None,
            scenes: SceneDetector::default(),
            late_cut: false,
            key_follows: false,
            rate: RateControl::default(),
            frame_seconds: None,
            group: 0,
            max_payload: MAX_PAYLOAD,
            sent: None,
        })
    }

    /// Takes effect with the next unit.
    pub fn set_settings(&mut self, settings: EncoderSettings) {
        self.settings = settings;
    }

    /// Takes a frame, and codes the units that it completes. `force_key`: the frame becomes a key unit. Fails if the frame is not of the
    /// sequence's size; it is then left out.
    pub fn push(&mut self, frame: Frame, force_key: bool) -> Result<Vec<AccessUnit>, CodecError> {
        let expected = (self.sequence.width as usize, self.sequence.height as usize);
        if (frame.width, frame.height) != expected || !frame.is_whole() {
            return Err(CodecError::Frame { expected });
        }
        match self.role(&frame, force_key) {
            Role::Key { is_new } => {
                let mut units = self.drain_before_key()?;
                units.extend(self.start(frame, is_new)?);
                Ok(units)
            }
            Role::Restart => self.start(frame, false),
            Role::Delta => {
                self.pending.push(frame);
                match self.pending.len() < self.model.group_frames() {
                    true => Ok(vec![]),
                    false => self.code_pending(),
                }
            }
        }
    }

    /// Codes what is pending; the next frame starts anew with a key unit.
    pub fn drain(&mut self) -> Result<Vec<AccessUnit>, CodecError> {
        let units = self.code_pending()?;
        self.gop = None;
        Ok(units)
    }

    fn drain_before_key(&mut self) -> Result<Vec<AccessUnit>, CodecError> {
        self.key_follows = true;
        let units = self.drain();
        self.key_follows = false;
        units
    }

    /// The receiver has a unit of a group of pictures, as their headers number them, and all that it needs: later units may refer to it,
    /// which takes fewer bytes. Without effect where units need each other anyway.
    pub fn acknowledge(&mut self, group: u8, unit: u8) {
        if let Some(gop) = &mut self.gop {
            gop.acknowledge(group, unit);
        }
    }

    /// Counts groups of pictures on from those of an encoder that this one takes the place of: receivers tell streams apart by that.
    pub(crate) fn follow(&mut self, before: &Encoder) {
        self.group = before.group;
    }

    /// Forgets what is pending; the next frame starts anew with a key unit.
    pub fn reset(&mut self) {
        self.pending.clear();
        self.waiting_key = None;
        self.seen = None;
        self.gop = None;
        self.scenes = SceneDetector::default();
        self.late_cut = false;
        // What follows may have any time: it owes nothing for what was before.
        self.rate = RateControl::default();
        self.frame_seconds = None;
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

    /// Goes on from a key unit. `paints`: with what the decoder shows, for residuals.
    fn enter(&mut self, mut gop: Gop, trial: TrialUnit, frame: &Frame, paints: bool) -> Result<AccessUnit, CodecError> {
        let package = gop.package(1, Timing::Grid);
        let unit = package.access_unit(&trial.coded, &[], self.max_payload)?;
        if paints && may_refine(&self.model, &self.settings) {
            gop.begin_painting(&self.model);
        }
        self.note(&gop, &trial);
        gop.push(&self.model, &trial.coded.symbols, &[frame])?;
        self.gop = Some(gop);
        self.group = (self.group + 1) % GROUPS;
        Ok(unit)
    }

    fn code_delta(&mut self, frames: Vec<Frame>) -> Result<Option<AccessUnit>, CodecError> {
        let seen = self.seen.take();
        let (Some(last), Some(mut gop)) = (frames.last(), self.gop.take()) else {
            return Ok(None);
        };
        let group = self.whole_group(&frames, last);
        let unit = match seen {
            Some(seen) => gop.resume(seen, &group)?,
            None => gop.analyse(&self.model, &self.settings, &group)?,
        };
        let times: Vec<_> = frames.iter().map(|f| f.pts).collect();
        let mut packed_times = Vec::new();
        gop.find_time(self.model.group_frames());
        let timing = gop.clock.pack(&times, &mut packed_times);
        gop.time_bytes = packed_times.len();
        let trial = match self.settings.rate_mode {
            RateMode::ConstantQuality { quantizer } => {
                self.code_at_quality(UnitKind::Delta, (&gop, &unit), quantizer, packed_times.len())?
            }
            RateMode::Bitrate(link) => {
                self.delta_at_rate(link, (&gop, &unit), &frames, (timing, packed_times.len()))?
            }
        };
        let package = gop.package(frames.len(), timing);
        let coded = package.access_unit(&trial.coded, &packed_times, self.max_payload)?;
        self.note(&gop, &trial);
        gop.push(&self.model, &trial.coded.symbols, &unit.framed.pictures(&group))?;
        gop.frames += frames.len() as u32;
        // Frames after a short group would not line up with the decoder's: it ends the group of pictures.
        self.gop = (frames.len() == self.model.group_frames()).then_some(gop);
        Ok(Some(coded))
    }

    /// The networks take whole groups: a short one is filled up with its last frame.
    fn whole_group<'a>(&self, frames: &'a [Frame], last: &'a Frame) -> Vec<&'a Frame> {
        let filled = frames.iter().chain(std::iter::repeat(last));
        filled.take(self.model.group_frames()).collect()
    }

    /// What starts with a frame as a key unit.
    fn new_gop(&self, frame: &Frame, coding_scale: CodingScale) -> Gop {
        let sequence = SequenceHeader {
            pts: frame.pts,
            coding_scale,
            ..self.sequence
        };
        let may_lose = self.settings.error_resilience != ErrorResilience::None;
        let links = may_lose.then(|| Links::new(self.group));
        Gop::new(&self.model, sequence, self.bits.clone(), links)
    }

    /// How long frames last: their spacing, or what the frame rate says.
    fn seconds(&self, frames: &[Frame]) -> f64 {
        let times = frames.first().zip(frames.last()).and_then(|(a, b)| a.pts.zip(b.pts));
        let spacing = match times {
            Some((first, last)) if last > first => Some((last - first) as f64 / 1e9 / (frames.len() - 1) as f64),
            _ => self.frame_seconds,
        };
        spacing.unwrap_or(nominal_frame_seconds(&self.sequence)) * frames.len().max(1) as f64
    }
}

/// How long a frame lasts by the header of its sequence.
fn nominal_frame_seconds(sequence: &SequenceHeader) -> f64 {
    match sequence.frame_rate {
        (0, _) => ASSUMED_FRAME_SECONDS,
        (num, den) => f64::from(den) / f64::from(num),
    }
}
