// SPDX-License-Identifier: MPL-2.0
//! What stands where a token was not sent.

use tch::{Kind, Tensor};

use crate::bitstream::{MotionField, View, Window};
use crate::codec::geometry::NEIGHBOURS;
use crate::codec::CodecError;
use crate::entropy::{LatentMap, TokenMap, LATENT_SCALE, MASKED};
use crate::model::predictor::PREDICTOR_UNITS;
use crate::model::{seen, Model};

/// What a masked token is taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaskedTokens {
    /// The predictor's expectation, or the unit before where the model has no predictor.
    #[default]
    Predicted,
    /// The same place in the unit before.
    Repeated,
    /// The nearest token of this unit that was sent.
    Nearest,
}

/// The units before, complete.
#[derive(Debug, Default)]
pub struct MaskedTokenPrediction {
    masked_tokens: MaskedTokens,
    /// Oldest first, at most two.
    past: Vec<Unit>,
}

/// A unit as the predictor takes it.
#[derive(Debug)]
struct Unit {
    /// `[h, w, 6]` i64.
    digits: Tensor,
    /// `[h, w, channels]` f32, where the model has latents.
    latents: Option<Tensor>,
}

impl Unit {
    fn new(model: &Model, tokens: &TokenMap, latents: Option<&LatentMap>) -> Result<Unit, CodecError> {
        let size = [tokens.height as i64, tokens.width as i64, -1];
        let digits = Tensor::f_from_slice(tokens.tokens.as_flattened())?
            .f_view(size)?
            .f_to_kind(Kind::Int64)?
            .f_to_device(model.device)?;
        let latents = match latents {
            Some(latents) => Some(
                Tensor::f_from_slice(&latents.values)?
                    .f_view(size)?
                    .f_to_kind(Kind::Float)?
                    .f_mul_scalar(1.0 / f64::from(LATENT_SCALE))?
                    .f_to_device(model.device)?,
            ),
            None => None,
        };
        Ok(Unit { digits, latents })
    }

    /// What another window sees of it.
    fn seen(&self, view: &View) -> Result<Unit, tch::TchError> {
        let seen = |xs: &Tensor| seen(xs, 0, view);
        Ok(Unit {
            digits: seen(&self.digits)?,
            latents: self.latents.as_ref().map(seen).transpose()?,
        })
    }

    /// Moves with what a unit's window shows.
    fn follow(&mut self, sources: &Tensor) -> Result<(), tch::TchError> {
        let moved = |xs: &Tensor| {
            xs.f_flatten(0, 1)?
                .f_index_select(0, sources)?
                .f_view(xs.size().as_slice())
        };
        self.digits = moved(&self.digits)?;
        self.latents = self.latents.as_ref().map(moved).transpose()?;
        Ok(())
    }

    /// Where tokens were not sent: `[h, w, 1]`.
    fn masked(&self) -> Result<Tensor, tch::TchError> {
        self.digits.f_select(2, 0)?.f_ge(i64::from(MASKED[0]))?.f_unsqueeze(2)
    }
}

/// A unit for the pixel decoder.
#[derive(Debug)]
pub struct CompleteUnit {
    /// Real-valued digits, `[1, 6, h, w]` f32.
    pub digits: Tensor,
    /// `[1, channels, h, w]` f32.
    pub latents: Option<Tensor>,
}

impl MaskedTokenPrediction {
    pub fn new(masked_tokens: MaskedTokens) -> MaskedTokenPrediction {
        MaskedTokenPrediction {
            masked_tokens,
            past: Vec::new(),
        }
    }

    /// What another window sees of the units before. `view`: of the token map.
    pub fn seen(&self, view: &View) -> Result<MaskedTokenPrediction, CodecError> {
        Ok(MaskedTokenPrediction {
            masked_tokens: self.masked_tokens,
            past: self.past.iter().map(|unit| unit.seen(view)).collect::<Result<_, _>>()?,
        })
    }

