// SPDX-License-Identifier: MPL-2.0
//! Shows video that comes over RTP from `rtp_send`, or `rtp_send.py`. Asks for key units, acknowledges the others, and reports what is lost.
//! Ends with the sender, and fails if pictures were missing.
//!
//! `cargo run --release --example rtp_receive -- --help`

use std::sync::{Arc, Mutex};

use gst::prelude::*;

const USAGE: &str = "usage: rtp_receive [OPTION VALUE]...
  --port PORT           where RTP comes in; RTCP comes to the next one (default: 5004)
  --reports HOST:PORT   where RTCP goes (default: 127.0.0.1:5006)
  --latency MS          for how long packets may be under way; the picture pauses for later ones (default: 500)
  --sink ELEMENTS       what shows the pictures (default: autovideosink)";

const CAPS: &str = "application/x-rtp,media=video,encoding-name=TVC,clock-rate=90000,payload=96,rtcp-fb-nack-pli=true";
/// Between two reports. Feedback about single units goes when it is due.
const REPORT_INTERVAL: gst::ClockTime = gst::ClockTime::from_seconds(1);

type Fault = Box<dyn std::error::Error>;

fn main() {
    if let Err(error) = run() {
        eprintln!("rtp_receive: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Fault> {
    gst::init()?;
    gsttvc::plugin_register_static()?;
    let Some(options) = Options::parse(std::env::args().skip(1))? else {
        println!("{USAGE}");
        return Ok(());
    };
    let pipeline = pipeline(&options)?;
    let pictures = count_pictures(&pipeline)?;
    end_with_sender(&pipeline)?;
    let played = play(&pipeline);
    let stats: gst::Structure = child(&pipeline, "decoder")?.property("stats");
    pipeline.set_state(gst::State::Null)?;
    played?;
    let Pictures { shown, missing, .. } = *pictures.lock().unwrap();
    let (concealed, skipped): (u64, u64) = (stats.get("concealed")?, stats.get("skipped")?);
    println!("{shown} pictures, {concealed} of them concealed; {missing} missing, {skipped} of them for want of time");
    match (shown, missing) {
        (0, _) => Err("no picture came".into()),
        (_, 0) => Ok(()),
        _ => Err("pictures are missing".into()),
    }
}

struct Options {
    port: u16,
    reports: (String, u16),
    latency: u32,
    sink: String,
}

impl Options {
    /// None where help is asked for.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, Fault> {
        let mut options = Options {
            port: 5004,
            reports: ("127.0.0.1".into(), 5006),
            latency: 500,
            sink: "autovideosink".into(),
        };
        while let Some(option) = arguments.next() {
            if option == "--help" {
                return Ok(None);
            }
            let value = arguments
                .next()
                .ok_or_else(|| format!("{option} lacks a value\n{USAGE}"))?;
            match option.as_str() {
                "--port" => options.port = number(&option, &value)?,
                "--reports" => {
                    let (host, port) = value.rsplit_once(':').ok_or("--reports needs HOST:PORT")?;
                    options.reports = (host.into(), number(&option, port)?);
                }
                "--latency" => {
                    options.latency = value
                        .parse()
                        .map_err(|_| format!("{option}: {value} is no time in ms"))?
                }
                "--sink" => options.sink = value,
                _ => return Err(format!("no option {option}\n{USAGE}").into()),
            }
        }
        Ok(Some(options))
    }
}

fn number(option: &str, value: &str) -> Result<u16, String> {
    value.parse().map_err(|_| format!("{option}: {value} is no port"))
}

fn pipeline(options: &Options) -> Result<gst::Pipeline, Fault> {
    let (host, reports) = &options.reports;
    let rtcp = options.port.checked_add(1).ok_or("RTCP needs the next port")?;
    let text = format!(
        "rtpbin name=bin rtp-profile=avpf latency={} do-lost=true \
         udpsrc name=packets port={} caps=\"{CAPS}\" ! bin.recv_rtp_sink_0 \
         bin. ! rtptvcdepay name=depayloader request-keyframe=true ! tvcdec name=decoder acknowledge=true ! videoconvert ! {} \
         udpsrc port={} ! bin.recv_rtcp_sink_0 \
         bin.send_rtcp_src_0 ! udpsink host={host} port={reports} sync=false async=false",
        options.latency, options.port, options.sink, rtcp,
    );
    let pipeline = gst::parse::launch(&text)?.downcast::<gst::Pipeline>();
    let pipeline = pipeline.map_err(|_| "no pipeline")?;
    let session: gst::glib::Object = child(&pipeline, "bin")?.emit_by_name("get-internal-session", &[&0u32]);
    session.set_property("rtcp-min-interval", REPORT_INTERVAL.nseconds());
    Ok(pipeline)
}

fn child(pipeline: &gst::Pipeline, name: &str) -> Result<gst::Element, Fault> {
    pipeline.by_name(name).ok_or_else(|| format!("no {name}").into())
}

/// What the decoder shows, and what is missing between.
#[derive(Default)]
struct Pictures {
    shown: u64,
    missing: u64,
    end: Option<gst::ClockTime>,
}

impl Pictures {
    fn add(&mut self, pts: gst::ClockTime, duration: gst::ClockTime) {
        let gap = self.end.map_or(gst::ClockTime::ZERO, |end| pts.saturating_sub(end));
        // Times are those of the network, and not exact.
        let gap = gap + duration / 2;
        self.missing += gap.nseconds().checked_div(duration.nseconds()).unwrap_or(0);
        self.shown += 1;
        self.end = Some(pts + duration);
    }
}

/// Counts until the end of the stream, which it tells the bus of: the pipeline's own sinks include that of RTCP, which does not end.
fn count_pictures(pipeline: &gst::Pipeline) -> Result<Arc<Mutex<Pictures>>, Fault> {
    let output = child(pipeline, "decoder")?.static_pad("src").ok_or("no pad")?;
    let pictures = Arc::new(Mutex::new(Pictures::default()));
    let (counted, bus) = (pictures.clone(), pipeline.bus().ok_or("no bus")?);
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
    output.add_probe(kinds, move |_, info| {
        let times = info.buffer().and_then(|buffer| buffer.pts().zip(buffer.duration()));
        if let Some((pts, duration)) = times {
            counted.lock().unwrap().add(pts, duration);
        }
        if info.event().is_some_and(|event| event.type_() == gst::EventType::Eos) {
            let _ = bus.post(gst::message::Eos::new());
        }
        gst::PadProbeReturn::Ok
    });
    Ok(pictures)
}

/// When the sender leaves, or is silent for long, the stream ends with what waits in the jitter buffer.
fn end_with_sender(pipeline: &gst::Pipeline) -> Result<(), Fault> {
    for signal in ["on-bye-ssrc", "on-timeout"] {
        let (packets, depayloader) = (child(pipeline, "packets")?, child(pipeline, "depayloader")?);
        child(pipeline, "bin")?.connect(signal, false, move |values| {
            // Anybody may say that he leaves.
            if values[2].get().ok() == ssrc(&depayloader) {
                packets.send_event(gst::event::Eos::new());
            }
            None
        });
    }
    Ok(())
}

/// Of the stream that is shown: `rtpbin` names its pads recv_rtp_src_SESSION_SSRC_TYPE.
fn ssrc(depayloader: &gst::Element) -> Option<u32> {
    let pad = depayloader.static_pad("sink")?.peer()?;
    pad.name().split('_').nth(4)?.parse().ok()
}

fn play(pipeline: &gst::Pipeline) -> Result<(), Fault> {
    pipeline.set_state(gst::State::Playing)?;
    println!("waiting for a sender");
    let bus = pipeline.bus().ok_or("no bus")?;
    for message in bus.iter_timed(gst::ClockTime::NONE) {
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(error) => return Err(error.error().into()),
            // Painting takes longer than was thought.
            gst::MessageView::Latency(_) => pipeline.recalculate_latency()?,
            _ => {}
        }
    }
    Ok(())
}
