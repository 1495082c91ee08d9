// SPDX-License-Identifier: MPL-2.0
//! The painter's thread, the source pad's task, and the latency that comes of them.

#[cfg(test)]
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;

use super::imp::{TvcDec, CAT};
use super::painter::{paint, Unit};
use crate::bitstream::SequenceHeader;
use crate::codec::{DecoderSettings, Painter, Wanted};
use crate::elements::latency::check_latency;
use crate::model::Model;

/// Time that painting a unit takes, assumed until it is measured: that of two cores with bf16 or four without. For itself, and per luma
/// sample in ns.
const ASSUMED_UNIT_TIME: gst::ClockTime = gst::ClockTime::from_mseconds(20);
const ASSUMED_SAMPLE_NS: u64 = 150;

/// Painting a unit of so many frames of so many luma samples, roughly.
pub(super) fn assumed_time(samples: u64, frames: usize) -> gst::ClockTime {
    ASSUMED_UNIT_TIME + gst::ClockTime::from_nseconds(samples * frames as u64 * ASSUMED_SAMPLE_NS)
}

impl TvcDec {
    /// At a key unit, as long as nothing is measured: by the size in which the networks paint.
    pub(super) fn guess_latency(&self, sequence: &SequenceHeader) {
        if self.scheduler.lock().unwrap().time.bound().is_none() {
            let (width, height) = sequence.coded_size();
            let group = self.input.lock().unwrap().as_ref().map_or(1, |input| input.group);
            self.tell_latency(assumed_time(u64::from(width) * u64::from(height), group));
        }
    }

    pub(super) fn tell_latency(&self, needed: gst::ClockTime) {
        let told = self.latency.lock().unwrap().update(gst::ClockTime::ZERO, needed);
        if let Some(told) = told {
            gst::info!(CAT, imp = self, "latency {told}");
            self.obj().set_latency(told, told);
        }
    }

    pub(super) fn start_painter(&self, model: Arc<Model>) -> Result<(), gst::ErrorMessage> {
        let element = self.obj().clone();
        let thread = std::thread::Builder::new().name("tvcdec-painter".into());
        let thread = thread.spawn(move || element.imp().guarded(|imp| imp.paint_units(model)));
        let thread = thread.map_err(|error| gst::error_msg!(gst::CoreError::Thread, ["the painter: {error}"]))?;
        *self.painter.lock().unwrap() = Some(thread);
        Ok(())
    }

    /// Runs a thread's work. If it panics, the element reports that, and nobody waits for it any more. The base class's own way would
    /// leave the element unable to stop its pads.
    fn guarded<T: Default>(&self, work: impl FnOnce(&Self) -> T) -> T {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(self)));
        result.unwrap_or_else(|panic| {
            self.stages.die();
            let element = self.obj();
            gst::subclass::post_panic_error_message(element.upcast_ref(), element.upcast_ref(), Some(panic));
            T::default()
        })
    }

    /// The painter's thread, until the stages close.
    fn paint_units(&self, model: Arc<Model>) {
        let group = model.group_frames();
        let mut networks = Painter::new(model, DecoderSettings::default());
        let choose = |unit: &Unit, next: Option<&Unit>| self.choose(unit, next);
        while let Some((ticket, unit, wanted)) = self.stages.next_waiting(choose) {
            #[cfg(test)]
            let dies = self.painter_dies.load(Ordering::Relaxed);
            #[cfg(test)]
            assert!(!dies, "a test lets the painter die");
            let (painted, time) = paint(&mut networks, unit, wanted, group);
            self.stats.lock().unwrap().count(&painted);
            self.stages.push_painted(ticket, painted);
            if let Some(time) = time {
                gst::log!(CAT, imp = self, "a unit took {time:?}");
                self.note_time(time);
            }
        }
    }

    fn choose(&self, unit: &Unit, next: Option<&Unit>) -> Wanted {
        let (sink, now) = (*self.sink_clock.lock().unwrap(), Instant::now());
        let mut scheduler = self.scheduler.lock().unwrap();
        let wanted = scheduler.choose(unit, next, &sink, now);
        gst::log!(
            CAT,
            imp = self,
            "{wanted:?} of the unit due at {:?}: the sink is at {:?}, units take {:?}, another one waits: {}",
            unit.pictures.first().and_then(|first| first.due),
            sink.at(now),
            scheduler.time.likely(),
            next.is_some()
        );
        wanted
    }

    /// A whole unit took so long.
    fn note_time(&self, time: Duration) {
        let needed = self.scheduler.lock().unwrap().measured(time);
        if let Some(needed) = needed {
            self.tell_latency(needed);
        }
        if let Some(warning) = check_latency(&self.latency, self.obj().sink_pad()) {
            gst::element_imp_warning!(self, gst::CoreError::Clock, ["{warning}"]);
        }
    }

    pub(super) fn start_task(&self) -> Result<(), glib::BoolError> {
        let element = self.obj().downgrade();
        self.obj().src_pad().start_task(move || {
            let Some(element) = element.upgrade() else { return };
            let goes_on = element.imp().guarded(Self::push_next);
            if !goes_on {
                let _ = element.src_pad().pause_task();
            }
        })
    }

    /// Pushes one unit's pictures; false when it is over.
    fn push_next(&self) -> bool {
        let Some((ticket, painted)) = self.stages.next_painted() else {
            return false;
        };
        let flow = self.finish_unit(ticket, &painted);
        self.stages.pushed(ticket, flow);
        true
    }

    pub(super) fn stop_threads(&self) {
        self.stages.close();
        let _ = self.obj().src_pad().stop_task();
        if let Some(painter) = self.painter.lock().unwrap().take() {
            // A panic has been reported where it happened.
            let _ = painter.join();
        }
    }
}
