// SPDX-License-Identifier: MPL-2.0
//! Times of frames: free where they follow the frame rate, exact in every case.

use super::fields::{put_leb128, unzigzag, zigzag, Reader};
use super::{BitstreamError, SequenceHeader};

const SECOND: u128 = 1_000_000_000;
const MILLISECOND: u128 = 1_000_000;
/// GStreamer's "no time": never the time of a frame.
const NO_TIME: u64 = u64::MAX;

/// How a unit gives the times of its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Timing {
    /// Frame numbers times the frame duration, rounded down to ns.
    Grid = 0,
    /// The same rounded to the nearest ms, as Matroska does.
    Milliseconds = 1,
    /// Frames since the key unit times the frame duration, rounded down, after the key unit's time.
    Relative = 2,
    /// A difference per frame in the payload.
    Explicit = 3,
}

impl Timing {
    /// From the two bits of the header.
    pub fn from_code(code: u8) -> Timing {
        [Timing::Grid, Timing::Milliseconds, Timing::Relative, Timing::Explicit][usize::from(code & 3)]
    }
}

/// Time of frame `n` of a stream that starts at 0 and has a fixed rate, in ns.
fn tick(timing: Timing, (num, den): (u32, u32), n: u128) -> u128 {
    let (num, den) = (u128::from(num), u128::from(den));
    match timing {
        Timing::Milliseconds => (2 * n * SECOND * den / (num * MILLISECOND)).div_ceil(2) * MILLISECOND,
        _ => n * SECOND * den / num,
    }
}

/// The frame whose time is nearest to `time` in ns, in a stream of a fixed rate.
fn frame_number((num, den): (u32, u32), time: u64) -> u128 {
    let (num, den) = (u128::from(num), u128::from(den));
    (u128::from(time) * num + SECOND * den / 2) / (SECOND * den)
}

/// `time`, counted from another frame than `source`, with the rounding that `source` has, in ns. Times of a fixed rate are rounded, to
/// ns or to ms, and counted from another frame they would be rounded differently; then none of the free timings would give them.
pub fn rounded_like(source: u64, time: u64, rate: (u32, u32)) -> u64 {
    if rate.0 == 0 {
        return time;
    }
    let at = |timing, time| u64::try_from(tick(timing, rate, frame_number(rate, time))).ok();
    let is_like = |&(timing, _): &(Timing, u64)| at(timing, source) == Some(source);
    let roundings = [(Timing::Grid, 1), (Timing::Milliseconds, MILLISECOND as u64)];
    let rounded = roundings.into_iter().find(is_like).and_then(|(timing, unit)| {
        let rounded = at(timing, time)?;
        (rounded.abs_diff(time) <= unit).then_some(rounded)
    });
    rounded.unwrap_or(time)
}

/// Times of the frames of one unit in ns; absent in a stream without times.
pub type FrameTimes = Vec<Option<u64>>;

/// Follows the times of a stream from its key unit on, the same way in the encoder and in the decoder.
#[derive(Clone, Debug)]
pub struct Clock {
    rate: (u32, u32),
    key: Option<u64>,
    /// Frames since the key unit, that one included.
    frames: u64,
    /// Time of the last frame.
    last: Option<u64>,
    /// How long after the one before it, in ns; 0 if that is not known.
    distance: u64,
}

impl Clock {
    /// Starts at a key unit.
    pub fn new(sequence: &SequenceHeader) -> Clock {
        Clock {
            rate: sequence.frame_rate,
            key: sequence.pts,
            frames: 1,
            last: sequence.pts,
            distance: 0,
        }
    }

    /// Goes to delta unit `unit`, from 1 on, of a stream with resilience fields, before its times are packed or parsed. Units before it may
    /// be missing, so that it is found by its number: all before it have `full` frames, those of a full delta unit.
    pub fn seek_unit(&mut self, unit: u8, full: usize) {
        self.frames = 1 + u64::from(unit.saturating_sub(1)) * full as u64;
        let key = self.key.unwrap_or(0);
        // Explicit times go on from here by the duration of a frame.
        let before = match self.rate {
            (0, _) => key,
            rate => {
                let since = tick(Timing::Relative, rate, self.frames.into()) as u64;
                key.wrapping_add(since).wrapping_sub(self.duration())
            }
        };
        self.last = Some(before);
    }

