// SPDX-License-Identifier: MPL-2.0
//! The whole codec on a small model with random weights that has every part.

use std::sync::Arc;

use tch::{nn, Device, Kind};

use super::*;
use crate::bitstream::{CodingScale, SequenceHeader, UnitHeader};
use crate::model::{self, Fusion, IntegerModel, Model, ModelConfig, Predictor, Tokenizer};
use crate::train::context_net::ContextNet;
use crate::train::latent_context_net::LatentContextNet;

const WIDTH: usize = 96;
const HEIGHT: usize = 80;
const FRAME_NS: u64 = 40_000_000;

fn tiny_model() -> Arc<Model> {
    tch::manual_seed(11);
    let _no_grad = tch::no_grad_guard();
    let config = ModelConfig::tiny();
    let vs = nn::VarStore::new(Device::Cpu);
    let channels = config.continuous.as_ref().map_or(0, |c| c.channels);
    let _tokenizer = Tokenizer::new(vs.root() / "tokenizer", &config.tokenizer);
    let _fusion = config
        .continuous
        .as_ref()
        .map(|continuous| Fusion::new(vs.root() / "fusion", continuous, &config.tokenizer));
    let _predictor = config.predictor.as_ref().map(|predictor| {
        Predictor::new(
            vs.root() / "predictor",
            predictor,
            &config.tokenizer.fsq_levels,
            channels,
        )
    });
    for mut variable in vs.trainable_variables() {
        let noise = variable.randn_like() * 0.1;
        let _ = variable.g_add_(&noise);
    }
    let heads = nn::VarStore::new(Device::Cpu);
    let integers = IntegerModel {
        context: ContextNet::new(heads.root() / "context").export(),
        latent_context: Some(LatentContextNet::new(heads.root() / "latents", channels).export()),
    };
    let file = model::pack(&config, vs.variables(), Kind::BFloat16, &integers, &[]).unwrap();
    Arc::new(Model::from_bytes(&file.to_bytes().unwrap(), Device::Cpu).unwrap())
}

fn sequence() -> SequenceHeader {
    SequenceHeader {
        width: WIDTH as u32,
        height: HEIGHT as u32,
        ..SequenceHeader::sample()
    }
}

/// Frame `t` of something that moves at `speed` samples a frame.
fn frame(t: usize, speed: usize) -> Frame {
    let plane = |number: usize| {
        let (w, h) = Frame::plane_size(WIDTH, HEIGHT, number);
        (0..w * h)
            .map(|i| {
                let (x, y) = (i % w + speed * t, i / w);
                (((x * 7 + y * 3) % 97) * 2 + ((x / 9 + y / 11) % 2) * 40) as u8
            })
            .collect()
    };
    Frame {
        width: WIDTH,
        height: HEIGHT,
        planes: [plane(0), plane(1), plane(2)],
        pts: Some(t as u64 * FRAME_NS),
    }
}

fn encode(model: &Arc<Model>, settings: EncoderSettings, frames: impl IntoIterator<Item = Frame>) -> Vec<AccessUnit> {
    let mut encoder = Encoder::new(model.clone(), sequence(), settings).unwrap();
    let mut units: Vec<_> = frames
        .into_iter()
        .flat_map(|frame| encoder.push(frame, false).unwrap())
        .collect();
    units.extend(encoder.drain().unwrap());
    units
}

fn bits(units: &[AccessUnit]) -> usize {
    units.iter().map(|unit| unit.bytes.len() * 8).sum()
}

#[test]
fn every_operating_point_decodes() {
    let model = tiny_model();
    for quantizer in [0, 20, 31, 32, 55, 56, 63] {
        for masking in [MaskingStrategy::Adaptive, MaskingStrategy::Pattern] {
            for mask_ratio in [None, Some(0.5)] {
                let settings = EncoderSettings {
                    quantizer,
                    masking,
                    mask_ratio,
                    ..EncoderSettings::default()
                };
                let units = encode(&model, settings, (0..20).map(|t| frame(t, 2)));
                let mut decoder = Decoder::new(model.clone());
                let frames: usize = units
                    .iter()
                    .map(|unit| decoder.decode(&unit.bytes).unwrap().frames.len())
                    .sum();
                assert_eq!(frames, 20, "{settings:?}");
            }
        }
    }
}

#[test]
fn pictures_coded_in_another_size_come_back_in_their_own() {
    let model = tiny_model();
    for (scale, coded) in CodingScale::ALL
        .into_iter()
        .zip([(48, 40), (64, 54), (96, 80), (144, 120), (192, 160)])
    {
        let settings = EncoderSettings {
            scale: Some(scale),
            ..EncoderSettings::default()
        };
        let units = encode(&model, settings, (0..9).map(|t| frame(t, 2)));
        let mut decoder = Decoder::new(model.clone());
        for unit in &units {
            let decoded = decoder.decode(&unit.bytes).unwrap();
            assert_eq!(decoded.sequence.coded_size(), coded);
            assert!(decoded.frames.iter().all(|f| (f.width, f.height) == (WIDTH, HEIGHT)));
        }
    }
}

