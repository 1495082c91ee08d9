// SPDX-License-Identifier: MPL-2.0
//! Payloader and depayloader, side by side. Their streams are made by hand.

mod common;

use common::units::*;
use common::*;
use gst::prelude::*;
use gsttvc::bitstream::slices;
use proptest::prelude::*;

const UNIT: gst::ClockTime = gst::ClockTime::from_mseconds(320);

fn payloader(properties: &str) -> gst_check::Harness {
    init();
    let mut harness = gst_check::Harness::new_parse(&format!("rtptvcpay {properties}"));
    harness.set_src_caps(tvc_caps());
    harness.play();
    harness
}

fn depayloader(properties: &str) -> gst_check::Harness {
    init();
    let mut harness = gst_check::Harness::new_parse(&format!("rtptvcdepay {properties}"));
    harness.set_src_caps(
        "application/x-rtp,media=video,clock-rate=90000,encoding-name=TVC"
            .parse()
            .unwrap(),
    );
    harness.play();
    harness
}

/// Units that follow each other by eight frames.
fn buffers(units: &[Vec<u8>]) -> Vec<gst::Buffer> {
    let buffer = |(n, unit): (usize, &Vec<u8>)| {
        let mut buffer = gst::Buffer::from_mut_slice(unit.clone());
        let writable = buffer.get_mut().unwrap();
        writable.set_pts(n as u64 * UNIT);
        writable.set_duration(UNIT);
        buffer
    };
    units.iter().enumerate().map(buffer).collect()
}

fn pay(properties: &str, units: &[Vec<u8>]) -> Vec<gst::Buffer> {
    let mut harness = payloader(properties);
    push_all(&mut harness, &buffers(units));
    harness.push_event(gst::event::Eos::new());
    drain(&mut harness)
}

fn depay(properties: &str, packets: &[gst::Buffer]) -> Vec<gst::Buffer> {
    let mut harness = depayloader(properties);
    push_all(&mut harness, packets);
    harness.push_event(gst::event::Eos::new());
    drain(&mut harness)
}

fn contents(buffers: &[gst::Buffer]) -> Vec<Vec<u8>> {
    buffers.iter().map(bytes).collect()
}

fn times(buffers: &[gst::Buffer]) -> Vec<gst::ClockTime> {
    buffers.iter().map(|buffer| buffer.pts().unwrap()).collect()
}

/// Sequence number, RTP timestamp, marker and payload of a packet.
fn parts(packet: &gst::Buffer) -> (u16, u32, bool, Vec<u8>) {
    let rtp = gst_rtp::RTPBuffer::from_buffer_readable(packet).unwrap();
    (
        rtp.seq(),
        rtp.timestamp(),
        rtp.is_marker(),
        rtp.payload().unwrap().to_vec(),
    )
}

fn is_discont(buffer: &gst::Buffer) -> bool {
    buffer.flags().contains(gst::BufferFlags::DISCONT)
}

/// The depayloader's statistics.
fn stat(harness: &gst_check::Harness, field: &str) -> u64 {
    let bin = harness.element().unwrap().downcast::<gst::Bin>().unwrap();
    let depayloader = bin
        .children()
        .into_iter()
        .find(|child| child.has_property("unit-stats"))
        .unwrap();
    depayloader.property::<gst::Structure>("unit-stats").get(field).unwrap()
}

/// How many key units were asked for.
fn requests(harness: &mut gst_check::Harness) -> usize {
    let events = std::iter::from_fn(|| harness.try_pull_upstream_event());
    events.filter(|event| gst_video::ForceKeyUnitEvent::is(event)).count()
}

#[test]
fn an_access_unit_is_one_packet_if_it_fits() {
    let units = plain_stream(2, 100);
    let packets = pay("mtu=1200 timestamp-offset=0 seqnum-offset=7", &units);
    let parts: Vec<_> = packets.iter().map(parts).collect();
    for (n, (sequence, timestamp, marker, payload)) in parts.iter().enumerate() {
        assert_eq!(
            (usize::from(*sequence), *timestamp, *marker),
            (7 + n, n as u32 * 28_800, true)
        );
        assert_eq!(payload[1..], units[n]);
    }
    let deltas: Vec<_> = packets.iter().map(is_key).collect();
    assert_eq!(deltas, [true, false, false, true, false, false]);
}

