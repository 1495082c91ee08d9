// SPDX-License-Identifier: MPL-2.0
//! The painter: units' symbols to pictures, in a thread of its own, and which pictures are worth it.

use std::time::{Duration, Instant};

use super::qos::SinkClock;
use super::stages::Pictures;
use crate::codec::{CodecError, Frame, Painter, ParsedUnit, Wanted};
use crate::elements::latency::SmoothedTime;

/// Units before the first one that is shown, after a seek, that are painted: further back only the coarsest level of the networks
/// looks.
pub const LEAD_IN_UNITS: u64 = 3;
/// However late it is, something is painted after so long, and after so long where units wait: leaving out some of them makes it in time.
/// Without it, who takes a unit for too dear would never learn better.
const LONGEST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST_BEHIND: Duration = Duration::from_secs(10);

/// A picture on its way.
#[derive(Clone, Copy, Debug)]
pub struct PictureTime {
    /// The base class's number of its frame.
    pub number: u32,
    pub pts: Option<gst::ClockTime>,
    pub duration: Option<gst::ClockTime>,
    /// Running time at which it is to be shown, if it is in the segment.
    pub due: Option<gst::ClockTime>,
}

impl PictureTime {
    /// Of a unit that cannot be decoded.
    pub fn unknown(number: u32) -> PictureTime {
        PictureTime {
            number,
            pts: None,
            duration: None,
            due: None,
        }
    }
}

/// A unit that waits to be painted.
#[derive(Debug)]
pub struct Unit {
    pub symbols: Result<ParsedUnit, CodecError>,
    pub pictures: Vec<PictureTime>,
    /// So far before the segment that nothing in it depends on more than the coarsest level.
    pub is_lead_in: bool,
    /// What entropy decoding took.
    pub decoding: Duration,
}

/// A painted unit that waits to be shown.
#[derive(Debug)]
pub struct PaintedUnit {
    /// What it was made of.
    pub symbols: Result<ParsedUnit, CodecError>,
    /// `None`: not painted.
    pub frames: Vec<Option<Frame>>,
    pub pictures: Vec<PictureTime>,
    pub is_lead_in: bool,
}

impl Pictures for PaintedUnit {
    fn are_painted(&self) -> bool {
        self.frames.iter().any(Option::is_some)
    }

    fn are_shown(&self) -> bool {
        let mut pictures = self.frames.iter().zip(&self.pictures);
        pictures.any(|(frame, time)| frame.is_some() && time.due.is_some())
    }
}

/// Decides what is painted, by what it takes and by what the sink's clock shows.
#[derive(Debug, Default)]
pub struct Scheduler {
    /// Of a whole unit.
    pub time: SmoothedTime,
    /// Whether the stream has kept anything static since its key unit.
    has_static: bool,
    /// When something was painted last.
    painted: Option<Instant>,
    /// Whether a unit has been measured since the start: the first one includes what libtorch prepares once.
    is_warm: bool,
}

impl Scheduler {
    /// A new stream; how long a unit takes is still of interest.
    pub fn forget_stream(&mut self) {
        let time = self.time;
        *self = Scheduler {
            time,
            ..Scheduler::default()
        };
    }

    /// A whole unit took so long; what hardly any takes, if it is known.
    pub fn measured(&mut self, time: Duration) -> Option<gst::ClockTime> {
        if std::mem::replace(&mut self.is_warm, true) {
            self.time.add(time);
        }
        self.time.bound()
    }

    /// What to paint of a unit, now. `next`: the one that waits behind it.
    pub fn choose(&mut self, unit: &Unit, next: Option<&Unit>, sink: &SinkClock, now: Instant) -> Wanted {
        let Ok(symbols) = &unit.symbols else {
            return Wanted::None;
        };
        self.has_static = (self.has_static && !symbols.is_key) || symbols.starts_static;
        let due: Vec<_> = unit.pictures.iter().filter_map(|picture| picture.due).collect();
        let is_shown = !unit.is_lead_in && self.is_worth_it(&due, next.is_some(), sink, now);
        if is_shown || symbols.is_key {
            return Wanted::All;
        }
        // Where the next unit is not there yet, streams that never kept anything static are trusted to go on like that.
        let is_referred_to = match next.map(|next| &next.symbols) {
            Some(Ok(next)) => next.starts_static,
            Some(Err(_)) => false,
            None => self.has_static,
        };
        match is_referred_to {
            true => Wanted::Last,
            false => Wanted::None,
        }
    }

    /// Whether to paint a unit of pictures that are due at these times.
    fn is_worth_it(&mut self, due: &[gst::ClockTime], is_behind: bool, sink: &SinkClock, now: Instant) -> bool {
        let rest = self.painted.map(|painted| now.saturating_duration_since(painted));
        let longest = if is_behind { LONGEST_REST_BEHIND } else { LONGEST_REST };
        let is_overdue = rest.is_none_or(|rest| rest >= longest);
        let is_worth_it = is_overdue || self.is_in_time(due, is_behind, sink.at(now));
        if is_worth_it {
            self.painted = Some(now);
        }
        is_worth_it
    }

    /// Whether enough pictures would come in time. Who is behind does better to leave out a unit than to be a little late with each.
    fn is_in_time(&self, due: &[gst::ClockTime], is_behind: bool, sink: Option<gst::ClockTime>) -> bool {
        let Some(done) = sink.zip(self.time.likely()).map(|(sink, time)| sink + time) else {
            return true;
        };
        let in_time = due.iter().filter(|due| **due >= done).count();
        match is_behind {
            true => in_time == due.len(),
            false => 2 * in_time >= due.len(),
        }
    }
}

