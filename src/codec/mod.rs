// SPDX-License-Identifier: MPL-2.0
//! Frames to access units and back.

mod decoder;
mod encoder;
mod error;
mod frame;
mod scene;

pub use decoder::{Decoded, Decoder};
pub use encoder::{dead_zone_reach, AccessUnit, Encoder, EncoderSettings, DEFAULT_QUANTIZER, MAX_QUANTIZER};
pub use error::CodecError;
pub use frame::Frame;
