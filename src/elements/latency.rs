// SPDX-License-Identifier: MPL-2.0
//! What encoder and decoder say of the time they take: measured, smoothed, and told again only when it matters.

use std::sync::Mutex;
use std::time::Duration;

use gst::glib;
use gst::prelude::*;

/// Weights of a new measurement in the mean and in its deviation, those of TCP's round-trip times (RFC 6298).
const MEAN_WEIGHT: f64 = 1.0 / 8.0;
const DEVIATION_WEIGHT: f64 = 1.0 / 4.0;
/// How many deviations above the mean hardly any measurement is.
const DEVIATIONS: f64 = 3.0;
/// What is told is this much above what is measured, so that it need not be told again soon.
const HEADROOM: f64 = 1.1;
/// What is told is lowered when less than this share of it is needed ...
const MUCH_LOWER: f64 = 0.5;
/// ... of so many measurements on end: at that moment sinks drop what is late by the new latency.
const CALM_UPDATES: u32 = 60;

/// A time that is measured again and again.
#[derive(Clone, Copy, Debug, Default)]
pub struct SmoothedTime {
    /// Mean and mean deviation in s.
    measured: Option<(f64, f64)>,
}

impl SmoothedTime {
    pub fn add(&mut self, time: Duration) {
        let time = time.as_secs_f64();
        self.measured = Some(match self.measured {
            None => (time, time / 8.0),
            Some((mean, deviation)) => {
                let off = time - mean;
                (
                    mean + MEAN_WEIGHT * off,
                    deviation + DEVIATION_WEIGHT * (off.abs() - deviation),
                )
            }
        });
    }

    /// What hardly any measurement is above; `None` before the first one.
    pub fn bound(&self) -> Option<gst::ClockTime> {
        self.above(DEVIATIONS)
    }

    /// What most measurements are not above.
    pub fn likely(&self) -> Option<gst::ClockTime> {
        self.above(1.0)
    }

    fn above(&self, deviations: f64) -> Option<gst::ClockTime> {
        let (mean, deviation) = self.measured?;
        Some(seconds(mean + deviations * deviation))
    }
}

/// A time in s.
pub fn seconds(time: f64) -> gst::ClockTime {
    // The largest number means "no time".
    gst::ClockTime::from_nseconds(((time * 1e9) as u64).min(u64::MAX - 1))
}

/// A latency as it was told last.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToldLatency {
    told: gst::ClockTime,
    /// Updates on end that needed much less.
    calm: u32,
}

impl ToldLatency {
    /// Takes what is needed now: a time that is known, and one that is measured or assumed. The latency to tell, if it is another one.
    pub fn update(&mut self, known: gst::ClockTime, measured: gst::ClockTime) -> Option<gst::ClockTime> {
        let times = |time: gst::ClockTime, factor: f64| seconds(time.nseconds() as f64 * factor / 1e9);
        let needed = known.saturating_add(measured);
        if needed < times(self.told, MUCH_LOWER) {
            self.calm += 1;
        } else {
            self.calm = 0;
        }
        if needed <= self.told && self.calm < CALM_UPDATES {
            return None;
        }
        self.calm = 0;
        self.told = known.saturating_add(times(measured, HEADROOM));
        Some(self.told)
    }
}

/// Notices when the pipeline runs with less latency than it takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct LatencyCheck {
    /// What the pipeline has configured.
    configured: Option<gst::ClockTime>,
    /// Units since an element told another latency, which the application has to pick up.
    since_told: u32,
    has_warned: bool,
}

/// Units within which an application has heard of a new latency.
const PATIENCE: u32 = 4;

impl LatencyCheck {
    /// Takes a LATENCY event.
    pub fn configure(&mut self, latency: gst::ClockTime) {
        self.configured = Some(latency);
        self.since_told = 0;
    }

    /// A new latency is told: the application gets some time for it.
    pub fn tell(&mut self) {
        self.since_told = 0;
    }

