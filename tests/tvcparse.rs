// SPDX-License-Identifier: MPL-2.0
//! The parser needs no networks: its streams are made by hand.

mod common;

use common::*;
use gst::prelude::*;
use gsttvc::bitstream::{SequenceHeader, Timing, UnitHeader};
use proptest::prelude::*;

fn unit(key: bool, pts: u64, payload: &[u8]) -> Vec<u8> {
    let sequence = SequenceHeader {
        model_id: 77,
        pts: Some(pts),
        ..SequenceHeader::new(WIDTH, HEIGHT, (25, 1))
    };
    let header = UnitHeader {
        sequence: key.then_some(sequence),
        frames: if key { 1 } else { 8 },
        timing: Timing::Grid,
        payload_length: payload.len(),
        symbol_check: 0,
        resilience: None,
    };
    let mut bytes = header.pack();
    bytes.extend(payload);
    bytes
}

/// Two key units with two delta units after each; payloads that look like sync bytes.
fn units() -> Vec<Vec<u8>> {
    let second = 17 * FRAME.nseconds();
    vec![
        unit(true, 0, &[0xd4; 50]),
        unit(false, 0, &[0xd4; 30]),
        unit(false, 0, &[0x80; 9]),
        unit(true, second, &[1; 40]),
        unit(false, 0, &[]),
        unit(false, 0, &[2; 200]),
    ]
}

