// SPDX-License-Identifier: MPL-2.0
//! What moves by itself in a unit's window: a few vectors, and which macroblock follows which. Coded after the camera.

use super::binary::{code_signed, LearningBits};
use super::probability::Probabilities;
use super::range_coder::SymbolCoder;
use super::EntropyError;
use crate::bitstream::{moved, MotionField, Window, PARTS};

/// A unit has at most so many vectors.
pub const MAX_VECTORS: usize = 7;
/// How far a vector goes at most along each axis, in samples.
const MAX_LENGTH: i32 = 256;

/// Probability of a unit with motion, in 2^-16, after one without and after one with.
const MOVES: [u16; 2] = [1 << 10, 0xd000];
/// Probability at first, in 2^-16, that there is another vector.
const ANOTHER: u16 = 1 << 15;
/// Probability at first, in 2^-16, that a vector changes along an axis: of one that the unit before had too, and of a new one.
const CHANGES: [u16; 2] = [1 << 15, 0xe000];
/// Ways in which three neighbours agree.
const PATTERNS: usize = 5;
/// Probability at first, in 2^-16, of a macroblock that does not follow the vector that its neighbours speak for: for each way in which they
/// agree, without a vector and with one.
const OTHERWISE: [u16; 2 * PATTERNS] = [
    0x0300, 0x4000, 0x4000, 0x4000, 0x8000, //
    0x0c00, 0x5000, 0x5000, 0x5000, 0x8000,
];
/// The same of the second choice.
const OTHERWISE_AGAIN: u16 = 0x5000;

/// How far something goes from the picture before a unit to its last frame, columns and rows in luma samples.
pub type MotionVector = (i32, i32);

/// What moves in a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Motion {
    pub vectors: Vec<MotionVector>,
    /// For each macroblock of the window, row by row, the number of its vector from 1 on; 0: it does not move. Empty without vectors.
    pub map: Vec<u8>,
}

/// What is known of motion after a unit.
#[derive(Clone, Debug, Default)]
pub struct MotionContext {
    vectors: Vec<MotionVector>,
    /// Where what followed them is now.
    map: Vec<u8>,
}

impl Motion {
    /// Displacements in a window; `None` where nothing moves.
    pub fn field(&self, window: &Window) -> Option<MotionField> {
        let displacement = |number: &u8| match usize::from(*number).checked_sub(1) {
            Some(at) => (self.vectors[at].0 * PARTS, self.vectors[at].1 * PARTS),
            None => (0, 0),
        };
        let wanted: Vec<_> = self.map.iter().map(displacement).collect();
        (!self.vectors.is_empty()).then(|| MotionField::new(window, &wanted))
    }

    /// What the next unit knows. `field`: that of [`Self::field`].
    pub fn context(&self, field: Option<&MotionField>) -> MotionContext {
        match field {
            Some(field) => MotionContext {
                vectors: self.vectors.clone(),
                map: moved(&field.sources_of_macroblocks(), &self.map, 1),
            },
            None => MotionContext::default(),
        }
    }

    /// Adds to a check: the vectors as big-endian i32, then the map.
    pub(super) fn check(&self, hasher: &mut crc32fast::Hasher) {
        for number in self.vectors.iter().flat_map(|&(x, y)| [x, y]) {
            hasher.update(&number.to_be_bytes());
        }
        hasher.update(&self.map);
    }
}

impl MotionContext {
    /// Goes on in another window.
    pub fn look(&mut self, from: &Window, to: &Window) {
        match to.view_of_macroblocks(from).filter(|_| !self.map.is_empty()) {
            Some(view) => self.map = view.within(&self.map, 1, 0),
            None => *self = MotionContext::default(),
        }
    }

    /// The vectors of the unit before.
    pub fn vectors(&self) -> &[MotionVector] {
        &self.vectors
    }

    /// Which of them each macroblock followed, where it is now; empty where none did.
    pub fn map(&self) -> &[u8] {
        &self.map
    }
}

