// SPDX-License-Identifier: MPL-2.0
//! A link that loses packets.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::repair::{Budget, Repair, FEC_HEADERS, RETRANSMISSION_HEADER};
use crate::bitstream::slices_at_front;

/// Bytes of a packet that are not of the stream: IPv4, UDP, RTP and the payload header.
pub const PACKET_HEADERS: usize = 20 + 8 + 12 + 1;

/// How packets are lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossModel {
    /// Each with the same probability.
    Independent(f64),
    /// Two states with probabilities of a loss of their own, and those of going to the other state after a packet (Gilbert, "Capacity of a
    /// Burst-Noise Channel", 1960; Elliott, 1963).
    GilbertElliott {
        /// Losses in the good and in the bad state.
        losses: [f64; 2],
        /// From the good state to the bad one, and back.
        changes: [f64; 2],
    },
}

impl LossModel {
    /// A channel has been there before the stream: even a stream of few packets meets its bad state as often as any.
    fn starts_bad(self, rng: &mut StdRng) -> bool {
        match self {
            LossModel::GilbertElliott {
                changes: [to_bad, to_good],
                ..
            } if to_bad > 0.0 => rng.random_bool(to_bad / (to_bad + to_good)),
            _ => false,
        }
    }
}

/// A link, from packet to packet.
pub struct Channel {
    model: LossModel,
    repair: Repair,
    parity: Budget,
    /// Payload of a packet in bytes, at most.
    payload: usize,
    is_bad: bool,
    rng: StdRng,
    /// What has been sent, headers included.
    pub bytes: usize,
    pub packets: usize,
    pub lost: usize,
}

impl Channel {
    /// `mtu`: bytes of a packet without IP and UDP headers.
    pub fn new(model: LossModel, repair: Repair, mtu: usize, seed: u64) -> Channel {
        let mut rng = StdRng::seed_from_u64(seed);
        Channel {
            model,
            repair,
            parity: Budget::default(),
            payload: mtu.saturating_sub(13).max(1),
            is_bad: model.starts_bad(&mut rng),
            rng,
            bytes: 0,
            packets: 0,
            lost: 0,
        }
    }

    /// Sends an access unit, each slice in packets of its own; what of it comes through. `pause`: seconds until the next unit.
    pub fn send(&mut self, unit: &[u8], pause: f64) -> Vec<u8> {
        let (mut slices, mut at) = (Vec::new(), 0);
        for (_, payload) in slices_at_front(unit) {
            slices.push(&unit[at..payload.end]);
            at = payload.end;
        }
        let packets: Vec<usize> = slices
            .iter()
            .flat_map(|slice| slice.chunks(self.payload).map(<[u8]>::len))
            .collect();
        let mut arrived = self.deliver(&packets, pause).into_iter();
        let mut received = Vec::new();
        for slice in slices {
            let count = slice.len().div_ceil(self.payload);
            if arrived.by_ref().take(count).fold(true, |all, one| all & one) {
                received.extend_from_slice(slice);
            }
        }
        received
    }

    /// Sends the packets of a unit, by their lengths; which of them are there in the end.
    fn deliver(&mut self, packets: &[usize], pause: f64) -> Vec<bool> {
        let mut arrived: Vec<bool> = packets.iter().map(|&length| !self.loses(length)).collect();
        match self.repair {
            Repair::None => (),
            Repair::Retransmission { .. } => self.send_again(packets, pause, &mut arrived),
            Repair::Parity(share) => self.send_parity(packets, share, &mut arrived),
        }
        arrived
    }

    fn send_again(&mut self, packets: &[usize], pause: f64, arrived: &mut [bool]) {
        for (at, &length) in packets.iter().enumerate() {
            // Only the next packet tells that one is missing, and after the last one of a unit it takes its time.
            let noticed = if at + 1 == packets.len() { pause } else { 0.0 };
            let mut tries = self.repair.tries(noticed);
            while !arrived[at] && tries > 0 {
                arrived[at] = !self.loses(length + RETRANSMISSION_HEADER);
                tries -= 1;
            }
        }
    }

    fn send_parity(&mut self, packets: &[usize], share: f64, arrived: &mut [bool]) {
        for group in self.parity.groups(packets.len(), share) {
            let longest = packets[group.clone()].iter().copied().max().unwrap_or(0);
            let is_lost = self.loses(longest + FEC_HEADERS);
            let mut missing = group.filter(|&at| !arrived[at]);
            if let (Some(at), None, false) = (missing.next(), missing.next(), is_lost) {
                arrived[at] = true;
            }
        }
    }

