// SPDX-License-Identifier: MPL-2.0
//! What the parser knows between two units.

use super::index::Key;
use super::search::Search;
use super::stream::Stream;
use crate::bitstream::{bytes_to_key_unit, BitstreamError, FrameTimes, SequenceHeader, UnitHeader, SYNC};
use crate::elements::caps;

/// Where the access unit ends whose first slice ends at `end` of `data`. The error is how many bytes it takes to tell; if there will be no
/// more of them, `is_all`, it ends at the last slice that is whole.
fn end_of_access_unit(mut header: UnitHeader, mut end: usize, data: &[u8], is_all: bool) -> Result<usize, usize> {
    while !header.is_last_slice() {
        match UnitHeader::parse(&data[end..]) {
            Ok((next, start)) if next.continues(&header) => {
                let wanted = end + start + next.payload_length;
                if wanted > data.len() {
                    return if is_all { Ok(end) } else { Err(wanted) };
                }
                (header, end) = (next, wanted);
            }
            Err(BitstreamError::Incomplete) if !is_all => return Err(data.len() + 1),
            _ => break,
        }
    }
    Ok(end)
}

/// What the next unit is understood by.
#[derive(Default)]
pub struct State {
    pub stream: Stream,
    /// Whether upstream gives whole access units, so that none goes on behind the bytes at hand.
    pub is_framed: bool,
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
    /// A whole access unit: the header of its first slice, and the bytes of all.
    Unit {
        header: UnitHeader,
        length: usize,
        times: FrameTimes,
    },
}

impl State {
    /// Whether what comes after a discontinuity goes on with the group at hand. Who gives whole units knows best: a depayloader marks
    /// one where nothing is lost but packets with redundancy, or where units with resilience fields can do without the lost ones.
    pub fn goes_on_with(&self, data: &[u8]) -> bool {
        let goes_on = |header: UnitHeader| !header.is_key() && self.stream.takes(&header);
        self.is_framed && UnitHeader::parse(data).is_ok_and(|(header, _)| goes_on(header))
    }

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
                let end = start + header.payload_length;
                if data.len() < end {
                    return if draining {
                        Action::Skip(data.len())
                    } else {
                        Action::Wait(end)
                    };
                }
                match end_of_access_unit(header, end, data, draining || self.is_framed) {
                    Ok(length) => self.follow(header, start, length, data, place, draining),
                    Err(wanted) => Action::Wait(wanted),
                }
            }
            Err(BitstreamError::Incomplete) if !draining => Action::Wait(data.len() + 1),
            Err(_) => self.resync(data, draining),
        }
    }

    fn follow(
        &mut self,
        header: UnitHeader,
        start: usize,
        length: usize,
        data: &[u8],
        place: Option<Key>,
        draining: bool,
    ) -> Action {
        if let Some(place) = place.filter(|_| header.is_key()) {
            self.stream = Stream::shifted(place.shift);
        }
        match self.stream.follow(&header, &data[start..start + header.payload_length]) {
            Ok(times) => Action::Unit { header, length, times },
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
