// SPDX-License-Identifier: MPL-2.0

use std::sync::{LazyLock, Mutex};
use std::time::Instant;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_rtp::prelude::*;
use gst_rtp::subclass::prelude::*;

use super::feedback::Acknowledgements;
use super::stats;
use crate::bitstream::SequenceHeader;
use crate::elements::rtp::packets;
use crate::elements::{acknowledge, caps};
use crate::rtp::{Acknowledgement, Depacketizer, Packet, Unit, CLOCK_RATE};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "rtptvcdepay",
        gst::DebugColorFlags::empty(),
        Some("TVC RTP depayloader"),
    )
});

const DEFAULT_WAIT_FOR_KEYFRAME: bool = true;
const DEFAULT_REQUEST_KEYFRAME: bool = false;

#[derive(Clone, Copy)]
struct Settings {
    wait_for_keyframe: bool,
    request_keyframe: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            wait_for_keyframe: DEFAULT_WAIT_FOR_KEYFRAME,
            request_keyframe: DEFAULT_REQUEST_KEYFRAME,
        }
    }
}

struct State {
    depacketizer: Depacketizer,
    /// Sender of the last packet.
    ssrc: Option<u32>,
    /// Of the last packet.
    payload_type: u8,
    /// What the caps on the source pad were made from.
    announced: Option<SequenceHeader>,
    /// Key units are asked for by this clock.
    started: Instant,
}

impl State {
    fn new(settings: Settings, max_reorder: i32) -> State {
        let max_reorder = u16::try_from(max_reorder).unwrap_or(u16::MAX);
        State {
            depacketizer: Depacketizer::new(settings.wait_for_keyframe, max_reorder),
            ssrc: None,
            payload_type: 0,
            announced: None,
            started: Instant::now(),
        }
    }
}

impl Default for State {
    fn default() -> Self {
        State::new(Settings::default(), 0)
    }
}

#[derive(Default)]
pub struct RtpTvcDepay {
    settings: Mutex<Settings>,
    state: Mutex<State>,
    acknowledgements: Acknowledgements,
}

#[glib::object_subclass]
impl ObjectSubclass for RtpTvcDepay {
    const NAME: &'static str = "GstRtpTvcDepay";
    type Type = super::RtpTvcDepay;
    type ParentType = gst_rtp::RTPBaseDepayload;
}

impl ObjectImpl for RtpTvcDepay {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecBoolean::builder("wait-for-keyframe")
                    .nick("Wait for key unit")
                    .blurb("Drop units that cannot be decoded until the next key unit: at the start, and after losses that the stream is not resilient to")
                    .default_value(DEFAULT_WAIT_FOR_KEYFRAME)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoolean::builder("request-keyframe")
                    .nick("Request key unit")
                    .blurb("Ask the sender for a key unit where nothing can be decoded without one, at most twice a second")
                    .default_value(DEFAULT_REQUEST_KEYFRAME)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("unit-stats")
                    .nick("Statistics of units")
                    .blurb("Packets that came and that were rejected; units that were passed on, damaged, lost, and dropped for want of a key unit; key units that were asked for")
                    .read_only()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let value = value.get().expect("type checked upstream");
        let mut settings = self.settings.lock().unwrap();
        match pspec.name() {
            "wait-for-keyframe" => {
                settings.wait_for_keyframe = value;
                self.state.lock().unwrap().depacketizer.set_waits_for_key(value);
            }
            _ => settings.request_keyframe = value,
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = *self.settings.lock().unwrap();
        match pspec.name() {
            "wait-for-keyframe" => settings.wait_for_keyframe.to_value(),
            "request-keyframe" => settings.request_keyframe.to_value(),
            _ => stats::structure(&self.state.lock().unwrap().depacketizer.statistics()).to_value(),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        // The base class asks for nothing that comes from downstream.
        let event = |pad: &gst::Pad, parent: Option<&gst::Object>, event: gst::Event| {
            RtpTvcDepay::catch_panic_pad_function(parent, || false, |this| this.src_event(pad, event))
        };
        // SAFETY: the pad is new, and nobody sends it events yet.
        unsafe { self.obj().src_pad().set_event_function(event) };
    }
}

impl GstObjectImpl for RtpTvcDepay {}

impl ElementImpl for RtpTvcDepay {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "TVC RTP depayloader",
                "Codec/Depayloader/Network/RTP",
                "Makes access units of Tokenized Video Compression streams from RTP packets",
                "gst-plugin-tvc contributors",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> =
            LazyLock::new(|| caps::templates(&packets().build(), &caps::framed().build()));
        &TEMPLATES
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::ReadyToPaused {
            let settings = *self.settings.lock().unwrap();
            *self.state.lock().unwrap() = State::new(settings, self.obj().max_reorder());
        }
        let success = self.parent_change_state(transition)?;
        if transition == gst::StateChange::PausedToReady {
            self.acknowledgements.stop();
        }
        Ok(success)
    }
}

impl RTPBaseDepayloadImpl for RtpTvcDepay {
    fn set_caps(&self, _caps: &gst::Caps) -> Result<(), gst::LoggableError> {
        // SAFETY: the instance is alive, and its base class reads this field in the streaming thread alone, which this is.
        unsafe {
            let base: *mut gst_rtp::ffi::GstRTPBaseDepayload =
                self.obj().upcast_ref::<gst_rtp::RTPBaseDepayload>().as_ptr();
            (*base).clock_rate = CLOCK_RATE;
        }
        Ok(())
    }

