// SPDX-License-Identifier: MPL-2.0
//! A link that loses packets.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

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

/// A link, from packet to packet.
pub struct Channel {
    model: LossModel,
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
    pub fn new(model: LossModel, mtu: usize, seed: u64) -> Channel {
        Channel {
            model,
            payload: mtu.saturating_sub(13).max(1),
            is_bad: false,
            rng: StdRng::seed_from_u64(seed),
            bytes: 0,
            packets: 0,
            lost: 0,
        }
    }

    /// Sends an access unit, each slice in packets of its own; what of it comes through.
    pub fn send(&mut self, unit: &[u8]) -> Vec<u8> {
        let (mut received, mut at) = (Vec::new(), 0);
        for (_, payload) in slices_at_front(unit) {
            let slice = &unit[at..payload.end];
            at = payload.end;
            // All packets are sent, whatever became of the first.
            let lost = slice
                .chunks(self.payload)
                .filter(|packet| self.loses(packet.len()))
                .count();
            if lost == 0 {
                received.extend_from_slice(slice);
            }
        }
        received
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

    #[test]
    fn losses_are_as_frequent_as_asked_for() {
        let bursts = LossModel::GilbertElliott {
            losses: [0.0, 1.0],
            changes: [0.1, 0.4],
        };
        for (model, expected) in [(LossModel::Independent(0.1), 0.1), (bursts, 0.2)] {
            let mut channel = Channel::new(model, 1200, 3);
            let whole = unit(100);
            let arrived = (0..20_000).filter(|_| channel.send(&whole) == whole).count();
            assert_eq!(channel.lost, 20_000 - arrived);
            let share = channel.lost as f64 / 20_000.0;
            assert!((share - expected).abs() < 0.02, "{share} of {expected}");
        }
    }

    #[test]
    fn a_unit_of_several_packets_needs_all_of_them() {
        let mut channel = Channel::new(LossModel::Independent(0.0), 213, 0);
        let long = unit(450);
        assert_eq!(channel.send(&long), long);
        assert_eq!((channel.packets, channel.bytes), (3, long.len() + 3 * PACKET_HEADERS));
        let mut channel = Channel::new(LossModel::Independent(1.0), 213, 0);
        assert!(channel.send(&long).is_empty());
    }
}
