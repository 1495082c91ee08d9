// SPDX-License-Identifier: MPL-2.0
//! What vectors gain at each macroblock, and which of them are worth their bits.

use super::search::{Plane, Tracker};
use super::LAMBDA;
use crate::bitstream::{Window, MACROBLOCK_SIDE};
use crate::codec::halves::in_halves;
use crate::codec::recon::Warp;
use crate::entropy::{Motion, MotionContext, MotionVector, MAX_VECTORS};

const SIDE: usize = MACROBLOCK_SIDE as usize;
/// Every so many rows of a macroblock are looked at.
const STRIDE: usize = 2;
/// Mean absolute difference, of samples from 0 to 255, from which on a macroblock has changed.
const CHANGED: u32 = 3;
/// What a difference counts that motion there and back leaves, beside one that it takes away.
const LOSS_PRICE: f64 = 2.0;
/// What a vector costs, and a neighbour that follows another one: 16 and 2 bits, about.
const VECTOR_COST: u32 = 16 * LAMBDA;
const EDGE_COST: u32 = 2 * LAMBDA;
/// So many vectors are chosen from, at most.
const CANDIDATES: usize = 24;
/// Vectors are the same if they are no further from each other than this, in samples along each axis.
const SAME: i32 = 1;
/// How often each macroblock looks at what its neighbours follow.
const PASSES: usize = 3;

/// How far something moves, and what macroblocks that have changed cost if they follow it.
pub struct Vector {
    pub shift: MotionVector,
    costs: Vec<u32>,
}

/// The macroblocks of a window before a unit, and two of the unit's pictures: one in the middle and the last.
pub struct Macroblocks<'a> {
    columns: usize,
    rows: usize,
    before: &'a Plane<'a>,
    /// With how many frames after the one before the unit each is.
    pictures: [(usize, &'a Plane<'a>); 2],
    /// Frames of the unit.
    of: usize,
}