/// The scales of the key units.
fn scales(units: &[AccessUnit]) -> Vec<CodingScale> {
    let header = |unit: &AccessUnit| UnitHeader::parse(&unit.bytes).unwrap().0;
    let sequences = units.iter().filter_map(|unit| header(unit).sequence);
    sequences.map(|sequence| sequence.coding_scale).collect()
}

#[test]
fn the_finer_the_quantizer_or_the_higher_the_rate_the_larger_pictures_are_coded() {
    let model = tiny_model();
    let first = |quantizer, rate| {
        let settings = EncoderSettings {
            quantizer,
            rate,
            ..EncoderSettings::default()
        };
        scales(&encode(&model, settings, (0..9).map(|t| frame(t, 2))))[0]
    };
    let by_quantizer = [7, 8, 15, 16, 41, 42, 51, 52].map(|quantizer| first(quantizer, 0.0));
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
    assert_eq!(first(0, 1e2), Half);
    assert_eq!(first(0, 1e7), Double);
}

#[test]
fn a_rate_that_rises_gets_larger_pictures_and_one_that_falls_smaller_ones() {
    let model = tiny_model();
    let mut encoder = Encoder::new(model, sequence(), EncoderSettings::default()).unwrap();
    let mut run = |rate: f64, times: std::ops::Range<usize>| -> Vec<CodingScale> {
        encoder.set_settings(EncoderSettings {
            rate,
            key_int_max: 1000,
            ..EncoderSettings::default()
        });
        let units: Vec<AccessUnit> = times.flat_map(|t| encoder.push(frame(t, 2), false).unwrap()).collect();
        scales(&units)
    };
    assert_eq!(run(1e2, 0..97), [CodingScale::Half]);
    assert_eq!(run(1e7, 97..321).last(), Some(&CodingScale::Double));
    assert_eq!(run(1e2, 321..561).last(), Some(&CodingScale::Half));
}

#[test]
fn coarser_quantizers_and_more_masking_take_fewer_bits() {
    let model = tiny_model();
    let size = |quantizer, mask_ratio| {
        let settings = EncoderSettings {
            quantizer,
            mask_ratio,
            ..EncoderSettings::default()
        };
        bits(&encode(&model, settings, (0..33).map(|t| frame(t, 2))))
    };
    assert!(size(0, None) > size(24, None) && size(24, None) > size(48, None));
    assert!(size(50, Some(0.0)) > size(50, Some(0.4)) && size(50, Some(0.4)) > size(50, Some(0.8)));
}

#[test]
fn latents_of_a_still_picture_cost_next_to_nothing() {
    let model = tiny_model();
    let sizes = |latent_step| -> Vec<usize> {
        let settings = EncoderSettings {
            point: Some(OperatingPoint {
                latent_step,
                ..operating_point(20, CodingScale::Single)
            }),
            key_int_max: 1000,
            ..EncoderSettings::default()
        };
        let units = encode(&model, settings, (0..65).map(|_| frame(0, 0)));
        units.iter().map(|unit| unit.bytes.len()).collect()
    };
    let (with, without) = (sizes(operating_point(20, CodingScale::Single).latent_step), sizes(None));
    assert!(with[0] > without[0] + 12, "the key unit has latents");
    for (unit, (a, b)) in with.iter().zip(&without).enumerate().skip(4) {
        assert!(a <= &(b + 12), "unit {unit}: {a} bytes with latents, {b} without");
    }
}

#[test]
fn what_stands_still_beside_something_that_moves_is_held() {
    let model = tiny_model();
    let half_still = |t: usize| {
        let (mut moving, still) = (frame(t, 3), frame(0, 0));
        for number in 0..3 {
            let width = Frame::plane_size(WIDTH, HEIGHT, number).0;
            let rows = moving.planes[number].chunks_mut(width);
            for (row, still) in rows.zip(still.planes[number].chunks(width)) {
                row[..width / 2].copy_from_slice(&still[..width / 2]);
            }
        }
        moving
    };
    let size = |hold| {
        let settings = EncoderSettings {
            point: Some(OperatingPoint {
                hold,
                ..operating_point(20, CodingScale::Single)
            }),
            key_int_max: 1000,
            ..EncoderSettings::default()
        };
        bits(&encode(&model, settings, (0..65).map(half_still)))
    };
    let (held, coded) = (size(0.08), size(-1.0));
    assert!(held * 10 < coded * 9, "{held} bits, {coded} with nothing held");
}