/// Paints one unit. The time that it took counts if it is that of a whole one.
pub fn paint(networks: &mut Painter, unit: Unit, wanted: Wanted, group: usize) -> (PaintedUnit, Option<Duration>) {
    let start = Instant::now();
    let mut time = None;
    let (symbols, frames) = match unit.symbols {
        Err(error) => (Err(error), vec![]),
        Ok(symbols) => match networks.run(&symbols, wanted) {
            Err(error) => (Err(error), vec![]),
            Ok(frames) => {
                let is_whole = wanted == Wanted::All && frames.len() == group && !symbols.is_key;
                time = is_whole.then(|| start.elapsed() + unit.decoding);
                (Ok(symbols), frames)
            }
        },
    };
    let painted = PaintedUnit {
        symbols,
        frames,
        pictures: unit.pictures,
        is_lead_in: unit.is_lead_in,
    };
    (painted, time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u64 = 40;
    const UNIT: u64 = 8 * FRAME;
    /// What a unit takes that is not painted, of one that is.
    const SKIPPED: f64 = 0.13;

    /// How many pictures of each unit of a file are shown in time, by a machine that paints so many of them per unit of time, in virtual time.
    fn play(speed: f64, units: u64) -> Vec<usize> {
        let origin = Instant::now();
        let at = |ms: f64| origin + Duration::from_secs_f64(ms / 1000.0);
        let cost = UNIT as f64 / speed;
        let (mut scheduler, mut sink) = (Scheduler::default(), SinkClock::default());
        for _ in 0..3 {
            scheduler.measured(Duration::from_secs_f64(cost / 1000.0));
        }
        // When the painter is free, when the unit before is taken to be pushed, and when that is done.
        let (mut free, mut taken, mut pushed) = (0.0, 0.0, 0.0f64);
        let mut shown = vec![];
        for unit in 0..units {
            let due: Vec<_> = (0..8)
                .map(|t| gst::ClockTime::from_mseconds(unit * UNIT + t * FRAME))
                .collect();
            sink.note(gst::ClockTime::from_nseconds((free * 1e6) as u64), 0, 1.0, at(free));
            let is_painted = scheduler.is_worth_it(&due, true, &sink, at(free));
            let done = free + if is_painted { cost } else { SKIPPED * cost };
            if is_painted {
                scheduler.measured(Duration::from_secs_f64(cost / 1000.0));
            }
            // One unit waits at most: this one, once that before is taken.
            free = done.max(taken);
            taken = free.max(pushed);
            if is_painted {
                pushed = taken.max((unit * UNIT + 7 * FRAME) as f64);
            }
            // A sink takes what is 20 ms late.
            let in_time = |t: &u64| is_painted && taken <= (unit * UNIT + t * FRAME + 20) as f64;
            shown.push((0..8).filter(in_time).count());
        }
        shown
    }

    fn share(shown: &[usize]) -> f64 {
        shown.iter().sum::<usize>() as f64 / (8 * shown.len()) as f64
    }

    #[test]
    fn who_keeps_up_shows_everything() {
        // But for the start, where the painter has no lead.
        assert!(play(1.3, 60)[6..].iter().all(|shown| *shown == 8));
    }

    #[test]
    fn at_18_of_25_frames_two_of_three_are_shown_and_evenly() {
        let shown = play(18.0 / 25.0, 60);
        let steady = &shown[6..];
        assert!(share(steady) >= 0.6, "{} of {shown:?}", share(steady));
        let is_even = steady.windows(2).all(|pair| pair[0] + pair[1] >= 8);
        assert!(is_even, "never two units on end: {shown:?}");
    }

    #[test]
    fn far_too_slow_a_machine_shows_what_it_can() {
        for speed in [0.5, 0.3, 0.2] {
            let shown = play(speed, 120);
            let share = share(&shown[10..]);
            // Of the time that is not needed for what is left out.
            let possible = (speed - SKIPPED) / (1.0 - SKIPPED);
            assert!(
                share > 0.7 * possible,
                "{share} at {speed}, possible is {possible}: {shown:?}"
            );
        }
    }

    #[test]
    fn a_live_stream_shows_units_of_which_half_is_in_time_and_something_every_second() {
        let now = Instant::now();
        let mut scheduler = Scheduler::default();
        for _ in 0..9 {
            scheduler.measured(Duration::from_millis(400));
        }
        let mut sink = SinkClock::default();
        sink.note(gst::ClockTime::from_seconds(10), 0, 1.0, now);
        let mut is_worth_it = |from: u64, after: u64| {
            let due: Vec<_> = (0..8)
                .map(|t| gst::ClockTime::from_mseconds(from + t * FRAME))
                .collect();
            let now = now + Duration::from_millis(after);
            sink.note(gst::ClockTime::from_seconds(10), 0, 1.0, now);
            scheduler.is_worth_it(&due, false, &sink, now)
        };
        assert!(is_worth_it(10_300, 0), "five of eight are in time");
        assert!(!is_worth_it(10_100, 100), "none is");
        assert!(is_worth_it(10_100, 1100), "but nothing has been shown for a second");
        assert!(!is_worth_it(10_100, 1200));
    }
}
