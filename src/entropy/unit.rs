// SPDX-License-Identifier: MPL-2.0
//! The symbols of an access unit: what is coded, in which order, and the check value over it. Encoder and decoder run the same code.

use std::borrow::Cow;

use super::camera::{code_camera, Camera, CameraContext};
use super::latents::{LatentContext, LatentContextModel, LatentMap, LatentMode, WantedLatents};
use super::motion::{code_motion, Motion, MotionContext};
use super::range_coder::{SymbolCoder, UnitDecoder, UnitEncoder};
use super::region::Region;
use super::residual::{code_residual, Macroblock, ResidualContext, ResidualMap};
use super::tokens::{as_wanted, ContextModel, DigitChoice, Masking, TokenContext, TokenMap, MASKED};
use super::EntropyError;
use crate::bitstream::{Grid, Slice, Window};

/// The integer networks that give symbols their probabilities.
#[derive(Clone, Copy, Debug)]
pub struct ContextModels<'a> {
    pub tokens: &'a ContextModel,
    /// `None`: units carry no latents.
    pub latents: Option<&'a LatentContextModel>,
}

/// The symbols of one access unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitSymbols {
    /// Where its frames lie and what moves in them; all maps have the size of its window.
    pub camera: Camera,
    pub tokens: TokenMap,
    /// How they are coded, and they; `None`: the model has none.
    pub latents: Option<(LatentMode, LatentMap)>,
    /// `None` in a key unit.
    pub residual: Option<ResidualMap>,
}

/// Symbols that an encoder wants to have coded.
#[derive(Clone)]
pub struct WantedUnit<'a> {
    pub camera: Camera,
    /// [`super::MASKED`] where a token is not sent, as `masking` says.
    pub tokens: TokenMap,
    pub masking: Masking,
    /// Chooses the digits of the others. Decoders know nothing of it.
    pub choose: &'a dyn Fn(DigitChoice) -> u8,
    /// Needed where the model has any.
    pub latents: Option<(LatentMode, WantedLatents<'a>)>,
    /// `None` in a key unit.
    pub residual: Option<ResidualMap>,
}

/// A unit as it was coded.
pub struct CodedUnit {
    /// As the decoder will have them.
    pub symbols: UnitSymbols,
    /// In the order of their indices; one if the unit is not cut.
    pub slices: Vec<CodedSlice>,
    /// Bits of the payloads that the residual takes.
    pub residual_bits: usize,
}

/// A slice of a unit as it was coded.
pub struct CodedSlice {
    pub payload: Vec<u8>,
    /// See [`UnitSymbols::check`].
    pub check: u16,
}

impl CodedUnit {
    /// Bytes of all payloads.
    pub fn length(&self) -> usize {
        self.slices.iter().map(|slice| slice.payload.len()).sum()
    }
}

impl UnitSymbols {
    /// 16-bit check value: the CRC-32 of the digits in order, then of the latents as big-endian i32, then of the residual, then of the
    /// camera where it has moved since the key unit, then of the motion, its halves added bit by bit.
    pub fn check(&self) -> u16 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.tokens.tokens.as_flattened());
        for value in self.latents.iter().flat_map(|(_, map)| &map.values) {
            hasher.update(&value.to_be_bytes());
        }
        if let Some(residual) = self.residual.as_ref().filter(|residual| residual.has_static()) {
            residual.check(&mut hasher);
        }
        if !self.camera.is_picture() {
            self.camera.check(&mut hasher);
        }
        self.camera.motion.check(&mut hasher);
        let crc = hasher.finalize();
        (crc >> 16 ^ crc) as u16
    }

    /// Goes on in another window, in which all macroblocks are neural and nothing moves.
    pub fn look(&mut self, window: Window) {
        if window == self.camera.window {
            return;
        }
        let view = window.view_of_tokens(&self.camera.window);
        self.tokens = self.tokens.seen(&view);
        if let Some((_, latents)) = &mut self.latents {
            *latents = latents.seen(&view);
        }
        if let Some(residual) = &mut self.residual {
            let (width, height) = window.macroblocks();
            *residual = ResidualMap::none(width, height);
        }
        self.camera.window = window;
        self.camera.motion = Motion::default();
    }

    /// Takes over what a slice has, which is nothing beyond its region.
    pub fn adopt(&mut self, slice: &UnitSymbols, region: Region) {
        let (width, height) = (self.tokens.width, self.tokens.height);
        let positions = (0..width * height).zip(region.positions(width, height));
        for at in positions.filter_map(|(at, is_in)| is_in.then_some(at)) {
            self.tokens.tokens[at] = slice.tokens.tokens[at];
            if let (Some((_, map)), Some((_, from))) = (&mut self.latents, &slice.latents) {
                let channels = at * map.channels..(at + 1) * map.channels;
                map.values[channels.clone()].copy_from_slice(&from.values[channels]);
            }
        }
        if let (Some(map), Some(from)) = (&mut self.residual, &slice.residual) {
            if from.has_static() {
                map.step = from.step;
            }
            let region = region.in_macroblocks(&self.camera.window);
            let positions = region.positions(map.width, map.height);
            let macroblocks = map.macroblocks.iter_mut().zip(&from.macroblocks).zip(positions);
            for ((macroblock, from), _) in macroblocks.filter(|(_, is_in)| *is_in) {
                macroblock.clone_from(from);
            }
        }
    }
}

