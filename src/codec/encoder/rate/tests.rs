// SPDX-License-Identifier: MPL-2.0
//! The whole rate control with units whose sizes follow the model, more or less.

use proptest::prelude::*;

use super::size_model::SizeModel;
use super::*;

const FRAME: f64 = 1.0 / 30.0;
const SAMPLES: f64 = 320.0 * 180.0;
/// Bits of a unit that changes nothing.
const REPEATED: f64 = 100.0;

/// A scene: its length in delta units, and what its units take in what is usual.
#[derive(Clone, Copy, Debug)]
struct Scene {
    units: usize,
    key: f64,
    delta: f64,
}

#[derive(Clone, Copy, Debug)]
struct Coded {
    kind: UnitKind,
    due: f64,
    bits: f64,
    quantizer: f64,
    repeats: bool,
}

/// Codes scenes; `noise`: a factor for each unit's size.
fn code(link: Link, scenes: &[Scene], mut noise: impl FnMut() -> f64) -> Vec<Coded> {
    let (mut control, mut coded, mut frame) = (RateControl::default(), Vec::new(), 0);
    let usual = SizeModel::usual(SAMPLES);
    for scene in scenes {
        let size = |kind, quantizer: f64, factor: f64| {
            let scene = if kind == UnitKind::Key { scene.key } else { scene.delta };
            usual.bits(kind, quantizer) * scene * factor
        };
        for unit in 0..=scene.units {
            let (kind, frames) = if unit == 0 {
                (UnitKind::Key, 1)
            } else {
                (UnitKind::Delta, 8)
            };
            let due = f64::from(frame) * FRAME;
            control.advance(link, Some((due * 1e9) as u64), f64::from(frames) * FRAME);
            let factor = noise();
            let (quality, room) = match kind {
                UnitKind::Key => {
                    let opening = Opening {
                        is_new: true,
                        frame_seconds: FRAME,
                        group_frames: 8,
                        key_distance: 250,
                    };
                    control.cut();
                    let first = control.plan_key(link, opening, SAMPLES).key;
                    control.begin(
                        first,
                        size(kind, first, factor),
                        Some(size(UnitKind::Delta, first, 1.0)),
                    );
                    let planned = control.plan_key(link, opening, SAMPLES).key;
                    control.open(opening, planned);
                    (planned.into(), control.key_room(link))
                }
                UnitKind::Delta => {
                    let plan = control.plan_delta(link, false);
                    (plan.quality, plan.room)
                }
            };
            let (sized, quality) = fit(kind, quality, room, |quality| {
                Ok::<_, ()>(Sized {
                    unit: (),
                    bits: match quality.repeats {
                        true => REPEATED,
                        false => size(kind, quality.quantizer, factor),
                    },
                    residual_bits: 0.0,
                })
            })
            .unwrap();
            control.push(link, (kind, quality), sized.bits, 0.0);
            coded.push(Coded {
                kind,
                due,
                bits: sized.bits,
                quantizer: quality.quantizer,
                repeats: quality.repeats,
            });
            frame += frames;
        }
    }
    coded
}

/// Mean rate over that of the link.
fn relative_rate(link: Link, coded: &[Coded]) -> f64 {
    let seconds = coded.last().unwrap().due + 8.0 * FRAME;
    coded.iter().map(|unit| unit.bits).sum::<f64>() / seconds / link.rate
}

/// Lowest fill of a decoder's buffer in seconds of the rate.
fn lowest_fill(link: Link, coded: &[Coded]) -> f64 {
    let (mut fill, mut last, mut lowest) = (link.capacity(), 0.0, f64::INFINITY);
    for unit in coded {
        fill = (fill + link.rate * (unit.due - last)).min(link.capacity()) - unit.bits;
        lowest = f64::min(lowest, fill);
        last = unit.due;
    }
    lowest / link.rate
}

