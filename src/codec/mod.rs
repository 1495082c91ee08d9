// SPDX-License-Identifier: MPL-2.0
//! Frames to access units and back.

mod colour;
mod decoder;
mod encoder;
mod error;
mod frame;
mod geometry;
mod halves;
mod interpolation;
mod recon;
#[cfg(test)]
mod tests;

#[cfg(feature = "train")]
pub(crate) use decoder::follow_neighbours;
pub use decoder::{Decoded, Decoder, DecoderSettings, EntropyDecoder, Painter, ParsedUnit};
#[cfg(feature = "train")]
pub(crate) use encoder::{camera_path, SentUnit};
pub use encoder::{
    operating_point, scale_of, AccessUnit, Encoder, EncoderAblation, EncoderSettings, ErrorResilience, Link,
    MaskingStrategy, OperatingPoint, RateMode, Rdoq, CHANGE_BITS, COARSEST_WITH_SKIP_MAP, DEFAULT_BUFFER_SECONDS,
    DEFAULT_QUANTIZER, MAX_QUANTIZER, POSITION_BITS,
};
#[cfg(test)]
pub(crate) use encoder::{skip_map, Analysis};
pub use error::CodecError;
pub use frame::Frame;
#[cfg(all(test, feature = "train"))]
pub(crate) use interpolation::cut;
#[cfg(feature = "train")]
pub(crate) use interpolation::{weights, BEFORE, ONE, PHASES, TAPS};
#[cfg(feature = "train")]
pub(crate) use recon::nearest_tokens;
pub use recon::{MaskedTokens, ReconstructionSettings, Wanted};
