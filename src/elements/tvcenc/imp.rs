// SPDX-License-Identifier: MPL-2.0

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use gst_video::{VideoCodecFrame, VideoCodecFrameFlags, VideoFrameRef, VideoInfo};

use super::settings::Settings;
use crate::codec::{AccessUnit, CodecError, Encoder};
use crate::elements::caps;
use crate::elements::convert::Converter;
use crate::model::Model;

/// Assumed for the latency where the frame rate is unknown.
const ASSUMED_FRAME_RATE: (u32, u32) = (30, 1);

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("tvcenc", gst::DebugColorFlags::empty(), Some("TVC encoder")));

/// One stream of one format.
struct State {
    info: VideoInfo,
    converter: Converter,
    encoder: Encoder,
    /// Numbers of the frames that the encoder holds, oldest first.
    waiting: VecDeque<u32>,
}

impl State {
    /// True if another format, size, rate or colour changes what the stream says of itself.
    fn needs_reset(&self, info: &VideoInfo) -> bool {
        self.info != *info
    }
}

#[derive(Default)]
pub struct TvcEnc {
    settings: Mutex<Settings>,
    model: Mutex<Option<Arc<Model>>>,
    state: Mutex<Option<State>>,
}

#[glib::object_subclass]
impl ObjectSubclass for TvcEnc {
    const NAME: &'static str = "GstTvcEnc";
    type Type = super::TvcEnc;
    type ParentType = gst_video::VideoEncoder;
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
        let group = model.group_frames() as u64;
        let encoder = Encoder::new(model, sequence, settings).map_err(|e| gst::loggable_error!(CAT, "{e}"))?;
        let converter = Converter::from_format(&info)?;
        *self.state.lock().unwrap() = Some(State {
            info,
            converter,
            encoder,
            waiting: VecDeque::new(),
        });

        let obj = self.obj();
        let output = obj.set_output_state(caps::from_sequence(&sequence), Some(format));
        let output = output.map_err(|_| gst::loggable_error!(CAT, "output state refused"))?;
        obj.negotiate(output)
            .map_err(|_| gst::loggable_error!(CAT, "negotiation failed"))?;
        let rate = if sequence.frame_rate.0 == 0 {
            ASSUMED_FRAME_RATE
        } else {
            sequence.frame_rate
        };
        let sequence = crate::bitstream::SequenceHeader {
            frame_rate: rate,
            ..sequence
        };
        let latency = caps::duration(&sequence, group).expect("the rate is known");
        obj.set_latency(latency, latency);
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
        self.finish_units(coded)
    }

    fn finish(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.drain()
    }

    fn flush(&self) -> bool {
        if let Some(state) = self.state.lock().unwrap().as_mut() {
            state.encoder.reset();
            state.waiting.clear();
        }
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
        let buffer = frame.input_buffer().ok_or(gst::FlowError::Error)?;
        let pts = frame.pts().map(|t| t.nseconds());
        let picture = VideoFrameRef::from_buffer_ref_readable(buffer, &state.info)
            .and_then(|mapped| state.converter.read(&mapped, pts))
            .map_err(|error| {
                gst::element_imp_error!(self, gst::StreamError::Format, ["cannot read the picture: {error}"]);
                gst::FlowError::Error
            })?;
        let force_key = frame.flags().contains(VideoCodecFrameFlags::FORCE_KEYFRAME);
        state.waiting.push_back(frame.system_frame_number());
        let units = state.encoder.push(picture, force_key).map_err(|e| self.report(&e))?;
        Ok(state.assign(units))
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
        for (unit, numbers) in coded {
            let mut frames: Vec<_> = numbers.into_iter().filter_map(|n| obj.frame(n as i32)).collect();
            if frames.is_empty() {
                continue;
            }
            let duration = frames.iter().map(|f| f.duration()).sum::<Option<gst::ClockTime>>();
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