impl<'a> Macroblocks<'a> {
    pub fn new(window: &Window, before: &'a Plane<'a>, pictures: &'a [Plane<'a>]) -> Macroblocks<'a> {
        let (columns, rows) = window.macroblocks();
        let (middle, last) = (pictures.len().div_ceil(2), pictures.len());
        Macroblocks {
            columns,
            rows,
            before,
            pictures: [middle, last].map(|passed| (passed, &pictures[passed - 1])),
            of: last,
        }
    }

    /// How much a macroblock differs from what is at a shift, which is that of the last picture.
    fn cost(&self, at: usize, shift: MotionVector) -> u32 {
        let corner = (at % self.columns * SIDE, at / self.columns * SIDE);
        let difference = |&(passed, picture): &(usize, &Plane)| {
            let part = |way: i32| {
                let (way, of) = (way * passed as i32, self.of as i32);
                (way + of / 2).div_euclid(of)
            };
            let shift = (part(shift.0), part(shift.1));
            self.before.difference(corner, (SIDE, STRIDE), picture, shift)
        };
        self.pictures.iter().map(difference).sum()
    }

    /// How much the pictures differ from the one before the unit.
    pub fn total(&self) -> u64 {
        let difference = |(_, picture): &(usize, &Plane)| self.before.total_difference(picture, STRIDE);
        self.pictures.iter().map(difference).sum()
    }

    /// The same once what moves is where it was, and what is lost on the way there and back.
    pub fn cost_after(&self, motion: &Motion, window: &Window) -> Option<f64> {
        let field = motion.field(window)?;
        let cost = |&(passed, picture): &(usize, &Plane)| {
            let part = (passed, self.of);
            let stilled = picture.warped(&Warp::stilled(&field, window.size(), part));
            let again = stilled.warped(&Warp::moved(&field, window.size(), part));
            let (after, lost) = (
                self.before.total_difference(&stilled, STRIDE),
                picture.total_difference(&again, STRIDE),
            );
            after as f64 + LOSS_PRICE * lost as f64
        };
        let costs = in_halves(&self.pictures, |pictures| pictures.iter().map(cost).collect());
        Some(costs.iter().sum())
    }

    /// Those that have changed, and their costs without motion.
    pub fn changed(&self) -> Vec<(usize, u32)> {
        let least = CHANGED * (SIDE * SIDE / STRIDE) as u32;
        let costs = (0..self.columns * self.rows).map(|at| (at, self.cost(at, (0, 0))));
        costs.filter(|(_, cost)| *cost > least).collect()
    }

    /// Whether those that have changed could gain what a vector takes if there was nothing left of their differences.
    pub fn may_gain(&self, changed: &[(usize, u32)]) -> bool {
        let gain = |(_, cost): &(usize, u32)| u64::from(cost.saturating_sub(EDGE_COST));
        changed.iter().map(gain).sum::<u64>() > u64::from(VECTOR_COST)
    }

    /// The vectors that are worth their bits, for those that have changed.
    pub fn vectors(&self, tracker: &Tracker, changed: &[(usize, u32)], before: &MotionContext) -> Vec<Vector> {
        let with_costs = |shift: &MotionVector| Vector {
            shift: *shift,
            costs: changed.iter().map(|&(at, _)| self.cost(at, *shift)).collect(),
        };
        let candidates = self.candidates(tracker, changed, before);
        chosen(
            changed,
            in_halves(&candidates, |shifts| shifts.iter().map(with_costs).collect()),
        )
    }

    /// Vectors that gain most, those that are nearly the same together: of macroblocks that may gain what their place in the map takes.
    fn candidates(&self, tracker: &Tracker, changed: &[(usize, u32)], before: &MotionContext) -> Vec<MotionVector> {
        let followed = |&(at, cost): &(usize, u32)| {
            let shift = self.refined(at, tracker.shift((at % self.columns, at / self.columns)));
            (shift, cost.saturating_sub(self.cost(at, shift)))
        };
        let may_gain = |(_, cost): &&(usize, u32)| *cost > EDGE_COST;
        let moving: Vec<(usize, u32)> = changed.iter().filter(may_gain).copied().collect();
        let mut found: Vec<(MotionVector, u32)> = vec![];
        for (shift, gain) in in_halves(&moving, |moving| moving.iter().map(followed).collect()) {
            if shift == (0, 0) || gain == 0 {
                continue;
            }
            let is_same = |(other, _): &&mut (MotionVector, u32)| {
                (other.0 - shift.0).abs() <= SAME && (other.1 - shift.1).abs() <= SAME
            };
            match found.iter_mut().find(is_same) {
                Some((_, sum)) => *sum += gain,
                None => found.push((shift, gain)),
            }
        }
        found.sort_by_key(|(_, gain)| std::cmp::Reverse(*gain));
        let known = before.vectors().iter().copied().filter(|shift| *shift != (0, 0));
        let mut candidates: Vec<MotionVector> = known.collect();
        let new = found.into_iter().map(|(shift, _)| shift);
        for shift in new.take(CANDIDATES) {
            if !candidates.contains(&shift) {
                candidates.push(shift);
            }
        }
        candidates
    }

    /// The best of the samples around a shift.
    fn refined(&self, at: usize, shift: MotionVector) -> MotionVector {
        let around = (-1..=1).flat_map(|y| (-1..=1).map(move |x| (x, y)));
        let tried = around.map(|(x, y)| (shift.0 + x, shift.1 + y));
        tried.min_by_key(|&shift| self.cost(at, shift)).unwrap_or(shift)
    }

    /// What each macroblock follows, 0 for nothing: what is best with what its neighbours follow.
    pub fn map(&self, changed: &[(usize, u32)], vectors: &[Vector]) -> Vec<u8> {
        let mut map = vec![0u8; self.columns * self.rows];
        for _ in 0..PASSES {
            for (index, &(at, still)) in changed.iter().enumerate() {
                let price = |number: u8| {
                    let cost = match number {
                        0 => still,
                        _ => vectors[usize::from(number) - 1].costs[index],
                    };
                    let others = self.neighbours(at).filter(|near| map[*near] != number).count();
                    cost + EDGE_COST * others as u32
                };
                map[at] = (0..=vectors.len() as u8)
                    .min_by_key(|&number| price(number))
                    .unwrap_or(0);
            }
        }
        map
    }

    fn neighbours(&self, at: usize) -> impl Iterator<Item = usize> {
        let (columns, rows) = (self.columns, self.rows);
        let (x, y) = (at % columns, at / columns);
        let beside = [(x > 0).then(|| at - 1), (x + 1 < columns).then(|| at + 1)];
        let over = [(y > 0).then(|| at - columns), (y + 1 < rows).then(|| at + columns)];
        beside.into_iter().chain(over).flatten()
    }
}

/// Those of the candidates that are worth a vector, each after what those before leave.
fn chosen(changed: &[(usize, u32)], mut candidates: Vec<Vector>) -> Vec<Vector> {
    let mut best: Vec<u32> = changed.iter().map(|(_, cost)| *cost).collect();
    let mut chosen = vec![];
    while chosen.len() < MAX_VECTORS {
        let gain = |vector: &Vector| -> u64 {
            let pairs = best.iter().zip(&vector.costs);
            pairs
                .map(|(best, cost)| u64::from(best.saturating_sub(cost + EDGE_COST)))
                .sum()
        };
        let gains = candidates.iter().enumerate().map(|(at, vector)| (gain(vector), at));
        let best_gain = gains.max_by_key(|(gain, _)| *gain);
        let Some((_, at)) = best_gain.filter(|(gain, _)| *gain > u64::from(VECTOR_COST)) else {
            break;
        };
        let vector = candidates.swap_remove(at);
        let pairs = best.iter_mut().zip(&vector.costs);
        pairs.for_each(|(best, cost)| *best = (*best).min(*cost));
        chosen.push(vector);
    }
    chosen
}
