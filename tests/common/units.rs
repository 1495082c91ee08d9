// SPDX-License-Identifier: MPL-2.0
//! Streams that are made by hand: right headers, payloads that nobody decodes.

use gsttvc::bitstream::{Resilience, SequenceHeader, Slice, Timing, UnitHeader};

use super::{FRAME, HEIGHT, WIDTH};

fn bytes(key: Option<u64>, resilience: Option<Resilience>, payload: usize) -> Vec<u8> {
    let sequence = key.map(|frame| SequenceHeader {
        model_id: 77,
        pts: Some(frame * FRAME.nseconds()),
        ..SequenceHeader::new(WIDTH, HEIGHT, (25, 1))
    });
    let header = UnitHeader {
        sequence,
        frames: if key.is_some() { 1 } else { 8 },
        timing: Timing::Grid,
        payload_length: payload,
        symbol_check: payload as u16,
        resilience,
    };
    let mut bytes = header.pack();
    // Like the beginnings of units.
    bytes.resize(bytes.len() + payload, 0xd4);
    bytes
}

/// A key unit that is shown as frame `key`, or a delta unit, without resilience fields.
pub fn unit(key: Option<u64>, payload: usize) -> Vec<u8> {
    bytes(key, None, payload)
}

/// Slice `index` of `count` of unit `number` of a group. Number 0 is a key unit; groups are 17 frames apart.
pub fn slice(group: u64, number: u8, (index, count): (u8, u8), payload: usize) -> Vec<u8> {
    let resilience = Resilience {
        group: (group % 16) as u8,
        reference: number.min(1),
        unit: number,
        slice: Slice { index, count },
    };
    bytes((number == 0).then_some(17 * group), Some(resilience), payload)
}

/// All slices of one access unit.
pub fn access_unit(group: u64, number: u8, count: u8, payload: usize) -> Vec<u8> {
    let all = (0..count).flat_map(|index| slice(group, number, (index, count), payload));
    all.collect()
}

/// Groups of a key unit and two delta units.
pub fn plain_stream(groups: u64, payload: usize) -> Vec<Vec<u8>> {
    let group = |group| {
        [
            unit(Some(17 * group), payload),
            unit(None, payload),
            unit(None, payload),
        ]
    };
    (0..groups).flat_map(group).collect()
}

/// The same with resilience fields, in slices.
pub fn resilient_stream(groups: u64, count: u8, payload: usize) -> Vec<Vec<u8>> {
    let group = |group| (0..3).map(move |number| access_unit(group, number, count, payload));
    (0..groups).flat_map(group).collect()
}
