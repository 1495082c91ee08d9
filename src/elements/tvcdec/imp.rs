// SPDX-License-Identifier: MPL-2.0
//! The element: what the base class asks for, and the threads.
//!
//! Upstream's streaming thread decodes symbols in `handle_frame`, the painter runs the networks, and the source pad's task pushes the
//! pictures, so that a sink that waits for its clock does not stop the next unit. The base class expects pictures to be finished under
//! its stream lock, and how often that is held where it calls the element differs from path to path; so nobody ever waits for another
//! thread with it. The streaming thread waits before a buffer or an event reaches the base class: in a probe on the sink pad until there
//! is room for a unit, in `sink_event` until all is pushed before an event that must not overtake it. Where the base class itself wants
//! pictures before it returns (backwards, key units only, several units in a buffer, what is left over at the end), the streaming
//! thread waits for the painter, which needs no lock, and finishes the pictures itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use gst::glib;
use gst::glib::translate::ToGlibPtr;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use gst_video::VideoCodecFrame;

use super::output::Output;
use super::painter::{paint, PaintedUnit, PictureTime, Scheduler, Unit, LEAD_IN_UNITS};
use super::qos::{SinkClock, Stats};
use super::stages::Stages;
use crate::bitstream::{find_key_unit, BitstreamError, SequenceHeader, UnitHeader};
use crate::codec::{CodecError, DecoderSettings, EntropyDecoder, Reconstruction, UnitSymbols};
use crate::elements::caps;
use crate::elements::latency::{check_latency, durations, wants_qos, Latency};
use crate::elements::runtime::RuntimeSettings;
use crate::model::Model;

pub(super) static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("tvcdec", gst::DebugColorFlags::empty(), Some("TVC decoder")));

/// Time that painting a unit takes, assumed until it is measured: that of two cores with bf16 or four without. For itself, and per luma
/// sample in ns.
const ASSUMED_UNIT_TIME: gst::ClockTime = gst::ClockTime::from_mseconds(20);
const ASSUMED_SAMPLE_NS: u64 = 150;

/// The streaming thread's part, from start to stop.
struct Input {
    decoder: EntropyDecoder,
    /// Frames of a whole unit.
    group: usize,
    /// Frames that `parse` has opened so far for the unit at hand.
    opened: usize,
    /// Numbers of the opened frames that wait for the unit's bytes.
    waiting: Vec<u32>,
    /// Whether the base class has kept bytes of earlier buffers.
    has_rest: bool,
    /// How long the last picture is shown.
    duration: Option<gst::ClockTime>,
}

#[derive(Default)]
pub struct TvcDec {
    settings: Mutex<RuntimeSettings>,
    input: Mutex<Option<Input>>,
    pub(super) stages: Stages<Unit, PaintedUnit>,
    scheduler: Mutex<Scheduler>,
    latency: Mutex<Latency>,
    painter: Mutex<Option<JoinHandle<()>>>,
    /// A unit was broken or missing: delta units are useless until the next key unit.
    pub(super) is_broken: AtomicBool,
    pub(super) output: Mutex<Option<Output>>,
    pub(super) sink_clock: Mutex<SinkClock>,
    /// When the last picture was pushed that was too late.
    pub(super) pushed_late: Mutex<Option<gst::ClockTime>>,
    pub(super) stats: Mutex<Stats>,
    /// The painter panics at the next unit.
    #[cfg(test)]
    pub(super) painter_dies: AtomicBool,
}

#[glib::object_subclass]
impl ObjectSubclass for TvcDec {
    const NAME: &'static str = "GstTvcDec";
    type Type = super::TvcDec;
    type ParentType = gst_video::VideoDecoder;
}

