// SPDX-License-Identifier: MPL-2.0
#![cfg(feature = "codec")]

mod common;

use common::*;
use gst::prelude::*;
use gst_video::{VideoFormat, VideoFrameExt};
use gsttvc::bitstream::UnitHeader;

fn sizes(units: &[gst::Buffer]) -> Vec<usize> {
    units
        .iter()
        .map(|u| UnitHeader::parse(&bytes(u)).unwrap().0.frames)
        .collect()
}

#[test]
fn no_frame_in_no_unit_out() {
    assert!(encode(&i420(), 0).is_empty());
}

#[test]
fn seventeen_frames_become_a_key_unit_and_two_delta_units() {
    let units = encode(&i420(), 17);
    assert_eq!(sizes(&units), [1, 8, 8]);
    assert_eq!(units.iter().map(is_key).collect::<Vec<_>>(), [true, false, false]);
    let times: Vec<_> = units.iter().map(|u| u.pts().unwrap()).collect();
    assert_eq!(
        times,
        [gst::ClockTime::ZERO, FRAME, 9 * FRAME],
        "a unit has the time of its first frame"
    );
    let durations: Vec<_> = units.iter().map(|u| u.duration().unwrap()).collect();
    assert_eq!(durations, [FRAME, 8 * FRAME, 8 * FRAME]);
}

#[test]
fn the_last_group_may_be_short() {
    assert_eq!(sizes(&encode(&i420(), 12)), [1, 8, 3]);
}

#[test]
fn delta_headers_have_at_most_eight_bytes() {
    for unit in &encode(&i420(), 25)[1..] {
        let (_, length) = UnitHeader::parse(&bytes(unit)).unwrap();
        assert!(length <= 8, "{length} bytes");
    }
}

#[test]
fn a_forced_key_unit_comes_at_the_next_frame() {
    let info = i420();
    let mut harness = encoder(&info);
    for t in 0..12 {
        if t == 5 {
            let wish = gst_video::UpstreamForceKeyUnitEvent::builder()
                .all_headers(true)
                .build();
            assert!(harness.push_upstream_event(wish));
        }
        harness.push(picture(&info, t)).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    let units = drain(&mut harness);
    assert_eq!(sizes(&units), [1, 4, 1, 6], "the group before the key unit ends early");
    assert_eq!(units.iter().map(is_key).collect::<Vec<_>>(), [true, false, true, false]);
}

#[test]
fn key_int_max_bounds_the_distance_of_key_units() {
    let info = i420();
    init();
    let mut harness = gst_check::Harness::new("tvcenc");
    harness.element().unwrap().set_property("key-int-max", 9u32);
    harness.set_src_caps(info.to_caps().unwrap());
    harness.play();
    for t in 0..20 {
        harness.push(picture(&info, t)).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    assert_eq!(sizes(&drain(&mut harness)), [1, 8, 1, 8, 1, 1]);
}

#[test]
fn new_caps_end_the_group_and_start_with_a_key_unit() {
    let (small, large) = (i420(), info(VideoFormat::I420, 96, 64));
    let mut harness = encoder(&small);
    for t in 0..4 {
        harness.push(picture(&small, t)).unwrap();
    }
    harness.set_src_caps(large.to_caps().unwrap());
    for t in 4..8 {
        harness.push(picture(&large, t)).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    let units = drain(&mut harness);
    assert_eq!(sizes(&units), [1, 3, 1, 3], "no frame is lost");
    let header = UnitHeader::parse(&bytes(&units[2])).unwrap().0;
    assert_eq!(header.sequence.map(|s| (s.width, s.height)), Some((96, 64)));
}

/// The latency of an encoder for a frame rate after frames so many ms apart.
fn latency(rate: gst::Fraction, spacing: u64, frames: u64) -> gst::ClockTime {
    init();
    let info = gst_video::VideoInfo::builder(VideoFormat::I420, WIDTH, HEIGHT)
        .fps(rate)
        .build();
    let info = info.unwrap();
    let mut harness = encoder(&info);
    for t in 0..frames {
        let mut buffer = picture(&info, t);
        buffer.get_mut().unwrap().set_pts(t * spacing * gst::ClockTime::MSECOND);
        harness.push(buffer).unwrap();
    }
    let mut query = gst::query::Latency::new();
    assert!(harness.element().unwrap().static_pad("src").unwrap().query(&mut query));
    query.result().1
}

#[test]
fn latency_is_one_group_and_the_time_to_code_it() {
    let (thirty, unknown) = (gst::Fraction::new(30, 1), gst::Fraction::new(0, 1));
    let expect = |found: gst::ClockTime, frame: u64| {
        let group = 8 * frame * gst::ClockTime::MSECOND;
        // What coding takes is this machine's affair.
        assert!(
            found > group && found < group + 10 * gst::ClockTime::SECOND,
            "{found} for frames of {frame} ms"
        );
    };
    expect(latency(gst::Fraction::new(25, 1), 40, 1), 40);
    expect(latency(thirty, 33, 1), 33);
    expect(latency(unknown, 33, 1), 33);
    // As frames come, where the caps know nothing or promise too much.
    expect(latency(unknown, 2000, 2), 2000);
    expect(latency(thirty, 2000, 3), 2000);
    expect(latency(unknown, 2000, 12), 2000);
    assert!(
        latency(thirty, 2000, 2) < 8 * gst::ClockTime::SECOND,
        "one pause says nothing"
    );
}

#[test]
fn latency_is_told_when_frames_come_slower_than_the_caps_say() {
    let info = i420();
    let mut harness = encoder(&info);
    let bus = bus(&harness);
    let told = |bus: &gst::Bus| std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Latency])).count();
    for t in 0..2 {
        harness.push(picture(&info, t)).unwrap();
    }
    told(&bus);
    let mut late = picture(&info, 2);
    late.get_mut().unwrap().set_pts(gst::ClockTime::from_seconds(60));
    harness.push(late).unwrap();
    assert_eq!(told(&bus), 0, "one pause");
    for t in 3..12 {
        let mut late = picture(&info, t);
        late.get_mut().unwrap().set_pts(t * 20 * gst::ClockTime::SECOND);
        harness.push(late).unwrap();
    }
    assert!(told(&bus) > 0);
}

