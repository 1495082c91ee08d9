// SPDX-License-Identifier: MPL-2.0
//! The streaming thread: when it waits, and where units go.

use std::sync::atomic::Ordering;

use gst::glib::translate::ToGlibPtr;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::VideoCodecFrame;

use super::imp::{TvcDec, CAT};
use super::input::{goes_forward, is_one_unit, Input};
use super::painter::Unit;
use crate::codec::CodecError;

impl TvcDec {
    /// Before a buffer reaches the base class: waits for what must have happened by then. One unit in a buffer, as the caps promise, goes
    /// its way through the threads.
    pub(super) fn prepare(&self, buffer: &gst::BufferRef) {
        let segment = self.obj().input_segment();
        let (has_rest, is_concealing) = match self.input.lock().unwrap().as_ref() {
            Some(input) => (input.has_rest, input.is_concealing()),
            None => (false, false),
        };
        if self.stages.is_starting() && self.is_live() {
            self.stages.start_at_once();
        }
        match goes_forward(&segment) && !has_rest && (is_concealing || is_one_unit(buffer)) {
            true => self.stages.wait_for_room(),
            false => self.stages.wait_until_idle(),
        }
    }

    /// Where a gap is one of packets that are lost, in a stream whose decoder conceals that, something stands in for the unit that it
    /// leaves no time for, without waiting for the next one: its pictures would come too late. One unit, for that is all that a packet is
    /// sure to hold: further ones may still come, or their numbers will tell. False: the gap is another one.
    pub(super) fn conceal_gap(&self, event: &gst::Event) -> bool {
        let gst::EventView::Gap(gap) = event.view() else {
            return false;
        };
        let conceals = |input: &Input| input.decoder.conceals();
        if !gap.gap_flags().contains(gst::GapFlags::DATA) || !self.input.lock().unwrap().as_ref().is_some_and(conceals)
        {
            return false;
        }
        let (start, duration) = gap.get();
        let Some(end) = duration.map(|duration| start.saturating_add(duration)) else {
            return true;
        };
        if let Some(time) = self.begin_concealing(end) {
            gst::debug!(
                CAT,
                imp = self,
                "nothing comes until {end}: the unit at {time} is concealed"
            );
            let mut placeholder = gst::Buffer::from_slice([0]);
            placeholder.get_mut().expect("it is new").set_pts(time);
            // The base class makes frames of buffers alone. What downstream says of this one, it says of the next one too.
            let _ = self.obj().sink_pad().chain(placeholder);
            // Whatever became of the placeholder: the next bytes are a unit's.
            if let Some(input) = self.input.lock().unwrap().as_mut() {
                input.end_concealing();
            }
        }
        true
    }

    fn begin_concealing(&self, end: gst::ClockTime) -> Option<gst::ClockTime> {
        let segment = self.obj().input_segment();
        self.input.lock().unwrap().as_mut()?.begin_concealing(end, &segment)
    }

    /// Ends the frames of a delta unit where only key units are to be shown. Those after it cannot be decoded, until the next key unit,
    /// which is nothing to report.
    pub(super) fn leave_out_unit(&self, input: &mut Input) -> gst::FlowSuccess {
        let obj = self.obj();
        let frames = std::mem::take(&mut input.waiting);
        let frames = frames.into_iter().filter_map(|number| obj.frame(number as i32));
        frames.for_each(|frame| obj.release_frame(frame));
        input.decoder.reset();
        self.is_broken.store(true, Ordering::Relaxed);
        gst::FlowSuccess::Ok
    }

    fn is_live(&self) -> bool {
        let mut query = gst::query::Latency::new();
        self.obj().sink_pad().peer_query(&mut query) && query.result().0
    }

    pub(super) fn wait_for_data(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        if let Some(input) = self.input.lock().unwrap().as_mut() {
            input.has_rest = true;
        }
        Ok(gst_video::VIDEO_DECODER_FLOW_NEED_DATA)
    }

    /// Passes a unit on to the painter; with its pictures to downstream where that is the streaming thread's business.
    pub(super) fn submit(&self, unit: Unit) -> Result<gst::FlowSuccess, gst::FlowError> {
        match &unit.symbols {
            Err(error @ CodecError::WrongModel { .. }) => {
                gst::element_imp_error!(self, gst::StreamError::WrongType, ["{error}"]);
                return Err(gst::FlowError::Error);
            }
            // It is reported when it is its turn, but a sender should know at once.
            Err(error) if !matches!(error, CodecError::NoKeyUnit | CodecError::Repeated) => self.request_key_unit(),
            Ok(symbols) if symbols.is_key => self.guess_latency(&symbols.sequence),
            _ => (),
        }
        self.stages.push(unit);
        if !self.stages.is_synchronous() {
            return self.stages.flow();
        }
        match self.stages.take_painted() {
            Some((ticket, painted)) => self.finish_unit(ticket, &painted),
            None => self.stages.flow(),
        }
    }
}

/// Says that decoding cannot start at a frame. The base class takes a frame without bytes for a key frame, and where it
/// plays backwards it would decode each of them on its own.
pub(super) fn unset_sync_point(frame: &VideoCodecFrame) {
    let sync_point = gst_video::VideoCodecFrameFlags::SYNC_POINT.bits();
    // SAFETY: `frame` holds a reference and the stream lock for as long as it lives. The binding's own setter wants a
    // frame that is ours alone, which `parse` is not given.
    unsafe { (*frame.to_glib_none().0).flags &= !sync_point };
}