    /// After each unit: the warning that is due, once. `pad`: the sink pad; `own`: the element's latency.
    pub fn warning(&mut self, pad: &gst::Pad, own: gst::ClockTime) -> Option<String> {
        self.since_told = self.since_told.saturating_add(1);
        if self.has_warned || self.since_told != PATIENCE {
            return None;
        }
        let configured = self.configured?;
        let mut query = gst::query::Latency::new();
        let (is_live, before, _) = pad.peer_query(&mut query).then(|| query.result())?;
        let needed = before.saturating_add(own);
        if !is_live || configured >= needed {
            return None;
        }
        self.has_warned = true;
        Some(format!(
            "the pipeline's latency is {} ms, up to here it takes {} ms: pictures will be late. Recalculate the latency on LATENCY \
             messages, or set a larger one",
            configured.mseconds(),
            needed.mseconds()
        ))
    }
}

/// What an element tells of the time it takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    told: ToldLatency,
    pub check: LatencyCheck,
}

impl Latency {
    /// See [`ToldLatency::update`].
    pub fn update(&mut self, known: gst::ClockTime, measured: gst::ClockTime) -> Option<gst::ClockTime> {
        let told = self.told.update(known, measured);
        if told.is_some() {
            self.check.tell();
        }
        told
    }

    /// As it was told last.
    pub fn current(&self) -> gst::ClockTime {
        self.told.told
    }
}

/// Asks for the warning of [`LatencyCheck::warning`], which queries upstream, without the lock.
pub fn check_latency(latency: &Mutex<Latency>, pad: &gst::Pad) -> Option<String> {
    let mut copy = *latency.lock().unwrap();
    let warning = copy.check.warning(pad, copy.current());
    latency.lock().unwrap().check.since_told = copy.check.since_told;
    latency.lock().unwrap().check.has_warned |= copy.check.has_warned;
    warning
}

/// Distances between pictures, by their time stamps.
#[derive(Clone, Debug, Default)]
pub struct Spacing {
    last: Option<gst::ClockTime>,
    /// The latest ones, oldest first.
    recent: Vec<gst::ClockTime>,
}

/// Distances that count: those within a unit.
const RECENT: usize = 7;

impl Spacing {
    /// Takes the time of the next picture.
    pub fn add(&mut self, time: Option<gst::ClockTime>) {
        let step = time.zip(self.last).and_then(|(time, last)| time.checked_sub(last));
        self.last = time.or(self.last);
        let Some(step) = step.filter(|step| !step.is_zero()) else {
            return;
        };
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push(step);
    }

    /// Starts anew, where time jumps.
    pub fn reset(&mut self) {
        *self = Spacing::default();
    }

    /// How far pictures are apart: `nominal` if they come so often or nearly so, what time stamps say if they are slower or if there is
    /// no nominal distance. One pause between two pictures says nothing where there is a rate.
    pub fn picture(&self, nominal: Option<gst::ClockTime>) -> Option<gst::ClockTime> {
        let mut sorted = self.recent.clone();
        sorted.sort();
        let median = sorted.get(sorted.len().saturating_sub(1) / 2).copied();
        match nominal {
            None => median,
            Some(nominal) => Some(
                median
                    .filter(|m| sorted.len() > 1 && is_slower(*m, nominal))
                    .unwrap_or(nominal),
            ),
        }
    }
}

/// Whether a distance is more than jitter above the nominal one.
fn is_slower(step: gst::ClockTime, nominal: gst::ClockTime) -> bool {
    2 * u128::from(step.nseconds()) > 3 * u128::from(nominal.nseconds())
}

