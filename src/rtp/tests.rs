// SPDX-License-Identifier: MPL-2.0
//! Streams that are cut into packets and put together again.

use proptest::prelude::*;

use super::*;
use crate::bitstream::samples::{slice, unit};
use crate::bitstream::{slices, MAX_HEADER, MAX_PAYLOAD};

/// A packet that owns its payload.
#[derive(Clone, Debug)]
struct Sent {
    sequence: u16,
    timestamp: u32,
    marker: bool,
    payload: Vec<u8>,
}

impl Sent {
    fn push(&self, depacketizer: &mut Depacketizer, out: &mut Vec<Unit>) -> Result<(), Rejection> {
        let packet = Packet {
            sequence: self.sequence,
            timestamp: self.timestamp,
            time: Some(u64::from(self.timestamp) * 100_000 / 9),
            marker: self.marker,
            discont: false,
            payload: &self.payload,
        };
        depacketizer.push(&packet, out)
    }
}

/// Packets of access units that are 24,000 ticks apart.
fn send(units: &[Vec<u8>], room: usize) -> Vec<Sent> {
    let mut packetizer = Packetizer::default();
    let mut packets = Vec::new();
    for (n, unit) in units.iter().enumerate() {
        for payload in packetizer.packetize(unit, room).unwrap() {
            assert!(payload.bytes.len() <= room);
            packets.push(Sent {
                sequence: 65_530u16.wrapping_add(packets.len() as u16),
                timestamp: n as u32 * 24_000,
                marker: payload.marker,
                payload: payload.bytes,
            });
        }
    }
    packets
}

fn receive(packets: &[Sent]) -> (Vec<Unit>, Depacketizer) {
    let (mut depacketizer, mut units) = (Depacketizer::default(), Vec::new());
    for packet in packets {
        let _ = packet.push(&mut depacketizer, &mut units);
    }
    depacketizer.finish(&mut units);
    (units, depacketizer)
}

fn contents(units: &[Unit]) -> Vec<Vec<u8>> {
    units.iter().map(|unit| unit.bytes.clone()).collect()
}

fn access_unit(group: u8, number: u8, count: u8, payload: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|index| slice(group, number, index, count, payload))
        .collect()
}

/// Two groups of a key unit and three delta units.
fn plain() -> Vec<Vec<u8>> {
    let group = |group: u64| (0..4).map(move |n| unit((n == 0).then_some(group * 1_000_000_000), 100 + n));
    (0..2).flat_map(group).collect()
}

fn resilient(count: u8) -> Vec<Vec<u8>> {
    (0..2)
        .flat_map(|group| (0..4).map(move |number| access_unit(group, number, count, 100)))
        .collect()
}

/// Any stream of groups, of one kind or the other, in any sizes.
fn any_stream() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let group = (0usize..3000, prop::collection::vec(0usize..1500, 0..6));
    (prop::collection::vec(group, 1..6), 0u8..=8).prop_map(|(groups, half)| {
        let mut units = Vec::new();
        for (group, (key, deltas)) in groups.into_iter().enumerate() {
            for (number, payload) in std::iter::once(key).chain(deltas).enumerate() {
                units.push(match half {
                    0 => unit((number == 0).then_some(group as u64 * 1_000_000_000), payload),
                    _ => access_unit(
                        group as u8,
                        number as u8,
                        (2 * half).max(1),
                        payload / usize::from(half),
                    ),
                });
            }
        }
        units
    })
}

/// What may happen to packets.
#[derive(Clone, Debug)]
enum Harm {
    Drop(prop::sample::Index),
    Twice(prop::sample::Index, prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Cut(prop::sample::Index, prop::sample::Index),
    Flip(prop::sample::Index, prop::sample::Index, u8),
    Forge(prop::sample::Index, u16, u32, Vec<u8>),
}

fn any_harm() -> impl Strategy<Value = Harm> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        at().prop_map(Harm::Drop),
        (at(), at()).prop_map(|(a, b)| Harm::Twice(a, b)),
        (at(), at()).prop_map(|(a, b)| Harm::Swap(a, b)),
        (at(), at()).prop_map(|(a, b)| Harm::Cut(a, b)),
        (at(), at(), 0u8..8).prop_map(|(a, b, bit)| Harm::Flip(a, b, bit)),
        (at(), any::<u16>(), any::<u32>(), any::<Vec<u8>>()).prop_map(|(a, s, t, bytes)| Harm::Forge(a, s, t, bytes)),
    ]
}

