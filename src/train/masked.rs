// SPDX-License-Identifier: MPL-2.0
//! Masked tokens while the networks learn: the decoder has to meet expectations, which lie between the tokens' values.

use std::cell::RefCell;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::SeedableRng;
use tch::{nn, Device, Kind, Tensor};

use super::checkpoint::Checkpoint;
use super::predictor_samples::draw_mask;
use crate::model::predictor::{Predictor, PREDICTOR_UNITS};
use crate::model::{fill, ModelConfig};

/// The predictor that a checkpoint has, as it is.
pub(super) struct MaskedTokens {
    predictor: Predictor,
    kind: Kind,
    rng: RefCell<StdRng>,
}

impl MaskedTokens {
    /// `None` where the checkpoint has no predictor yet.
    pub fn load(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        (device, kind): (Device, Kind),
        seed: u64,
    ) -> Result<Option<MaskedTokens>> {
        let weights = checkpoint.averages("predictor");
        let Some(shape) = config.predictor.filter(|_| !weights.is_empty()) else {
            return Ok(None);
        };
        let mut vs = nn::VarStore::new(device);
        let channels = config.continuous.as_ref().map_or(0, |c| c.channels);
        let predictor = Predictor::new(vs.root() / "predictor", &shape, &config.tokenizer.fsq_levels, channels);
        fill(&vs, &weights)?;
        vs.freeze();
        Ok(Some(MaskedTokens {
            predictor,
            kind,
            rng: RefCell::new(StdRng::seed_from_u64(seed)),
        }))
    }

    /// Masks tokens of the delta units of `n` clips and puts the predictor's expectations in their place, without
    /// latents to go by: digits `[n * t', 6, h', w']` f32 in the same shape, those that stay as they are. Gradients
    /// reach the tokens that stay.
    pub fn replace(&self, digits: &Tensor, n: i64) -> Result<Tensor> {
        let complete = tch::no_grad(|| self.restore(&digits.detach(), n))?;
        Ok(digits.f_where_self(&digits.f_eq_tensor(&complete)?, &complete)?)
    }

    fn restore(&self, digits: &Tensor, n: i64) -> Result<Tensor> {
        let size = digits.size();
        let units = digits
            .f_view([n, -1, size[1], size[2], size[3]])?
            .f_permute([1, 0, 3, 4, 2])?
            .f_contiguous()?
            .f_unbind(0)?;
        let mut complete = vec![units[0].shallow_clone()];
        let mut past = vec![units[0].f_to_kind(Kind::Int64)?];
        for (at, unit) in units.iter().enumerate().skip(1) {
            let masked = self.mask(&unit.f_to_kind(Kind::Int64)?, at as u32)?;
            let older = &past[(at + 1).saturating_sub(PREDICTOR_UNITS as usize)];
            let sequence = Tensor::f_stack(&[older, &past[at - 1], &masked], 1)?;
            let expected = self.predictor.restore(&sequence, None, self.kind)?;
            past.push(expected.f_round()?.f_to_kind(Kind::Int64)?);
            complete.push(expected);
        }
        Ok(Tensor::f_stack(&complete, 1)?
            .f_permute([0, 1, 4, 2, 3])?
            .f_reshape(size.as_slice())?)
    }

    /// A mask for each clip of a unit `[n, h, w, 6]`.
    fn mask(&self, unit: &Tensor, at: u32) -> Result<Tensor> {
        let rng = &mut self.rng.borrow_mut();
        let clips = unit.f_unbind(0)?;
        let masked: Vec<Tensor> = clips.iter().map(|clip| draw_mask(clip, at, rng)).collect();
        Ok(Tensor::f_stack(&masked, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::FSQ_LEVELS;
    use crate::model::PredictorConfig;
    use std::path::Path;

    #[test]
    fn key_units_stay_and_gradients_reach_the_tokens_that_are_sent() {
        tch::manual_seed(4);
        let vs = nn::VarStore::new(Device::Cpu);
        let levels = FSQ_LEVELS.map(i64::from);
        let masked = MaskedTokens {
            predictor: Predictor::new(vs.root(), &PredictorConfig::tiny(), &levels, 0),
            kind: Kind::Float,
            rng: RefCell::new(StdRng::seed_from_u64(1)),
        };
        let digits: Vec<_> = levels
            .iter()
            .map(|&l| Tensor::randint(l, [6, 4, 5], (Kind::Float, Device::Cpu)))
            .collect();
        let digits = Tensor::stack(&digits, 1).set_requires_grad(true);
        let replaced = masked.replace(&digits, 2).unwrap();
        replaced.sum(Kind::Float).backward();
        let grad = digits.grad();
        for (at, is_key) in [true, false, false, true, false, false].into_iter().enumerate() {
            let stays = replaced.get(at as i64).eq_tensor(&digits.get(at as i64));
            assert_eq!(bool::try_from(stays.all()).unwrap(), is_key);
            assert_eq!(grad.get(at as i64), stays.to_kind(Kind::Float));
        }
    }

    #[test]
    fn the_built_in_model_has_what_it_takes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tvc-small.safetensors");
        let checkpoint = Checkpoint::from_model(&path).unwrap();
        let config = checkpoint.config().unwrap().unwrap();
        assert!(MaskedTokens::load(&checkpoint, &config, (Device::Cpu, Kind::Float), 0)
            .unwrap()
            .is_some());
    }
}
