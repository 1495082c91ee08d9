// SPDX-License-Identifier: MPL-2.0
//! Pipelines that talk to each other through sockets.

use std::sync::mpsc;

use gst::prelude::*;
use gst_app::{AppSink, AppSrc};

use super::{bytes, error, init, tvc_caps};

/// So long nothing in these tests takes, on any machine.
pub const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(30);
/// Between two access units.
pub const STEP: gst::ClockTime = gst::ClockTime::from_mseconds(20);
pub const CAPS: &str = "application/x-rtp,media=video,clock-rate=90000,encoding-name=TVC,payload=96";

/// A pipeline that stops with the test.
pub struct Running(pub gst::Pipeline);

impl Running {
    pub fn new(text: &str) -> Running {
        init();
        Running(gst::parse::launch(text).unwrap().downcast().unwrap())
    }

    pub fn get<T: IsA<gst::Element>>(&self, name: &str) -> T {
        self.0.by_name(name).unwrap().downcast().unwrap()
    }

    pub fn set_state(&self, state: gst::State) -> &Self {
        self.0.set_state(state).unwrap();
        self
    }

    /// The port that a `udpsrc port=0` has got.
    pub fn port(&self, name: &str) -> i32 {
        self.get::<gst::Element>(name).property("port")
    }

    /// Sends a receiver's RTCP to a sender.
    pub fn report_to(&self, sender: &Running) {
        self.get::<gst::Element>("reports")
            .set_property("port", sender.port("rtcp"));
    }

    pub fn pull(&self) -> gst::Buffer {
        let sample = self.get::<AppSink>("sink").try_pull_sample(PATIENCE);
        let fault = || error(&self.0.bus().unwrap());
        let sample = sample.unwrap_or_else(|| panic!("nothing comes: {:?}", fault()));
        sample.buffer_owned().unwrap()
    }

    pub fn pull_all(&self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| bytes(&self.pull())).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

/// Gives the units to a source named `src`, the first one as number `first`.
pub fn feed(pipeline: &Running, units: &[Vec<u8>], first: u64) {
    let source = pipeline.get::<AppSrc>("src");
    for (n, unit) in (first..).zip(units) {
        let mut buffer = gst::Buffer::from_mut_slice(unit.clone());
        let writable = buffer.get_mut().unwrap();
        writable.set_pts(n * STEP);
        writable.set_duration(STEP);
        source.push_buffer(buffer).unwrap();
    }
}

/// A source of units in the time of `tvc_caps`.
pub fn source() -> String {
    init();
    format!("appsrc name=src format=time is-live=true caps=\"{}\"", tvc_caps())
}

/// Drops packets at a pad; `is_lost` gets the number of each that comes.
pub fn lose(element: &gst::Element, pad: &str, is_lost: impl Fn(usize) -> bool + Send + Sync + 'static) {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let pad = element.static_pad(pad).unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        match is_lost(n) {
            true => gst::PadProbeReturn::Drop,
            false => gst::PadProbeReturn::Ok,
        }
    });
}

/// Two sessions that hear each other, through sockets: of units that are fed, and pulled.
pub fn sessions() -> (Running, Running) {
    sessions_between(&source(), "tvcparse ! appsink name=sink sync=false")
}

/// The same of a source of units, and what takes them.
pub fn sessions_between(source: &str, sink: &str) -> (Running, Running) {
    let receiver = Running::new(&format!(
        "rtpbin name=bin latency=100 rtp-profile=avpf \
         udpsrc name=rtp port=0 address=127.0.0.1 caps=\"{CAPS},rtcp-fb-nack-pli=(boolean)true\" ! bin.recv_rtp_sink_0 \
         udpsrc name=rtcp port=0 address=127.0.0.1 ! bin.recv_rtcp_sink_0 \
         bin.send_rtcp_src_0 ! udpsink name=reports host=127.0.0.1 sync=false async=false \
         bin. ! rtptvcdepay name=depay request-keyframe=true ! {sink}"
    ));
    receiver.set_state(gst::State::Ready);
    let sender = Running::new(&format!(
        "rtpbin name=bin rtp-profile=avpf {source} ! rtptvcpay name=pay ! bin.send_rtp_sink_0 \
         bin.send_rtp_src_0 ! identity name=line ! udpsink host=127.0.0.1 port={} async=false \
         bin.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={} sync=false async=false \
         udpsrc name=rtcp port=0 address=127.0.0.1 ! bin.recv_rtcp_sink_0",
        receiver.port("rtp"),
        receiver.port("rtcp"),
    ));
    sender.set_state(gst::State::Ready);
    receiver.report_to(&sender);
    (sender, receiver)
}

/// What `look` makes of the things that pass a pad, as they pass.
pub fn watch<T: Send + 'static>(
    pad: &gst::Pad,
    kinds: gst::PadProbeType,
    look: impl Fn(&gst::PadProbeData) -> Option<T> + Send + Sync + 'static,
) -> Watched<T> {
    let (sender, watched) = mpsc::channel();
    pad.add_probe(kinds, move |_, info| {
        if let Some(seen) = info.data.as_ref().and_then(&look) {
            let _ = sender.send(seen);
        }
        gst::PadProbeReturn::Ok
    });
    Watched(watched)
}

pub struct Watched<T>(mpsc::Receiver<T>);

impl<T> Watched<T> {
    /// The next one that has not been asked for.
    pub fn next(&self) -> T {
        let patience = std::time::Duration::from_nanos(PATIENCE.nseconds());
        self.0.recv_timeout(patience).expect("something passes")
    }

    /// All that have passed and have not been asked for.
    pub fn passed(&self) -> Vec<T> {
        self.0.try_iter().collect()
    }
}
