// SPDX-License-Identifier: MPL-2.0
//! Seeks in files, which the parser has to find its way in. Their streams are made by hand, without networks.

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};

use common::*;
use gst::prelude::*;
use gst::{ClockTime, SeekFlags, SeekType};
use gsttvc::bitstream::{SequenceHeader, Timing, UnitHeader};

/// A unit at a frame number if it is a key unit.
fn unit(key: Option<u64>, payload: usize) -> Vec<u8> {
    let sequence = key.map(|frame| SequenceHeader {
        model_id: 77,
        pts: Some(frame * FRAME.nseconds()),
        ..SequenceHeader::new(WIDTH, HEIGHT, (25, 1))
    });
    let header = UnitHeader {
        sequence,
        frames: if key.is_some() { 1 } else { 8 },
        timing: Timing::Grid,
        payload_length: payload,
        symbol_check: 0,
    };
    let mut bytes = header.pack();
    bytes.resize(bytes.len() + payload, 0xd4);
    bytes
}

/// Groups of a key unit and some delta units each: `deltas[n]` in the nth. The rate is far from even: parts of some tens of groups differ
/// by a factor of ten.
fn recording(deltas: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut frame = 0;
    for (n, deltas) in deltas.into_iter().enumerate() {
        let size = if n / 20 % 2 == 0 { 40 } else { 400 };
        bytes.extend(unit(Some(frame), 3 * size));
        (0..deltas).for_each(|_| bytes.extend(unit(None, size)));
        frame += 1 + 8 * deltas;
    }
    bytes
}

/// Groups of 81 frames (3.24 s) for a quarter of an hour or so.
fn even() -> Vec<u8> {
    recording([10; 300])
}

const GROUP: u64 = 81;

/// A paused `source ! tvcparse ! fakesink`, and what the parser has sent since the last seek.
struct Player {
    pipeline: gst::Pipeline,
    sent: Arc<Mutex<Sent>>,
}

#[derive(Default)]
struct Sent {
    segment: gst::FormattedSegment<ClockTime>,
    buffers: Vec<gst::Buffer>,
}

impl Sent {
    fn add(&mut self, data: &gst::PadProbeData) {
        match data {
            gst::PadProbeData::Buffer(buffer) => self.buffers.push(buffer.clone()),
            gst::PadProbeData::Event(event) => {
                if let gst::EventView::Segment(segment) = event.view() {
                    self.segment = segment.segment().clone().downcast().unwrap();
                    self.buffers.clear();
                }
            }
            _ => (),
        }
    }
}

impl Player {
    fn new(path: &Path) -> Player {
        init();
        let source = gst::ElementFactory::make("filesrc").property("location", path);
        Player::with_source(source.build().unwrap())
    }

    fn with_source(source: gst::Element) -> Player {
        init();
        let parser = gst::ElementFactory::make("tvcparse").build().unwrap();
        let sink = gst::ElementFactory::make("fakesink").property("sync", false);
        let sink = sink.property("async", true).build().unwrap();
        let pipeline = gst::Pipeline::new();
        pipeline.add_many([&source, &parser, &sink]).unwrap();
        gst::Element::link_many([&source, &parser, &sink]).unwrap();
        let sent = Arc::new(Mutex::new(Sent::default()));
        let probe = sent.clone();
        let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
        parser.static_pad("src").unwrap().add_probe(kinds, move |_, info| {
            info.data.iter().for_each(|data| probe.lock().unwrap().add(data));
            gst::PadProbeReturn::Ok
        });
        pipeline.set_state(gst::State::Paused).unwrap();
        let player = Player { pipeline, sent };
        player.preroll();
        player
    }

    fn preroll(&self) {
        self.pipeline.state(ClockTime::from_seconds(20)).0.unwrap();
    }

    fn duration(&self) -> Option<ClockTime> {
        self.pipeline.query_duration()
    }

