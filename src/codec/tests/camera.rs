// SPDX-License-Identifier: MPL-2.0
//! Streams whose windows follow the camera, with the built-in model.

use super::scenes::{bytes, decode, encode, error, model, painted, view, HEIGHT, WIDTH};
use super::*;
use crate::bitstream::slices;
use crate::entropy::{as_wanted, Masking, WantedLatents, WantedUnit};

/// A pan of two samples and a half a frame, a little up and down.
fn pan(t: usize) -> Frame {
    view((2.5 * t as f64, 3.0 * (t as f64 / 5.0).sin()), t)
}

fn settings(quantizer: u32, camera: bool) -> EncoderSettings {
    EncoderSettings {
        ablation: EncoderAblation {
            camera,
            ..EncoderAblation::default()
        },
        ..EncoderSettings::at_quantizer(quantizer)
    }
}

#[test]
fn a_pan_takes_fewer_bytes_and_looks_better() {
    // The two smaller ones leave 3x4 tokens of such a picture.
    for (scale, quantizer) in CodingScale::ALL.into_iter().zip([56, 44, 30, 12, 4]).skip(2) {
        let coded = |camera| {
            let settings = EncoderSettings {
                scale: Some(scale),
                ..settings(quantizer, camera)
            };
            let units = encode(settings, (0..41).map(pan));
            let frames = decode(&units);
            assert_eq!(frames.len(), 41);
            assert!(frames
                .iter()
                .all(|frame| (frame.width, frame.height) == (WIDTH, HEIGHT)));
            (bytes(&units), error(&frames, pan))
        };
        let (still, following) = (coded(false), coded(true));
        let cost = |(bytes, error): (usize, f64)| bytes as f64 * error;
        assert!(
            cost(following) < 0.8 * cost(still) && following.1 < still.1,
            "{scale:?}: {following:?} after {still:?}"
        );
    }
}

#[test]
fn every_scale_moves() {
    for scale in CodingScale::ALL {
        let settings = EncoderSettings {
            scale: Some(scale),
            ..settings(30, true)
        };
        assert_eq!(decode(&encode(settings, (0..27).map(pan))).len(), 27, "{scale:?}");
    }
}

#[test]
fn a_still_camera_takes_what_it_took() {
    // Something moves across, and the camera does not.
    let still = |t: usize| {
        let mut frame = view((7.0, 3.0), t);
        for row in frame.planes[0].chunks_mut(WIDTH).skip(30).take(20) {
            row[2 * t..2 * t + 20].fill(30);
        }
        frame
    };
    let coded = |camera| encode(settings(24, camera), (0..33).map(still));
    assert_eq!(coded(true), coded(false));
}

#[test]
fn a_camera_that_comes_to_rest_stays_where_it_is() {
    let path = |t: usize| view((2.25 * t.min(20) as f64, 1.0), t);
    let units = encode(settings(16, true), (0..73).map(path));
    let frames = decode(&units);
    let (moving, resting) = (error(&frames[13..21], path), error(&frames[60..], path));
    assert!(resting < 1.3 * moving, "{resting} at rest, {moving} before");
    let last = &units[units.len() - 2..];
    assert!(
        last.iter().all(|unit| unit.bytes.len() < 60),
        "{:?}",
        last.iter().map(|u| u.bytes.len()).collect::<Vec<_>>()
    );
}

#[test]
fn short_units_and_key_units_on_the_way_are_decoded() {
    let settings = EncoderSettings {
        key_int_max: 30,
        ..settings(24, true)
    };
    let units = encode(settings, (0..71).map(pan));
    let keys: Vec<usize> = (0..units.len()).filter(|&at| units[at].is_key).collect();
    assert_eq!(keys.len(), 3);
    let frames = decode(&units);
    assert_eq!(frames.len(), 71);
    // From the second key unit on it is the same.
    let later = decode(&units[keys[1]..]);
    assert_eq!(later, frames[71 - later.len()..]);
}

#[test]
fn cuts_and_jumps_do_not_break_the_path() {
    // Further than a window may go, to another place and back; then nothing at all.
    let path = |t: usize| match t {
        0..12 => view((0.0, 0.0), t),
        12..20 => view((9.0 * t as f64, 40.0), t),
        20..30 => view((700.0 - 11.0 * t as f64, -90.0 * t as f64), t),
        30..34 => Frame {
            pts: Some(t as u64 * FRAME_NS),
            ..Frame::grey(WIDTH, HEIGHT)
        },
        _ => pan(t),
    };
    let settings = EncoderSettings {
        key_int_max: 1000,
        ..settings(24, true)
    };
    assert_eq!(decode(&encode(settings, (0..60).map(path))).len(), 60);
}

#[test]
fn positions_survive_a_lost_unit() {
    let settings = EncoderSettings {
        error_resilience: ErrorResilience::Units,
        ..settings(16, true)
    };
    let units = encode(settings, (0..57).map(pan));
    let whole = decode(&units);
    let lossy = decode(
        units
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != 3)
            .map(|(_, unit)| unit),
    );
    assert_eq!(lossy.len(), 57);
    // Two units later nothing is left of it.
    let (whole, lossy) = (error(&whole[41..], pan), error(&lossy[41..], pan));
    assert!(lossy < 1.15 * whole + 2.0, "{lossy} after a loss, {whole} without");
}

