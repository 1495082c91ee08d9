// SPDX-License-Identifier: MPL-2.0
//! What units take at a quality: their size falls along one curve for nearly all content, whose height is learned.

use crate::codec::MAX_QUANTIZER;

/// A key unit, or one that depends on those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitKind {
    Key,
    Delta,
}

/// Quantizers, and the binary logarithms of what units take there in what they take at quantizer 32, in the mean over eleven clips
/// of the training set (people, animals, traffic, film), from quantizer 16 on over eight of them. The clips differ from it by 0.1 from 8 to 32, by
/// 0.3 at 46, by 0.6 at 57.
type Curve = [(f64, f64); 18];
const KEY_CURVE: Curve = [
    (0.0, 2.63),
    (4.0, 2.13),
    (7.0, 1.93),
    (8.0, 1.85),
    (12.0, 1.50),
    (15.0, 1.11),
    (16.0, 1.02),
    (20.0, 0.86),
    (24.0, 0.70),
    (28.0, 0.36),
    (32.0, 0.00),
    (36.0, -0.05),
    (41.0, -0.35),
    (42.0, -1.10),
    (46.0, -1.19),
    (51.0, -1.46),
    (52.0, -1.93),
    (57.0, -2.40),
];
const DELTA_CURVE: Curve = [
    (0.0, 3.19),
    (4.0, 2.52),
    (7.0, 2.22),
    (8.0, 2.11),
    (12.0, 1.59),
    (15.0, 1.21),
    (16.0, 0.79),
    (20.0, 0.55),
    (24.0, 0.33),
    (28.0, 0.05),
    (32.0, 0.00),
    (36.0, -0.44),
    (41.0, -1.23),
    (42.0, -1.74),
    (46.0, -1.95),
    (51.0, -2.32),
    (57.0, -3.26),
    (63.0, -3.67),
];
/// Bits of units at quantizer 32 per shown luma sample, before anything is known.
const USUAL_KEY: f64 = 0.0795;
const USUAL_DELTA: f64 = 0.0313;
/// What delta units take in what their key unit takes, usually.
const USUAL_DELTA_SHARE: f64 = 0.35;
/// What stands around a unit's symbols, about: header, times.
const KEY_HEADER_BITS: f64 = 33.0 * 8.0;
const DELTA_HEADER_BITS: f64 = 7.0 * 8.0;
/// How fast the height of the delta units' curve follows.
const FOLLOW: f64 = 0.25;
/// A unit at the end of the scale tells little of others; nor does one that takes next to nothing.
const LEAST_BITS: f64 = 8.0;

/// Sizes of the units of a scene.
#[derive(Clone, Debug)]
pub struct SizeModel {
    /// Bits at quantizer 32 without header.
    key: f64,
    delta: f64,
}

impl SizeModel {
    /// For pictures of a number of shown luma samples that nothing is known of.
    pub fn usual(samples: f64) -> SizeModel {
        SizeModel {
            key: samples * USUAL_KEY,
            delta: samples * USUAL_DELTA,
        }
    }

    /// Bits of a whole unit at a place on the quantizer's scale, 0 to 63.
    pub fn bits(&self, kind: UnitKind, quantizer: f64) -> f64 {
        let (height, header) = match kind {
            UnitKind::Key => (self.key, KEY_HEADER_BITS),
            UnitKind::Delta => (self.delta, DELTA_HEADER_BITS),
        };
        header + height * relative(kind, quantizer)
    }

    /// Takes what a unit of a new scene took instead of what is known of the scene before.
    pub fn begin(&mut self, kind: UnitKind, quantizer: f64, bits: f64) {
        *self.height(kind) = height_of(kind, quantizer, bits);
    }

    /// Takes what the first delta unit of a new scene took after its key unit; where it is less than usual, only as far as it is trusted, 0 to 1.
    pub fn begin_delta(&mut self, quantizer: f64, key: f64, delta: f64, trust: f64) {
        let usual = USUAL_DELTA_SHARE * key;
        let between = delta.powf(trust) * usual.powf(1.0 - trust);
        self.begin(UnitKind::Delta, quantizer, delta.max(between));
    }

