// SPDX-License-Identifier: MPL-2.0

use std::sync::{Arc, LazyLock, Mutex};

use gst::glib;
use gst::glib::translate::ToGlibPtr;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use gst_video::{VideoCodecFrame, VideoFormat, VideoFrameRef, VideoInfo};

use crate::bitstream::{find_key_unit, BitstreamError, SequenceHeader, UnitHeader};
use crate::codec::{CodecError, Decoded, Decoder, Frame};
use crate::elements::caps;
use crate::elements::convert::Converter;
use crate::elements::runtime::RuntimeSettings;
use crate::model::Model;

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("tvcdec", gst::DebugColorFlags::empty(), Some("TVC decoder")));

/// One run from start to stop.
struct State {
    decoder: Decoder,
    /// Frames that `parse` has opened so far for the unit at hand.
    opened: usize,
    /// Numbers of the opened frames that wait for the unit's bytes.
    waiting: Vec<u32>,
    output: Option<Output>,
    /// A unit was broken or missing: delta units are useless until the next key unit.
    broken: bool,
}

/// What downstream has been promised.
struct Output {
    sequence: SequenceHeader,
    info: VideoInfo,
    converter: Converter,
}

impl Output {
    /// True if the stream's pictures no longer are what downstream expects.
    fn needs_reset(&self, sequence: &SequenceHeader) -> bool {
        !self.sequence.shows_like(sequence)
    }
}

#[derive(Default)]
pub struct TvcDec {
    settings: Mutex<RuntimeSettings>,
    state: Mutex<Option<State>>,
}

#[glib::object_subclass]
impl ObjectSubclass for TvcDec {
    const NAME: &'static str = "GstTvcDec";
    type Type = super::TvcDec;
    type ParentType = gst_video::VideoDecoder;
}

