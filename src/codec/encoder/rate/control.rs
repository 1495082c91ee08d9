// SPDX-License-Identifier: MPL-2.0
//! Plans the quality of units.

use super::operating_points::{Quality, LAST_WITH_RESIDUAL, MAX_QUANTIZER};
use super::search::Room;
use super::size_model::{finest, SizeModel, UnitKind};
use super::vbv::{Link, Vbv};

/// Seconds over which a scene, its key unit included, is to take what the rate has for them, at most. Where the scene goes on, its
/// pictures then get better; where it ends earlier, what it took too much is saved in the next ones.
const SCENE_SECONDS: f64 = 3.5;
/// Where scenes are shorter, how fast that follows their length, and how short it gets.
const SCENE_FOLLOW: f64 = 0.3;
const LEAST_SCENE_SECONDS: f64 = 1.0;
/// The same where a key unit comes without a cut: what is known of the scene holds on.
const GO_ON_SECONDS: f64 = 5.0;
/// Plans never look less far ahead, in seconds: single units would move them.
const LEAST_SECONDS: f64 = 1.2;
/// What plans leave on its way to the decoder, in delta units of the rate, and in shares of the buffer at least and at most: where
/// nothing is left, the link idles.
const BASE_UNITS: f64 = 0.5;
const LEAST_BASE: f64 = 0.06;
const MOST_BASE: f64 = 0.25;
/// Share of what the buffer has room for that a key unit may take: the units after it need some.
const KEY_SHARE: f64 = 0.9;
/// Share of the buffer that units between key units leave free for the next cut, ...
const CUT_RESERVE: f64 = 0.2;
/// ... but never more than this share of what is free.
const CUT_RESERVE_SHARE: f64 = 0.25;
/// Share of what a unit may take at which it is planned: it may come out larger.
const PLANNED_SHARE: f64 = 0.8;
/// How far the first delta unit of a scene is trusted to tell what the others take: what stands still for a moment may move the next.
const TRUST: f64 = 0.7;
/// The same where that must not be wrong.
const MOTION_TRUST: f64 = 0.4;
/// Seconds in which the quality comes near to the planned one, and how far it goes in a second at most.
const FOLLOW_SECONDS: f64 = 0.75;
const MAX_FINER: f64 = 4.0;
const MAX_COARSER: f64 = 6.0;
/// How much faster it gets finer while the link idles.
const IDLE_HURRY: f64 = 2.5;
/// Seconds of the rate by which residual may come earlier than planned: it lasts.
const RESIDUAL_EARLIER: f64 = 3.0;
/// What the residual of a picture that stands still takes, in what its key unit takes.
const RESIDUAL_COST: f64 = 0.6;

/// Keeps a stream to a link.
#[derive(Clone, Debug)]
pub struct RateControl {
    vbv: Vbv,
    /// `None` before the first unit.
    sizes: Option<SizeModel>,
    /// Planned for the last unit, on the scale of the quantizer.
    quantizer: f64,
    /// Whether the last unit was a delta unit for which there was no room, as small as it could be.
    overruns: bool,
    /// When the last key unit was due, and for how long it was planned, in seconds.
    key_due: f64,
    horizon: f64,
    /// When the scene began, and how long scenes last, in seconds.
    scene_due: Option<f64>,
    scene_seconds: f64,
    /// Seconds of the last unit.
    seconds: f64,
}

impl Default for RateControl {
    fn default() -> RateControl {
        RateControl {
            vbv: Vbv::default(),
            sizes: None,
            quantizer: 0.0,
            overruns: false,
            key_due: 0.0,
            horizon: SCENE_SECONDS,
            scene_due: None,
            scene_seconds: SCENE_SECONDS,
            seconds: 0.0,
        }
    }
}

/// What a key unit starts.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Whether it starts a scene that nothing is known of.
    pub is_new: bool,
    /// Seconds from a frame to the next.
    pub frame_seconds: f64,
    /// Frames of the delta units that follow.
    pub group_frames: usize,
    /// Frames until the next key unit at the latest.
    pub key_distance: u32,
}

impl Opening {
    /// Seconds of the delta units that follow.
    pub fn unit_seconds(self) -> f64 {
        self.frame_seconds * self.group_frames as f64
    }

    /// Seconds over which the key unit is paid, where scenes last for `scene_seconds`.
    fn horizon(self, scene_seconds: f64) -> f64 {
        let usual = if self.is_new { scene_seconds } else { GO_ON_SECONDS };
        let interval = self.frame_seconds * f64::from(self.key_distance);
        usual.min(interval).max(self.unit_seconds())
    }
}

/// Qualities of a scene, on the scale of the quantizer.
#[derive(Clone, Copy, Debug)]
pub struct ScenePlan {
    /// What the rate has for it.
    pub scene: f64,
    /// What the buffer has room for in its key unit.
    pub key: f64,
    /// What the rate has for it if more of it moves than is seen so far.
    pub moving: f64,
}

