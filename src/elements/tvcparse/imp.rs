// SPDX-License-Identifier: MPL-2.0

use std::sync::{LazyLock, Mutex};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;

use super::duration::end_of_stream;
use crate::bitstream::{
    find_key_unit, BitstreamError, Clock, FrameTimes, SequenceHeader, UnitHeader, MAX_HEADER, SYNC,
};
use crate::elements::caps;

/// Enough for the sync byte and the flags.
const MIN_FRAME: u32 = 2;
/// Fourcc 'tvc1' as mp4mux and qtdemux of GStreamer 1.22 pass it through.
const MP4_FOURCC: u32 = 828_601_972;
const MP4_SINK_TYPE: &str = "video/x-gst-fourcc-tvc1";
const MP4_SRC_TYPE: &str = "video/x-mp4-part";

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("tvcparse", gst::DebugColorFlags::empty(), Some("TVC parser")));

/// What the next unit is understood by.
#[derive(Default)]
struct State {
    /// Of the last key unit; `None` until one has been seen since the start or a loss of sync.
    stream: Option<Stream>,
    /// What the caps on the source pad were made from.
    announced: Option<SequenceHeader>,
    /// Bytes dropped since the last good unit.
    skipped: u64,
    /// Time of the unit that is being pushed.
    pts: Option<gst::ClockTime>,
}

struct Stream {
    sequence: SequenceHeader,
    clock: Clock,
}

/// What to do with the bytes at hand.
enum Action {
    /// Wait for this many bytes.
    Wait(usize),
    /// Drop this many bytes.
    Skip(usize),
    /// A whole unit.
    Unit {
        header: UnitHeader,
        length: usize,
        times: FrameTimes,
    },
}

#[derive(Default)]
pub struct TvcParse {
    state: Mutex<State>,
}

impl State {
    fn examine(&mut self, data: &[u8], draining: bool) -> Action {
        let parsed = match UnitHeader::parse(data) {
            // Without its key unit a delta unit is of no use to anyone.
            Ok((header, _)) if !header.is_key() && self.stream.is_none() => Err(BitstreamError::NoSync(SYNC)),
            parsed => parsed,
        };
        match parsed {
            Ok((header, start)) => {
                let length = start + header.payload_length;
                if data.len() < length {
                    return if draining {
                        Action::Skip(data.len())
                    } else {
                        Action::Wait(length)
                    };
                }
                match self.times(&header, &data[start..length]) {
                    Ok(times) => Action::Unit { header, length, times },
                    Err(_) => self.resync(data, draining),
                }
            }
            Err(BitstreamError::Incomplete) if !draining => Action::Wait(data.len() + 1),
            Err(_) => self.resync(data, draining),
        }
    }

    fn times(&mut self, header: &UnitHeader, payload: &[u8]) -> Result<FrameTimes, BitstreamError> {
        if let Some(sequence) = header.sequence {
            self.stream = Some(Stream {
                sequence,
                clock: Clock::new(&sequence),
            });
            return Ok(vec![sequence.pts]);
        }
        let stream = self
            .stream
            .as_mut()
            .expect("a delta unit is only looked at after a key unit");
        Ok(stream.clock.parse(header.timing, header.frames, payload)?.0)
    }

    /// Only a key unit, with its strong check, is a place to go on.
    fn resync(&mut self, data: &[u8], draining: bool) -> Action {
        self.stream = None;
        let found = data.get(1..).and_then(find_key_unit);
        // What may be the beginning of a header stays.
        let keep = if draining { 0 } else { MAX_HEADER };
        Action::Skip(found.map_or(data.len().saturating_sub(keep).max(1), |at| at + 1))
    }
}

#[glib::object_subclass]
impl ObjectSubclass for TvcParse {
    const NAME: &'static str = "GstTvcParse";
    type Type = super::TvcParse;
    type ParentType = gst_base::BaseParse;
}

impl ObjectImpl for TvcParse {
    fn constructed(&self) {
        self.parent_constructed();
        // The stream's own times are exact: nothing is to be guessed between them.
        self.obj().set_pts_interpolation(false);
    }
}

impl GstObjectImpl for TvcParse {}

impl ElementImpl for TvcParse {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "TVC parser",
                "Codec/Parser/Video",
                "Cuts Tokenized Video Compression streams into access units and times them",
                "gst-plugin-tvc contributors",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let mut sink = caps::any().build();
            sink.merge(gst::Caps::new_empty_simple(MP4_SINK_TYPE));
            let mut src = caps::framed().build();
            let size = caps::size_range();
            let mp4 = gst::Caps::builder(MP4_SRC_TYPE).field("format", MP4_FOURCC);
            src.merge(mp4.field("width", size).field("height", size).build());
            caps::templates(&sink, &src)
        });
        &TEMPLATES
    }
}

