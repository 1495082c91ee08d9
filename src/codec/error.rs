// SPDX-License-Identifier: MPL-2.0

use crate::bitstream::BitstreamError;
use crate::entropy::EntropyError;

/// Why frames do not become access units, or access units frames. None is fatal for the stream: a decoder goes on at the next key unit.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Malformed or unsupported: the header of an access unit.
    #[error("access unit: {0}")]
    Bitstream(#[from] BitstreamError),
    /// Malformed: the payload of an access unit.
    #[error("{0}")]
    Entropy(#[from] EntropyError),
    /// Malformed: an access unit is longer or shorter than its header says.
    #[error("access unit of {found} bytes, its header says {expected}")]
    Truncated {
        /// Bytes that there are.
        found: usize,
        /// Bytes by the header.
        expected: usize,
    },
    /// Malformed: the payload decodes, but not to what the encoder meant.
    #[error("damaged symbols: check value {found:04x}, the header says {expected:04x}")]
    SymbolCheck {
        /// Of the decoded symbols.
        found: u16,
        /// Of the encoder's.
        expected: u16,
    },
    /// Unsupported: the stream needs another model than the one that is loaded.
    #[error(
        "the stream was made with model {stream:016x}, loaded is {loaded:016x}: set model-file to the model that \
         the sender uses"
    )]
    WrongModel {
        /// Identity of the stream's model.
        stream: u64,
        /// Identity of the loaded model.
        loaded: u64,
    },
    /// Malformed: more frames than the model codes together.
    #[error("access unit of {found} frames, this model's have at most {expected}")]
    TooManyFrames {
        /// Frames by the header.
        found: usize,
        /// Frames of a whole unit.
        expected: usize,
    },
    /// Malformed: tokens of a key unit are masked, though there is nothing to predict them from.
    #[error("a key unit with masked tokens")]
    MaskedKeyUnit,
    /// A unit has come already, or something stands in for it.
    #[error("a unit that has come already, or too late")]
    Repeated,
    /// What a unit refers to was lost.
    #[error("the unit that this one refers to was lost")]
    LostReference,
    /// A delta unit came first, or after an error.
    #[error("no key unit has been decoded yet")]
    NoKeyUnit,
    /// Limit: a picture is smaller or larger than the format allows.
    #[error("a picture of {width}x{height}, legal are 16x16 to 8192x8192")]
    Size {
        /// In luma samples.
        width: u32,
        /// In luma samples.
        height: u32,
    },
    /// A frame is of another size than its stream, or its planes are of another size than the frame.
    #[error("a frame whose planes are not those of {}x{} samples", expected.0, expected.1)]
    Frame {
        /// Width and height of the stream in luma samples.
        expected: (usize, usize),
    },
    /// Limit: nothing that the encoder can do makes the access unit short enough for its header.
    #[error(
        "an access unit of {found} bytes at the coarsest quantizer, the bitstream takes {most}: lower coding-scale or picture size"
    )]
    UnitTooLong {
        /// Bytes of the payload.
        found: usize,
        /// The longest payload.
        most: usize,
    },
    /// The networks could not be run, for instance for want of memory.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}
