// SPDX-License-Identifier: MPL-2.0
//! What is taken for a stream, among all that this installation has typefinders for.

mod common;

use common::*;
use gst::TypeFindProbability::{self, Likely, Maximum, NearlyCertain, Possible};
use gsttvc::bitstream::{SequenceHeader, Timing, UnitHeader};

fn unit(is_key: bool, payload: usize) -> Vec<u8> {
    let sequence = SequenceHeader {
        model_id: 77,
        pts: Some(0),
        ..SequenceHeader::new(WIDTH, HEIGHT, (25, 1))
    };
    let header = UnitHeader {
        sequence: is_key.then_some(sequence),
        frames: if is_key { 1 } else { 8 },
        timing: Timing::Grid,
        payload_length: payload,
        symbol_check: 0,
        resilience: None,
    };
    let mut bytes = header.pack();
    bytes.extend(noise(payload));
    bytes
}

/// Bytes without a pattern.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// How probable the bytes are a stream.
fn found(bytes: &[u8]) -> Option<TypeFindProbability> {
    init();
    let (caps, probability) = gst_base::type_find_helper_for_data(None::<&gst::Element>, bytes).ok()?;
    (caps.structure(0)?.name() == "video/x-tvc").then_some(probability)
}

#[test]
fn a_stream_from_its_start_is_certain() {
    assert_eq!(found(&[unit(true, 200), unit(false, 300)].concat()), Some(Maximum));
    assert_eq!(found(&unit(true, 0)), Some(Maximum), "one empty unit");
}

#[test]
fn a_stream_that_begins_within_a_group_is_found() {
    let deltas = unit(false, 400).repeat(40);
    assert_eq!(
        found(&[deltas, unit(true, 900), unit(false, 400)].concat()),
        Some(NearlyCertain)
    );
}

#[test]
fn a_stream_that_has_lost_its_first_bytes_is_found() {
    let stream = [unit(true, 900), unit(false, 400), unit(true, 900), unit(false, 400)].concat();
    for lost in [1, 5, 100, 1000] {
        assert_eq!(found(&stream[lost..]), Some(Likely), "{lost} bytes lost");
    }
    assert_eq!(
        found(&[noise(700), unit(true, 100)].concat()),
        Some(Possible),
        "with a key unit at its end alone"
    );
}

#[test]
fn other_bytes_are_no_stream() {
    let subtitles = "1\n00:00:01,000 --> 00:00:02,000\nTVC \u{d4}\n\n".repeat(100);
    let others = [
        noise(100_000),
        vec![0xd4; 70_000],
        b"\xd4\x80TVC\x06".repeat(9000),
        subtitles.into_bytes(),
    ];
    for bytes in others {
        for length in [0, 1, 8, 35, 73, 600, bytes.len()] {
            assert_eq!(found(&bytes[..length.min(bytes.len())]), None, "{length} bytes");
        }
    }
    let delta_units = unit(false, 400).repeat(10);
    assert_eq!(found(&delta_units), None, "no key unit, nothing to decode");
}
