// SPDX-License-Identifier: MPL-2.0
//! What tvcenc takes: fields, and what buffers carry beside a picture.
#![cfg(feature = "codec")]

mod common;

use common::*;
use gst::prelude::*;
use gst_video::prelude::*;
use gst_video::{VideoBufferFlags, VideoFormat, VideoInterlaceMode};

/// The bytes of the units of 9 pictures, and the caps that they come with.
fn coded(info: &gst_video::VideoInfo, flags: VideoBufferFlags) -> (Vec<u8>, gst::Caps) {
    let mut harness = encoder(info);
    for t in 0..9 {
        let mut buffer = picture(info, t);
        buffer.get_mut().unwrap().set_video_flags(flags);
        harness.push(buffer).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    let units = drain(&mut harness);
    assert_eq!(units.len(), 2);
    (stream(&units), harness.sinkpad().unwrap().current_caps().unwrap())
}

#[test]
fn fields_are_coded_as_they_lie_in_the_frame_in_every_format() {
    init();
    for format in [VideoFormat::I420, VideoFormat::Nv12, VideoFormat::Rgb] {
        let (progressive, caps) = coded(&info(format, WIDTH, HEIGHT), VideoBufferFlags::empty());
        for mode in [
            VideoInterlaceMode::Interleaved,
            VideoInterlaceMode::Mixed,
            VideoInterlaceMode::Fields,
        ] {
            let interlaced = gst_video::VideoInfo::builder(format, WIDTH, HEIGHT)
                .fps(gst::Fraction::new(25, 1))
                .interlace_mode(mode)
                .build()
                .unwrap();
            let found = coded(&interlaced, VideoBufferFlags::INTERLACED | VideoBufferFlags::TFF);
            assert_eq!(found.1, caps, "{format:?} {mode:?}: units say what the decoder shows");
            assert!(found.0 == progressive, "{format:?} {mode:?}");
        }
    }
}

#[test]
fn what_a_picture_carries_is_not_carried_by_a_unit() {
    let info = i420();
    let mut harness = encoder(&info);
    for t in 0..9 {
        let mut buffer = picture(&info, t);
        add_metas(buffer.get_mut().unwrap(), t as u32);
        harness.push(buffer).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    let units = drain(&mut harness);
    assert_eq!(units.len(), 2);
    assert_eq!(units.iter().map(metas).sum::<usize>(), 0);
}

#[test]
fn buffers_may_hold_more_than_is_shown() {
    let (shown, whole) = (i420(), info(VideoFormat::I420, WIDTH + 32, HEIGHT + 16));
    let mut large = picture(&whole, 0);
    let buffer = large.get_mut().unwrap();
    let (offset, stride) = (whole.offset().to_vec(), whole.stride().to_vec());
    let flags = gst_video::VideoFrameFlags::empty();
    let (width, height) = (whole.width(), whole.height());
    gst_video::VideoMeta::add_full(buffer, flags, VideoFormat::I420, width, height, &offset, &stride).unwrap();
    let mut harness = encoder(&shown);
    harness.push(large).unwrap();
    // The gradient is the same from the corner on.
    assert_eq!(bytes(&drain(&mut harness)[0]), bytes(&encode(&shown, 1)[0]));
}