#[test]
fn a_key_unit_that_is_too_dear_at_its_scale_is_coded_at_a_smaller_one() {
    let settings = |rate| EncoderSettings {
        rate,
        key_int_max: 1000,
        ..EncoderSettings::default()
    };
    let mut encoder = Encoder::new(tiny_model(), sequence(), settings(1e7)).unwrap();
    let first = encoder.push(frame(0, 2), true).unwrap();
    assert_eq!(scales(&first), [CodingScale::Double]);
    encoder.set_settings(settings(1e3));
    let second = encoder.push(frame(1, 2), true).unwrap();
    assert!(scales(&second)[0] < CodingScale::Single, "{:?}", scales(&second));
    assert!(second[0].bytes.len() < first[0].bytes.len() / 2);
}

/// A rate between those of the finest and of the coarsest quantizer, in bits per second.
fn middle_rate(model: &Arc<Model>, frames: usize) -> f64 {
    let rate = |quantizer| {
        let settings = EncoderSettings {
            quantizer,
            ..EncoderSettings::default()
        };
        let bits = bits(&encode(model, settings, (0..frames).map(|t| frame(t, 2)))) as f64;
        bits / (frames as f64 * FRAME_NS as f64 / 1e9)
    };
    (rate(8) + rate(52)) / 2.0
}

#[test]
fn a_rate_is_kept_within_five_percent() {
    let (model, frames) = (tiny_model(), 1 + 8 * 40);
    let rate = middle_rate(&model, 65);
    let settings = EncoderSettings {
        rate,
        ..EncoderSettings::default()
    };
    let units = encode(&model, settings, (0..frames).map(|t| frame(t, 2)));
    let seconds = frames as f64 * FRAME_NS as f64 / 1e9;
    let found = bits(&units) as f64 / seconds;
    assert!(
        (found / rate - 1.0).abs() < 0.05,
        "{found:.0} bit/s, asked for {rate:.0}"
    );
}

#[test]
fn the_rate_follows_the_time_stamps_and_not_the_frame_rate() {
    let model = tiny_model();
    let rate = middle_rate(&model, 65);
    let at = |rate, spacing: u64| {
        let settings = EncoderSettings {
            rate,
            ..EncoderSettings::default()
        };
        let frames = (0..161).map(|t| Frame {
            pts: Some(t as u64 * FRAME_NS * spacing),
            ..frame(t, 2)
        });
        bits(&encode(&model, settings, frames))
    };
    let (normal, slow) = (at(rate, 1) as f64, at(rate / 2.0, 2) as f64);
    assert!(
        (slow / normal - 1.0).abs() < 0.1,
        "{slow} bits at half the rate for twice the time, {normal}"
    );
}

