// SPDX-License-Identifier: MPL-2.0
//! Video over RTP to one receiver (`rtp_receive`, or `rtp_receive.py`), at a bit rate that follows what it reports.
//!
//! `cargo run --release --example rtp_send -- --help`

use std::sync::Mutex;

use gst::prelude::*;

const USAGE: &str = "usage: rtp_send [OPTION VALUE]...
  --source ELEMENTS   for instance 'v4l2src', or 'filesrc location=in.mp4 ! decodebin'
                      (default: a live test picture)
  --to HOST:PORT      where RTP goes; RTCP goes to the next port (default: 127.0.0.1:5004)
  --reports PORT      where RTCP comes in (default: 5006)
  --bitrate KBPS      most kbit/s (default: 40)
  --least KBPS        least kbit/s (default: 10)";

/// Bounds of the loss-based controller of draft-ietf-rmcat-gcc-02, section 6.
const LOW_LOSS: f64 = 0.02;
const HIGH_LOSS: f64 = 0.1;
/// A report covers a few packets alone: so much of it goes into the mean.
const NEW_SHARE: f64 = 0.25;
/// A round trip that takes so many seconds more than the shortest one has filled somebody's queue.
const QUEUE_SECONDS: f64 = 0.3;
/// Between two reports. Feedback about single units comes when it is due.
const REPORT_INTERVAL: gst::ClockTime = gst::ClockTime::from_seconds(1);

type Fault = Box<dyn std::error::Error>;

fn main() {
    if let Err(error) = run() {
        eprintln!("rtp_send: {error}");
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
    follow_reports(&pipeline, Rate::new(options.bitrate, options.least))?;
    end_after_bye(&pipeline)?;
    let played = play(&pipeline);
    pipeline.set_state(gst::State::Null)?;
    played
}

struct Options {
    source: String,
    host: String,
    port: u16,
    reports: u16,
    bitrate: u32,
    least: u32,
}

impl Options {
    /// None where help is asked for.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, Fault> {
        let mut options = Options {
            source: "videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=180".into(),
            host: "127.0.0.1".into(),
            port: 5004,
            reports: 5006,
            bitrate: 40,
            least: 10,
        };
        while let Some(option) = arguments.next() {
            if option == "--help" {
                return Ok(None);
            }
            let value = arguments
                .next()
                .ok_or_else(|| format!("{option} lacks a value\n{USAGE}"))?;
            match option.as_str() {
                "--source" => options.source = value,
                "--to" => {
                    let (host, port) = value.rsplit_once(':').ok_or("--to needs HOST:PORT")?;
                    (options.host, options.port) = (host.into(), number(&option, port)?);
                }
                "--reports" => options.reports = number(&option, &value)?,
                "--bitrate" => options.bitrate = number(&option, &value)?,
                "--least" => options.least = number(&option, &value)?,
                _ => return Err(format!("no option {option}\n{USAGE}").into()),
            }
        }
        Ok(Some(options))
    }
}

fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{option}: {value} is no such number"))
}

fn pipeline(options: &Options) -> Result<gst::Pipeline, Fault> {
    let (source, host, bitrate) = (&options.source, &options.host, options.bitrate);
    let rtcp = options.port.checked_add(1).ok_or("RTCP needs the next port")?;
    let text = format!(
        "rtpbin name=bin rtp-profile=avpf \
         {source} ! videoconvert ! tvcenc name=encoder bitrate={bitrate} error-resilience=units \
         min-force-key-unit-interval=1000000000 ! rtptvcpay ! bin.send_rtp_sink_0 \
         bin.send_rtp_src_0 ! udpsink host={host} port={} \
         bin.send_rtcp_src_0 ! udpsink name=rtcp host={host} port={} sync=false async=false \
         udpsrc port={} ! bin.recv_rtcp_sink_0",
        options.port, rtcp, options.reports,
    );
    let pipeline = gst::parse::launch(&text)?.downcast::<gst::Pipeline>();
    pipeline.map_err(|_| "the source is no list of elements".into())
}

/// The bit rate that a path takes, as far as its reports tell.
struct Rate {
    kbps: f64,
    most: f64,
    least: f64,
    /// Share of the packets, in the mean.
    lost: f64,
    /// Round trip in seconds.
    shortest: Option<f64>,
    /// Highest sequence number of the last report.
    sequence: Option<u32>,
}