/// Scenes that together last for some seconds.
fn scenes(seconds: f64, each: f64, factors: &[(f64, f64)]) -> Vec<Scene> {
    let units = (each / (8.0 * FRAME)) as usize;
    let of = |&(key, delta): &(f64, f64)| Scene { units, key, delta };
    factors.iter().cycle().map(of).take((seconds / each) as usize).collect()
}

/// From a news reader to sports, in what is usual.
const FACTORS: [(f64, f64); 5] = [(1.0, 1.0), (1.2, 0.3), (0.8, 2.0), (1.0, 0.5), (0.6, 1.2)];

#[test]
fn the_mean_of_two_minutes_is_kept_with_a_cut_every_three_seconds() {
    for rate in [5e3, 8e3, 20e3] {
        let link = Link::new(rate);
        let coded = code(link, &scenes(120.0, 3.0, &FACTORS), || 1.0);
        let found = relative_rate(link, &coded);
        assert!((found - 1.0).abs() < 0.03, "{found} of {rate}");
        assert!(coded.iter().all(|unit| !unit.repeats));
    }
}

#[test]
fn the_mean_of_a_minute_is_kept_where_one_scene_goes_on() {
    for (rate, buffer) in [(5e3, 2.5), (20e3, 2.5), (20e3, 0.6)] {
        let link = Link { rate, buffer };
        let coded = code(link, &scenes(60.0, 60.0, &FACTORS[..1]), || 1.0);
        let found = relative_rate(link, &coded);
        assert!((found - 1.0).abs() < 0.03, "{found} of {rate} with {buffer} s");
    }
}

#[test]
fn the_quality_of_a_scene_stays_what_its_first_picture_has() {
    for factors in FACTORS {
        let coded = code(Link::new(12e3), &scenes(4.0, 4.0, &[factors]), || 1.0);
        let qualities: Vec<f64> = coded.iter().map(|unit| unit.quantizer).collect();
        let coarsest = qualities.iter().copied().fold(0.0, f64::max);
        assert!(coarsest - qualities[0] < 4.0, "{factors:?}: {qualities:?}");
        let last = qualities[qualities.len() - 1];
        assert!(qualities[0] - last < 12.0, "{factors:?}: {qualities:?}");
    }
}

#[test]
fn a_scene_of_four_seconds_takes_what_the_rate_has_for_it() {
    for factors in FACTORS {
        let link = Link::new(12e3);
        let found = relative_rate(link, &code(link, &scenes(4.0, 4.0, &[factors]), || 1.0));
        assert!((0.9..1.15).contains(&found), "{found} for {factors:?}");
    }
}

#[test]
fn a_smaller_buffer_makes_the_first_key_unit_smaller() {
    let first = |buffer| code(Link { rate: 15e3, buffer }, &scenes(4.0, 4.0, &FACTORS[..1]), || 1.0)[0].bits;
    assert!(first(0.6) < 0.6 * 15e3);
    assert!(first(2.5) > 1.3 * first(0.6));
}

proptest! {
    #[test]
    fn the_buffer_never_runs_dry_whatever_units_take(
        rate in 4e3..1e5f64,
        buffer in 0.4..5f64,
        scenes in prop::collection::vec((1..40usize, 0.3..2f64, 0.02..6f64), 1..8),
        noises in prop::collection::vec(0.3..3f64, 7),
    ) {
        let link = Link { rate, buffer };
        // A buffer that holds no key unit cannot be kept.
        prop_assume!(link.capacity() > 6000.0);
        let scenes: Vec<Scene> = scenes.into_iter().map(|(units, key, delta)| Scene { units, key, delta }).collect();
        let mut noise = noises.iter().cycle();
        let coded = code(link, &scenes, || *noise.next().unwrap());
        // The encoder puts off a cut whose key unit has no room; here it comes nevertheless.
        let until = coded.iter().skip(1).position(|unit| {
            unit.kind == UnitKind::Key && unit.quantizer == 63.0
        });
        let coded = &coded[..until.map_or(coded.len(), |at| at + 1)];
        prop_assert!(lowest_fill(link, coded) >= 0.0, "{coded:?}");
    }
}
