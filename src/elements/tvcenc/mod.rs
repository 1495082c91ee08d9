// SPDX-License-Identifier: MPL-2.0

use gst::glib;
use gst::prelude::*;

mod imp;
mod settings;
mod timeline;

glib::wrapper! {
    /// Compresses raw video to a TVC stream.
    pub struct TvcEnc(ObjectSubclass<imp::TvcEnc>) @extends gst_video::VideoEncoder, gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    // encodebin and profiles like `video/x-tvc` see no encoder below this rank; nothing else picks one that was not asked for.
    gst::Element::register(Some(plugin), "tvcenc", gst::Rank::MARGINAL, TvcEnc::static_type())
}
