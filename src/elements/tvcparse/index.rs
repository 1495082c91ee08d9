// SPDX-License-Identifier: MPL-2.0
//! Key units of a file: where they are and when they are shown.

use super::stream::Stream;
use crate::bitstream::{bytes_to_key_unit, UnitHeader, DELTA_FRAMES, MAX_HEADER};

/// Explicit times take at most a LEB128 number of 64 bits for each frame.
const MAX_TIMES: usize = DELTA_FRAMES * 10;
/// Bytes that are read at once where units are small, as they mostly are.
const BLOCK: usize = 64 << 10;
/// Behind a larger unit only the next header is read.
const LARGE_UNIT: usize = 16 << 10;

/// A place where decoding can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// In bytes from the start of the file.
    pub offset: u64,
    /// In ns.
    pub time: u64,
    /// What the times of its recording are moved by in the file, in ns.
    pub shift: u64,
}

/// What is known of a file's key units.
#[derive(Clone, Default)]
pub struct Index {
    /// In the order of the file, which is that of time.
    keys: Vec<Key>,
    /// The file has been read up to here without a gap ...
    at: u64,
    /// ... and this is what it said.
    stream: Stream,
}

/// A file that can be read at any place: its size, and a function that gives bytes from an offset on, fewer only at its end.
pub struct Source<R> {
    pub size: u64,
    pub read: R,
}

impl Index {
    /// One that begins at `at`, in a recording whose times are moved by `shift`.
    pub fn starting_at(at: u64, shift: u64) -> Index {
        Index {
            keys: Vec::new(),
            at,
            stream: Stream::shifted(shift),
        }
    }

    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The part of the file that is known without a gap, in bytes.
    pub fn known(&self) -> u64 {
        self.at
    }

    /// When the latest frame of that part is over, in ns.
    pub fn end(&self) -> Option<u64> {
        self.stream.end()
    }

    /// What the times are moved by at the end of that part.
    pub fn shift(&self) -> u64 {
        self.stream.shift()
    }

    /// The last key unit that is not later than `time`.
    pub fn before(&self, time: u64) -> Option<Key> {
        let after = self.keys.partition_point(|key| key.time <= time);
        after.checked_sub(1).map(|at| self.keys[at])
    }

    /// The first key unit that is not earlier than `time`.
    pub fn after(&self, time: u64) -> Option<Key> {
        self.keys.get(self.keys.partition_point(|key| key.time < time)).copied()
    }

    /// The key unit at an offset.
    pub fn at(&self, offset: u64) -> Option<Key> {
        let at = self.keys.binary_search_by_key(&offset, |key| key.offset).ok()?;
        Some(self.keys[at])
    }

    /// The last key unit before an offset.
    pub fn last_before(&self, offset: u64) -> Option<Key> {
        let after = self.keys.partition_point(|key| key.offset < offset);
        after.checked_sub(1).map(|at| self.keys[at])
    }

    /// A key unit that has come by.
    pub fn add(&mut self, key: Key) -> bool {
        let place = self.keys.binary_search_by_key(&key.offset, |key| key.offset);
        if let Err(at) = place {
            self.keys.insert(at, key);
        }
        place.is_err()
    }

    /// A unit that has come by, with the state behind it: without a gap from the start of the file on, that part is known.
    pub fn pass(&mut self, unit: std::ops::Range<u64>, stream: &Stream) {
        if unit.start == self.at {
            self.at = unit.end;
            self.stream = stream.clone();
        }
    }

    /// Reads headers on until `is_enough`, or the end of the file or of what can be read.
    pub fn extend<R>(&mut self, source: &Source<R>, is_enough: impl Fn(&Index) -> bool)
    where
        R: Fn(u64, usize) -> Option<Vec<u8>>,
    {
        let mut window = Window::default();
        while self.at < source.size && !is_enough(self) {
            if self.step(source, &mut window).is_none() {
                break;
            }
        }
    }

