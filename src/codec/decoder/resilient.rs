// SPDX-License-Identifier: MPL-2.0
//! Streams of which units or slices may be lost: what has come is decoded, and the rest is concealed.

use std::ops::Range;

use super::concealment::follow_neighbours;
use super::symbols::{has_check, times};
use crate::bitstream::{slices_at_front, Clock, FrameTimes, Resilience, SequenceHeader, Slice, UnitHeader, GROUPS};
use crate::codec::geometry::grid;
use crate::codec::CodecError;
use crate::entropy::{
    Camera, CodingContext, EntropyError, LatentMap, LatentMode, Macroblock, References, Region, ResidualMap, TokenMap,
    UnitSymbols, MASKED,
};
use crate::model::Model;

/// Units that are concealed one after the other, at most: what comes after a second is not what it was before.
pub const MOST_CONCEALED: usize = 4;

/// Units that may fail one after the other before a key unit is worth it.
const MOST_FAILURES: u8 = 2;

/// A part of an access unit.
pub struct ReceivedSlice<'a> {
    pub header: UnitHeader,
    pub resilience: Resilience,
    pub payload: &'a [u8],
}

/// A unit with what was lost of it concealed.
pub struct Concealed {
    pub symbols: UnitSymbols,
    pub times: FrameTimes,
    /// The positions that were lost, row by row; empty where none was.
    pub lost: Vec<bool>,
}

/// What has come of a unit, in what stands in for the rest.
struct Received {
    symbols: UnitSymbols,
    /// The positions that have come, row by row.
    present: Vec<bool>,
    /// Of the first slice that can be decoded, with the clock after them.
    times: Option<(FrameTimes, Clock)>,
    /// Of the first slice that cannot.
    error: Option<CodecError>,
}

impl Received {
    /// Of a unit of which nothing has come.
    fn nothing(expected: UnitSymbols) -> Received {
        Received {
            present: vec![false; expected.tokens.tokens.len()],
            symbols: expected,
            times: None,
            error: None,
        }
    }

    /// Takes over a slice, if it belongs to the same unit.
    fn add(&mut self, decoded: &UnitSymbols, slice: Slice) {
        if decoded.camera != self.symbols.camera {
            return self.fail(EntropyError::Damaged.into());
        }
        let window = decoded.camera.window;
        let region = Region::within(slice, &window);
        self.symbols.adopt(decoded, region);
        if let (Some((mode, _)), Some((decoded, _))) = (&mut self.symbols.latents, &decoded.latents) {
            *mode = *decoded;
        }
        let (width, height) = window.tokens();
        let positions = self.present.iter_mut().zip(region.positions(width, height));
        positions.for_each(|(is_present, is_in)| *is_present |= is_in);
    }

    fn fail(&mut self, error: CodecError) {
        self.error.get_or_insert(error);
    }
}

/// What lasts from unit to unit.
pub struct Receiver {
    /// Of the last key unit.
    group: u8,
    /// Number of the next unit.
    next: u8,
    /// Units that were concealed since one came.
    concealed: usize,
    references: References,
    /// A short unit has ended the group of pictures: what follows before the next key unit would not line up with the encoder's.
    is_over: bool,
    /// Units one after the other of which nothing could be decoded though what they refer to is there: that is another stream's.
    failures: u8,
    /// The last unit, with what was lost of it concealed.
    last: UnitSymbols,
}

/// The slices of an access unit, as far as they are whole.
pub fn slices(bytes: &[u8]) -> Vec<ReceivedSlice<'_>> {
    let received = |(header, payload): (UnitHeader, Range<usize>)| {
        Some(ReceivedSlice {
            header,
            resilience: header.resilience?,
            payload: bytes.get(payload)?,
        })
    };
    slices_at_front(bytes).map_while(received).collect()
}