impl BaseParseImpl for TvcParse {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        *self.state.lock().unwrap() = State::default();
        self.obj().set_min_frame_size(MIN_FRAME);
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *self.state.lock().unwrap() = State::default();
        Ok(())
    }

    fn handle_frame(&self, mut frame: gst_base::BaseParseFrame) -> Result<(gst::FlowSuccess, u32), gst::FlowError> {
        let draining = self.obj().is_draining();
        let mut state = self.state.lock().unwrap();
        if self.obj().lost_sync() && state.skipped == 0 {
            // After a seek the bytes may start anywhere.
            state.stream = None;
        }
        let action = {
            let map = frame
                .buffer()
                .and_then(|b| b.map_readable().ok())
                .ok_or(gst::FlowError::Error)?;
            state.examine(&map, draining)
        };
        match action {
            Action::Wait(bytes) => {
                self.obj().set_min_frame_size(bytes as u32);
                Ok((gst::FlowSuccess::Ok, 0))
            }
            Action::Skip(bytes) => {
                if state.skipped == 0 {
                    gst::warning!(
                        CAT,
                        imp = self,
                        "no access unit at offset {}, looking for a key unit",
                        frame.offset()
                    );
                }
                state.skipped += bytes as u64;
                self.obj().set_min_frame_size(MIN_FRAME);
                Ok((gst::FlowSuccess::Ok, bytes as u32))
            }
            Action::Unit { header, length, times } => {
                if std::mem::take(&mut state.skipped) > 0 {
                    gst::info!(CAT, imp = self, "back in sync at offset {}", frame.offset());
                }
                let stream = state.stream.as_ref().expect("a unit has been understood");
                let sequence = stream.sequence;
                let announce = !state.announced.is_some_and(|announced| announced.shows_like(&sequence));
                state.announced = Some(sequence);
                drop(state);
                if announce {
                    self.announce(&sequence).map_err(|flow| self.not_announced(flow))?;
                    self.find_duration();
                }
                self.time(&mut frame, &header, &sequence, &times);
                self.obj().set_min_frame_size(MIN_FRAME);
                let flow = self.obj().finish_frame(frame, length as u32)?;
                Ok((flow, 0))
            }
        }
    }

    fn pre_push_frame(&self, frame: &mut gst_base::BaseParseFrame) -> Result<gst::FlowSuccess, gst::FlowError> {
        // The base class takes the time away again where upstream counts in time but gives none.
        let pts = self.state.lock().unwrap().pts;
        if let Some(buffer) = frame.buffer_mut().filter(|b| b.pts().is_none()) {
            buffer.set_pts(pts);
            buffer.set_dts(pts);
        }
        self.parent_pre_push_frame(frame)
    }
}

impl TvcParse {
    /// Measures the stream where upstream lets it be read from its end.
    fn find_duration(&self) {
        let pad = self.obj().sink_pad().clone();
        if pad.mode() != gst::PadMode::Pull {
            return;
        }
        let Some(size) = pad.peer_query_duration::<gst::format::Bytes>() else {
            return;
        };
        let read = |offset: u64, length: u64| {
            let buffer = pad.pull_range(offset, u32::try_from(length).ok()?).ok()?;
            let map = buffer.map_readable().ok()?;
            Some(map.to_vec())
        };
        if let Some(end) = end_of_stream(*size, read) {
            self.obj().set_duration(gst::ClockTime::from_nseconds(end), 0);
        }
    }

    /// Caps did not go through: they are still to be sent, and where the pads are flushing meanwhile, that is all there is to it.
    fn not_announced(&self, flow: gst::FlowError) -> gst::FlowError {
        self.state.lock().unwrap().announced = None;
        match caps::is_stopping(self.obj().src_pad()) {
            true => gst::FlowError::Flushing,
            false => flow,
        }
    }

    /// Sends caps downstream: those of an MP4 track where nothing else is accepted.
    fn announce(&self, sequence: &SequenceHeader) -> Result<(), gst::FlowError> {
        let pad = self.obj().src_pad().clone();
        let caps = caps::from_sequence(sequence);
        let accepted = pad.peer_query_caps(None);
        let caps = if accepted.can_intersect(&caps) {
            caps
        } else {
            let (width, height) = (sequence.width as i32, sequence.height as i32);
            let mp4 = gst::Caps::builder(MP4_SRC_TYPE).field("format", MP4_FOURCC);
            let rate = gst::Fraction::new(sequence.frame_rate.0 as i32, sequence.frame_rate.1 as i32);
            mp4.field("width", width)
                .field("height", height)
                .field("framerate", rate)
                .build()
        };
        gst::info!(CAT, imp = self, "stream of {caps:?}");
        match pad.push_event(gst::event::Caps::new(&caps)) {
            true => Ok(()),
            false => Err(gst::FlowError::NotNegotiated),
        }
    }

    /// Sets what the stream says, but not over the times of a container.
    fn time(
        &self,
        frame: &mut gst_base::BaseParseFrame,
        header: &UnitHeader,
        sequence: &SequenceHeader,
        times: &FrameTimes,
    ) {
        let Some(buffer) = frame.buffer_mut() else { return };
        if header.is_key() {
            buffer.unset_flags(gst::BufferFlags::DELTA_UNIT);
        } else {
            buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
        }
        if buffer.pts().is_none() {
            buffer.set_pts(times[0].map(gst::ClockTime::from_nseconds));
        }
        self.state.lock().unwrap().pts = buffer.pts();
        buffer.set_dts(buffer.pts());
        if buffer.duration().is_none() {
            let span = times[0]
                .zip(*times.last().expect("a unit has frames"))
                .and_then(|(a, b)| b.checked_sub(a));
            let last = caps::duration(sequence, 1);
            let duration = span
                .zip(last)
                .map(|(span, last)| gst::ClockTime::from_nseconds(span) + last);
            buffer.set_duration(duration.or_else(|| caps::duration(sequence, header.frames as u64)));
        }
    }
}
