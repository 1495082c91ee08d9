// SPDX-License-Identifier: MPL-2.0
//! Streams of which units and slices are lost.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::bitstream::{Resilience, Slice, UnitHeader};
use crate::codec::ErrorResilience;

const SIZE: (usize, usize) = (96, 80);
const SLICES: ErrorResilience = ErrorResilience::Slices { size: 200 };

/// A bar that moves over a pattern.
fn frame(t: usize) -> Frame {
    picture(t, |x| x.abs_diff(t * 2 % SIZE.0) < 9)
}

/// A curtain that hides more and more of a pattern.
fn curtain(t: usize) -> Frame {
    picture(t, |x| x < t)
}

/// A pattern, but white in some columns.
fn picture(t: usize, is_white: impl Fn(usize) -> bool) -> Frame {
    let (width, height) = SIZE;
    let luma = |i: usize| match is_white(i % width) {
        true => 210,
        false => 50 + ((i % width) * 3 + (i / width) * 5) as u8 % 90,
    };
    Frame {
        planes: [
            (0..width * height).map(luma).collect(),
            vec![110; width * height / 4],
            vec![140; width * height / 4],
        ],
        pts: Some(t as u64 * 40_000_000),
        ..Frame::grey(width, height)
    }
}

fn model() -> Arc<Model> {
    Model::load(&crate::model::ModelSource::Embedded, "cpu").unwrap()
}

fn encoder(model: &Arc<Model>, error_resilience: ErrorResilience) -> Encoder {
    let sequence = SequenceHeader::new(SIZE.0 as u32, SIZE.1 as u32, (25, 1));
    let settings = EncoderSettings {
        error_resilience,
        ..EncoderSettings::at_quantizer(30)
    };
    Encoder::new(model.clone(), sequence, settings).unwrap()
}

/// 41 frames: a key unit and five delta units.
fn units(model: &Arc<Model>, error_resilience: ErrorResilience) -> Vec<Vec<u8>> {
    let mut encoder = encoder(model, error_resilience);
    let mut units = vec![];
    (0..41).for_each(|t| units.extend(encoder.push(frame(t), false).unwrap()));
    units.extend(encoder.drain().unwrap());
    units.into_iter().map(|unit| unit.bytes).collect()
}

/// Slices of an access unit.
fn cut(unit: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = unit;
    let mut slices = vec![];
    while !rest.is_empty() {
        let (header, start) = UnitHeader::parse(rest).unwrap();
        let (slice, behind) = rest.split_at(start + header.payload_length);
        slices.push(slice.to_vec());
        rest = behind;
    }
    slices
}

fn decode(model: &Arc<Model>, units: &[Vec<u8>]) -> Vec<Frame> {
    let mut decoder = Decoder::new(model.clone());
    let frames = units.iter().flat_map(|unit| decoder.decode(unit).unwrap().frames);
    frames.collect()
}

fn times(frames: &[Frame]) -> Vec<u64> {
    frames.iter().map(|frame| frame.pts.unwrap() / 40_000_000).collect()
}

/// Mean difference of luma samples.
fn off(a: &Frame, b: &Frame) -> f64 {
    let pairs = a.planes[0].iter().zip(&b.planes[0]);
    pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.planes[0].len() as f64
}

#[test]
fn a_lost_unit_is_concealed_and_the_others_decode() {
    let model = model();
    let all = units(&model, ErrorResilience::Units);
    let whole = decode(&model, &all);
    for lost in 1..5 {
        let mut left = all.clone();
        left.remove(lost);
        let frames = decode(&model, &left);
        assert_eq!(times(&frames), (0..41).collect::<Vec<_>>(), "unit {lost} lost");
        let before = 1 + 8 * (lost - 1);
        assert_eq!(frames[..before], whole[..before], "unit {lost} lost");
        // The networks look back two units: after that they have forgotten it.
        let last = off(&frames[40], &whole[40]);
        assert!(lost > 2 || last < 1.0, "unit {lost} lost, {last} off at the end");
    }
}