/// Codes the motion of a unit in a window.
pub fn code_motion(
    coder: &mut impl SymbolCoder,
    before: &MotionContext,
    window: &Window,
    wanted: &Motion,
) -> Result<Motion, EntropyError> {
    if !window.grid().may_warp {
        return Ok(Motion::default());
    }
    let moves = Probabilities::binary(MOVES[usize::from(!before.vectors.is_empty())]);
    if coder.code(&moves, usize::from(!wanted.vectors.is_empty()))? == 0 {
        return Ok(Motion::default());
    }
    let vectors = code_vectors(coder, &before.vectors, &wanted.vectors)?;
    let map = code_map(coder, before, window, (vectors.len(), &wanted.map))?;
    Ok(Motion { vectors, map })
}

fn code_vectors(
    coder: &mut impl SymbolCoder,
    before: &[MotionVector],
    wanted: &[MotionVector],
) -> Result<Vec<MotionVector>, EntropyError> {
    let mut another = LearningBits::new(&[ANOTHER]);
    let mut changes = LearningBits::new(&CHANGES);
    let mut vectors = vec![];
    loop {
        let number = vectors.len();
        let is_new = usize::from(number >= before.len());
        let expected = before.get(number).copied().unwrap_or_default();
        let vector = wanted.get(number).copied().unwrap_or(expected);
        let mut axis = |expected: i32, value: i32| -> Result<i32, EntropyError> {
            let value = expected + code_signed(coder, &mut changes, is_new, value - expected)?;
            (-MAX_LENGTH..=MAX_LENGTH)
                .contains(&value)
                .then_some(value)
                .ok_or(EntropyError::Damaged)
        };
        vectors.push((axis(expected.0, vector.0)?, axis(expected.1, vector.1)?));
        if vectors.len() == MAX_VECTORS || !another.code(coder, 0, wanted.len() > vectors.len())? {
            return Ok(vectors);
        }
    }
}

/// Row by row: mostly what the macroblocks to the left and above do, and the one that was there before.
fn code_map(
    coder: &mut impl SymbolCoder,
    before: &MotionContext,
    window: &Window,
    (vectors, wanted): (usize, &[u8]),
) -> Result<Vec<u8>, EntropyError> {
    let (columns, rows) = window.macroblocks();
    let mut otherwise = LearningBits::new(&OTHERWISE);
    let mut again = LearningBits::new(&[OTHERWISE_AGAIN]);
    let mut map: Vec<u8> = Vec::with_capacity(columns * rows);
    for at in 0..columns * rows {
        let near = neighbours(&map, &before.map, (at, columns), vectors);
        let (pattern, first) = agreement(near);
        let wanted = wanted.get(at).copied().unwrap_or(first);
        let context = pattern + PATTERNS * usize::from(first > 0);
        if !otherwise.code(coder, context, wanted != first)? {
            map.push(first);
            continue;
        }
        let others: Vec<u8> = (0..=vectors as u8).filter(|number| *number != first).collect();
        let second = near.into_iter().find(|number| *number != first);
        let likely = second.unwrap_or(others[0]);
        let rest: Vec<u8> = others.iter().copied().filter(|number| *number != likely).collect();
        if rest.is_empty() || !again.code(coder, 0, wanted != likely)? {
            map.push(likely);
            continue;
        }
        let index = rest.iter().position(|number| *number == wanted).unwrap_or(0);
        map.push(match rest[..] {
            [only] => only,
            _ => rest[coder.code(&Probabilities::uniform(rest.len()), index)?],
        });
    }
    Ok(map)
}

/// Left, above, and there before; 0 where there is none.
fn neighbours(map: &[u8], before: &[u8], (at, columns): (usize, usize), vectors: usize) -> [u8; 3] {
    let left = if at % columns > 0 { map[at - 1] } else { 0 };
    let above = at.checked_sub(columns).map_or(0, |above| map[above]);
    let before = before.get(at).copied().filter(|number| usize::from(*number) <= vectors);
    [left, above, before.unwrap_or(0)]
}