impl Receiver {
    /// Before the key unit of a stream.
    pub fn new(model: &Model, sequence: &SequenceHeader) -> Receiver {
        let camera = Camera::key(grid(model, sequence).rigid());
        let (width, height) = camera.window.tokens();
        let latents = model.latent_context().map(|context| {
            let zero = LatentMap::zero(width, height, context.weights().channels);
            (LatentMode::Absent, zero)
        });
        let mut tokens = TokenMap::zero(width, height);
        tokens.tokens.fill(MASKED);
        Receiver {
            group: 0,
            next: 0,
            concealed: 0,
            references: References::default(),
            is_over: false,
            failures: 0,
            last: UnitSymbols {
                camera,
                tokens,
                latents,
                residual: None,
            },
        }
    }

    /// Units that are missing before one.
    pub fn missing_before(&self, unit: &Resilience) -> usize {
        let missing = match unit.group == self.group {
            true => unit.unit.saturating_sub(self.next).into(),
            false => 0,
        };
        missing.min(self.concealable())
    }

    /// Units that can still be concealed before one comes.
    pub fn concealable(&self) -> usize {
        MOST_CONCEALED.saturating_sub(self.concealed)
    }

    /// Whether a part of the key unit is missing, so that its part of all units is.
    pub fn wants_key(&self) -> bool {
        self.failures >= MOST_FAILURES || !self.is_over && !self.references.are_present(0, 0, Region::WHOLE)
    }

    /// Whether the key unit of a group of pictures is known to come next.
    pub fn is_followed_by(&self, key: &Resilience) -> bool {
        self.is_over && key.group == (self.group + 1) % GROUPS
    }

    /// In place of a lost unit: the picture goes on as the predictor expects.
    pub fn conceal(&mut self) -> UnitSymbols {
        self.next = self.next.saturating_add(1);
        self.concealed += 1;
        self.last = self.expected(Camera::still(&self.last.camera.context()));
        self.last.clone()
    }

    /// Decodes what has come of a unit, at least a slice. An error if none of it is of use in a key unit, for there is nothing to go on from.
    pub fn decode(
        &mut self,
        model: &Model,
        (sequence, clock): (&SequenceHeader, &mut Clock),
        slices: &[ReceivedSlice],
    ) -> Result<Concealed, CodecError> {
        let first = &slices[0];
        let (header, resilience) = (&first.header, first.resilience);
        if header.is_key() || resilience.group != self.group {
            self.references = References::default();
            self.is_over = false;
            self.group = resilience.group;
        } else if resilience.unit < self.next {
            return Err(CodecError::Repeated);
        }
        let Received {
            symbols,
            present,
            times,
            error,
        } = self.gather(model, (sequence, clock), slices);
        let times = match times {
            Some((times, after)) => {
                *clock = after;
                times
            }
            None if header.is_key() => return Err(error.unwrap_or(CodecError::NoKeyUnit)),
            None => {
                if resilience.unit > 0 && self.references.context(0, 0).is_some() {
                    clock.seek_unit(resilience.unit, model.group_frames());
                }
                clock.pass(header.frames)
            }
        };
        let has_failed = matches!(error, Some(CodecError::SymbolCheck { .. } | CodecError::Entropy(_)));
        self.failures = match present.contains(&true) {
            true => 0,
            false => self.failures.saturating_add(has_failed.into()),
        };
        self.note(
            &resilience,
            &symbols,
            &present,
            header.frames == model.group_frames() || header.is_key(),
        );
        let lost = match present.contains(&false) {
            true => present.iter().map(|is_present| !is_present).collect(),
            false => vec![],
        };
        Ok(Concealed { symbols, times, lost })
    }

    /// The slices that can be decoded, in what the unit would be without them.
    fn gather(
        &self,
        model: &Model,
        (sequence, clock): (&SequenceHeader, &Clock),
        slices: &[ReceivedSlice],
    ) -> Received {
        let mut received = Received::nothing(self.expected(Camera::still(&self.last.camera.context())));
        let mut before = None;
        for slice in slices {
            match self.slice(model, sequence, clock.clone(), slice) {
                Ok((decoded, times)) => {
                    if received.times.is_none() {
                        received = Received {
                            times: Some(times),
                            error: received.error,
                            ..Received::nothing(self.expected_with(&decoded))
                        };
                        before = received.symbols.latents.clone();
                    }
                    received.add(&decoded, slice.resilience.slice);
                }
                Err(failed) => received.fail(failed),
            }
        }
        if let (Some((_, latents)), Some((_, before))) = (&mut received.symbols.latents, &before) {
            follow_neighbours(latents, before, &received.present);
        }
        received
    }