    /// Notes a unit of the scene.
    pub fn learn(&mut self, kind: UnitKind, quantizer: f64, bits: f64) {
        let found = height_of(kind, quantizer, bits);
        let follow = if kind == UnitKind::Key { 1.0 } else { FOLLOW };
        let height = self.height(kind);
        *height += follow * (found - *height);
    }

    fn height(&mut self, kind: UnitKind) -> &mut f64 {
        match kind {
            UnitKind::Key => &mut self.key,
            UnitKind::Delta => &mut self.delta,
        }
    }

    /// The finest quantizer, `quantizer` or coarser, at which a unit that took `bits` there takes `room` at most; 63 where none does.
    pub fn coarser(kind: UnitKind, quantizer: f64, bits: f64, room: f64) -> f64 {
        let mut model = SizeModel::usual(0.0);
        model.begin(kind, quantizer, bits);
        finest(quantizer, |quantizer| model.bits(kind, quantizer) <= room)
    }
}

/// The finest quantizer from `least` on for which a condition holds that holds for all coarser ones as well; 63 where it never does.
pub fn finest(least: f64, holds: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (least, f64::from(MAX_QUANTIZER));
    if holds(low) {
        return low;
    }
    while high - low > 1.0 / 32.0 {
        let middle = (low + high) / 2.0;
        if holds(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

fn height_of(kind: UnitKind, quantizer: f64, bits: f64) -> f64 {
    let header = match kind {
        UnitKind::Key => KEY_HEADER_BITS,
        UnitKind::Delta => DELTA_HEADER_BITS,
    };
    (bits - header).max(LEAST_BITS) / relative(kind, quantizer)
}

/// What units take in what they take at quantizer 32.
fn relative(kind: UnitKind, quantizer: f64) -> f64 {
    let curve = match kind {
        UnitKind::Key => &KEY_CURVE,
        UnitKind::Delta => &DELTA_CURVE,
    };
    let next = curve
        .partition_point(|point| point.0 < quantizer)
        .clamp(1, curve.len() - 1);
    let (from, to) = (curve[next - 1], curve[next]);
    let share = ((quantizer - from.0) / (to.0 - from.0)).clamp(0.0, 1.0);
    (from.1 + (to.1 - from.1) * share).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_get_smaller_along_the_scale() {
        for kind in [UnitKind::Key, UnitKind::Delta] {
            let model = SizeModel::usual(57_600.0);
            let sizes: Vec<f64> = (0..=126).map(|half| model.bits(kind, f64::from(half) / 2.0)).collect();
            assert!(sizes.is_sorted_by(|a, b| a >= b), "{kind:?}: {sizes:?}");
            assert!(sizes[0] > 10.0 * sizes[126]);
        }
    }

    #[test]
    fn what_a_unit_took_tells_what_others_take() {
        let mut model = SizeModel::usual(57_600.0);
        model.begin(UnitKind::Delta, 20.0, 5000.0);
        assert!((model.bits(UnitKind::Delta, 20.0) - 5000.0).abs() < 1.0);
        assert!((1500.0..3500.0).contains(&model.bits(UnitKind::Delta, 32.0)));
        (0..30).for_each(|_| model.learn(UnitKind::Delta, 32.0, 1000.0));
        assert!((model.bits(UnitKind::Delta, 32.0) - 1000.0).abs() < 10.0);
    }

    #[test]
    fn a_unit_that_does_not_fit_gets_a_quantizer_at_which_it_would() {
        let coarser = |bits, room| SizeModel::coarser(UnitKind::Delta, 30.0, bits, room);
        assert_eq!(coarser(1000.0, 1000.0), 30.0);
        assert!(
            (33.0..40.0).contains(&coarser(1000.0, 700.0)),
            "{}",
            coarser(1000.0, 700.0)
        );
        assert_eq!(coarser(1000.0, 10.0), 63.0);
    }
}