fn parse(chunks: impl IntoIterator<Item = Vec<u8>>) -> (Vec<gst::Buffer>, Option<gst::Caps>) {
    init();
    let mut harness = gst_check::Harness::new("tvcparse");
    harness.set_src_caps(gst::Caps::new_empty_simple("video/x-tvc"));
    harness.play();
    for chunk in chunks {
        harness.push(gst::Buffer::from_mut_slice(chunk)).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    (drain(&mut harness), harness.sinkpad().unwrap().current_caps())
}

fn contents(buffers: &[gst::Buffer]) -> Vec<Vec<u8>> {
    buffers.iter().map(bytes).collect()
}

#[test]
fn units_come_out_whole_however_the_bytes_come_in() {
    let stream: Vec<u8> = units().concat();
    for size in [1, 2, 7, 64, stream.len()] {
        let (buffers, _) = parse(stream.chunks(size).map(<[u8]>::to_vec));
        assert_eq!(contents(&buffers), units(), "in chunks of {size}");
    }
}

#[test]
fn units_are_timed_and_flagged() {
    let (buffers, _) = parse([units().concat()]);
    let times: Vec<_> = buffers.iter().map(|b| b.pts().unwrap()).collect();
    assert_eq!(times, [0, 1, 9, 17, 18, 26].map(|n| n * FRAME));
    let durations: Vec<_> = buffers.iter().map(|b| b.duration().unwrap()).collect();
    assert_eq!(durations, [1, 8, 8, 1, 8, 8].map(|n| n * FRAME));
    assert_eq!(
        buffers.iter().map(is_key).collect::<Vec<_>>(),
        [true, false, false, true, false, false]
    );
}

#[test]
fn caps_say_what_the_header_says() {
    let (_, caps) = parse([units().concat()]);
    let caps = caps.unwrap();
    assert!(caps.is_subset(&tvc_caps()), "{caps:?}");
}

#[test]
fn caps_keep_what_upstream_says_besides() {
    init();
    let mut harness = gst_check::Harness::new("tvcparse");
    let with_light = |level: &str| {
        let caps = gst::Caps::builder("video/x-tvc").field("content-light-level", level);
        caps.field("width", 999).field("colorimetry", "bt2020").build()
    };
    harness.set_src_caps(with_light("1000:400"));
    harness.play();
    let caps = |harness: &gst_check::Harness| harness.sinkpad().unwrap().current_caps().unwrap();
    let field = |caps: &gst::Caps, name: &str| caps.structure(0).unwrap().get::<String>(name).ok();
    harness.push(gst::Buffer::from_mut_slice(units().remove(0))).unwrap();
    assert!(caps(&harness).is_subset(&tvc_caps()), "the stream's own size wins");
    assert_eq!(
        field(&caps(&harness), "content-light-level").as_deref(),
        Some("1000:400")
    );
    assert_eq!(field(&caps(&harness), "colorimetry").as_deref(), Some("bt2020"));
    harness.set_src_caps(with_light("500:200"));
    harness.push(gst::Buffer::from_mut_slice(units().remove(3))).unwrap();
    assert_eq!(
        field(&caps(&harness), "content-light-level").as_deref(),
        Some("500:200")
    );
}

#[test]
fn rubbish_before_and_between_units_is_skipped() {
    let (mut stream, rubbish) = (vec![0xd4, 0x80, 3, 4], vec![0xd4u8; 500]);
    let all = units();
    stream.extend(all[0..2].concat());
    stream.extend(&rubbish);
    stream.extend(all[2..].concat());
    let (buffers, _) = parse(stream.chunks(100).map(<[u8]>::to_vec));
    let expected = [&all[0..2], &all[3..]].concat();
    assert_eq!(
        contents(&buffers),
        expected,
        "after a gap only a key unit is a place to go on"
    );
}

#[test]
fn a_truncated_last_unit_is_dropped() {
    let stream = units().concat();
    let (buffers, _) = parse([stream[..stream.len() - 1].to_vec()]);
    assert_eq!(contents(&buffers), units()[..5]);
}

#[test]
fn nothing_comes_of_nothing() {
    for bytes in [vec![], vec![0xd4], vec![0; 10_000], b"hello".to_vec()] {
        let (buffers, _) = parse([bytes]);
        assert!(buffers.is_empty());
    }
}

#[test]
fn times_of_a_container_are_kept() {
    init();
    let mut harness = gst_check::Harness::new("tvcparse");
    harness.set_src_caps(gst::Caps::new_empty_simple("video/x-gst-fourcc-tvc1"));
    harness.play();
    let start = gst::ClockTime::from_seconds(5);
    for (i, unit) in units().into_iter().take(3).enumerate() {
        let mut buffer = gst::Buffer::from_mut_slice(unit);
        buffer.get_mut().unwrap().set_pts(start + i as u64 * FRAME);
        harness.push(buffer).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    let times: Vec<_> = drain(&mut harness).iter().map(|b| b.pts().unwrap()).collect();
    assert_eq!(times, [0, 1, 2].map(|i| start + i * FRAME));
}

#[test]
fn buffers_that_upstream_holds_on_to_are_timed_all_the_same() {
    init();
    let mut harness = gst_check::Harness::new("tvcparse");
    harness.set_src_caps(gst::Caps::new_empty_simple("video/x-tvc"));
    harness.play();
    let held: Vec<_> = units().into_iter().map(gst::Buffer::from_mut_slice).collect();
    held.iter()
        .for_each(|buffer| assert!(harness.push(buffer.clone()).is_ok()));
    harness.push_event(gst::event::Eos::new());
    let times: Vec<_> = drain(&mut harness).iter().map(|b| b.pts().unwrap()).collect();
    assert_eq!(times, [0, 1, 9, 17, 18, 26].map(|n| n * FRAME));
    assert!(held.iter().all(|buffer| buffer.pts().is_none()), "they are upstream's");
}

/// Times of buffers, in frames.
fn frames(buffers: &[gst::Buffer]) -> Vec<u64> {
    let frame = |buffer: &gst::Buffer| buffer.pts().unwrap() / FRAME.nseconds();
    buffers.iter().map(|buffer| frame(buffer).nseconds()).collect()
}

#[test]
fn slices_of_an_access_unit_come_out_as_one_buffer() {
    let units = common::units::resilient_stream(3, 4, 30);
    let stream = units.concat();
    for size in [1, 2, 7, 64, 300, stream.len()] {
        let (buffers, _) = parse(stream.chunks(size).map(<[u8]>::to_vec));
        assert_eq!(contents(&buffers), units, "in chunks of {size}");
        assert_eq!(frames(&buffers), [0, 1, 9, 17, 18, 26, 34, 35, 43]);
        let keys: Vec<_> = buffers.iter().map(is_key).collect();
        assert_eq!(keys, [true, false, false].repeat(3));
    }
}

#[test]
fn access_units_are_not_waited_for_beyond_their_buffer() {
    init();
    for caps in ["video/x-tvc,alignment=frame", "video/x-gst-fourcc-tvc1"] {
        let mut harness = gst_check::Harness::new("tvcparse");
        harness.set_src_caps(caps.parse().unwrap());
        harness.play();
        for unit in 0..5 {
            let slice = common::units::slice(0, unit, (0, 2), 30);
            harness.push(gst::Buffer::from_mut_slice(slice.clone())).unwrap();
            let out = harness.try_pull().expect("the unit, of which the last slice is lost");
            assert_eq!(bytes(&out), slice);
        }
    }
}

#[test]
fn lost_units_leave_their_time() {
    let all = common::units::resilient_stream(3, 2, 30);
    let units = [0, 2, 3, 5, 7, 8].map(|at: usize| all[at].clone());
    let (buffers, _) = parse(units.clone());
    assert_eq!(
        contents(&buffers),
        units[..4],
        "a group without its key unit is skipped"
    );
    assert_eq!(frames(&buffers), [0, 9, 17, 26]);
}

#[test]
fn a_discontinuity_between_whole_units_is_no_end_of_the_group() {
    init();
    let resilient = [0, 1, 3, 7].map(|unit| common::units::access_unit(0, unit, 2, 30));
    let plain = [Some(0), None, None, None].map(|key| common::units::unit(key, 30));
    for (units, expected) in [(resilient, [0, 1, 17, 49]), (plain, [0, 1, 9, 17])] {
        let mut harness = gst_check::Harness::new("tvcparse");
        harness.set_src_caps("video/x-tvc,alignment=frame".parse().unwrap());
        harness.play();
        for unit in units {
            let mut buffer = gst::Buffer::from_mut_slice(unit);
            buffer.get_mut().unwrap().set_flags(gst::BufferFlags::DISCONT);
            harness.push(buffer).unwrap();
        }
        assert_eq!(frames(&drain(&mut harness)), expected);
    }
}

/// A file through the parser, after a seek from its beginning.
fn play_file(units: &[Vec<u8>], seek: gst::Event) -> Vec<gst::Buffer> {
    init();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), units.concat()).unwrap();
    let path = file.path().display();
    let pipeline = gst::parse::launch(&format!(
        "filesrc location={path} ! tvcparse ! appsink name=sink sync=false"
    ));
    let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline
        .by_name("sink")
        .unwrap()
        .downcast::<gst_app::AppSink>()
        .unwrap();
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(gst::ClockTime::from_seconds(20)).0.unwrap();
    let duration = pipeline.query_duration::<gst::ClockTime>();
    assert_eq!(
        duration,
        Some(17 * (units.len() as u64 / 3) * FRAME),
        "access units are counted, not slices"
    );
    assert!(pipeline.send_event(seek));
    pipeline.set_state(gst::State::Playing).unwrap();
    let buffers = std::iter::from_fn(|| sink.pull_sample().ok().and_then(|sample| sample.buffer_owned()));
    let buffers = buffers.collect();
    pipeline.set_state(gst::State::Null).unwrap();
    buffers
}