    fn loses(&mut self, length: usize) -> bool {
        self.packets += 1;
        self.bytes += length + PACKET_HEADERS;
        let probability = match self.model {
            LossModel::Independent(probability) => probability,
            LossModel::GilbertElliott { losses, changes } => {
                self.is_bad ^= self.rng.random_bool(changes[usize::from(self.is_bad)]);
                losses[usize::from(self.is_bad)]
            }
        };
        let is_lost = self.rng.random_bool(probability);
        self.lost += usize::from(is_lost);
        is_lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::{Timing, UnitHeader};

    fn unit(payload: usize) -> Vec<u8> {
        let header = UnitHeader {
            sequence: None,
            frames: 8,
            timing: Timing::Grid,
            payload_length: payload,
            symbol_check: 0,
            resilience: None,
        };
        [header.pack(), vec![0; payload]].concat()
    }

    fn channel(share: f64, repair: Repair, mtu: usize) -> Channel {
        Channel::new(LossModel::Independent(share), repair, mtu, 3)
    }

    /// Of units in a packet each, how many do not come.
    fn lost_units(mut channel: Channel) -> (f64, f64) {
        let whole = unit(100);
        let arrived = (0..20_000).filter(|_| channel.send(&whole, 0.25) == whole).count();
        (1.0 - arrived as f64 / 20_000.0, channel.packets as f64 / 20_000.0)
    }

    #[test]
    fn losses_are_as_frequent_as_asked_for() {
        let bursts = LossModel::GilbertElliott {
            losses: [0.0, 1.0],
            changes: [0.1, 0.4],
        };
        for (model, expected) in [(LossModel::Independent(0.1), 0.1), (bursts, 0.2)] {
            let (share, packets) = lost_units(Channel::new(model, Repair::None, 1200, 3));
            assert_eq!(packets, 1.0);
            assert!((share - expected).abs() < 0.02, "{share} of {expected}");
        }
    }

    #[test]
    fn short_streams_lose_as_much_in_bursts_as_long_ones() {
        let bursts = LossModel::GilbertElliott {
            losses: [0.0, 1.0],
            changes: [0.01, 0.04],
        };
        let first_lost = (0..4000).filter(|&seed| {
            let mut channel = Channel::new(bursts, Repair::None, 1200, seed);
            channel.send(&unit(100), 0.25).is_empty()
        });
        let share = first_lost.count() as f64 / 4000.0;
        assert!((share - 0.2).abs() < 0.03, "{share}");
    }

    #[test]
    fn a_unit_of_several_packets_needs_all_of_them() {
        let mut good = channel(0.0, Repair::None, 213);
        let long = unit(450);
        assert_eq!(good.send(&long, 0.25), long);
        assert_eq!((good.packets, good.bytes), (3, long.len() + 3 * PACKET_HEADERS));
        assert!(channel(1.0, Repair::None, 213).send(&long, 0.25).is_empty());
    }

    #[test]
    fn retransmission_loses_what_no_try_brings_and_pays_for_each() {
        let repair = |delay| Repair::Retransmission { round_trip: 0.1, delay };
        // The loss shows after 0.25 s: two more tries fit into half a second, none into 0.3 s.
        let (lost, packets) = lost_units(channel(0.3, repair(0.5), 1200));
        assert!((lost - 0.3f64.powi(3)).abs() < 0.01, "{lost}");
        assert!((packets - 1.39).abs() < 0.02, "{packets}");
        assert_eq!(lost_units(channel(0.3, repair(0.3), 1200)).1, 1.0);
    }

    #[test]
    fn parity_brings_back_one_packet_of_a_group() {
        let (lost, packets) = lost_units(channel(0.2, Repair::Parity(1.0), 1200));
        assert_eq!(packets, 2.0);
        assert!((lost - 0.04).abs() < 0.01, "{lost}");
        // Two packets and one of parity: the unit is whole where at most one of the three is lost.
        let mut halves = channel(0.2, Repair::Parity(0.5), 213);
        let long = unit(300);
        let whole = (0..20_000).filter(|_| halves.send(&long, 0.25) == long).count() as f64 / 20_000.0;
        assert!(
            (whole - (0.8f64.powi(3) + 0.8f64.powi(2) * 0.2 * 3.0)).abs() < 0.015,
            "{whole}"
        );
    }
}