impl WantedUnit<'_> {
    /// What a slice is to have.
    fn of(&self, region: Region) -> Self {
        let mut wanted = self.clone();
        if let Some(map) = &mut wanted.residual {
            let region = region.in_macroblocks(&wanted.camera.window);
            let positions = region.positions(map.width, map.height);
            for (macroblock, _) in map.macroblocks.iter_mut().zip(positions).filter(|(_, is_in)| !is_in) {
                *macroblock = Macroblock::Neural;
            }
        }
        wanted
    }
}

/// What encoder and decoder know of the units since the key unit, bit by bit the same.
#[derive(Clone, Debug, Default)]
pub struct CodingContext {
    /// `None` before the key unit.
    pub camera: Option<CameraContext>,
    pub motion: MotionContext,
    pub tokens: TokenContext,
    pub latents: LatentContext,
    pub residual: ResidualContext,
}

impl CodingContext {
    /// Codes the next unit in so many slices: 1, or an even number.
    pub fn encode(&self, models: ContextModels, wanted: WantedUnit, slices: u8) -> Result<CodedUnit, EntropyError> {
        let mut coded: Option<CodedUnit> = None;
        let context = self.seen_in(wanted.camera.window);
        for index in 0..slices {
            let region = Region::within(Slice { index, count: slices }, &wanted.camera.window);
            let mut coder = UnitEncoder::new();
            if let Some(before) = &self.camera {
                code_camera(&mut coder, before, &wanted.camera)?;
                let (window, motion) = (&wanted.camera.window, &wanted.camera.motion);
                code_motion(&mut coder, &context.motion, window, motion)?;
            }
            let (symbols, bits) = context.code(models, &mut coder, wanted.of(region), region)?;
            let slice = CodedSlice {
                check: symbols.check(),
                payload: coder.finish(),
            };
            let unit = coded.get_or_insert_with(|| CodedUnit {
                symbols: symbols.clone(),
                slices: vec![],
                residual_bits: 0,
            });
            unit.symbols.adopt(&symbols, region);
            unit.slices.push(slice);
            unit.residual_bits += bits;
        }
        coded.ok_or_else(|| EntropyError::Model("a unit without slices".into()))
    }

    /// Reads the next unit or a slice of it, of a stream with a grid; before the first one it is a key unit. Damaged bytes mostly give wrong
    /// symbols rather than an error: compare [`UnitSymbols::check`].
    pub fn decode(
        &self,
        models: ContextModels,
        payload: &[u8],
        grid: Grid,
        slice: Slice,
    ) -> Result<UnitSymbols, EntropyError> {
        let mut coder = UnitDecoder::new(payload);
        let (context, camera) = match &self.camera {
            None => (Cow::Borrowed(self), Camera::key(grid)),
            Some(before) => {
                let mut camera = code_camera(&mut coder, before, &Camera::still(before))?;
                let context = self.seen_in(camera.window);
                camera.motion = code_motion(&mut coder, &context.motion, &camera.window, &Motion::default())?;
                (context, camera)
            }
        };
        let region = Region::within(slice, &camera.window);
        let ((width, height), macroblocks) = (camera.window.tokens(), camera.window.macroblocks());
        let nothing = WantedUnit {
            tokens: TokenMap::zero(width, height),
            masking: Masking::None,
            choose: &as_wanted,
            latents: None,
            residual: self.camera.map(|_| ResidualMap::none(macroblocks.0, macroblocks.1)),
            camera,
        };
        Ok(context.code(models, &mut coder, nothing, region)?.0)
    }

