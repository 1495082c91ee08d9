// SPDX-License-Identifier: MPL-2.0
//! tvcdec where downstream changes its mind, and where not all is to be shown.
#![cfg(feature = "codec")]

mod common;

use std::sync::{Arc, Mutex};

use common::*;
use gst::prelude::*;

/// Frames of a clip with a key unit in every 17.
const FRAMES: u64 = 60;

fn units() -> Vec<gst::Buffer> {
    encode_with_keys(FRAMES)
}

/// A picture as a sink sees it: its number, its size in bytes and the format that the caps say.
type Seen = (u64, usize, String);

fn size_of(format: &str) -> usize {
    let format = format.parse().unwrap();
    info(format, WIDTH, HEIGHT).size()
}

/// Plays a file through `tvcdec ! capsfilter`, and lets `probe` see each query and each picture behind tvcdec, with its number of pictures
/// so far. `seek`: before it plays. What the sink sees.
fn play(
    file: &str,
    seek: impl FnOnce(&gst::Pipeline),
    probe: impl Fn(&gst::Element, &gst::PadProbeInfo, usize) + Send + Sync + 'static,
) -> Vec<Seen> {
    let description = format!(
        "filesrc location={file} ! tvcparse ! tvcdec name=decoder ! capsfilter name=filter caps=video/x-raw,format=I420 \
         ! fakesink name=sink"
    );
    let pipeline = gst::parse::launch(&description).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    let (filter, sink) = (pipeline.by_name("filter").unwrap(), pipeline.by_name("sink").unwrap());
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(gst::ClockTime::from_seconds(60)).0.unwrap();
    let seen = Arc::new(Mutex::new(Vec::<Seen>::new()));
    let at_sink = seen.clone();
    let pad = sink.static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let (buffer, caps) = (info.buffer().unwrap(), pad.current_caps().unwrap());
        let format = caps.structure(0).unwrap().get::<String>("format").unwrap();
        let number = buffer.pts().unwrap() / FRAME;
        at_sink.lock().unwrap().push((number, buffer.size(), format));
        gst::PadProbeReturn::Ok
    });
    let behind = seen.clone();
    let pad = pipeline.by_name("decoder").unwrap().static_pad("src").unwrap();
    let watched = gst::PadProbeType::BUFFER | gst::PadProbeType::QUERY_DOWNSTREAM | gst::PadProbeType::PUSH;
    pad.add_probe(watched, move |_, info| {
        let count = behind.lock().unwrap().len();
        probe(&filter, info, count);
        gst::PadProbeReturn::Ok
    });
    seek(&pipeline);
    pipeline.set_state(gst::State::Playing).unwrap();
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let bus = pipeline.bus().unwrap();
    let end = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &ends);
    assert!(
        matches!(end.as_ref().unwrap().view(), gst::MessageView::Eos(_)),
        "{end:?}"
    );
    pipeline.set_state(gst::State::Null).unwrap();
    let seen = seen.lock().unwrap();
    seen.clone()
}

fn clip(folder: &tempfile::TempDir) -> String {
    let path = folder.path().join("clip.tvc");
    std::fs::write(&path, stream(&units())).unwrap();
    path.display().to_string()
}

fn ask_for(filter: &gst::Element, format: &str) {
    let caps = gst::Caps::builder("video/x-raw").field("format", format).build();
    filter.set_property("caps", caps);
}

/// A flushing seek over the whole clip; the pipeline is paused, and stays it.
fn seek(pipeline: &gst::Pipeline, rate: f64, flags: gst::SeekFlags) {
    let (flags, set) = (flags | gst::SeekFlags::FLUSH, gst::SeekType::Set);
    let (start, stop) = (gst::ClockTime::ZERO, FRAMES * FRAME);
    pipeline.seek(rate, flags, set, start, set, stop).unwrap();
    pipeline.state(gst::ClockTime::from_seconds(60)).0.unwrap();
}

fn check_sizes(seen: &[Seen]) {
    for (number, size, format) in seen {
        assert_eq!(
            *size,
            size_of(format),
            "picture {number} is not {format}, as its caps say"
        );
    }
}

fn formats(seen: &[Seen]) -> Vec<&str> {
    let mut formats: Vec<&str> = seen.iter().map(|(_, _, format)| &**format).collect();
    formats.dedup();
    formats
}

#[test]
fn another_format_is_given_from_the_next_picture_on() {
    init();
    let folder = tempfile::tempdir().unwrap();
    let file = clip(&folder);
    let accurate = gst::SeekFlags::ACCURATE;
    let seen = play(
        &file,
        |pipeline| seek(pipeline, 1.0, accurate),
        |filter, info, count| {
            let asked = [(5, "RGB"), (20, "NV12"), (40, "I420")];
            let format = asked.iter().find(|(at, _)| *at == count && info.buffer().is_some());
            if let Some((_, format)) = format {
                ask_for(filter, format);
            }
        },
    );
    check_sizes(&seen);
    assert_eq!(
        seen.iter().map(|seen| seen.0).collect::<Vec<_>>(),
        (0..FRAMES).collect::<Vec<_>>()
    );
    assert_eq!(formats(&seen), ["I420", "RGB", "NV12", "I420"]);
    // The one that was under way when it was asked for is as it was.
    assert_eq!(changes(&seen), [6, 21, 41]);
}

