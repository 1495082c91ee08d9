// SPDX-License-Identifier: MPL-2.0
//! Follows the camera: finds out where the frames of a unit lie in the world, decides whether the unit's window is to go with them, puts them
//! there, and lets them be searched for what moves by itself.

mod mosaic;
mod motion;

use super::local_motion::stilled;
use super::EncoderAblation;
#[cfg(feature = "train")]
use crate::bitstream::SequenceHeader;
use crate::bitstream::{Grid, Position, Window, POSITIONS_PER_SAMPLE};
use crate::codec::Frame;
use crate::entropy::{Camera, CameraContext, MotionContext};
use mosaic::Mosaic;
use motion::{Displacement, Pyramid};

/// How far frames of a unit must have moved, in samples, for it to be motion.
const LEAST_MOTION: f32 = 0.3;
/// What following leaves of the mismatch at most, for it to be worth it.
const WORTH: f32 = 0.98;
/// A window has at most so many times the tokens of the picture.
const MAX_GROWTH: f32 = 1.6;
/// A frame is placed where the camera's way goes on, or where the one before is, as long as it is nearer to that than this, in samples.
const STICKS: f32 = 0.15;
/// A displacement that is found again against another frame is the same if it is so near, in samples.
const SAME: f32 = 0.75;

/// From a key unit on.
#[derive(Debug)]
pub struct CameraTracker {
    /// `None` where no window moves.
    world: Option<World>,
    before: CameraContext,
    /// What moved by itself in the last unit.
    motion: MotionContext,
}

/// What the camera has seen.
#[derive(Debug)]
struct World {
    mosaic: Mosaic,
    /// The last frame.
    last: Pyramid,
}

/// A unit's frames in their window.
#[derive(Debug)]
pub struct Framed {
    pub camera: Camera,
    /// As large as the window, one for each frame of the whole unit; empty where they are the frames themselves.
    pictures: Vec<Frame>,
    /// The same with what moves by itself where it was before the unit; empty where nothing does.
    stilled: Vec<Frame>,
}

impl Framed {
    /// Of a key unit.
    pub fn key(grid: Grid) -> Framed {
        Framed {
            camera: Camera::key(grid),
            pictures: vec![],
            stilled: vec![],
        }
    }

    pub fn window(&self) -> Window {
        self.camera.window
    }