#[test]
fn after_a_second_without_units_the_picture_is_right_within_the_next_two() {
    let model = model();
    let mut encoder = encoder(&model, ErrorResilience::Units);
    let coded: Vec<_> = (0..57).flat_map(|t| encoder.push(frame(t), false).unwrap()).collect();
    let all: Vec<Vec<u8>> = coded.into_iter().map(|unit| unit.bytes).collect();
    // Three units of eight frames, 25 of which are a second.
    let left = [&all[..2], &all[5..]].concat();
    let (whole, frames) = (decode(&model, &all), decode(&model, &left));
    assert_eq!(times(&frames), times(&whole));
    let error = |frames: &[Frame], at: usize| off(&frames[at], &frame(at));
    assert_ne!(frames[40], whole[40], "what moves cannot be known");
    let after = error(&frames, 56) / error(&whole, 56);
    assert!(after < 1.05, "{after} times the error");
}

#[test]
fn units_before_a_key_unit_are_concealed_up_to_its_time() {
    let model = model();
    let mut encoder = encoder(&model, ErrorResilience::Units);
    let mut units = vec![];
    for t in 0..41 {
        units.extend(
            encoder
                .push(frame(t), t == 20)
                .unwrap()
                .into_iter()
                .map(|unit| unit.bytes),
        );
    }
    // One frame, two units, a short one of three frames, and the next key unit.
    let left = [&units[..2], &units[4..]].concat();
    assert_eq!(times(&decode(&model, &left))[..30], (0..30).collect::<Vec<_>>());
}

#[test]
fn a_lost_slice_is_concealed_and_the_others_decode() {
    let model = model();
    let all = units(&model, SLICES);
    let whole = decode(&model, &all);
    assert_eq!(times(&whole), (0..41).collect::<Vec<_>>());
    for unit in 0..all.len() {
        let slices = cut(&all[unit]);
        assert!(slices.len() >= 2 && slices.len().is_multiple_of(2));
        for lost in 0..slices.len() {
            let mut left = all.clone();
            left[unit] = [&slices[..lost], &slices[lost + 1..]].concat().concat();
            let frames = decode(&model, &left);
            assert_eq!(times(&frames), times(&whole), "slice {lost} of unit {unit} lost");
            let at = 8 * unit;
            let error = off(&frames[at], &frame(at)) / off(&whole[at], &frame(at));
            assert!(error < 5.0, "slice {lost} of unit {unit} lost: {error} times the error");
        }
    }
}

#[test]
fn slices_are_as_short_as_they_are_asked_to_be() {
    let model = model();
    let longest = |size| {
        let units = units(&model, ErrorResilience::Slices { size });
        units
            .iter()
            .flat_map(|unit| cut(unit))
            .map(|slice| slice.len())
            .max()
            .unwrap()
    };
    assert!(longest(100) <= 100 && longest(100_000) > 100, "{} bytes", longest(100));
}

#[test]
fn a_key_unit_is_worth_it_where_a_part_of_the_last_one_is_missing() {
    let model = model();
    let all = units(&model, SLICES);
    let mut decoder = EntropyDecoder::new(model);
    assert!(decoder.wants_key());
    decoder.decode(&all[0]).unwrap();
    assert!(!decoder.wants_key());
    decoder.decode(&cut(&all[1])[0]).unwrap();
    decoder.decode(&all[3]).unwrap();
    assert!(!decoder.wants_key(), "the next unit does without those that were lost");
    decoder.decode(&cut(&all[0])[1]).unwrap();
    assert!(decoder.wants_key());
}

#[test]
fn what_the_receiver_has_makes_later_units_smaller() {
    let model = model();
    let sizes = |acknowledges: bool| {
        let mut encoder = encoder(&model, ErrorResilience::Units);
        let mut decoder = EntropyDecoder::new(model.clone());
        let mut size = 0;
        for t in 0..81 {
            for unit in encoder.push(curtain(t), false).unwrap() {
                size += unit.bytes.len();
                let symbols = decoder.decode(&unit.bytes).unwrap();
                if let Some((group, unit)) = symbols.acknowledgement.filter(|_| acknowledges) {
                    encoder.acknowledge(group, unit);
                }
            }
        }
        size
    };
    assert!(
        sizes(true) < sizes(false),
        "{} bytes, {} without",
        sizes(true),
        sizes(false)
    );
}

