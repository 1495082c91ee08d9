// SPDX-License-Identifier: MPL-2.0
//! Where the frames of a unit lie in the world: the motion of the camera. It is coded before all other symbols of a delta unit, whose maps have
//! the size of its window.

use super::binary::{code_signed, LearningBits};
use super::motion::Motion;
use super::probability::Probabilities;
use super::range_coder::SymbolCoder;
use super::EntropyError;
use crate::bitstream::{Grid, MotionField, Position, Window};

/// Probability of a unit that moves, in 2^-16, after one that did not and after one that did.
const MOVES: [u16; 2] = [1 << 11, 0xf000];
/// Probability of another kind of motion than a translation, in 2^-16: of zoom and rotation, which are to come.
const OTHER_KIND: u16 = 1 << 8;
/// Probability at first, in 2^-16, of a change of motion from frame to frame, along a row and a column.
const CHANGES: [u16; 2] = [1 << 15, 1 << 15];

/// The largest change of motion of a unit's first frame, in quarters of a sample, that its second frame is expected to go on with.
const LONGEST_CHANGE: i32 = 64;

/// Where a unit's frames lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Camera {
    pub window: Window,
    /// Of each frame of a whole unit, in turn.
    pub positions: Vec<Position>,
    /// What moves by itself.
    pub motion: Motion,
}

/// What is known of the camera after a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CameraContext {
    window: Window,
    /// Of the last frame.
    position: Position,
    /// From the frame before it.
    step: Position,
    /// Whether it moved within the unit.
    moves: bool,
}

impl Camera {
    /// Of a key unit.
    pub fn key(grid: Grid) -> Camera {
        Camera {
            window: Window::picture(grid),
            positions: vec![(0, 0)],
            motion: Motion::default(),
        }
    }

    /// Of a unit whose frames lie at these positions: its window is the smallest that has them all, or the picture where none has moved from
    /// it. `None` where that is too large.
    pub fn at(grid: Grid, positions: Vec<Position>) -> Option<Camera> {
        let window = match positions.iter().all(|&position| position == (0, 0)) {
            true => Window::picture(grid),
            false => Window::from_edges(grid, Window::cover(grid, &positions))?,
        };
        let camera = Camera {
            window,
            positions,
            motion: Motion::default(),
        };
        camera.offsets().is_some().then_some(camera)
    }

    /// Of a unit in which nothing moves.
    pub fn still(before: &CameraContext) -> Camera {
        let grid = before.window.grid();
        let positions = vec![before.position; grid.frames];
        Camera::at(grid, positions.clone()).unwrap_or(Camera {
            window: before.window,
            positions,
            motion: Motion::default(),
        })
    }

    /// Where each frame lies in the window, in quarters of a sample; `None` where one goes beyond.
    pub fn offsets(&self) -> Option<Vec<Position>> {
        self.positions
            .iter()
            .map(|&position| self.window.offset(position))
            .collect()
    }

    /// What the next unit knows.
    pub fn context(&self) -> CameraContext {
        let mut last = self.positions.iter().rev().copied();
        let position = last.next().unwrap_or_default();
        let before = last.next().unwrap_or(position);
        CameraContext {
            window: self.window,
            position,
            step: difference(position, before),
            moves: self.positions.iter().any(|&other| other != position),
        }
    }

    /// Adds to a check: the window's edges, then each position, as big-endian i32.
    pub(super) fn check(&self, hasher: &mut crc32fast::Hasher) {
        let positions = self.positions.iter().flat_map(|&(x, y)| [x, y]);
        for number in self.window.edges().into_iter().chain(positions) {
            hasher.update(&number.to_be_bytes());
        }
    }

    /// How far what moves by itself does; `None` where nothing does.
    pub fn field(&self) -> Option<MotionField> {
        self.motion.field(&self.window)
    }

    /// Whether it is what a key unit has.
    pub fn is_picture(&self) -> bool {
        self.window == Window::picture(self.window.grid())
    }
}

impl CameraContext {
    pub fn window(&self) -> Window {
        self.window
    }

    /// Of the last frame.
    pub fn position(&self) -> Position {
        self.position
    }

    /// How far it moved from the last frame but one.
    pub fn step(&self) -> Position {
        self.step
    }
}

