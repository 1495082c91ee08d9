// SPDX-License-Identifier: MPL-2.0
//! What sender and receiver do about lost packets below the stream.

/// The FEC and level headers of RFC 5109 with a short mask.
pub const FEC_HEADERS: usize = 10 + 4;
/// The number of the packet that is sent again (RFC 4588).
pub const RETRANSMISSION_HEADER: usize = 2;

/// How lost packets are repaired.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Repair {
    /// Not at all.
    None,
    /// The receiver asks again and again, as long as an answer can come before the jitter buffer has to go on.
    Retransmission {
        /// Seconds from a request to the packet.
        round_trip: f64,
        /// Seconds that the jitter buffer holds packets.
        delay: f64,
    },
    /// `rtpulpfecenc`: packets of parity behind each unit, this many for one of the stream.
    Parity(f64),
}

impl Repair {
    /// How often a packet can be asked for whose loss is noticed after some seconds.
    pub fn tries(self, noticed: f64) -> usize {
        match self {
            // A float of whole trips may lie just below them.
            Repair::Retransmission { round_trip, delay } => ((delay - noticed) / round_trip + 1e-9).max(0.0) as usize,
            Repair::None | Repair::Parity(_) => 0,
        }
    }
}

/// Counts what parity may be sent, as `rtpulpfecenc` does: each packet adds a share, and at the end of a unit whole packets are spent.
#[derive(Default)]
pub struct Budget(f64);

impl Budget {
    /// The packets of a unit that each packet of parity protects. There are none where the budget has not grown to a packet.
    pub fn groups(&mut self, packets: usize, share: f64) -> Vec<std::ops::Range<usize>> {
        self.0 += share * packets as f64;
        let parity = (self.0 + 1e-9) as usize;
        self.0 -= parity as f64;
        (0..parity)
            .map(|at| at * packets / parity..((at + 1) * packets).div_ceil(parity))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_end_where_the_answer_would_be_late() {
        let repair = |round_trip| Repair::Retransmission { round_trip, delay: 0.6 };
        assert_eq!(repair(0.2).tries(0.0), 3);
        assert_eq!(repair(0.2).tries(0.267), 1);
        assert_eq!(repair(0.5).tries(0.267), 0);
        assert_eq!(repair(0.5).tries(0.8), 0);
        assert_eq!(Repair::Parity(1.0).tries(0.0), 0);
    }

    #[test]
    fn half_of_parity_repeats_every_second_packet_that_is_a_unit() {
        let mut budget = Budget::default();
        let mut sent = vec![];
        for unit in 0..4 {
            sent.extend(budget.groups(1, 0.5).into_iter().map(|group| (unit, group)));
        }
        assert_eq!(sent, [(1, 0..1), (3, 0..1)]);
    }

    #[test]
    fn parity_is_as_much_as_asked_for_and_covers_whole_units() {
        for (packets, share) in [(1, 0.3), (2, 0.5), (3, 0.5), (5, 1.0), (7, 0.25)] {
            let mut budget = Budget::default();
            let mut sent = 0;
            for _ in 0..200 {
                let groups = budget.groups(packets, share);
                sent += groups.len();
                let covered = (0..packets).all(|packet| groups.iter().any(|group| group.contains(&packet)));
                assert!(groups.is_empty() || covered, "{groups:?} of {packets}");
            }
            let expected = 200.0 * share * packets as f64;
            assert!((sent as f64 - expected).abs() <= 1.0, "{sent} of {expected}");
        }
    }
}
