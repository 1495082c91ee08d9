// SPDX-License-Identifier: MPL-2.0
//! Acknowledgements from receiver to sender, in RTCP through sockets.

mod common;

use common::network::*;
use common::units::*;
use common::*;
use gst::prelude::*;
use gsttvc::rtp::Acknowledgement;

fn acknowledgement(group: u32, unit: u32) -> gst::Event {
    let structure = gst::Structure::builder("GstTvcAcknowledge");
    gst::event::CustomUpstream::new(structure.field("group", group).field("unit", unit).build())
}

/// Group and unit of an acknowledgement.
fn acknowledged(data: &gst::PadProbeData) -> Option<(u32, u32)> {
    let gst::PadProbeData::Event(event) = data else {
        return None;
    };
    let structure = event.structure().filter(|s| s.has_name("GstTvcAcknowledge"))?;
    structure.get("group").ok().zip(structure.get("unit").ok())
}

/// What the encoder would hear.
fn heard(sender: &Running) -> Watched<(u32, u32)> {
    let pad = sender.get::<gst::Element>("src").static_pad("src").unwrap();
    watch(&pad, gst::PadProbeType::EVENT_UPSTREAM, acknowledged)
}

fn ssrc(sender: &Running) -> u32 {
    let pad = sender.get::<gst::Element>("pay").static_pad("src").unwrap();
    pad.current_caps().unwrap().structure(0).unwrap().get("ssrc").unwrap()
}

/// Two sessions in which three units have come.
fn running() -> (Running, Running) {
    let (sender, receiver) = sessions();
    receiver.set_state(gst::State::Playing);
    sender.set_state(gst::State::Playing);
    let units = resilient_stream(1, 1, 100);
    feed(&sender, &units, 0);
    assert_eq!(receiver.pull_all(3), units);
    (sender, receiver)
}

#[test]
fn an_acknowledgement_comes_to_the_encoder() {
    let (sender, receiver) = running();
    let heard = heard(&sender);
    let pad = receiver.get::<gst::Element>("reports").static_pad("sink").unwrap();
    let reports = watch(&pad, gst::PadProbeType::BUFFER, |data| match data {
        gst::PadProbeData::Buffer(buffer) => Some(bytes(buffer)),
        _ => None,
    });
    for unit in [1, 2] {
        assert!(receiver
            .get::<gst::Element>("sink")
            .send_event(acknowledgement(0, unit)));
        assert_eq!(heard.next(), (0, unit));
    }
    let expected = [1, 2].map(|unit| {
        let acknowledgement = Acknowledgement {
            payload_type: 96,
            group: 0,
            unit,
        };
        acknowledgement.packet(0, ssrc(&sender))
    });
    // Behind a report, and without the receiver's SSRC.
    let sent = reports.passed();
    let ends = sent.iter().filter_map(|report| report.last_chunk::<16>());
    let feedback: Vec<_> = ends.filter(|end| end[..2] == expected[0][..2]).collect();
    assert_eq!(feedback.len(), 2, "{sent:x?}");
    for (feedback, expected) in feedback.iter().zip(expected) {
        assert_eq!((&feedback[..4], &feedback[8..]), (&expected[..4], &expected[8..]));
    }
}

#[test]
fn without_a_session_the_event_goes_on_upstream() {
    let line = Running::new(&format!(
        "{} ! rtptvcpay ! rtptvcdepay ! appsink name=sink sync=false",
        source()
    ));
    line.set_state(gst::State::Playing);
    let heard = heard(&line);
    let unit = unit(Some(0), 100);
    feed(&line, std::slice::from_ref(&unit), 0);
    assert_eq!(line.pull_all(1), [unit]);
    line.get::<gst::Element>("sink").send_event(acknowledgement(3, 4));
    assert_eq!(heard.next(), (3, 4));
}

#[test]
fn feedback_about_another_stream_or_of_several_receivers_is_not_heeded() {
    let (sender, _receiver) = running();
    let heard = heard(&sender);
    let stream = ssrc(&sender);
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let port = sender.port("rtcp") as u16;
    let send = |receiver, stream, payload_type, (group, unit)| {
        let acknowledgement = Acknowledgement {
            payload_type,
            group,
            unit,
        };
        let packet = acknowledgement.packet(receiver, stream);
        socket.send_to(&packet, ("127.0.0.1", port)).unwrap();
    };
    send(1, stream.wrapping_add(1), 96, (0, 1));
    send(1, stream, 97, (0, 1));
    send(1, stream, 96, (0, 2));
    assert_eq!(heard.next(), (0, 2), "the first one about this stream");
    send(9, stream, 96, (1, 3));
    assert_eq!(heard.next(), (1, 3), "another receiver, after a key unit");
    send(1, stream, 96, (1, 2));
    send(9, stream, 96, (2, 1));
    // Not of RTCP, and known by its size: it comes when what was sent before has been heard.
    let pad = sender.get::<gst::Element>("rtcp").static_pad("src").unwrap();
    let last = watch(&pad, gst::PadProbeType::BUFFER, |data| match data {
        gst::PadProbeData::Buffer(buffer) => (buffer.size() == 1).then_some(()),
        _ => None,
    });
    socket.send_to(&[0], ("127.0.0.1", port)).unwrap();
    last.next();
    assert_eq!(heard.passed(), [], "two receivers at once");
}

#[cfg(feature = "codec")]
#[test]
fn units_refer_to_acknowledged_ones() {
    let source = format!(
        "videotestsrc is-live=true pattern=ball ! video/x-raw,width={WIDTH},height={HEIGHT},framerate=25/1 \
         ! tvcenc name=src error-resilience=units"
    );
    let (sender, receiver) = sessions_between(&source, "tvcdec acknowledge=true ! fakesink name=sink");
    let pad = sender.get::<gst::Element>("src").static_pad("src").unwrap();
    let references = watch(&pad, gst::PadProbeType::BUFFER, |data| match data {
        gst::PadProbeData::Buffer(buffer) => {
            let (header, _) = gsttvc::bitstream::UnitHeader::parse(&bytes(buffer)).ok()?;
            header.resilience.map(|fields| (fields.unit, fields.reference))
        }
        _ => None,
    });
    receiver.set_state(gst::State::Playing);
    sender.set_state(gst::State::Playing);
    let mut units = std::iter::repeat_with(|| references.next()).take(100);
    assert!(units.any(|(unit, reference)| 0 < reference && reference < unit));
}