fn harm(packets: &mut Vec<Sent>, harm: Harm) {
    if packets.is_empty() {
        return;
    }
    let length = packets.len();
    match harm {
        Harm::Drop(at) => drop(packets.remove(at.index(length))),
        Harm::Twice(from, to) => packets.insert(to.index(length), packets[from.index(length)].clone()),
        Harm::Swap(a, b) => packets.swap(a.index(length), b.index(length)),
        Harm::Cut(at, end) => {
            let payload = &mut packets[at.index(length)].payload;
            payload.truncate(end.index(payload.len() + 1));
        }
        Harm::Flip(at, byte, bit) => {
            let payload = &mut packets[at.index(length)].payload;
            let byte = byte.index(payload.len().max(1));
            payload.iter_mut().skip(byte).take(1).for_each(|byte| *byte ^= 1 << bit);
        }
        Harm::Forge(at, sequence, timestamp, payload) => packets.insert(
            at.index(length),
            Sent {
                sequence,
                timestamp,
                marker: payload.len() % 2 == 0,
                payload,
            },
        ),
    }
}

proptest! {
    #[test]
    fn any_stream_comes_back_bit_for_bit(units in any_stream(), room in 2usize..2000) {
        let (received, depacketizer) = receive(&send(&units, room));
        prop_assert_eq!(contents(&received), units);
        prop_assert!(received.iter().all(|unit| !unit.follows_loss));
        prop_assert_eq!((depacketizer.statistics().rejected, depacketizer.statistics().lost), (0, 0));
    }

    #[test]
    fn whatever_happens_to_packets_units_are_whole(
        units in any_stream(),
        room in 64usize..600,
        harms in prop::collection::vec(any_harm(), 0..12),
    ) {
        let mut packets = send(&units, room);
        harms.into_iter().for_each(|one| harm(&mut packets, one));
        let (received, depacketizer) = receive(&packets);
        for unit in &received {
            let slices = slices(&unit.bytes);
            prop_assert_eq!(slices.map(|slices| slices[0].0), Ok(unit.header));
        }
        let bytes = |payloads: &mut dyn Iterator<Item = usize>| payloads.sum::<usize>();
        let sent = bytes(&mut packets.iter().map(|packet| packet.payload.len()));
        prop_assert!(bytes(&mut received.iter().map(|unit| unit.bytes.len())) <= sent);
        prop_assert_eq!(depacketizer.statistics().packets, packets.len() as u64);
    }

    #[test]
    fn lost_packets_take_nothing_else_along_where_units_are_resilient(
        count in prop::sample::select(vec![1u8, 2, 4]),
        lost in prop::collection::hash_set(0usize..60, 0..10),
    ) {
        let units = resilient(count);
        let mut packets = send(&units, 2000);
        prop_assert_eq!(packets.len(), 8 * usize::from(count));
        // Key units stay: without them nothing is passed on.
        let is_key = |at: usize| (at / usize::from(count)).is_multiple_of(4);
        let is_lost = |at: usize| lost.contains(&at) && !is_key(at);
        let left: usize = (0..packets.len()).filter(|&at| !is_lost(at)).count();
        let mut at = 0..;
        packets.retain(|_| !is_lost(at.next().unwrap()));
        let (received, _) = receive(&packets);
        let slices = received.iter().map(|unit| slices(&unit.bytes).unwrap().len());
        prop_assert_eq!(slices.sum::<usize>(), left);
    }
}

#[test]
fn payloads_have_the_documented_bytes() {
    let mut packetizer = Packetizer::default();
    let key = unit(Some(0), 0);
    let payloads = packetizer.packetize(&key, key.len() + 1).unwrap();
    assert_eq!(
        payloads,
        [Payload {
            bytes: [&[0b1101_0000][..], &key].concat(),
            marker: true,
            is_key: true
        }]
    );
    let delta = unit(None, 4);
    let payloads = packetizer.packetize(&delta, 5).unwrap();
    let bytes: Vec<_> = payloads
        .iter()
        .map(|payload| (payload.bytes.clone(), payload.marker))
        .collect();
    let piece = |header: u8, range: std::ops::Range<usize>| [&[header][..], &delta[range]].concat();
    assert_eq!(delta.len(), 10);
    assert_eq!(
        bytes,
        [
            (piece(0b1000_0001, 0..4), false),
            (piece(0b0000_0001, 4..8), false),
            (piece(0b0100_0001, 8..10), true)
        ]
    );
}

