// SPDX-License-Identifier: MPL-2.0
//! The token bitstream: headers of access units and the times of their frames. `docs/bitstream.md` is the
//! specification.

mod fields;
mod header;
mod scale;
mod timing;

pub use header::{
    find_key_unit, SequenceHeader, UnitHeader, DELTA_FRAMES, MAX_HEADER, MAX_PAYLOAD, MAX_SIZE, MIN_SIZE, SYNC,
};
pub use scale::CodingScale;
pub use timing::{rounded_like, Clock, FrameTimes, Timing};

/// Why bytes are not an access unit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BitstreamError {
    /// More bytes may complete the header.
    #[error("the header is cut off")]
    Incomplete,
    #[error("no access unit starts with 0x{0:02x}")]
    NoSync(u8),
    #[error("malformed {field}: {value}, legal is {legal}")]
    Malformed {
        field: &'static str,
        value: u64,
        legal: &'static str,
    },
    #[error("bitstream version {0} is not supported, this build reads version {VERSION}", VERSION = header::VERSION)]
    UnsupportedVersion(u8),
    #[error("the header's check value does not match")]
    HeaderCheck,
}
