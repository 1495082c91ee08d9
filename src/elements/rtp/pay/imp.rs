// SPDX-License-Identifier: MPL-2.0

use std::sync::{LazyLock, Mutex};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_rtp::prelude::*;
use gst_rtp::subclass::prelude::*;

use super::aggregator::{offsets, Aggregator, Waiting};
use super::feedback::{Feedback, Listener, Receivers};
use crate::bitstream::UnitHeader;
use crate::elements::rtp::{packets, ENCODING_NAME};
use crate::elements::{acknowledge, caps};
use crate::rtp::{Packetizer, Payload, CLOCK_RATE};

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("rtptvcpay", gst::DebugColorFlags::empty(), Some("TVC RTP payloader")));

const DEFAULT_MTU: u32 = 1200;
const DEFAULT_MAX_AGGREGATION_TIME: u32 = 0;
const LONGEST_AGGREGATION_TIME: u32 = 10_000;
/// Payload types that are free for any format.
const PAYLOAD_TYPES: std::ops::RangeInclusive<i32> = 96..=127;

#[derive(Clone, Copy)]
struct Settings {
    /// In ms; 0: off.
    max_aggregation_time: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            max_aggregation_time: DEFAULT_MAX_AGGREGATION_TIME,
        }
    }
}

impl Settings {
    fn max_aggregation_time(self) -> gst::ClockTime {
        gst::ClockTime::from_mseconds(self.max_aggregation_time.into())
    }
}

#[derive(Default)]
struct State {
    packetizer: Packetizer,
    aggregator: Aggregator,
    /// The next packet follows a discontinuity.
    is_discont: bool,
    receivers: Receivers,
}

#[derive(Default)]
pub struct RtpTvcPay {
    settings: Mutex<Settings>,
    state: Mutex<State>,
    listener: Listener,
}

#[glib::object_subclass]
impl ObjectSubclass for RtpTvcPay {
    const NAME: &'static str = "GstRtpTvcPay";
    type Type = super::RtpTvcPay;
    type ParentType = gst_rtp::RTPBasePayload;
}

impl ObjectImpl for RtpTvcPay {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![glib::ParamSpecUInt::builder("max-aggregation-time")
                .nick("Longest aggregation time")
                .blurb("How long a unit may wait for others to share a packet with, in ms, which adds as much latency; 0: each unit has packets of its own")
                .maximum(LONGEST_AGGREGATION_TIME)
                .default_value(DEFAULT_MAX_AGGREGATION_TIME)
                .mutable_ready()
                .build()]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, _pspec: &glib::ParamSpec) {
        self.settings.lock().unwrap().max_aggregation_time = value.get().expect("type checked upstream");
    }

    fn property(&self, _id: usize, _pspec: &glib::ParamSpec) -> glib::Value {
        self.settings.lock().unwrap().max_aggregation_time.to_value()
    }

    fn constructed(&self) {
        self.parent_constructed();
        self.obj().set_mtu(DEFAULT_MTU);
        // The base class asks for nothing that comes from downstream.
        let query = |pad: &gst::Pad, parent: Option<&gst::Object>, query: &mut gst::QueryRef| {
            RtpTvcPay::catch_panic_pad_function(parent, || false, |this| this.src_query(pad, query))
        };
        // SAFETY: the pad is new, and nobody queries it yet.
        unsafe { self.obj().src_pad().set_query_function(query) };
    }
}

impl GstObjectImpl for RtpTvcPay {}

impl ElementImpl for RtpTvcPay {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "TVC RTP payloader",
                "Codec/Payloader/Network/RTP",
                "Cuts access units of Tokenized Video Compression streams into RTP packets",
                "gst-plugin-tvc contributors",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let types = gst::IntRange::new(*PAYLOAD_TYPES.start(), *PAYLOAD_TYPES.end());
            caps::templates(&caps::framed().build(), &packets().field("payload", types).build())
        });
        &TEMPLATES
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::ReadyToPaused {
            *self.state.lock().unwrap() = State::default();
        }
        let success = self.parent_change_state(transition)?;
        if transition == gst::StateChange::PausedToReady {
            // No packet follows that would look for the session again.
            self.listener.stop();
        }
        Ok(success)
    }
}

