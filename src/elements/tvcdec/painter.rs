// SPDX-License-Identifier: MPL-2.0
//! The painter: units' symbols to pictures, in a thread of its own, and which pictures are worth it.

use std::time::{Duration, Instant};

use super::qos::SinkClock;
use super::stages::HasPictures;
use crate::codec::{CodecError, Frame, Reconstruction, UnitSymbols, Wanted};
use crate::elements::latency::SmoothedTime;

/// Units before the first one that is shown, after a seek, that are painted: further back only the coarsest level of the networks
/// looks.
pub const LEAD_IN_UNITS: u64 = 3;
/// What is left of the time that a unit is thought to take after one was skipped: who never tries does not notice that it would do.
const FADE: f64 = 0.97;
/// However late it is, something is shown so often.
const LONGEST_GAP: Duration = Duration::from_secs(1);

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
    pub symbols: Result<UnitSymbols, CodecError>,
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
    pub symbols: Result<UnitSymbols, CodecError>,
    /// `None`: not painted.
    pub frames: Vec<Option<Frame>>,
    pub pictures: Vec<PictureTime>,
    pub is_lead_in: bool,
}

impl HasPictures for PaintedUnit {
    fn has_pictures(&self) -> bool {
        self.frames.iter().any(Option::is_some)
    }
}

/// Decides what is painted, by what it takes and by what the sink's clock shows.
#[derive(Debug, Default)]
pub struct Scheduler {
    /// Of a whole unit.
    pub time: SmoothedTime,
    /// Whether the stream has frozen anything since its key unit.
    has_frozen: bool,
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

    /// What to paint of a unit. `next`: the one that waits behind it.
    pub fn choose(&mut self, unit: &Unit, next: Option<&Unit>, sink: &SinkClock) -> Wanted {
        let Ok(symbols) = &unit.symbols else {
            return Wanted::None;
        };
        self.has_frozen = (self.has_frozen && !symbols.is_key) || symbols.freezes_shown;
        let now = Instant::now();
        let is_useful = !unit.is_lead_in && self.is_in_time(unit, next.is_some(), sink, now);
        if symbols.is_key || is_useful {
            self.painted = Some(now);
            return Wanted::All;
        }
        self.time.fade(FADE);
        // Where the next unit is not there yet, streams that never froze anything are trusted to go on like that.
        let is_referred_to = match next.map(|next| &next.symbols) {
            Some(Ok(next)) => next.freezes_shown,
            Some(Err(_)) => false,
            None => self.has_frozen,
        };
        match is_referred_to {
            true => Wanted::Last,
            false => Wanted::None,
        }
    }

    /// Whether enough pictures would come in time. Who is behind does better to leave out a unit than to be a little late with each.
    fn is_in_time(&self, unit: &Unit, is_behind: bool, sink: &SinkClock, now: Instant) -> bool {
        let (Some(sink), Some(time)) = (sink.at(now), self.time.likely()) else {
            return true;
        };
        let done = sink + time;
        let due: Vec<_> = unit.pictures.iter().filter_map(|picture| picture.due).collect();
        let in_time = due.iter().filter(|due| **due >= done).count();
        match is_behind {
            true => in_time == due.len(),
            false => {
                let gap = self.painted.map(|painted| now.saturating_duration_since(painted));
                2 * in_time >= due.len() || gap.is_none_or(|gap| gap >= LONGEST_GAP)
            }
        }
    }
}

/// Paints one unit. The time that it took counts if it is that of a whole one.
pub fn paint(
    networks: &mut Reconstruction,
    unit: Unit,
    wanted: Wanted,
    group: usize,
) -> (PaintedUnit, Option<Duration>) {
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
