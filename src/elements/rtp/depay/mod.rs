// SPDX-License-Identifier: MPL-2.0

use gst::glib;
use gst::prelude::*;

mod feedback;
mod imp;
mod stats;

glib::wrapper! {
    /// Makes access units of a TVC stream from RTP packets.
    pub struct RtpTvcDepay(ObjectSubclass<imp::RtpTvcDepay>) @extends gst_rtp::RTPBaseDepayload, gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(
        Some(plugin),
        "rtptvcdepay",
        gst::Rank::SECONDARY,
        RtpTvcDepay::static_type(),
    )
}