    /// Goes to the next unit; `None` if nothing can be read.
    fn step<R>(&mut self, source: &Source<R>, window: &mut Window) -> Option<()>
    where
        R: Fn(u64, usize) -> Option<Vec<u8>>,
    {
        let bytes = window.bytes(source, self.at, MAX_HEADER + MAX_TIMES)?;
        let unit = UnitHeader::parse(bytes)
            .ok()
            .filter(|(header, _)| self.stream.takes(header));
        if let Some((header, start)) = unit.filter(|(header, _)| self.stream.goes_on_with(header)) {
            return self.skip_slice(source, window, &header, start);
        }
        let times = unit.and_then(|(header, start)| {
            let length = start + header.payload_length;
            let is_whole = self.at + length as u64 <= source.size;
            let payload = &bytes[start..bytes.len().min(length)];
            let first = is_whole.then(|| self.stream.follow(&header, payload));
            Some((length, header.is_key(), first?.ok()?[0]))
        });
        let Some((length, is_key, time)) = times else {
            // Cut off at the end, or no unit at all.
            return self.resync(source, window);
        };
        if let Some(time) = time.filter(|_| is_key) {
            let shift = self.stream.shift();
            self.keys.push(Key {
                offset: self.at,
                time,
                shift,
            });
        }
        self.at += length as u64;
        window.is_sparse = length > LARGE_UNIT;
        Some(())
    }

    /// Passes over a slice of the access unit that is known by its first one.
    fn skip_slice<R>(
        &mut self,
        source: &Source<R>,
        window: &mut Window,
        header: &UnitHeader,
        start: usize,
    ) -> Option<()>
    where
        R: Fn(u64, usize) -> Option<Vec<u8>>,
    {
        let length = start + header.payload_length;
        if self.at + length as u64 > source.size {
            return self.resync(source, window);
        }
        self.stream.skip_slice(header);
        self.at += length as u64;
        window.is_sparse = length > LARGE_UNIT;
        Some(())
    }

    /// Looks for the next key unit behind the start of what is none.
    fn resync<R>(&mut self, source: &Source<R>, window: &mut Window) -> Option<()>
    where
        R: Fn(u64, usize) -> Option<Vec<u8>>,
    {
        self.stream.lose_sync();
        let bytes = window.bytes(source, self.at, BLOCK)?;
        let is_end = self.at + bytes.len() as u64 >= source.size;
        self.at += bytes_to_key_unit(bytes, is_end) as u64;
        Some(())
    }
}

/// Bytes that have been read.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
    /// Whether only single headers are worth reading.
    is_sparse: bool,
}

