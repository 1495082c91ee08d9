// SPDX-License-Identifier: MPL-2.0
//! Painted units to buffers downstream: on the source pad's task, or on the streaming thread where that needs them at once.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::{VideoCodecFrame, VideoFrameRef};

use super::imp::{TvcDec, CAT};
use super::input::wants_key_units;
use super::painter::{PaintedUnit, PictureTime};
use super::stages::Ticket;
use crate::codec::{CodecError, Frame};
use crate::elements::caps;
use crate::elements::latency::wants_qos;
use crate::rtp::REQUEST_INTERVAL_MS;

type Flow = Result<gst::FlowSuccess, gst::FlowError>;

/// How late a picture without a duration may be.
const ASSUMED_DURATION: gst::ClockTime = gst::ClockTime::from_mseconds(40);

/// What becomes of a picture.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Shown,
    /// Not painted.
    Skipped,
    /// Painted, and too late.
    Late,
    /// Before what is to be shown.
    LeadIn,
}

impl TvcDec {
    /// Gives a unit's pictures to its frames.
    pub(super) fn finish_unit(&self, ticket: Ticket, unit: &PaintedUnit) -> Flow {
        // Where the pads stop meanwhile, nothing can be agreed upon, and the base class takes that for an error.
        self.finish_pictures(ticket, unit).map_err(|flow| match flow {
            gst::FlowError::NotNegotiated | gst::FlowError::Error if caps::is_stopping(self.obj().src_pad()) => {
                gst::FlowError::Flushing
            }
            flow => flow,
        })
    }

    fn finish_pictures(&self, ticket: Ticket, unit: &PaintedUnit) -> Flow {
        let obj = self.obj();
        let symbols = match &unit.symbols {
            Ok(symbols) => symbols,
            Err(error) => return self.give_up(&unit.pictures, error),
        };
        self.is_broken.store(false, Ordering::Relaxed);
        let mut flow = self.announce_if_new(&symbols.sequence);
        for (time, picture) in unit.pictures.iter().zip(&unit.frames) {
            let Some(mut frame) = obj.frame(time.number as i32) else {
                continue;
            };
            if flow.is_err() || !self.stages.is_wanted(ticket) {
                obj.release_frame(frame);
                continue;
            }
            frame.set_pts(time.pts);
            frame.set_dts(gst::ClockTime::NONE);
            frame.set_duration(time.duration);
            let fate = self.fate(unit, time, picture.as_ref());
            if fate == Fate::Late {
                self.stats.lock().unwrap().late += 1;
            }
            flow = match picture.as_ref().filter(|_| fate == Fate::Shown) {
                Some(picture) => self.show(frame, picture),
                None => self.leave_out(frame, time, fate),
            };
        }
        flow
    }

    fn fate(&self, unit: &PaintedUnit, time: &PictureTime, picture: Option<&Frame>) -> Fate {
        if unit.is_lead_in {
            return Fate::LeadIn;
        }
        if picture.is_none() {
            return Fate::Skipped;
        }
        let sink = self.sink_clock.lock().unwrap().at(Instant::now());
        let end = time
            .due
            .map(|due| due.saturating_add(time.duration.unwrap_or(ASSUMED_DURATION)));
        match end.zip(sink) {
            // Something is shown now and then, by sinks' own rule for what is late.
            Some((end, sink)) if end < sink && !self.is_first_for_long(sink) => Fate::Late,
            _ => Fate::Shown,
        }
    }

    /// Whether nothing was pushed for a second, by the sink's clock; then it counts as pushed.
    fn is_first_for_long(&self, sink: gst::ClockTime) -> bool {
        let mut pushed = self.pushed_late.lock().unwrap();
        let is_first =
            pushed.is_none_or(|pushed| sink >= pushed.saturating_add(gst::ClockTime::SECOND) || sink < pushed);
        if is_first {
            *pushed = Some(sink);
        }
        is_first
    }

    fn show(&self, mut frame: VideoCodecFrame, picture: &Frame) -> Flow {
        let obj = self.obj();
        let filled = obj
            .allocate_output_frame(&mut frame, None)
            .and_then(|_| self.fill(&mut frame, picture));
        match filled {
            Ok(()) => {
                self.holds_pictures.store(true, Ordering::Relaxed);
                let flow = obj.finish_frame(frame);
                self.holds_pictures.store(self.are_queued(), Ordering::Relaxed);
                flow
            }
            Err(flow) => {
                obj.release_frame(frame);
                Err(flow)
            }
        }
    }

