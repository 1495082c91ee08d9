// SPDX-License-Identifier: MPL-2.0
//! What the parser knows between two units.

use super::index::Key;
use super::search::Search;
use super::stream::Stream;
use crate::bitstream::{bytes_to_key_unit, BitstreamError, FrameTimes, SequenceHeader, UnitHeader, SYNC};
use crate::elements::caps;

/// What the next unit is understood by.
#[derive(Default)]
pub struct State {
    pub stream: Stream,
    /// What the caps on the source pad were made from.
    pub announced: Option<SequenceHeader>,
    /// Bytes dropped since the last good unit.
    pub skipped: u64,
    /// Upstream's time for a unit and the stream's own: those of units that upstream does not time keep their distance from it.
    pub upstream: Option<(gst::ClockTime, u64)>,
    /// Time of the unit that is being pushed.
    pub pts: Option<gst::ClockTime>,
    /// The last one that went downstream.
    pub segment: gst::FormattedSegment<gst::ClockTime>,
    /// A seek to where the parser has not been.
    pub search: Option<Searching>,
    /// The last seek that the base class passed on without its flags.
    pub left_out: Option<(gst::Seqnum, gst::SegmentFlags)>,
}

/// A seek that is under way upstream.
pub struct Searching {
    pub search: Search,
    pub event: gst::Event,
    /// Whether what comes now is what was asked for.
    pub has_arrived: bool,
}

/// What to do with the bytes at hand.
pub enum Action {
    /// Wait for this many bytes.
    Wait(usize),
    /// Drop this many bytes.
    Skip(usize),
    /// A whole unit.
    Unit {
        header: UnitHeader,
        length: usize,
        times: FrameTimes,
    },
}

impl State {
    /// The bytes may start anywhere; `shift`: what times are moved by there.
    pub fn restart(&mut self, shift: u64) {
        self.stream = Stream::shifted(shift);
        self.upstream = None;
    }

    /// `place`: what is known of a key unit here.
    pub fn examine(&mut self, data: &[u8], draining: bool, place: Option<Key>) -> Action {
        let parsed = match UnitHeader::parse(data) {
            Ok((header, _)) if !self.stream.takes(&header) => Err(BitstreamError::NoSync(SYNC)),
            parsed => parsed,
        };
        match parsed {
            Ok((header, start)) => {
                let length = start + header.payload_length;
                if data.len() < length {
                    return if draining {
                        Action::Skip(data.len())
                    } else {
                        Action::Wait(length)
                    };
                }
                if let Some(place) = place.filter(|_| header.is_key()) {
                    self.stream = Stream::shifted(place.shift);
                }
                match self.stream.follow(&header, &data[start..length]) {
                    Ok(times) => Action::Unit { header, length, times },
                    Err(_) => self.resync(data, draining),
                }
            }
            Err(BitstreamError::Incomplete) if !draining => Action::Wait(data.len() + 1),
            Err(_) => self.resync(data, draining),
        }
    }

    /// Only a key unit, with its strong check, is a place to go on.
    fn resync(&mut self, data: &[u8], draining: bool) -> Action {
        self.stream.lose_sync();
        Action::Skip(bytes_to_key_unit(data, draining))
    }

    /// The time of a unit: upstream's, a container's for example, or else the stream's, at upstream's distance if there was one before.
    pub fn time(&mut self, upstream: Option<gst::ClockTime>, own: Option<u64>) -> Option<gst::ClockTime> {
        if let Some(pair) = upstream.zip(own) {
            self.upstream = Some(pair);
        }
        let moved = || {
            let ((there, here), own) = self.upstream.zip(own)?;
            caps::time(there.nseconds().checked_add(own.checked_sub(here)?)?)
        };
        upstream.or_else(moved).or_else(|| own.and_then(caps::time))
    }
}