impl Window {
    /// `length` bytes from `at` on, or more, or those up to the end.
    fn bytes<R>(&mut self, source: &Source<R>, at: u64, length: usize) -> Option<&[u8]>
    where
        R: Fn(u64, usize) -> Option<Vec<u8>>,
    {
        let left = source.size - at.min(source.size);
        let wanted = (length as u64).min(left);
        let has = at >= self.start && at + wanted <= self.start + self.bytes.len() as u64;
        if !has {
            let size = if self.is_sparse { length } else { length.max(BLOCK) };
            let size = (size as u64).min(left) as usize;
            self.bytes = if size == 0 {
                Vec::new()
            } else {
                (source.read)(at, size)?
            };
            self.start = at;
        }
        Some(&self.bytes[(at - self.start) as usize..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::samples::slice;
    use crate::bitstream::{SequenceHeader, Timing};
    use proptest::prelude::*;

    const FRAME: u64 = 40_000_000;

    fn unit(key: Option<u64>, payload: usize) -> Vec<u8> {
        let sequence = key.map(|frame| SequenceHeader {
            pts: Some(frame * FRAME),
            ..SequenceHeader::sample()
        });
        let header = UnitHeader {
            sequence,
            frames: if key.is_some() { 1 } else { 8 },
            timing: Timing::Grid,
            payload_length: payload,
            symbol_check: 0,
            resilience: None,
        };
        let mut bytes = header.pack();
        bytes.resize(bytes.len() + payload, 0xd4);
        bytes
    }

    /// Groups of a key unit and a delta unit in `count` slices each, of which those of `present` are there.
    fn sliced(groups: u8, count: u8, present: impl Fn(u8, u8, u8) -> bool) -> (Vec<u8>, Vec<u64>) {
        let (mut bytes, mut offsets) = (Vec::new(), Vec::new());
        for group in 0..groups {
            for unit in 0..2 {
                let slices: Vec<_> = (0..count).filter(|&index| present(group, unit, index)).collect();
                if unit == 0 && !slices.is_empty() {
                    offsets.push(bytes.len() as u64);
                }
                let cut = |index| slice(group, unit, index, count, 40);
                slices.into_iter().for_each(|index| bytes.extend(cut(index)));
            }
        }
        (bytes, offsets)
    }

    fn index(bytes: &[u8]) -> Index {
        let mut index = Index::default();
        let read = |at: u64, length: usize| Some(bytes[at as usize..][..length].to_vec());
        let size = bytes.len() as u64;
        index.extend(&Source { size, read }, |_| false);
        index
    }

    fn frames(keys: &[Key]) -> Vec<u64> {
        keys.iter().map(|key| key.time / FRAME).collect()
    }

    proptest! {
        #[test]
        fn all_key_units_of_any_sizes_are_found(
            groups in prop::collection::vec((0usize..40_000, 0usize..200_000, 0usize..300), 1..12),
        ) {
            let mut bytes = Vec::new();
            let mut offsets = Vec::new();
            for (n, (key, delta, rubbish)) in groups.iter().enumerate() {
                offsets.push(bytes.len() as u64);
                bytes.extend(unit(Some(9 * n as u64), *key));
                bytes.extend(unit(None, *delta));
                bytes.extend(vec![0xd4; *rubbish]);
            }
            let index = index(&bytes);
            prop_assert_eq!(index.keys().iter().map(|key| key.offset).collect::<Vec<_>>(), offsets);
            prop_assert_eq!(index.known(), bytes.len() as u64);
            prop_assert_eq!(index.end(), Some(9 * groups.len() as u64 * FRAME));
        }

        #[test]
        fn key_units_are_found_at_their_first_slice_that_is_there(
            groups in 1u8..6,
            half in 1u8..=8,
            lost in prop::collection::hash_set((0u8..6, 0u8..2, 0u8..16), 0..20),
        ) {
            let has_key = |group| (0..2 * half).any(|index| !lost.contains(&(group, 0, index)));
            prop_assume!((0..groups).all(has_key));
            let present = |group, unit, index| !lost.contains(&(group, unit, index));
            let (bytes, offsets) = sliced(groups, 2 * half, present);
            let index = index(&bytes);
            prop_assert_eq!(index.keys().iter().map(|key| key.offset).collect::<Vec<_>>(), offsets);
            prop_assert_eq!(frames(index.keys()), (0..u64::from(groups)).map(|group| 9 * group).collect::<Vec<_>>());
            prop_assert_eq!(index.known(), bytes.len() as u64);
        }

        #[test]
        fn any_bytes_come_to_an_end(bytes: Vec<u8>) {
            prop_assert_eq!(index(&bytes).known(), bytes.len() as u64);
        }
    }

    #[test]
    fn key_units_are_found_by_time_and_by_offset() {
        let bytes = [unit(Some(10), 7), unit(None, 9), unit(Some(19), 8), unit(None, 9)].concat();
        let index = index(&bytes);
        let time = |key: Option<Key>| key.map(|key| key.time / FRAME);
        for (at, before, after) in [
            (9, None, Some(10)),
            (10, Some(10), Some(10)),
            (18, Some(10), Some(19)),
            (99, Some(19), None),
        ] {
            assert_eq!(
                (time(index.before(at * FRAME)), time(index.after(at * FRAME))),
                (before, after),
                "{at}"
            );
        }
        let second = index.keys()[1];
        assert_eq!(
            (index.at(second.offset), index.at(second.offset + 1)),
            (Some(second), None)
        );
        assert_eq!(time(index.last_before(second.offset)), Some(10));
    }

    #[test]
    fn a_second_recording_goes_on_where_the_first_one_ends() {
        let one = [unit(Some(0), 100), unit(None, 300), unit(Some(9), 100), unit(None, 300)].concat();
        let index = index(&[one.clone(), one].concat());
        assert_eq!(frames(index.keys()), [0, 9, 18, 27]);
        assert_eq!(index.end(), Some(36 * FRAME));
    }

    #[test]
    fn a_unit_that_is_cut_off_does_not_count() {
        let bytes = [unit(Some(0), 100), unit(None, 300), unit(Some(9), 100), unit(None, 300)].concat();
        let index = index(&bytes[..bytes.len() - 1]);
        assert_eq!(index.end(), Some(10 * FRAME));
    }
}