fn sliced(size: usize, camera: bool) -> Vec<AccessUnit> {
    let settings = EncoderSettings {
        error_resilience: ErrorResilience::Slices { size },
        ..settings(16, camera)
    };
    encode(settings, (0..57).map(pan))
}

/// An access unit without one of its slices.
fn without(unit: &AccessUnit, lost: usize) -> AccessUnit {
    let slices = slices(&unit.bytes).unwrap();
    assert!(lost < slices.len());
    let ends: Vec<usize> = std::iter::once(0)
        .chain(slices.iter().map(|(_, payload)| payload.end))
        .collect();
    AccessUnit {
        bytes: [&unit.bytes[..ends[lost]], &unit.bytes[ends[lost + 1]..]].concat(),
        ..unit.clone()
    }
}

#[test]
fn slices_follow_too() {
    for size in [1000, 130] {
        let (still, following) = (sliced(size, false), sliced(size, true));
        let counts =
            |units: &[AccessUnit]| -> usize { units.iter().map(|unit| slices(&unit.bytes).unwrap().len()).sum() };
        assert!(
            size == 1000 || counts(&following) > 2 * following.len(),
            "more than two slices"
        );
        let cost = |units: &[AccessUnit]| bytes(units) as f64 * error(&decode(units), pan);
        assert!(
            cost(&following) < 0.9 * cost(&still),
            "{} after {}",
            cost(&following),
            cost(&still)
        );
    }
}

#[test]
fn what_is_left_of_sliced_units_decodes_wherever_the_window_is() {
    let units = sliced(1000, true);
    let whole = error(&decode(&units)[33..], pan);
    let all_lost = |of: usize, slice: usize| -> Vec<AccessUnit> {
        let left = |(at, unit): (usize, &AccessUnit)| if at == of { without(unit, slice) } else { unit.clone() };
        units.iter().enumerate().map(left).collect()
    };
    for slice in 0..2 {
        let lossy = decode(&all_lost(2, slice));
        assert_eq!(lossy.len(), 57);
        let lossy = error(&lossy[33..], pan);
        assert!(lossy < 1.15 * whole + 2.0, "{lossy} after a loss, {whole} without");
        // Of a stream that has lost half of its key unit the other half goes on, in every unit.
        let mut decoder = EntropyDecoder::new(model());
        for unit in all_lost(0, slice) {
            let parsed = decoder.decode(&unit.bytes).unwrap();
            assert!((0.3..0.7).contains(&parsed.lost), "{} of a unit lost", parsed.lost);
        }
    }
}

#[test]
fn a_rate_is_kept_on_the_way() {
    let settings = EncoderSettings {
        rate_mode: RateMode::Bitrate(Link::new(20_000.0)),
        ..settings(0, true)
    };
    let units = encode(settings, (0..101).map(pan));
    assert_eq!(decode(&units).len(), 101);
    let rate = 8.0 * bytes(&units) as f64 / (101.0 * FRAME_NS as f64 / 1e9);
    assert!((10_000.0..30_000.0).contains(&rate), "{rate} bit/s");
}

#[test]
fn part_of_a_unit_is_shown_at_its_own_places() {
    let units = encode(settings(16, true), (0..41).map(pan));
    let whole = painted(&units, |_| Wanted::All);
    let parts = painted(&units, |at| match at {
        2 => Wanted::None,
        3 | 4 => Wanted::Last,
        _ => Wanted::All,
    });
    assert_eq!((whole.len(), parts.len()), (41, 25));
    assert!(
        error(&parts, pan) < 1.3 * error(&whole, pan),
        "{} {}",
        error(&parts, pan),
        error(&whole, pan)
    );
}

#[test]
fn what_is_noted_codes_to_the_bytes_that_were_sent() {
    for error_resilience in [ErrorResilience::None, ErrorResilience::Slices { size: 400 }] {
        let settings = EncoderSettings {
            residual: false,
            error_resilience,
            ..settings(20, true)
        };
        let sequence = SequenceHeader::new(WIDTH as u32, HEIGHT as u32, (25, 1));
        let mut encoder = Encoder::new(model(), sequence, settings).unwrap();
        encoder.note_sent();
        let units: Vec<_> = (0..33).flat_map(|t| encoder.push(pan(t), false).unwrap()).collect();
        let sent = encoder.take_sent();
        assert_eq!((units.len(), sent.len()), (5, 5));
        for (unit, sent) in units.iter().zip(&sent) {
            let (mode, latents) = sent.symbols.latents.as_ref().unwrap();
            let latents = WantedLatents {
                latents,
                quantize: &|latent| latent.nearest(),
                skipped: &sent.skipped,
            };
            let wanted = WantedUnit {
                camera: sent.symbols.camera.clone(),
                tokens: sent.symbols.tokens.clone(),
                masking: Masking::None,
                choose: &as_wanted,
                latents: Some((*mode, latents)),
                residual: sent.symbols.residual.clone(),
            };
            let again = sent.before.encode(model().contexts(), wanted, sent.slices).unwrap();
            for (slice, (_, place)) in again.slices.iter().zip(slices(&unit.bytes).unwrap()) {
                assert!(unit.bytes[place].ends_with(&slice.payload));
            }
        }
    }
}
