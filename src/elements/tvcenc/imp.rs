// SPDX-License-Identifier: MPL-2.0

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use gst_video::{VideoCodecFrame, VideoCodecFrameFlags, VideoFormat, VideoInfo};

use super::settings::Settings;
use super::timeline::Timeline;
use crate::bitstream::{SequenceHeader, UnitHeader};
use crate::codec::{AccessUnit, CodecError, Encoder, EncoderSettings};
use crate::elements::convert::{progressive, Converter};
use crate::elements::latency::{check_latency, durations, Latency, SmoothedTime, Spacing};
use crate::elements::{acknowledge, caps};
use crate::model::Model;

/// Assumed for the latency where the frame rate is unknown, until two frames are there.
const ASSUMED_FRAME_TIME: gst::ClockTime = gst::ClockTime::from_nseconds(1_000_000_000 / 30);
/// Time that coding a unit takes, assumed until it is measured: that of two cores with bf16 and residual. For itself, and per luma sample
/// in ns.
const ASSUMED_UNIT_TIME: gst::ClockTime = gst::ClockTime::from_mseconds(20);
const ASSUMED_SAMPLE_NS: u64 = 100;

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("tvcenc", gst::DebugColorFlags::empty(), Some("TVC encoder")));

/// One stream of one format.
struct State {
    info: VideoInfo,
    /// What the stream says of that.
    sequence: SequenceHeader,
    converter: Converter,
    encoder: Encoder,
    /// Numbers of the frames that the encoder holds, oldest first.
    waiting: VecDeque<u32>,
    /// Frames of a whole unit.
    group: usize,
    spacing: Spacing,
    /// What coding a unit takes.
    time: SmoothedTime,
    /// The same until it is measured.
    assumed_time: gst::ClockTime,
}

impl State {
    fn new(model: Arc<Model>, info: VideoInfo, settings: EncoderSettings) -> Result<State, gst::LoggableError> {
        let group = model.group_frames();
        let sequence = caps::to_sequence(&info);
        Ok(State {
            converter: Converter::from_format(&info)?,
            sequence,
            encoder: Encoder::new(model, sequence, settings).map_err(|e| gst::loggable_error!(CAT, "{e}"))?,
            waiting: VecDeque::new(),
            group,
            spacing: Spacing::default(),
            time: SmoothedTime::default(),
            assumed_time: assumed_time((info.width(), info.height()), group),
            info,
        })
    }

    /// How far frames are apart: as the caps say, or as they come if that is slower or unknown.
    fn frame_time(&self) -> Option<gst::ClockTime> {
        self.spacing.picture(caps::duration(&self.sequence, 1))
    }

    /// The latency, in what frames wait for each other and what coding takes. The first of a unit waits for the last one, which is there
    /// when it is over.
    fn latency(&self) -> (gst::ClockTime, gst::ClockTime) {
        let frame = self.frame_time().unwrap_or(ASSUMED_FRAME_TIME);
        (
            frame.saturating_mul(self.group as u64),
            self.time.bound().unwrap_or(self.assumed_time),
        )
    }

    /// A push took so long and gave these units. Key units take less, and wait for nothing.
    fn measure(&mut self, time: Duration, units: &[AccessUnit]) {
        if units.iter().any(|unit| !unit.is_key) {
            self.time.add(time);
        }
        let key = units.iter().find(|unit| unit.is_key);
        let sequence = key.and_then(|key| UnitHeader::parse(&key.bytes).ok()?.0.sequence);
        if let Some(sequence) = sequence {
            self.assumed_time = assumed_time(sequence.coded_size(), self.group);
        }
    }

    /// True if another format, size, rate or colour changes what the stream says of itself.
    fn needs_reset(&self, info: &VideoInfo) -> bool {
        self.info != *info
    }
}

/// Coding a unit of so many frames of a coded size, roughly.
fn assumed_time((width, height): (u32, u32), frames: usize) -> gst::ClockTime {
    let samples = u64::from(width) * u64::from(height) * frames as u64;
    ASSUMED_UNIT_TIME + gst::ClockTime::from_nseconds(samples * ASSUMED_SAMPLE_NS)
}

#[derive(Default)]
pub struct TvcEnc {
    settings: Mutex<Settings>,
    model: Mutex<Option<Arc<Model>>>,
    state: Mutex<Option<State>>,
    latency: Mutex<Latency>,
    timeline: Mutex<Timeline>,
}

#[glib::object_subclass]
impl ObjectSubclass for TvcEnc {
    const NAME: &'static str = "GstTvcEnc";
    type Type = super::TvcEnc;
    type ParentType = gst_video::VideoEncoder;

    fn class_init(klass: &mut Self::Class) {
        // What a picture carries beside its samples (a time code, captions, ...) is of that picture alone. A unit is up to eight of them
        // in one buffer, on which it would pass for something of the first one, or of all.
        let parent: &mut glib::Class<gst_video::VideoEncoder> = klass;
        parent.as_mut().transform_meta = None;
    }
}