impl ObjectImpl for TvcDec {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let mut properties = RuntimeSettings::properties();
            properties.push(
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb(
                        "Pictures since the start: painted, skipped = not painted, as they would have been too late, late = painted, \
                         and too late all the same; and unit-time, the ns that a unit takes",
                    )
                    .read_only()
                    .build(),
            );
            properties
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let known = self.settings.lock().unwrap().set(value, pspec);
        assert!(known, "no property {}", pspec.name());
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        if pspec.name() == "stats" {
            let unit_time = self.scheduler.lock().unwrap().time.likely();
            return self.stats.lock().unwrap().structure(unit_time).to_value();
        }
        let value = self.settings.lock().unwrap().get(pspec);
        value.unwrap_or_else(|| panic!("no property {}", pspec.name()))
    }

    fn constructed(&self) {
        self.parent_constructed();
        // The base class knows one picture per buffer. Here `parse` opens a frame for every picture of a unit;
        // the last one carries the bytes.
        self.obj().set_packetized(false);
        let element = self.obj().downgrade();
        self.obj()
            .sink_pad()
            .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                if let (Some(element), Some(buffer)) = (element.upgrade(), info.buffer()) {
                    element.imp().prepare(buffer);
                }
                gst::PadProbeReturn::Ok
            });
    }
}

impl GstObjectImpl for TvcDec {}

impl ElementImpl for TvcDec {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "TVC decoder",
                "Codec/Decoder/Video",
                "Decompresses Tokenized Video Compression streams",
                "gst-plugin-tvc contributors",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> =
            LazyLock::new(|| caps::templates(&caps::framed().build(), &caps::raw()));
        &TEMPLATES
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            // Before the pads stop: their threads may wait here.
            gst::StateChange::PausedToReady => self.stages.close(),
            gst::StateChange::PlayingToPaused => self.sink_clock.lock().unwrap().forget(),
            _ => (),
        }
        let success = self.parent_change_state(transition)?;
        if transition == gst::StateChange::ReadyToPaused {
            self.start_task().map_err(|error| {
                gst::element_imp_error!(self, gst::CoreError::Thread, ["{error}"]);
                gst::StateChangeError
            })?;
        }
        Ok(success)
    }

    fn post_message(&self, message: gst::Message) -> bool {
        // The base class reports every frame that ends without a picture, with what it knows of the sink's clock, which is nothing
        // here: `leave_out` does.
        let is_qos = message.type_() == gst::MessageType::Qos && message.src() == Some(self.obj().upcast_ref());
        is_qos || self.parent_post_message(message)
    }
}

