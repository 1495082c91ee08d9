// SPDX-License-Identifier: MPL-2.0
//! Seeking. The base class goes where its index says, or where a constant rate would be; so all of a file's key units are put into that
//! index, and seeks are rewritten to what it follows to the letter.

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst::GenericFormattedValue::Time;
use gst_base::prelude::*;

use super::imp::TvcParse;
use super::index::{Index, Key, Source};
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

impl TvcParse {
    fn is_pulling(&self) -> bool {
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
        let size = self.obj().sink_pad().peer_query_duration::<gst::format::Bytes>()?;
        let read = |offset, length| {
            let buffer = self.obj().sink_pad().pull_range(offset, length as u32).ok()?;
            let map = buffer.map_readable().ok()?;
            Some(map.to_vec())
        };
        Some(Source {
            size: *size,
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
        let mut index = self.index.lock().unwrap();
        let known = index.keys().len();
        index.extend(source, is_enough);
        for key in &index.keys()[known..] {
            // The base class counts time with a sign.
            if let Some(time) = caps::time(key.time).filter(|time| i64::try_from(time.nseconds()).is_ok()) {
                self.obj().add_index_entry(key.offset, time, true, true);
            }
        }
        index.end().filter(|_| index.known() >= source.size)
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

    /// The seek that the base class is given in place of `event`: to the time of a key unit where that is asked for, up to the end where
    /// a seek backwards gives none, and always by the index.
    pub(super) fn complete_seek(&self, event: &gst::Event) -> Option<gst::Event> {
        let gst::EventView::Seek(seek) = event.view() else {
            return None;
        };
        let (rate, flags, start_type, start, mut stop_type, stop) = seek.get();
        let (Time(mut start), Time(mut stop)) = (start, stop) else {
            return None;
        };
        if !self.is_pulling() {
            return None;
        }
        let is_forward = rate > 0.0;
        self.index_up_to(start.filter(|_| is_forward).map_or(u64::MAX, |start| start.nseconds()));
        let index = self.index.lock().unwrap();
        if is_forward && flags.contains(gst::SeekFlags::KEY_UNIT) {
            let key = start.and_then(|start| snapped(&index, start.nseconds(), flags));
            start = key.and_then(|key| caps::time(key.time)).or(start);
        }
        if !is_forward && (stop_type == gst::SeekType::None || stop.is_none()) {
            (stop_type, stop) = (gst::SeekType::Set, index.end().and_then(caps::time));
        }
        drop(index);
        let flags = flags | gst::SeekFlags::ACCURATE;
        let seek = gst::event::Seek::builder(rate, flags, start_type, start, stop_type, stop);
        Some(seek.seqnum(event.seqnum()).build())
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
        let header = pad.pull_range(key.offset, MAX_HEADER as u32)?;
        let map = header.map_readable().map_err(|_| gst::FlowError::Error)?;
        let (header, start) = UnitHeader::parse(&map).map_err(|_| gst::FlowError::Error)?;
        let mut unit = pad.pull_range(key.offset, (start + header.payload_length) as u32)?;
        let buffer = unit.make_mut();
        buffer.set_flags(gst::BufferFlags::DISCONT);
        buffer.set_pts(caps::time(key.time));
        buffer.set_dts(caps::time(key.time));
        buffer.set_duration(header.sequence.and_then(|sequence| caps::duration(&sequence, 1)));
        Ok(unit)
    }
}
