// SPDX-License-Identifier: MPL-2.0
//! Whole pipelines, as users type them, in processes of their own.
#![cfg(feature = "codec")]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};

use common::*;
use gst::prelude::*;

/// A rate that suits a moving ball of 160x128.
const BALL_KBPS: u32 = 2;

/// Runs gst-launch-1.0 with a description; its standard output and error.
fn launch(scratch: &Path, description: &str) -> String {
    let output = tool("gst-launch-1.0", scratch)
        .args(description.split_whitespace())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{description}\n{text}");
    text.into_owned()
}

/// A stream of `frames` frames at 25 frames/s with a key unit in every 17.
fn encode_file(scratch: &Path, frames: u32) -> String {
    let file = scratch.join("clip.tvc").display().to_string();
    let printed = launch(
        scratch,
        &format!(
            "-q videotestsrc num-buffers={frames} horizontal-speed=2 ! video/x-raw,width=64,height=48,framerate=25/1 \
             ! tvcenc key-int-max=17 ! tvcparse ! filesink location={file}"
        ),
    );
    assert_eq!(printed, "", "the terminal belongs to the application");
    file
}

fn decoded_frames(scratch: &Path, source: &str) -> u64 {
    let raw = scratch.join("raw");
    launch(
        scratch,
        &format!(
            "-q {source} ! video/x-raw,format=I420 ! filesink location={}",
            raw.display()
        ),
    );
    std::fs::metadata(raw).unwrap().len() / (64 * 48 * 3 / 2)
}

#[test]
fn a_clip_goes_in_and_comes_out() {
    let scratch = tempfile::tempdir().unwrap();
    let file = encode_file(scratch.path(), 30);
    assert_eq!(
        decoded_frames(scratch.path(), &format!("filesrc location={file} ! tvcparse ! tvcdec")),
        30
    );
}

#[test]
fn decodebin_plays_a_file() {
    let scratch = tempfile::tempdir().unwrap();
    let file = encode_file(scratch.path(), 20);
    assert_eq!(
        decoded_frames(scratch.path(), &format!("filesrc location={file} ! decodebin")),
        20
    );
}

#[test]
fn encodebin_makes_a_file_by_its_caps() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("clip.tvc").display().to_string();
    launch(
        scratch.path(),
        &format!(
            "-q videotestsrc num-buffers=20 ! video/x-raw,format=RGB,width=64,height=48,framerate=25/1 \
             ! encodebin profile=video/x-tvc ! filesink location={file}"
        ),
    );
    assert_eq!(
        decoded_frames(scratch.path(), &format!("filesrc location={file} ! decodebin")),
        20
    );
}

#[test]
fn interlaced_pictures_go_in() {
    let scratch = tempfile::tempdir().unwrap();
    launch(
        scratch.path(),
        "-q videotestsrc num-buffers=24 ! video/x-raw,format=NV12,width=64,height=48,framerate=50/1 ! interlace \
         ! videoconvert ! tvcenc ! fakesink",
    );
}

#[test]
fn mp4_carries_the_stream() {
    let scratch = tempfile::tempdir().unwrap();
    let file = encode_file(scratch.path(), 20);
    let mp4 = scratch.path().join("clip.mp4");
    launch(
        scratch.path(),
        &format!(
            "-q filesrc location={file} ! tvcparse ! mp4mux ! filesink location={}",
            mp4.display()
        ),
    );
    assert_eq!(
        decoded_frames(
            scratch.path(),
            &format!("filesrc location={} ! decodebin", mp4.display())
        ),
        20
    );
}

