// SPDX-License-Identifier: MPL-2.0
//! Access units of a file and their times, from one end to the other.

use crate::bitstream::{BitstreamError, Clock, FrameTimes, SequenceHeader, UnitHeader};
use crate::elements::caps;

/// What the next unit is understood by.
#[derive(Clone, Default)]
pub struct Stream {
    /// Of the last key unit; `None` until one has been seen since the start or a loss of sync.
    group: Option<Group>,
    line: Line,
    /// What was last followed, for as long as its access unit may go on.
    last: Option<UnitHeader>,
    full: FullUnit,
}

#[derive(Clone)]
struct Group {
    sequence: SequenceHeader,
    clock: Clock,
    /// Number of the group, in streams with resilience fields.
    number: Option<u8>,
}

/// Frames of a full delta unit, which is for the model to say: the most that were seen.
#[derive(Clone, Copy, Default)]
struct FullUnit {
    model_id: u64,
    frames: usize,
}

impl FullUnit {
    fn note(&mut self, model_id: u64, frames: usize) -> usize {
        if self.model_id != model_id {
            *self = FullUnit { model_id, frames: 0 };
        }
        self.frames = self.frames.max(frames);
        self.frames
    }
}

/// One line of time for a file of several recordings, as `cat` makes: each begins at a time of its own, mostly 0, and is to be shown when
/// the one before it is over.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    /// What the times of this recording are moved by, in ns.
    shift: u64,
    /// The latest frame of this recording, by its own time.
    last: Option<u64>,
    /// How long a frame is shown.
    frame: u64,
}

impl Line {
    /// A key unit: if it is not later than what was there before, it begins the next recording.
    fn begin_group(&mut self, sequence: &SequenceHeader) {
        if let Some((time, end)) = sequence.pts.filter(|&time| self.last >= Some(time)).zip(self.end()) {
            *self = Line {
                shift: end.saturating_sub(time),
                last: None,
                frame: 0,
            };
        }
        if let Some(frame) = caps::duration(sequence, 1) {
            self.frame = frame.nseconds();
        }
    }

    /// Frames of this recording, by their own times; gives those of the file.
    fn add(&mut self, times: FrameTimes, is_variable: bool) -> FrameTimes {
        for &time in times.iter().flatten() {
            let step = self.last.and_then(|last| time.checked_sub(last));
            if let Some(step) = step.filter(|&step| is_variable && step > 0) {
                self.frame = step;
            }
            self.last = self.last.max(Some(time));
        }
        let moved = |time: u64| time.checked_add(self.shift).filter(|&time| time != u64::MAX);
        times.into_iter().map(|time| time.and_then(moved)).collect()
    }

    /// When the latest frame is over.
    fn end(&self) -> Option<u64> {
        self.last?.checked_add(self.shift)?.checked_add(self.frame)
    }
}

impl Stream {
    /// One whose times are moved by `shift`.
    pub fn shifted(shift: u64) -> Stream {
        let line = Line {
            shift,
            ..Line::default()
        };
        Stream {
            line,
            ..Stream::default()
        }
    }

    /// Whether a unit can be understood: without its key unit a delta unit is of no use to anyone.
    pub fn takes(&self, header: &UnitHeader) -> bool {
        let number = header.resilience.map(|resilience| resilience.group);
        header.is_key() || self.group.as_ref().is_some_and(|group| group.number == number)
    }

    /// Whether this is one more slice of the access unit that was followed last, and has the same times.
    pub fn goes_on_with(&self, header: &UnitHeader) -> bool {
        self.last.is_some_and(|last| header.continues(&last))
    }

    /// Only a key unit is a place to go on.
    pub fn lose_sync(&mut self) {
        self.group = None;
        self.last = None;
    }

    /// The header of the group at hand.
    pub fn sequence(&self) -> Option<SequenceHeader> {
        self.group.as_ref().map(|group| group.sequence)
    }

    /// What the times of this recording are moved by.
    pub fn shift(&self) -> u64 {
        self.line.shift
    }

    /// When the latest frame so far is over, in ns.
    pub fn end(&self) -> Option<u64> {
        self.line.end()
    }

    /// A slice that [`Stream::goes_on_with`] its access unit.
    pub fn skip_slice(&mut self, header: &UnitHeader) {
        self.last = Some(*header);
    }