    /// The segment's start and the first buffer after a seek, in frames, and whether that is a key unit.
    fn seek(&self, flags: SeekFlags, to: f64) -> (f64, f64, bool) {
        let to = ClockTime::from_nseconds((to * FRAME.nseconds() as f64) as u64);
        self.pipeline.seek_simple(SeekFlags::FLUSH | flags, to).unwrap();
        self.preroll();
        let sent = self.sent.lock().unwrap();
        let buffer = sent.buffers.first().expect("a buffer after the seek");
        (frames(sent.segment.start()), frames(buffer.pts()), is_key(buffer))
    }

    /// Plays to the end of the file or the segment: which message says so, and frame numbers of the buffers up to it.
    fn play(&self) -> (gst::MessageType, Vec<u64>) {
        self.pipeline.set_state(gst::State::Playing).unwrap();
        let ends = [
            gst::MessageType::Eos,
            gst::MessageType::SegmentDone,
            gst::MessageType::Error,
        ];
        let end = self
            .pipeline
            .bus()
            .unwrap()
            .timed_pop_filtered(ClockTime::from_seconds(20), &ends);
        let sent = self.sent.lock().unwrap();
        let numbers = sent.buffers.iter().map(|buffer| frames(buffer.pts()) as u64).collect();
        (end.expect("an end").type_(), numbers)
    }

    fn seek_range(&self, rate: f64, flags: SeekFlags, start: u64, stop: Option<u64>) {
        let stop = stop.map(|frame| frame * FRAME);
        let stop_type = if stop.is_some() { SeekType::Set } else { SeekType::None };
        let flags = SeekFlags::FLUSH | flags;
        self.pipeline
            .seek(rate, flags, SeekType::Set, start * FRAME, stop_type, stop)
            .unwrap();
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.pipeline.set_state(gst::State::Null).unwrap();
    }
}

