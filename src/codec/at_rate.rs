// SPDX-License-Identifier: MPL-2.0
//! The encoder where a rate decides: the quality of scenes and of their units.

use super::candidate::{may_refine, Candidate, Stream, Unit};
use super::encoder::{AccessUnit, Encoder};
use super::ladder::{Quality, LAST_ENLARGED, LAST_WITH_DETAIL};
use super::rate::{better_scale, fit, Link, Opening, Room, ScenePlan, Sized, UnitKind};
use super::{CodecError, Frame};
use crate::bitstream::{CodingScale, SequenceHeader, Timing, UnitHeader, MAX_PAYLOAD};

/// How often the quality of a scene is planned with what its first units take in a trial.
const OPENING_TRIALS: usize = 3;
/// A plan that is so near to the trial before is as good.
const NEAR: f64 = 0.75;
/// Seconds after a key unit before another one for a better scale, or for details, is worth it, ...
const PATIENCE_SECONDS: f64 = 4.0;
/// ... and where a smaller scale would be better even at a quality finer by so much.
const HURRY_SECONDS: f64 = 1.0;
const HURRY: f64 = 6.0;
/// How far the quality of a key unit must be within the range of a larger scale that it is to start.
const CLEARLY: f64 = 2.0;

/// A scene at a scale, as the networks see it.
struct Scene {
    stream: Stream,
    key: Unit,
    /// The frames after the key unit's, where they are known.
    ahead: Option<Unit>,
    /// The key unit of the last trial.
    coded: Option<Sized<Candidate>>,
}

impl Encoder {
    /// A frame as a key unit, of a quality that the rate can keep for the scene that it starts; `ahead`: frames after it. `is_new`:
    /// nothing is known of the scene.
    pub(super) fn open_at_rate(
        &mut self,
        link: Link,
        frame: &Frame,
        ahead: &[Frame],
        is_new: bool,
    ) -> Result<AccessUnit, CodecError> {
        let opening = self.opening(ahead, is_new);
        self.rate.advance(link, frame.pts, opening.frame_seconds);
        if is_new {
            self.rate.cut();
        }
        let (mut scene, wanted) = self.plan_scene(link, opening, (frame, ahead))?;
        let room = self.in_bitstream(self.rate.key_room(link));
        let (coded, quality) = loop {
            let (coded, quality) = self.fit_key(&mut scene, frame, wanted, room)?;
            let scale = scene.stream.sequence.coding_scale;
            match scale
                .smaller()
                .filter(|_| coded.bits > room.most && self.chooses_scale())
            {
                Some(smaller) => scene = self.scene(frame, ahead, smaller)?,
                None => break (coded, quality),
            }
        };
        self.rate.open(opening, quality.quantizer);
        self.rate.push(link, (UnitKind::Key, quality), coded.bits, 0.0);
        let settled = self.rate.settled(link, opening.unit_seconds());
        let paints = coded.unit.has_detail || settled <= f64::from(LAST_WITH_DETAIL);
        scene.stream.forget_units();
        self.seen = scene.ahead.map(|unit| unit.analysis);
        self.enter(scene.stream, coded.unit, frame, paints)
    }

    /// The scene that starts with a frame, at the scale and with the quality that suit it.
    fn plan_scene(
        &mut self,
        link: Link,
        opening: Opening,
        (frame, ahead): (&Frame, &[Frame]),
    ) -> Result<(Scene, f64), CodecError> {
        let samples = f64::from(self.sequence.width) * f64::from(self.sequence.height);
        let present = self.stream.as_ref().map(|stream| stream.sequence.coding_scale);
        let mut plan = self.rate.plan_key(link, opening, samples);
        let mut scene = self.scene(frame, ahead, self.scene_scale(plan, present))?;
        if !opening.is_new {
            return Ok((scene, plan.key));
        }
        let mut quantizer = self.starting_quantizer(plan);
        for trial in 1..=OPENING_TRIALS {
            self.try_scene(&mut scene, frame, quantizer)?;
            plan = self.rate.plan_key(link, opening, samples);
            let planned = self.starting_quantizer(plan);
            if (planned - quantizer).abs() < NEAR {
                break;
            }
            quantizer = planned;
            let scale = self.scene_scale(plan, None);
            if trial < OPENING_TRIALS && scale != scene.stream.sequence.coding_scale {
                scene = self.scene(frame, ahead, scale)?;
            }
        }
        Ok((scene, quantizer))
    }