#[test]
fn no_packet_is_over_the_mtu_and_the_last_one_of_an_access_unit_is_marked() {
    for mtu in [64, 300, 1200] {
        let units = resilient_stream(2, 2, 500);
        let packets = pay(&format!("mtu={mtu}"), &units);
        assert!(packets.iter().all(|packet| packet.size() <= mtu), "{mtu}");
        let parts: Vec<_> = packets.iter().map(parts).collect();
        let ends = parts
            .iter()
            .enumerate()
            .filter(|(n, part)| parts.get(n + 1).is_none_or(|next| next.1 != part.1));
        let marked = parts.iter().filter(|part| part.2);
        assert_eq!((ends.clone().count(), marked.count()), (6, 6));
        assert!(ends.clone().all(|(_, part)| part.2));
    }
}

#[test]
fn caps_say_what_sdp_needs_and_hint_at_size_and_rate() {
    let mut harness = payloader("pt=97");
    push_all(&mut harness, &buffers(&plain_stream(1, 10)));
    let caps = harness.sinkpad().unwrap().current_caps().unwrap();
    let structure = caps.structure(0).unwrap();
    let field = |name| structure.get::<String>(name).unwrap();
    assert_eq!(structure.name(), "application/x-rtp");
    assert_eq!(["media", "encoding-name"].map(field), ["video", "TVC"]);
    assert_eq!(
        ["clock-rate", "payload"].map(|name| structure.get::<i32>(name).unwrap()),
        [90_000, 97]
    );
    assert_eq!(["a-framesize", "a-framerate"].map(field), ["64-48", "25"]);
}

#[test]
fn the_stream_comes_out_with_the_caps_times_and_flags_of_tvcparse() {
    let units = resilient_stream(2, 2, 500);
    let mut harness = depayloader("");
    push_all(&mut harness, &pay("mtu=200", &units));
    let out = drain(&mut harness);
    assert_eq!(contents(&out), units);
    assert_eq!(times(&out), (0..6).map(|n| n * UNIT).collect::<Vec<_>>());
    assert_eq!(
        out.iter().map(is_key).collect::<Vec<_>>(),
        [true, false, false].repeat(2)
    );
    let caps = harness.sinkpad().unwrap().current_caps().unwrap();
    assert!(caps.is_subset(&tvc_caps()), "{caps:?}");
    assert_eq!(stat(&harness, "units"), 6);
}

#[test]
fn elements_have_the_klass_and_rank_of_payloaders() {
    init();
    let elements = [
        ("rtptvcpay", "Codec/Payloader/Network/RTP"),
        ("rtptvcdepay", "Codec/Depayloader/Network/RTP"),
    ];
    for (name, klass) in elements {
        let factory = gst::ElementFactory::find(name).unwrap();
        assert_eq!(
            (factory.metadata("klass"), factory.rank()),
            (Some(klass), gst::Rank::SECONDARY)
        );
    }
}

#[test]
fn a_byte_stream_needs_a_parser() {
    init();
    let element = gst::ElementFactory::make("rtptvcpay").build().unwrap();
    let wanted = element.static_pad("sink").unwrap().query_caps(None);
    assert_eq!(
        wanted.structure(0).unwrap().get::<String>("alignment").unwrap(),
        "frame"
    );
    let pipeline =
        gst::parse::launch("appsrc name=src caps=video/x-tvc ! tvcparse ! rtptvcpay ! appsink name=sink sync=false");
    let pipeline = pipeline.unwrap().downcast::<gst::Bin>().unwrap();
    let source = pipeline.by_name("src").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let sink = pipeline
        .by_name("sink")
        .unwrap()
        .downcast::<gst_app::AppSink>()
        .unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    source
        .push_buffer(gst::Buffer::from_mut_slice(resilient_stream(2, 2, 50).concat()))
        .unwrap();
    source.end_of_stream().unwrap();
    let packets = std::iter::from_fn(|| sink.pull_sample().ok()).count();
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(packets, 12, "six access units of two slices");
}

