// SPDX-License-Identifier: MPL-2.0
//! The RTP payload format: access units to payloads and back, without GStreamer. `docs/rtp-payload.md` is the specification.
//!
//! ```
//! use gsttvc::bitstream::{SequenceHeader, Timing, UnitHeader};
//! use gsttvc::rtp::{Depacketizer, Packet, Packetizer};
//!
//! let header = UnitHeader {
//!     sequence: Some(SequenceHeader::new(64, 48, (25, 1))),
//!     frames: 1,
//!     timing: Timing::Grid,
//!     payload_length: 3000,
//!     symbol_check: 0,
//!     resilience: None,
//! };
//! let unit = [header.pack(), vec![0; 3000]].concat();
//! let payloads = Packetizer::default().packetize(&unit, 1200)?;
//!
//! let (mut depacketizer, mut units) = (Depacketizer::default(), Vec::new());
//! for (sequence, payload) in (0..).zip(&payloads) {
//!     let (marker, payload) = (payload.marker, &payload.bytes);
//!     let packet = Packet { sequence, timestamp: 0, time: None, marker, discont: false, payload };
//!     depacketizer.push(&packet, &mut units).unwrap();
//! }
//! assert_eq!(units[0].bytes, unit);
//! # Ok::<(), gsttvc::bitstream::BitstreamError>(())
//! ```

mod acknowledgement;
mod aggregate;
mod depacketizer;
mod fragment;
mod header;
mod loss;
mod packetizer;
#[cfg(test)]
mod tests;

pub use acknowledgement::{Acknowledgement, PAYLOAD_FEEDBACK, REFERENCE_PICTURE};
pub use aggregate::{AggregatedUnit, MAX_OFFSET};
pub use depacketizer::{Depacketizer, Packet, Unit};
pub use header::{PayloadHeader, NUMBERS};
pub use loss::{Statistics, REQUEST_INTERVAL_MS};
pub use packetizer::{Packetizer, Payload};

use crate::bitstream::BitstreamError;

/// Ticks of the RTP clock in a second.
pub const CLOCK_RATE: u32 = 90_000;

/// Why a packet is dropped, or feedback ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It has no payload header.
    #[error("an empty payload")]
    Empty,
    /// It came before, or too late.
    #[error("an old packet or a duplicate")]
    Old,
    /// Its access unit has been passed on.
    #[error("a packet of an access unit that is over")]
    Over,
    /// The fragments before it are missing.
    #[error("a fragment without the ones before it")]
    NoStart,
    /// There is more of it than its header says.
    #[error("fragments of more bytes than their unit has")]
    TooLong,
    /// There is less of it than its header says.
    #[error("fragments of fewer bytes than their unit has")]
    TooShort,
    /// A slice that does not belong to its access unit.
    #[error("a slice that is not a later one of the same access unit")]
    ForeignSlice,
    /// Its parts do not fill an aggregation packet.
    #[error("malformed aggregation packet")]
    Aggregate,
    /// No acknowledgement of a unit.
    #[error("malformed acknowledgement")]
    Acknowledgement,
    /// There is no unit in it.
    #[error(transparent)]
    Unit(#[from] BitstreamError),
}
