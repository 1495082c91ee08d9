// SPDX-License-Identifier: MPL-2.0

use super::aggregate::{self, AggregatedUnit};
use super::fragment::Fragments;
use super::loss::Losses;
use super::{PayloadHeader, Rejection, Statistics, CLOCK_RATE, NUMBERS};
use crate::bitstream::{slices, UnitHeader};

/// Packets that come this much later than in their order are dropped; what seems to be older is the beginning of another stream.
const MAX_REORDER: u16 = 100;
const SECOND: u64 = 1_000_000_000;

/// What of an RTP packet matters here.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Sequence number.
    pub sequence: u16,
    /// RTP timestamp.
    pub timestamp: u32,
    /// When it is to be shown, in ns of the receiver's clock, if the receiver knows.
    pub time: Option<u64>,
    /// Marker bit.
    pub marker: bool,
    /// Whether the receiver knows that something is missing before it; sequence numbers do not show it where they were made anew.
    pub discont: bool,
    /// What follows the RTP header.
    pub payload: &'a [u8],
}

/// An access unit, from which slices may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its slices one after the other.
    pub bytes: Vec<u8>,
    /// Header of the first slice that is there.
    pub header: UnitHeader,
    /// When it is to be shown: [`Packet::time`] of its first packet, moved by its offset in an aggregation packet.
    pub time: Option<u64>,
    /// Whether something is missing before it, or slices of it are.
    pub follows_loss: bool,
}

/// Makes access units of packets. It is to get the packets in their order, as from a jitter buffer; whatever it gets, it holds at most one
/// access unit.
#[derive(Clone, Debug)]
pub struct Depacketizer {
    losses: Losses,
    max_reorder: u16,
    /// The sequence number that is expected.
    next: Option<u16>,
    receiving: Option<Receiving>,
}

/// The access unit, or aggregation packet, that the last packet belongs to.
#[derive(Clone, Debug)]
struct Receiving {
    number: u8,
    timestamp: u32,
    time: Option<u64>,
    /// It has been passed on, or given up.
    is_over: bool,
    /// Whole slices so far, the header of the first one and that of the last one.
    bytes: Vec<u8>,
    headers: Option<(UnitHeader, UnitHeader)>,
    count: u8,
    /// Packets that are lost since the last whole slice.
    lost: usize,
    fragments: Option<Fragments>,
}

impl Default for Depacketizer {
    fn default() -> Self {
        Depacketizer {
            losses: Losses::default(),
            max_reorder: MAX_REORDER,
            next: None,
            receiving: None,
        }
    }
}

impl Receiving {
    fn new(number: u8, packet: &Packet) -> Receiving {
        Receiving {
            number,
            timestamp: packet.timestamp,
            time: packet.time,
            is_over: false,
            bytes: Vec::new(),
            headers: None,
            count: 0,
            lost: 0,
            fragments: None,
        }
    }

    fn is_of(&self, number: u8, packet: &Packet) -> bool {
        (self.number, self.timestamp) == (number, packet.timestamp)
    }

    /// A whole slice, or a piece of one.
    fn add(&mut self, header: PayloadHeader, piece: &[u8]) -> Result<(), Rejection> {
        // The end of the slice before may be missing.
        let begun = self.fragments.take().filter(|_| !header.start);
        let mut fragments = match header.start {
            true => Fragments::default(),
            false => begun.ok_or(Rejection::NoStart)?,
        };
        fragments.add(piece)?;
        if !header.end {
            self.fragments = Some(fragments);
            return Ok(());
        }
        let (header, slice) = fragments.finish()?;
        if self.headers.is_some_and(|(_, last)| !header.continues(&last)) {
            return Err(Rejection::ForeignSlice);
        }
        let first = self.headers.map_or(header, |(first, _)| first);
        self.headers = Some((first, header));
        self.count += 1;
        self.lost = 0;
        if self.bytes.is_empty() {
            self.bytes = slice;
        } else {
            self.bytes.extend_from_slice(&slice);
        }
        Ok(())
    }

    fn has_last_slice(&self) -> bool {
        self.headers.is_some_and(|(_, last)| last.is_last_slice())
    }

    /// Whether the packets that are lost since the last slice held all that could still come.
    fn has_lost_the_rest(&self) -> bool {
        let rest = |header: UnitHeader| usize::from(header.slice().count - header.slice().index - 1);
        self.headers.is_some_and(|(_, last)| self.lost >= rest(last))
    }
}

impl Depacketizer {
    /// `waits_for_key`: whether delta units that cannot be decoded are kept back until the next key unit. `max_reorder`: packets that are
    /// older than expected by at most this are dropped; beyond, another stream begins.
    pub fn new(waits_for_key: bool, max_reorder: u16) -> Self {
        let mut depacketizer = Depacketizer {
            max_reorder,
            ..Depacketizer::default()
        };
        depacketizer.set_waits_for_key(waits_for_key);
        depacketizer
    }

    /// Changes whether delta units that cannot be decoded are kept back.
    pub fn set_waits_for_key(&mut self, waits_for_key: bool) {
        self.losses.waits_for_key = waits_for_key;
    }

    /// What became of the packets so far.
    pub fn statistics(&self) -> Statistics {
        self.losses.statistics
    }

    /// Takes a packet, and appends the access units that are complete with it, or that are over before it, to `out`. What is rejected may
    /// complete one too.
    pub fn push(&mut self, packet: &Packet, out: &mut Vec<Unit>) -> Result<(), Rejection> {
        self.losses.statistics.packets += 1;
        let result = self.take(packet, out);
        if result.is_err() {
            self.losses.statistics.rejected += 1;
        }
        result
    }