impl VideoDecoderImpl for TvcDec {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = self.settings.lock().unwrap().clone();
        let model: Arc<Model> = settings.load()?;
        gst::info!(
            CAT,
            imp = self,
            "model {:016x} on {:?} in {:?}",
            model.id,
            model.device,
            model.kind
        );
        // After a start that failed half-way there was no stop.
        self.stop_threads();
        *self.input.lock().unwrap() = Some(Input {
            decoder: EntropyDecoder::new(model.clone()),
            group: model.group_frames(),
            opened: 0,
            waiting: Vec::new(),
            has_rest: false,
            duration: None,
        });
        self.is_broken.store(false, Ordering::Relaxed);
        *self.stats.lock().unwrap() = Stats::default();
        *self.latency.lock().unwrap() = Latency::default();
        self.scheduler.lock().unwrap().forget_stream();
        self.forget_sink();
        self.stages.open();
        self.start_painter(model)
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        self.stop_threads();
        *self.input.lock().unwrap() = None;
        *self.output.lock().unwrap() = None;
        Ok(())
    }

    fn set_format(
        &self,
        format: &gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>,
    ) -> Result<(), gst::LoggableError> {
        let (width, height) = (format.info().width(), format.info().height());
        let group = self.input.lock().unwrap().as_ref().map_or(1, |input| input.group);
        self.tell_latency(assumed_time(u64::from(width) * u64::from(height), group));
        Ok(())
    }

    fn flush(&self) -> bool {
        if let Some(input) = self.input.lock().unwrap().as_mut() {
            input.decoder.reset();
            input.opened = 0;
            input.waiting.clear();
            input.has_rest = false;
            input.duration = None;
            // The next unit tells whether it can be decoded; before a key unit nothing is to be reported.
            self.is_broken.store(true, Ordering::Relaxed);
        }
        true
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.type_() {
            gst::EventType::FlushStart => {
                self.stages.begin_flush();
                self.parent_sink_event(event)
            }
            gst::EventType::FlushStop => {
                // Also where no FLUSH_START came first.
                self.stages.begin_flush();
                self.stages.wait_for_push();
                let is_handled = self.parent_sink_event(event);
                self.forget_sink();
                self.stages.end_flush();
                is_handled
            }
            gst::EventType::Segment => {
                self.stages.new_segment();
                self.parent_sink_event(event)
            }
            gst::EventType::Eos => {
                self.stages.wait_until_idle();
                self.report_unheard_error();
                self.parent_sink_event(event)
            }
            // Others travel with the frame that follows them.
            _ if overtakes_pictures(&event) => {
                self.stages.wait_until_idle();
                self.parent_sink_event(event)
            }
            _ => self.parent_sink_event(event),
        }
    }

    fn src_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Qos(qos) if wants_qos(&*self.obj()) => {
                self.note_qos(qos);
                // Not to the base class, which would drop by a rule of its own, see `qos`.
                self.obj().sink_pad().push_event(event)
            }
            gst::EventView::Latency(latency) => {
                self.latency.lock().unwrap().check.configure(latency.latency());
                self.parent_src_event(event)
            }
            _ => self.parent_src_event(event),
        }
    }

    fn parse(
        &self,
        frame: &VideoCodecFrame,
        adapter: &gst_base::Adapter,
        at_eos: bool,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let obj = self.obj();
        let available = adapter.available();
        let (frames, length) = {
            let buffer = adapter.buffer(available).map_err(|_| gst::FlowError::Error)?;
            let data = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
            match UnitHeader::parse(&data) {
                Ok((header, start)) => (header.frames, start + header.payload_length),
                Err(BitstreamError::Incomplete) if !at_eos => return self.wait_for_data(),
                // No unit: all bytes up to the next one go through as a broken unit, to be reported there.
                Err(_) => (1, data.get(1..).and_then(find_key_unit).map_or(available, |at| at + 1)),
            }
        };
        if length > available && !at_eos {
            return self.wait_for_data();
        }
        let carries_bytes = {
            let mut guard = self.input.lock().unwrap();
            let input = guard.as_mut().ok_or(gst::FlowError::NotNegotiated)?;
            input.opened = (input.opened + 1) % frames;
            input.has_rest = length < available;
            input.opened == 0
        };
        if carries_bytes {
            obj.add_to_frame(length.min(available) as i32);
        }
        let flow = obj.have_frame();
        if !carries_bytes {
            unset_sync_point(frame);
        }
        flow
    }

    fn handle_frame(&self, frame: VideoCodecFrame) -> Result<gst::FlowSuccess, gst::FlowError> {
        let bytes = frame.input_buffer_owned().filter(|b| b.size() > 0);
        // The frame that carries the bytes has the buffer's time.
        let (number, pts) = (frame.system_frame_number(), frame.pts());
        drop(frame);
        let unit = {
            let mut guard = self.input.lock().unwrap();
            let input = guard.as_mut().ok_or(gst::FlowError::NotNegotiated)?;
            input.waiting.push(number);
            let Some(bytes) = bytes else {
                return self.stages.flow();
            };
            let map = bytes.map_readable().map_err(|_| gst::FlowError::Error)?;
            input.decode(&map, pts, &self.obj().input_segment())
        };
        self.submit(unit)
    }

    fn finish(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.drain()
    }

    fn drain(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        // Whenever the base class asks for this, `sink_event` or `prepare` have seen to it already.
        self.stages.flow()
    }

    fn decide_allocation(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        self.parent_decide_allocation(query)?;
        if query.find_allocation_meta::<gst_video::VideoMeta>().is_some() {
            if let Some((Some(pool), ..)) = query.allocation_pools().next().map(|p| (p.0.to_owned(), p.1)) {
                let mut config = pool.config();
                config.add_option(gst_video::BUFFER_POOL_OPTION_VIDEO_META);
                pool.set_config(config).map_err(|e| gst::loggable_error!(CAT, "{e}"))?;
            }
        }
        Ok(())
    }
}

