// SPDX-License-Identifier: MPL-2.0
//! Streams of which units or slices are lost, through the elements.
#![cfg(feature = "codec")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use gst::prelude::*;
use gsttvc::bitstream::slices;

mod common;
use common::{bytes, decoder, drain, init, is_key, launch, play_to_end, push_all};

const SOURCE: &str =
    "videotestsrc num-buffers=97 pattern=ball ! video/x-raw,format=I420,width=64,height=48,framerate=25/1";

/// Codes 97 frames and gives the access units.
fn encode(properties: &str) -> Vec<gst::Buffer> {
    let (pipeline, sink) = launch(&format!(
        "{SOURCE} ! tvcenc {properties} ! appsink name=sink sync=false"
    ));
    play_to_end(&pipeline, &sink)
}

/// What a decoder makes of access units.
struct Decoded {
    /// Frame numbers by their times.
    frames: Vec<u64>,
    stats: gst::Structure,
    key_requests: usize,
}

/// Its place in the source, by its time.
fn number(frame: gst::Buffer) -> u64 {
    frame.pts().unwrap().mseconds() / 40
}

fn concealed(harness: &gst_check::Harness) -> u64 {
    let stats = harness.element().unwrap().property::<gst::Structure>("stats");
    stats.get("concealed").unwrap()
}

fn decode(units: &[gst::Buffer]) -> Decoded {
    decode_in(units, gst::SegmentFlags::empty())
}

/// The same in a segment with flags.
fn decode_in(units: &[gst::Buffer], flags: gst::SegmentFlags) -> Decoded {
    let mut harness = decoder();
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_flags(flags);
    harness.push_event(gst::event::Segment::new(&segment));
    push_all(&mut harness, units);
    harness.push_event(gst::event::Eos::new());
    let frames = drain(&mut harness).into_iter().map(number).collect();
    let stats = harness.element().unwrap().property("stats");
    let events = std::iter::from_fn(|| harness.try_pull_upstream_event());
    let key_requests = events
        .filter(|event| gst_video::UpstreamForceKeyUnitEvent::parse(event).is_ok())
        .count();
    Decoded {
        frames,
        stats,
        key_requests,
    }
}

#[test]
fn pictures_of_lost_units_are_shown_at_their_times() {
    init();
    let mut units = encode("error-resilience=units key-int-max=49");
    // 49 frames from a key unit on, then the next one; what is lost includes the last unit before that.
    for lost in [11, 6, 3, 2] {
        units.remove(lost);
    }
    let decoded = decode(&units);
    assert_eq!(decoded.frames, (0..97).collect::<Vec<_>>());
    assert_eq!(decoded.stats.get::<u64>("concealed").unwrap(), 32);
    assert_eq!(decoded.stats.get::<u64>("lost").unwrap(), 0);
    assert_eq!(decoded.key_requests, 0, "the stream goes on without them");
}

#[test]
fn pictures_of_units_with_lost_slices_are_shown() {
    init();
    let mut units = encode("error-resilience=slices slice-size=150");
    for (at, unit) in units.iter_mut().enumerate().skip(1) {
        let bytes = bytes(unit);
        let ranges = slices(&bytes).unwrap();
        let (_, kept) = ranges[at % ranges.len()].clone();
        let mut copy = gst::Buffer::from_slice(bytes[kept].to_vec());
        let writable = copy.get_mut().unwrap();
        writable.set_pts(unit.pts());
        writable.set_flags(unit.flags());
        *unit = copy;
    }
    let decoded = decode(&units);
    assert_eq!(decoded.frames, (0..97).collect::<Vec<_>>());
    assert_eq!(decoded.stats.get::<u64>("concealed").unwrap(), 96);
}

#[test]
fn nothing_stands_in_for_units_that_are_left_out() {
    init();
    let units = encode("error-resilience=units key-int-max=49");
    let keys: Vec<gst::Buffer> = units.into_iter().filter(is_key).collect();
    let decoded = decode_in(&keys, gst::SegmentFlags::TRICKMODE_KEY_UNITS);
    assert_eq!(decoded.frames, [0, 49]);
}

