// SPDX-License-Identifier: MPL-2.0
//! The times inside a stream: a recording is one line of time from 0 on, wherever in the life of a pipeline it was made.

use crate::bitstream::rounded_like;

/// A recording, from start to stop.
#[derive(Debug, Default)]
pub struct Timeline {
    last: Option<Last>,
}

/// The last frame.
#[derive(Clone, Copy, Debug)]
struct Last {
    /// In ns: by the pipeline, and in the stream.
    running: u64,
    time: u64,
    /// How long it is shown, in ns; at least 1.
    duration: u64,
}

impl Timeline {
    /// The time of the next frame in the stream, in ns. `running`: its running time; `duration`: how long it is shown, if that is known;
    /// `rate`: frames per second. Gaps of running time stay; where it does not go on, after a flushing seek for example, the line goes
    /// on behind the last frame.
    pub fn time(
        &mut self,
        running: Option<gst::ClockTime>,
        duration: Option<gst::ClockTime>,
        rate: (u32, u32),
    ) -> Option<u64> {
        let running = running?.nseconds();
        let Some(last) = self.last else {
            return self.add(running, 0, duration.map(|duration| duration.nseconds()));
        };
        let step = running.checked_sub(last.running).filter(|&step| step > 0);
        let time = last.time.checked_add(step.unwrap_or(last.duration))?;
        let time = rounded_like(running, time, rate).max(last.time + 1);
        let known = duration.map(|duration| duration.nseconds()).or(step);
        self.add(running, time, known.or(Some(last.duration)))
    }

    fn add(&mut self, running: u64, time: u64, duration: Option<u64>) -> Option<u64> {
        let duration = duration.unwrap_or(1).max(1);
        self.last = Some(Last {
            running,
            time,
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
        assert_eq!(times(&[1000, 1000, 1040], Some(40)), [0, 40, 80]);
    }

    #[test]
    fn frames_without_a_time_have_none() {
        let mut line = Timeline::default();
        assert_eq!(line.time(None, None, (25, 1)), None);
        assert_eq!(line.time(Some(gst::ClockTime::SECOND), None, (25, 1)), Some(0));
        assert_eq!(line.time(None, None, (25, 1)), None);
    }
}
