// SPDX-License-Identifier: MPL-2.0

use crate::bitstream::BitstreamError;
use crate::entropy::EntropyError;

/// Why frames do not become access units, or access units frames.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("access unit: {0}")]
    Bitstream(#[from] BitstreamError),
    #[error("{0}")]
    Entropy(#[from] EntropyError),
    #[error("access unit of {found} bytes, its header says {expected}")]
    Truncated { found: usize, expected: usize },
    #[error("damaged symbols: check value {found:04x}, the header says {expected:04x}")]
    SymbolCheck { found: u16, expected: u16 },
    #[error(
        "the stream was made with model {stream:016x}, loaded is {loaded:016x}: set model-file to the model that \
         the sender uses"
    )]
    WrongModel { stream: u64, loaded: u64 },
    #[error("access unit of {found} frames, this model's have at most {expected}")]
    TooManyFrames { found: usize, expected: usize },
    #[error("no key unit has been decoded yet")]
    NoKeyUnit,
    #[error("a picture of {width}x{height}, legal are 16x16 to 8192x8192")]
    Size { width: u32, height: u32 },
    #[error("an access unit of {found} bytes at the coarsest quantizer, the bitstream takes {most}: lower coding-scale or picture size")]
    UnitTooLong { found: usize, most: usize },
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}
