// SPDX-License-Identifier: MPL-2.0
//! What the element tests share.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod network;
pub mod player;
#[cfg(feature = "train")]
pub mod trainer;
pub mod units;

use std::path::PathBuf;
use std::sync::Once;

use gst::prelude::*;
use gst_video::VideoFrameExt;

pub const WIDTH: u32 = 64;
pub const HEIGHT: u32 = 48;
pub const FRAME: gst::ClockTime = gst::ClockTime::from_mseconds(40);

pub fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        gst::init().unwrap();
        gsttvc::plugin_register_static().unwrap();
    });
}

pub fn info(format: gst_video::VideoFormat, width: u32, height: u32) -> gst_video::VideoInfo {
    init();
    gst_video::VideoInfo::builder(format, width, height)
        .fps(gst::Fraction::new(25, 1))
        .build()
        .unwrap()
}

/// A moving gradient, frame `t` of it.
pub fn picture(info: &gst_video::VideoInfo, t: u64) -> gst::Buffer {
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    {
        let buffer = buffer.get_mut().unwrap();
        buffer.set_pts(t * FRAME);
        buffer.set_duration(FRAME);
        let mut frame = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, info).unwrap();
        for plane in 0..frame.n_planes() {
            let stride = frame.plane_stride()[plane as usize] as usize;
            for (y, row) in frame.plane_data_mut(plane).unwrap().chunks_mut(stride).enumerate() {
                for (x, sample) in row.iter_mut().enumerate() {
                    *sample = (40 + 3 * x + 2 * y + 5 * t as usize + 30 * plane as usize).min(220) as u8;
                }
            }
        }
    }
    buffer
}

pub fn i420() -> gst_video::VideoInfo {
    info(gst_video::VideoFormat::I420, WIDTH, HEIGHT)
}

pub fn encoder(info: &gst_video::VideoInfo) -> gst_check::Harness {
    init();
    let mut harness = gst_check::Harness::new("tvcenc");
    harness.set_src_caps(info.to_caps().unwrap());
    harness.play();
    harness
}

/// `frames` pictures through tvcenc.
pub fn encode(info: &gst_video::VideoInfo, frames: u64) -> Vec<gst::Buffer> {
    let mut harness = encoder(info);
    for t in 0..frames {
        harness.push(picture(info, t)).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    drain(&mut harness)
}

/// Pictures through tvcenc, with a key unit in every 17.
pub fn encode_with_keys(frames: u64) -> Vec<gst::Buffer> {
    init();
    let info = i420();
    let mut harness = gst_check::Harness::new("tvcenc");
    harness.element().unwrap().set_property("key-int-max", 17u32);
    harness.set_src_caps(info.to_caps().unwrap());
    harness.play();
    (0..frames).for_each(|t| assert!(harness.push(picture(&info, t)).is_ok()));
    harness.push_event(gst::event::Eos::new());
    drain(&mut harness)
}

/// Frame `t` of a [`picture`], at a time of its own and of no duration.
pub fn picture_at(info: &gst_video::VideoInfo, t: u64, pts: gst::ClockTime) -> gst::Buffer {
    let mut buffer = picture(info, t);
    let writable = buffer.get_mut().unwrap();
    writable.set_pts(pts);
    writable.set_duration(gst::ClockTime::NONE);
    buffer
}

pub fn push_all(harness: &mut gst_check::Harness, buffers: &[gst::Buffer]) {
    for buffer in buffers {
        harness.push(buffer.clone()).unwrap();
    }
}

/// All buffers that wait at a harness's sink pad.
pub fn drain(harness: &mut gst_check::Harness) -> Vec<gst::Buffer> {
    std::iter::from_fn(|| harness.try_pull()).collect()
}

pub fn is_key(buffer: &gst::Buffer) -> bool {
    !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT)
}

pub fn bytes(buffer: &gst::Buffer) -> Vec<u8> {
    buffer.map_readable().unwrap().to_vec()
}