    /// The scale of a key unit; `present`: that of the stream that it goes on from. It is that of the scene, whatever the buffer has room
    /// for now. Pictures are enlarged only where much of them may move yet.
    fn scene_scale(&self, plan: ScenePlan, present: Option<CodingScale>) -> CodingScale {
        let largest = self.largest_scale();
        match present.filter(|_| self.chooses_scale()) {
            Some(present) => better_scale(present, plan.scene, largest).unwrap_or(present),
            None => {
                let at = |quantizer: f64| self.scale_at(quantizer.round() as u32);
                at(plan.scene).min(at(plan.moving).max(CodingScale::Single))
            }
        }
    }

    /// The quality of the first key unit of a scene: not finer than its scale is good for.
    fn starting_quantizer(&self, plan: ScenePlan) -> f64 {
        let may_enlarge = self.chooses_scale() && self.largest_scale() > CodingScale::Single;
        match may_enlarge && self.scene_scale(plan, None) <= CodingScale::Single {
            true => plan.key.max(f64::from(LAST_ENLARGED + 1)),
            false => plan.key,
        }
    }

    /// Lets the networks see a key unit's frame and those after it.
    fn scene(&self, frame: &Frame, ahead: &[Frame], scale: CodingScale) -> Result<Scene, CodecError> {
        let mut stream = self.new_stream(frame, scale);
        let analysis = stream.analyse(&self.model, &[frame])?;
        let key = stream.unit(analysis, &[frame]);
        let ahead = match ahead.last() {
            Some(last) => {
                let group = self.whole_group(ahead, last);
                let analysis = stream.analyse(&self.model, &group)?;
                Some(stream.unit(analysis, &group))
            }
            None => None,
        };
        Ok(Scene {
            stream,
            key,
            ahead,
            coded: None,
        })
    }

    /// Codes the first units of a scene at a quality, and tells the rate control what they take.
    fn try_scene(&mut self, scene: &mut Scene, frame: &Frame, quantizer: f64) -> Result<(), CodecError> {
        scene.stream.forget_units();
        let coded = self.code_key(scene, frame, quantizer.into())?;
        let mut delta_bits = None;
        if let Some(ahead) = &scene.ahead {
            scene.stream.push_symbols(&self.model, &coded.unit)?;
            let delta = scene
                .stream
                .candidate(&self.model, &self.settings, ahead, quantizer.into())?;
            delta_bits = Some(unit_bits(None, Timing::Grid, delta.payload.len()));
            scene.stream.forget_units();
        }
        self.rate.begin(quantizer, coded.bits, delta_bits);
        scene.coded = Some(coded);
        Ok(())
    }

    fn code_key(&self, scene: &Scene, frame: &Frame, quality: Quality) -> Result<Sized<Candidate>, CodecError> {
        let unit = scene
            .stream
            .candidate(&self.model, &self.settings, &scene.key, quality)?;
        let sequence = SequenceHeader {
            pts: frame.pts,
            ..scene.stream.sequence
        };
        Ok(Sized {
            bits: unit_bits(Some(sequence), Timing::Grid, unit.payload.len()),
            detail_bits: 0.0,
            unit,
        })
    }

    /// The key unit of a scene in the room that there is.
    fn fit_key(
        &self,
        scene: &mut Scene,
        frame: &Frame,
        wanted: f64,
        room: Room,
    ) -> Result<(Sized<Candidate>, Quality), CodecError> {
        let mut tried = scene.coded.take();
        fit(UnitKind::Key, wanted.into(), room, |quality| {
            match tried.take().filter(|coded| coded.unit.quality == quality) {
                Some(coded) => Ok(coded),
                None => self.code_key(scene, frame, quality),
            }
        })
    }

