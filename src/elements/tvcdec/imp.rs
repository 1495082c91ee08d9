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
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use gst_video::VideoCodecFrame;

use super::format::{Follow, Output};
use super::input::{overtakes_pictures, wants_key_units, Input};
use super::painter::{PaintedUnit, Scheduler, Unit};
use super::qos::{SinkClock, Stats};
use super::stages::Stages;
use super::streaming::unset_sync_point;
use super::threads::assumed_time;
use crate::bitstream::UnitHeader;
use crate::elements::latency::{wants_qos, Latency};
use crate::elements::runtime::RuntimeSettings;
use crate::elements::{acknowledge, caps};
use crate::model::Model;

pub(super) static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("tvcdec", gst::DebugColorFlags::empty(), Some("TVC decoder")));

#[derive(Default)]
pub struct TvcDec {
    settings: Mutex<RuntimeSettings>,
    pub(super) input: Mutex<Option<Input>>,
    pub(super) stages: Stages<Unit, PaintedUnit>,
    pub(super) scheduler: Mutex<Scheduler>,
    pub(super) latency: Mutex<Latency>,
    pub(super) painter: Mutex<Option<JoinHandle<()>>>,
    /// A unit was broken or missing: delta units are useless until the next key unit.
    pub(super) is_broken: AtomicBool,
    pub(super) output: Mutex<Option<Output>>,
    /// Pictures of the present format are on their way downstream: it stays until they are there.
    pub(super) holds_pictures: AtomicBool,
    pub(super) sink_clock: Mutex<SinkClock>,
    /// When the last picture was pushed that was too late.
    pub(super) pushed_late: Mutex<Option<gst::ClockTime>>,
    pub(super) stats: Mutex<Stats>,
    /// Whether the sender is told of each unit that has come.
    pub(super) acknowledges: AtomicBool,
    /// When a key unit was asked for.
    pub(super) last_request: Mutex<Option<Instant>>,
    /// The painter panics at the next unit.
    #[cfg(test)]
    pub(super) painter_dies: AtomicBool,
}

#[glib::object_subclass]
impl ObjectSubclass for TvcDec {
    const NAME: &'static str = "GstTvcDec";
    type Type = super::TvcDec;
    type ParentType = gst_video::VideoDecoder;

    fn class_init(klass: &mut Self::Class) {
        // What a unit's buffer carries beside its bytes says of none of its pictures that it is that one's.
        let parent: &mut glib::Class<gst_video::VideoDecoder> = klass;
        parent.as_mut().transform_meta = None;
    }
}

impl ObjectImpl for TvcDec {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let mut properties = RuntimeSettings::properties();
            properties.push(
                glib::ParamSpecBoolean::builder("acknowledge")
                    .nick("Acknowledge")
                    .blurb("Tell the sender of each unit that it has come, by an event upstream, so that later units may refer to it")
                    .mutable_ready()
                    .build(),
            );
            properties.push(
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb(
                        "Pictures since the start: painted, skipped = not painted, as they would have been too late, late = painted, \
                         and too late all the same, concealed = painted, though some or all of their unit was lost, lost = of units that \
                         could not be decoded; and unit-time, the ns that a unit takes",
                    )
                    .read_only()
                    .build(),
            );
            properties
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        if pspec.name() == "acknowledge" {
            self.acknowledges
                .store(value.get().expect("a boolean"), Ordering::Relaxed);
            return;
        }
        let known = self.settings.lock().unwrap().set(value, pspec);
        assert!(known, "no property {}", pspec.name());
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        if pspec.name() == "acknowledge" {
            return self.acknowledges.load(Ordering::Relaxed).to_value();
        }
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
        let (id, device, kind) = (model.id, model.device, model.kind);
        gst::info!(CAT, imp = self, "model {id:016x} on {device:?} in {kind:?}");
        // After a start that failed half-way there was no stop.
        self.stop_threads();
        *self.input.lock().unwrap() = Some(Input::new(model.clone()));
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

    fn negotiate(&self) -> Result<(), gst::LoggableError> {
        let follow = self.follow_downstream();
        match follow.map_err(|flow| gst::loggable_error!(CAT, "no format: {flow}"))? {
            Follow::Now => self.parent_negotiate(),
            Follow::Later => Ok(()),
        }
    }

    fn flush(&self) -> bool {
        self.holds_pictures.store(false, Ordering::Relaxed);
        if let Some(input) = self.input.lock().unwrap().as_mut() {
            input.reset();
            // The next unit tells whether it can be decoded; before a key unit nothing is to be reported.
            self.is_broken.store(true, Ordering::Relaxed);
        }
        true
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        let is_sticky = event.is_sticky();
        let is_handled = match event.type_() {
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
            gst::EventType::Gap if self.conceal_gap(&event) => true,
            // Others travel with the frame that follows them.
            _ if overtakes_pictures(&event) => {
                self.stages.wait_until_idle();
                self.parent_sink_event(event)
            }
            _ => self.parent_sink_event(event),
        };
        // The source pad keeps those for when downstream is there again; to upstream it would look like an error.
        is_handled || (is_sticky && caps::is_stopping(self.obj().src_pad()))
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
        let segment = obj.input_segment();
        let at_front = {
            let buffer = adapter.buffer(available).map_err(|_| gst::FlowError::Error)?;
            let data = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
            let guard = self.input.lock().unwrap();
            let input = guard.as_ref().ok_or(gst::FlowError::NotNegotiated)?;
            input.unit_at_front(&data, at_eos, &segment)
        };
        let Some((frames, length)) = at_front else {
            return self.wait_for_data();
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
        let (units, wants_key) = {
            let mut guard = self.input.lock().unwrap();
            let input = guard.as_mut().ok_or(gst::FlowError::NotNegotiated)?;
            input.waiting.push(number);
            let Some(bytes) = bytes else {
                return self.stages.flow();
            };
            let map = bytes.map_readable().map_err(|_| gst::FlowError::Error)?;
            let segment = self.obj().input_segment();
            if wants_key_units(&segment) && UnitHeader::parse(&map).is_ok_and(|(header, _)| !header.is_key()) {
                return Ok(self.leave_out_unit(input));
            }
            let units = input.decode(&map, pts, &segment);
            (units, input.decoder.wants_key())
        };
        let is_resilient = units
            .iter()
            .any(|unit| unit.symbols.as_ref().is_ok_and(|symbols| symbols.lost > 0.0));
        if wants_key && is_resilient {
            self.request_key_unit();
        }
        let acknowledged = units
            .iter()
            .rev()
            .find_map(|unit| unit.symbols.as_ref().ok()?.acknowledgement);
        if let Some((group, unit)) = acknowledged.filter(|_| self.acknowledges.load(Ordering::Relaxed)) {
            self.obj().sink_pad().push_event(acknowledge::event(group, unit));
        }
        let mut flow = self.stages.flow();
        for unit in units {
            flow = flow.and(self.submit(unit));
        }
        flow
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
