// SPDX-License-Identifier: MPL-2.0
//! A clip from an encoder over a link to a decoder, frame by frame, with what the receiver says on its way back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::channel::{Channel, LossModel};
use super::repair::Repair;
use crate::bitstream::SequenceHeader;
use crate::codec::{
    AccessUnit, CodecError, DecoderSettings, Encoder, EncoderSettings, EntropyDecoder, Frame, Painter, ParsedUnit,
    Wanted,
};
use crate::model::Model;
use crate::rtp::REQUEST_INTERVAL_MS;

/// A link that loses packets, and the way back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossyLink {
    /// How packets are lost.
    pub losses: LossModel,
    /// Bytes of a packet without IP and UDP headers, at most.
    pub mtu: usize,
    /// Of the random numbers.
    pub seed: u64,
    /// What is done about them below the stream.
    pub repair: Repair,
    /// Seconds that packets lie in a jitter buffer before they are decoded.
    pub delay: f64,
    /// Seconds from a unit to what the receiver says of it; `None`: nothing comes back.
    pub round_trip: Option<f64>,
    /// Whether the receiver acknowledges units.
    pub acknowledges: bool,
    /// Whether lost units are shown as the last picture, to see what concealing them is worth.
    pub repeats: bool,
}

impl LossyLink {
    /// Seconds from a unit to what the receiver says of it once it has left the jitter buffer.
    fn way_back(&self) -> Option<f64> {
        Some(self.round_trip? + self.delay)
    }
}

/// What came of a clip.
pub struct Received {
    pub units: Vec<AccessUnit>,
    /// One for each frame of the clip, in its order; `None`: nothing was shown at its time.
    pub frames: Vec<Option<Frame>>,
    /// Share of each frame's positions that was lost, 0 to 1; 1 where nothing was shown.
    pub lost: Vec<f32>,
    pub encoding: Duration,
    pub decoding: Duration,
    pub sent: Sent,
}

/// What the link carried.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sent {
    /// With the headers of packets.
    pub bytes: usize,
    pub packets: usize,
    pub lost: usize,
    /// Key units that the receiver asked for.
    pub requests: usize,
}

enum Feedback {
    Key,
    Acknowledgement(u8, u8),
}

struct Session {
    encoder: Encoder,
    receiver: Receiver,
    channel: Option<Channel>,
    link: Option<LossyLink>,
    /// With the times at which they are there.
    feedback: VecDeque<(f64, Feedback)>,
    last_request: f64,
    received: Received,
    /// Of a frame.
    seconds: f64,
}

/// Both parts of a decoder.
struct Receiver {
    entropy: EntropyDecoder,
    painter: Painter,
}

/// Sends frames, one after the other, through encoder, link and decoder. `link`: `None` loses nothing.
pub fn run(
    model: &Arc<Model>,
    sequence: SequenceHeader,
    (encoder, decoder): (EncoderSettings, DecoderSettings),
    link: Option<LossyLink>,
    frames: Vec<Frame>,
) -> Result<Received> {
    let (num, den) = sequence.frame_rate;
    let seconds = f64::from(den) / f64::from(num.max(1));
    let mut session = Session {
        encoder: Encoder::new(model.clone(), sequence, encoder)?,
        receiver: Receiver {
            entropy: EntropyDecoder::new(model.clone()),
            painter: Painter::new(model.clone(), decoder),
        },
        channel: link.map(|link| Channel::new(link.losses, link.repair, link.mtu, link.seed)),
        link,
        feedback: VecDeque::new(),
        last_request: f64::NEG_INFINITY,
        received: Received {
            units: vec![],
            frames: vec![None; frames.len()],
            lost: vec![1.0; frames.len()],
            encoding: Duration::ZERO,
            decoding: Duration::ZERO,
            sent: Sent::default(),
        },
        seconds,
    };
    let times: Vec<Option<u64>> = frames.iter().map(|frame| frame.pts).collect();
    for (number, frame) in frames.into_iter().enumerate() {
        session.push(frame, number as f64 * seconds, &times)?;
    }
    session.drain(times.len() as f64 * seconds, &times)?;
    Ok(session.finish())
}