/// Says that decoding cannot start at a frame. The base class takes a frame without bytes for a key frame, and where it
/// plays backwards it would decode each of them on its own.
fn unset_sync_point(frame: &VideoCodecFrame) {
    let sync_point = gst_video::VideoCodecFrameFlags::SYNC_POINT.bits();
    // SAFETY: `frame` holds a reference and the stream lock for as long as it lives. The binding's own setter wants a
    // frame that is ours alone, which `parse` is not given.
    unsafe { (*frame.to_glib_none().0).flags &= !sync_point };
}

impl Input {
    /// The unit of the frames that wait. `pts`: of its buffer.
    fn decode(&mut self, bytes: &[u8], pts: Option<gst::ClockTime>, segment: &gst::Segment) -> Unit {
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
                .and_then(|(unit, since)| unit.checked_add(gst::ClockTime::from_nseconds(since)));
            moved.or_else(|| time.map(gst::ClockTime::from_nseconds))
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
    let lead = |(pts, duration): (gst::ClockTime, gst::ClockTime)| pts + duration * (1 + LEAD_IN_UNITS * group as u64);
    // Backwards all pictures of a group are shown, or clipped, from the last one on.
    last.zip(start)
        .is_some_and(|(last, start)| segment.rate() > 0.0 && lead(last) <= start)
}

/// Whether the base class pushes an event at once, or asks for all pictures before it.
fn overtakes_pictures(event: &gst::Event) -> bool {
    match event.type_() {
        gst::EventType::StreamStart | gst::EventType::SegmentDone | gst::EventType::Gap => true,
        gst::EventType::CustomDownstream => gst_video::StillFrameEvent::parse(event).is_ok(),
        _ => false,
    }
}

/// Painting a unit of so many frames of so many luma samples, roughly.
fn assumed_time(samples: u64, frames: usize) -> gst::ClockTime {
    ASSUMED_UNIT_TIME + gst::ClockTime::from_nseconds(samples * frames as u64 * ASSUMED_SAMPLE_NS)
}

impl TvcDec {
    /// Before a buffer reaches the base class: waits for what must have happened by then. One unit in a buffer, as the caps promise, goes
    /// its way through the threads.
    fn prepare(&self, buffer: &gst::BufferRef) {
        let segment = self.obj().input_segment();
        let is_forward = segment.rate() > 0.0 && !segment.flags().contains(gst::SegmentFlags::TRICKMODE_KEY_UNITS);
        let has_rest = self.input.lock().unwrap().as_ref().is_some_and(|input| input.has_rest);
        if self.stages.is_starting() && self.is_live() {
            self.stages.start_at_once();
        }
        match is_forward && !has_rest && is_one_unit(buffer) {
            true => self.stages.wait_for_room(),
            false => self.stages.wait_until_idle(),
        }
    }

    fn is_live(&self) -> bool {
        let mut query = gst::query::Latency::new();
        self.obj().sink_pad().peer_query(&mut query) && query.result().0
    }

    fn wait_for_data(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        if let Some(input) = self.input.lock().unwrap().as_mut() {
            input.has_rest = true;
        }
        Ok(gst_video::VIDEO_DECODER_FLOW_NEED_DATA)
    }

