// SPDX-License-Identifier: MPL-2.0
//! Quality of service: where the sink is, and what was left out to keep up with it.
//!
//! The base class turns each QoS event into an earliest time that lies twice the lateness of that picture ahead. That suits a decoder
//! that makes one picture after the other; here eight are made at once, up to two units before they are shown, so that the picture in
//! the event was painted long before, and one late picture would cost many that are in time. What an event really tells is what the
//! sink's clock shows at that moment, its latency included. That goes on by itself, and the painter can compare it with the times of
//! the pictures that it is about to paint.

use std::time::{Duration, Instant};

use super::imp::TvcDec;
use super::painter::PaintedUnit;
use crate::codec::CodecError;

/// How long an event counts. A sink that is silent for longer may not be running.
const STALE: Duration = Duration::from_secs(3);

/// What the sink's clock shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct SinkClock {
    /// A running time and when it was.
    seen: Option<(gst::ClockTime, Instant)>,
    proportion: f64,
}

impl SinkClock {
    /// Takes a QoS event that comes `at`: a picture of running time `timestamp` came to the sink `diff` ns after its time. Those that
    /// come early wait there, and are reported when they are shown.
    pub fn note(&mut self, timestamp: gst::ClockTime, diff: i64, proportion: f64, at: Instant) {
        let late = gst::ClockTime::from_nseconds(diff.max(0) as u64);
        self.seen = timestamp.checked_add(late).map(|time| (time, at));
        self.proportion = proportion;
    }

    /// The clock stands or jumps.
    pub fn forget(&mut self) {
        self.seen = None;
    }

    /// The running time at the sink, if it is known.
    pub fn at(&self, now: Instant) -> Option<gst::ClockTime> {
        let (time, at) = self.seen?;
        let since = now.saturating_duration_since(at);
        let since = (since < STALE).then(|| gst::ClockTime::try_from(since).ok())??;
        time.checked_add(since)
    }

    /// Of the last event: what the sink takes in time, relative to what it gets.
    pub fn proportion(&self) -> f64 {
        self.proportion
    }
}

/// What became of the pictures, since the element was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Painted.
    pub painted: u64,
    /// Not painted, as they would have come too late.
    pub skipped: u64,
    /// Painted, and too late all the same.
    pub late: u64,
    /// Painted, though a part or all of their unit was lost.
    pub concealed: u64,
    /// Of units that could not be decoded.
    pub lost: u64,
}

impl Stats {
    /// A unit is painted, or not.
    pub fn count(&mut self, unit: &PaintedUnit) {
        let painted = unit.frames.iter().flatten().count();
        self.painted += painted as u64;
        match &unit.symbols {
            Ok(symbols) if symbols.lost > 0.0 => self.concealed += painted as u64,
            Ok(_) | Err(CodecError::Repeated) => (),
            Err(_) => self.lost += unit.pictures.len() as u64,
        }
        if !unit.is_lead_in {
            self.skipped += (unit.frames.len() - painted) as u64;
        }
    }

    /// As applications get it. `unit_time`: that painting a unit takes.
    pub fn structure(&self, unit_time: Option<gst::ClockTime>) -> gst::Structure {
        gst::Structure::builder("application/x-tvcdec-stats")
            .field("painted", self.painted)
            .field("skipped", self.skipped)
            .field("late", self.late)
            .field("concealed", self.concealed)
            .field("lost", self.lost)
            .field("unit-time", unit_time.unwrap_or_default().nseconds())
            .build()
    }
}

impl TvcDec {
    pub(super) fn note_qos(&self, qos: &gst::event::Qos) {
        let (kind, proportion, diff, timestamp) = qos.get();
        // A throttled sink says what it wants rather than where it is.
        let Some(timestamp) = timestamp.filter(|_| kind != gst::QOSType::Throttle) else {
            return;
        };
        self.sink_clock
            .lock()
            .unwrap()
            .note(timestamp, diff, proportion, Instant::now());
        if diff > 0 {
            self.stats.lock().unwrap().late += 1;
        }
    }

    pub(super) fn forget_sink(&self) {
        self.sink_clock.lock().unwrap().forget();
        *self.pushed_late.lock().unwrap() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sinks_clock_goes_on_by_itself_until_it_is_stale() {
        let (mut clock, start) = (SinkClock::default(), Instant::now());
        assert_eq!(clock.at(start), None);
        clock.note(gst::ClockTime::from_seconds(5), -7_000_000, 1.0, start);
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(clock.at(after(250)), Some(gst::ClockTime::from_mseconds(5250)));
        clock.note(gst::ClockTime::from_seconds(5), 100_000_000, 1.0, start);
        assert_eq!(clock.at(start), Some(gst::ClockTime::from_mseconds(5100)));
        assert_eq!(clock.at(after(4000)), None);
        clock.forget();
        assert_eq!(clock.at(start), None);
    }
}
