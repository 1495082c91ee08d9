// SPDX-License-Identifier: MPL-2.0
//! RTP payloader and depayloader.

pub mod depay;
pub mod pay;
mod session;

use gst::glib;

use crate::rtp::CLOCK_RATE;

/// Of RTP caps and SDP.
const ENCODING_NAME: &str = "TVC";

/// Caps of RTP packets that carry a TVC stream.
fn packets() -> gst::caps::Builder<gst::caps::NoFeature> {
    gst::Caps::builder("application/x-rtp")
        .field("media", "video")
        .field("clock-rate", CLOCK_RATE as i32)
        .field("encoding-name", ENCODING_NAME)
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    pay::register(plugin)?;
    depay::register(plugin)
}
