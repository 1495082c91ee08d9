// SPDX-License-Identifier: MPL-2.0
//! The decoder's threads: painting apart from showing, what is left out, what is told of the time it takes.
#![cfg(feature = "codec")]

mod common;

use std::sync::mpsc;

use common::*;
use gst::prelude::*;

fn stat(element: &gst::Element, name: &str) -> u64 {
    element.property::<gst::Structure>("stats").get(name).unwrap()
}

fn pts(picture: &gst::Buffer) -> u64 {
    picture.pts().unwrap() / FRAME
}

/// A decoder whose first picture is held at its source pad until the probe is removed.
fn blocked_decoder() -> (gst_check::Harness, gst::Pad, gst::PadProbeId) {
    let harness = decoder();
    let pad = harness.element().unwrap().static_pad("src").unwrap();
    let (sender, _receiver) = mpsc::channel();
    let probe = pad.add_probe(gst::PadProbeType::BLOCK | gst::PadProbeType::BUFFER, move |_, _| {
        let _ = sender.send(());
        gst::PadProbeReturn::Ok
    });
    (harness, pad, probe.unwrap())
}

#[test]
fn a_blocked_sink_does_not_stop_the_painter() {
    let units = encode(&i420(), 49);
    let (mut harness, pad, probe) = blocked_decoder();
    // One is pushed, one is painted, one more is under way, two wait: there is room for the fifth only if the third has been begun.
    push_all(&mut harness, &units[..5]);
    assert_eq!(harness.buffers_received(), 0, "the first picture is held");
    let painted = stat(&harness.element().unwrap(), "painted");
    assert!(painted >= 9, "{painted} pictures are painted");
    pad.remove_probe(probe);
    push_all(&mut harness, &units[5..]);
    harness.push_event(gst::event::Eos::new());
    let pictures = drain(&mut harness);
    assert_eq!(
        pictures.iter().map(pts).collect::<Vec<_>>(),
        (0..49).collect::<Vec<_>>()
    );
    let element = harness.element().unwrap();
    assert_eq!(
        ["painted", "skipped", "late"].map(|name| stat(&element, name)),
        [49, 0, 0]
    );
}

#[test]
fn a_blocked_decoder_can_be_stopped_and_flushed() {
    let units = encode(&i420(), 41);
    let (mut harness, _, _) = blocked_decoder();
    push_all(&mut harness, &units[..5]);
    harness.element().unwrap().set_state(gst::State::Null).unwrap();

    let (mut harness, pad, probe) = blocked_decoder();
    push_all(&mut harness, &units[..5]);
    harness.push_event(gst::event::FlushStart::new());
    harness.push_event(gst::event::FlushStop::new(true));
    harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    pad.remove_probe(probe);
    drain(&mut harness);
    push_all(&mut harness, &units[..2]);
    harness.push_event(gst::event::Eos::new());
    assert_eq!(
        drain(&mut harness).iter().map(pts).collect::<Vec<_>>(),
        (0..9).collect::<Vec<_>>()
    );
}

/// What a sink says of a picture: so many ms after its time.
fn qos(frame: u64, late: i64) -> gst::Event {
    gst::event::Qos::new(gst::QOSType::Underflow, 1.5, late * 1_000_000, frame * FRAME)
}

#[test]
fn pictures_that_would_be_too_late_are_not_painted() {
    let units = encode(&i420(), 81);
    let mut harness = decoder();
    let element = harness.element().unwrap();
    let bus = bus(&harness);
    // The painter learns what a unit takes.
    push_all(&mut harness, &units[..4]);
    (0..25).for_each(|t| assert_eq!(pts(&harness.pull().unwrap()), t));
    assert!(harness.push_upstream_event(qos(24, 100_000)));
    push_all(&mut harness, &units[4..9]);
    harness.push_event(gst::event::CustomDownstream::new(gst::Structure::new_empty("mark")));
    // In time again, from here on.
    harness.push_event(gst::event::Gap::new(64 * FRAME, None));
    let (painted, skipped) = (stat(&element, "painted"), stat(&element, "skipped"));
    assert_eq!(painted + skipped, 65);
    assert!(skipped >= 8, "{skipped} skipped");
    assert!(harness.push_upstream_event(qos(0, 0)));
    push_all(&mut harness, &units[9..]);
    harness.push_event(gst::event::Eos::new());
    let shown: Vec<u64> = drain(&mut harness).iter().map(pts).collect();
    assert_eq!(
        shown[shown.len() - 16..],
        (65..81).collect::<Vec<_>>(),
        "what is in time is shown"
    );
    assert!(shown.is_sorted());
    assert_eq!(stat(&element, "skipped"), skipped);
    let left_out = 81 - 25 - shown.len() as u64;
    // The one event told of a late picture as well.
    assert_eq!(left_out, skipped + stat(&element, "late") - 1);
    let messages: Vec<_> = std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Qos])).collect();
    assert_eq!(
        messages.len() as u64,
        left_out,
        "a message for each picture that is left out"
    );
    let last = messages.last().unwrap().structure().unwrap();
    assert_eq!(last.get::<u64>("skipped").unwrap(), skipped);
    assert!(last.get::<i64>("jitter").unwrap() > 0);
}

#[test]
fn nothing_is_left_out_without_quality_of_service() {
    let units = encode(&i420(), 41);
    let mut harness = decoder();
    harness.element().unwrap().set_property("qos", false);
    push_all(&mut harness, &units[..4]);
    (0..25).for_each(|_| assert!(harness.pull().is_ok()));
    assert!(harness.push_upstream_event(qos(24, 100_000)));
    push_all(&mut harness, &units[4..]);
    harness.push_event(gst::event::Eos::new());
    assert_eq!(drain(&mut harness).len(), 16);
}