#[test]
fn what_is_no_access_unit_is_not_sent_and_no_error() {
    let mut harness = payloader("");
    let bus = bus(&harness);
    harness.push(gst::Buffer::from_mut_slice(b"hello".to_vec())).unwrap();
    harness.push(gst::Buffer::new()).unwrap();
    push_all(&mut harness, &buffers(&plain_stream(1, 10)));
    assert_eq!(drain(&mut harness).len(), 3);
    assert!(error(&bus).is_none());
}

#[test]
fn aggregated_units_share_packets_and_come_out_alone() {
    let units = plain_stream(3, 60);
    let packets = pay("max-aggregation-time=700 timestamp-offset=0", &units);
    assert_eq!(
        packets.len(),
        6,
        "key units are alone, the two delta units of a group together"
    );
    let stamps: Vec<_> = packets.iter().map(|packet| parts(packet).1 / 28_800).collect();
    assert_eq!(stamps, [0, 1, 3, 4, 6, 7]);
    let out = depay("", &packets);
    assert_eq!(contents(&out), units);
    assert_eq!(times(&out), (0..9).map(|n| n * UNIT).collect::<Vec<_>>());
}

#[test]
fn aggregation_waits_no_longer_than_it_may() {
    let delta = |n: usize| unit((n == 0).then_some(0), 60);
    let units: Vec<_> = (0..7).map(delta).collect();
    // The fewer may wait, the more packets there are.
    for (longest, packets) in [(100, 7), (320, 4), (640, 3), (10_000, 2)] {
        let mut harness = payloader(&format!("max-aggregation-time={longest}"));
        push_all(&mut harness, &buffers(&units));
        harness.push_event(gst::event::Eos::new());
        let sent = drain(&mut harness);
        assert_eq!(sent.len(), packets, "{longest} ms");
        assert_eq!(contents(&depay("", &sent)), units);
    }
}

#[test]
fn units_without_a_duration_do_not_wait() {
    let mut harness = payloader("max-aggregation-time=10000");
    for (n, mut buffer) in buffers(&plain_stream(2, 60)).into_iter().enumerate() {
        buffer.get_mut().unwrap().set_duration(gst::ClockTime::NONE);
        harness.push(buffer).unwrap();
        assert_eq!(drain(&mut harness).len(), 1, "unit {n}");
    }
}

#[test]
fn a_gap_sends_what_waits() {
    let mut harness = payloader("max-aggregation-time=10000");
    push_all(&mut harness, &buffers(&plain_stream(1, 60)));
    assert_eq!(drain(&mut harness).len(), 1, "the key unit");
    harness.push_event(gst::event::Gap::builder(3 * UNIT).duration(UNIT).build());
    assert_eq!(drain(&mut harness).len(), 1);
}

#[test]
fn aggregation_adds_its_time_to_the_latency() {
    for longest in [0, 700] {
        let mut harness = payloader(&format!("max-aggregation-time={longest}"));
        harness.set_upstream_latency(gst::ClockTime::from_mseconds(50));
        push_all(&mut harness, &buffers(&plain_stream(1, 10)));
        assert_eq!(
            harness.query_latency(),
            Some(gst::ClockTime::from_mseconds(50 + longest))
        );
    }
}

#[test]
fn a_loss_without_resilience_is_waited_out_and_asked_to_be_mended() {
    let units = plain_stream(3, 100);
    let mut packets = pay("", &units);
    packets.remove(1);
    let mut harness = depayloader("request-keyframe=true");
    push_all(&mut harness, &packets);
    let out = drain(&mut harness);
    assert_eq!(contents(&out), [&units[..1], &units[3..]].concat());
    assert!(is_discont(&out[1]) && !out[2..].iter().any(is_discont));
    assert_eq!(requests(&mut harness), 1);
    let stats =
        ["packets", "units", "lost-units", "dropped-units", "key-unit-requests"].map(|name| stat(&harness, name));
    assert_eq!(stats, [8, 7, 1, 1, 1]);
}

