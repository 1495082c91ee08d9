// SPDX-License-Identifier: MPL-2.0
//! Tokenized Video Compression for GStreamer.

// A plugin writes to the log of the application, never to its terminal.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

use gst::glib;

pub mod bitstream;
#[cfg(feature = "codec")]
pub mod codec;
pub mod elements;
pub mod entropy;
#[cfg(feature = "train")]
pub mod eval;
#[cfg(feature = "train")]
pub mod media;
#[cfg(feature = "train")]
pub mod metrics;
#[cfg(feature = "codec")]
pub mod model;
#[cfg(feature = "train")]
#[allow(clippy::print_stdout, clippy::print_stderr)]
pub mod train;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    #[cfg(feature = "codec")]
    elements::tvcenc::register(plugin)?;
    #[cfg(feature = "codec")]
    elements::tvcdec::register(plugin)?;
    elements::tvcparse::register(plugin)?;
    elements::typefind::register(plugin)
}

gst::plugin_define!(
    tvc,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL-2.0",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    "https://crates.io/crates/gst-plugin-tvc",
    env!("BUILD_REL_DATE")
);
