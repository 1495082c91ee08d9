// SPDX-License-Identifier: MPL-2.0
//! The RTP session that packets go through.

use gst::glib;
use gst::glib::translate::from_glib_full;
use gst::prelude::*;

/// More pads than between a payloader or depayloader and its session anywhere.
const MOST_PADS: usize = 64;

/// The `rtpsession` beyond a pad, if packets go to or come from one: by itself, in an `rtpbin`, or deeper inside.
pub fn find(pad: &gst::Pad) -> Option<gst::Element> {
    let mut reached = vec![pad.peer()?];
    let mut next = 0;
    while next < reached.len().min(MOST_PADS) {
        let pad = reached[next].clone();
        if let Some(element) = pad.parent_element().filter(is_session) {
            return Some(element);
        }
        reached.extend(pads_behind(&pad).filter_map(|pad| pad.peer()));
        next += 1;
    }
    None
}

fn is_session(element: &gst::Element) -> bool {
    element.factory().is_some_and(|factory| factory.name() == "rtpsession")
}

/// The pads that data goes on from, or comes from, on the other side of the element.
fn pads_behind(pad: &gst::Pad) -> impl Iterator<Item = gst::Pad> {
    // SAFETY: the function takes any pad, and gives an iterator of pads; or none where the pad has no parent, which the binding knows nothing of.
    let pads: Option<gst::Iterator<gst::Pad>> =
        unsafe { from_glib_full(gst::ffi::gst_pad_iterate_internal_links(pad.as_ptr())) };
    // Pads that come or go meanwhile end it; whoever looks for a session does so again.
    pads.into_iter().flatten().map_while(Result::ok)
}

/// The object (`RTPSession`) that signals what goes through an `rtpsession`, from any thread.
pub fn internal(session: &gst::Element) -> glib::Object {
    session.property("internal-session")
}

/// A handler of a session's signal, for as long as this lives.
pub struct Connection {
    session: glib::WeakRef<gst::Element>,
    handler: Option<glib::SignalHandlerId>,
}

impl Connection {
    /// `handler` gets what the signal comes with, the session itself first.
    pub fn new<F>(session: &gst::Element, signal: &str, handler: F) -> Connection
    where
        F: Fn(&[glib::Value]) -> Option<glib::Value> + Send + Sync + 'static,
    {
        let handler = internal(session).connect(signal, false, handler);
        Connection {
            session: session.downgrade(),
            handler: Some(handler),
        }
    }

    pub fn is_to(&self, session: &gst::Element) -> bool {
        self.session.upgrade().as_ref() == Some(session)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some((session, handler)) = self.session.upgrade().zip(self.handler.take()) {
            internal(&session).disconnect(handler);
        }
    }
}