impl RTPBasePayloadImpl for RtpTvcPay {
    fn set_caps(&self, caps: &gst::Caps) -> Result<(), gst::LoggableError> {
        // What waits belongs to the stream before, with its caps.
        let _ = self.push_waiting();
        self.obj().set_options("video", true, ENCODING_NAME, CLOCK_RATE);
        let size = caps
            .structure(0)
            .and_then(|s| Some((s.get::<i32>("width").ok()?, s.get::<i32>("height").ok()?)));
        let hints = size.map(|(width, height)| {
            let size = format!("{width}-{height}");
            gst::Structure::builder("hints").field("a-framesize", size).build()
        });
        let negotiated = self.obj().set_outcaps(hints.as_deref());
        negotiated.map_err(|_| gst::loggable_error!(CAT, "no RTP caps were agreed on"))
    }

    fn handle_buffer(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        if buffer.flags().contains(gst::BufferFlags::DISCONT) {
            self.state.lock().unwrap().is_discont = true;
        }
        let map = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
        let longest = self.settings.lock().unwrap().max_aggregation_time();
        match self.waiting(&buffer, &map).filter(|_| !longest.is_zero()) {
            Some(unit) => self.aggregate(unit, longest.nseconds()),
            None => {
                self.push_waiting()?;
                self.push_unit(&map, buffer.pts())
            }
        }
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.type_() {
            gst::EventType::FlushStop => self.state.lock().unwrap().aggregator = Aggregator::default(),
            gst::EventType::Eos | gst::EventType::Gap | gst::EventType::Segment => {
                if let Err(flow) = self.push_waiting() {
                    gst::debug!(CAT, imp = self, "what waited was not taken: {flow:?}");
                }
            }
            _ => (),
        }
        self.parent_sink_event(event)
    }
}