#[test]
fn the_examples_of_the_specification_are_what_is_sent() {
    let mut packetizer = Packetizer::default();
    let mut send = |unit: &[u8]| packetizer.packetize(unit, 1200).unwrap();
    let beginnings = |payloads: &[Payload]| -> Vec<_> {
        let beginning = |payload: &Payload| (payload.bytes[..4].to_vec(), payload.bytes.len(), payload.marker);
        payloads.iter().map(beginning).collect()
    };
    let key = unit(Some(0), 59);
    assert_eq!(beginnings(&send(&key)), [(vec![0xd0, 0xd4, 0x80, 0x3b], 96, true)]);
    let delta = unit(None, 2399);
    assert_eq!(
        beginnings(&send(&delta)),
        [
            (vec![0x81, 0xd4, 0x70, 0xdf], 803, false),
            ([&[0x01][..], &delta[802..805]].concat(), 803, false),
            ([&[0x41][..], &delta[1604..1607]].concat(), 803, true)
        ]
    );
    let slices = send(&access_unit(0, 1, 2, 10));
    assert_eq!(
        beginnings(&slices),
        [
            (vec![0xc2, 0xd4, 0x72, 10], 20, false),
            (vec![0xc2, 0xd4, 0x72, 10], 20, true)
        ]
    );
    let (one, other) = (unit(None, 10), unit(None, 11));
    let units = [(0, &one), (24_000, &other)].map(|(offset, bytes)| AggregatedUnit { offset, bytes });
    let expected = [&[0xe3, 0, 16][..], &one, &[0x5d, 0xc0, 0, 17], &other].concat();
    assert_eq!(packetizer.aggregate(&units, false).bytes, expected);
}

#[test]
fn each_slice_has_packets_of_its_own() {
    let units = vec![access_unit(0, 0, 4, 100)];
    let packets = send(&units, 1200);
    assert_eq!(packets.len(), 4);
    assert_eq!(
        packets.iter().map(|packet| packet.marker).collect::<Vec<_>>(),
        [false, false, false, true]
    );
}

#[test]
fn what_is_no_access_unit_is_not_sent() {
    let mut packetizer = Packetizer::default();
    let whole = unit(None, 20);
    for bytes in [
        &[][..],
        b"hello",
        &whole[..whole.len() - 1],
        &[&whole[..], &whole].concat(),
    ] {
        assert!(packetizer.packetize(bytes, 1200).is_err());
    }
}

#[test]
fn aggregated_units_come_out_one_by_one_with_their_times() {
    let units = plain();
    let mut packetizer = Packetizer::default();
    let offsets = [0u16, 3_600, 24_000, 24_000];
    let all: Vec<_> = units
        .iter()
        .zip(offsets)
        .map(|(unit, offset)| AggregatedUnit { offset, bytes: unit })
        .collect();
    let packet = Sent {
        sequence: 0,
        timestamp: 90_000,
        marker: true,
        payload: packetizer.aggregate(&all, true).bytes,
    };
    let (received, depacketizer) = receive(&[packet]);
    assert_eq!(contents(&received), units[..4]);
    let times: Vec<_> = received.iter().map(|unit| unit.time.unwrap()).collect();
    assert_eq!(
        times,
        [0, 3_600, 27_600, 51_600].map(|ticks: u64| 1_000_000_000 + ticks * 100_000 / 9)
    );
    assert_eq!(depacketizer.statistics().rejected, 0);
}

#[test]
fn an_aggregation_packet_with_one_bad_unit_is_dropped() {
    let (good, bad) = (unit(Some(0), 20), &unit(None, 20)[..10]);
    let all = [&good[..], bad].map(|bytes| AggregatedUnit { offset: 0, bytes });
    let payload = Packetizer::default().aggregate(&all, true).bytes;
    let (received, depacketizer) = receive(&[Sent {
        sequence: 0,
        timestamp: 0,
        marker: true,
        payload,
    }]);
    assert!(received.is_empty());
    assert_eq!(
        (depacketizer.statistics().rejected, depacketizer.statistics().lost),
        (1, 1)
    );
}

#[test]
fn without_resilience_a_lost_packet_costs_the_rest_of_its_group() {
    let units = plain();
    let mut packets = send(&units, 60);
    let lost = packets.iter().position(|packet| packet.timestamp == 24_000).unwrap();
    packets.remove(lost + 1);
    let (received, depacketizer) = receive(&packets);
    assert_eq!(contents(&received), [&units[..1], &units[4..]].concat());
    let follow: Vec<_> = received.iter().map(|unit| unit.follows_loss).collect();
    assert_eq!(follow, [false, true, false, false, false]);
    let statistics = depacketizer.statistics();
    assert_eq!((statistics.lost, statistics.dropped), (1, 2));
}

#[test]
fn a_late_joiner_gets_a_key_unit_first() {
    let units = plain();
    let packets = send(&units, 1200);
    let (received, depacketizer) = receive(&packets[1..]);
    assert_eq!(contents(&received), units[4..]);
    assert_eq!(depacketizer.statistics().dropped, 3);
}

