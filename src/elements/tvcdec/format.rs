// SPDX-License-Identifier: MPL-2.0
//! What pictures look like: agreed upon with downstream, at the start, with other streams, and when downstream changes its mind.

use std::sync::atomic::Ordering;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::video_codec_state::InNegotiation;
use gst_video::{VideoCodecState, VideoFormat, VideoInfo};

use super::imp::{TvcDec, CAT};
use crate::bitstream::SequenceHeader;
use crate::elements::caps;
use crate::elements::convert::Converter;

/// What is to be agreed upon; while it lasts, the base class's stream lock is held.
type Proposal<'a> = VideoCodecState<'a, InNegotiation<'a>>;

/// What downstream has been promised.
pub struct Output {
    sequence: SequenceHeader,
    pub info: VideoInfo,
    pub converter: Converter,
}

impl Output {
    /// True if the stream's pictures no longer are what downstream expects.
    fn needs_reset(&self, sequence: &SequenceHeader) -> bool {
        !self.sequence.shows_like(sequence)
    }
}

/// When another format is agreed upon.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    Now,
    Later,
}

impl TvcDec {
    /// Agrees with downstream on a format if the pictures are not those of the units before.
    pub(super) fn announce_if_new(&self, sequence: &SequenceHeader) -> Result<gst::FlowSuccess, gst::FlowError> {
        let needs_reset = {
            let output = self.output.lock().unwrap();
            output.as_ref().is_none_or(|output| output.needs_reset(sequence))
        };
        if needs_reset {
            self.announce(sequence)?;
        }
        Ok(gst::FlowSuccess::Ok)
    }

    fn announce(&self, sequence: &SequenceHeader) -> Result<(), gst::FlowError> {
        let obj = self.obj();
        let negotiated = obj.negotiate(self.propose(&obj, sequence)?);
        if negotiated.is_err() {
            // The next unit tries again.
            *self.output.lock().unwrap() = None;
        }
        negotiated
    }

    /// Downstream may want another format by now. The base class asks for this when downstream says so, which may be between the moment
    /// at which a picture is written and that at which it is pushed: then the old format stays for that one.
    pub(super) fn follow_downstream(&self) -> Result<Follow, gst::FlowError> {
        if self.holds_pictures.load(Ordering::Relaxed) {
            self.obj().src_pad().mark_reconfigure();
            return Ok(Follow::Later);
        }
        let present = self
            .output
            .lock()
            .unwrap()
            .as_ref()
            .map(|o| (o.info.format(), o.sequence));
        if let Some((_, sequence)) = present.filter(|(format, _)| *format != self.wanted_format()) {
            gst::info!(CAT, imp = self, "downstream wants another format");
            drop(self.propose(&self.obj(), &sequence)?);
        }
        Ok(Follow::Now)
    }

    /// The format of pictures that downstream takes.
    fn wanted_format(&self) -> VideoFormat {
        let pad = self.obj().src_pad().clone();
        let allowed = pad.allowed_caps().filter(|caps| !caps.is_empty());
        let allowed = allowed.unwrap_or_else(|| pad.pad_template_caps());
        let is_wanted = |format: &&VideoFormat| {
            let caps = gst_video::VideoCapsBuilder::new().format(**format).build();
            allowed.can_intersect(&caps)
        };
        let format = caps::FORMATS.iter().find(is_wanted);
        format.copied().unwrap_or(VideoFormat::I420)
    }

    /// What is to be agreed upon with downstream, for pictures of a sequence.
    fn propose<'a>(&self, obj: &'a super::TvcDec, sequence: &SequenceHeader) -> Result<Proposal<'a>, gst::FlowError> {
        let format = self.wanted_format();
        let info = picture_info(format, sequence).map_err(|e| {
            gst::element_imp_error!(self, gst::StreamError::Format, ["{e}"]);
            gst::FlowError::NotNegotiated
        })?;
        let caps = info.to_caps().map_err(|_| gst::FlowError::NotNegotiated)?;
        let converter = Converter::to_format(&info).map_err(|_| gst::FlowError::NotNegotiated)?;
        let mut state = obj.set_output_state(format, sequence.width, sequence.height, None)?;
        state.set_info(info.clone());
        state.set_caps(&caps);
        *self.output.lock().unwrap() = Some(Output {
            sequence: *sequence,
            info,
            converter,
        });
        Ok(state)
    }
}

/// Pictures of a stream in a format: R'G'B' where the stream was made from that, or from the stream's own
/// colours.
fn picture_info(format: VideoFormat, sequence: &SequenceHeader) -> Result<VideoInfo, gst::glib::BoolError> {
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
