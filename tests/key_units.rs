// SPDX-License-Identifier: MPL-2.0
//! Key units that are asked for: by events, over RTCP, and by somebody who joins.
#![cfg(feature = "codec")]

mod common;

use std::net::UdpSocket;

use common::network::*;
use common::*;
use gst::prelude::*;

/// A hundred a second.
const REQUESTS_PER_FRAME: u64 = 4;
const FRAMES: u64 = 100;
/// As it is put into properties.
const INTERVAL: gst::ClockTime = gst::ClockTime::from_seconds(1);
/// One at the beginning, and one each time that the interval is over.
const MOST_KEY_UNITS: usize = 1 + (FRAMES as usize * 40) / 1000;

fn request() -> gst::Event {
    gst_video::UpstreamForceKeyUnitEvent::builder()
        .all_headers(true)
        .build()
}

/// Frame numbers of key units.
fn key_frames(units: &[gst::Buffer]) -> Vec<u64> {
    let keys = units.iter().filter(|unit| is_key(unit));
    keys.map(|unit| unit.pts().unwrap().nseconds() / FRAME.nseconds())
        .collect()
}

/// Frame numbers of key units where `requests` come before each of 100 frames.
fn storm(interval: gst::ClockTime, requests: impl Fn(u64) -> u64) -> Vec<u64> {
    let info = i420();
    let mut harness = encoder(&info);
    let element = harness.element().unwrap();
    element.set_property("min-force-key-unit-interval", interval.nseconds());
    for t in 0..FRAMES {
        for _ in 0..requests(t) {
            harness.push_upstream_event(request());
        }
        harness.push(picture(&info, t)).unwrap();
    }
    harness.push_event(gst::event::Eos::new());
    key_frames(&drain(&mut harness))
}

#[test]
fn a_storm_of_requests_gives_one_key_unit_in_each_interval() {
    let keys = storm(INTERVAL, |_| REQUESTS_PER_FRAME);
    assert_eq!(keys.len(), MOST_KEY_UNITS - 1, "{keys:?}");
    let least = INTERVAL.nseconds() / FRAME.nseconds();
    assert!(keys.windows(2).all(|pair| pair[1] - pair[0] >= least), "{keys:?}");
}

#[test]
fn without_an_interval_each_frame_answers_all_requests_before_it() {
    let keys = storm(
        gst::ClockTime::ZERO,
        |t| if t % 10 == 5 { REQUESTS_PER_FRAME } else { 0 },
    );
    assert_eq!(keys, [0, 5, 15, 25, 35, 45, 55, 65, 75, 85, 95]);
}

#[test]
fn a_request_in_the_interval_is_answered_when_it_is_over() {
    let keys = storm(INTERVAL, |t| u64::from(t == 30 || t == 35));
    assert_eq!(keys, [0, 30, 55]);
}

fn live(properties: &str) -> String {
    format!(
        "videotestsrc is-live=true pattern=ball name=camera \
         ! video/x-raw,width={WIDTH},height={HEIGHT},framerate=25/1 ! tvcenc name=src {properties}"
    )
}

/// Whether units that pass a pad are key units.
fn keys(pad: &gst::Pad) -> Watched<bool> {
    watch(pad, gst::PadProbeType::BUFFER, |data| match data {
        gst::PadProbeData::Buffer(buffer) => Some(is_key(buffer)),
        _ => None,
    })
}

fn src_pad(pipeline: &Running, name: &str) -> gst::Pad {
    pipeline.get::<gst::Element>(name).static_pad("src").unwrap()
}

/// An RTCP packet of payload-specific feedback about a stream, behind an empty report: a session heeds FIR of those alone whom it knows.
fn feedback(kind: u8, stream: u32, information: &[u8]) -> Vec<u8> {
    let words = 2 + information.len() as u8 / 4;
    let mut packet = vec![0x80, 201, 0, 1, 0, 0, 0, 1];
    packet.extend([0x80 | kind, 206, 0, words, 0, 0, 0, 1]);
    // FIR names the stream in its information alone.
    let named = if kind == PLI { stream } else { 0 };
    packet.extend(named.to_be_bytes());
    packet.extend(information);
    packet
}

