// SPDX-License-Identifier: MPL-2.0
//! Caps of TVC streams, and what a sequence header says in GStreamer's terms.

use gst::glib::translate::FromGlib;
#[cfg(feature = "codec")]
use gst::glib::translate::IntoGlib;
use gst_video::prelude::*;

use crate::bitstream::{SequenceHeader, MAX_SIZE, MIN_SIZE};

/// Caps name of a TVC stream.
pub const MEDIA_TYPE: &str = "video/x-tvc";

/// The part of the caps that every TVC stream has.
pub fn any() -> gst::caps::Builder<gst::caps::NoFeature> {
    gst::Caps::builder(MEDIA_TYPE)
}

/// Caps of whole access units.
pub fn framed() -> gst::caps::Builder<gst::caps::NoFeature> {
    any()
        .field("stream-format", "byte-stream")
        .field("alignment", "frame")
        .field("parsed", true)
}

/// Formats of raw pictures that encoder and decoder take and give, the preferred one first.
#[cfg(feature = "codec")]
pub const FORMATS: [gst_video::VideoFormat; 3] = [
    gst_video::VideoFormat::I420,
    gst_video::VideoFormat::Nv12,
    gst_video::VideoFormat::Rgb,
];

/// Caps of raw pictures.
#[cfg(feature = "codec")]
pub fn raw() -> gst::Caps {
    let size = size_range();
    let builder = gst_video::VideoCapsBuilder::new().format_list(FORMATS);
    builder
        .width_range(size.min()..=size.max())
        .height_range(size.min()..=size.max())
        .build()
}

/// Templates of the pads `sink` and `src`, both always there.
pub fn templates(sink: &gst::Caps, src: &gst::Caps) -> Vec<gst::PadTemplate> {
    let template = |name, direction, caps| {
        gst::PadTemplate::new(name, direction, gst::PadPresence::Always, caps).expect("a valid template")
    };
    vec![
        template("sink", gst::PadDirection::Sink, sink),
        template("src", gst::PadDirection::Src, src),
    ]
}

/// Whether a source pad or the one that it feeds is flushing: caps that do not go through then are no error.
pub fn is_stopping(pad: &gst::Pad) -> bool {
    let is_flushing = |pad: &gst::Pad| pad.pad_flags().contains(gst::PadFlags::FLUSHING);
    is_flushing(pad) || pad.peer().is_some_and(|peer| is_flushing(&peer))
}

/// Sizes that a stream may have.
pub fn size_range() -> gst::IntRange<i32> {
    gst::IntRange::new(MIN_SIZE as i32, MAX_SIZE as i32)
}

/// Caps of the stream that a sequence header opens.
pub fn from_sequence(sequence: &SequenceHeader) -> gst::Caps {
    let fraction = |(num, den): (u32, u32)| gst::Fraction::new(num as i32, den as i32);
    let builder = framed()
        .field("width", sequence.width as i32)
        .field("height", sequence.height as i32)
        .field("framerate", fraction(sequence.frame_rate))
        .field("pixel-aspect-ratio", fraction(sequence.pixel_aspect_ratio));
    let colorimetry = colorimetry(sequence).map(|c| c.to_string());
    builder.field_if_some("colorimetry", colorimetry).build()
}

/// `caps`, with what `upstream` says besides: mastering display, light levels and the like travel in caps alone.
pub fn with_rest_of(mut caps: gst::Caps, upstream: Option<&gst::CapsRef>) -> gst::Caps {
    let fields = caps.make_mut().structure_mut(0).expect("caps have a structure");
    for (name, value) in upstream.and_then(|caps| caps.structure(0)).into_iter().flatten() {
        if !fields.has_field(name) {
            fields.set_value(name, value.clone());
        }
    }
    caps
}

/// The colorimetry of a stream, where it is known.
pub fn colorimetry(sequence: &SequenceHeader) -> Option<gst_video::VideoColorimetry> {
    let [range, matrix, transfer, primaries, _] = sequence.colorimetry.map(i32::from);
    // Nothing known has no name either: GStreamer gives no string for it.
    let is_known = sequence.colorimetry[..4] != [0; 4];
    // SAFETY: unknown numbers become the `__Unknown` variants.
    is_known.then(|| unsafe {
        gst_video::VideoColorimetry::new(
            gst_video::VideoColorRange::from_glib(range),
            gst_video::VideoColorMatrix::from_glib(matrix),
            gst_video::VideoTransferFunction::from_glib(transfer),
            gst_video::VideoColorPrimaries::from_glib(primaries),
        )
    })
}

/// The chroma siting of a stream.
#[cfg(feature = "codec")]
pub fn chroma_site(sequence: &SequenceHeader) -> gst_video::VideoChromaSite {
    gst_video::VideoChromaSite::from_bits_truncate(sequence.colorimetry[4].into())
}

/// The sequence header of a stream of pictures like `info`; the encoder fills in the model.
#[cfg(feature = "codec")]
pub fn to_sequence(info: &gst_video::VideoInfo) -> SequenceHeader {
    let fraction = |f: gst::Fraction| (f.numer().max(0) as u32, f.denom().max(1) as u32);
    let c = info.colorimetry();
    let colorimetry = [
        c.range().into_glib(),
        c.matrix().into_glib(),
        c.transfer().into_glib(),
        c.primaries().into_glib(),
        info.chroma_site().bits() as i32,
    ];
    SequenceHeader {
        pixel_aspect_ratio: fraction(info.par()),
        colorimetry: colorimetry.map(|value| u8::try_from(value).unwrap_or(0)),
        ..SequenceHeader::new(info.width(), info.height(), fraction(info.fps()))
    }
}

/// A time in ns, unless it is GStreamer's "no time".
pub fn time(nanoseconds: u64) -> Option<gst::ClockTime> {
    let is_time = nanoseconds != gst::ffi::GST_CLOCK_TIME_NONE;
    is_time.then(|| gst::ClockTime::from_nseconds(nanoseconds))
}

/// Duration of `frames` frames, if the rate is fixed.
pub fn duration(sequence: &SequenceHeader, frames: u64) -> Option<gst::ClockTime> {
    let (num, den) = sequence.frame_rate;
    if num == 0 {
        return None;
    }
    time(frames.mul_div_floor(gst::ClockTime::SECOND.nseconds() * u64::from(den), u64::from(num))?)
}