    fn process_rtp_packet(&self, rtp: &gst_rtp::RTPBuffer<gst_rtp::rtp_buffer::Readable>) -> Option<gst::Buffer> {
        let mut units = Vec::new();
        {
            let mut state = self.state.lock().unwrap();
            state.payload_type = rtp.payload_type();
            if state.ssrc.replace(rtp.ssrc()).is_some_and(|ssrc| ssrc != rtp.ssrc()) {
                state.depacketizer.finish(&mut units);
                state.depacketizer.restart();
                self.acknowledgements.forget();
            }
            let packet = Packet {
                sequence: rtp.seq(),
                timestamp: rtp.timestamp(),
                time: rtp.buffer().pts().map(gst::ClockTime::nseconds),
                marker: rtp.is_marker(),
                discont: rtp.buffer().flags().contains(gst::BufferFlags::DISCONT),
                // A packet without payload has none to map.
                payload: rtp.payload().unwrap_or_default(),
            };
            if let Err(rejection) = state.depacketizer.push(&packet, &mut units) {
                gst::warning!(CAT, imp = self, "packet {} is dropped: {rejection}", packet.sequence);
            }
        }
        self.push_units(units);
        self.request_key_unit();
        None
    }

    fn packet_lost(&self, event: &gst::EventRef) -> bool {
        let structure = event.structure();
        let may_be_fec = structure.is_some_and(|s| s.get::<bool>("might-have-been-fec") == Ok(true));
        let mut units = Vec::new();
        let mut state = self.state.lock().unwrap();
        state.depacketizer.note_lost_packet(!may_be_fec, &mut units);
        drop(state);
        self.push_units(units);
        self.request_key_unit();
        self.parent_packet_lost(event)
    }

    fn handle_event(&self, event: gst::Event) -> bool {
        match event.type_() {
            gst::EventType::FlushStop => self.state.lock().unwrap().depacketizer.restart(),
            gst::EventType::Eos => {
                let mut units = Vec::new();
                self.state.lock().unwrap().depacketizer.finish(&mut units);
                self.push_units(units);
            }
            _ => (),
        }
        self.parent_handle_event(event)
    }
}

impl RtpTvcDepay {
    fn src_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match acknowledge::parse(&event) {
            Some((group, unit)) if self.acknowledge(group, unit) => true,
            _ => gst::Pad::event_default(pad, Some(&*self.obj()), event),
        }
    }

    /// Tells the sender in RTCP that a unit is there; false if there is no session for that.
    fn acknowledge(&self, group: u8, unit: u8) -> bool {
        let (ssrc, payload_type) = {
            let state = self.state.lock().unwrap();
            (state.ssrc, state.payload_type)
        };
        let acknowledgement = Acknowledgement {
            payload_type,
            group,
            unit,
        };
        ssrc.is_some_and(|ssrc| self.acknowledgements.send(self.obj().sink_pad(), acknowledgement, ssrc))
    }

    /// Sends units downstream; the base class remembers when they are not taken.
    fn push_units(&self, units: Vec<Unit>) {
        for unit in units {
            self.announce_if_new(&unit);
            if let Err(flow) = self.obj().push(buffer(unit)) {
                gst::debug!(CAT, imp = self, "a unit is not taken: {flow:?}");
                break;
            }
        }
    }

    /// Caps of a key unit, if they are others than before, or some where no key unit has come.
    fn announce_if_new(&self, unit: &Unit) {
        let caps = match unit.header.sequence {
            Some(sequence) => {
                let announced = self.state.lock().unwrap().announced.replace(sequence);
                if announced.is_some_and(|announced| announced.shows_like(&sequence)) {
                    return;
                }
                caps::from_sequence(&sequence)
            }
            None if self.obj().src_pad().has_current_caps() => return,
            None => caps::framed().build(),
        };
        gst::info!(CAT, imp = self, "stream of {caps:?}");
        if !self.obj().src_pad().push_event(gst::event::Caps::new(&caps)) {
            gst::debug!(CAT, imp = self, "the caps are not taken");
        }
    }

    fn request_key_unit(&self) {
        if !self.settings.lock().unwrap().request_keyframe {
            return;
        }
        {
            let mut state = self.state.lock().unwrap();
            let now = state.started.elapsed().as_millis() as u64;
            if !state.depacketizer.take_key_unit_request(now) {
                return;
            }
        }
        gst::debug!(CAT, imp = self, "asking for a key unit");
        let event = gst_video::UpstreamForceKeyUnitEvent::builder()
            .all_headers(true)
            .build();
        self.obj().sink_pad().push_event(event);
    }
}

fn buffer(unit: Unit) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_mut_slice(unit.bytes);
    let writable = buffer.get_mut().expect("it is new");
    let time = unit.time.and_then(caps::time);
    writable.set_pts(time);
    writable.set_dts(time);
    if !unit.header.is_key() {
        writable.set_flags(gst::BufferFlags::DELTA_UNIT);
    }
    if unit.follows_loss {
        writable.set_flags(gst::BufferFlags::DISCONT);
    }
    buffer
}
