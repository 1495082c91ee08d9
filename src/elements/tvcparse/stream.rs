// SPDX-License-Identifier: MPL-2.0
//! Units of a file and their times, from one end to the other.

use crate::bitstream::{BitstreamError, Clock, FrameTimes, SequenceHeader, UnitHeader};
use crate::elements::caps;

/// What the next unit is understood by.
#[derive(Clone, Default)]
pub struct Stream {
    /// Of the last key unit; `None` until one has been seen since the start or a loss of sync.
    group: Option<Group>,
    line: Line,
}

#[derive(Clone)]
struct Group {
    sequence: SequenceHeader,
    clock: Clock,
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
        Stream { group: None, line }
    }

    /// Whether a unit can be understood: without its key unit a delta unit is of no use to anyone.
    pub fn takes(&self, header: &UnitHeader) -> bool {
        header.is_key() || self.group.is_some()
    }

    /// Only a key unit is a place to go on.
    pub fn lose_sync(&mut self) {
        self.group = None;
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

    /// Times of the next unit's frames in the file. `payload`: as much of it as may hold times.
    pub fn follow(&mut self, header: &UnitHeader, payload: &[u8]) -> Result<FrameTimes, BitstreamError> {
        if let Some(sequence) = header.sequence {
            self.line.begin_group(&sequence);
            let clock = Clock::new(&sequence);
            self.group = Some(Group { sequence, clock });
            return Ok(self.line.add(vec![sequence.pts], sequence.frame_rate.0 == 0));
        }
        let group = self.group.as_mut().ok_or(BitstreamError::Incomplete)?;
        let (times, _) = group.clock.parse(header.timing, header.frames, payload)?;
        Ok(self.line.add(times, group.sequence.frame_rate.0 == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