/// Codes where the frames of a delta unit lie. `wanted`: of an encoder. A decoder refuses windows that are too large and frames beyond them.
pub fn code_camera(
    coder: &mut impl SymbolCoder,
    before: &CameraContext,
    wanted: &Camera,
) -> Result<Camera, EntropyError> {
    let (still, grid) = (Camera::still(before), before.window.grid());
    if !grid.may_move {
        return Ok(still);
    }
    let moves = Probabilities::binary(MOVES[usize::from(before.moves)]);
    if coder.code(&moves, usize::from(wanted.positions != still.positions))? == 0 {
        return Ok(still);
    }
    if coder.code(&Probabilities::binary(OTHER_KIND), 0)? == 1 {
        return Err(EntropyError::CameraMotion);
    }
    let positions = code_positions(coder, before, &wanted.positions)?;
    Camera::at(grid, positions).ok_or(EntropyError::Damaged)
}

/// Positions by how their steps change, which is little.
fn code_positions(
    coder: &mut impl SymbolCoder,
    before: &CameraContext,
    wanted: &[Position],
) -> Result<Vec<Position>, EntropyError> {
    let mut changes = LearningBits::new(&CHANGES);
    let (mut position, mut step) = (before.position, before.step);
    let mut positions = Vec::with_capacity(before.window.grid().frames);
    for at in 0..before.window.grid().frames {
        let expected = sum(position, step)?;
        let off = difference(wanted.get(at).copied().unwrap_or(expected), expected);
        let off = (
            code_signed(coder, &mut changes, 0, off.0)?,
            code_signed(coder, &mut changes, 1, off.1)?,
        );
        let next = sum(expected, off)?;
        // A unit may refer to one of long ago: the way from there is no step.
        if at > 0 || off.0.abs().max(off.1.abs()) <= LONGEST_CHANGE {
            step = difference(next, position);
        }
        position = next;
        positions.push(position);
    }
    Ok(positions)
}

fn sum(a: Position, b: Position) -> Result<Position, EntropyError> {
    let both = a.0.checked_add(b.0).zip(a.1.checked_add(b.1));
    both.ok_or(EntropyError::Damaged)
}

fn difference(a: Position, b: Position) -> Position {
    (a.0.wrapping_sub(b.0), a.1.wrapping_sub(b.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::SequenceHeader;
    use crate::entropy::{UnitDecoder, UnitEncoder};
    use proptest::prelude::*;

    fn grid() -> Grid {
        Grid::new(&SequenceHeader::new(320, 180, (25, 1)), 16, 8, true)
    }

    fn moved(positions: Vec<Position>) -> Option<Camera> {
        Camera::at(grid(), positions)
    }

    fn path() -> impl Strategy<Value = Camera> {
        let positions = prop::collection::vec((-900i32..900, -900i32..900), 8);
        positions.prop_filter_map("too large", moved)
    }

    fn encoded(before: &CameraContext, camera: &Camera) -> Vec<u8> {
        let mut coder = UnitEncoder::new();
        assert_eq!(code_camera(&mut coder, before, camera).as_ref(), Ok(camera));
        coder.finish()
    }

    fn decoded(before: &CameraContext, bytes: &[u8]) -> Result<Camera, EntropyError> {
        code_camera(&mut UnitDecoder::new(bytes), before, &Camera::still(before))
    }

    proptest! {
        #[test]
        fn any_path_round_trips_after_any_other(first in path(), second in path()) {
            let mut before = Camera::key(grid()).context();
            for camera in [first, second] {
                prop_assert_eq!(decoded(&before, &encoded(&before, &camera)), Ok(camera.clone()));
                before = camera.context();
            }
        }

        #[test]
        fn any_bytes_give_frames_in_their_window_or_are_refused(bytes: Vec<u8>) {
            if let Ok(camera) = decoded(&Camera::key(grid()).context(), &bytes) {
                prop_assert!(camera.offsets().is_some());
            }
        }
    }

    #[test]
    fn a_still_camera_takes_no_byte_and_a_steady_one_two() {
        let key = Camera::key(grid()).context();
        assert_eq!(encoded(&key, &Camera::still(&key)).len(), 0);
        let steady = |from: i32| moved((1..=8).map(|t| (from + 6 * t, 0)).collect()).unwrap();
        let first = steady(0);
        let bytes = encoded(&first.context(), &steady(48)).len();
        assert!(bytes <= 2, "{bytes} bytes");
    }

    #[test]
    fn other_kinds_of_motion_are_refused_by_name() {
        let key = Camera::key(grid()).context();
        let mut coder = UnitEncoder::new();
        coder.code(&Probabilities::binary(MOVES[0]), 1).unwrap();
        coder.code(&Probabilities::binary(OTHER_KIND), 1).unwrap();
        assert_eq!(decoded(&key, &coder.finish()), Err(EntropyError::CameraMotion));
    }
}
