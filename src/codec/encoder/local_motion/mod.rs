// SPDX-License-Identifier: MPL-2.0
//! Follows what moves by itself: finds the few vectors of a unit that are worth their bits, and which macroblock follows which.

mod macroblocks;
mod search;

use crate::bitstream::Window;
use crate::codec::recon::Warp;
use crate::codec::Frame;
use crate::entropy::{code_motion, BitCounter, Motion, MotionContext, MotionVector, MAX_VECTORS};
use macroblocks::{Macroblocks, Vector};
use search::{Plane, Tracker};

/// What a bit is worth in sums of absolute differences, of samples in every other row of two pictures.
const LAMBDA: u32 = 1000;

/// What moves in a unit, and its pictures with what moves where it was before.
pub struct Stilled {
    pub motion: Motion,
    pub pictures: Vec<Frame>,
}

/// What moves between the picture before a unit and the unit's own in its window; `None` where following it is not worth its bits, or takes
/// more than `most_bits`.
pub fn stilled(
    (before, most_bits): (&MotionContext, f64),
    window: &Window,
    reference: &Frame,
    pictures: &[&Frame],
) -> Option<Stilled> {
    let planes: Vec<Plane> = pictures.iter().map(|picture| Plane::of(picture)).collect();
    let reference = Plane::of(reference);
    let macroblocks = Macroblocks::new(window, &reference, &planes);
    let changed = macroblocks.changed();
    if !macroblocks.may_gain(&changed) {
        return None;
    }
    let vectors = macroblocks.vectors(&Tracker::new(&reference, &planes), &changed, before);
    // With more vectors more can be wrong: where things cover each other, or what is behind them is drawn along.
    let counts = [1, 2, 4, MAX_VECTORS]
        .into_iter()
        .filter(|count| *count < vectors.len());
    let tried = counts.chain([vectors.len()]).filter_map(|count| {
        let vectors = &vectors[..count];
        let motion = ordered(vectors, macroblocks.map(&changed, vectors), before)?;
        let mut bits = BitCounter::default();
        code_motion(&mut bits, before, window, &motion).ok()?;
        if bits.0 > most_bits {
            return None;
        }
        let cost = macroblocks.cost_after(&motion, window)? + f64::from(LAMBDA) * bits.0;
        Some((cost, motion))
    });
    let best = tried.min_by(|a, b| a.0.total_cmp(&b.0));
    let (_, motion) = best.filter(|(cost, _)| *cost < macroblocks.total() as f64)?;
    let field = motion.field(window)?;
    let pictures = Warp::each(pictures, pictures.len(), |size, part| Warp::stilled(&field, size, part));
    Some(Stilled { motion, pictures })
}

/// Motion with the vectors that are followed, in the order of those of the unit before that they go on from. `None` where none is.
fn ordered(vectors: &[Vector], map: Vec<u8>, before: &MotionContext) -> Option<Motion> {
    let mut left: Vec<(usize, MotionVector)> = vectors
        .iter()
        .enumerate()
        .filter(|(number, _)| map.contains(&(*number as u8 + 1)))
        .map(|(number, vector)| (number, vector.shift))
        .collect();
    let mut order = vec![];
    for known in before.vectors().iter().take(left.len()) {
        let off = |vector: MotionVector| (vector.0 - known.0).abs() + (vector.1 - known.1).abs();
        let nearest = (0..left.len()).min_by_key(|&at| off(left[at].1))?;
        order.push(left.remove(nearest));
    }
    order.extend(left);
    let renumbered = |number: &u8| match usize::from(*number).checked_sub(1) {
        Some(number) => order
            .iter()
            .position(|(other, _)| *other == number)
            .map_or(0, |at| at as u8 + 1),
        None => 0,
    };
    let motion = Motion {
        map: map.iter().map(renumbered).collect(),
        vectors: order.iter().map(|(_, vector)| *vector).collect(),
    };
    (!motion.vectors.is_empty()).then_some(motion)
}
