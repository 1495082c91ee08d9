// SPDX-License-Identifier: MPL-2.0
//! The GStreamer elements.

mod acknowledge;
pub mod caps;
#[cfg(feature = "codec")]
mod convert;
#[cfg(feature = "codec")]
mod latency;
pub mod rtp;
#[cfg(feature = "codec")]
mod runtime;
#[cfg(feature = "codec")]
pub mod tvcdec;
#[cfg(feature = "codec")]
pub mod tvcenc;
pub mod tvcparse;
pub mod typefind;

use gst::glib;

/// The elements that need libtorch.
#[cfg(feature = "codec")]
pub fn register_codec(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    tvcenc::register(plugin)?;
    tvcdec::register(plugin)
}

/// What works on streams without decoding them.
#[cfg_attr(
    feature = "codec-plugin",
    allow(dead_code, reason = "the plugin beside it has these")
)]
pub fn register_stream(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    tvcparse::register(plugin)?;
    rtp::register(plugin)?;
    typefind::register(plugin)
}
