// SPDX-License-Identifier: MPL-2.0
//! Tokenized Video Compression (TVC): watchable video at 3 to 60 kbit/s.
//!
//! Most users want the GStreamer elements: `tvcenc`, `tvcdec`, `tvcparse`, `rtptvcpay` and `rtptvcdepay`. An application that links this crate registers them with
//! [`plugin_register_static`] after `gst::init`. Without GStreamer's pipelines, `Encoder` and `Decoder` turn frames into access units
//! and back:
//!
#![cfg_attr(feature = "codec", doc = "```")]
#![cfg_attr(not(feature = "codec"), doc = "```ignore")]
//! use gsttvc::bitstream::SequenceHeader;
//! use gsttvc::{Decoder, Encoder, EncoderSettings, ErrorResilience, Frame, Model, ModelSource};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::load(&ModelSource::Embedded, "cpu")?;
//! let format = SequenceHeader::new(64, 48, (25, 1));
//! let mut encoder = Encoder::new(model.clone(), format, EncoderSettings::at_quantizer(30))?;
//! let mut units = Vec::new();
//! for t in 0..9 {
//!     let mut frame = Frame::grey(64, 48);
//!     frame.planes[0][..64 * 24].fill(20 * t as u8);
//!     frame.pts = Some(t * 40_000_000);
//!     units.extend(encoder.push(frame, false)?);
//! }
//! units.extend(encoder.drain()?);
//!
//! let mut decoder = Decoder::new(model);
//! let mut frames = 0;
//! for unit in &units {
//!     frames += decoder.decode(&unit.bytes)?.frames.len();
//! }
//! assert_eq!((units.len(), frames), (2, 9));
//! # Ok(())
//! # }
//! ```
//!
//! Features: `codec` (default) is everything that needs libtorch; without it there are `tvcparse`, the RTP elements, the typefinder, [`bitstream`] and [`rtp`].
//! `train` adds the trainer and the tools, for which the inner modules become public. They may change with any release.

// A plugin writes to the log of the application, never to its terminal.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

#[cfg(feature = "codec-plugin")]
use elements::register_codec;
#[cfg(not(feature = "codec-plugin"))]
use gst::glib;

/// Modules that only the trainer and the tools reach into.
macro_rules! inner {
    ($($(#[$attribute:meta])* $name:ident;)*) => {$(
        #[cfg(feature = "train")]
        $(#[$attribute])*
        pub mod $name;
        #[cfg(not(feature = "train"))]
        #[allow(dead_code, unused_imports, reason = "parts that only the trainer and the tools use")]
        $(#[$attribute])*
        mod $name;
    )*};
}

#[warn(missing_docs)]
pub mod bitstream;
inner! {
    #[cfg(feature = "codec")]
    #[warn(missing_docs)]
    codec;
    entropy;
    #[cfg(feature = "codec")]
    model;
}
mod elements;
#[cfg(feature = "train")]
pub mod eval;
#[cfg(feature = "train")]
pub mod media;
#[cfg(feature = "train")]
pub mod metrics;
#[warn(missing_docs)]
pub mod rtp;
#[cfg(feature = "train")]
#[allow(clippy::print_stdout, clippy::print_stderr)]
pub mod train;

#[cfg(feature = "codec")]
pub use codec::{
    AccessUnit, CodecError, Decoded, Decoder, Encoder, EncoderSettings, ErrorResilience, Frame, Link, RateMode,
};
#[cfg(feature = "codec")]
pub use model::{Model, ModelError, ModelSource};

/// What an application, or a plugin that holds everything, has.
#[cfg(not(feature = "codec-plugin"))]
fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    #[cfg(feature = "codec")]
    elements::register_codec(plugin)?;
    elements::register_stream(plugin)
}

macro_rules! define_plugin {
    ($name:ident, $init:ident) => {
        gst::plugin_define!(
            $name,
            env!("CARGO_PKG_DESCRIPTION"),
            $init,
            concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
            "MPL-2.0",
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_NAME"),
            "https://crates.io/crates/gst-plugin-tvc",
            env!("BUILD_REL_DATE")
        );
    };
}

#[cfg(not(feature = "codec-plugin"))]
define_plugin!(tvc, plugin_init);
// An installation has two plugins: a typefinder is opened for every file that nobody knows at once, and must not bring libtorch along.
#[cfg(feature = "codec-plugin")]
define_plugin!(tvccodec, register_codec);