fn latency(harness: &gst_check::Harness) -> gst::ClockTime {
    let mut query = gst::query::Latency::new();
    assert!(harness.element().unwrap().static_pad("src").unwrap().query(&mut query));
    query.result().1
}

#[test]
fn latency_is_the_time_to_paint_a_unit() {
    let assumed = |width: i32, height: i32| {
        init();
        let mut harness = gst_check::Harness::new("tvcdec");
        let mut caps = tvc_caps();
        let fields = caps.make_mut();
        fields.set("width", width);
        fields.set("height", height);
        harness.set_src_caps(caps);
        harness.play();
        latency(&harness)
    };
    // By the size until it is measured.
    let [small, middle, large] = [(320, 180), (640, 360), (960, 540)].map(|(width, height)| assumed(width, height));
    assert!(small > gst::ClockTime::from_mseconds(10), "{small}");
    // As 1 to 4 to 9, beyond what each unit takes for itself.
    assert_eq!((large - small).mseconds() / 8, (middle - small).mseconds() / 3);

    let mut harness = gst_check::Harness::new("tvcdec");
    let bus = bus(&harness);
    harness.set_src_caps(tvc_caps());
    harness.play();
    assert!(bus.pop_filtered(&[gst::MessageType::Latency]).is_some(), "it is told");
    for unit in encode(&i420(), 49) {
        harness.push(unit).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    let element = harness.element().unwrap();
    assert!(stat(&element, "unit-time") > 0);
    assert!(latency(&harness).nseconds() >= stat(&element, "unit-time"));
}

#[test]
fn a_pipeline_with_too_little_latency_is_warned_once() {
    let mut harness = decoder();
    harness.set_upstream_latency(gst::ClockTime::from_seconds(1));
    let bus = bus(&harness);
    assert!(harness.push_upstream_event(gst::event::Latency::new(gst::ClockTime::from_mseconds(20))));
    for unit in encode(&i420(), 161) {
        harness.push(unit).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    let warnings = std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Warning])).count();
    assert_eq!(warnings, 1);
}

#[test]
fn durations_come_from_time_stamps_where_caps_have_no_rate() {
    init();
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, WIDTH, HEIGHT);
    let info = info.fps(gst::Fraction::new(0, 1)).build().unwrap();
    let mut harness = gst_check::Harness::new_parse("tvcenc ! tvcdec");
    harness.set_src_caps(info.to_caps().unwrap());
    harness.play();
    for t in 0..17 {
        let pts = t * 200 * gst::ClockTime::MSECOND;
        harness.push(picture_at(&info, t, pts)).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    let pictures = drain(&mut harness);
    let expected = Some(200 * gst::ClockTime::MSECOND);
    assert_eq!(pictures.len(), 17);
    assert!(pictures[1..].iter().all(|picture| picture.duration() == expected));
}

#[test]
fn several_units_in_a_buffer_come_out_like_one_in_each() {
    let units = encode(&i420(), 33);
    let whole = stream(&units);
    for size in [whole.len(), 100, 7] {
        let mut harness = decoder();
        for part in whole.chunks(size) {
            harness.push(gst::Buffer::from_mut_slice(part.to_vec())).unwrap();
        }
        harness.push_event(gst::event::Eos::new());
        let pictures: Vec<_> = drain(&mut harness).iter().map(pts).collect();
        assert_eq!(pictures, (0..33).collect::<Vec<_>>(), "{size} bytes at a time");
    }
}

#[test]
fn gaps_and_new_segments_stay_between_their_pictures() {
    let units = encode(&i420(), 17);
    let mut harness = decoder();
    push_all(&mut harness, &units);
    harness.push_event(gst::event::Gap::new(17 * FRAME, FRAME));
    assert_eq!(drain(&mut harness).len(), 17, "before the gap");
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_start(4 * FRAME);
    harness.push_event(gst::event::Segment::new(&segment));
    push_all(&mut harness, &units);
    harness.push_event(gst::event::Eos::new());
    let pictures: Vec<_> = drain(&mut harness).iter().map(pts).collect();
    assert_eq!(pictures, (4..17).collect::<Vec<_>>(), "of the second segment");
}

#[test]
fn what_is_far_before_a_seeks_target_is_not_painted() {
    let units = encode(&i420(), 121);
    let mut harness = decoder();
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_start(100 * FRAME);
    harness.push_event(gst::event::Segment::new(&segment));
    push_all(&mut harness, &units);
    harness.push_event(gst::event::Eos::new());
    let target = drain(&mut harness);
    assert_eq!(
        target.iter().map(pts).collect::<Vec<_>>(),
        (100..121).collect::<Vec<_>>()
    );
    let element = harness.element().unwrap();
    let painted = stat(&element, "painted");
    assert!(painted <= 1 + 7 * 8, "{painted} of 121");
    assert_eq!(stat(&element, "skipped"), 0, "nobody misses them");
    // The finer levels have seen enough by then.
    let all = {
        let mut harness = decoder();
        push_all(&mut harness, &units);
        harness.push_event(gst::event::Eos::new());
        drain(&mut harness)
    };
    for (shown, expected) in target.iter().zip(&all[100..]) {
        let (a, b) = (bytes(shown), bytes(expected));
        let off = a.iter().zip(&b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>() as f64 / a.len() as f64;
        assert!(off < 0.5, "{off} at frame {}", pts(shown));
    }
}