const PLI: u8 = 1;
const FIR: u8 = 4;

fn stream(sender: &Running) -> u32 {
    let caps = src_pad(sender, "pay").current_caps().unwrap();
    caps.structure(0).unwrap().get("ssrc").unwrap()
}

#[test]
fn picture_loss_and_full_intra_requests_reach_the_encoder() {
    for kind in [PLI, FIR] {
        let (sender, _receiver) = sessions_between(&live("key-int-max=100000"), "tvcparse ! appsink name=sink");
        let keys = keys(&src_pad(&sender, "src"));
        sender.set_state(gst::State::Playing);
        assert!(keys.next(), "a stream begins with a key unit");
        assert!(!keys.next());
        let ssrc = stream(&sender);
        let information = [&ssrc.to_be_bytes()[..], &[1, 0, 0, 0]].concat();
        let information = if kind == FIR { &information[..] } else { &[] };
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let packet = feedback(kind, ssrc, information);
        socket
            .send_to(&packet, ("127.0.0.1", sender.port("rtcp") as u16))
            .unwrap();
        assert!(
            std::iter::repeat_with(|| keys.next()).take(200).any(|is_key| is_key),
            "feedback of type {kind}"
        );
    }
}

#[test]
fn a_hundred_picture_losses_a_second_do_not_make_a_storm_of_key_units() {
    let source = live(&format!("min-force-key-unit-interval={}", INTERVAL.nseconds()));
    let (sender, _receiver) = sessions_between(&source, "tvcparse ! appsink name=sink");
    sender
        .get::<gst::Element>("camera")
        .set_property("num-buffers", FRAMES as i32);
    let keys = keys(&src_pad(&sender, "src"));
    let frames = sender.get::<gst::Element>("src").static_pad("sink").unwrap();
    let pay = src_pad(&sender, "pay");
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let port = sender.port("rtcp") as u16;
    frames.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let caps = pay.current_caps();
        if let Some(ssrc) = caps.and_then(|caps| caps.structure(0)?.get::<u32>("ssrc").ok()) {
            for _ in 0..REQUESTS_PER_FRAME {
                socket.send_to(&feedback(PLI, ssrc, &[]), ("127.0.0.1", port)).unwrap();
            }
        }
        gst::PadProbeReturn::Ok
    });
    let ends = watch(&src_pad(&sender, "src"), gst::PadProbeType::EVENT_DOWNSTREAM, |data| {
        matches!(data, gst::PadProbeData::Event(event) if event.type_() == gst::EventType::Eos).then_some(())
    });
    sender.set_state(gst::State::Playing);
    ends.next();
    let count = keys.passed().into_iter().filter(|is_key| *is_key).count();
    assert!((2..=MOST_KEY_UNITS).contains(&count), "{count} key units");
}

/// What a receiver gets that starts when a stream has been under way: whether its first unit is a key unit, once a picture of it has come.
fn begins_with_key_unit(encoder: &str, request_keyframe: bool) -> bool {
    let sink = "tvcdec name=decoder ! fakesink name=sink sync=false";
    let (sender, receiver) = sessions_between(&live(encoder), sink);
    // Its sockets are closed until it starts; the ports stay the same.
    receiver.set_state(gst::State::Null);
    let sent = keys(&src_pad(&sender, "line"));
    sender.set_state(gst::State::Playing);
    assert_eq!([0; 3].map(|_| sent.next()), [true, false, false]);
    let depay = receiver.get::<gst::Element>("depay");
    depay.set_property("request-keyframe", request_keyframe);
    let units = keys(&src_pad(&receiver, "depay"));
    let pictures = watch(&src_pad(&receiver, "decoder"), gst::PadProbeType::BUFFER, |_| Some(()));
    receiver.set_state(gst::State::Playing);
    pictures.next();
    units.next()
}

#[test]
fn a_late_receiver_begins_at_the_next_key_unit() {
    assert!(begins_with_key_unit("key-int-max=50", false));
}

#[test]
fn a_late_receiver_asks_for_a_key_unit() {
    assert!(begins_with_key_unit("key-int-max=100000", true));
}
