// SPDX-License-Identifier: MPL-2.0
//! Access units that wait for others to share a packet with.

use crate::rtp::{AggregatedUnit, CLOCK_RATE, MAX_OFFSET};

/// An access unit as it came.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub bytes: Vec<u8>,
    /// In ns.
    pub pts: u64,
    /// When the next one is to be expected, in ns.
    pub end: u64,
}

/// Those of the next packet.
#[derive(Debug, Default)]
pub struct Aggregator {
    units: Vec<Waiting>,
}

fn ticks(time: u64) -> u128 {
    u128::from(time) * u128::from(CLOCK_RATE) / 1_000_000_000
}

impl Aggregator {
    /// Whether a unit can share the packet of those that wait, of at most `room` bytes, in which none is kept longer than `longest` ns.
    pub fn has_room(&self, unit: &Waiting, longest: u64, room: usize) -> bool {
        let (Some(first), Some(last)) = (self.units.first(), self.units.last()) else {
            return AggregatedUnit::packed_length(unit.bytes.len(), true) < room;
        };
        let is_in_time = unit.pts.checked_sub(first.pts).is_some_and(|since| since <= longest);
        // Times that were cut to ticks add up to no error: all are counted from 0.
        let offset = ticks(unit.pts).checked_sub(ticks(last.pts));
        let is_codable = offset.is_some_and(|offset| offset <= MAX_OFFSET.into());
        let fits = self.length() + AggregatedUnit::packed_length(unit.bytes.len(), false) < room;
        is_in_time && is_codable && fits
    }

    /// Adds a unit. False: the next one would come too late for it to wait.
    pub fn add(&mut self, unit: Waiting, longest: u64) -> bool {
        let next = unit.end;
        self.units.push(unit);
        next - self.units[0].pts.min(next) <= longest
    }

    pub fn take(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.units)
    }

    fn length(&self) -> usize {
        let length = |(n, unit): (usize, &Waiting)| AggregatedUnit::packed_length(unit.bytes.len(), n == 0);
        self.units.iter().enumerate().map(length).sum()
    }
}

/// What stands in the packet.
pub fn offsets(units: &[Waiting]) -> Vec<AggregatedUnit<'_>> {
    let mut before = units.first().map_or(0, |unit| ticks(unit.pts));
    let mut offset = |unit: &Waiting| {
        let now = ticks(unit.pts);
        let offset = now.saturating_sub(std::mem::replace(&mut before, now));
        u16::try_from(offset).unwrap_or(u16::MAX)
    };
    let aggregated = |unit| AggregatedUnit {
        offset: offset(unit),
        bytes: &unit.bytes,
    };
    units.iter().map(aggregated).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn unit(pts: u64, length: usize) -> Waiting {
        Waiting {
            bytes: vec![0; length],
            pts: pts * MS,
            end: (pts + 320) * MS,
        }
    }

    #[test]
    fn units_share_a_packet_as_long_as_none_waits_too_long() {
        let mut aggregator = Aggregator::default();
        assert!(aggregator.add(unit(0, 100), 700 * MS));
        assert!(aggregator.has_room(&unit(320, 100), 700 * MS, 1000));
        assert!(aggregator.add(unit(320, 100), 700 * MS));
        assert!(aggregator.has_room(&unit(640, 100), 700 * MS, 1000));
        assert!(
            !aggregator.add(unit(640, 100), 700 * MS),
            "the next one comes after 960 ms"
        );
        let units = aggregator.take();
        let offsets: Vec<_> = offsets(&units).iter().map(|unit| unit.offset).collect();
        assert_eq!(offsets, [0, 28_800, 28_800]);
        assert!(aggregator.take().is_empty());
    }

    #[test]
    fn a_packet_has_room_for_so_many_bytes_and_so_much_time() {
        let mut aggregator = Aggregator::default();
        assert!(aggregator.has_room(&unit(0, 97), 700 * MS, 100));
        assert!(
            !aggregator.has_room(&unit(0, 98), 700 * MS, 100),
            "a header, a length and the unit"
        );
        aggregator.add(unit(1000, 100), 2000 * MS);
        assert!(aggregator.has_room(&unit(1320, 100), 2000 * MS, 207));
        assert!(!aggregator.has_room(&unit(1320, 100), 2000 * MS, 206));
        assert!(!aggregator.has_room(&unit(1320, 100), 300 * MS, 1000));
        assert!(
            !aggregator.has_room(&unit(1800, 100), 2000 * MS, 1000),
            "65,535 ticks are 728 ms"
        );
        assert!(!aggregator.has_room(&unit(680, 100), 2000 * MS, 1000), "time goes back");
    }
}
