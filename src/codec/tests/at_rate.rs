// SPDX-License-Identifier: MPL-2.0
//! The codec at a rate.

use super::*;

fn at_rate(rate: f64) -> EncoderSettings {
    EncoderSettings {
        rate_mode: RateMode::Bitrate(Link::new(rate)),
        ..EncoderSettings::default()
    }
}

/// What a quantizer in the middle of its range takes, in bits per second.
fn middle_rate(model: &Arc<Model>, frames: usize) -> f64 {
    let settings = EncoderSettings {
        scale: Some(CodingScale::Single),
        key_int_max: 1000,
        ..EncoderSettings::at_quantizer(24)
    };
    let bits = bits(&encode(model, settings, (0..frames).map(|t| frame(t, 2)))) as f64;
    bits / (frames as f64 * FRAME_NS as f64 / 1e9)
}

/// How much of a buffer is left at its lowest, in bits, after each unit of a stream with a frame every `FRAME_NS`.
fn lowest_fill(link: Link, units: &[AccessUnit]) -> f64 {
    let (mut fill, mut lowest) = (link.capacity(), f64::INFINITY);
    for unit in units {
        fill -= unit.bytes.len() as f64 * 8.0;
        lowest = lowest.min(fill);
        fill += link.rate * unit.frames as f64 * FRAME_NS as f64 / 1e9;
        fill = fill.min(link.capacity());
    }
    lowest
}

#[test]
fn the_finer_the_quantizer_or_the_higher_the_rate_the_larger_pictures_are_coded() {
    let model = tiny_model();
    let first = |settings| scales(&encode(&model, settings, (0..9).map(|t| frame(t, 2))))[0];
    let by_quantizer = [7, 8, 15, 16, 41, 42, 51, 52].map(|quantizer| first(EncoderSettings::at_quantizer(quantizer)));
    use CodingScale::{Double, Half, OneAndAHalf, Single, TwoThirds};
    assert_eq!(
        by_quantizer,
        [
            Double,
            OneAndAHalf,
            OneAndAHalf,
            Single,
            Single,
            TwoThirds,
            TwoThirds,
            Half
        ]
    );
    assert_eq!(first(at_rate(1e2)), Half);
    assert_eq!(first(at_rate(1e7)), Double);
}

#[test]
fn a_rate_that_rises_gets_larger_pictures_and_one_that_falls_smaller_ones() {
    let model = tiny_model();
    let mut encoder = Encoder::new(model, sequence(), EncoderSettings::default()).unwrap();
    let mut run = |rate: f64, times: std::ops::Range<usize>| -> Vec<CodingScale> {
        encoder.set_settings(EncoderSettings {
            key_int_max: 1000,
            ..at_rate(rate)
        });
        let units: Vec<AccessUnit> = times.flat_map(|t| encoder.push(frame(t, 2), false).unwrap()).collect();
        scales(&units)
    };
    assert_eq!(run(5e2, 0..97), [CodingScale::Half]);
    assert_eq!(run(1e6, 97..561).last(), Some(&CodingScale::Double));
    assert_eq!(run(5e2, 561..1361).last(), Some(&CodingScale::Half));
}

#[test]
fn a_key_unit_that_has_no_room_at_its_scale_is_coded_at_a_smaller_one() {
    let settings = |rate| EncoderSettings {
        key_int_max: 1000,
        ..at_rate(rate)
    };
    let mut encoder = Encoder::new(tiny_model(), sequence(), settings(1e7)).unwrap();
    let frames = (0..9).map(|t| frame(t, 0));
    let first: Vec<_> = frames.flat_map(|frame| encoder.push(frame, false).unwrap()).collect();
    assert_eq!(scales(&first), [CodingScale::Double]);
    encoder.set_settings(settings(1e3));
    let second = encoder.push(frame(9, 0), true).unwrap();
    assert_eq!(scales(&second), [CodingScale::Half]);
    assert!(second[0].bytes.len() < first[0].bytes.len() / 2);
}

#[test]
fn a_scene_starts_when_its_motion_is_known_and_a_key_unit_in_it_comes_at_once() {
    let mut encoder = Encoder::new(tiny_model(), sequence(), at_rate(2e4)).unwrap();
    let mut push = |t: usize, force| -> Vec<(bool, usize)> {
        let units = encoder.push(frame(t, 0), force).unwrap();
        units.iter().map(|unit| (unit.is_key, unit.frames)).collect()
    };
    assert!((0..8).all(|t| push(t, t == 0).is_empty()));
    assert_eq!(push(8, false), [(true, 1), (false, 8)]);
    assert_eq!(push(9, true), [(true, 1)]);
    assert!((10..12).all(|t| push(t, false).is_empty()));
    assert_eq!(push(12, true), [(false, 2), (true, 1)]);
    assert!(encoder.drain().unwrap().is_empty());
    assert!(encoder.push(frame(13, 0), false).unwrap().is_empty());
    let last: Vec<bool> = encoder.drain().unwrap().iter().map(|unit| unit.is_key).collect();
    assert_eq!(last, [true], "a stream of one frame");
}