    /// Moves with what the last unit's window shows.
    pub fn follow(&mut self, field: &MotionField, window: &Window) -> Result<(), CodecError> {
        let Some(first) = self.past.first() else { return Ok(()) };
        let sources: Vec<i64> = field.sources(window).into_iter().map(|at| at as i64).collect();
        let sources = Tensor::f_from_slice(&sources)?.f_to_device(first.digits.device())?;
        Ok(self.past.iter_mut().try_for_each(|unit| unit.follow(&sources))?)
    }

    /// Takes the next unit and fills in its masked tokens. `lost`: positions whose latents are lost and only stood in for, row by row; empty
    /// where none are.
    pub fn push(
        &mut self,
        model: &Model,
        tokens: &TokenMap,
        latents: Option<&LatentMap>,
        lost: &[bool],
    ) -> Result<CompleteUnit, CodecError> {
        let _no_grad = tch::no_grad_guard();
        let mut unit = Unit::new(model, tokens, latents)?;
        let mut digits = unit.digits.f_to_kind(Kind::Float)?;
        let is_first = self.past.is_empty();
        if tokens.tokens.contains(&MASKED) {
            if self.past.is_empty() {
                // A key unit of which a slice is lost: its neighbours are all that there is.
                self.past.push(Unit::new(model, &nearest_tokens(tokens), latents)?);
            }
            digits = match self.masked_tokens {
                MaskedTokens::Predicted if model.predictor.is_some() => self.restore(model, &mut unit, lost)?,
                MaskedTokens::Nearest => Unit::new(model, &nearest_tokens(tokens), None)?
                    .digits
                    .f_to_kind(Kind::Float)?,
                _ => self.repeat(&unit)?.f_to_kind(Kind::Float)?,
            };
            unit.digits = digits.f_round()?.f_to_kind(Kind::Int64)?;
        }
        let image = |xs: &Tensor| xs.f_permute([2, 0, 1])?.f_unsqueeze(0);
        let complete = CompleteUnit {
            digits: image(&digits)?,
            latents: unit.latents.as_ref().map(image).transpose()?,
        };
        self.past.push(unit);
        if is_first {
            self.past.drain(..self.past.len() - 1);
        }
        if self.past.len() as i64 >= PREDICTOR_UNITS {
            self.past.remove(0);
        }
        Ok(complete)
    }

    /// How far from the truth each token would be if it were masked and its four neighbours not: squared error
    /// over the digits, each in shares of its range.
    pub fn errors(
        &self,
        model: &Model,
        tokens: &TokenMap,
        latents: Option<&LatentMap>,
    ) -> Result<Vec<f32>, CodecError> {
        let _no_grad = tch::no_grad_guard();
        let truth = Unit::new(model, tokens, latents)?;
        let expected = match &model.predictor {
            Some(_) => {
                // Two complementary halves: every token is masked in one of them.
                let half = |parity: usize| {
                    let mut half = tokens.clone();
                    for at in 0..half.tokens.len() {
                        if (at % half.width + at / half.width) % 2 == parity {
                            half.tokens[at] = MASKED;
                        }
                    }
                    Unit::new(model, &half, latents)
                };
                let (even, odd) = (half(0)?, half(1)?);
                let (both, _) = self.predict(model, &[&even, &odd])?;
                both.f_select(0, 0)?
                    .f_where_self(&even.masked()?, &both.f_select(0, 1)?)?
            }
            None => self.past_digits(&truth).f_to_kind(Kind::Float)?,
        };
        let range = Tensor::f_from_slice(&MASKED.map(|levels| f32::from(levels - 1)))?.f_to_device(model.device)?;
        let difference = expected.f_sub(&truth.digits)?.f_div(&range)?;
        let errors = difference
            .f_square()?
            .f_sum_dim_intlist([2i64].as_slice(), false, Kind::Float)?;
        Ok(Vec::try_from(errors.f_to_device(tch::Device::Cpu)?.f_flatten(0, -1)?)?)
    }