#[test]
fn discoverer_and_typefind_know_a_file() {
    let scratch = tempfile::tempdir().unwrap();
    let file = encode_file(scratch.path(), 30);
    let run = |name: &str, arguments: &[&str]| {
        let output = tool(name, scratch.path()).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(run("gst-typefind-1.0", &[&file]).contains("video/x-tvc"));
    let discovered = run("gst-discoverer-1.0", &["-v", &file]);
    for part in [
        "video/x-tvc",
        "Duration: 0:00:01.200000000",
        "Seekable: yes",
        "Width: 64",
        "Frame rate: 25/1",
    ] {
        assert!(discovered.contains(part), "no {part:?} in {discovered}");
    }
}

#[test]
fn threads_do_not_change_the_stream() {
    let scratch = tempfile::tempdir().unwrap();
    let code = |threads: u32| {
        let file = scratch.path().join(format!("{threads}.tvc"));
        launch(
            scratch.path(),
            &format!(
                "-q videotestsrc num-buffers=25 pattern=ball ! video/x-raw,width=320,height=240 ! tvcenc threads={threads} \
                 ! filesink location={}",
                file.display()
            ),
        );
        std::fs::read(file).unwrap()
    };
    assert_eq!(code(1), code(2));
}

#[test]
fn foreign_empty_and_torn_files_end_with_an_error_or_with_what_is_good() {
    init();
    let scratch = tempfile::tempdir().unwrap();
    let whole = std::fs::read(encode_file(scratch.path(), 26)).unwrap();
    let path = scratch.path().join("bad.tvc");
    for content in [&b""[..], b"RIFF....AVI ", &[0u8; 4096]] {
        std::fs::write(&path, content).unwrap();
        let description = format!("filesrc location={} ! tvcparse ! tvcdec ! fakesink", path.display());
        let pipeline = gst::parse::launch(&description).unwrap();
        // Playing may fail at once, or later: in both cases the reason is on the bus.
        let _ = pipeline.set_state(gst::State::Playing);
        let wanted = [gst::MessageType::Error, gst::MessageType::Eos];
        let message = pipeline
            .bus()
            .unwrap()
            .timed_pop_filtered(gst::ClockTime::from_seconds(30), &wanted);
        assert_eq!(
            message.map(|m| m.type_()),
            Some(gst::MessageType::Error),
            "{} bytes are no stream",
            content.len()
        );
        pipeline.set_state(gst::State::Null).unwrap();
    }
    std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    let frames = decoded_frames(
        scratch.path(),
        &format!("filesrc location={} ! tvcparse ! tvcdec", path.display()),
    );
    assert_eq!(frames, 18, "all but the 8 frames of the torn unit");
}

/// A paused pipeline over a file, and its sink.
fn player(file: &str) -> (gst::Pipeline, gst::Element) {
    let description =
        format!("filesrc location={file} ! tvcparse ! tvcdec ! fakesink name=sink enable-last-sample=true");
    let pipeline = gst::parse::launch(&description)
        .unwrap()
        .downcast::<gst::Pipeline>()
        .unwrap();
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(gst::ClockTime::from_seconds(20)).0.unwrap();
    let sink = pipeline.by_name("sink").unwrap();
    (pipeline, sink)
}

fn shown(sink: &gst::Element) -> gst::ClockTime {
    let sample = sink.property::<gst::Sample>("last-sample");
    sample.buffer().unwrap().pts().unwrap()
}

#[test]
fn seeks_to_key_units_show_that_unit_or_what_follows_it() {
    init();
    let scratch = tempfile::tempdir().unwrap();
    let file = encode_file(scratch.path(), 100);
    let (pipeline, sink) = player(&file);
    assert_eq!(shown(&sink), gst::ClockTime::ZERO);
    for (to, key_unit) in [(2000, 34), (500, 0), (3000, 68)] {
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT | gst::SeekFlags::SNAP_BEFORE;
        pipeline.seek_simple(flags, gst::ClockTime::from_mseconds(to)).unwrap();
        pipeline.state(gst::ClockTime::from_seconds(20)).0.unwrap();
        let frame = shown(&sink).mseconds() / 40;
        assert!(
            (key_unit..=to / 40).contains(&frame),
            "seek to {to} ms shows frame {frame}"
        );
    }
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn accurate_seeks_show_the_frame() {
    init();
    let scratch = tempfile::tempdir().unwrap();
    let file = encode_file(scratch.path(), 100);
    let (pipeline, sink) = player(&file);
    for to in [1000, 3400, 200] {
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
        pipeline.seek_simple(flags, gst::ClockTime::from_mseconds(to)).unwrap();
        pipeline.state(gst::ClockTime::from_seconds(20)).0.unwrap();
        assert_eq!(shown(&sink).mseconds(), to);
    }
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn playing_backwards_shows_every_frame_in_reverse_order() {
    init();
    let scratch = tempfile::tempdir().unwrap();
    // Key units at 0, 17 and 34; the last unit is short.
    let file = encode_file(scratch.path(), 40);
    let (pipeline, sink) = player(&file);
    let (start, end) = (gst::ClockTime::ZERO, gst::ClockTime::from_mseconds(40 * 40));
    pipeline
        .seek(
            -1.0,
            gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE,
            gst::SeekType::Set,
            start,
            gst::SeekType::Set,
            end,
        )
        .unwrap();
    pipeline.state(gst::ClockTime::from_seconds(20)).0.unwrap();
    let frames = Arc::new(Mutex::new(vec![shown(&sink).mseconds() / 40]));
    let seen = frames.clone();
    sink.static_pad("sink")
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let pts = info.buffer().unwrap().pts().unwrap();
            seen.lock().unwrap().push(pts.mseconds() / 40);
            gst::PadProbeReturn::Ok
        });
    pipeline.set_state(gst::State::Playing).unwrap();
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let last = pipeline
        .bus()
        .unwrap()
        .timed_pop_filtered(gst::ClockTime::from_seconds(30), &ends);
    assert!(matches!(last.unwrap().view(), gst::MessageView::Eos(_)));
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(*frames.lock().unwrap(), (0..40).rev().collect::<Vec<_>>());
}

#[test]
fn a_bitrate_is_kept_from_gst_launch() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("clip.tvc");
    let size = |kbps: u32| {
        launch(
            scratch.path(),
            &format!(
                "-q videotestsrc num-buffers=300 pattern=ball ! video/x-raw,width=160,height=128,framerate=25/1 \
                 ! tvcenc bitrate={kbps} ! tvcparse ! filesink location={}",
                file.display()
            ),
        );
        std::fs::metadata(&file).unwrap().len() as f64
    };
    // Between the floor and the ceiling of this content; 12 s of it, and the 2.5 s that the decoder's buffer may hold before.
    for kbps in [BALL_KBPS, 2 * BALL_KBPS] {
        let share = size(kbps) * 8.0 / 1000.0 / 12.0 / f64::from(kbps);
        assert!(
            (0.9..1.0 + 2.5 / 12.0).contains(&share),
            "{share} of the {kbps} kbit/s that were asked for"
        );
    }
}
