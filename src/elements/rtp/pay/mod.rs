// SPDX-License-Identifier: MPL-2.0

use gst::glib;
use gst::prelude::*;

mod aggregator;
mod feedback;
mod imp;

glib::wrapper! {
    /// Cuts access units of a TVC stream into RTP packets.
    pub struct RtpTvcPay(ObjectSubclass<imp::RtpTvcPay>) @extends gst_rtp::RTPBasePayload, gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(
        Some(plugin),
        "rtptvcpay",
        gst::Rank::SECONDARY,
        RtpTvcPay::static_type(),
    )
}