#[test]
fn a_lost_key_unit_is_asked_for_once_and_pictures_go_on() {
    init();
    let mut units = encode("error-resilience=units key-int-max=33");
    units.remove(5);
    let decoded = decode(&units);
    // Nothing tells the times of those after it: they follow each other, and before the next key unit the missing one is made up for.
    assert_eq!(decoded.frames.len(), 97);
    assert_eq!(decoded.key_requests, 1);
}

#[test]
fn what_the_decoder_acknowledges_makes_later_units_smaller() {
    init();
    let size = |acknowledge: bool| {
        let (pipeline, sink) = launch(&format!(
            "{SOURCE} ! tvcenc error-resilience=units quantizer=20 ! identity name=count ! tvcdec acknowledge={acknowledge} \
             ! appsink name=sink sync=false"
        ));
        let size = Arc::new(AtomicUsize::new(0));
        let (count, counted) = (pipeline.by_name("count").unwrap(), size.clone());
        count
            .static_pad("src")
            .unwrap()
            .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                let bytes = info.buffer().map_or(0, |buffer| buffer.size());
                counted.fetch_add(bytes, Ordering::Relaxed);
                gst::PadProbeReturn::Ok
            });
        assert_eq!(play_to_end(&pipeline, &sink).len(), 97);
        size.load(Ordering::Relaxed)
    };
    let (without, with) = (size(false), size(true));
    assert!(with < without, "{with} bytes, {without} without");
}

#[test]
fn pictures_of_lost_packets_are_shown() {
    init();
    let (pipeline, sink) = launch(&format!(
        "{SOURCE} ! tvcenc error-resilience=slices ! rtptvcpay name=pay ! rtptvcdepay ! tvcdec name=decoder \
         ! appsink name=sink sync=false"
    ));
    let (packets, packet_pad) = (std::sync::atomic::AtomicUsize::new(0), pipeline.by_name("pay").unwrap());
    packet_pad.static_pad("src").unwrap().add_probe(
        gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST,
        move |_, info| {
            if let Some(gst::PadProbeData::BufferList(list)) = &mut info.data {
                // Of the key unit both packets come; then every third is lost.
                list.make_mut().foreach_mut(|packet, _| {
                    let number = packets.fetch_add(1, Ordering::Relaxed);
                    std::ops::ControlFlow::Continue((number < 2 || number % 3 != 0).then_some(packet))
                });
            } else if info.buffer().is_some() {
                let number = packets.fetch_add(1, Ordering::Relaxed);
                if number >= 2 && number.is_multiple_of(3) {
                    return gst::PadProbeReturn::Drop;
                }
            }
            gst::PadProbeReturn::Ok
        },
    );
    let decoder = pipeline.by_name("decoder").unwrap();
    let number = |frame: &gst::Buffer| (frame.pts().unwrap().mseconds() + 20) / 40;
    let times: Vec<u64> = play_to_end(&pipeline, &sink).iter().map(number).collect();
    let stats = decoder.property::<gst::Structure>("stats");
    assert_eq!(times.len(), 97);
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    assert!(stats.get::<u64>("concealed").unwrap() >= 32);
}

/// Says that data is missing, as a depayloader does: from the time of a unit on, for so many milliseconds.
fn push_gap(harness: &mut gst_check::Harness, unit: &gst::Buffer, ms: u64) {
    let gap = gst::event::Gap::builder(unit.pts().unwrap())
        .duration(gst::ClockTime::from_mseconds(ms))
        .gap_flags(gst::GapFlags::DATA)
        .build();
    assert!(harness.push_event(gap));
}

