// SPDX-License-Identifier: MPL-2.0
//! The times inside a stream and those of its buffers.
#![cfg(feature = "codec")]

mod common;

use common::*;
use gst::ClockTime;

/// A segment from 0 on that follows so much running time.
fn segment(base: ClockTime) -> gst::Event {
    let mut segment = gst::FormattedSegment::<ClockTime>::new();
    segment.set_base(base);
    gst::event::Segment::new(&segment)
}

/// What the stream itself says: the units through the parser, without the times of their buffers. In frames.
fn stream_times(units: &[gst::Buffer]) -> Vec<f64> {
    let mut harness = gst_check::Harness::new("tvcparse");
    harness.set_src_caps(gst::Caps::new_empty_simple("video/x-tvc"));
    harness.play();
    harness.push(gst::Buffer::from_mut_slice(stream(units))).unwrap();
    harness.push_event(gst::event::Eos::new());
    times(&drain(&mut harness))
}

/// Times of buffers in frames.
fn times(buffers: &[gst::Buffer]) -> Vec<f64> {
    let frames = |buffer: &gst::Buffer| buffer.pts().unwrap().nseconds() as f64 / FRAME.nseconds() as f64;
    buffers.iter().map(frames).collect()
}

fn push_pictures(harness: &mut gst_check::Harness, times: impl IntoIterator<Item = u64>) {
    for t in times {
        harness.push(picture(&i420(), t)).unwrap();
    }
}

fn finish(mut harness: gst_check::Harness) -> Vec<gst::Buffer> {
    harness.push_event(gst::event::Eos::new());
    drain(&mut harness)
}

#[test]
fn a_recording_that_begins_late_starts_at_0_and_its_buffers_do_not() {
    let mut harness = encoder(&i420());
    push_pictures(&mut harness, 500..517);
    let units = finish(harness);
    assert_eq!(stream_times(&units), [0., 1., 9.]);
    let own = times(&units);
    assert_eq!((own[1] - own[0], own[2] - own[1]), (1., 8.));
    assert!(own[0] >= 500.);
}

#[test]
fn clips_in_a_row_lie_one_after_the_other() {
    let mut harness = encoder(&i420());
    push_pictures(&mut harness, 0..9);
    assert!(harness.push_event(segment(9 * FRAME)));
    push_pictures(&mut harness, 0..8);
    assert_eq!(stream_times(&finish(harness)), [0., 1., 9., 10.]);
}

#[test]
fn gaps_of_running_time_stay() {
    let mut harness = encoder(&i420());
    push_pictures(&mut harness, 0..9);
    assert!(harness.push_event(segment(100 * FRAME)));
    push_pictures(&mut harness, 0..8);
    assert_eq!(stream_times(&finish(harness)), [0., 1., 100., 101.]);
}

#[test]
fn a_flushing_seek_does_not_turn_the_stream_back() {
    let mut harness = encoder(&i420());
    push_pictures(&mut harness, 100..109);
    assert!(harness.push_event(gst::event::FlushStart::new()));
    assert!(harness.push_event(gst::event::FlushStop::new(true)));
    assert!(harness.push_event(segment(ClockTime::ZERO)));
    push_pictures(&mut harness, 30..39);
    let times = stream_times(&finish(harness));
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(&times[times.len() - 2..], [9., 10.], "{times:?}");
}

#[test]
fn a_second_start_is_a_recording_of_its_own() {
    init();
    let element = gst::ElementFactory::make("tvcenc").build().unwrap();
    let record = |from: u64| {
        let mut harness = gst_check::Harness::with_element(&element, Some("sink"), Some("src"));
        harness.set_src_caps(i420().to_caps().unwrap());
        harness.play();
        push_pictures(&mut harness, from..from + 9);
        finish(harness)
    };
    let (first, second) = (record(0), record(50));
    assert_eq!(stream_times(&second), [0., 1.]);
    let both = [first, second].concat();
    assert_eq!(stream_times(&both), [0., 1., 9., 10.], "the parser puts them in a row");
}