fn frames(time: Option<ClockTime>) -> f64 {
    time.unwrap().nseconds() as f64 / FRAME.nseconds() as f64
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

/// Places all over a file, in no order, in frames and between two of them.
fn targets() -> impl Iterator<Item = f64> {
    (1..40).map(|n| (n * 7919 % 24_000) as f64 + 0.25)
}

#[test]
fn a_plain_seek_starts_at_its_target_with_the_key_unit_before_it() {
    let file = file(&even());
    for flags in [SeekFlags::empty(), SeekFlags::ACCURATE] {
        let player = Player::new(file.path());
        for to in targets() {
            let key = (to as u64 / GROUP * GROUP) as f64;
            assert_eq!(player.seek(flags, to), (to, key, true), "{flags:?}");
        }
    }
}

#[test]
fn a_key_unit_seek_starts_at_the_key_unit_before_its_target() {
    let file = file(&even());
    let player = Player::new(file.path());
    for flags in [SeekFlags::KEY_UNIT, SeekFlags::KEY_UNIT | SeekFlags::SNAP_BEFORE] {
        for to in targets() {
            let key = (to as u64 / GROUP * GROUP) as f64;
            assert_eq!(player.seek(flags, to), (key, key, true), "to {to} with {flags:?}");
        }
    }
}

#[test]
fn a_key_unit_seek_goes_to_the_one_after_or_the_nearest_where_asked_to() {
    let file = file(&even());
    let player = Player::new(file.path());
    let seek = |flags, to| player.seek(SeekFlags::KEY_UNIT | flags, to).1 as u64;
    for (to, after, nearest) in [
        (0., 0, 0),
        (1., 81, 0),
        (40., 81, 0),
        (41., 81, 81),
        (81., 81, 81),
        (99_999., 24_219, 24_219),
    ] {
        assert_eq!(seek(SeekFlags::SNAP_AFTER, to), after, "after {to}");
        assert_eq!(seek(SeekFlags::SNAP_NEAREST, to), nearest, "near {to}");
    }
}

#[test]
fn seeks_find_their_key_unit_however_far_apart_they_are() {
    // 1.2 s, then 96 s, and one at the end that lasts 16 minutes.
    let file = file(&recording([4, 300, 1, 3000]));
    let player = Player::new(file.path());
    let keys = [0, 33, 2434, 2443];
    for to in [10., 32.9, 33., 1500., 2433., 2440., 20_000., 3000., 100., 5.] {
        let key = *keys.iter().rev().find(|&&key| key as f64 <= to).unwrap() as f64;
        assert_eq!(player.seek(SeekFlags::ACCURATE, to), (to, key, true));
        assert_eq!(player.seek(SeekFlags::KEY_UNIT, to), (key, key, true));
    }
}

#[test]
fn the_duration_is_exact_and_known_at_once() {
    for deltas in [vec![10; 300], vec![0], vec![3000]] {
        let frames = deltas.iter().map(|deltas| 1 + 8 * deltas).sum::<u64>();
        let file = file(&recording(deltas));
        assert_eq!(Player::new(file.path()).duration(), Some(frames * FRAME));
    }
}

#[test]
fn a_large_file_is_measured_from_its_end_and_sought_all_the_same() {
    // 40 MB: 200 groups of a second and a bit, with units of some kB.
    let mut bytes = Vec::new();
    for group in 0..200 {
        bytes.extend(unit(Some(group * 33), 100_000));
        (0..4).for_each(|_| bytes.extend(unit(None, 25_000)));
    }
    let file = file(&bytes);
    let player = Player::new(file.path());
    assert_eq!(player.duration(), Some(200 * 33 * FRAME));
    for group in [190, 3, 150, 199] {
        let to = (group * 33 + 20) as f64;
        assert_eq!(player.seek(SeekFlags::KEY_UNIT, to).1, (group * 33) as f64);
    }
}

#[test]
fn files_in_a_row_play_one_after_the_other() {
    let one = recording([2, 2, 1]);
    let file = file(&[one.clone(), one.clone(), one].concat());
    let length = 43;
    let player = Player::new(file.path());
    assert_eq!(player.duration(), Some(3 * length * FRAME));
    for to in [100., 44., 42., 86., 3., 128.] {
        let starts = [0, 17, 34].map(|key| [0, 1, 2].map(|file| (file * length + key) as f64));
        let key = starts.concat().into_iter().filter(|&key| key <= to).fold(0., f64::max);
        assert_eq!(player.seek(SeekFlags::KEY_UNIT, to), (key, key, true), "to {to}");
    }
    player.seek(SeekFlags::ACCURATE, 40.);
    let (_, played) = player.play();
    assert_eq!(
        played,
        [34, 35, 43, 44, 52, 60, 61, 69, 77, 78, 86, 87, 95, 103, 104, 112, 120, 121]
    );
}

#[test]
fn a_segment_ends_where_it_should() {
    let file = file(&even());
    let player = Player::new(file.path());
    player.seek_range(1.0, SeekFlags::ACCURATE | SeekFlags::SEGMENT, 1000, Some(1010));
    let played = vec![972, 973, 981, 989, 997, 1005];
    assert_eq!(player.play(), (gst::MessageType::SegmentDone, played));
}

#[test]
fn key_units_alone_are_played_where_a_fast_rate_asks_for_them() {
    let file = file(&recording([10; 8]));
    let player = Player::new(file.path());
    player.seek_range(4.0, SeekFlags::TRICKMODE | SeekFlags::TRICKMODE_KEY_UNITS, 100, None);
    let (_, played) = player.play();
    assert_eq!(played, [1, 2, 3, 4, 5, 6, 7].map(|n| n * GROUP));
}

#[test]
fn key_units_are_played_backwards_from_the_last_one_on() {
    let file = file(&recording([10; 8]));
    for (stop, last) in [(None, 7), (Some(500), 6), (Some(4 * GROUP), 4)] {
        let player = Player::new(file.path());
        player.seek_range(-4.0, SeekFlags::TRICKMODE | SeekFlags::TRICKMODE_KEY_UNITS, 81, stop);
        let expected: Vec<_> = (1..=last).rev().map(|n| n * GROUP).collect();
        assert_eq!(player.play(), (gst::MessageType::Eos, expected), "from {stop:?}");
    }
}

#[test]
fn groups_are_played_backwards_from_the_last_one_on() {
    let file = file(&recording([1; 8]));
    let player = Player::new(file.path());
    player.seek_range(-1.0, SeekFlags::ACCURATE, 20, None);
    let (_, played) = player.play();
    assert_eq!(played, [63, 64, 54, 55, 45, 46, 36, 37, 27, 28, 18, 19]);
}

/// A source that pushes bytes from wherever it is asked to, and cannot be read at any place: as one of HTTP. Counts how often it is asked.
fn pushing_source(bytes: Vec<u8>) -> (gst::Element, Arc<Mutex<u32>>) {
    init();
    let source = gst_app::AppSrc::builder()
        .format(gst::Format::Bytes)
        .stream_type(gst_app::AppStreamType::Seekable)
        .build();
    source.set_size(bytes.len() as i64);
    let asked = Arc::new(Mutex::new(0));
    let (position, count) = (Arc::new(Mutex::new(0)), asked.clone());
    let seek_to = position.clone();
    let callbacks = gst_app::AppSrcCallbacks::builder()
        .seek_data(move |_, offset| {
            *count.lock().unwrap() += 1;
            *seek_to.lock().unwrap() = offset as usize;
            true
        })
        .need_data(move |source, _| {
            let chunk = {
                let mut position = position.lock().unwrap();
                let start = (*position).min(bytes.len());
                *position = (start + 4096).min(bytes.len());
                bytes[start..*position].to_vec()
            };
            let _ = match chunk.is_empty() {
                true => source.end_of_stream(),
                false => source.push_buffer(gst::Buffer::from_mut_slice(chunk)),
            };
        });
    source.set_callbacks(callbacks.build());
    (source.upcast(), asked)
}

#[test]
fn a_seek_in_what_is_pushed_starts_at_its_target_with_a_key_unit_before_it() {
    let (source, asked) = pushing_source(even());
    let player = Player::with_source(source);
    let near = 20 * 25 + GROUP;
    let mut count = 0;
    for flags in [SeekFlags::empty(), SeekFlags::ACCURATE, SeekFlags::KEY_UNIT] {
        for to in targets() {
            let (start, first, is_key) = player.seek(flags, to);
            let is_at_key = flags == SeekFlags::KEY_UNIT && start == first;
            assert!(start == to || is_at_key, "to {to} with {flags:?}: {start}");
            assert!(
                is_key && first <= to && to - first <= near as f64,
                "to {to} with {flags:?}: {first}"
            );
            count += 1;
        }
    }
    let asked = *asked.lock().unwrap();
    assert!(asked < 4 * count, "{asked} requests for {count} seeks");
}

#[test]
fn a_seek_in_what_is_pushed_comes_back_from_where_there_are_no_more_key_units() {
    let mut bytes = recording([10; 40]);
    bytes.extend(unit(Some(40 * GROUP), 100));
    (0..10).for_each(|_| bytes.extend(unit(None, 20_000)));
    let (source, _) = pushing_source(bytes);
    let player = Player::with_source(source);
    let (start, first, is_key) = player.seek(SeekFlags::empty(), 2000.);
    assert!(start == 2000. && is_key && first <= 2000., "{first}");
}

#[test]
fn a_seek_behind_the_end_of_what_is_pushed_comes_to_the_end() {
    let (source, _) = pushing_source(even());
    let player = Player::with_source(source);
    player.seek_range(1.0, SeekFlags::ACCURATE, 100_000, None);
    assert_eq!(player.play().0, gst::MessageType::Eos);
}

#[test]
fn the_duration_of_what_is_pushed_is_unknown_until_its_end_has_come() {
    let (source, _) = pushing_source(even());
    let player = Player::with_source(source);
    assert_eq!(player.duration(), None);
    let (end, played) = player.play();
    assert_eq!((end, played.len()), (gst::MessageType::Eos, 300 * 11));
    assert_eq!(player.duration(), Some(300 * GROUP * FRAME));
}

#[test]
fn key_units_alone_are_played_of_what_is_pushed() {
    let (source, _) = pushing_source(recording([10; 8]));
    let player = Player::with_source(source);
    player.seek_range(4.0, SeekFlags::TRICKMODE | SeekFlags::TRICKMODE_KEY_UNITS, 0, None);
    let (_, played) = player.play();
    assert_eq!(played, [0, 1, 2, 3, 4, 5, 6, 7].map(|n| n * GROUP));
}
