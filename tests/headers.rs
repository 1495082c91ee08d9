// SPDX-License-Identifier: MPL-2.0
//! Headers with right check values and anything in them: no element panics, and none hangs.

mod common;

use common::*;
use gst::prelude::*;
use gsttvc::bitstream::{SequenceHeader, Timing, UnitHeader};
use proptest::prelude::*;

const LATEST: u64 = u64::MAX - 1;

fn any_time() -> impl Strategy<Value = Option<u64>> {
    let second = 1_000_000_000;
    let edges = prop_oneof![
        LATEST - 20..=LATEST,
        LATEST - 10 * second..=LATEST,
        i64::MAX as u64 - second..=i64::MAX as u64 + second
    ];
    prop::option::of(prop_oneof![0..10 * second, edges, 0..=LATEST])
}

fn any_fraction(least: u32) -> impl Strategy<Value = (u32, u32)> {
    let largest = i32::MAX as u32;
    prop_oneof![
        (least..=60, 1u32..=1001),
        (least..=largest, 1..=largest),
        Just((1_000_000_000, 1)),
        Just((1, largest))
    ]
}

prop_compose! {
    fn any_sequence(model_id: u64)(
        size in (16u32..=64, 16u32..=64),
        rate in any_fraction(0),
        pixel_aspect_ratio in any_fraction(1),
        colorimetry: [u8; 5],
        pts in any_time(),
    ) -> SequenceHeader {
        SequenceHeader { pixel_aspect_ratio, colorimetry, model_id, pts, ..SequenceHeader::new(size.0, size.1, rate) }
    }
}

prop_compose! {
    fn any_unit(model_id: u64)(
        sequence in prop::option::of(any_sequence(model_id)),
        frames in 1usize..=8,
        timing in 0u8..4,
        symbol_check: u16,
        payload in prop::collection::vec(any::<u8>(), 0..60),
    ) -> Vec<u8> {
        let frames = if sequence.is_some() { 1 } else { frames };
        let timing = Timing::from_code(timing);
        let payload_length = payload.len();
        let mut bytes = UnitHeader { sequence, frames, timing, payload_length, symbol_check, resilience: None }.pack();
        bytes.extend(payload);
        bytes
    }
}

fn any_units(model_id: u64) -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(any_unit(model_id), 1..12)
}

/// The report of a panic that an element has caught.
fn panic_of(bus: &gst::Bus) -> Option<String> {
    std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Error])).find_map(|message| panic_in(&message))
}

fn panic_in(message: &gst::Message) -> Option<String> {
    let gst::MessageView::Error(error) = message.view() else {
        return None;
    };
    let text = format!("{} {:?}", error.error(), error.debug());
    text.to_lowercase().contains("panic").then_some(text)
}

/// Each unit in a buffer through an element, with a time of upstream's or without.
fn push(mut harness: gst_check::Harness, units: &[Vec<u8>], upstream: Option<u64>) -> Option<String> {
    let bus = bus(&harness);
    for unit in units {
        let mut buffer = gst::Buffer::from_mut_slice(unit.clone());
        buffer
            .get_mut()
            .unwrap()
            .set_pts(upstream.map(gst::ClockTime::from_nseconds));
        // What comes of it may well be an error.
        let _ = harness.push(buffer);
    }
    harness.push_event(gst::event::Eos::new());
    let _ = drain(&mut harness);
    panic_of(&bus)
}

fn parser() -> gst_check::Harness {
    init();
    let mut harness = gst_check::Harness::new("tvcparse");
    harness.set_src_caps(gst::Caps::new_empty_simple("video/x-tvc"));
    harness.play();
    harness
}

/// A file through the parser, with a seek to its middle; the panic, if there is one.
fn play_file(bytes: &[u8]) -> Option<String> {
    init();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let text = format!(
        "filesrc location={} ! tvcparse ! fakesink sync=false",
        file.path().display()
    );
    let pipeline = gst::parse::launch(&text).unwrap().downcast::<gst::Pipeline>().unwrap();
    let bus = pipeline.bus().unwrap();
    let _ = pipeline.set_state(gst::State::Paused);
    let _ = pipeline.state(gst::ClockTime::from_seconds(20));
    let duration = pipeline.query_duration::<gst::ClockTime>();
    let seekable = duration.filter(|duration| i64::try_from(duration.nseconds()).is_ok());
    if let Some(duration) = seekable {
        let _ = pipeline.seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT, duration / 2);
    }
    let _ = pipeline.set_state(gst::State::Playing);
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let end = bus.timed_pop_filtered(gst::ClockTime::from_seconds(20), &ends);
    pipeline.set_state(gst::State::Null).unwrap();
    let end = end.expect("an end of one kind or the other");
    panic_in(&end).or_else(|| panic_of(&bus))
}

/// The units of a stream at 10^9 frames a second, from a time on.
fn fast_units(pts: u64) -> Vec<Vec<u8>> {
    let sequence = SequenceHeader {
        pts: Some(pts),
        ..SequenceHeader::new(16, 16, (1_000_000_000, 1))
    };
    let pack = |sequence, frames| {
        let (timing, payload_length, symbol_check) = (Timing::Grid, 0, 0);
        UnitHeader {
            sequence,
            frames,
            timing,
            payload_length,
            symbol_check,
            resilience: None,
        }
        .pack()
    };
    vec![pack(Some(sequence), 1), pack(None, 8), pack(None, 8)]
}

#[test]
fn the_latest_time_of_all_is_no_panic() {
    for pts in LATEST - 20..=LATEST {
        assert_eq!(play_file(&fast_units(pts).concat()), None);
        assert_eq!(push(parser(), &fast_units(pts), None), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_parser_takes_any_headers(units in any_units(77), upstream in any_time()) {
        prop_assert_eq!(push(parser(), &units, upstream), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_parser_plays_files_with_any_headers(units in any_units(77)) {
        prop_assert_eq!(play_file(&units.concat()), None);
    }
}

#[cfg(feature = "codec")]
mod with_networks {
    use super::*;

    /// The one that the decoder has: others it refuses at once.
    fn model_id() -> u64 {
        let unit = bytes(&encode(&i420(), 1)[0]);
        UnitHeader::parse(&unit).unwrap().0.sequence.unwrap().model_id
    }

    #[test]
    fn the_decoder_takes_any_headers() {
        let model_id = model_id();
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(24));
        let result = runner.run(&(any_units(model_id), any_time()), |(units, upstream)| {
            prop_assert_eq!(push(common::decoder(), &units, upstream), None);
            Ok(())
        });
        result.unwrap();
    }
}