#[test]
fn seeks_and_playing_backwards_find_whole_access_units() {
    let units = common::units::resilient_stream(5, 4, 30);
    let flush = gst::SeekFlags::FLUSH;
    let seek = |rate, flags, start: u64, stop: Option<u64>| {
        let stop_type = if stop.is_some() {
            gst::SeekType::Set
        } else {
            gst::SeekType::None
        };
        let stop = stop.map(|frame| frame * FRAME);
        gst::event::Seek::new(rate, flags, gst::SeekType::Set, start * FRAME, stop_type, stop)
    };
    let forwards = play_file(&units, seek(1.0, flush | gst::SeekFlags::KEY_UNIT, 40, None));
    assert_eq!(contents(&forwards), units[6..], "the key unit of frame 34");
    let trick = flush | gst::SeekFlags::TRICKMODE | gst::SeekFlags::TRICKMODE_KEY_UNITS;
    let backwards = play_file(&units, seek(-1.0, trick, 0, Some(85)));
    let keys: Vec<_> = units.iter().step_by(3).rev().cloned().collect();
    assert_eq!(contents(&backwards), keys);
}

/// Which slices of a stream of three groups of three units of four slices are there; some of each unit and of each key unit.
fn any_present() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::sample::subsequence(vec![0u8, 1, 2, 3], 1..=4), 9)
}

fn files(present: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let unit = |(n, indices): (usize, &Vec<u8>)| {
        let slice = |&index: &u8| common::units::slice(n as u64 / 3, (n % 3) as u8, (index, 4), 20 + n);
        indices.iter().flat_map(slice).collect()
    };
    present.iter().enumerate().map(unit).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn absent_slices_change_nothing_else(present in any_present(), size in 1usize..400) {
        let units = files(&present);
        let (buffers, _) = parse(units.concat().chunks(size).map(<[u8]>::to_vec));
        prop_assert_eq!(contents(&buffers), units);
        prop_assert_eq!(frames(&buffers), vec![0, 1, 9, 17, 18, 26, 34, 35, 43]);
    }
}