/// Durations of a unit's pictures: the nominal one; where there is none, or the pictures are further apart, up to the next picture.
/// `before`: the distance of the pictures before, where the last one has nothing else to go by.
pub fn durations(
    times: &[Option<gst::ClockTime>],
    nominal: Option<gst::ClockTime>,
    before: Option<gst::ClockTime>,
) -> Vec<Option<gst::ClockTime>> {
    let mut known = before;
    let duration = |at: usize| {
        let next = times.get(at + 1).copied().flatten();
        let step = next.zip(times[at]).and_then(|(next, time)| next.checked_sub(time));
        known = step.filter(|step| !step.is_zero()).or(known);
        match (nominal, known) {
            (Some(nominal), Some(step)) if !is_slower(step, nominal) => Some(nominal),
            (nominal, step) => step.or(nominal),
        }
    };
    (0..times.len()).map(duration).collect()
}

/// Whether an element's `qos` property asks for quality of service.
pub fn wants_qos(element: &impl IsA<glib::Object>) -> bool {
    element.property("qos")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> gst::ClockTime {
        gst::ClockTime::from_mseconds(ms)
    }

    #[test]
    fn a_steady_time_is_bounded_closely_and_an_unsteady_one_from_above() {
        let bound = |times: &[u64]| {
            let mut time = SmoothedTime::default();
            times.iter().for_each(|&t| time.add(Duration::from_millis(t)));
            time.bound().unwrap().mseconds()
        };
        assert!((100..105).contains(&bound(&[100; 40])));
        let unsteady: Vec<u64> = (0..40).map(|n| if n % 4 == 0 { 160 } else { 80 }).collect();
        assert!((160..250).contains(&bound(&unsteady)), "{}", bound(&unsteady));
        assert_eq!(SmoothedTime::default().bound(), None);
    }

    #[test]
    fn a_latency_rises_at_once_and_falls_late() {
        let mut latency = ToldLatency::default();
        assert_eq!(latency.update(ms(200), ms(100)), Some(ms(310)));
        assert_eq!(latency.update(ms(200), ms(110)), None);
        assert_eq!(latency.update(ms(100), ms(220)), Some(ms(342)));
        assert!((1..CALM_UPDATES).all(|_| latency.update(ms(50), ms(30)).is_none()));
        assert_eq!(latency.update(ms(50), ms(30)), Some(ms(83)));
    }

    #[test]
    fn pictures_are_as_far_apart_as_their_times_say_where_caps_do_not_know_better() {
        let spacing = |times: &[u64]| {
            let mut spacing = Spacing::default();
            times.iter().for_each(|&t| spacing.add(Some(ms(t))));
            spacing
        };
        assert_eq!(spacing(&[0, 200]).picture(None), Some(ms(200)));
        assert_eq!(spacing(&[0, 100, 200]).picture(Some(ms(33))), Some(ms(100)));
        assert_eq!(spacing(&[0, 33, 67, 100]).picture(Some(ms(33))), Some(ms(33)));
        assert_eq!(spacing(&[0, 500]).picture(Some(ms(33))), Some(ms(33)), "one pause");
        assert_eq!(spacing(&[0, 500, 533, 567]).picture(Some(ms(33))), Some(ms(33)));
        assert_eq!(spacing(&[7]).picture(None), None);
    }

    #[test]
    fn pictures_last_until_the_next_where_they_are_slower_than_their_caps() {
        let durations = |times: &[u64], nominal, before| {
            let times: Vec<_> = times.iter().map(|&t| Some(ms(t))).collect();
            durations(&times, nominal, before)
        };
        assert_eq!(durations(&[0, 33, 67], Some(ms(33)), None), [Some(ms(33)); 3]);
        assert_eq!(durations(&[0, 100, 200], Some(ms(33)), None), [Some(ms(100)); 3]);
        assert_eq!(
            durations(&[0, 200, 300], None, None),
            [200, 100, 100].map(|t| Some(ms(t)))
        );
        assert_eq!(durations(&[5], None, Some(ms(40))), [Some(ms(40))]);
        assert_eq!(durations(&[5], None, None), [None]);
    }
}
