// SPDX-License-Identifier: MPL-2.0
//! Units for tests: headers that are right, payloads that nobody decodes.

use super::{Resilience, SequenceHeader, Slice, Timing, UnitHeader};

fn bytes(header: UnitHeader) -> Vec<u8> {
    let mut bytes = header.pack();
    // They look like the beginning of units.
    bytes.resize(bytes.len() + header.payload_length, 0xd4);
    bytes
}

fn header(key: Option<u64>, payload_length: usize) -> UnitHeader {
    let sequence = key.map(|pts| SequenceHeader {
        pts: Some(pts),
        ..SequenceHeader::sample()
    });
    UnitHeader {
        sequence,
        frames: if key.is_some() { 1 } else { 8 },
        timing: Timing::Grid,
        payload_length,
        symbol_check: 0,
        resilience: None,
    }
}

/// A key unit at a time in ns, or a delta unit, without resilience fields.
pub fn unit(key: Option<u64>, payload: usize) -> Vec<u8> {
    bytes(header(key, payload))
}

/// A slice of unit `number` of a group; number 0 is a key unit, nine frames after that of the group before.
pub fn slice(group: u8, number: u8, index: u8, count: u8, payload: usize) -> Vec<u8> {
    let key = (number == 0).then_some(u64::from(group) * 9 * 40_000_000);
    let resilience = Resilience {
        group: group % 16,
        reference: number.min(1),
        unit: number,
        slice: Slice { index, count },
    };
    bytes(UnitHeader {
        resilience: Some(resilience),
        ..header(key, payload)
    })
}