    /// What a unit would be of which no more has come than where its frames lie, and whether it has a residual.
    fn expected_with(&self, slice: &UnitSymbols) -> UnitSymbols {
        let mut symbols = self.expected(slice.camera.clone());
        if let Some(residual) = &slice.residual {
            let expected = symbols.residual.take();
            let expected = expected.filter(|map| (map.width, map.height) == (residual.width, residual.height));
            symbols.residual = expected.or_else(|| Some(ResidualMap::none(residual.width, residual.height)));
        }
        symbols
    }

    /// What a unit would be of which nothing has come, where its frames lie.
    fn expected(&self, camera: Camera) -> UnitSymbols {
        let mut symbols = self.last.clone();
        symbols.look(camera.window);
        symbols.camera = camera;
        symbols.tokens.tokens.fill(MASKED);
        if let Some((mode, _)) = &mut symbols.latents {
            *mode = LatentMode::Skipped;
        }
        for macroblock in symbols
            .residual
            .iter_mut()
            .flat_map(|residual| &mut residual.macroblocks)
        {
            if macroblock.is_static() {
                *macroblock = Macroblock::Skip;
            }
        }
        symbols
    }

    fn slice(
        &self,
        model: &Model,
        sequence: &SequenceHeader,
        mut clock: Clock,
        slice: &ReceivedSlice,
    ) -> Result<(UnitSymbols, (FrameTimes, Clock)), CodecError> {
        let ReceivedSlice {
            header,
            resilience,
            payload,
        } = slice;
        let region = Region::of(resilience.slice);
        let context = match header.is_key() {
            true => CodingContext::default(),
            false => self.context(resilience, region)?,
        };
        if !header.is_key() {
            clock.seek_unit(resilience.unit, model.group_frames());
        }
        let (times, payload) = times(&mut clock, sequence, header, payload)?;
        let symbols = context.decode(
            model.contexts(),
            payload,
            grid(model, sequence).rigid(),
            resilience.slice,
        )?;
        has_check(header, symbols.check())?;
        let moved = context
            .camera
            .is_some_and(|camera| camera.window() != symbols.camera.window);
        if moved && region.is_band() && !self.are_present(resilience, Region::WHOLE) {
            return Err(CodecError::LostReference);
        }
        let (width, height) = symbols.camera.window.tokens();
        let mut own = symbols.tokens.tokens.iter().zip(region.positions(width, height));
        if header.is_key() && own.any(|(token, is_in)| is_in && *token == MASKED) {
            return Err(CodecError::MaskedKeyUnit);
        }
        Ok((symbols, (times, clock)))
    }

    /// What a slice of a delta unit refers to.
    fn context(&self, resilience: &Resilience, region: Region) -> Result<CodingContext, CodecError> {
        let Resilience { unit, reference, .. } = *resilience;
        let context = self.references.context(unit, reference);
        let is_present = self.are_present(resilience, region);
        context.filter(|_| is_present).ok_or(CodecError::LostReference)
    }

    /// Whether what a unit refers to is there, as far as a region of it.
    fn are_present(&self, resilience: &Resilience, region: Region) -> bool {
        let Resilience { unit, reference, .. } = *resilience;
        !self.is_over && self.references.are_present(unit, reference, region)
    }

    /// Makes a unit the last one. `goes_on`: whether units can follow that refer to it or to those before.
    fn note(&mut self, resilience: &Resilience, symbols: &UnitSymbols, present: &[bool], goes_on: bool) {
        let Resilience { unit, reference, .. } = *resilience;
        self.next = unit.saturating_add(1);
        self.concealed = 0;
        self.last = symbols.clone();
        self.is_over |= !goes_on;
        let context = match unit {
            0 => Some(CodingContext::default()),
            _ => self.references.context(unit, reference),
        };
        if let Some(mut context) = context.filter(|_| present.contains(&true)) {
            context.push(symbols);
            self.references.push(unit, context, present.to_vec());
        }
    }
}