impl ObjectImpl for TvcEnc {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(Settings::properties);
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        self.settings.lock().unwrap().set(value, pspec);
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        self.settings.lock().unwrap().get(pspec)
    }
}

impl GstObjectImpl for TvcEnc {}

impl ElementImpl for TvcEnc {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "TVC encoder",
                "Codec/Encoder/Video",
                "Compresses video to a few kbit/s (Tokenized Video Compression)",
                "gst-plugin-tvc contributors",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let size = caps::size_range();
            let src = caps::framed().field("width", size).field("height", size).build();
            caps::templates(&caps::raw(), &src)
        });
        &TEMPLATES
    }

    fn post_message(&self, message: gst::Message) -> bool {
        // The base class reports every frame that ends without a buffer of its own as dropped; here those
        // frames are in the unit of an earlier one.
        let own_qos = message.type_() == gst::MessageType::Qos && message.src() == Some(self.obj().upcast_ref());
        own_qos || self.parent_post_message(message)
    }
}

impl VideoEncoderImpl for TvcEnc {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let runtime = self.settings.lock().unwrap().runtime.clone();
        let model = runtime.load()?;
        gst::info!(
            CAT,
            imp = self,
            "model {:016x} on {:?} in {:?}",
            model.id,
            model.device,
            model.kind
        );
        *self.model.lock().unwrap() = Some(model);
        *self.latency.lock().unwrap() = Latency::default();
        *self.timeline.lock().unwrap() = Timeline::default();
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *self.state.lock().unwrap() = None;
        *self.model.lock().unwrap() = None;
        Ok(())
    }

    fn set_format(
        &self,
        format: &gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>,
    ) -> Result<(), gst::LoggableError> {
        let info = format.info().clone();
        if self
            .state
            .lock()
            .unwrap()
            .as_ref()
            .is_some_and(|state| !state.needs_reset(&info))
        {
            return Ok(());
        }
        self.drain()
            .map_err(|flow| gst::loggable_error!(CAT, "draining before new caps: {flow:?}"))?;
        let model = self.model.lock().unwrap().clone();
        let model = model.ok_or_else(|| gst::loggable_error!(CAT, "not started"))?;
        let sequence = caps::to_sequence(&info);
        let settings = self.settings.lock().unwrap().encoder();
        if info.is_interlaced() {
            gst::info!(CAT, imp = self, "fields are coded together, as in progressive pictures");
        }
        let coded = progressive(&info, VideoFormat::Encoded)?;
        let mut new = State::new(model, info, settings)?;
        let mut state = self.state.lock().unwrap();
        if let Some(state) = &*state {
            new.encoder.follow(&state.encoder);
        }
        *state = Some(new);
        drop(state);

        let obj = self.obj();
        let output = obj.set_output_state(caps::from_sequence(&sequence), Some(format));
        let mut output = output.map_err(|_| gst::loggable_error!(CAT, "output state refused"))?;
        output.set_info(coded);
        obj.negotiate(output)
            .map_err(|_| gst::loggable_error!(CAT, "negotiation failed"))?;
        self.tell_latency();
        Ok(())
    }

    fn handle_frame(&self, frame: VideoCodecFrame) -> Result<gst::FlowSuccess, gst::FlowError> {
        let settings = self.settings.lock().unwrap().encoder();
        let coded = {
            let mut guard = self.state.lock().unwrap();
            let state = guard.as_mut().ok_or(gst::FlowError::NotNegotiated)?;
            state.encoder.set_settings(settings);
            self.push(state, &frame)?
        };
        drop(frame);
        self.tell_latency();
        let has_units = !coded.is_empty();
        let flow = self.finish_units(coded);
        if has_units {
            if let Some(warning) = check_latency(&self.latency, self.obj().sink_pad()) {
                gst::element_imp_warning!(self, gst::CoreError::Clock, ["{warning}"]);
            }
        }
        flow
    }

    fn src_event(&self, event: gst::Event) -> bool {
        if let gst::EventView::Latency(latency) = event.view() {
            self.latency.lock().unwrap().check.configure(latency.latency());
        }
        if let Some((group, unit)) = acknowledge::parse(&event) {
            if let Some(state) = self.state.lock().unwrap().as_mut() {
                state.encoder.acknowledge(group, unit);
            }
            return true;
        }
        self.parent_src_event(event)
    }

    fn finish(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.drain()
    }

    fn flush(&self) -> bool {
        if let Some(state) = self.state.lock().unwrap().as_mut() {
            state.encoder.reset();
            state.waiting.clear();
            state.spacing.reset();
        }
        self.timeline.lock().unwrap().break_off();
        true
    }

    fn propose_allocation(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        query.add_allocation_meta::<gst_video::VideoMeta>(None);
        self.parent_propose_allocation(query)
    }
}

