// SPDX-License-Identifier: MPL-2.0
//! RTP through sockets, sessions, forward error correction and retransmission, as GStreamer's own elements do them.

mod common;

use std::sync::mpsc;

use common::network::*;
use common::units::*;
use gst::prelude::*;

#[test]
fn units_go_through_sockets() {
    let text = format!("udpsrc name=rtp port=0 address=127.0.0.1 caps={CAPS} ! rtpjitterbuffer ! rtptvcdepay ! tvcparse ! appsink name=sink sync=false");
    let receiver = Running::new(&text);
    receiver.set_state(gst::State::Playing);
    let text = format!(
        "{} ! rtptvcpay mtu=300 ! udpsink host=127.0.0.1 port={}",
        source(),
        receiver.port("rtp")
    );
    let sender = Running::new(&text);
    sender.set_state(gst::State::Playing);
    let units = resilient_stream(3, 2, 500);
    feed(&sender, &units, 0);
    assert_eq!(receiver.pull_all(9), units);
}

#[test]
fn a_lost_unit_makes_the_sender_send_a_key_unit() {
    let (sender, receiver) = sessions();
    let (asked, requests) = mpsc::channel();
    let pad = sender.get::<gst::Element>("src").static_pad("src").unwrap();
    pad.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
        if info
            .event()
            .is_some_and(|event| gst_video::ForceKeyUnitEvent::is(event))
        {
            let _ = asked.send(());
        }
        gst::PadProbeReturn::Ok
    });
    lose(&sender.get("line"), "sink", |n| n == 3);
    receiver.set_state(gst::State::Playing);
    sender.set_state(gst::State::Playing);
    let units: Vec<_> = (0..6).map(|n| unit((n == 0).then_some(0), 100 + n)).collect();
    feed(&sender, &units, 0);
    assert_eq!(receiver.pull_all(3), units[..3]);
    let patience = std::time::Duration::from_nanos(PATIENCE.nseconds());
    requests.recv_timeout(patience).expect("an event reaches the source");
    let key = unit(Some(48), 300);
    feed(&sender, std::slice::from_ref(&key), 50);
    assert_eq!(receiver.pull_all(1), [key]);
}

#[test]
fn forward_error_correction_mends_what_is_lost_and_its_packets_are_no_losses() {
    let receiver = Running::new(&format!(
        "udpsrc name=rtp port=0 address=127.0.0.1 caps=\"{CAPS},ssrc=(uint)7\" ! rtpstorage size-time=1000000000 name=storage \
         ! rtpssrcdemux name=ssrc ssrc. ! application/x-rtp,payload=96 ! rtpjitterbuffer latency=500 do-lost=true \
         ! rtpulpfecdec name=fec pt=122 ! rtptvcdepay name=depay ! tvcparse ! appsink name=sink sync=false"
    ));
    let storage: gst::glib::Object = receiver.get::<gst::Element>("storage").property("internal-storage");
    receiver.get::<gst::Element>("fec").set_property("storage", &storage);
    receiver.set_state(gst::State::Playing);
    let sender = Running::new(&format!(
        "{} ! rtptvcpay ssrc=7 seqnum-offset=0 ! rtpulpfecenc percentage=100 pt=122 ! identity name=line ! udpsink host=127.0.0.1 port={}",
        source(),
        receiver.port("rtp"),
    ));
    // A packet of media and one of redundancy follow each other.
    lose(&sender.get("line"), "sink", |n| n % 10 == 4);
    sender.set_state(gst::State::Playing);
    let units = plain_stream(10, 100);
    feed(&sender, &units, 0);
    assert_eq!(receiver.pull_all(28), units[..28]);
    let recovered: u32 = receiver.get::<gst::Element>("fec").property("recovered");
    assert!(recovered > 0);
}