#[test]
fn nobody_asks_and_nobody_waits_unless_told_to() {
    let units = plain_stream(1, 100);
    let mut packets = pay("", &units);
    packets.remove(1);
    let mut harness = depayloader("wait-for-keyframe=false");
    push_all(&mut harness, &packets);
    assert_eq!(contents(&drain(&mut harness)), [units[0].clone(), units[2].clone()]);
    assert_eq!(requests(&mut harness), 0);
}

#[test]
fn a_late_joiner_gets_a_key_unit_first() {
    let units = resilient_stream(2, 2, 100);
    let packets = pay("", &units);
    assert_eq!(contents(&depay("", &packets[3..])), units[3..]);
    let all = depay("wait-for-keyframe=false", &packets[2..]);
    assert_eq!(contents(&all), units[1..]);
}

#[test]
fn losses_of_a_resilient_stream_cost_only_what_is_lost() {
    let units = resilient_stream(1, 2, 100);
    let mut packets = pay("", &units);
    // One slice of unit 1.
    packets.remove(3);
    let mut harness = depayloader("request-keyframe=true");
    push_all(&mut harness, &packets);
    let out = drain(&mut harness);
    assert_eq!(out.len(), 3);
    assert_eq!(bytes(&out[1]), slice(0, 1, (0, 2), 100));
    assert_eq!(times(&out), [0, 1, 2].map(|n| n * UNIT));
    assert!(is_discont(&out[1]));
    assert_eq!(requests(&mut harness), 0);
    assert_eq!(stat(&harness, "damaged-units"), 1);
}

#[test]
fn requests_are_bounded_however_much_is_lost() {
    let units: Vec<_> = (0..2000).map(|n| unit((n == 0).then_some(0), 10)).collect();
    let mut packets = pay("", &units);
    let mut n = 0..;
    packets.retain(|_| n.next().unwrap() % 3 != 1);
    let mut harness = depayloader("request-keyframe=true");
    let start = std::time::Instant::now();
    push_all(&mut harness, &packets);
    let most = 1 + start.elapsed().as_millis() as usize / 500;
    let asked = requests(&mut harness);
    assert!((1..=most).contains(&asked), "{asked} requests, {most} may be");
}

/// What a jitter buffer says of a packet that it has given up.
fn lost(fec: bool) -> gst::Event {
    let structure = gst::Structure::builder("GstRTPPacketLost")
        .field("timestamp", UNIT.nseconds())
        .field("duration", 0u64)
        .field("might-have-been-fec", fec);
    gst::event::CustomDownstream::new(structure.build())
}

#[test]
fn a_key_unit_is_asked_for_as_soon_as_a_packet_is_given_up() {
    for (fec, asked) in [(false, 1), (true, 0)] {
        let mut harness = depayloader("request-keyframe=true");
        push_all(&mut harness, &pay("", &plain_stream(1, 100)));
        harness.push_event(lost(fec));
        assert_eq!(
            requests(&mut harness),
            asked,
            "packets of error correction are none of the stream"
        );
    }
}

#[test]
fn the_last_slice_is_not_waited_for_once_it_is_known_to_be_lost() {
    let packets = pay("", &resilient_stream(1, 2, 100));
    let mut harness = depayloader("");
    push_all(&mut harness, &packets[..3]);
    assert_eq!(drain(&mut harness).len(), 1);
    harness.push_event(lost(true));
    assert_eq!(drain(&mut harness).len(), 0);
    harness.push_event(lost(false));
    assert_eq!(drain(&mut harness).len(), 1);
    let gap = std::iter::from_fn(|| harness.try_pull_event()).any(|event| event.type_() == gst::EventType::Gap);
    assert!(gap, "those downstream hear of it");
}

