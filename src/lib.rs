// SPDX-License-Identifier: MPL-2.0
//! Tokenized Video Compression for GStreamer.

pub mod bitstream;
#[cfg(feature = "codec")]
pub mod codec;
pub mod entropy;
#[cfg(feature = "codec")]
pub mod model;
#[cfg(feature = "train")]
pub mod train;

/// Number of values of each of the six digits of a token: 64,000 tokens.
pub const FSQ_LEVELS: [u8; 6] = [8, 8, 8, 5, 5, 5];
