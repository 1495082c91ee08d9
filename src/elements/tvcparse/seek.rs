// SPDX-License-Identifier: MPL-2.0
//! Seeking. The base class goes where its index says, or where a constant rate would be; so all of a file's key units are put into that
//! index, and seeks are rewritten to what it follows to the letter.

use std::ops::Range;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst::GenericFormattedValue::{self, Time};
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;

use super::imp::{TvcParse, CAT};
use super::index::{Index, Key, Source};
use super::search::{Point, Search, NEAR};
use super::state::Searching;
use crate::bitstream::{UnitHeader, MAX_HEADER};
use crate::elements::caps;

/// So much of a file is indexed when it is opened: an hour at 35 kbit/s. What follows is when a seek goes there.
const INDEXED_AT_ONCE: u64 = 16 << 20;
/// The end of a larger file is looked for a key unit in pieces of this size, then in larger ones ...
const FIRST_TAIL: u64 = 64 << 10;
/// ... up to this one.
const LONGEST_TAIL: u64 = 64 << 20;

type Reader<'a> = Box<dyn Fn(u64, usize) -> Option<Vec<u8>> + 'a>;

/// When the last frame of a file is over, found from its end: right if no other recording follows the one that is moved by `shift`.
fn end_of_file(source: &Source<Reader>, shift: u64) -> Option<u64> {
    let mut tail = FIRST_TAIL;
    loop {
        let start = source.size.saturating_sub(tail);
        let mut index = Index::starting_at(start, shift);
        index.extend(source, |_| false);
        if index.end().is_some() || start == 0 || tail >= LONGEST_TAIL {
            return index.end();
        }
        tail *= 4;
    }
}

/// Flags of a seek that say how a segment is played and how it ends.
fn segment_flags() -> gst::SegmentFlags {
    let trick_modes = gst::SegmentFlags::TRICKMODE | gst::SegmentFlags::TRICKMODE_KEY_UNITS;
    trick_modes | gst::SegmentFlags::TRICKMODE_NO_AUDIO | gst::SegmentFlags::SEGMENT
}

/// The key unit that a seek with KEY_UNIT goes to.
fn snapped(index: &Index, target: u64, flags: gst::SeekFlags) -> Option<Key> {
    let (before, after) = (index.before(target), index.after(target));
    let distance = |key: &Key| key.time.abs_diff(target);
    if flags.contains(gst::SeekFlags::SNAP_NEAREST) {
        before.into_iter().chain(after).min_by_key(distance)
    } else if flags.contains(gst::SeekFlags::SNAP_AFTER) {
        after.or(before)
    } else {
        before
    }
}

/// A search in a file of `size` bytes between what is known before the target and what is known, or estimated, behind it.
fn search(index: &Index, target: u64, size: u64) -> Search {
    let point = |key: Key| Point {
        offset: key.offset,
        time: key.time,
    };
    let lower = index.before(target).map_or(Point { offset: 0, time: 0 }, point);
    let estimated = || {
        let end = u128::from(index.end()?) * u128::from(size) / u128::from(index.known().max(1));
        u64::try_from(end).ok()
    };
    let end = || Point {
        offset: size,
        time: estimated().unwrap_or(0).max(target.saturating_add(1)),
    };
    let upper = index.after(target).map(point);
    Search::new(target, lower, upper.unwrap_or_else(end), upper.is_none())
}

impl TvcParse {
    /// Bytes of what upstream has, where it can tell.
    fn size(&self) -> Option<u64> {
        let size = self.obj().sink_pad().peer_query_duration::<gst::format::Bytes>()?;
        Some(*size)
    }

    pub(super) fn is_pulling(&self) -> bool {
        self.obj().sink_pad().mode() == gst::PadMode::Pull
    }

    /// Whether offsets are those of a file.
    fn counts_bytes(&self) -> bool {
        let segment = self.obj().sink_pad().sticky_event::<gst::event::Segment>(0);
        self.is_pulling() || segment.is_some_and(|event| event.segment().format() == gst::Format::Bytes)
    }