#[test]
fn another_sender_begins_with_a_key_unit() {
    let (first, second) = (plain_stream(1, 50), plain_stream(2, 60));
    let one = pay("ssrc=1", &first);
    let other = pay("ssrc=2", &second);
    let out = depay("", &[&one[..], &other[1..]].concat());
    assert_eq!(contents(&out), [&first[..], &second[3..]].concat());
}

#[test]
fn a_flush_ends_what_was_being_received() {
    let units = plain_stream(2, 500);
    let packets = pay("mtu=200", &units);
    let mut harness = depayloader("");
    push_all(&mut harness, &packets[..2]);
    harness.push_event(gst::event::FlushStart::new());
    harness.push_event(gst::event::FlushStop::builder(true).build());
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    harness.push_event(gst::event::Segment::new(&segment));
    push_all(&mut harness, &packets[2..]);
    assert_eq!(contents(&drain(&mut harness)), units[3..]);
}

/// What may happen to packets on their way.
#[derive(Clone, Debug)]
enum Harm {
    Drop(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Twice(prop::sample::Index, prop::sample::Index),
    Change(prop::sample::Index, Vec<u8>),
}

fn any_harm() -> impl Strategy<Value = Harm> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        at().prop_map(Harm::Drop),
        (at(), at()).prop_map(|(a, b)| Harm::Swap(a, b)),
        (at(), at()).prop_map(|(a, b)| Harm::Twice(a, b)),
        (at(), any::<Vec<u8>>()).prop_map(|(at, bytes)| Harm::Change(at, bytes)),
    ]
}

fn harm(packets: &mut Vec<gst::Buffer>, harm: &Harm) {
    let count = packets.len();
    match harm {
        _ if count == 0 => (),
        Harm::Drop(at) => drop(packets.remove(at.index(count))),
        Harm::Swap(a, b) => packets.swap(a.index(count), b.index(count)),
        Harm::Twice(from, to) => packets.insert(to.index(count), packets[from.index(count)].clone()),
        Harm::Change(at, bytes) => {
            let old = self::bytes(&packets[at.index(count)]);
            // From the flags of the RTP header on, or from somewhere behind it.
            let start = old.len().min(1 + bytes.len() % 40);
            let mut changed = gst::Buffer::from_mut_slice([&old[..start], bytes].concat());
            changed.get_mut().unwrap().set_pts(packets[at.index(count)].pts());
            packets[at.index(count)] = changed;
        }
    }
}

fn any_stream() -> impl Strategy<Value = Vec<Vec<u8>>> {
    (1u64..5, prop::sample::select(vec![0u8, 1, 2, 4, 16]), 0usize..1500).prop_map(|(groups, count, payload)| {
        match count {
            0 => plain_stream(groups, payload),
            _ => resilient_stream(groups, count, payload / usize::from(count)),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_stream_comes_back_at_any_mtu(units in any_stream(), mtu in 64u32..2000, longest in prop::sample::select(vec![0, 700])) {
        let packets = pay(&format!("mtu={mtu} max-aggregation-time={longest}"), &units);
        prop_assert!(packets.iter().all(|packet| packet.size() <= mtu as usize));
        let out = depay("", &packets);
        prop_assert_eq!(contents(&out), units);
        let expected = (0..out.len() as u64).map(|n| n * UNIT);
        prop_assert_eq!(times(&out), expected.collect::<Vec<_>>());
    }

    #[test]
    fn whatever_happens_to_packets_buffers_are_whole_units(
        units in any_stream(),
        mtu in 64u32..600,
        harms in prop::collection::vec(any_harm(), 0..12),
    ) {
        let mut packets = pay(&format!("mtu={mtu}"), &units);
        harms.iter().for_each(|one| harm(&mut packets, one));
        let mut harness = depayloader("");
        let bus = bus(&harness);
        push_all(&mut harness, &packets);
        harness.push_event(gst::event::Eos::new());
        let out = drain(&mut harness);
        prop_assert!(out.iter().all(|buffer| slices(&bytes(buffer)).is_ok()));
        prop_assert!(error(&bus).is_none());
    }
}