#[test]
fn after_a_reset_to_an_earlier_time_the_rate_is_kept_as_before() {
    let model = tiny_model();
    let settings = EncoderSettings {
        rate: middle_rate(&model, 65),
        ..EncoderSettings::default()
    };
    let mut encoder = Encoder::new(model.clone(), sequence(), settings).unwrap();
    let mut pass = |start: usize| -> Vec<AccessUnit> {
        let frames = (0..49).map(|t| Frame {
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
fn a_damaged_byte_of_the_latents_is_noticed() {
    let model = tiny_model();
    let settings = EncoderSettings {
        quantizer: 8,
        ..EncoderSettings::default()
    };
    let unit = encode(&model, settings, [frame(0, 0)]).remove(0);
    let (_, header) = UnitHeader::parse(&unit.bytes).unwrap();
    let mut noticed = 0;
    for at in header..unit.bytes.len() {
        let mut damaged = unit.bytes.clone();
        damaged[at] ^= 0x10;
        noticed += usize::from(Decoder::new(model.clone()).decode(&damaged).is_err());
    }
    let total = unit.bytes.len() - header;
    // The last bits of a range coder may not matter.
    assert!(noticed + 2 >= total, "{noticed} of {total}");
}

/// Units of still frames at a point with or without detail, and the frames that come back.
fn still(
    model: &Arc<Model>,
    detail_step: Option<usize>,
    frames: impl Iterator<Item = Frame>,
) -> (Vec<AccessUnit>, Vec<Frame>) {
    let settings = EncoderSettings {
        point: Some(OperatingPoint {
            detail_step,
            ..operating_point(16, CodingScale::Single)
        }),
        scale: Some(CodingScale::Single),
        key_int_max: 1000,
        ..EncoderSettings::default()
    };
    let timed = frames.enumerate().map(|(t, frame)| Frame {
        pts: Some(t as u64 * FRAME_NS),
        ..frame
    });
    let units = encode(model, settings, timed);
    let mut decoder = Decoder::new(model.clone());
    let decoded = units
        .iter()
        .flat_map(|unit| decoder.decode(&unit.bytes).unwrap().frames);
    let decoded = decoded.collect();
    (units, decoded)
}

/// Mean squared difference of the luma of two frames within some columns.
fn luma_error(a: &Frame, b: &Frame, columns: std::ops::Range<usize>) -> f64 {
    let rows = a.planes[0].chunks(WIDTH).zip(b.planes[0].chunks(WIDTH));
    let squares = rows.flat_map(|(a, b)| a[columns.clone()].iter().zip(&b[columns.clone()]));
    let sum: f64 = squares.map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    sum / (columns.len() * HEIGHT) as f64
}

#[test]
fn what_stands_still_is_shown_as_it_is_and_its_detail_is_sent_once() {
    let model = tiny_model();
    let (with, shown) = still(&model, Some(6), (0..33).map(|_| frame(0, 0)));
    let (_, painted) = still(&model, None, (0..33).map(|_| frame(0, 0)));
    let source = frame(0, 0);
    let error = |frames: &[Frame], t: usize| luma_error(&frames[t], &source, 0..WIDTH);
    assert!(error(&painted, 32) > 300.0, "random networks cannot paint it");
    // Steps of 8: an error of 8^2 / 12, and what is rounded towards zero.
    for t in [1, 8, 32] {
        assert!(error(&shown, t) < 12.0, "frame {t}: {}", error(&shown, t));
    }
    let sizes: Vec<usize> = with.iter().map(|unit| unit.bytes.len()).collect();
    assert!(sizes[2..].iter().all(|size| size * 20 < sizes[1]), "{sizes:?}");
}

#[test]
fn what_moves_is_painted_with_or_without_detail() {
    let model = tiny_model();
    let moving = || (0..25).map(|t| frame(t, 3));
    let (with, shown) = still(&model, Some(6), moving());
    let (without, painted) = still(&model, None, moving());
    assert_eq!(shown, painted);
    assert!(bits(&with) <= bits(&without) + 8 * with.len());
}

#[test]
fn what_comes_back_from_behind_something_needs_no_new_detail() {
    let model = tiny_model();
    // Something stands before the right half, and moves, in the third unit.
    let walk = |t: usize| {
        let mut picture = frame(0, 0);
        if (17..25).contains(&t) {
            for (row, new) in picture.planes[0]
                .chunks_mut(WIDTH)
                .zip(frame(t, 5).planes[0].chunks(WIDTH))
            {
                row[WIDTH / 2..].copy_from_slice(&new[WIDTH / 2..]);
            }
        }
        picture
    };
    let (units, shown) = still(&model, Some(6), (0..57).map(walk));
    let sizes: Vec<usize> = units.iter().map(|unit| unit.bytes.len()).collect();
    let source = frame(0, 0);
    assert!(
        luma_error(&shown[24], &source, 0..WIDTH / 2 - 16) < 12.0,
        "the left half stays frozen"
    );
    assert!(luma_error(&shown[56], &source, WIDTH / 2..WIDTH) < 12.0);
    assert!(sizes[4..].iter().sum::<usize>() * 2 < sizes[1], "{sizes:?}");
}

#[test]
fn a_damaged_byte_of_the_detail_is_noticed() {
    let model = tiny_model();
    let (units, _) = still(&model, Some(6), (0..9).map(|_| frame(0, 0)));
    let (_, header) = UnitHeader::parse(&units[1].bytes).unwrap();
    let payload = header..units[1].bytes.len();
    let (mut noticed, total) = (0, payload.len() / 7);
    for at in payload.step_by(7).take(total) {
        let mut decoder = Decoder::new(model.clone());
        decoder.decode(&units[0].bytes).unwrap();
        let mut damaged = units[1].bytes.clone();
        damaged[at] ^= 0x10;
        noticed += usize::from(decoder.decode(&damaged).is_err());
    }
    assert!(noticed + 1 >= total, "{noticed} of {total}");
}

#[test]
fn at_a_rate_that_a_still_picture_does_not_need_it_gets_its_detail() {
    let model = tiny_model();
    let rate = 2.0 * middle_rate(&model, 65);
    let settings = EncoderSettings {
        rate,
        scale: Some(CodingScale::Single),
        key_int_max: 1000,
        ..EncoderSettings::default()
    };
    // It moves at first, so that there is nothing left for detail.
    let frames = (0..281).map(|t| Frame {
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
    let seconds = 281.0 * FRAME_NS as f64 / 1e9;
    assert!(bits(&units) as f64 <= 1.05 * rate * seconds);
}