impl RtpTvcPay {
    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if !gst::Pad::query_default(pad, Some(&*self.obj()), query) {
            return false;
        }
        if let gst::QueryViewMut::Latency(latency) = query.view_mut() {
            let added = self.settings.lock().unwrap().max_aggregation_time();
            let (live, min, max) = latency.result();
            latency.set(
                live,
                min.saturating_add(added),
                max.map(|max| max.saturating_add(added)),
            );
        }
        true
    }

    /// Bytes of a packet behind the RTP header.
    fn room(&self) -> usize {
        gst_rtp::calc_payload_len(self.obj().mtu(), 0, 0) as usize
    }

    /// The unit of a buffer, if it may wait: key units are urgent, and nobody knows when the next unit comes behind one without a
    /// duration.
    fn waiting(&self, buffer: &gst::BufferRef, bytes: &[u8]) -> Option<Waiting> {
        let (header, _) = UnitHeader::parse(bytes).ok()?;
        let (pts, duration) = (buffer.pts()?.nseconds(), buffer.duration()?.nseconds());
        let is_short = bytes.len() <= usize::from(u16::MAX);
        (!header.is_key() && is_short).then_some(Waiting {
            bytes: bytes.to_vec(),
            pts,
            end: pts.checked_add(duration)?,
        })
    }

    fn aggregate(&self, unit: Waiting, longest: u64) -> Result<gst::FlowSuccess, gst::FlowError> {
        let room = self.room();
        if !self.state.lock().unwrap().aggregator.has_room(&unit, longest, room) {
            self.push_waiting()?;
        }
        let mut state = self.state.lock().unwrap();
        if !state.aggregator.has_room(&unit, longest, room) {
            drop(state);
            return self.push_unit(&unit.bytes, gst::ClockTime::from_nseconds(unit.pts).into());
        }
        if state.aggregator.add(unit, longest) {
            return Ok(gst::FlowSuccess::Ok);
        }
        drop(state);
        self.push_waiting()
    }

    /// Sends what waits, if anything does.
    fn push_waiting(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut state = self.state.lock().unwrap();
        let units = state.aggregator.take();
        let (Some(first), is_alone) = (units.first(), units.len() == 1) else {
            return Ok(gst::FlowSuccess::Ok);
        };
        let pts = gst::ClockTime::from_nseconds(first.pts);
        if is_alone {
            drop(state);
            return self.push_unit(&first.bytes, Some(pts));
        }
        let payload = state.packetizer.aggregate(&offsets(&units), false);
        drop(state);
        self.push_payloads(&[payload], Some(pts))
    }

    /// Sends an access unit by itself.
    fn push_unit(&self, unit: &[u8], pts: Option<gst::ClockTime>) -> Result<gst::FlowSuccess, gst::FlowError> {
        let room = self.room();
        let payloads = self.state.lock().unwrap().packetizer.packetize(unit, room);
        match payloads {
            Ok(payloads) => self.push_payloads(&payloads, pts),
            Err(error) => {
                gst::element_imp_warning!(
                    self,
                    gst::StreamError::Format,
                    ["a buffer that is no access unit is not sent: {error}"]
                );
                Ok(gst::FlowSuccess::Ok)
            }
        }
    }

    fn push_payloads(
        &self,
        payloads: &[Payload],
        pts: Option<gst::ClockTime>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        if !self.listener.hears() || payloads.first().is_some_and(|payload| payload.is_key) {
            self.listen();
        }
        let is_discont = std::mem::take(&mut self.state.lock().unwrap().is_discont);
        let mut list = gst::BufferList::new_sized(payloads.len());
        let packets = list.make_mut();
        for (n, payload) in payloads.iter().enumerate() {
            packets.add(self.packet(payload, pts, is_discont && n == 0));
        }
        self.obj().push_list(list)
    }

    /// Passes on what the RTP session hears of receivers. Looks for one again and again: packets may be sent before they go to a session.
    fn listen(&self) {
        let this = self.obj().downgrade();
        self.listener.listen(self.obj().src_pad(), move |feedback| {
            if let Some(this) = this.upgrade() {
                this.imp().hear(&feedback);
            }
        });
    }

    /// Tells the encoder of a unit that its receiver has.
    fn hear(&self, feedback: &Feedback) {
        let obj = self.obj();
        let caps = obj.src_pad().current_caps();
        let ssrc = caps.and_then(|caps| caps.structure(0)?.get::<u32>("ssrc").ok());
        let acknowledgement = feedback.acknowledgement;
        if ssrc != Some(feedback.stream) || obj.pt() != u32::from(acknowledgement.payload_type) {
            return;
        }
        let group = acknowledgement.group;
        if !self.state.lock().unwrap().receivers.accept(group, feedback.receiver) {
            gst::debug!(
                CAT,
                imp = self,
                "several receivers acknowledge units: their acknowledgements are not heeded"
            );
            return;
        }
        gst::log!(CAT, imp = self, "{acknowledgement:?}");
        obj.sink_pad()
            .push_event(acknowledge::event(group, acknowledgement.unit));
    }

    /// A packet; the base class fills in the rest of its header.
    fn packet(&self, payload: &Payload, pts: Option<gst::ClockTime>, is_discont: bool) -> gst::Buffer {
        let mut packet = self.obj().allocate_output_buffer(payload.bytes.len() as u32, 0, 0);
        let writable = packet.make_mut();
        writable.set_pts(pts);
        let flag = |is_set: bool, flag: gst::BufferFlags| if is_set { flag } else { gst::BufferFlags::empty() };
        writable.set_flags(
            flag(!payload.is_key, gst::BufferFlags::DELTA_UNIT)
                | flag(payload.marker, gst::BufferFlags::MARKER)
                | flag(is_discont, gst::BufferFlags::DISCONT),
        );
        {
            let mut rtp = gst_rtp::RTPBuffer::from_buffer_writable(writable).expect("a new packet");
            rtp.set_marker(payload.marker);
            rtp.payload_mut()
                .expect("it was asked for")
                .copy_from_slice(&payload.bytes);
        }
        packet
    }
}