    /// Whether the base class keeps finished pictures until a whole group is there: it does to turn it round.
    fn are_queued(&self) -> bool {
        let segment = self.obj().output_segment();
        segment.rate() < 0.0 && !wants_key_units(&segment)
    }

    fn fill(&self, frame: &mut VideoCodecFrame, picture: &Frame) -> Result<(), gst::FlowError> {
        let guard = self.output.lock().unwrap();
        let output = guard.as_ref().ok_or(gst::FlowError::NotNegotiated)?;
        let buffer = frame.output_buffer_mut().ok_or(gst::FlowError::Error)?;
        let written = VideoFrameRef::from_buffer_ref_writable(buffer, &output.info)
            .and_then(|mut mapped| output.converter.write(picture, &mut mapped));
        written.map_err(|error| {
            gst::element_imp_error!(self, gst::ResourceError::Write, ["cannot write the picture: {error}"]);
            gst::FlowError::Error
        })
    }

    /// Ends a frame without a picture and says why.
    fn leave_out(&self, frame: VideoCodecFrame, time: &PictureTime, fate: Fate) -> Flow {
        // The base class's own message about it is replaced by ours, see `post_message`.
        self.obj().drop_frame(frame)?;
        if fate == Fate::LeadIn || !wants_qos(&*self.obj()) {
            return Ok(gst::FlowSuccess::Ok);
        }
        let clock = *self.sink_clock.lock().unwrap();
        let jitter = time.due.zip(clock.at(Instant::now()));
        let jitter = jitter.map_or(0, |(due, sink)| sink.nseconds() as i64 - due.nseconds() as i64);
        let segment = self.obj().output_segment();
        let segment = segment.downcast_ref::<gst::ClockTime>();
        let stats = *self.stats.lock().unwrap();
        let message = gst::message::Qos::builder(false)
            .src(&*self.obj())
            .running_time_if_some(time.due)
            .stream_time_if_some(segment.and_then(|segment| segment.to_stream_time(time.pts)))
            .timestamp_if_some(time.pts)
            .duration_if_some(time.duration)
            .values(jitter, clock.proportion(), 1_000_000)
            .stats(
                gst::format::Buffers::from_u64(stats.painted.saturating_sub(stats.late)),
                gst::format::Buffers::from_u64(stats.skipped + stats.late),
            )
            .other_field("painted", stats.painted)
            .other_field("skipped", stats.skipped)
            .other_field("late", stats.late)
            .build();
        self.parent_post_message(message);
        Ok(gst::FlowSuccess::Ok)
    }

    /// Reports a unit that cannot be decoded, once per gap.
    fn give_up(&self, pictures: &[PictureTime], error: &CodecError) -> Flow {
        let obj = self.obj();
        for time in pictures {
            if let Some(frame) = obj.frame(time.number as i32) {
                obj.drop_frame(frame)?;
            }
        }
        if matches!(error, CodecError::Repeated) {
            gst::debug!(CAT, imp = self, "{error}");
            return Ok(gst::FlowSuccess::Ok);
        }
        let was_broken = self.is_broken.swap(true, Ordering::Relaxed);
        if was_broken && matches!(error, CodecError::NoKeyUnit) {
            gst::debug!(CAT, imp = self, "{error}");
            return Ok(gst::FlowSuccess::Ok);
        }
        // Of damage to the symbols the sender knows already, see `submit`.
        if matches!(error, CodecError::NoKeyUnit | CodecError::Torch(_)) {
            self.request_key_unit();
        }
        gst::element_imp_warning!(
            self,
            gst::StreamError::Decode,
            ["{error}; going on at the next key unit"]
        );
        gst_video::video_decoder_error!(obj, 1, gst::StreamError::Decode, ["{error}"])
    }

    /// At the end nobody hears any more what downstream said of the last pictures.
    pub(super) fn report_unheard_error(&self) {
        let flow = self.stages.flow();
        if let Err(error @ (gst::FlowError::NotLinked | gst::FlowError::NotNegotiated | gst::FlowError::Error)) = flow {
            gst::element_imp_error!(
                self,
                gst::StreamError::Failed,
                ["downstream does not take pictures: {error}"]
            );
        }
    }

    pub(super) fn request_key_unit(&self) {
        let now = Instant::now();
        let mut last = self.last_request.lock().unwrap();
        if last.is_some_and(|last| now.saturating_duration_since(last) < Duration::from_millis(REQUEST_INTERVAL_MS)) {
            return;
        }
        *last = Some(now);
        drop(last);
        let wish = gst_video::UpstreamForceKeyUnitEvent::builder()
            .all_headers(true)
            .build();
        self.obj().sink_pad().push_event(wish);
    }
}
