// SPDX-License-Identifier: MPL-2.0

use std::sync::{LazyLock, Mutex};

use gst::format::FormattedValue;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst::GenericFormattedValue;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;

use super::index::Index;
use super::state::{Action, State};
use crate::bitstream::{FrameTimes, SequenceHeader, UnitHeader};
use crate::elements::caps;

/// Enough for the sync byte and the flags.
const MIN_FRAME: u32 = 2;
/// Fourcc 'tvc1' as mp4mux and qtdemux of GStreamer 1.22 pass it through.
const MP4_FOURCC: u32 = 828_601_972;
const MP4_SINK_TYPE: &str = "video/x-gst-fourcc-tvc1";
const MP4_SRC_TYPE: &str = "video/x-mp4-part";

pub(super) static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("tvcparse", gst::DebugColorFlags::empty(), Some("TVC parser")));

#[derive(Default)]
pub struct TvcParse {
    pub(super) state: Mutex<State>,
    pub(super) index: Mutex<Index>,
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
        let element = self.obj().downgrade();
        self.obj()
            .src_pad()
            .add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
                if let (Some(element), Some(gst::PadProbeData::Event(event))) = (element.upgrade(), info.data.as_mut())
                {
                    element.imp().note_segment(event);
                }
                gst::PadProbeReturn::Ok
            });
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
        self.forget();
        // The stream's own times are exact: nothing is to be guessed between them. Each stop resets this.
        self.obj().set_pts_interpolation(false);
        self.obj().set_min_frame_size(MIN_FRAME);
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        self.forget();
        Ok(())
    }

    fn set_sink_caps(&self, sink: &gst::Caps) -> Result<(), gst::LoggableError> {
        let mut state = self.state.lock().unwrap();
        // What they say besides the stream is announced with the next unit.
        state.announced = None;
        state.is_framed = sink.structure(0).is_some_and(is_framed);
        Ok(())
    }

    fn handle_frame(&self, mut frame: gst_base::BaseParseFrame) -> Result<(gst::FlowSuccess, u32), gst::FlowError> {
        let place = self.place(frame.offset());
        let action = {
            let buffer = frame.buffer().and_then(|buffer| buffer.map_readable().ok());
            let data = buffer.ok_or(gst::FlowError::Error)?;
            let mut state = self.state.lock().unwrap();
            if self.obj().lost_sync() && state.skipped == 0 && !state.goes_on_with(&data) {
                state.restart(self.shift_at(frame.offset()));
            }
            state.examine(&data, self.obj().is_draining(), place)
        };
        match action {
            Action::Wait(bytes) => {
                self.obj().set_min_frame_size(bytes as u32);
                Ok((gst::FlowSuccess::Ok, 0))
            }
            Action::Skip(bytes) => {
                self.note_skipped(bytes, frame.offset());
                Ok((gst::FlowSuccess::Ok, bytes as u32))
            }
            Action::Unit { header, length, times } => {
                self.obj().set_min_frame_size(MIN_FRAME);
                let sequence = self.found_unit(frame.offset());
                let end = frame.offset() + length as u64;
                if self.note_unit(frame.offset()..end, times[0].filter(|_| header.is_key())) {
                    // A seek is on its way: these are not the bytes that it looks for.
                    return Ok((gst::FlowSuccess::Ok, 0));
                }
                self.announce_if_new(&sequence)?;
                if !header.is_key() && self.wants_key_units() {
                    frame.set_flags(gst_base::BaseParseFrameFlags::DROP);
                }
                self.time(&mut frame, &header, &sequence, &times);
                let flow = self.obj().finish_frame(frame, length as u32)?;
                Ok((flow, 0))
            }
        }
    }

    fn pre_push_frame(&self, frame: &mut gst_base::BaseParseFrame) -> Result<gst::FlowSuccess, gst::FlowError> {
        // The base class takes the time away again where upstream counts in time but gives none.
        let pts = self.state.lock().unwrap().pts;
        if let Some(buffer) = frame.buffer().filter(|buffer| buffer.pts().is_none()) {
            // Upstream may hold on to what it has pushed.
            let mut timed = buffer.to_owned();
            let writable = timed.make_mut();
            writable.set_pts(pts);
            writable.set_dts(pts);
            frame.set_output_buffer(timed);
        }
        if let Some(segment) = self.plays_key_units_backwards() {
            return Err(self.push_key_units_backwards(&segment));
        }
        frame.set_flags(gst_base::BaseParseFrameFlags::CLIP);
        self.parent_pre_push_frame(frame)
    }

    fn convert(&self, value: impl FormattedValue, format: gst::Format) -> Option<GenericFormattedValue> {
        self.convert_by_index(value.into(), format)
            .unwrap_or_else(|| self.parent_convert(value, format))
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        let is_end = event.type_() == gst::EventType::Eos;
        if let gst::EventView::Segment(segment) = event.view() {
            self.arrive(segment.segment());
        }
        if is_end && self.note_end() {
            // Refused: the sink pad would take nothing after an end that it has accepted, flushed or not.
            return false;
        }
        self.parent_sink_event(event)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        let is_seek = event.type_() == gst::EventType::Seek;
        let event = self.complete_seek(&event).unwrap_or(event);
        let is_handled = self.parent_src_event(event);
        if is_seek && !is_handled {
            self.give_up_search();
        }
        is_handled
    }
}

