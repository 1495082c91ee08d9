// SPDX-License-Identifier: MPL-2.0
//! Frames to access units and back.

mod analysis;
mod decoder;
mod encoder;
mod error;
mod frame;
mod ladder;
mod past;
mod rate;
mod scene;

pub use decoder::{Decoded, Decoder};
pub use encoder::{AccessUnit, Encoder, EncoderSettings};
pub use error::CodecError;
pub use frame::Frame;
pub use ladder::{operating_point, OperatingPoint, DEFAULT_QUANTIZER, MAX_QUANTIZER};