impl Session {
    fn push(&mut self, frame: Frame, now: f64, times: &[Option<u64>]) -> Result<()> {
        let mut force_key = false;
        while let Some((_, feedback)) = self.feedback.pop_front_if(|(due, _)| *due <= now) {
            match feedback {
                Feedback::Key => force_key = true,
                Feedback::Acknowledgement(group, unit) => self.encoder.acknowledge(group, unit),
            }
        }
        let start = Instant::now();
        let units = self.encoder.push(frame, force_key)?;
        self.received.encoding += start.elapsed();
        self.send(units, now, times)
    }

    fn drain(&mut self, now: f64, times: &[Option<u64>]) -> Result<()> {
        let start = Instant::now();
        let units = self.encoder.drain()?;
        self.received.encoding += start.elapsed();
        self.send(units, now, times)
    }

    fn send(&mut self, units: Vec<AccessUnit>, now: f64, times: &[Option<u64>]) -> Result<()> {
        for unit in units {
            let bytes = match &mut self.channel {
                Some(channel) => channel.send(&unit.bytes, self.seconds * unit.frames as f64),
                None => unit.bytes.clone(),
            };
            self.received.units.push(unit);
            let is_decoded = !bytes.is_empty() && self.receive(&bytes, now, times)?;
            // A short unit ends what units depend on, so that only a key unit can follow; that is no loss.
            if !is_decoded || self.receiver.entropy.conceals() {
                self.ask_for_key(now);
            }
        }
        Ok(())
    }

    /// Whether the unit could be decoded.
    fn receive(&mut self, bytes: &[u8], now: f64, times: &[Option<u64>]) -> Result<bool> {
        let start = Instant::now();
        let missing = self.receiver.entropy.missing_before(bytes);
        for unit in self.receiver.entropy.conceal(missing) {
            self.show(&unit, times)?;
        }
        let is_decoded = match self.receiver.entropy.decode(bytes) {
            Ok(unit) => {
                self.acknowledge(&unit, now);
                self.show(&unit, times)?;
                true
            }
            // A unit was lost before it.
            Err(CodecError::NoKeyUnit | CodecError::SymbolCheck { .. } | CodecError::Entropy(_)) => false,
            Err(error) => return Err(error.into()),
        };
        self.received.decoding += start.elapsed();
        Ok(is_decoded)
    }

    /// Puts the frames of a unit to their times.
    fn show(&mut self, unit: &ParsedUnit, times: &[Option<u64>]) -> Result<()> {
        let frames = self.receiver.painter.run(unit, Wanted::All)?;
        let repeats = self.link.is_some_and(|link| link.repeats) && unit.lost == 1.0;
        for frame in frames.into_iter().flatten().filter(|_| !repeats) {
            let distance = |at: &usize| times[*at].zip(frame.pts).map_or(u64::MAX, |(a, b)| a.abs_diff(b));
            if let Some(at) = (0..times.len()).min_by_key(distance) {
                self.received.frames[at] = Some(frame);
                self.received.lost[at] = unit.lost;
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, unit: &ParsedUnit, now: f64) {
        let link = self.link.filter(|link| link.acknowledges);
        if let Some(((group, unit), back)) = unit.acknowledgement.zip(link.and_then(|link| link.way_back())) {
            self.feedback
                .push_back((now + back, Feedback::Acknowledgement(group, unit)));
        }
    }

    fn ask_for_key(&mut self, now: f64) {
        let Some(back) = self.link.and_then(|link| link.way_back()) else {
            return;
        };
        if self.receiver.entropy.wants_key()
            && now - self.last_request >= (REQUEST_INTERVAL_MS as f64 / 1000.0).max(back)
        {
            self.last_request = now;
            self.received.sent.requests += 1;
            self.feedback.push_back((now + back, Feedback::Key));
        }
    }

    fn finish(self) -> Received {
        let mut received = self.received;
        if let Some(channel) = self.channel {
            received.sent = Sent {
                bytes: channel.bytes,
                packets: channel.packets,
                lost: channel.lost,
                ..received.sent
            };
        }
        received
    }
}