/// Asks for R'G'B' when 12 pictures have been seen, and for NV12 while the memory for the first picture of that is agreed upon.
fn ask_twice() -> impl Fn(&gst::Element, &gst::PadProbeInfo, usize) + Send + Sync + 'static {
    let asked = Mutex::new(0);
    move |filter, info, count| {
        let is_allocation = info
            .query()
            .is_some_and(|query| query.type_() == gst::QueryType::Allocation);
        let mut asked = asked.lock().unwrap();
        if *asked == 0 && count == 12 && info.buffer().is_some() {
            *asked = 1;
            ask_for(filter, "RGB");
        } else if *asked == 1 && is_allocation {
            *asked = 2;
            ask_for(filter, "NV12");
        }
    }
}

/// Numbers of the pictures with which another format starts.
fn changes(seen: &[Seen]) -> Vec<u64> {
    let pairs = seen.windows(2).filter(|pair| pair[0].2 != pair[1].2);
    pairs.map(|pair| pair[1].0).collect()
}

#[test]
fn a_format_asked_for_while_a_picture_is_written_is_not_that_pictures() {
    init();
    let folder = tempfile::tempdir().unwrap();
    let file = clip(&folder);
    let seen = play(
        &file,
        |pipeline| seek(pipeline, 1.0, gst::SeekFlags::ACCURATE),
        ask_twice(),
    );
    check_sizes(&seen);
    assert_eq!(formats(&seen), ["I420", "RGB", "NV12"]);
    assert_eq!(changes(&seen), [13, 14]);
    assert_eq!(seen.len() as u64, FRAMES);
}

#[test]
fn backwards_other_formats_start_with_groups() {
    init();
    let folder = tempfile::tempdir().unwrap();
    let file = clip(&folder);
    let seen = play(
        &file,
        |pipeline| seek(pipeline, -1.0, gst::SeekFlags::ACCURATE),
        ask_twice(),
    );
    check_sizes(&seen);
    assert_eq!(formats(&seen), ["I420", "RGB", "NV12"]);
    // Key units are at 0, 17, 34 and 51: pictures of a group come from the last one on.
    assert_eq!(changes(&seen), [33, 16]);
    assert!(seen.iter().map(|seen| seen.0).eq((0..FRAMES).rev()));
}

#[test]
fn fast_playback_shows_key_units_only_in_either_direction() {
    init();
    let folder = tempfile::tempdir().unwrap();
    let file = clip(&folder);
    for (rate, expected) in [(4.0, [0, 17, 34, 51]), (-4.0, [51, 34, 17, 0])] {
        let flags = gst::SeekFlags::TRICKMODE | gst::SeekFlags::TRICKMODE_KEY_UNITS;
        let seen = play(&file, |pipeline| seek(pipeline, rate, flags), |_, _, _| ());
        let numbers: Vec<_> = seen.iter().map(|seen| seen.0).collect();
        // The first one is there already when counting starts.
        assert!(
            expected.ends_with(&numbers) && numbers.len() >= 3,
            "{numbers:?} at {rate}"
        );
    }
}

#[test]
fn all_is_shown_again_from_the_key_unit_after_fast_playback_on() {
    let units = units();
    let mut harness = decoder();
    let bus = bus(&harness);
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_flags(gst::SegmentFlags::TRICKMODE | gst::SegmentFlags::TRICKMODE_KEY_UNITS);
    harness.push_event(gst::event::Segment::new(&segment));
    // Key units at 0, 17, ...: the second one, and a delta unit after it.
    push_all(&mut harness, &units[..5]);
    harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    push_all(&mut harness, &units[5..]);
    harness.push_event(gst::event::Eos::new());
    let shown: Vec<_> = drain(&mut harness).iter().map(|p| p.pts().unwrap() / FRAME).collect();
    let expected: Vec<_> = [0, 17].into_iter().chain(34..FRAMES).collect();
    assert_eq!(shown, expected);
    let unwanted = [
        gst::MessageType::Warning,
        gst::MessageType::Error,
        gst::MessageType::Qos,
    ];
    let message = bus.pop_filtered(&unwanted);
    assert!(message.is_none(), "nothing is missing: {message:?}");
    assert!(
        std::iter::from_fn(|| harness.try_pull_upstream_event()).all(|event| !event.has_name("GstForceKeyUnit")),
        "no sender can help"
    );
}

#[test]
fn what_a_unit_carries_is_not_carried_by_its_pictures() {
    let mut units = units();
    for (t, unit) in units.iter_mut().enumerate() {
        add_metas(unit.make_mut(), t as u32);
    }
    let mut harness = decoder();
    push_all(&mut harness, &units);
    harness.push_event(gst::event::Eos::new());
    let pictures = drain(&mut harness);
    assert_eq!(pictures.len() as u64, FRAMES);
    assert_eq!(pictures.iter().map(metas).sum::<usize>(), 0);
}