#[test]
fn retransmission_mends_what_is_lost() {
    let map = "payload-type-map=\"application/x-rtp-pt-map,96=(uint)97\"";
    let receiver = Running::new(&format!(
        "rtpsession name=session rtp-profile=avpf udpsrc name=rtp port=0 address=127.0.0.1 caps={CAPS} ! session.recv_rtp_sink \
         session.recv_rtp_src ! rtprtxreceive {map} ! rtpssrcdemux ! rtpjitterbuffer latency=2000 do-retransmission=true \
         ! rtptvcdepay ! tvcparse ! appsink name=sink sync=false \
         session.send_rtcp_src ! udpsink name=reports host=127.0.0.1 sync=false async=false \
         udpsrc name=rtcp port=0 address=127.0.0.1 ! session.recv_rtcp_sink"
    ));
    receiver.set_state(gst::State::Ready);
    let sender = Running::new(&format!(
        "rtpsession name=session rtp-profile=avpf {} ! rtptvcpay ! rtprtxsend name=again {map} ! session.send_rtp_sink \
         session.send_rtp_src ! identity name=line ! udpsink host=127.0.0.1 port={} async=false \
         session.send_rtcp_src ! udpsink host=127.0.0.1 port={} sync=false async=false \
         udpsrc name=rtcp port=0 address=127.0.0.1 ! session.recv_rtcp_sink",
        source(),
        receiver.port("rtp"),
        receiver.port("rtcp"),
    ));
    sender.set_state(gst::State::Ready);
    receiver.report_to(&sender);
    lose(&sender.get("line"), "sink", |n| n == 4);
    receiver.set_state(gst::State::Playing);
    sender.set_state(gst::State::Playing);
    let units = plain_stream(10, 100);
    feed(&sender, &units, 0);
    assert_eq!(receiver.pull_all(30), units);
    let requests: u32 = sender.get::<gst::Element>("again").property("num-rtx-packets");
    assert!(requests > 0);
}

/// Tells of the elements that are plugged into a bin until the depayloader and the parser are there.
fn wait_until_plugged(bin: &gst::Bin) -> impl FnOnce() {
    let (sender, plugged) = mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    bin.connect_deep_element_added(move |_, _, element| {
        let name = element.factory().map(|factory| factory.name().to_string());
        let _ = sender.lock().unwrap().send(name.unwrap_or_default());
    });
    move || {
        let patience = std::time::Duration::from_nanos(PATIENCE.nseconds());
        let mut names = Vec::new();
        while !["rtptvcdepay", "tvcparse"]
            .iter()
            .all(|wanted| names.iter().any(|name| name == wanted))
        {
            let name = plugged.recv_timeout(patience);
            names.push(name.unwrap_or_else(|_| panic!("only {names:?} were plugged")));
        }
    }
}

#[test]
fn decodebin_plugs_depayloader_and_parser() {
    let text = format!("udpsrc name=rtp port=0 address=127.0.0.1 caps={CAPS} ! decodebin name=decoder");
    let receiver = Running::new(&text);
    let wait = wait_until_plugged(&receiver.get("decoder"));
    receiver.set_state(gst::State::Playing);
    let text = format!(
        "{} ! rtptvcpay ! udpsink host=127.0.0.1 port={}",
        source(),
        receiver.port("rtp")
    );
    let sender = Running::new(&text);
    sender.set_state(gst::State::Playing);
    feed(&sender, &plain_stream(2, 100), 0);
    wait();
}

/// A port that is free, and so is the next one.
fn free_ports() -> u16 {
    let bind = |port| std::net::UdpSocket::bind(("0.0.0.0", port));
    let pair = |_| {
        let first = bind(0).unwrap();
        let port = first.local_addr().unwrap().port() & !1;
        drop(first);
        (bind(port).is_ok() && bind(port + 1).is_ok()).then_some(port)
    };
    (0..100).find_map(pair).expect("two free ports")
}

#[test]
fn an_sdp_description_is_all_that_a_receiver_needs() {
    let port = free_ports();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("tvc.sdp");
    let description = format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=TVC\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
         m=video {port} RTP/AVP 96\r\na=rtpmap:96 TVC/90000\r\na=framesize:96 64-48\r\na=framerate:25\r\n"
    );
    std::fs::write(&file, description).unwrap();
    let receiver = Running::new(&format!(
        "filesrc location={} ! sdpdemux latency=100 name=demux demux. ! decodebin name=decoder",
        file.display()
    ));
    let wait = wait_until_plugged(&receiver.get("decoder"));
    receiver.set_state(gst::State::Playing);
    let sender = Running::new(&format!(
        "{} ! rtptvcpay ! udpsink host=127.0.0.1 port={port}",
        source()
    ));
    sender.set_state(gst::State::Playing);
    // Sockets open when the description has been read: what comes before is lost.
    let (done, is_done) = mpsc::channel::<()>();
    let feeding = std::thread::spawn(move || {
        for group in 0.. {
            feed(&sender, &[unit(Some(9 * group), 100), unit(None, 100)], 2 * group);
            let step = std::time::Duration::from_nanos(STEP.nseconds());
            if is_done.recv_timeout(step) != Err(mpsc::RecvTimeoutError::Timeout) {
                break;
            }
        }
    });
    wait();
    drop(done);
    feeding.join().unwrap();
}