    /// The window's pictures of the unit's frames.
    pub fn pictures<'a>(&'a self, frames: &[&'a Frame]) -> Vec<&'a Frame> {
        match self.pictures.is_empty() {
            true => frames.to_vec(),
            false => self.pictures.iter().collect(),
        }
    }

    /// The same with what moves by itself where it was before the unit.
    pub fn stilled<'a>(&'a self, frames: &[&'a Frame]) -> Vec<&'a Frame> {
        match self.stilled.is_empty() {
            true => self.pictures(frames),
            false => self.stilled.iter().collect(),
        }
    }
}

impl CameraTracker {
    /// From the frame of a key unit on.
    pub fn new(grid: Grid, key: &Frame) -> CameraTracker {
        CameraTracker {
            world: grid.may_move.then(|| World {
                mosaic: Mosaic::new(Window::picture(grid), key),
                last: pyramid(key),
            }),
            before: Camera::key(grid).context(),
            motion: MotionContext::default(),
        }
    }

    /// Of the last unit.
    pub fn window(&self) -> Window {
        self.before.window()
    }

    /// Puts the frames of the next unit, a whole one, where they belong. `ablation`: whether the window may move, and what it shows, with
    /// so many bits at most.
    pub fn push(&mut self, frames: &[&Frame], ablation: &EncoderAblation, most_motion_bits: f64) -> Framed {
        let still = Camera::still(&self.before);
        let (Some(world), Some(last)) = (&mut self.world, frames.last()) else {
            return Framed {
                camera: still,
                pictures: vec![],
                stilled: vec![],
            };
        };
        let (camera, last) = match ablation.camera {
            true => tracked(&self.before, &world.last, frames),
            false => (still, Some(pyramid(last))),
        };
        world.last = last.unwrap_or_else(|| world.last.clone());
        let may_warp = ablation.motion && camera.window.grid().may_warp;
        let shown = may_warp.then(|| world.mosaic.seen(camera.window).clone());
        let mut framed = Framed {
            pictures: world.mosaic.push(&camera, frames),
            camera,
            stilled: vec![],
        };
        if let Some(shown) = shown {
            self.still((&shown, most_motion_bits), &mut framed, frames);
        }
        self.before = framed.camera.context();
        framed
    }

    /// Finds out what moves by itself in a unit. `before`: what was shown before it in its window.
    fn still(&mut self, (before, most_bits): (&Frame, f64), framed: &mut Framed, frames: &[&Frame]) {
        let window = framed.window();
        self.motion.look(&self.before.window(), &window);
        if let Some(found) = stilled((&self.motion, most_bits), &window, before, &framed.pictures(frames)) {
            (framed.camera.motion, framed.stilled) = (found.motion, found.pictures);
        }
        self.motion = framed.camera.motion.context(framed.camera.field().as_ref());
    }
}

/// The camera of a unit's frames, after a unit of which the last frame is there, and their own last one.
fn tracked(before: &CameraContext, last: &Pyramid, frames: &[&Frame]) -> (Camera, Option<Pyramid>) {
    let mut pyramids: Vec<Pyramid> = frames.iter().map(|frame| pyramid(frame)).collect();
    let followed = followed(before, last, &pyramids);
    (followed.unwrap_or_else(|| Camera::still(before)), pyramids.pop())
}

/// Where frames lie after those of a unit, of which the last one is there, if following them is worth it.
fn followed(before: &CameraContext, last: &Pyramid, frames: &[Pyramid]) -> Option<Camera> {
    let moved = displacements(before, last, frames)?;
    let farthest = moved.iter().map(|(x, y)| x.abs().max(y.abs())).fold(0.0, f32::max);
    if farthest < LEAST_MOTION {
        return None;
    }
    let error = |displacement: &dyn Fn(usize) -> Displacement| -> f32 {
        let errors = frames.iter().enumerate();
        errors.map(|(at, frame)| frame.mismatch(last, displacement(at))).sum()
    };
    if error(&|at| moved[at]) > WORTH * error(&|_| (0.0, 0.0)) {
        return None;
    }
    let grid = before.window().grid();
    let camera = Camera::at(grid, placed(before, &moved))?;
    let tokens = |window: Window| (window.tokens().0 * window.tokens().1) as f32;
    let growth = tokens(camera.window) / tokens(Window::picture(grid));
    (growth <= MAX_GROWTH).then_some(camera)
}

/// How far each frame lies from the last one of the unit before.
fn displacements(before: &CameraContext, last: &Pyramid, frames: &[Pyramid]) -> Option<Vec<Displacement>> {
    let mut moved: Vec<Displacement> = Vec::with_capacity(frames.len());
    let mut neighbour = last;
    let quarters = POSITIONS_PER_SAMPLE as f32;
    let (x, y) = before.step();
    let mut step = (x as f32 / quarters, y as f32 / quarters);
    for frame in frames {
        let from = moved.last().copied().unwrap_or_default();
        step = frame.displacement(neighbour, step)?;
        let chained = (from.0 + step.0, from.1 + step.1);
        // From frame to frame it is found even where it is fast, from the last unit on errors do not add up.
        let again = frame.refined(last, chained);
        let is_same = (again.0 - chained.0).abs().max((again.1 - chained.1).abs()) < SAME;
        moved.push(if is_same { again } else { chained });
        neighbour = frame;
    }
    Some(moved)
}

/// Displacements as positions: as they go on from those before, where that is near enough.
fn placed(before: &CameraContext, moved: &[Displacement]) -> Vec<Position> {
    let (origin, step) = (before.position(), before.step());
    let columns = placed_along(moved.iter().map(|(x, _)| *x), step.0);
    let rows = placed_along(moved.iter().map(|(_, y)| *y), step.1);
    let from_origin = |(x, y)| (origin.0 + x, origin.1 + y);
    columns.into_iter().zip(rows).map(from_origin).collect()
}

/// Distances in samples as quarters of one. `step`: the last one before, in quarters.
fn placed_along(distances: impl Iterator<Item = f32>, mut step: i32) -> Vec<i32> {
    let mut last = 0;
    let sticks = STICKS * POSITIONS_PER_SAMPLE as f32;
    let place = |distance: f32| {
        let wanted = distance * POSITIONS_PER_SAMPLE as f32;
        let expected = last + step;
        let place = if (wanted - expected as f32).abs() <= sticks {
            expected
        } else if (wanted - last as f32).abs() <= sticks {
            last
        } else {
            wanted.round() as i32
        };
        step = place - last;
        last = place;
        place
    };
    distances.map(place).collect()
}

/// Where an encoder puts the frames of a clip, all of which belong to one group of pictures: what networks learn from is to lie as what they
/// see. Empty for no frames.
#[cfg(feature = "train")]
pub(crate) fn camera_path(frames: &[Frame]) -> Vec<Position> {
    const UNIT: usize = 8;
    let Some((key, rest)) = frames.split_first() else {
        return vec![];
    };
    let sequence = SequenceHeader::new(key.width as u32, key.height as u32, (25, 1));
    let mut before = Camera::key(Grid::new(&sequence, 16, UNIT, true)).context();
    let mut last = pyramid(key);
    let mut path = vec![(0, 0)];
    for unit in rest.chunks(UNIT) {
        let whole: Vec<&Frame> = unit.iter().chain(unit.last().into_iter().cycle()).take(UNIT).collect();
        let (camera, seen) = tracked(&before, &last, &whole);
        before = camera.context();
        last = seen.unwrap_or(last);
        path.extend(camera.positions.iter().take(unit.len()));
    }
    path
}

fn pyramid(frame: &Frame) -> Pyramid {
    Pyramid::new(&frame.planes[0], frame.width, frame.height)
}