impl ObjectImpl for TvcDec {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(RuntimeSettings::properties);
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let known = self.settings.lock().unwrap().set(value, pspec);
        assert!(known, "no property {}", pspec.name());
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let value = self.settings.lock().unwrap().get(pspec);
        value.unwrap_or_else(|| panic!("no property {}", pspec.name()))
    }

    fn constructed(&self) {
        self.parent_constructed();
        // The base class knows one picture per buffer. Here `parse` opens a frame for every picture of a unit;
        // the last one carries the bytes.
        self.obj().set_packetized(false);
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
        *self.state.lock().unwrap() = Some(State {
            decoder: Decoder::new(model),
            opened: 0,
            waiting: Vec::new(),
            output: None,
            broken: false,
        });
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *self.state.lock().unwrap() = None;
        Ok(())
    }

    fn flush(&self) -> bool {
        if let Some(state) = self.state.lock().unwrap().as_mut() {
            state.decoder.reset();
            state.opened = 0;
            state.waiting.clear();
            // The next unit tells whether it can be decoded; before a key unit nothing is to be reported.
            state.broken = true;
        }
        true
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
                Err(BitstreamError::Incomplete) if !at_eos => return Ok(gst_video::VIDEO_DECODER_FLOW_NEED_DATA),
                // No unit: all bytes up to the next one go through as a broken unit, to be reported there.
                Err(_) => (1, data.get(1..).and_then(find_key_unit).map_or(available, |at| at + 1)),
            }
        };
        if length > available && !at_eos {
            return Ok(gst_video::VIDEO_DECODER_FLOW_NEED_DATA);
        }
        let carries_bytes = {
            let mut guard = self.state.lock().unwrap();
            let state = guard.as_mut().ok_or(gst::FlowError::NotNegotiated)?;
            state.opened = (state.opened + 1) % frames;
            state.opened == 0
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
        let unit = frame.input_buffer_owned().filter(|b| b.size() > 0);
        let (decoded, numbers, was_broken) = {
            let mut guard = self.state.lock().unwrap();
            let state = guard.as_mut().ok_or(gst::FlowError::NotNegotiated)?;
            state.waiting.push(frame.system_frame_number());
            let Some(unit) = unit else {
                return Ok(gst::FlowSuccess::Ok);
            };
            let map = unit.map_readable().map_err(|_| gst::FlowError::Error)?;
            let decoded = state.decoder.decode(&map);
            let was_broken = std::mem::replace(&mut state.broken, decoded.is_err());
            (decoded, std::mem::take(&mut state.waiting), was_broken)
        };
        drop(frame);
        let obj = self.obj();
        let frames: Vec<_> = numbers.into_iter().filter_map(|n| obj.frame(n as i32)).collect();
        match decoded {
            Ok(decoded) => self.finish_unit(frames, decoded),
            Err(error) => self.give_up(frames, &error, was_broken),
        }
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

/// Sets the time of a picture. The buffer's time wins over the stream's: a container or a network may have
/// moved it. The distances inside a unit are the stream's.
fn set_time(
    frame: &mut VideoCodecFrame,
    picture: &Frame,
    unit: Option<gst::ClockTime>,
    first: Option<u64>,
    sequence: &SequenceHeader,
) {
    let since = picture.pts.zip(first).map(|(pts, first)| pts.saturating_sub(first));
    let moved = unit
        .zip(since)
        .map(|(unit, since)| unit + gst::ClockTime::from_nseconds(since));
    frame.set_pts(moved.or_else(|| picture.pts.map(gst::ClockTime::from_nseconds)));
    frame.set_dts(gst::ClockTime::NONE);
    frame.set_duration(caps::duration(sequence, 1));
}

impl TvcDec {
    /// Gives a unit's pictures to its frames.
    fn finish_unit(&self, frames: Vec<VideoCodecFrame>, decoded: Decoded) -> Result<gst::FlowSuccess, gst::FlowError> {
        let obj = self.obj();
        let needs_reset = {
            let guard = self.state.lock().unwrap();
            let output = guard.as_ref().and_then(|s| s.output.as_ref());
            output.is_none_or(|o| o.needs_reset(&decoded.sequence))
        };
        if needs_reset {
            self.announce(&decoded.sequence)?;
        }
        // The frame that carries the bytes has the buffer's time.
        let unit = frames.last().and_then(|f| f.pts());
        let first = decoded.frames.first().and_then(|p| p.pts);
        let mut flow = gst::FlowSuccess::Ok;
        for (mut frame, picture) in frames.into_iter().zip(&decoded.frames) {
            set_time(&mut frame, picture, unit, first, &decoded.sequence);
            obj.allocate_output_frame(&mut frame, None)?;
            self.fill(&mut frame, picture)?;
            flow = obj.finish_frame(frame)?;
        }
        Ok(flow)
    }

    /// Reports a unit that cannot be decoded, once per gap, and asks for a key unit.
    fn give_up(
        &self,
        frames: Vec<VideoCodecFrame>,
        error: &CodecError,
        was_broken: bool,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        if let CodecError::WrongModel { .. } = error {
            gst::element_imp_error!(self, gst::StreamError::WrongType, ["{error}"]);
            return Err(gst::FlowError::Error);
        }
        let obj = self.obj();
        for frame in frames {
            obj.drop_frame(frame)?;
        }
        if was_broken && matches!(error, CodecError::NoKeyUnit) {
            gst::debug!(CAT, imp = self, "{error}");
            return Ok(gst::FlowSuccess::Ok);
        }
        let wish = gst_video::UpstreamForceKeyUnitEvent::builder()
            .all_headers(true)
            .build();
        obj.sink_pad().push_event(wish);
        gst::element_imp_warning!(
            self,
            gst::StreamError::Decode,
            ["{error}; going on at the next key unit"]
        );
        gst_video::video_decoder_error!(obj, 1, gst::StreamError::Decode, ["{error}"])
    }

    /// Agrees with downstream on a format for the pictures of a stream.
    fn announce(&self, sequence: &SequenceHeader) -> Result<(), gst::FlowError> {
        let obj = self.obj();
        let template = obj.src_pad().pad_template_caps();
        let allowed = obj
            .src_pad()
            .allowed_caps()
            .filter(|c| !c.is_empty())
            .unwrap_or(template);
        let wanted = |format: &&VideoFormat| {
            let caps = gst_video::VideoCapsBuilder::new().format(**format).build();
            allowed.can_intersect(&caps)
        };
        let format = caps::FORMATS.iter().find(wanted).copied().unwrap_or(VideoFormat::I420);
        let info = picture_info(format, sequence).map_err(|e| {
            gst::element_imp_error!(self, gst::StreamError::Format, ["{e}"]);
            gst::FlowError::NotNegotiated
        })?;
        let caps = info.to_caps().map_err(|_| gst::FlowError::NotNegotiated)?;
        let converter = Converter::to_format(&info).map_err(|_| gst::FlowError::NotNegotiated)?;
        let mut output = obj.set_output_state(format, sequence.width, sequence.height, None)?;
        output.set_info(info.clone());
        output.set_caps(&caps);
        obj.negotiate(output)?;
        if let Some(state) = self.state.lock().unwrap().as_mut() {
            state.output = Some(Output {
                sequence: *sequence,
                info,
                converter,
            });
        }
        Ok(())
    }

    fn fill(&self, frame: &mut VideoCodecFrame, picture: &Frame) -> Result<(), gst::FlowError> {
        let guard = self.state.lock().unwrap();
        let output = guard
            .as_ref()
            .and_then(|s| s.output.as_ref())
            .ok_or(gst::FlowError::NotNegotiated)?;
        let buffer = frame.output_buffer_mut().ok_or(gst::FlowError::Error)?;
        let written = VideoFrameRef::from_buffer_ref_writable(buffer, &output.info)
            .and_then(|mut mapped| output.converter.write(picture, &mut mapped));
        written.map_err(|error| {
            gst::element_imp_error!(self, gst::ResourceError::Write, ["cannot write the picture: {error}"]);
            gst::FlowError::Error
        })
    }
}

/// Pictures of a stream in a format: R'G'B' where the stream was made from that, or from the stream's own
/// colours.
fn picture_info(format: VideoFormat, sequence: &SequenceHeader) -> Result<VideoInfo, glib::BoolError> {
    let fraction = |(num, den): (u32, u32)| gst::Fraction::new(num as i32, den as i32);
    let colorimetry = caps::colorimetry(sequence);
    let from_rgb = colorimetry
        .as_ref()
        .is_some_and(|c| c.matrix() == gst_video::VideoColorMatrix::Rgb);
    let to_rgb = format == VideoFormat::Rgb;
    // Y'CbCr from an R'G'B' source, or the other way round, has the default colours of its kind.
    VideoInfo::builder(format, sequence.width, sequence.height)
        .fps(fraction(sequence.frame_rate))
        .par(fraction(sequence.pixel_aspect_ratio))
        .colorimetry_if_some(colorimetry.as_ref().filter(|_| from_rgb == to_rgb))
        .chroma_site_if(caps::chroma_site(sequence), !to_rgb && !from_rgb)
        .build()
}