#[test]
fn a_mean_rate_is_kept_and_the_buffer_never_runs_dry() {
    let (model, frames) = (tiny_model(), 1 + 8 * 120);
    let rate = middle_rate(&model, 65);
    for buffer in [1.5, 2.5] {
        let link = Link { rate, buffer };
        let settings = EncoderSettings {
            rate_mode: RateMode::Bitrate(link),
            scale: Some(CodingScale::Single),
            key_int_max: 250,
            ..EncoderSettings::default()
        };
        let units = encode(&model, settings, (0..frames).map(|t| frame(t, 2)));
        let seconds = frames as f64 * FRAME_NS as f64 / 1e9;
        let found = bits(&units) as f64 / seconds;
        // A buffer of 2.5 s is 6 % of these 38 s.
        assert!(
            (found / rate - 1.0).abs() < 0.06,
            "{found:.0} bit/s, asked for {rate:.0} with a buffer of {buffer} s"
        );
        assert!(lowest_fill(link, &units) >= 0.0);
    }
}

#[test]
fn cuts_from_calm_to_wild_scenes_and_back_never_run_the_buffer_dry() {
    let model = tiny_model();
    for (rate, buffer) in [(0.5, 2.5), (1.0, 0.8), (1.0, 2.5)] {
        let link = Link {
            rate: rate * middle_rate(&model, 65),
            buffer,
        };
        let settings = EncoderSettings {
            rate_mode: RateMode::Bitrate(link),
            ..EncoderSettings::default()
        };
        // A scene every two seconds, one still, one fast.
        let mut encoder = Encoder::new(model.clone(), sequence(), settings).unwrap();
        let mut units = Vec::new();
        for t in 0..400 {
            let (scene, at) = (t / 50, t % 50);
            let shown = frame(scene * 1000 + if scene % 2 == 0 { 0 } else { at }, 5);
            let timed = Frame {
                pts: Some(t as u64 * FRAME_NS),
                ..shown
            };
            units.extend(encoder.push(timed, false).unwrap());
        }
        units.extend(encoder.drain().unwrap());
        let sizes: Vec<(bool, usize)> = units.iter().map(|unit| (unit.is_key, unit.bytes.len() * 8)).collect();
        assert!(lowest_fill(link, &units) >= 0.0, "{link:?}: {sizes:?}");
    }
}

#[test]
fn the_rate_follows_the_time_stamps_and_not_the_frame_rate() {
    let model = tiny_model();
    let rate = middle_rate(&model, 65);
    let at = |rate, spacing: u64| {
        let frames = (0..161).map(|t| Frame {
            pts: Some(t as u64 * FRAME_NS * spacing),
            ..frame(t, 2)
        });
        bits(&encode(&model, at_rate(rate), frames))
    };
    let (normal, slow) = (at(rate, 1) as f64, at(rate / 2.0, 2) as f64);
    assert!(
        (slow / normal - 1.0).abs() < 0.15,
        "{slow} bits at half the rate for twice the time, {normal}"
    );
}

#[test]
fn after_a_reset_to_an_earlier_time_the_rate_is_kept_as_before() {
    let model = tiny_model();
    let settings = at_rate(middle_rate(&model, 65));
    let mut encoder = Encoder::new(model.clone(), sequence(), settings).unwrap();
    let mut pass = |start: usize| -> Vec<AccessUnit> {
        let frames = (0..97).map(|t| Frame {
            pts: Some((start + t) as u64 * FRAME_NS),
            ..frame(t, 2)
        });
        let units = frames.flat_map(|frame| encoder.push(frame, false).unwrap()).collect();
        encoder.reset();
        units
    };
    // An hour in, then back to the start.
    let (late, early) = (bits(&pass(90_000)) as f64, bits(&pass(0)) as f64);
    assert!(
        (early / late - 1.0).abs() < 0.02,
        "{early} bits after the reset, {late} before"
    );
}

#[test]
fn at_a_rate_that_a_still_picture_does_not_need_it_gets_its_detail() {
    let model = tiny_model();
    let rate = 3.0 * middle_rate(&model, 65);
    let settings = EncoderSettings {
        scale: Some(CodingScale::Single),
        key_int_max: 1000,
        ..at_rate(rate)
    };
    // It moves at first, so that there is nothing left for residual.
    let frames = (0..401).map(|t| Frame {
        pts: Some(t as u64 * FRAME_NS),
        ..frame(t.min(40), 3)
    });
    let units = encode(&model, settings, frames);
    let mut decoder = Decoder::new(model.clone());
    let decoded = units
        .iter()
        .flat_map(|unit| decoder.decode(&unit.bytes).unwrap().frames);
    let last = decoded.last().unwrap();
    let error = luma_error(&last, &frame(40, 3), 0..WIDTH);
    assert!(error < 40.0, "{error}");
}