    /// Chooses the cheapest timing that gives exactly `times` (the frames of a delta unit) and appends what it
    /// needs to `payload`. Frames without a time get one by the frame rate.
    pub fn pack(&mut self, times: &[Option<u64>], payload: &mut Vec<u8>) -> Timing {
        let implicit = [Timing::Grid, Timing::Milliseconds, Timing::Relative];
        let fits = |timing: &Timing| {
            let predicted = self.predict(*timing, times.len());
            times
                .iter()
                .zip(predicted)
                .all(|(time, p)| time.is_none() || *time == p)
        };
        let timing = implicit.into_iter().find(fits).unwrap_or(Timing::Explicit);
        let coded = match timing {
            Timing::Explicit => self.pack_explicit(times, payload),
            _ => self.predict(timing, times.len()),
        };
        self.advance(&coded);
        timing
    }

    /// The times of the next `frames` frames; explicit ones are read from the front of `payload`. Returns them
    /// and the number of bytes read.
    pub fn parse(
        &mut self,
        timing: Timing,
        frames: usize,
        payload: &[u8],
    ) -> Result<(FrameTimes, usize), BitstreamError> {
        let mut reader = Reader::new(payload);
        let times = match timing {
            Timing::Explicit => self.parse_explicit(frames, &mut reader)?,
            _ => self.predict(timing, frames),
        };
        self.advance(&times);
        Ok((times, reader.position()))
    }

    /// The times of the next frames, which are lost, as the frame rate says; none where it is variable.
    pub fn pass(&mut self, frames: usize) -> FrameTimes {
        let times = match self.rate.0 {
            0 => vec![None; frames],
            _ => self.predict(Timing::Grid, frames),
        };
        self.advance(&times);
        times
    }

    /// How many frames are missing between the last one and a time, as the frame rate says, or the distance of the last frames if they are
    /// further apart.
    pub fn missing_before(&self, time: u64) -> u64 {
        let since = self.last.and_then(|last| time.checked_sub(last));
        match (since, self.duration()) {
            (Some(since), duration) if duration > 0 => {
                let distance = duration.max(self.distance);
                (since.saturating_add(distance / 2) / distance).saturating_sub(1)
            }
            _ => 0,
        }
    }

    fn advance(&mut self, times: &[Option<u64>]) {
        self.frames += times.len() as u64;
        if let [.., Some(before), Some(last)] = times {
            self.distance = last.saturating_sub(*before);
        }
        self.last = times.last().copied().flatten().or(self.last);
    }

    /// Frame duration in ns, 0 where it is variable.
    fn duration(&self) -> u64 {
        match self.rate {
            (0, _) => 0,
            (num, den) => (SECOND * u128::from(den) / u128::from(num)) as u64,
        }
    }

    fn predict(&self, timing: Timing, count: usize) -> FrameTimes {
        let (Some(key), (num, den)) = (self.key, self.rate) else {
            return vec![None; count];
        };
        if num == 0 {
            // Nothing to go by: each frame would fall on the one before.
            return vec![self.last; count];
        }
        let tick = |n: u128| tick(timing, (num, den), n);
        // The key unit's own frame number; what is left over shifts all frames alike.
        let first = match timing {
            Timing::Relative => 0,
            _ => frame_number((num, den), key),
        };
        let time = |k: u64| {
            let time = u64::try_from(u128::from(key) + tick(first + u128::from(k)) - tick(first)).ok();
            time.filter(|&t| t != NO_TIME)
        };
        (0..count as u64).map(|i| time(self.frames + i)).collect()
    }

    fn pack_explicit(&self, times: &[Option<u64>], payload: &mut Vec<u8>) -> FrameTimes {
        let mut last = self.last.unwrap_or(0);
        let mut coded = Vec::with_capacity(times.len());
        for time in times {
            let predicted = last.wrapping_add(self.duration());
            let time = time.unwrap_or(predicted);
            put_leb128(payload, zigzag(time.wrapping_sub(predicted) as i64));
            coded.push(Some(time));
            last = time;
        }
        coded
    }

