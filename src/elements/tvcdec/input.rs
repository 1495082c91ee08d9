// SPDX-License-Identifier: MPL-2.0
//! The streaming thread's part: buffers to symbols, and when their pictures are to be shown.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::painter::{PictureTime, Unit, LEAD_IN_UNITS};
use crate::bitstream::{bytes_to_key_unit, slices_at_front, BitstreamError, UnitHeader};
use crate::codec::{CodecError, EntropyDecoder, ParsedUnit};
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
    /// Whether the next bytes take the place of a lost unit, a whole one.
    is_concealing: bool,
    /// How long the last picture is shown.
    duration: Option<gst::ClockTime>,
    /// When it has been shown.
    end: Option<gst::ClockTime>,
}

impl Input {
    pub fn new(model: Arc<Model>) -> Input {
        Input {
            group: model.group_frames(),
            decoder: EntropyDecoder::new(model),
            opened: 0,
            waiting: Vec::new(),
            has_rest: false,
            is_concealing: false,
            duration: None,
            end: None,
        }
    }

    /// Forgets what is under way.
    pub fn reset(&mut self) {
        self.decoder.reset();
        self.opened = 0;
        self.waiting.clear();
        self.has_rest = false;
        self.is_concealing = false;
        self.duration = None;
        self.end = None;
    }

    /// Nothing comes until `end`: if that leaves no time for the next unit, and something can stand in for it, its time. The next bytes
    /// take its place then.
    pub fn begin_concealing(&mut self, end: gst::ClockTime, segment: &gst::Segment) -> Option<gst::ClockTime> {
        let (start, duration) = self.end.zip(self.duration)?;
        let unit = duration.saturating_mul(self.group as u64);
        // The times of what has not come are an estimate.
        let is_over = start.saturating_add(unit) <= end.saturating_add(duration);
        let is_possible = goes_forward(segment) && !self.has_rest && self.opened == 0 && self.decoder.may_conceal();
        if !is_over || !is_possible {
            return None;
        }
        self.is_concealing = true;
        Some(start)
    }

    /// What comes next is a unit again.
    pub fn end_concealing(&mut self) {
        self.is_concealing = false;
    }

    /// Whether the bytes at hand take the place of a lost unit.
    pub fn is_concealing(&self) -> bool {
        self.is_concealing
    }

    /// Frames and length in bytes of the unit at the front of what has come; `None`: more has to come to know. `is_all`: no more will.
    pub fn unit_at_front(&self, data: &[u8], is_all: bool, segment: &gst::Segment) -> Option<(usize, usize)> {
        if self.is_concealing {
            return Some((self.group, 1));
        }
        match UnitHeader::parse(data) {
            Ok((header, _)) => {
                let length = slices_at_front(data).last().map_or(0, |(_, payload)| payload.end);
                Some((self.frames(&header, data, segment), length))
            }
            Err(BitstreamError::Incomplete) if !is_all => None,
            // No unit: all bytes up to the next one go through as a broken unit, to be reported there.
            Err(_) => Some((1, bytes_to_key_unit(data, true))),
        }
    }

    /// Frames that a unit completes: its own, and those of lost units before it.
    fn frames(&self, header: &UnitHeader, bytes: &[u8], segment: &gst::Segment) -> usize {
        header.frames + self.missing_before(bytes, segment).iter().sum::<usize>()
    }

    /// Frames of each lost unit before one that something is to stand in for: not where units are left out, or come in another order.
    fn missing_before(&self, bytes: &[u8], segment: &gst::Segment) -> Vec<usize> {
        match goes_forward(segment) {
            true => self.decoder.missing_before(bytes),
            false => vec![],
        }
    }

    /// The unit of the frames that wait, the last one, and in front of it what stands in for units that were lost. `pts`: of its buffer.
    pub fn decode(&mut self, bytes: &[u8], pts: Option<gst::ClockTime>, segment: &gst::Segment) -> Vec<Unit> {
        let mut numbers = std::mem::take(&mut self.waiting);
        if self.is_concealing {
            let concealed = self.decoder.conceal(vec![self.group]).pop();
            let symbols = concealed.ok_or(CodecError::NoKeyUnit);
            return vec![self.unit(symbols, numbers, pts, segment, Duration::ZERO)];
        }
        let missing = self.missing_before(bytes, segment);
        let concealed = self.decoder.conceal(missing);
        let start = Instant::now();
        let symbols = self.decoder.decode(bytes);
        let decoding = start.elapsed();
        let first = symbols
            .as_ref()
            .ok()
            .and_then(|symbols| symbols.times.first().copied().flatten());
        let mut units = Vec::with_capacity(concealed.len() + 1);
        for symbols in concealed {
            let behind = numbers.split_off(symbols.times.len().min(numbers.len()));
            // As far before the buffer's time as it is before the unit's.
            let before = first.zip(symbols.times.first().copied().flatten());
            let before = before.and_then(|(first, time)| caps::time(first.checked_sub(time)?));
            let pts = pts.zip(before).map(|(pts, before)| pts.saturating_sub(before));
            units.push(self.unit(
                Ok(symbols),
                std::mem::replace(&mut numbers, behind),
                pts,
                segment,
                Duration::ZERO,
            ));
        }
        units.push(self.unit(symbols, numbers, pts, segment, decoding));
        units
    }

    fn unit(
        &mut self,
        symbols: Result<ParsedUnit, CodecError>,
        numbers: Vec<u32>,
        pts: Option<gst::ClockTime>,
        segment: &gst::Segment,
        decoding: Duration,
    ) -> Unit {
        let pictures = match &symbols {
            Ok(symbols) => self.picture_times(symbols, &numbers, pts, segment),
            Err(_) => numbers.into_iter().map(PictureTime::unknown).collect(),
        };
        Unit {
            is_lead_in: is_lead_in(&pictures, self.group, segment),
            symbols,
            pictures,
            decoding,
        }
    }

    /// Times of a unit's pictures. The buffer's time wins over the stream's: a container or a network may have moved it. The distances
    /// inside a unit are the stream's.
    fn picture_times(
        &mut self,
        symbols: &ParsedUnit,
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
        let last = times.last().copied().flatten();
        self.end = last
            .zip(self.duration)
            .map(|(last, duration)| last.saturating_add(duration));
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

/// Whether all units come, one after the other.
pub fn goes_forward(segment: &gst::Segment) -> bool {
    segment.rate() > 0.0 && !wants_key_units(segment)
}

/// Whether all but key units are to be left out: fast playback.
pub fn wants_key_units(segment: &gst::Segment) -> bool {
    segment.flags().contains(gst::SegmentFlags::TRICKMODE_KEY_UNITS)
}

/// Whether a buffer is a whole unit and no more.
pub fn is_one_unit(buffer: &gst::BufferRef) -> bool {
    let Ok(map) = buffer.map_readable() else { return false };
    slices_at_front(&map)
        .last()
        .is_some_and(|(_, payload)| payload.end == map.len())
}

/// Whether the base class pushes an event at once, or asks for all pictures before it.
pub fn overtakes_pictures(event: &gst::Event) -> bool {
    match event.type_() {
        gst::EventType::StreamStart | gst::EventType::SegmentDone | gst::EventType::Gap => true,
        gst::EventType::CustomDownstream => gst_video::StillFrameEvent::parse(event).is_ok(),
        _ => false,
    }
}
