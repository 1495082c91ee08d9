// SPDX-License-Identifier: MPL-2.0
//! The symbols of an access unit: what is coded, in which order, and the check value over it. Encoder and decoder run the same code.

use super::latents::{LatentContext, LatentContextModel, LatentMap, LatentMode, WantedLatents};
use super::range_coder::{SymbolCoder, UnitDecoder, UnitEncoder};
use super::residual::{code_residual, ResidualContext, ResidualMap};
use super::tokens::{ContextModel, Masking, TokenContext, TokenMap};
use super::EntropyError;

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
    pub tokens: TokenMap,
    /// How they are coded, and they; `None`: the model has none.
    pub latents: Option<(LatentMode, LatentMap)>,
    /// `None` in a key unit.
    pub residual: Option<ResidualMap>,
}

/// Symbols that an encoder wants to have coded.
pub struct WantedUnit<'a> {
    /// [`super::MASKED`] where a token is not sent, as `masking` says.
    pub tokens: TokenMap,
    pub masking: Masking,
    /// Needed where the model has any.
    pub latents: Option<(LatentMode, WantedLatents<'a>)>,
    /// `None` in a key unit.
    pub residual: Option<ResidualMap>,
}

/// A unit as it was coded.
pub struct CodedUnit {
    /// As the decoder will have them.
    pub symbols: UnitSymbols,
    pub payload: Vec<u8>,
    /// Bits of the payload that the residual takes.
    pub residual_bits: usize,
}

impl UnitSymbols {
    /// 16-bit check value: the CRC-32 of the digits in order, then of the latents as big-endian i32, then of the residual, its
    /// halves added bit by bit.
    pub fn check(&self) -> u16 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.tokens.tokens.as_flattened());
        for value in self.latents.iter().flat_map(|(_, map)| &map.values) {
            hasher.update(&value.to_be_bytes());
        }
        if let Some(residual) = self.residual.as_ref().filter(|residual| residual.has_static()) {
            residual.check(&mut hasher);
        }
        let crc = hasher.finalize();
        (crc >> 16 ^ crc) as u16
    }
}

/// What encoder and decoder know of the units since the key unit, bit by bit the same.
#[derive(Clone, Debug, Default)]
pub struct CodingContext {
    pub tokens: TokenContext,
    pub latents: LatentContext,
    pub residual: ResidualContext,
}

impl CodingContext {
    /// Codes the next unit.
    pub fn encode(&self, models: ContextModels, wanted: WantedUnit) -> Result<CodedUnit, EntropyError> {
        let mut coder = UnitEncoder::new();
        let (symbols, residual_bits) = self.code(models, &mut coder, wanted)?;
        Ok(CodedUnit {
            symbols,
            payload: coder.finish(),
            residual_bits,
        })
    }

    /// Reads the next unit. `tokens`: width and height in tokens; `macroblocks`: in macroblocks, `None` in a key unit. Damaged
    /// bytes mostly give wrong symbols rather than an error: compare [`UnitSymbols::check`].
    pub fn decode(
        &self,
        models: ContextModels,
        payload: &[u8],
        tokens: (usize, usize),
        macroblocks: Option<(usize, usize)>,
    ) -> Result<UnitSymbols, EntropyError> {
        let nothing = WantedUnit {
            tokens: TokenMap::zero(tokens.0, tokens.1),
            masking: Masking::None,
            latents: None,
            residual: macroblocks.map(|(width, height)| ResidualMap::none(width, height)),
        };
        Ok(self.code(models, &mut UnitDecoder::new(payload), nothing)?.0)
    }

    /// The order of the payload: tokens, latents, residual. A decoder's `wanted` gives the sizes alone.
    fn code(
        &self,
        models: ContextModels,
        coder: &mut impl SymbolCoder,
        wanted: WantedUnit,
    ) -> Result<(UnitSymbols, usize), EntropyError> {
        let WantedUnit {
            mut tokens,
            masking,
            latents,
            mut residual,
        } = wanted;
        models.tokens.code(coder, &self.tokens, masking, &mut tokens)?;
        let seen = (&tokens, &self.tokens);
        let latents = models
            .latents
            .map(|model| model.code(coder, &self.latents, seen, latents));
        let latents = latents.transpose()?;
        let before = coder.bits();
        if let Some(residual) = &mut residual {
            code_residual(coder, &self.residual, residual)?;
        }
        let residual_bits = coder.bits() - before;
        let symbols = UnitSymbols {
            tokens,
            latents,
            residual,
        };
        Ok((symbols, residual_bits))
    }

    /// Makes a unit the previous one.
    pub fn push(&mut self, unit: &UnitSymbols) {
        self.tokens.push(unit.tokens.clone());
        if let Some((_, latents)) = &unit.latents {
            self.latents.push(latents.clone());
        }
        if let Some(residual) = &unit.residual {
            self.residual.push(residual);
        }
    }
}
