// SPDX-License-Identifier: MPL-2.0
//! The whole codec on a small model with random weights that has every part.

use std::sync::Arc;

use tch::{nn, Device, Kind};

use super::*;
use crate::bitstream::{CodingScale, SequenceHeader, UnitHeader};
use crate::entropy::numbers::{latent_weights, powers};
use crate::entropy::ContextWeights;
use crate::model::{self, Fusion, IntegerModel, Model, ModelConfig, Predictor, Tokenizer};

mod at_rate;
mod camera;
mod limits;
mod motion;
mod resilience;
mod scenes;

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
    let integers = IntegerModel {
        context: ContextWeights::repeating(powers()),
        latent_context: Some(latent_weights(channels as usize)),
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
                    ablation: EncoderAblation {
                        masking,
                        ..EncoderAblation::default()
                    },
                    mask_ratio,
                    ..EncoderSettings::at_quantizer(quantizer)
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
fn coarser_quantizers_and_more_masking_take_fewer_bits() {
    let model = tiny_model();
    let size = |quantizer, mask_ratio| {
        let settings = EncoderSettings {
            mask_ratio,
            ..EncoderSettings::at_quantizer(quantizer)
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
            ablation: EncoderAblation {
                point: Some(OperatingPoint {
                    latent_step,
                    ..operating_point(20, CodingScale::Single)
                }),
                ..EncoderAblation::default()
            },
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
            ablation: EncoderAblation {
                point: Some(OperatingPoint {
                    skip_lambda: hold,
                    ..operating_point(20, CodingScale::Single)
                }),
                ..EncoderAblation::default()
            },
            key_int_max: 1000,
            ..EncoderSettings::default()
        };
        bits(&encode(&model, settings, (0..65).map(half_still)))
    };
    let (skipped, coded) = (size(0.08), size(-1.0));
    assert!(skipped * 10 < coded * 9, "{skipped} bits, {coded} with nothing skipped");
}

#[test]
fn a_damaged_byte_of_the_latents_is_noticed() {
    let model = tiny_model();
    let settings = EncoderSettings::at_quantizer(8);
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

/// Units of still frames at a point with or without residual, and the frames that come back.
fn still(
    model: &Arc<Model>,
    residual_step: Option<usize>,
    frames: impl Iterator<Item = Frame>,
) -> (Vec<AccessUnit>, Vec<Frame>) {
    let settings = EncoderSettings {
        ablation: EncoderAblation {
            point: Some(OperatingPoint {
                residual_step,
                ..operating_point(16, CodingScale::Single)
            }),
            ..EncoderAblation::default()
        },
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
        "the left half stays static"
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
