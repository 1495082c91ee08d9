// SPDX-License-Identifier: MPL-2.0
//! The streaming thread's part: buffers to symbols, and when their pictures are to be shown.

use std::sync::Arc;
use std::time::Instant;

use super::painter::{PictureTime, Unit, LEAD_IN_UNITS};
use crate::bitstream::UnitHeader;
use crate::codec::{EntropyDecoder, UnitSymbols};
use crate::elements::caps;
use crate::elements::latency::durations;
use crate::model::Model;

/// Pictures later than this (146 years) have no time: sums of a time and a duration stay within their range.
const LATEST: gst::ClockTime = gst::ClockTime::from_nseconds(1 << 62);

/// The streaming thread's part, from start to stop.
pub struct Input {
    pub decoder: EntropyDecoder,
    /// Frames of a whole unit.
    pub group: usize,
    /// Frames that `parse` has opened so far for the unit at hand.
    pub opened: usize,
    /// Numbers of the opened frames that wait for the unit's bytes.
    pub waiting: Vec<u32>,
    /// Whether the base class has kept bytes of earlier buffers.
    pub has_rest: bool,
    /// How long the last picture is shown.
    duration: Option<gst::ClockTime>,
}

impl Input {
    pub fn new(model: Arc<Model>) -> Input {
        Input {
            group: model.group_frames(),
            decoder: EntropyDecoder::new(model),
            opened: 0,
            waiting: Vec::new(),
            has_rest: false,
            duration: None,
        }
    }

    /// Forgets what is under way.
    pub fn reset(&mut self) {
        self.decoder.reset();
        self.opened = 0;
        self.waiting.clear();
        self.has_rest = false;
        self.duration = None;
    }

    /// The unit of the frames that wait. `pts`: of its buffer.
    pub fn decode(&mut self, bytes: &[u8], pts: Option<gst::ClockTime>, segment: &gst::Segment) -> Unit {
        let start = Instant::now();
        let symbols = self.decoder.decode(bytes);
        let numbers = std::mem::take(&mut self.waiting);
        let pictures = match &symbols {
            Ok(symbols) => self.picture_times(symbols, &numbers, pts, segment),
            Err(_) => numbers.into_iter().map(PictureTime::unknown).collect(),
        };
        Unit {
            is_lead_in: is_lead_in(&pictures, self.group, segment),
            symbols,
            pictures,
            decoding: start.elapsed(),
        }
    }

    /// Times of a unit's pictures. The buffer's time wins over the stream's: a container or a network may have moved it. The distances
    /// inside a unit are the stream's.
    fn picture_times(
        &mut self,
        symbols: &UnitSymbols,
        numbers: &[u32],
        unit: Option<gst::ClockTime>,
        segment: &gst::Segment,
    ) -> Vec<PictureTime> {
        let first = symbols.times.first().copied().flatten();
        let moved = |time: &Option<u64>| {
            let since = time.zip(first).map(|(time, first)| time.saturating_sub(first));
            let moved = unit
                .zip(since)
                .and_then(|(unit, since)| unit.checked_add(caps::time(since)?));
            moved
                .or_else(|| time.and_then(caps::time))
                .filter(|&time| time <= LATEST)
        };
        let times: Vec<_> = symbols.times.iter().map(moved).collect();
        let durations = durations(&times, caps::duration(&symbols.sequence, 1), self.duration);
        self.duration = durations.last().copied().flatten();
        let segment = segment.downcast_ref::<gst::ClockTime>();
        let picture = |((&number, &pts), &duration)| PictureTime {
            number,
            pts,
            duration,
            due: segment.and_then(|segment| segment.to_running_time(pts)),
        };
        numbers.iter().zip(&times).zip(&durations).map(picture).collect()
    }
}

/// Whether a unit is so far before the segment that its pictures are neither shown nor of much use for those that are.
fn is_lead_in(pictures: &[PictureTime], group: usize, segment: &gst::Segment) -> bool {
    let last = pictures.last().and_then(|last| last.pts.zip(last.duration));
    let start = segment
        .downcast_ref::<gst::ClockTime>()
        .and_then(|segment| segment.start());
    let lead = |(pts, duration): (gst::ClockTime, gst::ClockTime)| {
        pts.saturating_add(duration.saturating_mul(1 + LEAD_IN_UNITS * group as u64))
    };
    // Backwards all pictures of a group are shown, or clipped, from the last one on.
    last.zip(start)
        .is_some_and(|(last, start)| segment.rate() > 0.0 && lead(last) <= start)
}

/// Whether a buffer is a whole unit and no more.
pub fn is_one_unit(buffer: &gst::BufferRef) -> bool {
    let Ok(map) = buffer.map_readable() else { return false };
    UnitHeader::parse(&map).is_ok_and(|(header, start)| start + header.payload_length == map.len())
}

/// Whether the base class pushes an event at once, or asks for all pictures before it.
pub fn overtakes_pictures(event: &gst::Event) -> bool {
    match event.type_() {
        gst::EventType::StreamStart | gst::EventType::SegmentDone | gst::EventType::Gap => true,
        gst::EventType::CustomDownstream => gst_video::StillFrameEvent::parse(event).is_ok(),
        _ => false,
    }
}