impl TvcParse {
    fn forget(&self) {
        *self.state.lock().unwrap() = State::default();
        *self.index.lock().unwrap() = Index::default();
    }

    /// A segment goes downstream, with the flags that the base class has left out.
    fn note_segment(&self, event: &mut gst::Event) {
        let gst::EventView::Segment(segment) = event.view() else {
            return;
        };
        let mut segment = segment.segment().downcast_ref().cloned().unwrap_or_default();
        let mut state = self.state.lock().unwrap();
        let left_out = state.left_out.filter(|(seqnum, _)| *seqnum == event.seqnum());
        if let Some((seqnum, flags)) = left_out.filter(|(_, flags)| !segment.flags().contains(*flags)) {
            segment.set_flags(segment.flags() | flags);
            *event = gst::event::Segment::builder(&segment).seqnum(seqnum).build();
        }
        state.segment = segment;
    }

    /// Whether all but key units are to be left out.
    fn wants_key_units(&self) -> bool {
        let flags = self.state.lock().unwrap().segment.flags();
        flags.contains(gst::SegmentFlags::TRICKMODE_KEY_UNITS)
    }

    fn plays_key_units_backwards(&self) -> Option<gst::FormattedSegment<gst::ClockTime>> {
        let is_backward = self.is_pulling() && self.wants_key_units();
        let segment = self.state.lock().unwrap().segment.clone();
        (is_backward && segment.rate() < 0.0).then_some(segment)
    }

    fn note_skipped(&self, bytes: usize, offset: u64) {
        let mut state = self.state.lock().unwrap();
        if state.skipped == 0 {
            gst::warning!(
                CAT,
                imp = self,
                "no access unit at offset {offset}, looking for a key unit"
            );
        }
        state.skipped += bytes as u64;
        self.obj().set_min_frame_size(MIN_FRAME);
    }

    /// The sequence header of the unit that has been found.
    fn found_unit(&self, offset: u64) -> SequenceHeader {
        let mut state = self.state.lock().unwrap();
        if std::mem::take(&mut state.skipped) > 0 {
            gst::info!(CAT, imp = self, "back in sync at offset {offset}");
        }
        state.stream.sequence().expect("a unit has been understood")
    }

    fn announce_if_new(&self, sequence: &SequenceHeader) -> Result<(), gst::FlowError> {
        let announced = self.state.lock().unwrap().announced.replace(*sequence);
        if announced.is_some_and(|announced| announced.shows_like(sequence)) {
            return Ok(());
        }
        self.announce(sequence).map_err(|flow| self.not_announced(flow))?;
        if announced.is_none() {
            self.find_duration();
        }
        Ok(())
    }

    /// Caps did not go through: they are still to be sent, and where the pads are flushing meanwhile, that is all there is to it.
    fn not_announced(&self, flow: gst::FlowError) -> gst::FlowError {
        self.state.lock().unwrap().announced = None;
        match caps::is_stopping(self.obj().src_pad()) {
            true => gst::FlowError::Flushing,
            false => flow,
        }
    }

    /// Sends caps downstream, if they are others than before: those of an MP4 track where nothing else is accepted.
    fn announce(&self, sequence: &SequenceHeader) -> Result<(), gst::FlowError> {
        let pad = self.obj().src_pad().clone();
        let upstream = self.obj().sink_pad().current_caps();
        let complete = |caps| caps::with_rest_of(caps, upstream.as_deref());
        let own = complete(caps::from_sequence(sequence));
        let accepted = pad.peer_query_caps(None);
        let caps = match accepted.can_intersect(&own) {
            true => own,
            false => complete(mp4_caps(sequence)),
        };
        if pad.current_caps().is_some_and(|current| current == caps) {
            return Ok(());
        }
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
        let pts = {
            let mut state = self.state.lock().unwrap();
            state.pts = state.time(buffer.pts(), times[0]);
            state.pts
        };
        buffer.set_pts(pts);
        buffer.set_dts(pts);
        if buffer.duration().is_none() {
            buffer.set_duration(unit_duration(sequence, times));
        }
    }
}

/// Whether buffers of these caps hold one access unit each.
fn is_framed(caps: &gst::StructureRef) -> bool {
    caps.name() == MP4_SINK_TYPE || caps.get::<&str>("alignment") == Ok("frame")
}

/// Caps of a stream as a track of an MP4 file.
fn mp4_caps(sequence: &SequenceHeader) -> gst::Caps {
    let (num, den) = sequence.frame_rate;
    gst::Caps::builder(MP4_SRC_TYPE)
        .field("format", MP4_FOURCC)
        .field("width", sequence.width as i32)
        .field("height", sequence.height as i32)
        .field("framerate", gst::Fraction::new(num as i32, den as i32))
        .build()
}

/// From a unit's first frame to the end of its last one; by their number where times do not tell.
fn unit_duration(sequence: &SequenceHeader, times: &FrameTimes) -> Option<gst::ClockTime> {
    let span = times[0]
        .zip(*times.last().expect("a unit has frames"))
        .and_then(|(first, last)| caps::time(last.checked_sub(first)?));
    let timed = span
        .zip(caps::duration(sequence, 1))
        .and_then(|(span, frame)| span.checked_add(frame));
    timed.or_else(|| caps::duration(sequence, times.len() as u64))
}