    /// Expected digits of the next unit, `[h, w, 6]` f32; its lost latents become what is expected of them.
    fn restore(&self, model: &Model, unit: &mut Unit, lost: &[bool]) -> Result<Tensor, CodecError> {
        let (digits, latents) = self.predict(model, &[unit])?;
        if let Some((latents, expected)) = unit.latents.as_mut().zip(latents).filter(|_| !lost.is_empty()) {
            let (h, w, _) = latents.size3()?;
            let is_lost = Tensor::f_from_slice(lost)?
                .f_view([h, w, 1])?
                .f_to_device(model.device)?;
            *latents = expected.f_squeeze_dim(0)?.f_where_self(&is_lost, latents)?;
        }
        Ok(digits.f_squeeze_dim(0)?)
    }

    /// Runs the predictor over variants of the next unit: their digits, `[n, h, w, 6]` f32, and latents, `[n, h, w, channels]` f32, where
    /// it predicts any.
    fn predict(&self, model: &Model, variants: &[&Unit]) -> Result<(Tensor, Option<Tensor>), CodecError> {
        let predictor = model.predictor.as_ref().ok_or(CodecError::NoKeyUnit)?;
        let stack = |part: fn(&Unit) -> Option<&Tensor>| -> Result<Option<Tensor>, tch::TchError> {
            let sequences = variants.iter().map(|variant| {
                let first = self.past.first().unwrap_or(variant);
                let last = self.past.last().unwrap_or(variant);
                let units = [part(first), part(last), part(variant)];
                let units: Option<Vec<&Tensor>> = units.into_iter().collect();
                units.map(|units| Tensor::f_stack(&units, 0)).transpose()
            });
            let sequences: Option<Vec<Tensor>> = sequences.collect::<Result<_, _>>()?;
            sequences.map(|all| Tensor::f_stack(&all, 0)).transpose()
        };
        let digits = stack(|unit| Some(&unit.digits))?.ok_or(CodecError::NoKeyUnit)?;
        let latents = stack(|unit| unit.latents.as_ref())?;
        let prediction = predictor.predict(&digits, latents.as_ref(), model.kind)?;
        Ok((predictor.complete(&digits, &prediction)?, prediction.latents))
    }

    fn past_digits<'a>(&'a self, unit: &'a Unit) -> &'a Tensor {
        self.past.last().map_or(&unit.digits, |before| &before.digits)
    }

    /// The unit with masked tokens from the unit before.
    fn repeat(&self, unit: &Unit) -> Result<Tensor, CodecError> {
        Ok(self.past_digits(unit).f_where_self(&unit.masked()?, &unit.digits)?)
    }
}

/// The map with every masked token replaced by the nearest one that is not, in steps up, down and sideways.
pub fn nearest_tokens(tokens: &TokenMap) -> TokenMap {
    let mut filled = tokens.clone();
    loop {
        let known = filled.clone();
        let found = |at: usize| {
            let (x, y) = ((at % known.width) as isize, (at / known.width) as isize);
            let mut neighbours = NEIGHBOURS.iter().filter_map(|(dx, dy)| known.get(x + dx, y + dy));
            neighbours.find(|token| **token != MASKED).copied()
        };
        let masked = (0..known.tokens.len()).filter(|&at| known.tokens[at] == MASKED);
        let steps: Vec<_> = masked.map(|at| (at, found(at))).collect();
        if steps.iter().all(|(_, token)| token.is_none()) {
            steps.iter().for_each(|(at, _)| filled.tokens[*at] = [0; 6]);
            return filled;
        }
        for (at, token) in steps {
            filled.tokens[at] = token.unwrap_or(MASKED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_token_stands_in() {
        let mut map = TokenMap::zero(3, 2);
        map.tokens = vec![[1; 6], MASKED, [2; 6], MASKED, MASKED, MASKED];
        let filled = nearest_tokens(&map);
        assert_eq!(filled.tokens, [[1; 6], [1; 6], [2; 6], [1; 6], [1; 6], [2; 6]]);
    }
}