/// What a unit is to be like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnitPlan {
    pub quality: Quality,
    pub room: Room,
}

impl RateControl {
    /// Goes on to a unit whose first frame has a time stamp in ns, where known, and which lasts `seconds`.
    pub fn advance(&mut self, link: Link, start: Option<u64>, seconds: f64) {
        let next = self.vbv.due().map_or(0.0, |due| due + self.seconds);
        let due = start.map_or(next, |start| start as f64 / 1e9);
        self.vbv.advance(due, link);
        self.seconds = seconds;
    }

    /// Bits from now on for `seconds` of delta units that last `unit_seconds` each.
    fn allowance(&self, link: Link, seconds: f64, unit_seconds: f64) -> f64 {
        let share = BASE_UNITS * unit_seconds / link.buffer;
        let base = share.clamp(LEAST_BASE, MOST_BASE) * link.capacity();
        link.rate * seconds + base - self.vbv.backlog()
    }

    /// What a key unit may take.
    pub fn key_room(&self, link: Link) -> Room {
        let most = self.vbv.room(link);
        Room {
            usual: KEY_SHARE * most,
            most,
        }
    }

    /// Notes that a scene starts with the unit to come.
    pub fn cut(&mut self) {
        let due = self.vbv.due().unwrap_or(0.0);
        if let Some(before) = self.scene_due.replace(due) {
            self.scene_seconds += SCENE_FOLLOW * (due - before - self.scene_seconds);
            self.scene_seconds = self.scene_seconds.clamp(LEAST_SCENE_SECONDS, SCENE_SECONDS);
        }
    }

    /// Whether the buffer has room for some key units, about, where the units before and after them are as small as can be.
    pub fn has_key_room(&self, link: Link, keys: usize) -> bool {
        let room = self.vbv.room(link) + link.rate * self.seconds;
        self.sizes.as_ref().is_none_or(|sizes| {
            let last = f64::from(MAX_QUANTIZER);
            keys as f64 * least_key(sizes) + 2.0 * sizes.bits(UnitKind::Delta, last) <= KEY_SHARE * room
        })
    }

    /// The finest quality at which a key unit and what follows it for some seconds take no more than the rate has for them.
    /// `samples`: shown luma samples of a picture.
    pub fn plan_key(&mut self, link: Link, opening: Opening, samples: f64) -> ScenePlan {
        let sizes = self.sizes.get_or_insert_with(|| SizeModel::usual(samples)).clone();
        let seconds = opening.horizon(self.scene_seconds);
        let allowance = self.allowance(link, seconds, opening.unit_seconds());
        let units = seconds / opening.unit_seconds();
        let affordable = |sizes: &SizeModel, quantizer: f64| {
            let key = sizes.bits(UnitKind::Key, quantizer);
            let delta = sizes.bits(UnitKind::Delta, quantizer);
            key + residual_cost(sizes, quantizer) + units * delta <= allowance
        };
        let scene = finest(0.0, |quantizer| affordable(&sizes, quantizer));
        // The unit that follows it soon is to be as good.
        let room = self.key_room(link).usual + link.rate * opening.frame_seconds;
        let key = finest(scene, |quantizer| {
            sizes.bits(UnitKind::Key, quantizer) + sizes.bits(UnitKind::Delta, quantizer) <= room
        });
        let mut moving = sizes.clone();
        moving.begin_delta(
            scene,
            sizes.bits(UnitKind::Key, scene),
            sizes.bits(UnitKind::Delta, scene),
            MOTION_TRUST,
        );
        ScenePlan {
            scene,
            key,
            moving: finest(scene, |quantizer| affordable(&moving, quantizer)),
        }
    }

    /// The quality that the scene would get in the end, its key unit paid for.
    pub fn settled(&self, link: Link, unit_seconds: f64) -> f64 {
        let Some(sizes) = &self.sizes else {
            return self.quantizer;
        };
        finest(0.0, |quantizer| {
            sizes.bits(UnitKind::Delta, quantizer) <= link.rate * unit_seconds
        })
    }

    /// Takes what the first units of a scene took in a trial; `delta`: of the one after the key unit, where there is one.
    pub fn begin(&mut self, quantizer: f64, key: f64, delta: Option<f64>) {
        let Some(sizes) = &mut self.sizes else { return };
        sizes.begin(UnitKind::Key, quantizer, key);
        if let Some(delta) = delta {
            sizes.begin_delta(quantizer, key, delta, TRUST);
        }
    }

    /// Notes that a key unit starts at a quality.
    pub fn open(&mut self, opening: Opening, quantizer: f64) {
        self.quantizer = quantizer;
        self.key_due = self.vbv.due().unwrap_or(0.0);
        self.horizon = opening.horizon(self.scene_seconds);
    }