/// In which way neighbours agree, and what most of them say.
fn agreement([left, above, before]: [u8; 3]) -> (usize, u8) {
    match (left == above, left == before, above == before) {
        (true, true, _) => (0, left),
        (true, ..) => (1, left),
        (_, true, _) => (2, left),
        (.., true) => (3, above),
        _ => (4, before),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::{Grid, SequenceHeader};
    use crate::entropy::{UnitDecoder, UnitEncoder};
    use proptest::prelude::*;

    fn window() -> Window {
        Window::picture(Grid::new(&SequenceHeader::new(320, 176, (25, 1)), 16, 8, true))
    }

    fn any_motion() -> impl Strategy<Value = Motion> {
        let far = -MAX_LENGTH..=MAX_LENGTH;
        let vectors = prop::collection::vec((far.clone(), far), 1..=MAX_VECTORS);
        vectors.prop_flat_map(|vectors| {
            let map = prop::collection::vec(0..=vectors.len() as u8, 220);
            map.prop_map(move |map| Motion {
                vectors: vectors.clone(),
                map,
            })
        })
    }

    fn after(motion: &Motion) -> MotionContext {
        motion.context(motion.field(&window()).as_ref())
    }

    fn encoded(before: &MotionContext, motion: &Motion) -> Vec<u8> {
        let mut coder = UnitEncoder::new();
        assert_eq!(code_motion(&mut coder, before, &window(), motion).as_ref(), Ok(motion));
        coder.finish()
    }

    fn decoded(before: &MotionContext, bytes: &[u8]) -> Result<Motion, EntropyError> {
        code_motion(&mut UnitDecoder::new(bytes), before, &window(), &Motion::default())
    }

    proptest! {
        #[test]
        fn any_motion_round_trips_after_any_other(first in any_motion(), second in any_motion()) {
            let mut before = MotionContext::default();
            for motion in [first, second, Motion::default()] {
                prop_assert_eq!(decoded(&before, &encoded(&before, &motion)), Ok(motion.clone()));
                before = after(&motion);
            }
        }

        #[test]
        fn any_bytes_give_motion_of_the_window_or_are_refused(bytes: Vec<u8>) {
            if let Ok(motion) = decoded(&MotionContext::default(), &bytes) {
                prop_assert!(motion.vectors.is_empty() && motion.map.is_empty() || motion.map.len() == 220);
                prop_assert!(motion.map.iter().all(|number| usize::from(*number) <= motion.vectors.len()));
            }
        }
    }

    #[test]
    fn nothing_that_moves_takes_no_byte_and_what_goes_on_takes_few() {
        assert_eq!(encoded(&MotionContext::default(), &Motion::default()).len(), 0);
        let block = |left: usize| Motion {
            vectors: vec![(16, 0)],
            map: (0..220)
                .map(|at| u8::from((left..left + 4).contains(&(at % 20)) && (3..6).contains(&(at / 20))))
                .collect(),
        };
        let (first, second) = (block(5), block(6));
        let new = encoded(&MotionContext::default(), &first).len();
        let going_on = encoded(&after(&first), &second).len();
        assert!(going_on <= 4 && new <= 14, "{going_on} bytes after {new}");
    }

    #[test]
    fn nothing_moves_in_a_rigid_window() {
        let grid = window().grid().rigid();
        let motion = Motion {
            vectors: vec![(8, 8)],
            map: vec![1; 220],
        };
        let mut coder = UnitEncoder::new();
        let coded = code_motion(&mut coder, &MotionContext::default(), &Window::picture(grid), &motion);
        assert_eq!((coded, coder.finish()), (Ok(Motion::default()), vec![]));
    }

    #[test]
    fn golden_bytes() {
        let motion = |vectors: &[MotionVector], shift: usize| Motion {
            vectors: vectors.to_vec(),
            map: (0..220)
                .map(|at| match ((at + shift) % 20 / 4, at / 20 / 3) {
                    (1, 1) => 1,
                    (2, 1) => 2,
                    (3, 2) => 3,
                    _ => 0,
                })
                .collect(),
        };
        let first = motion(&[(16, 0), (-3, 7), (0, -40)], 0);
        let second = motion(&[(15, 0), (-3, 7), (0, -40), (9, 9)], 2);
        let bytes = (
            encoded(&MotionContext::default(), &first),
            encoded(&after(&first), &second),
        );
        let golden = (
            vec![
                254, 36, 23, 21, 116, 158, 208, 230, 158, 138, 222, 247, 39, 216, 73, 179,
            ],
            vec![210, 174, 36, 40, 96, 217, 19, 210, 152, 237, 119, 81, 229, 176],
        );
        assert_eq!(bytes, golden);
    }
}
