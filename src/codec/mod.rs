// SPDX-License-Identifier: MPL-2.0
//! Frames to access units and back.

mod analysis;
mod at_rate;
mod candidate;
mod colour;
mod decoder;
mod detail;
mod encoder;
mod error;
mod frame;
mod holding;
mod ladder;
mod masking;
mod past;
mod patches;
mod rate;
mod reconstruction;
mod restore;
mod scene;
mod settings;
mod smoothing;
mod spots;
mod strips;
mod symbols;
mod synthesis;
#[cfg(all(test, feature = "train"))]
mod tests;

pub use decoder::{Decoded, Decoder, DecoderSettings};
pub use encoder::{AccessUnit, Encoder};
pub use error::CodecError;
pub use frame::Frame;
pub use holding::{CHANGE_BITS, COARSEST_IN_PLACES, HELD_ZONE, PLACE_BITS};
pub use ladder::{operating_point, scale_of, OperatingPoint, DEFAULT_QUANTIZER, MAX_QUANTIZER};
pub use masking::MaskingStrategy;
pub use rate::{Link, RateMode, DEFAULT_BUFFER_SECONDS};
pub use reconstruction::{Reconstruction, Wanted};
pub use restore::Restoration;
pub use settings::EncoderSettings;
pub use symbols::{EntropyDecoder, UnitSymbols};