#[test]
fn pictures_of_a_lost_unit_do_not_wait_for_the_next_one() {
    init();
    let units = encode("error-resilience=units");
    let mut harness = decoder();
    push_all(&mut harness, &units[..3]);
    // A key unit and two others; then two are missing, as far as one can tell before those after them come.
    push_gap(&mut harness, &units[3], 310);
    push_gap(&mut harness, &units[4], 310);
    let before: Vec<u64> = (0..33).map(|_| number(harness.pull().unwrap())).collect();
    assert_eq!(before, (0..33).collect::<Vec<_>>());
    push_all(&mut harness, &units[5..]);
    harness.push_event(gst::event::Eos::new());
    let after: Vec<u64> = drain(&mut harness).into_iter().map(number).collect();
    assert_eq!(after, (33..97).collect::<Vec<_>>());
    assert_eq!(concealed(&harness), 16);
}

#[test]
fn a_gap_conceals_one_unit_and_none_where_it_leaves_time_for_the_next() {
    init();
    let units = encode("error-resilience=units");
    let mut harness = decoder();
    push_all(&mut harness, &units[..2]);
    push_gap(&mut harness, &units[2], 160);
    push_all(&mut harness, &units[2..3]);
    // Whatever a gap says of its end, units after the one that is lost may still come.
    push_gap(&mut harness, &units[3], 1_000_000);
    push_all(&mut harness, &units[4..]);
    harness.push_event(gst::event::Eos::new());
    let frames: Vec<u64> = drain(&mut harness).into_iter().map(number).collect();
    assert_eq!(frames, (0..97).collect::<Vec<_>>());
    assert_eq!(concealed(&harness), 8);
}

#[test]
fn a_placeholder_that_does_not_come_through_costs_nothing_else() {
    init();
    let units = encode("error-resilience=units");
    let mut harness = decoder();
    push_all(&mut harness, &units[..3]);
    let sink = harness.element().unwrap().static_pad("sink").unwrap();
    let dropping = sink.add_probe(gst::PadProbeType::BUFFER, |_, info| {
        info.data = None;
        gst::PadProbeReturn::Handled
    });
    push_gap(&mut harness, &units[3], 310);
    sink.remove_probe(dropping.unwrap());
    push_all(&mut harness, &units[3..]);
    harness.push_event(gst::event::Eos::new());
    assert_eq!(drain(&mut harness).len(), 97);
    assert_eq!(concealed(&harness), 0);
}

#[test]
fn a_jitter_buffer_that_tells_of_a_lost_packet_has_its_unit_concealed_before_the_next_one_comes() {
    init();
    let (pipeline, sink) = launch(
        "videotestsrc is-live=true num-buffers=57 pattern=ball ! video/x-raw,width=64,height=48,framerate=25/1 \
         ! tvcenc error-resilience=units ! rtptvcpay name=pay ! rtpjitterbuffer latency=600 do-lost=true ! rtptvcdepay \
         ! tvcdec name=decoder qos=false ! appsink name=sink sync=false",
    );
    let packets = AtomicUsize::new(0);
    let pad = pipeline.by_name("pay").unwrap().static_pad("src").unwrap();
    pad.add_probe(
        gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST,
        move |_, _| match packets.fetch_add(1, Ordering::SeqCst) {
            4 => gst::PadProbeReturn::Drop,
            _ => gst::PadProbeReturn::Ok,
        },
    );
    let lengths = Arc::new(Mutex::new(vec![]));
    let (seen, decoder) = (lengths.clone(), pipeline.by_name("decoder").unwrap());
    let pad = decoder.static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        seen.lock().unwrap().push(info.buffer().unwrap().size());
        gst::PadProbeReturn::Ok
    });
    let frames = play_to_end(&pipeline, &sink);
    assert_eq!(frames.len(), 57);
    let lengths = lengths.lock().unwrap();
    let placeholders: Vec<usize> = (0..lengths.len()).filter(|&at| lengths[at] == 1).collect();
    assert_eq!(placeholders, [4], "in the place of the fifth of {lengths:?}");
    let stats = decoder.property::<gst::Structure>("stats");
    assert_eq!(stats.get::<u64>("concealed").unwrap(), 8);
}
