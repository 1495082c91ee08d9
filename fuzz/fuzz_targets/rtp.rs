// SPDX-License-Identifier: MPL-2.0
//! Packets of made-up streams, of which some are lost, doubled, cut off, changed or forged, are put together without panic; what comes out
//! is whole, and no more than came in.
#![no_main]

use gsttvc::bitstream::{slices, Resilience, SequenceHeader, Slice, Timing, UnitHeader};
use gsttvc::rtp::{AggregatedUnit, Depacketizer, Packet, Packetizer, Payload};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Unit {
    is_key: bool,
    is_resilient: bool,
    group: u8,
    number: u8,
    /// Bits of the slices that are there.
    slices: u16,
    half_count: u8,
    payload: u16,
}

#[derive(Arbitrary, Debug)]
enum Harm {
    None,
    Lose,
    Twice,
    Cut(u16),
    Change(u16, u8),
    Number(u16),
    Time(u32),
    Mark,
    Discont,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Send(Unit, u16),
    Aggregate(Vec<(Unit, u16)>),
    Forge(u16, u32, bool, Vec<u8>),
    Lost(bool),
    Restart,
    Wait(bool),
}

#[derive(Arbitrary, Debug)]
struct Input {
    max_reorder: u16,
    steps: Vec<Step>,
    harms: Vec<Harm>,
}

fn slice(unit: &Unit, index: u8, count: u8) -> Vec<u8> {
    let number = if unit.is_key { 0 } else { unit.number.max(1) };
    let resilience = Resilience {
        group: unit.group % 16,
        reference: number.min(1),
        unit: number,
        slice: Slice { index, count },
    };
    let header = UnitHeader {
        sequence: unit.is_key.then(|| SequenceHeader::new(64, 48, (25, 1))),
        frames: if unit.is_key { 1 } else { 8 },
        timing: Timing::Grid,
        payload_length: usize::from(unit.payload % 3000),
        symbol_check: 0,
        resilience: unit.is_resilient.then_some(resilience),
    };
    let mut bytes = header.pack();
    bytes.resize(bytes.len() + header.payload_length, 0xd4);
    bytes
}

fn access_unit(unit: &Unit) -> Vec<u8> {
    let count = if unit.is_resilient {
        (unit.half_count % 9 * 2).max(1)
    } else {
        1
    };
    let present: Vec<_> = (0..count).filter(|index| unit.slices >> index & 1 == 1).collect();
    // A unit has at least one.
    let present = if present.is_empty() { vec![0] } else { present };
    present
        .into_iter()
        .flat_map(|index| slice(unit, index, count))
        .collect()
}

#[derive(Default)]
struct Receiver {
    depacketizer: Depacketizer,
    units: Vec<gsttvc::rtp::Unit>,
    came: usize,
    sequence: u16,
    now: u64,
}

impl Receiver {
    fn push(&mut self, payload: &[u8], timestamp: u32, marker: bool, discont: bool) {
        self.came += payload.len();
        let packet = Packet {
            sequence: self.sequence,
            timestamp,
            time: Some(timestamp.into()),
            marker,
            discont,
            payload,
        };
        let _ = self.depacketizer.push(&packet, &mut self.units);
        self.now += 1;
        self.depacketizer.take_key_unit_request(self.now);
    }

    fn send(&mut self, payload: Payload, mut timestamp: u32, harm: &Harm) {
        let (mut bytes, mut marker, mut discont) = (payload.bytes, payload.marker, false);
        self.sequence = self.sequence.wrapping_add(1);
        match harm {
            Harm::None => (),
            Harm::Lose => return,
            Harm::Twice => self.push(&bytes, timestamp, marker, false),
            Harm::Cut(length) => bytes.truncate((*length).into()),
            Harm::Change(at, to) => bytes.iter_mut().skip((*at).into()).take(1).for_each(|byte| *byte = *to),
            Harm::Number(sequence) => self.sequence = *sequence,
            Harm::Time(time) => timestamp = *time,
            Harm::Mark => marker = !marker,
            Harm::Discont => discont = true,
        }
        self.push(&bytes, timestamp, marker, discont);
    }
}

fuzz_target!(|input: Input| {
    let mut packetizer = Packetizer::default();
    let mut receiver = Receiver {
        depacketizer: Depacketizer::new(true, input.max_reorder),
        ..Receiver::default()
    };
    let mut harms = input.harms.iter();
    for (n, step) in (0u32..).zip(&input.steps) {
        let timestamp = n.wrapping_mul(24_000);
        let payloads = match step {
            Step::Send(unit, room) => packetizer.packetize(&access_unit(unit), (*room).into()).unwrap(),
            Step::Aggregate(units) => {
                let units: Vec<_> = units
                    .iter()
                    .take(4)
                    .map(|(unit, offset)| (access_unit(unit), *offset))
                    .collect();
                if units.iter().any(|(bytes, _)| bytes.len() > usize::from(u16::MAX)) {
                    continue;
                }
                let units: Vec<_> = units
                    .iter()
                    .map(|(bytes, offset)| AggregatedUnit { offset: *offset, bytes })
                    .collect();
                vec![packetizer.aggregate(&units, false)]
            }
            Step::Forge(sequence, timestamp, marker, payload) => {
                receiver.sequence = *sequence;
                receiver.push(payload, *timestamp, *marker, false);
                continue;
            }
            Step::Lost(is_certain) => {
                receiver.depacketizer.note_lost_packet(*is_certain, &mut receiver.units);
                continue;
            }
            Step::Restart => {
                receiver.depacketizer.restart();
                continue;
            }
            Step::Wait(waits) => {
                receiver.depacketizer.set_waits_for_key(*waits);
                continue;
            }
        };
        for payload in payloads {
            receiver.send(payload, timestamp, harms.next().unwrap_or(&Harm::None));
        }
    }
    receiver.depacketizer.finish(&mut receiver.units);
    assert!(receiver.units.iter().map(|unit| unit.bytes.len()).sum::<usize>() <= receiver.came);
    for unit in &receiver.units {
        let slices = slices(&unit.bytes).expect("whole slices");
        assert_eq!(slices[0].0, unit.header);
    }
    let statistics = receiver.depacketizer.statistics();
    assert_eq!(statistics.units, receiver.units.len() as u64);
    assert!(statistics.requests <= 1 + receiver.now / 500);
});
