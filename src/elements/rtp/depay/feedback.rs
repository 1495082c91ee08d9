// SPDX-License-Identifier: MPL-2.0
//! Acknowledgements from the decoder to the RTP session.

use std::sync::{Arc, Mutex};

use gst::glib;
use gst::prelude::*;

use crate::elements::rtp::session::{self, Connection};
use crate::rtp::Acknowledgement;

/// For how long the session may put off an RTCP packet for an acknowledgement alone. Not at all: it would fill every gap that reports need, and
/// the next unit is about to be acknowledged.
const MAX_DELAY: gst::ClockTime = gst::ClockTime::ZERO;

/// An acknowledgement, and the SSRC of the stream.
type Pending = Arc<Mutex<Option<(Acknowledgement, u32)>>>;

/// Puts the last acknowledgement into the next RTCP packet.
#[derive(Default)]
pub struct Acknowledgements {
    pending: Pending,
    connection: Mutex<Option<Connection>>,
}

impl Acknowledgements {
    /// False if packets do not come through an RTP session at this pad.
    pub fn send(&self, sink_pad: &gst::Pad, acknowledgement: Acknowledgement, ssrc: u32) -> bool {
        let Some(session) = session::find(sink_pad) else {
            return false;
        };
        self.connect(&session);
        *self.pending.lock().unwrap() = Some((acknowledgement, ssrc));
        // Where none is allowed now, it goes with the next report.
        let _: bool = session::internal(&session).emit_by_name("send-rtcp-full", &[&MAX_DELAY.nseconds()]);
        true
    }

    /// What has not been sent yet is of no use any more.
    pub fn forget(&self) {
        *self.pending.lock().unwrap() = None;
    }

    /// The next one may go through another session.
    pub fn stop(&self) {
        *self.connection.lock().unwrap() = None;
        self.forget();
    }

    fn connect(&self, session: &gst::Element) {
        let mut connection = self.connection.lock().unwrap();
        if connection.as_ref().is_some_and(|connection| connection.is_to(session)) {
            return;
        }
        let pending = self.pending.clone();
        *connection = Some(Connection::new(session, "on-sending-rtcp", move |values| {
            Some(add_pending(&pending, values).is_some().to_value())
        }));
    }
}

/// Adds what is pending to the packets that a session is about to send. Values: the session, and a buffer of RTCP packets.
fn add_pending(pending: &Mutex<Option<(Acknowledgement, u32)>>, values: &[glib::Value]) -> Option<()> {
    let session = values[0].get::<glib::Object>().ok()?;
    let buffer = values[1].get::<&gst::BufferRef>().ok()?.as_mut_ptr();
    // SAFETY: the session has just made the buffer, lends it to the handlers of this signal to add packets, and nobody else has it. It is
    // writable unless one of them has kept it.
    let buffer = unsafe {
        let is_writable = gst::ffi::gst_mini_object_is_writable(buffer.cast()) != glib::ffi::GFALSE;
        is_writable.then(|| gst::BufferRef::from_mut_ptr(buffer))
    }?;
    let (acknowledgement, ssrc) = pending.lock().unwrap().take()?;
    let packet = acknowledgement.packet(session.property("internal-ssrc"), ssrc);
    buffer.append_memory(gst::Memory::from_slice(packet));
    Some(())
}
