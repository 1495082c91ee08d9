// SPDX-License-Identifier: MPL-2.0
#![cfg(feature = "codec")]

mod common;

use common::*;
use gst::prelude::*;
use gst_video::VideoFormat;
use gsttvc::bitstream::UnitHeader;

fn decode(units: &[gst::Buffer]) -> Vec<gst::Buffer> {
    let mut harness = decoder();
    push_all(&mut harness, units);
    harness.push_event(gst::event::Eos::new());
    drain(&mut harness)
}

fn times(pictures: &[gst::Buffer]) -> Vec<u64> {
    pictures.iter().map(|p| p.pts().unwrap().nseconds()).collect()
}

/// tvcenc ! tvcparse ! tvcdec over pictures with given times, and the caps at the end.
fn round_trip(info: &gst_video::VideoInfo, pts: &[u64]) -> (Vec<gst::Buffer>, gst::Caps) {
    init();
    let format = info.format().to_str();
    let bin = format!("tvcenc ! tvcparse ! tvcdec ! capsfilter caps=video/x-raw,format={format}");
    let mut harness = gst_check::Harness::new_parse(&bin);
    harness.set_src_caps(info.to_caps().unwrap());
    harness.play();
    for (t, &pts) in pts.iter().enumerate() {
        let mut buffer = picture(info, t as u64);
        buffer.get_mut().unwrap().set_pts(gst::ClockTime::from_nseconds(pts));
        harness.push(buffer).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    let pictures = drain(&mut harness);
    let caps = harness.sinkpad().unwrap().current_caps().unwrap();
    (pictures, caps)
}

#[test]
fn every_frame_comes_back_at_its_time() {
    let pictures = decode(&encode(&i420(), 20));
    assert_eq!(
        times(&pictures),
        (0..20).map(|t| t * FRAME.nseconds()).collect::<Vec<_>>()
    );
    assert!(pictures.iter().all(|p| p.duration() == Some(FRAME)));
}

/// Something like a picture: a bright ball before a soft grey slope.
fn ball(info: &gst_video::VideoInfo, t: i32) -> gst::Buffer {
    let mut buffer = picture(info, t as u64);
    let luma = |x: i32, y: i32| {
        let (dx, dy) = (x - 20 - t, y - 24);
        if dx * dx + dy * dy < 144 {
            190
        } else {
            60 + x
        }
    };
    let (width, height) = (WIDTH as i32, HEIGHT as i32);
    let mut map = buffer.get_mut().unwrap().map_writable().unwrap();
    map.fill(128);
    for (i, sample) in map.iter_mut().take((width * height) as usize).enumerate() {
        *sample = luma(i as i32 % width, i as i32 / width) as u8;
    }
    drop(map);
    buffer
}

#[test]
fn pictures_look_like_the_source() {
    let info = i420();
    let mut harness = encoder(&info);
    let sources: Vec<_> = (0..17).map(|t| ball(&info, t)).collect();
    for source in &sources {
        harness.push(source.clone()).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    let decoded = decode(&drain(&mut harness));
    assert_eq!(decoded.len(), sources.len());
    let luma = (WIDTH * HEIGHT) as usize;
    let error = |a: &gst::Buffer, b: &gst::Buffer| {
        let (a, b) = (bytes(a), bytes(b));
        let pairs = a[..luma].iter().zip(&b[..luma]);
        pairs.map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>() / luma as f64
    };
    for (t, (source, decoded)) in sources.iter().zip(&decoded).enumerate() {
        let off = error(source, decoded);
        assert!(off < 16.0, "frame {t} is {off} steps off on average");
    }
    // The ball has moved, and so has the decoded one.
    let (still, moved) = (error(&sources[16], &decoded[0]), error(&sources[16], &decoded[16]));
    assert!(
        moved < still,
        "the last frame is {moved} steps off, the first one {still}"
    );
}

#[test]
fn any_format_and_odd_sizes_survive() {
    for format in [VideoFormat::I420, VideoFormat::Nv12, VideoFormat::Rgb] {
        for (width, height) in [(16, 16), (17, 19), (65, 33)] {
            let info = info(format, width, height);
            let pts: Vec<_> = (0..10).map(|t| t * FRAME.nseconds()).collect();
            let (pictures, caps) = round_trip(&info, &pts);
            assert_eq!(pictures.len(), 10, "{format:?} {width}x{height}");
            let out = gst_video::VideoInfo::from_caps(&caps).unwrap();
            assert_eq!((out.format(), out.width(), out.height()), (format, width, height));
        }
    }
}

#[test]
fn irregular_times_survive_at_any_rate() {
    init();
    let rounded: Vec<u64> = (0..30).map(|n| (n * 1000 + 15) / 30 * 1_000_000).collect();
    let wild: Vec<u64> = (0..30).map(|n| n * 33_000_000 + n * n % 7 * 1_234_567).collect();
    for rate in [gst::Fraction::new(30, 1), gst::Fraction::new(0, 1)] {
        let builder = gst_video::VideoInfo::builder(VideoFormat::I420, WIDTH, HEIGHT);
        let info = builder.fps(rate).build().unwrap();
        for pts in [&rounded, &wild] {
            assert_eq!(times(&round_trip(&info, pts).0), *pts, "at {rate:?}");
        }
    }
}

#[test]
fn colorimetry_and_pixel_aspect_ratio_survive() {
    init();
    for colorimetry in ["bt709", "bt601", "1:4:16:3", "bt2020"] {
        let info = gst_video::VideoInfo::builder(VideoFormat::I420, WIDTH, HEIGHT)
            .fps(gst::Fraction::new(30000, 1001))
            .par(gst::Fraction::new(12, 11))
            .colorimetry(&colorimetry.parse().unwrap())
            .chroma_site(gst_video::VideoChromaSite::MPEG2)
            .build()
            .unwrap();
        let out = gst_video::VideoInfo::from_caps(&round_trip(&info, &[0]).1).unwrap();
        assert_eq!(out.colorimetry(), info.colorimetry());
        assert_eq!((out.par(), out.fps()), (info.par(), info.fps()));
        assert_eq!(out.chroma_site(), info.chroma_site());
    }
}

#[test]
fn rgb_keeps_its_colours() {
    let info = info(VideoFormat::Rgb, 64, 64);
    init();
    let mut harness = gst_check::Harness::new_parse(
        "tvcenc quantizer=0 ! tvcparse ! tvcdec ! capsfilter caps=video/x-raw,format=RGB",
    );
    harness.set_src_caps(info.to_caps().unwrap());
    harness.play();
    let grey = gst::Buffer::from_mut_slice(vec![128u8; info.size()]);
    harness.push(grey).unwrap();
    harness.push_event(gst::event::Eos::new());
    let out = bytes(&drain(&mut harness)[0]);
    let mean = out.iter().map(|&v| f64::from(v)).sum::<f64>() / out.len() as f64;
    assert!((mean - 128.0).abs() < 16.0, "grey 128 became {mean}");
}

#[test]
fn decoding_resumes_at_the_key_unit_after_damage() {
    let info = i420();
    let mut units = encode(&info, 17);
    units.extend(encode(&info, 9));
    let mut damaged = bytes(&units[1]);
    let last = damaged.len() - 1;
    damaged[last / 2 + 4] ^= 0x55;
    units[1] = gst::Buffer::from_mut_slice(damaged);
    let mut harness = decoder();
    let bus = bus(&harness);
    push_all(&mut harness, &units);
    harness.push_event(gst::event::Eos::new());
    assert_eq!(
        drain(&mut harness).len(),
        1 + 9,
        "the first key unit, and all after the second"
    );
    assert!(
        bus.pop_filtered(&[gst::MessageType::Warning]).is_some(),
        "the damage is reported"
    );
    let wish = harness.pull_upstream_event();
    let asked = std::iter::once(wish).chain(std::iter::from_fn(|| harness.try_pull_upstream_event().map(Ok)));
    assert!(
        asked.flatten().any(|e| e.has_name("GstForceKeyUnit")),
        "a key unit is asked for"
    );
}

#[test]
fn any_single_damaged_byte_is_noticed_or_harmless() {
    let units = encode(&i420(), 9);
    let good: Vec<_> = decode(&units).iter().map(bytes).collect();
    let original = bytes(&units[1]);
    for at in 0..original.len() {
        let mut damaged = original.clone();
        damaged[at] ^= 0x10;
        let pictures = decode(&[units[0].clone(), gst::Buffer::from_mut_slice(damaged)]);
        let pictures: Vec<_> = pictures.iter().map(bytes).collect();
        assert_eq!(pictures[0], good[0], "what came before byte {at} is intact");
        assert!(pictures.len() == 1 || pictures == good, "byte {at} gave wrong pictures");
    }
}

#[test]
fn truncated_units_and_foreign_bytes_give_no_picture() {
    let units = encode(&i420(), 9);
    let whole = bytes(&units[1]);
    for length in 1..whole.len() {
        let cut = gst::Buffer::from_mut_slice(whole[..length].to_vec());
        assert_eq!(
            decode(&[units[0].clone(), cut]).len(),
            1,
            "{length} of {} bytes",
            whole.len()
        );
    }
    assert!(decode(&[gst::Buffer::from_mut_slice(vec![0xa5u8; 300])]).is_empty());
}

#[test]
fn a_stream_of_another_model_names_both() {
    let unit = bytes(&encode(&i420(), 1)[0]);
    let (header, length) = UnitHeader::parse(&unit).unwrap();
    let sequence = header
        .sequence
        .map(|s| gsttvc::bitstream::SequenceHeader { model_id: 0x1234, ..s });
    let mut foreign = UnitHeader { sequence, ..header }.pack();
    foreign.extend(&unit[length..]);
    let mut harness = decoder();
    let bus = bus(&harness);
    assert!(harness.push(gst::Buffer::from_mut_slice(foreign)).is_err());
    let error = error(&bus).unwrap();
    assert!(error.matches(gst::StreamError::WrongType), "{error:?}");
}

#[test]
fn delta_units_before_a_key_unit_are_skipped() {
    let mut units = encode(&i420(), 9);
    units.remove(0);
    units.extend(encode(&i420(), 1));
    assert_eq!(decode(&units).len(), 1);
}

#[test]
fn after_a_flush_decoding_starts_at_the_next_key_unit() {
    let units = encode(&i420(), 17);
    let mut harness = decoder();
    harness.push(units[0].clone()).unwrap();
    harness.push_event(gst::event::FlushStart::new());
    harness.push_event(gst::event::FlushStop::new(true));
    harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    drain(&mut harness);
    harness.push(units[1].clone()).unwrap();
    assert_eq!(drain(&mut harness).len(), 0);
    harness.push(units[0].clone()).unwrap();
    harness.push(units[1].clone()).unwrap();
    harness.push_event(gst::event::Eos::new());
    assert_eq!(drain(&mut harness).len(), 9);
}

#[test]
fn times_of_the_buffers_win_over_those_of_the_stream() {
    let mut units = encode(&i420(), 9);
    let shift = gst::ClockTime::from_seconds(100);
    for unit in &mut units {
        let unit = unit.make_mut();
        unit.set_pts(unit.pts().map(|t| t + shift));
    }
    let expected: Vec<_> = (0..9).map(|t| (t * FRAME + shift).nseconds()).collect();
    assert_eq!(times(&decode(&units)), expected);
}

#[test]
fn pictures_coded_larger_from_a_key_unit_on_keep_their_size_and_caps() {
    let info = i420();
    let mut harness = encoder(&info);
    let element = harness.element().unwrap();
    for (start, scale) in [(0, "1x"), (9, "2x"), (18, "1.5x"), (27, "0.67x"), (36, "0.5x")] {
        element.set_property_from_str("coding-scale", scale);
        let wish = gst_video::UpstreamForceKeyUnitEvent::builder().build();
        assert!(harness.push_upstream_event(wish));
        (start..start + 9).for_each(|t| assert!(harness.push(picture(&info, t)).is_ok()));
    }
    harness.push_event(gst::event::Eos::new());
    let units = drain(&mut harness);
    let header = |unit: &gst::Buffer| UnitHeader::parse(&bytes(unit)).unwrap().0;
    let sequences: Vec<_> = units.iter().filter_map(|unit| header(unit).sequence).collect();
    let coded = sequences
        .iter()
        .map(|sequence| sequence.coded_size())
        .collect::<Vec<_>>();
    let times = |sixths: u32| ((WIDTH * sixths).div_ceil(6), (HEIGHT * sixths).div_ceil(6));
    assert_eq!(coded, [times(6), times(12), times(9), times(4), times(3)]);

    let mut harness = decoder();
    units.into_iter().for_each(|unit| assert!(harness.push(unit).is_ok()));
    harness.push_event(gst::event::Eos::new());
    let mut announced = 0;
    while let Some(event) = harness.try_pull_event() {
        announced += usize::from(event.type_() == gst::EventType::Caps);
    }
    assert_eq!(announced, 1, "caps of one kind");
    let pictures = drain(&mut harness);
    assert_eq!(pictures.len(), 45);
    assert!(pictures.iter().all(|picture| picture.size() == info.size()));
}
