// SPDX-License-Identifier: MPL-2.0
//! What quantised latents cost while the networks learn: a stand-in for the context model, with gradients.

use tch::{nn, Kind, Tensor};

use crate::model::layers::Conv2d;

const WIDTH: i64 = 64;
const LEAST_SCALE: f64 = 0.04;
const LEAST_PROBABILITY: f64 = 1e-7;

/// Logistic distributions whose means and scales follow from the previous unit's latents and this unit's tokens.
pub struct LatentPrior {
    conv1: Conv2d,
    conv2: Conv2d,
    conv3: Conv2d,
    channels: i64,
}

impl LatentPrior {
    /// `digits`: channels of the codes.
    pub fn new(vs: nn::Path, channels: i64, digits: i64) -> LatentPrior {
        LatentPrior {
            conv1: Conv2d::new(&vs / "conv1", 2 * channels + digits + 1, WIDTH, 3, 1, 1.0),
            conv2: Conv2d::new(&vs / "conv2", WIDTH, WIDTH, 3, 1, 1.0),
            conv3: Conv2d::new(&vs / "conv3", WIDTH, 2 * channels, 1, 1, 1.0),
            channels,
        }
    }

    /// Cost in bits of each latent value, in the shape of `values`.
    ///
    /// `values, previous: [n * t, channels, h, w]` f32 in quantisation steps, those of this unit with noise in
    /// place of rounding and those of the unit before; `codes: [n * t, 6, h, w]`; `step`: size of a step.
    pub fn bits(&self, values: &Tensor, previous: &Tensor, codes: &Tensor, step: f64) -> Result<Tensor, tch::TchError> {
        let plane = codes.narrow(1, 0, 1).full_like(step.log2());
        let input = Tensor::f_cat(&[&previous.clamp(-4.0, 4.0), &(previous / 16.0), codes, &plane], 1)?;
        let hidden = self.conv1.forward(&input)?.f_silu()?;
        let hidden = self.conv2.forward(&hidden)?.f_silu()?;
        let out = self.conv3.forward(&hidden)?;
        let mean = out.narrow(1, 0, self.channels);
        let scale = out.narrow(1, self.channels, self.channels).softplus() + LEAST_SCALE;
        let centred = values - mean;
        let above = ((&centred + 0.5) / &scale).sigmoid();
        let below = ((&centred - 0.5) / &scale).sigmoid();
        let probability = (above - below).clamp_min(LEAST_PROBABILITY);
        Ok(-probability.to_kind(Kind::Float).log2())
    }
}