#[test]
fn slices_are_passed_on_without_those_that_are_lost() {
    let units = resilient(4);
    let mut packets = send(&units, 1200);
    // The last slice of unit 1, with the marker, and the first of unit 2.
    packets.drain(7..9);
    let (received, depacketizer) = receive(&packets);
    assert_eq!(received.len(), 8);
    assert_eq!(received[1].bytes, units[1][..units[1].len() * 3 / 4]);
    assert_eq!(received[2].bytes, units[2][units[2].len() / 4..]);
    let follow: Vec<_> = received.iter().map(|unit| unit.follows_loss).collect();
    assert_eq!(follow, [false, true, true, false, false, false, false, false]);
    let times: Vec<_> = received.iter().map(|unit| unit.time.unwrap()).collect();
    assert_eq!(
        times,
        (0..8).map(|n| n * 24_000 * 100_000 / 9).collect::<Vec<_>>(),
        "each has its own"
    );
    let statistics = depacketizer.statistics();
    assert_eq!((statistics.damaged, statistics.lost, statistics.rejected), (2, 0, 0));
}

#[test]
fn gaps_in_sequence_numbers_are_no_losses_where_the_numbers_of_units_go_on() {
    let units = plain();
    let mut packets = send(&units, 1200);
    // As behind packets of forward error correction that were taken out.
    for (n, packet) in packets.iter_mut().enumerate() {
        packet.sequence = packet.sequence.wrapping_add(3 * n as u16);
    }
    let (received, depacketizer) = receive(&packets);
    assert_eq!(contents(&received), units);
    assert!(received.iter().all(|unit| !unit.follows_loss));
    assert_eq!(depacketizer.statistics().lost, 0);
}

#[test]
fn lost_units_are_noticed_where_sequence_numbers_were_made_anew() {
    let units = plain();
    for room in [1200, 60] {
        let mut packets = send(&units, room);
        let lost = packets.iter().position(|packet| packet.timestamp == 24_000).unwrap();
        packets.remove(lost);
        for (n, packet) in packets.iter_mut().enumerate() {
            packet.sequence = n as u16;
        }
        let (received, depacketizer) = receive(&packets);
        assert_eq!(contents(&received), [&units[..1], &units[4..]].concat());
        assert_eq!(depacketizer.statistics().lost, 1);
    }
}

#[test]
fn sixteen_lost_units_are_not_taken_for_none() {
    let units: Vec<_> = (0..20).map(|n| unit((n == 0).then_some(0), 10)).collect();
    let mut packets = send(&units, 1200);
    packets.drain(2..18);
    let (received, depacketizer) = receive(&packets);
    assert_eq!((received.len(), depacketizer.statistics().lost), (2, 16));
}

#[test]
fn duplicates_and_late_packets_are_dropped() {
    let units = plain();
    let packets = send(&units, 60);
    let doubled: Vec<_> = packets
        .iter()
        .flat_map(|packet| [packet.clone(), packet.clone()])
        .collect();
    let (received, depacketizer) = receive(&doubled);
    assert_eq!(contents(&received), units);
    assert_eq!(depacketizer.statistics().rejected, packets.len() as u64);
}

#[test]
fn an_access_unit_of_which_the_last_slice_is_lost_is_not_waited_for() {
    let units = resilient(2);
    let packets = send(&units, 1200);
    let (mut depacketizer, mut out) = (Depacketizer::default(), Vec::new());
    packets[..3]
        .iter()
        .for_each(|packet| packet.push(&mut depacketizer, &mut out).unwrap());
    assert_eq!(out.len(), 1);
    depacketizer.note_lost_packet(false, &mut out);
    assert_eq!(out.len(), 1, "it may have been one of forward error correction");
    depacketizer.note_lost_packet(true, &mut out);
    assert_eq!(out.len(), 2);
    assert_eq!(packets[3].push(&mut depacketizer, &mut out), Err(Rejection::Over));
}

#[test]
fn endless_fragments_are_bounded() {
    let (mut depacketizer, mut out) = (Depacketizer::default(), Vec::new());
    let mut push = |sequence, payload: &[u8]| {
        let packet = Packet {
            sequence,
            timestamp: 0,
            time: None,
            marker: false,
            discont: false,
            payload,
        };
        depacketizer.push(&packet, &mut out)
    };
    let start = unit(Some(0), MAX_PAYLOAD);
    push(0, &[&[0x90][..], &start[..1000]].concat()).unwrap();
    let middle = [&[0x10][..], &[7; 10_000]].concat();
    let taken = (1..=10_000)
        .take_while(|&sequence| push(sequence, &middle).is_ok())
        .count();
    assert!(taken * 10_000 <= MAX_PAYLOAD + MAX_HEADER, "{taken} fragments");
    assert_eq!(push(10_001, &middle), Err(Rejection::NoStart), "they are gone");
    // Empty ones take no room.
    push(10_002, &[&[0x90][..], &start[..1000]].concat()).unwrap();
    (10_003..=u16::MAX).for_each(|sequence| push(sequence, &[0x10]).unwrap());
    assert!(out.is_empty());
}
