// SPDX-License-Identifier: MPL-2.0
//! The times inside a stream: a recording is one line of time from 0 on, wherever in the life of a pipeline it was made.

use crate::bitstream::rounded_like;

/// Running time that goes back by more than this is another stretch of time; less is a source whose time stamps jitter.
const JITTER: u64 = 1_000_000_000;

/// A recording, from start to stop.
#[derive(Debug, Default)]
pub struct Timeline {
    last: Option<Last>,
    /// Whether the next frame's running time has nothing to do with that of the last one.
    is_broken: bool,
}

/// The last frame.
#[derive(Clone, Copy, Debug)]
struct Last {
    /// In ns: by the pipeline, and in the stream.
    running: u64,
    time: u64,
    /// By how much the time in the stream is behind the pipeline's, in ns; negative where it is ahead.
    behind: i128,
    /// How long it is shown, in ns; at least 1.
    duration: u64,
}

impl Timeline {
    /// The time of the next frame in the stream, in ns. `running`: its running time; `duration`: how long it is shown, if that is known;
    /// `rate`: frames per second. Gaps of running time stay; where it does not go on, after a flushing seek for example, the line goes
    /// on behind the last frame. What jitters does not move the line.
    pub fn time(
        &mut self,
        running: Option<gst::ClockTime>,
        duration: Option<gst::ClockTime>,
        rate: (u32, u32),
    ) -> Option<u64> {
        let running = running?.nseconds();
        let Some(last) = self.last else {
            return self.add(
                running,
                (0, running.into()),
                duration.map(|duration| duration.nseconds()),
            );
        };
        let step = running.checked_sub(last.running).filter(|&step| step > 0);
        let is_new = std::mem::take(&mut self.is_broken) || last.running.saturating_sub(running) > JITTER;
        let behind = match is_new {
            true => i128::from(running) - i128::from(last.time) - i128::from(last.duration),
            false => last.behind,
        };
        let time = u64::try_from((i128::from(running) - behind).max(0)).ok()?;
        let time = rounded_like(running, time, rate).max(last.time.checked_add(1)?);
        let known = duration.map(|duration| duration.nseconds()).or(step);
        self.add(running, (time, behind), known.or(Some(last.duration)))
    }

    /// After a flush: running time starts anew.
    pub fn break_off(&mut self) {
        self.is_broken = true;
    }

    fn add(&mut self, running: u64, (time, behind): (u64, i128), duration: Option<u64>) -> Option<u64> {
        let duration = duration.unwrap_or(1).max(1);
        self.last = Some(Last {
            running,
            time,
            behind,
            duration,
        });
        Some(time).filter(|&time| time != u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times of frames that come at these running times, in ms, and last so long, if that is known.
    fn times(running: &[u64], duration: Option<u64>) -> Vec<u64> {
        let mut line = Timeline::default();
        let duration = duration.map(gst::ClockTime::from_mseconds);
        let mut time = |&at: &u64| {
            line.time(Some(gst::ClockTime::from_mseconds(at)), duration, (25, 1))
                .unwrap()
        };
        running.iter().map(|at| time(at) / 1_000_000).collect()
    }

    #[test]
    fn a_recording_starts_at_0() {
        assert_eq!(times(&[20_000, 20_040, 20_080], Some(40)), [0, 40, 80]);
        assert_eq!(times(&[0, 40, 80], None), [0, 40, 80]);
    }

    #[test]
    fn gaps_stay() {
        assert_eq!(times(&[1000, 1040, 5000, 5040], Some(40)), [0, 40, 4000, 4040]);
    }

    #[test]
    fn the_line_goes_on_where_running_time_goes_back() {
        assert_eq!(times(&[1000, 1040, 0, 40, 80], Some(40)), [0, 40, 80, 120, 160]);
        assert_eq!(times(&[1000, 1040, 0, 40], None), [0, 40, 80, 120]);
    }

    #[test]
    fn jitter_does_not_move_the_line() {
        assert_eq!(times(&[1000, 1000, 1040, 1080], Some(40)), [0, 0, 40, 80]);
        assert_eq!(
            times(&[0, 40, 39, 80, 79, 120, 160], Some(40)),
            [0, 40, 40, 80, 80, 120, 160]
        );
    }

    #[test]
    fn after_a_flush_the_line_goes_on_behind_the_last_frame() {
        let mut line = Timeline::default();
        let time = |line: &mut Timeline, ms| {
            let time = Some(gst::ClockTime::from_mseconds(ms));
            line.time(time, Some(gst::ClockTime::from_mseconds(40)), (25, 1))
                .unwrap()
                / 1_000_000
        };
        assert_eq!([0, 40, 80].map(|ms| time(&mut line, ms)), [0, 40, 80]);
        line.break_off();
        assert_eq!([0, 40].map(|ms| time(&mut line, ms)), [120, 160]);
    }

    #[test]
    fn frames_without_a_time_have_none() {
        let mut line = Timeline::default();
        assert_eq!(line.time(None, None, (25, 1)), None);
        assert_eq!(line.time(Some(gst::ClockTime::SECOND), None, (25, 1)), Some(0));
        assert_eq!(line.time(None, None, (25, 1)), None);
    }
}