    /// Times of the next access unit's frames in the file. `header` and `payload`: those of its first slice, and as much of the payload as
    /// may hold times.
    pub fn follow(&mut self, header: &UnitHeader, payload: &[u8]) -> Result<FrameTimes, BitstreamError> {
        self.last = Some(*header);
        if let Some(sequence) = header.sequence {
            self.line.begin_group(&sequence);
            self.group = Some(Group {
                sequence,
                clock: Clock::new(&sequence),
                number: header.resilience.map(|resilience| resilience.group),
            });
            return Ok(self.line.add(vec![sequence.pts], sequence.frame_rate.0 == 0));
        }
        let group = self.group.as_mut().ok_or(BitstreamError::Incomplete)?;
        let full = self.full.note(group.sequence.model_id, header.frames);
        if let Some(resilience) = header.resilience {
            group.clock.seek_unit(resilience.unit, full);
        }
        let (times, _) = group.clock.parse(header.timing, header.frames, payload)?;
        Ok(self.line.add(times, group.sequence.frame_rate.0 == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::samples::slice;
    use crate::bitstream::Timing;

    const FRAME: u64 = 40_000_000;

    fn header(key: Option<u64>) -> UnitHeader {
        let sequence = key.map(|pts| SequenceHeader {
            pts: Some(pts),
            ..SequenceHeader::sample()
        });
        UnitHeader {
            sequence,
            frames: if key.is_some() { 1 } else { 8 },
            timing: Timing::Grid,
            payload_length: 0,
            symbol_check: 0,
            resilience: None,
        }
    }

    /// Times of the units' first frames, in frames; a number is a key unit at that frame, `None` a delta unit.
    fn firsts(units: &[Option<u64>]) -> Vec<u64> {
        let mut stream = Stream::default();
        let mut first = |unit: &Option<u64>| stream.follow(&header(unit.map(|frame| frame * FRAME)), &[]).unwrap()[0];
        units.iter().map(|unit| first(unit).unwrap() / FRAME).collect()
    }

    #[test]
    fn recordings_follow_each_other() {
        let one = [Some(0), None, Some(9), None];
        assert_eq!(firsts(&[one, one].concat()), [0, 1, 9, 10, 18, 19, 27, 28]);
        assert_eq!(firsts(&[Some(0), Some(0), Some(0)]), [0, 1, 2]);
        assert_eq!(firsts(&[Some(500), None, Some(500), None]), [500, 501, 509, 510]);
        assert_eq!(firsts(&[Some(500), None, Some(3), None]), [500, 501, 509, 510]);
    }

    #[test]
    fn lost_units_leave_their_time_and_groups_without_their_key_unit_are_not_taken() {
        let mut stream = Stream::default();
        let mut first = |group, unit| {
            let (header, start) = UnitHeader::parse(&slice(group, unit, 0, 2, 0)).unwrap();
            assert_eq!(start, slice(group, unit, 0, 2, 0).len());
            let is_taken = stream.takes(&header);
            is_taken.then(|| stream.follow(&header, &[]).unwrap()[0].unwrap() / FRAME)
        };
        let units = [(0, 0), (0, 1), (0, 4), (5, 2), (5, 0), (5, 2)];
        let times = units.map(|(group, unit)| first(group, unit));
        assert_eq!(times, [Some(0), Some(1), Some(25), None, Some(45), Some(54)]);
    }

    #[test]
    fn units_of_four_frames_are_counted_by_fours() {
        let mut stream = Stream::default();
        let (key, _) = UnitHeader::parse(&slice(0, 0, 0, 1, 0)).unwrap();
        stream.follow(&key, &[]).unwrap();
        let firsts = [(1, 4), (5, 4), (6, 2)].map(|(unit, frames)| {
            let (header, _) = UnitHeader::parse(&slice(0, unit, 0, 1, 0)).unwrap();
            stream.follow(&UnitHeader { frames, ..header }, &[]).unwrap()[0].unwrap() / FRAME
        });
        assert_eq!(firsts, [1, 17, 21]);
    }

    #[test]
    fn gaps_stay_gaps() {
        assert_eq!(firsts(&[Some(0), None, Some(100), None]), [0, 1, 100, 101]);
    }

    #[test]
    fn a_recording_behind_the_latest_time_of_all_has_none() {
        let mut stream = Stream::default();
        stream.follow(&header(Some(u64::MAX - 1)), &[]).unwrap();
        assert_eq!(stream.end(), None);
        stream.follow(&header(Some(u64::MAX - 1)), &[]).unwrap();
        let times = stream.follow(&header(None), &[]).unwrap();
        assert_eq!(times, vec![None; 8]);
    }
}