    /// The quality of a delta unit: near that of the unit before, on the way to one at which the rate lasts. `key_follows`: the next
    /// unit is a key unit.
    pub fn plan_delta(&mut self, link: Link, key_follows: bool) -> UnitPlan {
        let room = self.delta_room(link, key_follows);
        let Some(sizes) = &self.sizes else {
            return UnitPlan {
                quality: self.quantizer.into(),
                room,
            };
        };
        let seconds = self.remaining();
        let units = (seconds / self.seconds.max(1e-3)).max(1.0);
        let allowance = self.allowance(link, seconds, self.seconds);
        let target = finest(0.0, |quantizer| {
            let delta = sizes.bits(UnitKind::Delta, quantizer);
            units * delta + refinement(sizes, self.quantizer, quantizer) <= allowance
        });
        let follow = 1.0 - (-self.seconds / FOLLOW_SECONDS).exp();
        let step = follow * (target - self.quantizer);
        let hurry = if self.vbv.backlog() > 0.0 { 1.0 } else { IDLE_HURRY };
        let step = step.clamp(-MAX_FINER * hurry * self.seconds, MAX_COARSER * self.seconds);
        let wanted = (self.quantizer + step).clamp(0.0, f64::from(MAX_QUANTIZER));
        self.quantizer = wanted;
        // Where the room is scarce, that says nothing of what suits the scene.
        let quantizer = finest(wanted, |quantizer| {
            sizes.bits(UnitKind::Delta, quantizer) <= PLANNED_SHARE * room.usual
        });
        let delta = sizes.bits(UnitKind::Delta, quantizer);
        let left = allowance + RESIDUAL_EARLIER * link.rate - units * delta;
        let residual = left.min(PLANNED_SHARE * room.usual - delta);
        UnitPlan {
            quality: Quality {
                residual_bits: Some(residual.max(0.0)),
                ..quantizer.into()
            },
            room,
        }
    }

    /// What a delta unit may take: something is left for a cut, as far as there is any.
    fn delta_room(&self, link: Link, key_follows: bool) -> Room {
        let most = self.vbv.room(link);
        let reserve = (CUT_RESERVE * link.capacity()).min(CUT_RESERVE_SHARE * most.max(0.0));
        let key = self.sizes.as_ref().filter(|_| key_follows).map_or(0.0, least_key);
        let key = (key / KEY_SHARE - link.rate * self.seconds).max(0.0);
        Room {
            usual: most - reserve.max(key),
            most,
        }
    }

    /// Seconds for which plans look ahead.
    fn remaining(&self) -> f64 {
        let age = self.vbv.due().unwrap_or(0.0) - self.key_due;
        (self.horizon - age.max(0.0)).max(LEAST_SECONDS.min(self.horizon))
    }

    /// Whether not even the smallest units fit: the rate has fallen far below what pictures of their scale take.
    pub fn overruns(&self) -> bool {
        self.overruns
    }

    /// Notes what a unit took at a quality: all of it, and what of that was residual.
    pub fn push(&mut self, link: Link, (kind, quality): (UnitKind, Quality), bits: f64, residual_bits: f64) {
        self.overruns = kind == UnitKind::Delta && bits > self.vbv.room(link);
        self.vbv.push(bits);
        if quality.repeats {
            return;
        }
        if let Some(sizes) = &mut self.sizes {
            sizes.learn(kind, quality.quantizer, bits - residual_bits);
        }
    }

    /// Seconds since the last key unit.
    pub fn key_age(&self) -> f64 {
        self.vbv.due().unwrap_or(0.0) - self.key_due
    }
}

/// Bits of the smallest key unit.
fn least_key(sizes: &SizeModel) -> f64 {
    sizes.bits(UnitKind::Key, f64::from(MAX_QUANTIZER))
}

/// Share of a scene's pictures that stands still, about: what delta units need not code again.
fn still_share(sizes: &SizeModel, quantizer: f64) -> f64 {
    let (key, delta) = (
        sizes.bits(UnitKind::Key, quantizer),
        sizes.bits(UnitKind::Delta, quantizer),
    );
    (1.0 - 2.0 * delta / key).max(0.0)
}

/// Bits for the residual of what stands still.
fn residual_cost(sizes: &SizeModel, quantizer: f64) -> f64 {
    if quantizer > f64::from(LAST_WITH_RESIDUAL) {
        return 0.0;
    }
    RESIDUAL_COST * still_share(sizes, quantizer) * sizes.bits(UnitKind::Key, quantizer)
}

/// Bits that it takes once to make what stands still as good as a finer quantizer has it.
fn refinement(sizes: &SizeModel, present: f64, finer: f64) -> f64 {
    let key = |quantizer| sizes.bits(UnitKind::Key, quantizer);
    still_share(sizes, present) * (key(finer) - key(present)).max(0.0)
}