/// Units and the numbers of the frames that each of them codes.
type Coded = Vec<(AccessUnit, Vec<u32>)>;

impl State {
    fn assign(&mut self, units: Vec<AccessUnit>) -> Coded {
        let take = |unit: AccessUnit| {
            let frames = self.waiting.drain(..unit.frames.min(self.waiting.len())).collect();
            (unit, frames)
        };
        units.into_iter().map(take).collect()
    }
}

impl TvcEnc {
    fn push(&self, state: &mut State, frame: &VideoCodecFrame) -> Result<Coded, gst::FlowError> {
        let start = Instant::now();
        let buffer = frame.input_buffer().ok_or(gst::FlowError::Error)?;
        let pts = self.stream_time(frame, &state.sequence);
        let picture = state.converter.read(buffer, pts).map_err(|error| {
            gst::element_imp_error!(self, gst::StreamError::Format, ["cannot read the picture: {error}"]);
            gst::FlowError::Error
        })?;
        let force_key = frame.flags().contains(VideoCodecFrameFlags::FORCE_KEYFRAME);
        state.waiting.push_back(frame.system_frame_number());
        state.spacing.add(frame.pts());
        let units = state.encoder.push(picture, force_key).map_err(|e| self.report(&e))?;
        state.measure(start.elapsed(), &units);
        Ok(state.assign(units))
    }

    /// The time of a frame in the stream, in ns; its buffer keeps its own.
    fn stream_time(&self, frame: &VideoCodecFrame, sequence: &SequenceHeader) -> Option<u64> {
        let segment = self.obj().input_segment().downcast::<gst::ClockTime>().ok()?;
        let duration = frame.duration().or_else(|| caps::duration(sequence, 1));
        let running = segment.to_running_time(frame.pts());
        self.timeline
            .lock()
            .unwrap()
            .time(running, duration, sequence.frame_rate)
    }

    fn tell_latency(&self) {
        let needed = self.state.lock().unwrap().as_ref().map(State::latency);
        let Some((waiting, coding)) = needed else { return };
        let told = self.latency.lock().unwrap().update(waiting, coding);
        if let Some(told) = told {
            gst::info!(CAT, imp = self, "latency {told}");
            self.obj().set_latency(told, told);
        }
    }

    /// Codes what is left; the next frame starts with a key unit.
    fn drain(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        let coded = match self.state.lock().unwrap().as_mut() {
            None => return Ok(gst::FlowSuccess::Ok),
            Some(state) => {
                let units = state.encoder.drain().map_err(|e| self.report(&e))?;
                state.assign(units)
            }
        };
        self.finish_units(coded)
    }

    fn report(&self, error: &CodecError) -> gst::FlowError {
        gst::element_imp_error!(self, gst::StreamError::Encode, ["{error}"]);
        gst::FlowError::Error
    }

    /// Gives a unit to the first of its frames and ends the others. Without the state lock: downstream may
    /// call back.
    fn finish_units(&self, coded: Coded) -> Result<gst::FlowSuccess, gst::FlowError> {
        let obj = self.obj();
        let frame_time = self.state.lock().unwrap().as_ref().and_then(State::frame_time);
        for (unit, numbers) in coded {
            let mut frames: Vec<_> = numbers.into_iter().filter_map(|n| obj.frame(n as i32)).collect();
            if frames.is_empty() {
                continue;
            }
            let duration = unit_duration(&frames, frame_time);
            let mut first = frames.remove(0);
            first.set_duration(duration);
            if unit.is_key {
                first.set_flags(VideoCodecFrameFlags::SYNC_POINT);
            }
            gst::log!(
                CAT,
                imp = self,
                "{} frames in {} bytes, key {}",
                unit.frames,
                unit.bytes.len(),
                unit.is_key
            );
            first.set_output_buffer(gst::Buffer::from_mut_slice(unit.bytes));
            let flow = obj.finish_frame(first);
            for frame in frames {
                obj.finish_frame(frame)?;
            }
            flow?;
        }
        Ok(gst::FlowSuccess::Ok)
    }
}

/// Duration of a unit's frames: the sum of theirs, or by their time stamps where they have none.
fn unit_duration(frames: &[VideoCodecFrame], frame_time: Option<gst::ClockTime>) -> Option<gst::ClockTime> {
    let given = total(frames.iter().map(|frame| frame.duration()));
    let times: Vec<_> = frames.iter().map(|frame| frame.pts()).collect();
    given.or_else(|| total(durations(&times, frame_time, frame_time)))
}

/// The sum of durations, if all are known.
fn total(durations: impl IntoIterator<Item = Option<gst::ClockTime>>) -> Option<gst::ClockTime> {
    let mut durations = durations.into_iter();
    durations.try_fold(gst::ClockTime::ZERO, |sum, duration| sum.checked_add(duration?))
}
