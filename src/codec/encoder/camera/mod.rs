// SPDX-License-Identifier: MPL-2.0
//! Follows the camera: finds out where the frames of a unit lie in the world, decides whether the unit's window is to go with them, and puts
//! them there.

mod mosaic;
mod motion;

use crate::bitstream::{Grid, Position, Window, POSITIONS_PER_SAMPLE};
use crate::codec::Frame;
use crate::entropy::{Camera, CameraContext};
use mosaic::Mosaic;
use motion::{Displacement, Pyramid};

/// How far frames of a unit must have moved, in samples, for it to be motion.
const LEAST_MOTION: f32 = 0.3;
/// What following leaves of the error at most, for it to be worth it.
const WORTH: f32 = 0.95;
/// A window has at most so many times the tokens of the picture.
const MAX_GROWTH: f32 = 1.6;
/// A frame is placed where the one before is, as long as it is nearer to that than this, in samples.
const STICKS: f32 = 0.15;
/// A displacement that is found again against another frame is the same if it is so near, in samples.
const SAME: f32 = 0.75;

/// From a key unit on.
#[derive(Debug)]
pub struct CameraTracker {
    mosaic: Mosaic,
    last: Pyramid,
    before: CameraContext,
}

/// A unit's frames in their window.
#[derive(Debug)]
pub struct Framed {
    pub camera: Camera,
    /// As large as the window, one for each frame of the whole unit.
    pub pictures: Vec<Frame>,
}

impl Framed {
    /// The frames of a unit that does not move from the picture.
    pub fn key(grid: Grid, frame: &Frame) -> Framed {
        Framed {
            camera: Camera::key(grid),
            pictures: vec![frame.clone()],
        }
    }

    pub fn window(&self) -> Window {
        self.camera.window
    }

    pub fn frames(&self) -> Vec<&Frame> {
        self.pictures.iter().collect()
    }
}

impl CameraTracker {
    /// From the frame of a key unit on.
    pub fn new(grid: Grid, key: &Frame) -> CameraTracker {
        CameraTracker {
            mosaic: Mosaic::new(Window::picture(grid), key),
            last: pyramid(key),
            before: Camera::key(grid).context(),
        }
    }

    /// Of the last unit.
    pub fn window(&self) -> Window {
        self.before.window()
    }

    /// Puts the frames of the next unit, a whole one, where they belong. `follows`: whether the window may move.
    pub fn push(&mut self, frames: &[&Frame], follows: bool) -> Framed {
        let pyramids: Vec<Pyramid> = frames.iter().map(|frame| pyramid(frame)).collect();
        let followed = match follows && self.before.window().grid().may_move {
            true => self.followed(&pyramids),
            false => None,
        };
        let camera = followed.unwrap_or_else(|| Camera::still(&self.before));
        self.last = pyramids.into_iter().next_back().unwrap_or_else(|| self.last.clone());
        self.before = camera.context();
        let window = camera.window;
        let placed = frames
            .iter()
            .zip(&camera.positions)
            .map(|(frame, position)| (*frame, window.offset(*position).unwrap_or_default()));
        Framed {
            pictures: self.mosaic.push(window, &placed.collect::<Vec<_>>()),
            camera,
        }
    }

    /// Where the frames lie, if following them is worth it.
    fn followed(&self, frames: &[Pyramid]) -> Option<Camera> {
        let moved = self.displacements(frames)?;
        let farthest = moved.iter().map(|(x, y)| x.abs().max(y.abs())).fold(0.0, f32::max);
        if farthest < LEAST_MOTION {
            return None;
        }
        let error = |displacement: &dyn Fn(usize) -> Displacement| -> f32 {
            let errors = frames.iter().enumerate();
            errors
                .map(|(at, frame)| frame.error(&self.last, displacement(at)))
                .sum()
        };
        if error(&|at| moved[at]) > WORTH * error(&|_| (0.0, 0.0)) {
            return None;
        }
        let grid = self.before.window().grid();
        let camera = Camera::at(grid, self.placed(&moved))?;
        let tokens = |window: Window| (window.tokens().0 * window.tokens().1) as f32;
        let growth = tokens(camera.window) / tokens(Window::picture(grid));
        (growth <= MAX_GROWTH).then_some(camera)
    }

    /// How far each frame lies from the last one of the unit before.
    fn displacements(&self, frames: &[Pyramid]) -> Option<Vec<Displacement>> {
        let mut moved: Vec<Displacement> = Vec::with_capacity(frames.len());
        let mut before = &self.last;
        let quarters = POSITIONS_PER_SAMPLE as f32;
        let (x, y) = self.before.step();
        let mut step = (x as f32 / quarters, y as f32 / quarters);
        for frame in frames {
            let from = moved.last().copied().unwrap_or_default();
            step = frame.displacement(before, step)?;
            let chained = (from.0 + step.0, from.1 + step.1);
            // From frame to frame it is found even where it is fast, from the last unit on errors do not add up.
            let again = frame.refined(&self.last, chained);
            let is_same = (again.0 - chained.0).abs().max((again.1 - chained.1).abs()) < SAME;
            moved.push(if is_same { again } else { chained });
            before = frame;
        }
        Some(moved)
    }

    /// Displacements as positions.
    fn placed(&self, moved: &[Displacement]) -> Vec<Position> {
        let origin = self.before.position();
        let mut last = (0.0, 0.0);
        let quarters = POSITIONS_PER_SAMPLE as f32;
        let mut placed = |&(x, y): &Displacement| {
            if (x - last.0).abs() >= STICKS {
                last.0 = (x * quarters).round() / quarters;
            }
            if (y - last.1).abs() >= STICKS {
                last.1 = (y * quarters).round() / quarters;
            }
            (
                origin.0 + (last.0 * quarters) as i32,
                origin.1 + (last.1 * quarters) as i32,
            )
        };
        moved.iter().map(&mut placed).collect()
    }
}

fn pyramid(frame: &Frame) -> Pyramid {
    Pyramid::new(&frame.planes[0], frame.width, frame.height)
}
