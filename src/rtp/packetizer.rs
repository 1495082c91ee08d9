// SPDX-License-Identifier: MPL-2.0

use super::aggregate::{self, AggregatedUnit};
use super::{PayloadHeader, NUMBERS};
use crate::bitstream::{slices, BitstreamError, UnitHeader};

/// Cuts access units into RTP payloads.
#[derive(Clone, Debug, Default)]
pub struct Packetizer {
    /// Of the next access unit or aggregation packet.
    number: u8,
}

/// What follows an RTP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The payload header and what follows it.
    pub bytes: Vec<u8>,
    /// RTP's marker bit: the last packet of an access unit.
    pub marker: bool,
    /// Whether it belongs to a key unit.
    pub is_key: bool,
}

impl Packetizer {
    /// The payloads of one access unit, each of at most `room` bytes, or of 2 if that is less. All have the same RTP timestamp.
    pub fn packetize(&mut self, unit: &[u8], room: usize) -> Result<Vec<Payload>, BitstreamError> {
        let slices = slices(unit)?;
        let number = self.next_number();
        let room = room.saturating_sub(1).max(1);
        let cut = |(header, range): &(UnitHeader, std::ops::Range<usize>)| {
            fragments(&unit[range.clone()], header.is_key(), number, room)
        };
        let mut payloads: Vec<_> = slices.iter().flat_map(cut).collect();
        payloads.last_mut().expect("a slice has bytes").marker = true;
        Ok(payloads)
    }

    /// One payload of several access units.
    ///
    /// # Panics
    /// If a unit is empty or longer than 65,535 bytes.
    pub fn aggregate(&mut self, units: &[AggregatedUnit], is_key: bool) -> Payload {
        let header = PayloadHeader {
            start: true,
            end: true,
            aggregate: true,
            key: is_key,
            number: self.next_number(),
        };
        let mut bytes = vec![header.pack()];
        aggregate::pack(units, &mut bytes);
        let marker = true;
        Payload { bytes, marker, is_key }
    }

    fn next_number(&mut self) -> u8 {
        let number = self.number;
        self.number = (number + 1) % NUMBERS;
        number
    }
}

/// Pieces of a slice of about the same size: forward error correction pads them to the largest.
fn fragments(slice: &[u8], key: bool, number: u8, room: usize) -> Vec<Payload> {
    let count = slice.len().div_ceil(room);
    let pieces: Vec<_> = slice.chunks(slice.len().div_ceil(count)).collect();
    let payload = |(n, piece): (usize, &&[u8])| {
        let header = PayloadHeader {
            start: n == 0,
            end: n + 1 == pieces.len(),
            aggregate: false,
            key,
            number,
        };
        Payload {
            bytes: [&[header.pack()], *piece].concat(),
            marker: false,
            is_key: key,
        }
    };
    pieces.iter().enumerate().map(payload).collect()
}