#[test]
fn durations_come_from_time_stamps_where_frames_have_none() {
    init();
    let info = gst_video::VideoInfo::builder(VideoFormat::I420, WIDTH, HEIGHT);
    let info = info.fps(gst::Fraction::new(0, 1)).build().unwrap();
    let mut harness = encoder(&info);
    for t in 0..17 {
        let pts = t * 200 * gst::ClockTime::MSECOND;
        harness.push(picture_at(&info, t, pts)).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    let durations: Vec<_> = drain(&mut harness).iter().map(|unit| unit.duration()).collect();
    let unit = Some(1600 * gst::ClockTime::MSECOND);
    assert_eq!(durations[1..], [unit, unit]);
}

#[test]
fn the_quantizer_can_change_while_playing() {
    let info = i420();
    let size = |quantizer: u32| {
        let mut harness = encoder(&info);
        harness.element().unwrap().set_property("quantizer", quantizer);
        for t in 0..41 {
            harness.push(picture(&info, t * t % 40)).unwrap();
        }
        harness.push_event(gst::event::Eos::new());
        drain(&mut harness).iter().skip(1).map(|u| u.size()).sum::<usize>()
    };
    assert!(size(63) < size(0), "coarse {} bytes, fine {}", size(63), size(0));
}

#[test]
fn a_flush_forgets_the_group_and_starts_anew() {
    let info = i420();
    let mut harness = encoder(&info);
    for t in 0..4 {
        harness.push(picture(&info, t)).unwrap();
    }
    assert_eq!(drain(&mut harness).len(), 1);
    harness.push_event(gst::event::FlushStart::new());
    harness.push_event(gst::event::FlushStop::new(true));
    harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    for t in 10..12 {
        harness.push(picture(&info, t)).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    let units = drain(&mut harness);
    assert_eq!(sizes(&units), [1, 1]);
    assert_eq!(units[0].pts(), Some(10 * FRAME));
}

#[test]
fn frames_in_units_are_not_reported_as_dropped() {
    let info = i420();
    let mut harness = encoder(&info);
    let bus = bus(&harness);
    for t in 0..9 {
        harness.push(picture(&info, t)).unwrap();
    }
    assert!(bus.pop_filtered(&[gst::MessageType::Qos]).is_none());
}

#[test]
fn strides_of_video_meta_are_honoured() {
    let info = i420();
    let mut wide = gst::Buffer::with_size(4 * info.size()).unwrap();
    {
        let plain = picture(&info, 0);
        let plain = gst_video::VideoFrameRef::from_buffer_ref_readable(&plain, &info).unwrap();
        let buffer = wide.get_mut().unwrap();
        buffer.set_pts(gst::ClockTime::ZERO);
        let stride = [128, 96, 96];
        let offset = [0, 128 * 48, 128 * 48 + 96 * 24];
        let flags = gst_video::VideoFrameFlags::empty();
        gst_video::VideoMeta::add_full(buffer, flags, VideoFormat::I420, WIDTH, HEIGHT, &offset, &stride).unwrap();
        let mut data = buffer.map_writable().unwrap();
        data.fill(255);
        for plane in 0..3 {
            let (w, from) = (if plane == 0 { 64 } else { 32 }, plain.plane_stride()[plane] as usize);
            for (y, row) in plain.plane_data(plane as u32).unwrap().chunks(from).enumerate() {
                data[offset[plane] + y * stride[plane] as usize..][..w].copy_from_slice(&row[..w]);
            }
        }
    }
    let mut harness = encoder(&info);
    harness.push(wide).unwrap();
    assert_eq!(bytes(&drain(&mut harness)[0]), bytes(&encode(&info, 1)[0]));
}

#[test]
fn a_missing_model_file_is_named() {
    init();
    let element = gst::ElementFactory::make("tvcenc")
        .property("model-file", "/nowhere/model.safetensors")
        .build()
        .unwrap();
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    assert!(element.set_state(gst::State::Paused).is_err());
    let error = error(&bus).unwrap();
    assert!(error.matches(gst::ResourceError::NotFound), "{error:?}");
}

#[test]
fn a_file_that_is_no_model_is_refused() {
    init();
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("empty", &b""[..]),
        ("text", b"not a model at all"),
        ("huge", &[0xff; 64]),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let element = gst::ElementFactory::make("tvcdec")
            .property("model-file", path.to_str().unwrap())
            .build()
            .unwrap();
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        assert!(element.set_state(gst::State::Paused).is_err());
        assert!(error(&bus).unwrap().matches(gst::LibraryError::Init), "{name}");
    }
}

#[test]
fn a_device_that_is_not_there_is_named() {
    init();
    let element = gst::ElementFactory::make("tvcenc")
        .property("device", "cuda:99")
        .build()
        .unwrap();
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    assert!(element.set_state(gst::State::Paused).is_err());
    assert!(error(&bus).unwrap().matches(gst::ResourceError::NotFound));
}

/// Bytes of the delta units of pictures `from..to` through an encoder that plays already.
fn delta_bytes(harness: &mut gst_check::Harness, pictures: std::ops::Range<u64>) -> usize {
    let info = i420();
    for t in pictures {
        // Something new in every picture.
        let mut buffer = picture(&info, t * t % 40);
        buffer.get_mut().unwrap().set_pts(t * FRAME);
        harness.push(buffer).unwrap();
    }
    let units = drain(harness);
    units.iter().filter(|u| !is_key(u)).map(|u| u.size()).sum()
}

#[test]
fn the_bitrate_can_change_while_playing() {
    let mut harness = encoder(&i420());
    let element = harness.element().unwrap();
    element.set_property("bitrate", 2u32);
    let low = delta_bytes(&mut harness, 0..65);
    element.set_property("bitrate", 20u32);
    let high = delta_bytes(&mut harness, 65..129);
    assert!(high > low, "{high} bytes at 20 kbit/s, {low} at 2");
}

/// Pictures `from..to`, each unlike the one before, at a rate with a buffer.
fn push_at_rate(harness: &mut gst_check::Harness, pictures: std::ops::Range<u64>) -> Vec<gst::Buffer> {
    let info = i420();
    for t in pictures {
        let mut buffer = picture(&info, t * 3 % 40);
        buffer.get_mut().unwrap().set_pts(t * FRAME);
        harness.push(buffer).unwrap();
    }
    drain(harness)
}

/// Lowest fill of a decoder's buffer of `capacity` ms, in ms of the rate, behind a link of `kbps`.
fn lowest_fill(units: &[gst::Buffer], kbps: f64, capacity: f64) -> f64 {
    let (mut fill, mut lowest) = (capacity, f64::INFINITY);
    for (at, unit) in units.iter().enumerate() {
        fill -= unit.size() as f64 * 8.0 / kbps;
        lowest = lowest.min(fill);
        if let Some(next) = units.get(at + 1) {
            let passed = next.pts().unwrap() - unit.pts().unwrap();
            fill = (fill + passed.useconds() as f64 / 1000.0).min(capacity);
        }
    }
    lowest
}

#[test]
fn a_decoder_with_the_buffer_never_waits() {
    for (kbps, capacity) in [(4u32, 700u32), (4, 2500), (10, 700)] {
        let mut harness = encoder(&i420());
        let element = harness.element().unwrap();
        element.set_property("bitrate", kbps);
        element.set_property("vbv-buf-capacity", capacity);
        let units = push_at_rate(&mut harness, 0..161);
        let lowest = lowest_fill(&units, kbps.into(), capacity.into());
        assert!(lowest >= 0.0, "{lowest} ms at {kbps} kbit/s with {capacity} ms");
    }
}

#[test]
fn the_buffer_can_change_while_playing() {
    let mut harness = encoder(&i420());
    let element = harness.element().unwrap();
    assert_eq!(element.property::<u32>("vbv-buf-capacity"), 2500);
    element.set_property("bitrate", 4u32);
    push_at_rate(&mut harness, 0..81);
    element.set_property("vbv-buf-capacity", 700u32);
    // Until the backlog of the larger buffer is gone.
    push_at_rate(&mut harness, 81..161);
    let units = push_at_rate(&mut harness, 161..281);
    assert!(lowest_fill(&units, 4.0, 700.0) >= 0.0);
}

#[test]
fn masked_tokens_are_not_sent() {
    let bytes = |ratio: f64| {
        let mut harness = encoder(&i420());
        harness.element().unwrap().set_property("mask-ratio", ratio);
        delta_bytes(&mut harness, 0..65)
    };
    let (all, few) = (bytes(0.0), bytes(0.9));
    assert!(few < all, "{few} bytes with a tenth of the tokens, {all} with all");
}

/// The first delta unit of a textured picture that stands still, in bytes.
fn still_bytes(detail: bool) -> usize {
    let info = i420();
    let mut harness = gst_check::Harness::new("tvcenc");
    harness.element().unwrap().set_property("detail", detail);
    harness.element().unwrap().set_property("quantizer", 8u32);
    harness.set_src_caps(info.to_caps().unwrap());
    harness.play();
    for t in 0..9 {
        let mut buffer = picture(&info, 0);
        let writable = buffer.get_mut().unwrap();
        writable.set_pts(t * FRAME);
        let mut frame = gst_video::VideoFrameRef::from_buffer_ref_writable(writable, &info).unwrap();
        let luma = frame.plane_data_mut(0).unwrap();
        for (at, sample) in luma.iter_mut().enumerate() {
            *sample = 40 + (at * at / 7 % 97 * 2) as u8;
        }
        drop(frame);
        harness.push(buffer).unwrap();
    }
    drain(&mut harness)[1].size()
}

#[test]
fn what_stands_still_gets_detail_unless_that_is_turned_off() {
    init();
    let (with, without) = (still_bytes(true), still_bytes(false));
    assert!(with > without + 200, "{with} bytes with detail, {without} without");
}