    /// The delta unit of frames, whose times take so many bytes.
    pub(super) fn delta_at_rate(
        &mut self,
        link: Link,
        (stream, unit): (&Stream, &Unit),
        frames: &[Frame],
        (timing, time_bytes): (Timing, usize),
    ) -> Result<Candidate, CodecError> {
        let seconds = self.seconds(frames);
        self.frame_seconds = Some(seconds / frames.len() as f64);
        self.rate.advance(link, frames[0].pts, seconds);
        let plan = self.rate.plan_delta(link, self.key_follows);
        let room = self.in_bitstream(plan.room);
        let (coded, quality) = fit(UnitKind::Delta, plan.quality, room, |quality| {
            let unit = stream.candidate(&self.model, &self.settings, unit, quality)?;
            Ok::<_, CodecError>(Sized {
                bits: unit_bits(None, timing, unit.payload.len() + time_bytes),
                detail_bits: unit.detail_bits as f64,
                unit,
            })
        })?;
        self.rate
            .push(link, (UnitKind::Delta, quality), coded.bits, coded.detail_bits);
        Ok(coded.unit)
    }

    /// Room that the bitstream has as well: a fast link may take more.
    fn in_bitstream(&self, room: Room) -> Room {
        Room {
            usual: room.usual.min(self.most_bits()),
            most: room.most.min(self.most_bits()),
        }
    }

    /// Whether going on with a frame as a key unit is worth it: at another scale, or with details, which add to pictures that only
    /// an encoder knows that has painted all of them.
    pub(super) fn wants_other_stream(&mut self) -> bool {
        let (Some(link), Some(stream)) = (self.settings.rate_mode.link(), &self.stream) else {
            return false;
        };
        let present = stream.sequence.coding_scale;
        let opening = self.opening(&[], false);
        // What is left to pay of the key unit must not decide: that is over soon.
        let quantizer = self.rate.settled(link, opening.unit_seconds());
        let better = better_scale(present, quantizer, self.largest_scale())
            .filter(|better| self.chooses_scale() && (*better < present || !stream.has_frozen()));
        let is_fine = |quantizer: f64| quantizer <= f64::from(LAST_WITH_DETAIL);
        let wants_detail = stream.mirror.is_none() && may_refine(&self.model, &self.settings) && is_fine(quantizer);
        let is_far =
            better_scale(present, quantizer - HURRY, self.largest_scale()).is_some_and(|scale| scale < present);
        let patience = if is_far { HURRY_SECONDS } else { PATIENCE_SECONDS };
        if self.rate.overruns() && self.chooses_scale() && present.smaller().is_some() {
            return true;
        }
        let has_cause = better.is_some() || wants_detail;
        if !has_cause || self.rate.key_age() < patience || !self.rate.has_key_room(link) {
            return false;
        }
        // With the key unit paid for, it must still be what suits.
        let samples = f64::from(self.sequence.width) * f64::from(self.sequence.height);
        let planned = self.rate.plan_key(link, opening, samples);
        let scale = self.scene_scale(planned, Some(present));
        // A larger scale must be affordable in the key unit as well, and not only just.
        let affordable = self.scale_at((planned.key + CLEARLY) as u32);
        let suits = |better: CodingScale| {
            scale.cmp(&present) == better.cmp(&present) && (better < present || affordable > present)
        };
        wants_detail && is_fine(planned.key) || better.is_some_and(suits)
    }

    fn opening(&self, ahead: &[Frame], is_new: bool) -> Opening {
        let frame_seconds = match (ahead.len(), self.frame_seconds) {
            (0 | 1, Some(seconds)) => seconds,
            _ => self.seconds(ahead) / ahead.len().max(1) as f64,
        };
        Opening {
            is_new,
            frame_seconds,
            group_frames: self.model.group_frames(),
            key_distance: self.key_distance(),
        }
    }
}

/// Bits of a whole unit. Of a trial, whose payload may be longer than a header can say.
fn unit_bits(sequence: Option<SequenceHeader>, timing: Timing, payload_length: usize) -> f64 {
    let header = UnitHeader {
        sequence,
        frames: 1,
        timing,
        payload_length: payload_length.min(MAX_PAYLOAD),
        symbol_check: 0,
    };
    (8 * (header.pack().len() + payload_length)) as f64
}