    /// Passes a unit on to the painter; with its pictures to downstream where that is the streaming thread's business.
    fn submit(&self, unit: Unit) -> Result<gst::FlowSuccess, gst::FlowError> {
        match &unit.symbols {
            Err(error @ CodecError::WrongModel { .. }) => {
                gst::element_imp_error!(self, gst::StreamError::WrongType, ["{error}"]);
                return Err(gst::FlowError::Error);
            }
            // It is reported when it is its turn, but a sender should know at once.
            Err(error) if !matches!(error, CodecError::NoKeyUnit) => self.request_key_unit(),
            Ok(symbols) if symbols.is_key => self.guess_latency(&symbols.sequence),
            _ => (),
        }
        self.stages.push(unit);
        if !self.stages.is_synchronous() {
            return self.stages.flow();
        }
        match self.stages.take_painted() {
            Some((ticket, painted)) => self.finish_unit(ticket, &painted),
            None => self.stages.flow(),
        }
    }

    fn note_qos(&self, qos: &gst::event::Qos) {
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

    fn forget_sink(&self) {
        self.sink_clock.lock().unwrap().forget();
        *self.pushed_late.lock().unwrap() = None;
    }

    /// At the end nobody hears any more what downstream said of the last pictures.
    fn report_unheard_error(&self) {
        let flow = self.stages.flow();
        if let Err(error @ (gst::FlowError::NotLinked | gst::FlowError::NotNegotiated | gst::FlowError::Error)) = flow {
            gst::element_imp_error!(
                self,
                gst::StreamError::Failed,
                ["downstream does not take pictures: {error}"]
            );
        }
    }

    /// At a key unit, as long as nothing is measured: by the size in which the networks paint.
    fn guess_latency(&self, sequence: &SequenceHeader) {
        if self.scheduler.lock().unwrap().time.bound().is_none() {
            let (width, height) = sequence.coded_size();
            let group = self.input.lock().unwrap().as_ref().map_or(1, |input| input.group);
            self.tell_latency(assumed_time(u64::from(width) * u64::from(height), group));
        }
    }

    fn tell_latency(&self, needed: gst::ClockTime) {
        let told = self.latency.lock().unwrap().update(gst::ClockTime::ZERO, needed);
        if let Some(told) = told {
            gst::info!(CAT, imp = self, "latency {told}");
            self.obj().set_latency(told, told);
        }
    }

    fn start_painter(&self, model: Arc<Model>) -> Result<(), gst::ErrorMessage> {
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
        let mut networks = Reconstruction::new(model, DecoderSettings::default());
        let choose = |unit: &Unit, next: Option<&Unit>| {
            let sink = *self.sink_clock.lock().unwrap();
            let mut scheduler = self.scheduler.lock().unwrap();
            let now = Instant::now();
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
        };
        while let Some((ticket, unit, wanted)) = self.stages.next_waiting(choose) {
            #[cfg(test)]
            assert!(
                !self.painter_dies.load(Ordering::Relaxed),
                "a test lets the painter die"
            );
            let due = unit.pictures.first().and_then(|first| first.due);
            let (painted, time) = paint(&mut networks, unit, wanted, group);
            gst::log!(
                CAT,
                imp = self,
                "painted {wanted:?} of the unit due at {due:?}, whole units take {time:?}"
            );
            self.stats.lock().unwrap().count(&painted);
            self.stages.push_painted(ticket, painted);
            if let Some(time) = time {
                let needed = self.scheduler.lock().unwrap().measured(time);
                if let Some(needed) = needed {
                    self.tell_latency(needed);
                }
                if let Some(warning) = check_latency(&self.latency, self.obj().sink_pad()) {
                    gst::element_imp_warning!(self, gst::CoreError::Clock, ["{warning}"]);
                }
            }
        }
    }

    fn start_task(&self) -> Result<(), glib::BoolError> {
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

    fn stop_threads(&self) {
        self.stages.close();
        let _ = self.obj().src_pad().stop_task();
        if let Some(painter) = self.painter.lock().unwrap().take() {
            // A panic has been reported where it happened.
            let _ = painter.join();
        }
    }
}

/// Whether a buffer is a whole unit and no more.
fn is_one_unit(buffer: &gst::BufferRef) -> bool {
    let Ok(map) = buffer.map_readable() else { return false };
    UnitHeader::parse(&map).is_ok_and(|(header, start)| start + header.payload_length == map.len())
}