    /// No packet follows: what is there of the last access unit is passed on.
    pub fn finish(&mut self, out: &mut Vec<Unit>) {
        self.pass_on(out);
    }

    /// The next packets are those of another stream, or of another place in it.
    pub fn restart(&mut self) {
        self.next = None;
        self.receiving = None;
        self.losses.restart();
    }

    /// The next packet will not come. `is_certain`: it was one of this format, and not of forward error correction. An access unit of which
    /// all that can still come is not whole is passed on.
    pub fn note_lost_packet(&mut self, is_certain: bool, out: &mut Vec<Unit>) {
        if !is_certain {
            return;
        }
        self.losses.suspect_loss();
        let Some(receiving) = &mut self.receiving else { return };
        receiving.lost += 1;
        if receiving.has_lost_the_rest() {
            self.pass_on(out);
        }
    }

    /// Whether the sender is to be asked for a key unit now, at a time in ms of a clock that does not go back; at most once in
    /// [`REQUEST_INTERVAL_MS`](super::REQUEST_INTERVAL_MS). True counts as asked for.
    pub fn take_key_unit_request(&mut self, now: u64) -> bool {
        self.losses.take_request(now)
    }

    fn take(&mut self, packet: &Packet, out: &mut Vec<Unit>) -> Result<(), Rejection> {
        let missing = self.missing_packets(packet.sequence)?;
        let (header, rest) = PayloadHeader::parse(packet.payload)?;
        self.begin(header.number, packet, missing, out);
        let receiving = self.receiving.as_mut().expect("it has just begun");
        if missing > 0 || packet.discont {
            receiving.fragments = None;
        }
        if receiving.is_over {
            return Err(Rejection::Over);
        }
        if header.aggregate {
            return self.take_aggregate(packet.time, rest, out);
        }
        let result = receiving.add(header, rest);
        if packet.marker || receiving.has_last_slice() {
            self.pass_on(out);
        }
        result
    }

    /// How many packets are missing before this one, as far as sequence numbers tell; old ones are rejected.
    fn missing_packets(&mut self, sequence: u16) -> Result<u16, Rejection> {
        let ahead = self.next.map_or(0, |next| sequence.wrapping_sub(next));
        let behind = ahead.wrapping_neg();
        if behind > 0 && behind <= self.max_reorder.min(i16::MAX as u16) {
            return Err(Rejection::Old);
        }
        self.next = Some(sequence.wrapping_add(1));
        Ok(ahead)
    }

    /// Goes on to the access unit of a packet. Numbers tell what is missing: sequence numbers have gaps where packets of forward error
    /// correction were, and none where such a packet's receiver has closed them.
    fn begin(&mut self, number: u8, packet: &Packet, missing_packets: u16, out: &mut Vec<Unit>) {
        let before = self.receiving.as_ref().map(|receiving| receiving.number);
        if self
            .receiving
            .as_ref()
            .is_some_and(|receiving| receiving.is_of(number, packet))
        {
            return;
        }
        self.pass_on(out);
        self.receiving = Some(Receiving::new(number, packet));
        let Some(before) = before else { return };
        let missing = number.wrapping_sub(before).wrapping_sub(1) % NUMBERS;
        // So many packets may have held as many access units.
        let is_unclear = missing == 0 && missing_packets >= NUMBERS.into();
        if missing > 0 || is_unclear {
            self.losses.note_lost(if is_unclear { NUMBERS } else { missing }.into());
        }
    }

    /// Passes on what is there of the access unit that is being received.
    fn pass_on(&mut self, out: &mut Vec<Unit>) {
        let Some(receiving) = self.receiving.as_mut().filter(|receiving| !receiving.is_over) else {
            return;
        };
        receiving.is_over = true;
        receiving.fragments = None;
        let bytes = std::mem::take(&mut receiving.bytes);
        match receiving.headers {
            Some((header, _)) => {
                let (time, is_whole) = (receiving.time, receiving.count == header.slice().count);
                self.release(bytes, header, time, is_whole, out);
            }
            None => self.losses.note_lost(1),
        }
    }

    fn release(&mut self, bytes: Vec<u8>, header: UnitHeader, time: Option<u64>, is_whole: bool, out: &mut Vec<Unit>) {
        if let Some(follows_loss) = self.losses.pass(&header, is_whole) {
            out.push(Unit {
                bytes,
                header,
                time,
                follows_loss,
            });
        }
    }

    fn take_aggregate(&mut self, time: Option<u64>, rest: &[u8], out: &mut Vec<Unit>) -> Result<(), Rejection> {
        let parsed = aggregate::parse(rest).and_then(|units| units.into_iter().map(with_headers).collect());
        let units: Vec<(AggregatedUnit, UnitHeader, bool)> = match parsed {
            Ok(units) => units,
            Err(rejection) => {
                self.pass_on(out);
                return Err(rejection);
            }
        };
        if let Some(receiving) = self.receiving.as_mut() {
            receiving.is_over = true;
        }
        let mut ticks = 0;
        for (unit, header, is_whole) in units {
            ticks += u64::from(unit.offset);
            let since = ticks * SECOND / u64::from(CLOCK_RATE);
            let time = time.and_then(|time| time.checked_add(since));
            self.release(unit.bytes.to_vec(), header, time, is_whole, out);
        }
        Ok(())
    }
}

/// An access unit with the header of its first slice, and whether it has all slices.
fn with_headers(unit: AggregatedUnit) -> Result<(AggregatedUnit, UnitHeader, bool), Rejection> {
    let slices = slices(unit.bytes)?;
    let (header, _) = slices[0];
    Ok((unit, header, slices.len() == usize::from(header.slice().count)))
}
