// SPDX-License-Identifier: MPL-2.0

use gst::glib;
use gst::prelude::*;

mod format;
mod imp;
mod input;
mod output;
mod painter;
mod qos;
mod stages;
mod streaming;
#[cfg(test)]
mod tests;
mod threads;

glib::wrapper! {
    /// Decompresses a TVC stream to raw video.
    pub struct TvcDec(ObjectSubclass<imp::TvcDec>) @extends gst_video::VideoDecoder, gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "tvcdec", gst::Rank::PRIMARY, TvcDec::static_type())
}
