// SPDX-License-Identifier: MPL-2.0

use gst::glib;
use gst::prelude::*;

mod imp;
mod index;
mod search;
mod seek;
mod state;
mod stream;

glib::wrapper! {
    /// Cuts a TVC byte stream into access units and times them.
    pub struct TvcParse(ObjectSubclass<imp::TvcParse>) @extends gst_base::BaseParse, gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "tvcparse", gst::Rank::PRIMARY, TvcParse::static_type())
}
