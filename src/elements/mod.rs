// SPDX-License-Identifier: MPL-2.0
//! The GStreamer elements.

pub mod caps;
#[cfg(feature = "codec")]
mod convert;
#[cfg(feature = "codec")]
mod latency;
#[cfg(feature = "codec")]
mod runtime;
#[cfg(feature = "codec")]
pub mod tvcdec;
#[cfg(feature = "codec")]
pub mod tvcenc;
pub mod tvcparse;
pub mod typefind;
