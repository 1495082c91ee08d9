// SPDX-License-Identifier: MPL-2.0
//! What is lost, what can still be decoded, and when a key unit is to be asked for.

use crate::bitstream::UnitHeader;

/// Key units are not asked for more often, in ms.
pub const REQUEST_INTERVAL_MS: u64 = 500;

/// What became of the packets, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets that came.
    pub packets: u64,
    /// Packets that were dropped, as they were malformed, old, or without the ones that they belong to.
    pub rejected: u64,
    /// Access units that were passed on.
    pub units: u64,
    /// Those of them from which slices are missing.
    pub damaged: u64,
    /// Access units that are missing, as far as their numbers tell; the units of a lost aggregation packet count as one.
    pub lost: u64,
    /// Access units that came, and could not be decoded without a key unit.
    pub dropped: u64,
    /// Key units that were asked for.
    pub requests: u64,
}

/// Follows a stream and its losses.
#[derive(Clone, Debug)]
pub struct Losses {
    /// Whether delta units that cannot be decoded are kept back.
    pub waits_for_key: bool,
    /// Group of the last key unit; the inner `None` is a stream without resilience fields.
    group: Option<Option<u8>>,
    /// Nothing can be decoded until the next key unit.
    needs_key: bool,
    /// Something is missing before the next access unit.
    has_gap: bool,
    /// There is a reason to ask for a key unit that came after the last request.
    is_wanted: bool,
    /// When a key unit was last asked for, in ms.
    requested: Option<u64>,
    pub statistics: Statistics,
}

impl Default for Losses {
    fn default() -> Self {
        Losses {
            waits_for_key: true,
            group: None,
            needs_key: true,
            has_gap: false,
            is_wanted: false,
            requested: None,
            statistics: Statistics::default(),
        }
    }
}

impl Losses {
    /// Access units are missing.
    pub fn note_lost(&mut self, units: u64) {
        self.statistics.lost += units;
        self.has_gap = true;
        if self.group == Some(None) {
            self.needs_key = true;
            self.is_wanted = true;
        }
    }

    /// A packet is missing, and it is not known of what.
    pub fn suspect_loss(&mut self) {
        self.is_wanted |= self.group == Some(None);
    }

    /// Another stream begins.
    pub fn restart(&mut self) {
        self.group = None;
        self.needs_key = true;
        self.has_gap = true;
    }

    /// Whether an access unit is to be passed on, and if so whether something is missing before it.
    pub fn pass(&mut self, header: &UnitHeader, is_whole: bool) -> Option<bool> {
        let group = header.resilience.map(|resilience| resilience.group);
        if header.is_key() {
            self.group = Some(group);
            self.needs_key = false;
            self.is_wanted = !is_whole;
        } else {
            self.needs_key |= self.group != Some(group);
            self.is_wanted |= self.needs_key;
            // A decoder that has seen resilient units shows something in place of those that it cannot decode.
            let are_concealed = group.is_some() && matches!(self.group, Some(Some(_)));
            if self.needs_key && self.waits_for_key && !are_concealed {
                self.statistics.dropped += 1;
                return None;
            }
        }
        self.statistics.units += 1;
        self.statistics.damaged += u64::from(!is_whole);
        Some(std::mem::take(&mut self.has_gap) || !is_whole)
    }

    /// Whether a key unit is to be asked for now, at a time in ms of a clock that does not go back.
    pub fn take_request(&mut self, now: u64) -> bool {
        let is_soon = |last: u64| now.saturating_sub(last) < REQUEST_INTERVAL_MS;
        if !self.is_wanted || self.requested.is_some_and(is_soon) {
            return false;
        }
        self.is_wanted = false;
        self.requested = Some(now);
        self.statistics.requests += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::samples::{slice, unit};

    fn header(bytes: Vec<u8>) -> UnitHeader {
        UnitHeader::parse(&bytes).unwrap().0
    }

    #[test]
    fn without_resilience_nothing_passes_between_a_loss_and_the_next_key_unit() {
        let (key, delta) = (header(unit(Some(0), 5)), header(unit(None, 5)));
        let mut losses = Losses::default();
        assert_eq!(losses.pass(&delta, true), None, "before the first key unit");
        assert_eq!(losses.pass(&key, true), Some(false));
        assert_eq!(losses.pass(&delta, true), Some(false));
        losses.note_lost(1);
        assert_eq!(losses.pass(&delta, true), None);
        assert_eq!(losses.pass(&key, true), Some(true));
        assert_eq!(losses.pass(&delta, true), Some(false));
    }

    #[test]
    fn with_resilience_units_pass_behind_a_loss_and_a_lost_key_unit_is_asked_for() {
        let unit = |group, number| header(slice(group, number, 0, 1, 5));
        let mut losses = Losses::default();
        assert_eq!(
            losses.pass(&unit(2, 2), true),
            None,
            "there is nothing to conceal it with"
        );
        assert_eq!(losses.pass(&unit(3, 0), true), Some(false));
        losses.note_lost(1);
        assert_eq!(losses.pass(&unit(3, 2), true), Some(true));
        assert_eq!(losses.pass(&unit(3, 3), false), Some(true), "slices are missing");
        assert_eq!(losses.pass(&unit(3, 4), true), Some(false));
        assert!(!losses.take_request(0));
        assert_eq!(
            losses.pass(&unit(4, 2), true),
            Some(false),
            "its key unit is missing, and it is concealed"
        );
        assert!(losses.take_request(0));
        assert_eq!(losses.pass(&unit(5, 0), true), Some(false));
    }

    #[test]
    fn nobody_waits_if_told_not_to() {
        let mut losses = Losses {
            waits_for_key: false,
            ..Losses::default()
        };
        assert_eq!(losses.pass(&header(unit(None, 5)), true), Some(false));
        assert!(losses.take_request(0), "it still takes a key unit");
    }

    #[test]
    fn key_units_are_asked_for_when_needed_and_not_too_often() {
        let (key, delta) = (header(unit(Some(0), 5)), header(unit(None, 5)));
        let mut losses = Losses::default();
        assert!(!losses.take_request(0));
        losses.pass(&key, true);
        losses.pass(&delta, true);
        assert!(!losses.take_request(0));
        losses.note_lost(1);
        assert!(losses.take_request(0), "as soon as the loss is known");
        assert!(!losses.take_request(1000), "once for a loss");
        losses.pass(&delta, true);
        assert!(!losses.take_request(499));
        assert!(losses.take_request(500), "there is still no key unit");
        losses.pass(&delta, true);
        losses.pass(&key, true);
        assert!(!losses.take_request(5000), "it has come");
        losses.pass(&key, false);
        assert!(losses.take_request(5000), "not all of it has come");
    }

    #[test]
    fn requests_are_bounded_whatever_is_lost() {
        let delta = header(unit(None, 5));
        let mut losses = Losses::default();
        losses.pass(&header(unit(Some(0), 5)), true);
        for now in 0..10_000 {
            losses.note_lost(1);
            losses.pass(&delta, true);
            losses.take_request(now);
        }
        assert_eq!(losses.statistics.requests, 20);
    }
}
