// SPDX-License-Identifier: MPL-2.0
//! Files made by hand, without networks, and what the parser makes of them.

use std::path::Path;
use std::sync::{Arc, Mutex};

pub use super::units::unit;
use super::{init, is_key, FRAME};
use gst::prelude::*;
use gst::{ClockTime, SeekFlags, SeekType};

/// Groups of a key unit and some delta units each: `deltas[n]` in the nth. The rate is far from even: parts of some tens of groups differ
/// by a factor of ten.
pub fn recording(deltas: impl IntoIterator<Item = u64>) -> Vec<u8> {
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
pub fn even() -> Vec<u8> {
    recording([10; 300])
}

pub const GROUP: u64 = 81;

/// A paused `source ! tvcparse ! fakesink`, and what the parser has sent since the last seek.
pub struct Player {
    pub pipeline: gst::Pipeline,
    sent: Arc<Mutex<Sent>>,
}

#[derive(Default)]
pub struct Sent {
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
    pub fn new(path: &Path) -> Player {
        init();
        let source = gst::ElementFactory::make("filesrc").property("location", path);
        Player::with_source(source.build().unwrap())
    }

    pub fn with_source(source: gst::Element) -> Player {
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

    pub fn duration(&self) -> Option<ClockTime> {
        self.pipeline.query_duration()
    }

    pub fn segment(&self) -> gst::FormattedSegment<ClockTime> {
        self.sent.lock().unwrap().segment.clone()
    }

    /// The segment's start and the first buffer after a seek, in frames, and whether that is a key unit.
    pub fn seek(&self, flags: SeekFlags, to: f64) -> (f64, f64, bool) {
        let to = ClockTime::from_nseconds((to * FRAME.nseconds() as f64) as u64);
        self.pipeline.seek_simple(SeekFlags::FLUSH | flags, to).unwrap();
        self.preroll();
        let sent = self.sent.lock().unwrap();
        let buffer = sent.buffers.first().expect("a buffer after the seek");
        (frames(sent.segment.start()), frames(buffer.pts()), is_key(buffer))
    }

    /// Plays to the end of the file or the segment: which message says so, and frame numbers of the buffers up to it.
    pub fn play(&self) -> (gst::MessageType, Vec<u64>) {
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

    pub fn seek_range(&self, rate: f64, flags: SeekFlags, start: u64, stop: Option<u64>) {
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

pub fn frames(time: Option<ClockTime>) -> f64 {
    time.unwrap().nseconds() as f64 / FRAME.nseconds() as f64
}

/// Places all over a file, in no order, in frames and between two of them.
pub fn targets() -> impl Iterator<Item = f64> {
    (1..40).map(|n| (n * 7919 % 24_000) as f64 + 0.25)
}