impl Rate {
    fn new(most: u32, least: u32) -> Rate {
        Rate {
            kbps: most.into(),
            most: most.into(),
            // A rate of 0 would ask for constant quality.
            least: least.clamp(1, most.max(1)).into(),
            lost: 0.0,
            shortest: None,
            sequence: None,
        }
    }

    /// Takes a report: highest sequence number, share of the packets lost since the report before, round trip in seconds or 0. Gives the
    /// new rate, or None if the report says nothing new.
    fn report(&mut self, sequence: u32, lost: f64, round_trip: f64) -> Option<u32> {
        if self.sequence.replace(sequence) == Some(sequence) {
            return None;
        }
        self.lost += NEW_SHARE * (lost - self.lost);
        if round_trip > 0.0 {
            self.shortest = Some(self.shortest.map_or(round_trip, |shortest| shortest.min(round_trip)));
        }
        if self
            .shortest
            .is_some_and(|shortest| round_trip > shortest + QUEUE_SECONDS)
        {
            self.kbps *= 0.8;
        } else if self.lost > HIGH_LOSS {
            self.kbps *= 1.0 - self.lost / 2.0;
        } else if self.lost < LOW_LOSS {
            self.kbps *= 1.05;
        }
        self.kbps = self.kbps.clamp(self.least, self.most);
        Some(self.kbps.round() as u32)
    }
}

/// Changes the encoder's bit rate with each report of the receiver.
fn follow_reports(pipeline: &gst::Pipeline, rate: Rate) -> Result<(), Fault> {
    let bin = pipeline.by_name("bin").ok_or("no rtpbin")?;
    let encoder = pipeline.by_name("encoder").ok_or("no encoder")?;
    let session: gst::glib::Object = bin.emit_by_name("get-internal-session", &[&0u32]);
    session.set_property("rtcp-min-interval", REPORT_INTERVAL.nseconds());
    let rate = Mutex::new(rate);
    session.connect("on-ssrc-active", false, move |values| {
        let stats: gst::Structure = values[1].get::<gst::glib::Object>().ok()?.property("stats");
        // The receiver may have heard nothing yet.
        if stats.get::<bool>("have-rb") != Ok(true) {
            return None;
        }
        let number = |name| stats.get::<u32>(name).ok();
        let (lost, round_trip) = (number("rb-fractionlost")?, number("rb-round-trip")?);
        // Fixed-point numbers of RTCP.
        let (lost, round_trip) = (f64::from(lost) / 256.0, f64::from(round_trip) / 65536.0);
        let sequence = number("rb-exthighestseq")?;
        let kbps = rate.lock().unwrap().report(sequence, lost, round_trip)?;
        println!(
            "{:.0}% lost, round trip {:.0} ms: {kbps} kbit/s",
            100.0 * lost,
            1000.0 * round_trip
        );
        encoder.set_property("bitrate", kbps);
        None
    });
    Ok(())
}

/// RTCP packet type of a BYE.
const BYE: u8 = 203;

fn has_bye(mut packets: &[u8]) -> bool {
    while let [_, kind, high, low, ..] = *packets {
        if kind == BYE {
            return true;
        }
        let words = 1 + usize::from(u16::from_be_bytes([high, low]));
        packets = packets.get(4 * words..).unwrap_or_default();
    }
    false
}

/// Ends the side of RTCP behind the BYE: GStreamer 1.22 does not always do so.
fn end_after_bye(pipeline: &gst::Pipeline) -> Result<(), Fault> {
    let sink = pipeline.by_name("rtcp").ok_or("no RTCP")?;
    let pad = sink.static_pad("sink").ok_or("no pad")?;
    pad.add_probe(gst::PadProbeType::BUFFER, |pad, info| {
        let packets = info.buffer().and_then(|buffer| buffer.map_readable().ok());
        let sink = pad.parent_element();
        if let Some(sink) = sink.filter(|_| packets.is_some_and(|packets| has_bye(&packets))) {
            let pad = pad.clone();
            // The pad takes the event when the packet has been sent.
            sink.call_async(move |_| {
                pad.send_event(gst::event::Eos::new());
            });
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// Until the source ends.
fn play(pipeline: &gst::Pipeline) -> Result<(), Fault> {
    pipeline.set_state(gst::State::Playing)?;
    let bus = pipeline.bus().ok_or("no bus")?;
    for message in bus.iter_timed(gst::ClockTime::NONE) {
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(error) => return Err(error.error().into()),
            // Coding takes longer than was thought.
            gst::MessageView::Latency(_) => pipeline.recalculate_latency()?,
            _ => {}
        }
    }
    Ok(())
}