    /// The file, where it can be read at any place.
    fn source(&self) -> Option<Source<Reader<'_>>> {
        if !self.is_pulling() {
            return None;
        }
        let size = self.size()?;
        let read = |offset, length| {
            let buffer = self.obj().sink_pad().pull_range(offset, length as u32).ok()?;
            let map = buffer.map_readable().ok()?;
            Some(map.to_vec())
        };
        Some(Source {
            size,
            read: Box::new(read),
        })
    }

    /// What is known of a key unit at an offset.
    pub(super) fn place(&self, offset: u64) -> Option<Key> {
        let key = self.index.lock().unwrap().at(offset);
        key.filter(|_| self.counts_bytes())
    }

    /// What the times are moved by at an offset, as far as is known.
    pub(super) fn shift_at(&self, offset: u64) -> u64 {
        let key = self.index.lock().unwrap().last_before(offset);
        key.filter(|_| self.counts_bytes()).map_or(0, |key| key.shift)
    }

    /// Indexes the file until `is_enough`; gives its end in ns if that has been reached.
    fn extend_index(&self, source: &Source<Reader>, is_enough: impl Fn(&Index) -> bool) -> Option<u64> {
        // A copy: upstream may be slow, and others want to know what is known.
        let mut index = self.index.lock().unwrap().clone();
        let known = index.keys().len();
        index.extend(source, is_enough);
        index.keys()[known..]
            .iter()
            .for_each(|key| self.tell_base_class(key.offset, key.time));
        let end = index.end().filter(|_| index.known() >= source.size);
        let mut shared = self.index.lock().unwrap();
        if index.known() > shared.known() {
            *shared = index;
        }
        end
    }

    /// A key unit for the base class's own index.
    fn tell_base_class(&self, offset: u64, time: u64) {
        // It counts time with a sign.
        if let Some(time) = caps::time(time).filter(|time| i64::try_from(time.nseconds()).is_ok()) {
            self.obj().add_index_entry(offset, time, true, true);
        }
    }

    /// Measures a file where upstream lets it be read at any place.
    pub(super) fn find_duration(&self) {
        let Some(source) = self.source() else { return };
        let end = self.extend_index(&source, |index| index.known() >= INDEXED_AT_ONCE);
        let shift = self.index.lock().unwrap().shift();
        if let Some(end) = end.or_else(|| end_of_file(&source, shift)).and_then(caps::time) {
            self.obj().set_duration(end, 0);
        }
    }

    /// The index as far as a seek needs it.
    fn index_up_to(&self, target: u64) {
        let Some(source) = self.source() else { return };
        let end = self.extend_index(&source, |index| {
            index.keys().last().is_some_and(|key| key.time > target)
        });
        if let Some(end) = end.and_then(caps::time) {
            self.obj().set_duration(end, 0);
        }
    }

    /// The seek that the base class is given in place of `event`: to the time of a key unit where that is asked for, from the end where
    /// a seek backwards starts there or beyond, and always by the index.
    pub(super) fn complete_seek(&self, event: &gst::Event) -> Option<gst::Event> {
        let gst::EventView::Seek(seek) = event.view() else {
            return None;
        };
        let (rate, flags, start_type, start, mut stop_type, stop) = seek.get();
        let (Time(mut start), Time(mut stop)) = (start, stop) else {
            return None;
        };
        let is_forward = rate > 0.0;
        if is_forward && start_type != gst::SeekType::Set {
            // The base class refuses it.
            return None;
        }
        if !self.is_pulling() {
            let target = start.filter(|_| is_forward && self.counts_bytes())?;
            return self.complete_push_seek(event, target.nseconds());
        }
        self.index_up_to(start.filter(|_| is_forward).map_or(u64::MAX, |start| start.nseconds()));
        let index = self.index.lock().unwrap();
        if is_forward && flags.contains(gst::SeekFlags::KEY_UNIT) {
            let key = start.and_then(|start| snapped(&index, start.nseconds(), flags));
            start = key.and_then(|key| caps::time(key.time)).or(start);
        }
        if !is_forward {
            let end = index.end().and_then(caps::time);
            let is_end = stop_type == gst::SeekType::End && stop == Some(gst::ClockTime::ZERO);
            // A position beyond the end would be reported until the first picture comes.
            let is_beyond = stop.zip(end).is_some_and(|(stop, end)| stop > end);
            if stop_type == gst::SeekType::None || stop.is_none() || is_end || is_beyond {
                (stop_type, stop) = (gst::SeekType::Set, end);
            }
        }
        drop(index);
        let flags = flags | gst::SeekFlags::ACCURATE;
        let seek = gst::event::Seek::builder(rate, flags, start_type, start, stop_type, stop);
        Some(seek.seqnum(event.seqnum()).build())
    }

    /// The same where upstream pushes bytes from wherever it is asked to. What has come by is known; elsewhere a key unit before the
    /// target is looked for, and the segment starts at the target itself.
    fn complete_push_seek(&self, event: &gst::Event, target: u64) -> Option<gst::Event> {
        let gst::EventView::Seek(seek) = event.view() else {
            return None;
        };
        let (rate, flags, start_type, mut start, stop_type, stop) = seek.get();
        let size = self.size();
        let index = self.index.lock().unwrap();
        let lower = index.before(target);
        let is_known = index.after(target).is_some_and(|after| after.offset < index.known());
        if let Some(key) =
            snapped(&index, target, flags).filter(|_| is_known && flags.contains(gst::SeekFlags::KEY_UNIT))
        {
            start = Time(caps::time(key.time));
        }
        let is_near = lower.is_some_and(|lower| target - lower.time <= NEAR);
        let search = (!is_known && !is_near)
            .then(|| Some(search(&index, target, size?)))
            .flatten();
        drop(index);
        // Accurate is what follows the index; the other way is to ask for a guess.
        let flags = match search {
            Some(_) => flags - gst::SeekFlags::ACCURATE,
            None => flags | gst::SeekFlags::ACCURATE,
        };
        let seek = gst::event::Seek::builder(rate, flags, start_type, start, stop_type, stop);
        let event = seek.seqnum(event.seqnum()).build();
        let mut state = self.state.lock().unwrap();
        let left_out = gst::SegmentFlags::from_bits_truncate(flags.bits()) & segment_flags();
        state.left_out = Some((event.seqnum(), left_out));
        state.search = search.map(|search| Searching {
            search,
            event: event.clone(),
            has_arrived: false,
        });
        Some(event)
    }

    /// Upstream sends what it was asked for.
    pub(super) fn arrive(&self, segment: &gst::Segment) {
        let time = segment
            .downcast_ref::<gst::format::Bytes>()
            .and_then(|segment| segment.time());
        if let Some(searching) = self.state.lock().unwrap().search.as_mut() {
            searching.has_arrived = time.is_some_and(|time| *time == searching.search.guess);
        }
    }

    /// A unit comes by; `key`: the time of a key unit. True if it is not the one that is looked for, and another seek is on its way.
    pub(super) fn note_unit(&self, unit: Range<u64>, key: Option<u64>) -> bool {
        if self.is_pulling() || !self.counts_bytes() {
            return false;
        }
        let stream = self.state.lock().unwrap().stream.clone();
        let mut index = self.index.lock().unwrap();
        let (offset, shift) = (unit.start, stream.shift());
        index.pass(unit, &stream);
        let Some(time) = key else { return false };
        drop(index);
        if self.size().is_none() {
            // A stream without an end, in which nobody seeks: an index would grow with it.
            return false;
        }
        let is_new = self.index.lock().unwrap().add(Key { offset, time, shift });
        if is_new {
            self.tell_base_class(offset, time);
        }
        self.try_again(Some(Point { offset, time }))
    }

    /// Upstream has come to its end. True if that is none for those downstream: nothing was found there, and another seek is on its way, or
    /// it is the end of a segment that others may follow.
    pub(super) fn note_end(&self) -> bool {
        if self.try_again(None) {
            return true;
        }
        if self.counts_bytes() && !self.is_pulling() {
            let size = self.size();
            let index = self.index.lock().unwrap();
            let end = index.end().filter(|_| size.is_some_and(|size| index.known() >= size));
            drop(index);
            if let Some(end) = end.and_then(caps::time) {
                self.obj().set_duration(end, 0);
            }
            return self.end_segment();
        }
        false
    }

    /// Ends a segment of a SEGMENT seek, which the base class only does where it pulls. False if there is none.
    fn end_segment(&self) -> bool {
        let segment = self.state.lock().unwrap().segment.clone();
        if !segment.flags().contains(gst::SegmentFlags::SEGMENT) {
            return false;
        }
        self.obj().drain();
        let stop = segment.stop();
        let stop = stop.or_else(|| self.index.lock().unwrap().end().and_then(caps::time));
        let message = gst::message::SegmentDone::builder(stop).src(&*self.obj()).build();
        let _ = self.obj().post_message(message);
        self.obj().src_pad().push_event(gst::event::SegmentDone::new(stop));
        true
    }

    /// Goes on with a search after what has been found. Without locks: upstream may flush at once, from this very thread.
    fn try_again(&self, found: Option<Point>) -> bool {
        let event = {
            let mut state = self.state.lock().unwrap();
            let Some(searching) = state.search.take_if(|searching| searching.has_arrived) else {
                return false;
            };
            let Some(search) = searching.search.next(found) else {
                return false;
            };
            gst::debug!(CAT, imp = self, "found {found:?}, trying {search:?}");
            let event = searching.event.clone();
            state.search = Some(Searching {
                search,
                has_arrived: false,
                ..searching
            });
            event
        };
        let is_handled = self.parent_src_event(event);
        if !is_handled {
            self.give_up_search();
        }
        is_handled
    }

    /// Upstream does not go where it is asked to.
    pub(super) fn give_up_search(&self) {
        self.state.lock().unwrap().search = None;
    }

    /// What the index says of a place in a file; outer `None`: there is no file. The time of an end that has not been seen is unknown:
    /// the base class would make a duration of any guess.
    pub(super) fn convert_by_index(
        &self,
        value: GenericFormattedValue,
        format: gst::Format,
    ) -> Option<Option<GenericFormattedValue>> {
        if !self.counts_bytes() || value.format() == format {
            return None;
        }
        let search = self
            .state
            .lock()
            .unwrap()
            .search
            .as_ref()
            .map(|searching| searching.search.clone());
        match (value, format) {
            (Time(time), gst::Format::Bytes) => {
                let offset = time.and_then(|time| self.offset_of(time.nseconds(), search));
                Some(Some(GenericFormattedValue::Bytes(
                    offset.map(gst::format::Bytes::from_u64),
                )))
            }
            (GenericFormattedValue::Bytes(Some(offset)), gst::Format::Time) => {
                Some(self.time_at(*offset).map(|time| Time(Some(time))))
            }
            _ => None,
        }
    }

    /// Where a time is: where a search is for its target; where its segment stops is not known. Or else the last known key unit.
    fn offset_of(&self, time: u64, search: Option<Search>) -> Option<u64> {
        match search {
            Some(search) => (search.target == time).then_some(search.guess),
            None => Some(self.index.lock().unwrap().before(time).map_or(0, |key| key.offset)),
        }
    }

    /// The time of the last known key unit up to an offset.
    fn time_at(&self, offset: u64) -> Option<gst::ClockTime> {
        let size = self.size();
        let index = self.index.lock().unwrap();
        if size.is_some_and(|size| offset >= size) {
            return index.end().filter(|_| index.known() >= offset).and_then(caps::time);
        }
        let key = index.last_before(offset.saturating_add(1));
        caps::time(key.map_or(0, |key| key.time))
    }

    /// Key units alone, from the last one to the first: the base class would send them in the order of the file.
    pub(super) fn push_key_units_backwards(&self, segment: &gst::FormattedSegment<gst::ClockTime>) -> gst::FlowError {
        let range = segment.start().map_or(0, |t| t.nseconds())..=segment.stop().map_or(u64::MAX, |t| t.nseconds());
        let mut keys = self.index.lock().unwrap().keys().to_vec();
        keys.retain(|key| range.contains(&key.time));
        let push = |key| self.obj().src_pad().push(self.key_unit(key)?);
        let stopped = keys.into_iter().rev().map(push).find_map(Result::err);
        stopped.unwrap_or(gst::FlowError::Eos)
    }

    /// A key unit as a buffer of its own.
    fn key_unit(&self, key: Key) -> Result<gst::Buffer, gst::FlowError> {
        let pad = self.obj().sink_pad().clone();
        let header = |offset| {
            let bytes = pad.pull_range(offset, MAX_HEADER as u32)?;
            let map = bytes.map_readable().map_err(|_| gst::FlowError::Error)?;
            UnitHeader::parse(&map).map_err(|_| gst::FlowError::Error)
        };
        let (first, start) = header(key.offset)?;
        let (mut last, mut length) = (first, start + first.payload_length);
        while !last.is_last_slice() {
            match header(key.offset + length as u64) {
                Ok((next, start)) if next.continues(&last) => {
                    length += start + next.payload_length;
                    last = next;
                }
                _ => break,
            }
        }
        let mut unit = pad.pull_range(key.offset, length as u32)?;
        let buffer = unit.make_mut();
        buffer.set_flags(gst::BufferFlags::DISCONT);
        buffer.set_pts(caps::time(key.time));
        buffer.set_dts(caps::time(key.time));
        buffer.set_duration(first.sequence.and_then(|sequence| caps::duration(&sequence, 1)));
        Ok(unit)
    }
}
