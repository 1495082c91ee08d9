// SPDX-License-Identifier: MPL-2.0
//! Between GStreamer's video frames and the codec's.

use gst_video::prelude::*;
use gst_video::{VideoFormat, VideoFrameRef, VideoInfo};

use crate::codec::Frame;

/// Pictures of this height and more are BT.709 where they have no Y'CbCr matrix of their own.
const HD_HEIGHT: u32 = 720;

/// Converts pictures of one format to or from I420.
pub struct Converter {
    i420: VideoInfo,
    /// The other format.
    pictures: VideoInfo,
    /// `None` where that is I420 as well.
    converter: Option<gst_video::VideoConverter>,
}

/// Progressive pictures of a format, and else like `info`. The stream knows no fields: both are coded as they lie in the frame, and shown
/// together, so that chroma is converted for that as well. Who wants them apart deinterlaces before encoding.
pub fn progressive(info: &VideoInfo, format: VideoFormat) -> Result<VideoInfo, gst::glib::BoolError> {
    VideoInfo::builder(format, info.width(), info.height())
        .fps(info.fps())
        .par(info.par())
        .flags(info.flags())
        .colorimetry(&info.colorimetry())
        .chroma_site(info.chroma_site())
        .build()
}

/// I420 like `info`: with its colorimetry, or a limited-range one where that is R'G'B'.
fn i420_like(info: &VideoInfo) -> Result<VideoInfo, gst::glib::BoolError> {
    let rgb = if info.height() < HD_HEIGHT { "bt601" } else { "bt709" };
    let colorimetry = if info.is_rgb() {
        rgb.parse()?
    } else {
        info.colorimetry()
    };
    VideoInfo::builder(VideoFormat::I420, info.width(), info.height())
        .fps(info.fps())
        .par(info.par())
        .colorimetry(&colorimetry)
        .chroma_site_if(info.chroma_site(), !info.is_rgb())
        .build()
}

impl Converter {
    /// From pictures like `info`.
    pub fn from_format(info: &VideoInfo) -> Result<Converter, gst::glib::BoolError> {
        let (i420, pictures) = (i420_like(info)?, progressive(info, info.format())?);
        let needed = info.format() != VideoFormat::I420;
        let converter = needed
            .then(|| gst_video::VideoConverter::new(&pictures, &i420, None))
            .transpose()?;
        Ok(Converter {
            i420,
            pictures,
            converter,
        })
    }

    /// To pictures like `info`.
    pub fn to_format(info: &VideoInfo) -> Result<Converter, gst::glib::BoolError> {
        let i420 = i420_like(info)?;
        let needed = info.format() != VideoFormat::I420;
        let converter = needed
            .then(|| gst_video::VideoConverter::new(&i420, info, None))
            .transpose()?;
        Ok(Converter {
            i420,
            pictures: info.clone(),
            converter,
        })
    }

    /// Copies a picture out of GStreamer's memory, whatever its strides.
    pub fn read(&self, buffer: &gst::BufferRef, pts: Option<u64>) -> Result<Frame, gst::glib::BoolError> {
        let from = VideoFrameRef::from_buffer_ref_readable(buffer, &self.pictures)?;
        let Some(converter) = &self.converter else {
            return Ok(self.frame(copy_planes(&from, &self.i420)?, pts));
        };
        let mut buffer = planes_buffer(&self.i420)?;
        let memory = buffer.get_mut().expect("a new buffer is writable");
        converter.frame_ref(&from, &mut VideoFrameRef::from_buffer_ref_writable(memory, &self.i420)?);
        Ok(self.frame(into_planes(buffer)?, pts))
    }

    fn frame(&self, planes: [Vec<u8>; 3], pts: Option<u64>) -> Frame {
        Frame {
            width: self.i420.width() as usize,
            height: self.i420.height() as usize,
            planes,
            pts,
        }
    }

    /// Copies a picture into GStreamer's memory, whatever its strides.
    pub fn write(
        &self,
        frame: &Frame,
        to: &mut VideoFrameRef<&mut gst::BufferRef>,
    ) -> Result<(), gst::glib::BoolError> {
        let Some(converter) = &self.converter else {
            return copy_to(frame, to);
        };
        let mut buffer = gst::Buffer::with_size(self.i420.size())?;
        let memory = buffer.get_mut().expect("a new buffer is writable");
        copy_to(frame, &mut VideoFrameRef::from_buffer_ref_writable(memory, &self.i420)?)?;
        converter.frame_ref(&VideoFrameRef::from_buffer_ref_readable(&buffer, &self.i420)?, to);
        Ok(())
    }
}

/// A buffer of three memories, the planes of an I420 picture without padding: a converter writes into what a [`Frame`] holds.
fn planes_buffer(info: &VideoInfo) -> Result<gst::Buffer, gst::glib::BoolError> {
    let (width, height) = (info.width() as usize, info.height() as usize);
    let mut buffer = gst::Buffer::new();
    let memory = buffer.get_mut().expect("a new buffer is writable");
    let (mut offsets, mut strides, mut end) = ([0; 3], [0; 3], 0);
    for plane in 0..3 {
        let (w, h) = Frame::plane_size(width, height, plane);
        memory.append_memory(gst::Memory::from_mut_slice(vec![0u8; w * h]));
        (offsets[plane], strides[plane]) = (end, w as i32);
        end += w * h;
    }
    let (flags, format) = (gst_video::VideoFrameFlags::empty(), VideoFormat::I420);
    gst_video::VideoMeta::add_full(memory, flags, format, info.width(), info.height(), &offsets, &strides)?;
    Ok(buffer)
}

/// The planes of such a buffer.
fn into_planes(buffer: gst::Buffer) -> Result<[Vec<u8>; 3], gst::glib::BoolError> {
    let memories: Vec<gst::Memory> = buffer.iter_memories_owned().collect();
    drop(buffer);
    let mut planes = [const { Vec::new() }; 3];
    for (plane, memory) in planes.iter_mut().zip(memories) {
        *plane = memory
            .try_into_inner()
            .map_err(|_| gst::glib::bool_error!("a converter kept the picture"))?;
    }
    Ok(planes)
}

/// The planes of a picture. Its buffer may hold more than is shown, as `info` says.
fn copy_planes(from: &VideoFrameRef<&gst::BufferRef>, info: &VideoInfo) -> Result<[Vec<u8>; 3], gst::glib::BoolError> {
    let (width, height) = (info.width() as usize, info.height() as usize);
    let mut planes = [const { Vec::new() }; 3];
    for (number, plane) in planes.iter_mut().enumerate() {
        let (w, h) = Frame::plane_size(width, height, number);
        let stride = from.plane_stride()[number] as usize;
        let rows = from.plane_data(number as u32)?.chunks(stride).take(h);
        plane.reserve(w * h);
        rows.for_each(|row| plane.extend_from_slice(&row[..w]));
    }
    Ok(planes)
}

fn copy_to(frame: &Frame, to: &mut VideoFrameRef<&mut gst::BufferRef>) -> Result<(), gst::glib::BoolError> {
    for (number, plane) in frame.planes.iter().enumerate() {
        let (w, _) = Frame::plane_size(frame.width, frame.height, number);
        let stride = to.plane_stride()[number] as usize;
        let rows = to.plane_data_mut(number as u32)?.chunks_mut(stride);
        rows.zip(plane.chunks(w))
            .for_each(|(to, from)| to[..w].copy_from_slice(from));
    }
    Ok(())
}