#[test]
fn units_of_a_group_whose_key_unit_was_lost_go_on_with_what_there_is() {
    let model = model();
    let mut encoder = encoder(&model, ErrorResilience::Units);
    let mut units = vec![];
    for t in 0..33 {
        units.extend(
            encoder
                .push(frame(t), t == 9)
                .unwrap()
                .into_iter()
                .map(|unit| unit.bytes),
        );
    }
    let mut decoder = EntropyDecoder::new(model);
    decoder.decode(&units[0]).unwrap();
    decoder.decode(&units[1]).unwrap();
    let unit = decoder.decode(&units[3]).unwrap();
    assert_eq!((unit.lost, unit.times.len()), (1.0, 8));
    assert!(decoder.wants_key());
}

#[test]
fn damaged_slices_count_as_lost() {
    let model = model();
    let mut all = units(&model, SLICES);
    let first = cut(&all[2])[0].len();
    all[2][first - 6] ^= 0x55;
    let mut decoder = EntropyDecoder::new(model);
    let lost: Vec<f32> = all.iter().map(|unit| decoder.decode(unit).unwrap().lost).collect();
    assert!(lost[2] > 0.0 && lost[2] < 1.0, "{lost:?}");
    assert!(
        lost.iter().enumerate().all(|(at, lost)| at == 2 || *lost == 0.0),
        "{lost:?}"
    );
}

/// A model, and the units of a stream that may lose units, and of one that may lose slices.
type Streams = (Arc<Model>, [Vec<Vec<u8>>; 2]);

/// What becomes of a slice on the way.
#[derive(Clone, Debug)]
enum Fate {
    Whole,
    Lost,
    Twice,
    /// A byte has another value.
    Damaged(prop::sample::Index, u8),
    /// The header, which has a right check value, says something else.
    Forged(u8, u8, u8, u8, u8),
}

fn any_fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Whole),
        2 => Just(Fate::Lost),
        1 => Just(Fate::Twice),
        1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, value)| Fate::Damaged(at, value)),
        2 => (0u8..16, 0u8..16, any::<u8>(), 0u8..8, 0u8..16)
            .prop_map(|(group, reference, unit, half, index)| Fate::Forged(group, reference, unit, half, index)),
    ]
}

fn meet(slice: &[u8], fate: &Fate) -> Vec<u8> {
    match fate {
        Fate::Whole => slice.to_vec(),
        Fate::Lost => vec![],
        Fate::Twice => slice.repeat(2),
        Fate::Damaged(at, value) => {
            let mut damaged = slice.to_vec();
            damaged[at.index(slice.len())] = *value;
            damaged
        }
        Fate::Forged(group, reference, unit, half, index) => {
            let (mut header, start) = UnitHeader::parse(slice).unwrap();
            let count = (2 * half).max(1);
            let unit = if header.is_key() { 0 } else { (*unit).max(1) };
            header.resilience = Some(Resilience {
                group: *group,
                reference: (*reference).min(unit),
                unit,
                slice: Slice {
                    index: index % count,
                    count,
                },
            });
            [header.pack(), slice[start..].to_vec()].concat()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn whatever_becomes_of_slices_the_next_whole_stream_decodes(
        fates in prop::collection::vec(any_fate(), 40), swap in any::<[prop::sample::Index; 2]>(), slices: bool,
    ) {
        use std::sync::OnceLock;
        static STREAMS: OnceLock<Streams> = OnceLock::new();
        let (model, streams) = STREAMS.get_or_init(|| {
            let model = tiny_model();
            let streams = [units(&model, ErrorResilience::Units), units(&model, SLICES)];
            (model, streams)
        });
        let whole = &streams[usize::from(slices)];
        let mut fates = fates.iter().cycle();
        let mut hurt: Vec<Vec<u8>> = whole
            .iter()
            .map(|unit| cut(unit).iter().flat_map(|slice| meet(slice, fates.next().unwrap())).collect())
            .collect();
        hurt.swap(swap[0].index(whole.len()), swap[1].index(whole.len()));
        let mut decoder = Decoder::new(model.clone());
        for unit in hurt.iter().filter(|unit| !unit.is_empty()) {
            if let Ok(decoded) = decoder.decode(unit) {
                prop_assert!(decoded.frames.len() <= 8 * 5, "{} frames", decoded.frames.len());
            }
        }
        let frames: usize = whole.iter().map(|unit| decoder.decode(unit).unwrap().frames.len()).sum();
        prop_assert!(frames >= 41);
    }
}