    fn parse_explicit(&self, frames: usize, reader: &mut Reader) -> Result<FrameTimes, BitstreamError> {
        let mut last = self.last.unwrap_or(0);
        let mut times = Vec::with_capacity(frames);
        for _ in 0..frames {
            let difference = unzigzag(reader.leb128("frame time", u64::MAX)?);
            last = last.wrapping_add(self.duration()).wrapping_add(difference as u64);
            times.push(Some(last).filter(|&t| t != NO_TIME));
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clock(rate: (u32, u32), key: Option<u64>) -> Clock {
        Clock {
            rate,
            key,
            frames: 1,
            last: key,
            distance: 0,
        }
    }

    fn pack(clock: &mut Clock, times: &[u64]) -> (Timing, Vec<u8>) {
        let mut payload = Vec::new();
        let times: Vec<_> = times.iter().copied().map(Some).collect();
        (clock.pack(&times, &mut payload), payload)
    }

    fn any_rate() -> impl Strategy<Value = (u32, u32)> {
        let largest = i32::MAX as u32;
        prop_oneof![(0u32..1000, 1u32..2000), (0..=largest, 1..=largest)]
    }

    /// Also those next to the largest one.
    fn any_key() -> impl Strategy<Value = Option<u64>> {
        prop::option::of(prop_oneof![0..NO_TIME, NO_TIME - 100..NO_TIME])
    }

    proptest! {
        #[test]
        fn any_times_survive(
            rate in any_rate(),
            key in any_key(),
            units in prop::collection::vec(prop::collection::vec(0..u64::MAX, 1..=8), 1..5),
        ) {
            let (mut encoder, mut decoder) = (clock(rate, key), clock(rate, key));
            for times in units {
                let (timing, mut payload) = pack(&mut encoder, &times);
                let length = payload.len();
                payload.push(0xff);
                let (parsed, used) = decoder.parse(timing, times.len(), &payload).unwrap();
                prop_assert_eq!(used, length);
                prop_assert_eq!(parsed, times.into_iter().map(Some).collect::<Vec<_>>());
            }
        }

        #[test]
        fn no_time_is_predicted_that_is_none(rate in any_rate(), key in any_key(), timing in 0u8..3, units in 1usize..4) {
            let mut clock = clock(rate, key);
            for _ in 0..units {
                let (times, _) = clock.parse(Timing::from_code(timing), 8, &[]).unwrap();
                prop_assert!(times.iter().all(|&time| time != Some(NO_TIME)));
            }
        }

        #[test]
        fn uniform_times_cost_nothing(num in 1u32..240, den in prop::sample::select(vec![1u32, 1001]), start in 0u64..100_000) {
            let time = |n: u64| (u128::from(n) * SECOND * u128::from(den) / u128::from(num)) as u64;
            let mut clock = clock((num, den), Some(time(start)));
            for unit in 0..4 {
                let times: Vec<_> = (1..=8).map(|i| time(start + unit * 8 + i)).collect();
                let (timing, payload) = pack(&mut clock, &times);
                prop_assert_eq!(timing, Timing::Grid);
                prop_assert!(payload.is_empty());
            }
        }

        #[test]
        fn any_payload_is_parsed_or_refused(payload: Vec<u8>, frames in 1usize..=8) {
            let _ = clock((25, 1), Some(5)).parse(Timing::Explicit, frames, &payload);
        }

        #[test]
        fn any_time_has_a_number_of_frames_before_it(rate in any_rate(), key in any_key(), time: u64, count in 2usize..9) {
            let mut clock = clock(rate, key);
            clock.pass(count);
            prop_assert!(clock.missing_before(time) <= time);
        }

        #[test]
        fn any_unit_number_has_times(rate in any_rate(), key in any_key(), unit: u8, full in 1usize..=8, timing in 0u8..4) {
            let mut clock = clock(rate, key);
            clock.seek_unit(unit, full);
            let (times, _) = clock.parse(Timing::from_code(timing), 8, &[0; 8]).unwrap();
            prop_assert!(times.iter().all(|&time| time != Some(NO_TIME)));
        }
    }

    /// Times of whole groups of eight frames that do not follow any rate.
    fn uneven(units: u64) -> Vec<Vec<u64>> {
        let time = |n: u64| 5 + n * 40_000_000 + n * n % 7;
        (0..units)
            .map(|unit| (1..=8).map(|i| time(unit * 8 + i)).collect())
            .collect()
    }

    #[test]
    fn times_need_no_unit_that_is_lost() {
        for rate in [(25, 1), (30_000, 1001), (0, 1)] {
            let mut encoder = clock(rate, Some(5));
            let mut coded = Vec::new();
            for (unit, times) in (1u8..).zip(uneven(200)) {
                encoder.seek_unit(unit, 8);
                coded.push((unit, pack(&mut encoder, &times), times));
            }
            let mut decoder = clock(rate, Some(5));
            for (unit, (timing, payload), times) in coded.iter().filter(|(unit, ..)| unit % 3 != 1) {
                decoder.seek_unit(*unit, 8);
                let (parsed, _) = decoder.parse(*timing, 8, payload).unwrap();
                assert_eq!(
                    parsed,
                    times.iter().copied().map(Some).collect::<Vec<_>>(),
                    "unit {unit} at {rate:?}"
                );
            }
        }
    }

    #[test]
    fn uniform_times_cost_nothing_where_units_are_found_by_their_number() {
        let time = |n: u64| n * SECOND as u64 * 1001 / 30_000;
        let mut clock = clock((30_000, 1001), Some(0));
        for unit in [1u8, 2, 3, 9, 250] {
            clock.seek_unit(unit, 8);
            let first = 1 + 8 * (u64::from(unit) - 1);
            let times: Vec<_> = (first..first + 8).map(time).collect();
            assert_eq!(pack(&mut clock, &times), (Timing::Grid, vec![]), "unit {unit}");
        }
    }

    #[test]
    fn explicit_times_of_a_unit_that_is_found_by_its_number_have_these_bytes() {
        let mut clock = clock((25, 1), Some(1_000));
        clock.seek_unit(3, 4);
        // Frame 9 by the rate, 3 ns later; then 40 ms, and 40 ms less 1 ns.
        let times = [1_003 + 9 * 40_000_000, 1_003 + 10 * 40_000_000, 1_002 + 11 * 40_000_000];
        assert_eq!(pack(&mut clock, &times), (Timing::Explicit, vec![6, 0, 1]));
    }

    #[test]
    fn frames_of_a_variable_rate_have_the_key_units_time_unless_they_say_more() {
        let mut clock = clock((0, 1), Some(7));
        clock.seek_unit(1, 8);
        assert_eq!(clock.parse(Timing::Explicit, 1, &[20]), Ok((vec![Some(17)], 1)));
        clock.seek_unit(3, 8);
        assert_eq!(clock.parse(Timing::Grid, 2, &[]), Ok((vec![Some(7); 2], 0)));
    }

    #[test]
    fn a_frame_that_would_come_too_late_for_any_time_has_none() {
        let mut clock = clock((1_000_000_000, 1), Some(NO_TIME - 1));
        assert_eq!(clock.parse(Timing::Grid, 2, &[]), Ok((vec![None, None], 0)));
    }

    #[test]
    fn times_that_are_counted_from_another_frame_still_cost_nothing() {
        let nanoseconds = |n: u64| n * SECOND as u64 / 30;
        let milliseconds = |n: u64| (n * 1000 + 15) / 30 * 1_000_000;
        let kinds: [(&dyn Fn(u64) -> u64, Timing); 2] =
            [(&nanoseconds, Timing::Grid), (&milliseconds, Timing::Milliseconds)];
        for (time, timing) in kinds {
            for first in 0..30 {
                let since = |n: u64| rounded_like(time(first + n), time(first + n) - time(first), (30, 1));
                let mut clock = clock((30, 1), Some(0));
                for unit in 0..4 {
                    let times: Vec<_> = (1..=8).map(|n| since(unit * 8 + n)).collect();
                    let (packed, payload) = pack(&mut clock, &times);
                    assert!(
                        payload.is_empty() && [Timing::Grid, timing].contains(&packed),
                        "from {first} on: {times:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn times_of_no_fixed_rate_are_left_as_they_are() {
        assert_eq!(rounded_like(34_000_000, 34_000_000, (30, 1)), 34_000_000);
        assert_eq!(rounded_like(40_000_001, 80_000_003, (25, 1)), 80_000_003);
        assert_eq!(rounded_like(40_000_000, 70_000_000, (25, 1)), 70_000_000);
        assert_eq!(rounded_like(5, 7, (0, 1)), 7);
    }

    #[test]
    fn times_rounded_to_milliseconds_cost_nothing() {
        let time = |n: u64| (n * 1000 + 15) / 30 * 1_000_000;
        let mut clock = clock((30, 1), Some(0));
        let times: Vec<_> = (1..=8).map(time).collect();
        assert_eq!(pack(&mut clock, &times), (Timing::Milliseconds, vec![]));
    }

    #[test]
    fn uniform_times_after_an_odd_start_cost_nothing() {
        let start = 3_600_040_000_017;
        let mut clock = clock((30, 1), Some(start));
        let times: Vec<_> = (1..=8).map(|n| start + n * SECOND as u64 / 30).collect();
        assert_eq!(pack(&mut clock, &times), (Timing::Relative, vec![]));
    }

    #[test]
    fn jitter_of_a_nanosecond_costs_a_byte_a_frame() {
        let mut clock = clock((25, 1), Some(0));
        let times: Vec<_> = (1..=8).map(|n| n * 40_000_000 + n % 2).collect();
        let (timing, payload) = pack(&mut clock, &times);
        assert_eq!((timing, payload.len()), (Timing::Explicit, 8));
    }

    #[test]
    fn a_stream_without_times_has_none() {
        let mut clock = clock((25, 1), None);
        let mut payload = Vec::new();
        assert_eq!(clock.pack(&[None, None], &mut payload), Timing::Grid);
        assert_eq!(clock.parse(Timing::Grid, 2, &[]), Ok((vec![None, None], 0)));
    }
}
