// SPDX-License-Identifier: MPL-2.0
//! Payloads that are longer than the bitstream takes.

use super::*;
use crate::codec::Link;

fn payload(unit: &AccessUnit) -> usize {
    UnitHeader::parse(&unit.bytes).unwrap().0.payload_length
}

fn encoder(model: &Arc<Model>, rate_mode: RateMode, scale: Option<CodingScale>, max_payload: usize) -> Encoder {
    let settings = EncoderSettings {
        rate_mode,
        scale,
        ..EncoderSettings::default()
    };
    let mut encoder = Encoder::new(model.clone(), sequence(), settings).unwrap();
    encoder.max_payload = max_payload;
    encoder
}

/// The units of 12 frames, decoded as well.
fn units(encoder: &mut Encoder) -> Vec<AccessUnit> {
    let frames = (0..12).map(|t| frame(t, 5));
    let mut units: Vec<_> = frames.flat_map(|frame| encoder.push(frame, false).unwrap()).collect();
    units.extend(encoder.drain().unwrap());
    let mut decoder = Decoder::new(encoder.model.clone());
    let decoded = units.iter().map(|unit| decoder.decode(&unit.bytes).unwrap());
    assert_eq!(decoded.map(|decoded| decoded.frames.len()).sum::<usize>(), 12);
    units
}

#[test]
fn units_that_would_be_too_long_are_coded_coarser() {
    let model = tiny_model();
    let fast = RateMode::Bitrate(Link {
        rate: 1e8,
        buffer: 60.0,
    });
    for rate_mode in [RateMode::ConstantQuality { quantizer: 0 }, fast] {
        let largest = |limit| {
            let mut encoder = encoder(&model, rate_mode, Some(CodingScale::Single), limit);
            units(&mut encoder).iter().map(payload).max().unwrap()
        };
        let limit = largest(usize::MAX) * 4 / 5;
        let found = largest(limit);
        assert!(found <= limit, "{found} bytes, {limit} fit, {rate_mode:?}");
    }
}

#[test]
fn a_key_unit_that_is_too_long_at_every_quantizer_is_coded_smaller() {
    let model = tiny_model();
    let key = |quantizer, limit| {
        let mode = RateMode::ConstantQuality { quantizer };
        let mut encoder = encoder(&model, mode, Some(CodingScale::Double), limit);
        encoder.push(frame(0, 0), false).unwrap()
    };
    let limit = payload(&key(MAX_QUANTIZER, usize::MAX)[0]) - 1;
    let smaller = key(0, limit);
    assert!(payload(&smaller[0]) <= limit);
    assert!(scales(&smaller)[0] < CodingScale::Double);
}

#[test]
fn a_limit_that_nothing_meets_is_an_error_and_the_stream_goes_on_after_it() {
    let model = tiny_model();
    let mut encoder = encoder(&model, RateMode::ConstantQuality { quantizer: 0 }, None, 4);
    let error = encoder.push(frame(0, 0), false).unwrap_err();
    assert!(matches!(error, CodecError::UnitTooLong { most: 4, .. }), "{error}");
    encoder.max_payload = usize::MAX;
    assert!(encoder.push(frame(1, 0), false).unwrap()[0].is_key);
}

#[test]
fn what_an_application_gets_wrong_is_an_error() {
    let model = tiny_model();
    for wrong in [
        SequenceHeader {
            frame_rate: (25, 0),
            ..sequence()
        },
        SequenceHeader {
            frame_rate: (u32::MAX, 1),
            ..sequence()
        },
        SequenceHeader {
            pixel_aspect_ratio: (0, 1),
            ..sequence()
        },
        SequenceHeader { width: 8, ..sequence() },
    ] {
        assert!(
            Encoder::new(model.clone(), wrong, EncoderSettings::default()).is_err(),
            "{wrong:?}"
        );
    }
    let mut encoder = Encoder::new(model, sequence(), EncoderSettings::default()).unwrap();
    let mut short = frame(0, 0);
    short.planes[1].pop();
    for wrong in [Frame::grey(WIDTH + 2, HEIGHT), Frame::grey(WIDTH, HEIGHT - 2), short] {
        assert!(matches!(encoder.push(wrong, false), Err(CodecError::Frame { .. })));
    }
    assert_eq!(encoder.push(frame(0, 0), false).unwrap().len(), 1);
}