    /// What is known, in another window: nothing of what comes in.
    pub fn seen_in(&self, window: Window) -> Cow<'_, CodingContext> {
        match self.camera {
            Some(before) if before.window() != window => {
                let mut seen = self.clone();
                seen.look(window);
                Cow::Owned(seen)
            }
            _ => Cow::Borrowed(self),
        }
    }

    /// What is known of macroblocks, in another window.
    pub fn known_macroblocks(&self, window: Window) -> ResidualContext {
        let mut known = self.residual.clone();
        if let Some(before) = self.camera.filter(|before| before.window() != window) {
            known.look(window.view_of_macroblocks(&before.window()).as_ref());
        }
        known
    }

    fn look(&mut self, window: Window) {
        let Some(from) = self.camera.map(|camera| camera.window()).filter(|from| *from != window) else {
            return;
        };
        let tokens = window.view_of_tokens(&from);
        self.motion.look(&from, &window);
        self.tokens.look(&tokens);
        self.latents.look(&tokens);
        self.residual.look(window.view_of_macroblocks(&from).as_ref());
    }

    /// What follows camera and motion in a payload: tokens, latents, residual, all in the unit's window. A decoder's `wanted` gives the sizes alone. A
    /// slice sees nothing of what is beyond its region, here and in the units before.
    fn code(
        &self,
        models: ContextModels,
        coder: &mut impl SymbolCoder,
        wanted: WantedUnit,
        region: Region,
    ) -> Result<(UnitSymbols, usize), EntropyError> {
        let context = self.seen_from(region);
        let WantedUnit {
            camera,
            mut tokens,
            masking,
            choose,
            latents,
            mut residual,
        } = wanted;
        models
            .tokens
            .code(coder, &context.tokens, (masking, choose), region, &mut tokens)?;
        let seen = (&tokens, &context.tokens);
        let latents = models
            .latents
            .map(|model| model.code(coder, &context.latents, seen, region, latents));
        let latents = latents.transpose()?;
        let before = coder.bits();
        if let Some(residual) = &mut residual {
            let region = region.in_macroblocks(&camera.window);
            code_residual(coder, &context.residual, region, residual)?;
        }
        let residual_bits = coder.bits() - before;
        let symbols = UnitSymbols {
            camera,
            tokens,
            latents,
            residual,
        };
        Ok((symbols, residual_bits))
    }

    /// Without what is beyond a region: masked tokens, latents of 0.
    pub fn seen_from(&self, region: Region) -> Cow<'_, CodingContext> {
        if region.is_whole() {
            return Cow::Borrowed(self);
        }
        let mut seen = self.clone();
        let tokens = [&mut seen.tokens.previous, &mut seen.tokens.older];
        for map in tokens.into_iter().flatten() {
            let positions = region.positions(map.width, map.height);
            let beyond = map.tokens.iter_mut().zip(positions).filter(|(_, is_in)| !is_in);
            beyond.for_each(|(token, _)| *token = MASKED);
        }
        let latents = [&mut seen.latents.previous, &mut seen.latents.older];
        for map in latents.into_iter().flatten() {
            let positions = region.positions(map.width, map.height);
            let values = map.values.chunks_mut(map.channels).zip(positions);
            values
                .filter(|(_, is_in)| !is_in)
                .for_each(|(values, _)| values.fill(0));
        }
        Cow::Owned(seen)
    }

    /// Makes a unit the previous one.
    pub fn push(&mut self, unit: &UnitSymbols) {
        self.look(unit.camera.window);
        self.camera = Some(unit.camera.context());
        self.tokens.push(unit.tokens.clone());
        if let Some((_, latents)) = &unit.latents {
            self.latents.push(latents.clone());
        }
        if let Some(residual) = &unit.residual {
            self.residual.push(residual);
        }
        let field = unit.camera.field();
        self.motion = unit.camera.motion.context(field.as_ref());
        if let Some(field) = field {
            let sources = field.sources(&unit.camera.window);
            self.tokens.follow(&sources);
            self.latents.follow(&sources);
        }
    }
}