/// A byte stream of several units.
pub fn stream(units: &[gst::Buffer]) -> Vec<u8> {
    units.iter().flat_map(bytes).collect()
}

pub fn tvc_caps() -> gst::Caps {
    gst::Caps::builder("video/x-tvc")
        .field("stream-format", "byte-stream")
        .field("alignment", "frame")
        .field("parsed", true)
        .field("width", WIDTH as i32)
        .field("height", HEIGHT as i32)
        .field("framerate", gst::Fraction::new(25, 1))
        .build()
}

pub fn decoder() -> gst_check::Harness {
    init();
    let mut harness = gst_check::Harness::new("tvcdec");
    harness.set_src_caps(tvc_caps());
    harness.play();
    harness
}

/// The folder with the plugin that this test run built.
pub fn plugin_folder() -> PathBuf {
    let executable = std::env::current_exe().unwrap();
    let deps = executable.parent().unwrap();
    let folders = [deps.parent().unwrap(), deps].map(PathBuf::from);
    // `cargo test` leaves the one of `cargo build` beside its own as it was.
    let built = |folder: &PathBuf| folder.join("libgsttvc.so").metadata().ok()?.modified().ok();
    let newest = folders
        .into_iter()
        .filter(|folder| built(folder).is_some())
        .max_by_key(built);
    newest.expect("cargo has built the plugin")
}

/// A GStreamer tool that sees the built plugin, with a registry of its own.
pub fn tool(name: &str, scratch: &std::path::Path) -> std::process::Command {
    let mut command = std::process::Command::new(name);
    command
        .env("GST_PLUGIN_PATH", plugin_folder())
        .env("GST_REGISTRY", scratch.join("registry.bin"));
    command
}

/// A pipeline that ends in an appsink of the name `sink`, and that.
pub fn launch(description: &str) -> (gst::Pipeline, gst_app::AppSink) {
    init();
    let pipeline = gst::parse::launch(description).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap();
    (pipeline, sink.downcast().unwrap())
}

/// Plays a pipeline to its end: what comes to its appsink.
pub fn play_to_end(pipeline: &gst::Pipeline, sink: &gst_app::AppSink) -> Vec<gst::Buffer> {
    pipeline.set_state(gst::State::Playing).unwrap();
    let buffers = std::iter::from_fn(|| sink.pull_sample().ok().and_then(|sample| sample.buffer_owned()));
    let buffers = buffers.collect();
    pipeline.set_state(gst::State::Null).unwrap();
    buffers
}

/// The first error on the bus, as domain-independent text, and its code's debug name.
pub fn error(bus: &gst::Bus) -> Option<gst::glib::Error> {
    let message = bus.pop_filtered(&[gst::MessageType::Error])?;
    match message.view() {
        gst::MessageView::Error(error) => Some(error.error()),
        _ => None,
    }
}

/// A harness's element on a bus of the test's.
pub fn bus(harness: &gst_check::Harness) -> gst::Bus {
    let bus = gst::Bus::new();
    harness.element().unwrap().set_bus(Some(&bus));
    bus
}

/// Adds what belongs to one picture: a time code, and captions.
pub fn add_metas(buffer: &mut gst::BufferRef, frame: u32) {
    let flags = gst_video::VideoTimeCodeFlags::empty();
    let code = gst_video::VideoTimeCode::new(gst::Fraction::new(25, 1), None, flags, 0, 0, 0, frame, 0);
    let code = gst_video::ValidVideoTimeCode::try_from(code).unwrap();
    gst_video::VideoTimeCodeMeta::add(buffer, &code);
    gst_video::VideoCaptionMeta::add(buffer, gst_video::VideoCaptionType::Cea608Raw, &[0x80, frame as u8]);
}

/// How many of these a buffer carries.
pub fn metas(buffer: &gst::Buffer) -> usize {
    let codes = buffer.iter_meta::<gst_video::VideoTimeCodeMeta>().count();
    codes + buffer.iter_meta::<gst_video::VideoCaptionMeta>().count()
}
