// SPDX-License-Identifier: MPL-2.0
//! Streams in which things move by themselves, with the built-in model.

use super::scenes::{bytes, decode, encode, error, model, painted, view, HEIGHT, WIDTH};
use super::*;

/// A square of another landscape that crosses a pale one behind it, three samples a frame, in front of a camera that moves so many.
fn crossing(t: usize, camera: f64) -> Frame {
    const SIDE: usize = 40;
    let (left, top) = (6 + 3 * t / 2 * 2, 20);
    let mut frame = view((camera * t as f64, 5.0), t);
    let pale = |sample: &mut u8| *sample = (128 + (i32::from(*sample) - 128) / 6) as u8;
    frame.planes.iter_mut().flatten().for_each(pale);
    let square = view((300.0 - left as f64, 200.0 - top as f64), t);
    for plane in 0..3 {
        let shift = usize::from(plane > 0);
        let (width, _) = Frame::plane_size(WIDTH, HEIGHT, plane);
        for row in top >> shift..(top + SIDE) >> shift {
            let columns = left >> shift..((left + SIDE) >> shift).min(width);
            let columns = row * width + columns.start.min(width)..row * width + columns.end;
            frame.planes[plane][columns.clone()].copy_from_slice(&square.planes[plane][columns]);
        }
    }
    frame
}

fn before_a_still_camera(t: usize) -> Frame {
    crossing(t, 0.0)
}

fn settings(quantizer: u32, motion: bool) -> EncoderSettings {
    EncoderSettings {
        ablation: EncoderAblation {
            motion,
            ..EncoderAblation::default()
        },
        ..EncoderSettings::at_quantizer(quantizer)
    }
}

#[test]
fn what_crosses_the_picture_takes_fewer_bytes_and_looks_better() {
    // The two smaller ones leave 3x4 tokens of such a picture.
    for (scale, quantizer) in CodingScale::ALL.into_iter().skip(2).zip([30, 12, 4]) {
        let coded = |motion| {
            let settings = EncoderSettings {
                scale: Some(scale),
                ..settings(quantizer, motion)
            };
            let units = encode(settings, (0..25).map(before_a_still_camera));
            (bytes(&units), error(&decode(&units), before_a_still_camera))
        };
        let (without, with) = (coded(false), coded(true));
        let cost = |(bytes, error): (usize, f64)| bytes as f64 * error;
        assert!(
            cost(with) < 0.85 * cost(without) && with.1 < without.1,
            "{scale:?}: {with:?} after {without:?}"
        );
    }
}

#[test]
fn every_scale_follows_what_moves() {
    for scale in CodingScale::ALL {
        let settings = EncoderSettings {
            scale: Some(scale),
            ..settings(30, true)
        };
        let units = encode(settings, (0..27).map(before_a_still_camera));
        assert_eq!(decode(&units).len(), 27, "{scale:?}");
        let mut entropy = EntropyDecoder::new(model());
        let mut moves = units.iter().map(|unit| {
            let symbols = entropy.decode(&unit.bytes).unwrap().symbols;
            !symbols.camera.motion.vectors.is_empty()
        });
        assert!(moves.any(|moves| moves), "nothing moves at {scale:?}");
    }
}

#[test]
fn what_moves_before_a_moving_camera_is_followed_too() {
    let scene = |t| crossing(t, 1.5);
    let coded = |motion| {
        let units = encode(settings(24, motion), (0..25).map(scene));
        bytes(&units) as f64 * error(&decode(&units), scene)
    };
    let (without, with) = (coded(false), coded(true));
    assert!(with < 0.9 * without, "{with} after {without}");
}

#[test]
fn what_comes_to_rest_stays_where_it_is() {
    let scene = |t: usize| Frame {
        pts: Some(t as u64 * FRAME_NS),
        ..before_a_still_camera(t.min(16))
    };
    let units = encode(settings(16, true), (0..65).map(scene));
    let frames = decode(&units);
    let (moving, resting) = (error(&frames[9..17], scene), error(&frames[57..], scene));
    assert!(resting < 1.1 * moving, "{resting} at rest, {moving} before");
    let last: Vec<usize> = units[units.len() - 2..].iter().map(|unit| unit.bytes.len()).collect();
    assert!(last.iter().all(|bytes| *bytes < 60), "{last:?}");
}

#[test]
fn nothing_moves_in_streams_that_may_lose_units() {
    let resilient = |motion| {
        let settings = EncoderSettings {
            error_resilience: ErrorResilience::Units,
            ..settings(24, motion)
        };
        encode(settings, (0..25).map(before_a_still_camera))
    };
    assert_eq!(resilient(true), resilient(false));
}

#[test]
fn part_of_a_unit_is_shown_where_it_is_then() {
    let units = encode(settings(20, true), (0..33).map(before_a_still_camera));
    let (whole, parts) = (
        painted(&units, |_| Wanted::All),
        painted(&units, |at| if at == 2 { Wanted::Last } else { Wanted::All }),
    );
    assert_eq!((whole.len(), parts.len()), (33, 29));
    // The last four of the second delta unit.
    let (parts, whole) = (&parts[9..13], &whole[13..17]);
    let off = error(parts, |t| whole[t - 13].clone());
    assert!(off < 1.0, "{off}");
}

#[test]
fn at_a_low_rate_motion_leaves_room() {
    let moving_units = |rate: f64| {
        let settings = EncoderSettings {
            rate_mode: RateMode::Bitrate(Link::new(rate)),
            ..settings(0, true)
        };
        let units = encode(settings, (0..41).map(before_a_still_camera));
        let mut entropy = EntropyDecoder::new(model());
        let moving = units.iter().filter(|unit| {
            let symbols = entropy.decode(&unit.bytes).unwrap().symbols;
            !symbols.camera.motion.vectors.is_empty()
        });
        moving.count()
    };
    // Bits for five vectors and their map, and for less than one.
    assert!(moving_units(10_000.0) > 0);
    assert_eq!(moving_units(400.0), 0);
}
