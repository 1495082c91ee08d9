// SPDX-License-Identifier: MPL-2.0
//! The encoder where a rate decides: the quality of scenes and of their units.

use super::rate::{
    better_scale, fit, Link, Opening, Quality, Room, ScenePlan, Sized, UnitKind, LAST_ENLARGED, LAST_WITH_RESIDUAL,
};
use super::unit::{may_refine, Gop, TrialUnit, Unit};
use super::{AccessUnit, Encoder};
use crate::bitstream::{CodingScale, Timing};
use crate::codec::{CodecError, Frame};

/// How often the quality of a scene is planned with what its first units take in a trial.
const OPENING_TRIALS: usize = 3;
/// A plan that is so near to the trial before is as good.
const NEAR: f64 = 0.75;
/// Seconds after a key unit before another one for a better scale, or for residuals, is worth it, ...
const PATIENCE_SECONDS: f64 = 4.0;
/// ... and where a smaller scale would be better even at a quality finer by so much.
const HURRY_SECONDS: f64 = 1.0;
const HURRY: f64 = 6.0;
/// How far the quality of a key unit must be within the range of a larger scale that it is to start.
const CLEARLY: f64 = 2.0;

/// A scene at a scale, as the networks see it.
struct Scene {
    gop: Gop,
    key: Unit,
    /// The frames after the key unit's, where they are known.
    ahead: Option<Unit>,
    /// The key unit of the last trial.
    coded: Option<Sized<TrialUnit>>,
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
            let (coded, quality) = self.fit_key(&mut scene, wanted, room)?;
            let scale = scene.gop.sequence.coding_scale;
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
        let paints = coded.unit.has_residual || settled <= f64::from(LAST_WITH_RESIDUAL);
        scene.gop.forget_units();
        self.seen = scene.ahead;
        self.enter(scene.gop, coded.unit, frame, paints)
    }

    /// The scene that starts with a frame, at the scale and with the quality that suit it.
    fn plan_scene(
        &mut self,
        link: Link,
        opening: Opening,
        (frame, ahead): (&Frame, &[Frame]),
    ) -> Result<(Scene, f64), CodecError> {
        let samples = f64::from(self.sequence.width) * f64::from(self.sequence.height);
        let present = self.gop.as_ref().map(|gop| gop.sequence.coding_scale);
        let mut plan = self.rate.plan_key(link, opening, samples);
        let mut scene = self.scene(frame, ahead, self.scene_scale(plan, present))?;
        if !opening.is_new {
            return Ok((scene, plan.key));
        }
        let mut quantizer = self.starting_quantizer(plan);
        for trial in 1..=OPENING_TRIALS {
            self.try_scene(&mut scene, quantizer)?;
            plan = self.rate.plan_key(link, opening, samples);
            let planned = self.starting_quantizer(plan);
            if (planned - quantizer).abs() < NEAR {
                break;
            }
            quantizer = planned;
            let scale = self.scene_scale(plan, None);
            if trial < OPENING_TRIALS && scale != scene.gop.sequence.coding_scale {
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
        let mut gop = self.new_gop(frame, scale);
        let key = gop.analyse(&self.model, &self.settings, &[frame])?;
        let ahead = match ahead.last() {
            Some(last) => {
                let group = self.whole_group(ahead, last);
                Some(gop.analyse(&self.model, &self.settings, &group)?)
            }
            None => None,
        };
        Ok(Scene {
            gop,
            key,
            ahead,
            coded: None,
        })
    }

    /// Codes the first units of a scene at a quality, and tells the rate control what they take.
    fn try_scene(&mut self, scene: &mut Scene, quantizer: f64) -> Result<(), CodecError> {
        scene.gop.forget_units();
        let coded = self.code_key(scene, quantizer.into())?;
        let mut delta_bits = None;
        if let Some(ahead) = &scene.ahead {
            scene.gop.push(&self.model, &coded.unit.coded.symbols, &[])?;
            let delta = scene.gop.trial(&self.model, &self.settings, ahead, quantizer.into())?;
            delta_bits = Some(scene.gop.package(1, Timing::Grid).bits(&delta.coded, 0));
            scene.gop.forget_units();
        }
        self.rate.begin(quantizer, coded.bits, delta_bits);
        scene.coded = Some(coded);
        Ok(())
    }

    fn code_key(&self, scene: &Scene, quality: Quality) -> Result<Sized<TrialUnit>, CodecError> {
        let unit = scene.gop.trial(&self.model, &self.settings, &scene.key, quality)?;
        Ok(Sized {
            bits: scene.gop.package(1, Timing::Grid).bits(&unit.coded, 0),
            residual_bits: 0.0,
            unit,
        })
    }

    /// The key unit of a scene in the room that there is.
    fn fit_key(&self, scene: &mut Scene, wanted: f64, room: Room) -> Result<(Sized<TrialUnit>, Quality), CodecError> {
        let mut tried = scene.coded.take();
        fit(UnitKind::Key, wanted.into(), room, |quality| {
            match tried.take().filter(|coded| coded.unit.quality == quality) {
                Some(coded) => Ok(coded),
                None => self.code_key(scene, quality),
            }
        })
    }

    /// The delta unit of frames, whose times take so many bytes.
    pub(super) fn delta_at_rate(
        &mut self,
        link: Link,
        (gop, unit): (&Gop, &Unit),
        frames: &[Frame],
        (timing, time_bytes): (Timing, usize),
    ) -> Result<TrialUnit, CodecError> {
        let seconds = self.seconds(frames);
        self.frame_seconds = Some(seconds / frames.len() as f64);
        self.rate.advance(link, frames[0].pts, seconds);
        let plan = self.rate.plan_delta(link, self.key_follows);
        let room = self.in_bitstream(plan.room);
        let (coded, quality) = fit(UnitKind::Delta, plan.quality, room, |quality| {
            let unit = gop.trial(&self.model, &self.settings, unit, quality)?;
            Ok::<_, CodecError>(Sized {
                bits: gop.package(frames.len(), timing).bits(&unit.coded, time_bytes),
                residual_bits: unit.coded.residual_bits as f64,
                unit,
            })
        })?;
        self.rate
            .push(link, (UnitKind::Delta, quality), coded.bits, coded.residual_bits);
        Ok(coded.unit)
    }

    /// Room that the bitstream has as well: a fast link may take more.
    fn in_bitstream(&self, room: Room) -> Room {
        Room {
            usual: room.usual.min(self.most_bits()),
            most: room.most.min(self.most_bits()),
        }
    }

    /// Whether going on with a frame as a key unit is worth it: at another scale, or with residuals, which add to pictures that only
    /// an encoder knows that has painted all of them.
    pub(super) fn wants_restart(&mut self) -> bool {
        let (Some(link), Some(gop)) = (self.settings.rate_mode.link(), &self.gop) else {
            return false;
        };
        let present = gop.sequence.coding_scale;
        let opening = self.opening(&[], false);
        // What is left to pay of the key unit must not decide: that is over soon.
        let quantizer = self.rate.settled(link, opening.unit_seconds());
        let better = better_scale(present, quantizer, self.largest_scale())
            .filter(|better| self.chooses_scale() && (*better < present || !gop.has_static()));
        let is_fine = |quantizer: f64| quantizer <= f64::from(LAST_WITH_RESIDUAL);
        let wants_residual = !gop.paints() && may_refine(&self.model, &self.settings) && is_fine(quantizer);
        let is_far =
            better_scale(present, quantizer - HURRY, self.largest_scale()).is_some_and(|scale| scale < present);
        let patience = if is_far { HURRY_SECONDS } else { PATIENCE_SECONDS };
        if self.rate.overruns() && self.chooses_scale() && present.smaller().is_some() {
            return true;
        }
        let has_cause = better.is_some() || wants_residual;
        if !has_cause || self.rate.key_age() < patience || !self.rate.has_key_room(link, 1) {
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
        wants_residual && is_fine(planned.key) || better.is_some_and(suits)
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
