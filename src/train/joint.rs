// SPDX-License-Identifier: MPL-2.0
//! The continuous stream beside the tokenizer in training: latents with noise, their cost, and the fusion.

use anyhow::Result;
use tch::{nn, Kind, Tensor};

use super::latent_prior::LatentPrior;
use crate::model::{Fusion, ModelConfig, StreamState};

/// Base-2 logarithms of the steps that the networks learn, those that the codec's quantizers use.
const LOG2_STEPS: [f64; 2] = [-1.5, 3.0];
/// Samples of a picture per token: 8 frames of 16x16.
const SAMPLES_PER_TOKEN: f64 = 2048.0;

/// What rate and distortion are worth.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "joint-weights")]
pub struct Weights {
    /// What one bit per sample costs at a quantisation step of 1; the price grows with the step.
    #[arg(long, default_value_t = 5.0)]
    pub rate_weight: f64,
    /// Share of the run over which that price rises from nothing: latents must be worth something before they
    /// cost.
    #[arg(long, default_value_t = 0.2)]
    pub rate_ramp: f64,
    /// The learning rate of the continuous stream, in that of the tokenizer.
    #[arg(long, default_value_t = 2.0)]
    pub fusion_lr: f64,
    /// That of the convolutions that join the control branch to the decoder: they start at zero, and nothing behind
    /// them learns before they have grown.
    #[arg(long, default_value_t = 16.0)]
    pub join_lr: f64,
    /// Share of the steps without the control branch, which keep the discrete stream good on its own.
    #[arg(long, default_value_t = 0.35)]
    pub discrete_share: f64,
    /// Share of the steps whose latents are lost: decoders meet units that carry none.
    #[arg(long, default_value_t = 0.12)]
    pub lost_share: f64,
    /// Share of those in which tokens are masked too, and predicted as far as the checkpoint has a predictor.
    #[arg(long, default_value_t = 0.5)]
    pub masked_share: f64,
    /// Share of the steps whose tokens and latents are what the codec's encoder, with the model of --model, sends at one of its quantizers: digits
    /// that keep their value because it is nearly right, positions that are skipped, coarse latents or none. They teach the decoder alone.
    #[arg(long, default_value_t = 0.0)]
    pub sent_share: f64,
}

/// The networks of the continuous stream.
pub struct Joint {
    pub fusion: Fusion,
    prior: LatentPrior,
    pub weights: Weights,
}

/// Latents as the decoder gets them.
pub struct Latents {
    /// `[n * t', channels, h', w']`
    pub values: Tensor,
    /// Mean cost, bits per sample of the pictures.
    pub rate: Tensor,
}

impl Joint {
    /// `None` where the model has no continuous stream.
    pub fn new(vs: &nn::Path, config: &ModelConfig, weights: Weights) -> Option<Joint> {
        let continuous = config.continuous.as_ref()?;
        let digits = config.tokenizer.fsq_levels.len() as i64;
        Some(Joint {
            fusion: Fusion::new(vs / "fusion", continuous, &config.tokenizer),
            prior: LatentPrior::new(vs / "prior", continuous.channels, digits),
            weights,
        })
    }

    /// What one bit per sample costs at a quantisation step and a share of the run.
    pub fn price(&self, step: f64, progress: f64) -> f64 {
        self.weights.rate_weight * step * (progress / self.weights.rate_ramp.max(1e-9)).min(1.0)
    }

    /// A step for a batch, evenly spread over the octaves.
    pub fn draw_step() -> f64 {
        let [finest, coarsest] = LOG2_STEPS;
        (finest + uniform() * (coarsest - finest)).exp2()
    }

    /// Real-valued latents `[n * t', channels, h', w']` of `n` clips.
    fn encode(&self, features: &Tensor, n: i64) -> Result<Tensor> {
        Ok(self.fusion.encode(features, n, &mut StreamState::default())?)
    }

    /// Encodes and rounds, the gradient passed straight through; the cost is that of values with noise in place of
    /// rounding (Balle et al., "End-to-end Optimized Image Compression", 2017). `features` and `codes` are the
    /// tokenizer's of `n` clips.
    pub fn latents(&self, features: &Tensor, codes: &Tensor, n: i64, step: f64) -> Result<Latents> {
        let ys = self.encode(features, n)? / step;
        let rounded = ys.detach().round();
        let noisy = &ys + ys.detach().rand_like() - 0.5;
        let previous = previous_unit(&rounded, n);
        let bits = self.prior.bits(&noisy, &previous, &codes.detach(), step)?;
        let per_token = bits
            .sum_dim_intlist([1i64].as_slice(), false, Kind::Float)
            .mean(Kind::Float);
        Ok(Latents {
            values: (&ys + (rounded - &ys).detach()) * step,
            rate: per_token / SAMPLES_PER_TOKEN,
        })
    }

    /// What stands for latents that are not sent; `codes: [n * t', 6, h', w']`.
    pub fn no_latents(&self, codes: &Tensor) -> Tensor {
        let size = codes.size();
        Tensor::zeros(
            [size[0], self.fusion.config.channels, size[2], size[3]],
            (Kind::Float, codes.device()),
        )
    }

    /// What the control branch adds to the decoder's levels.
    pub fn control(&self, codes: &Tensor, latents: &Tensor, n: i64, kind: Kind) -> Result<Vec<Tensor>> {
        Ok(self
            .fusion
            .control(codes, latents, n, kind, &mut StreamState::default())?)
    }
}

/// The values of the unit before each unit, zeros before the first: `xs: [n * t, c, h, w]`, same shape out.
fn previous_unit(xs: &Tensor, n: i64) -> Tensor {
    let size = xs.size();
    let units = xs.view([n, -1, size[1], size[2], size[3]]);
    let t = units.size()[1];
    let first = units.narrow(1, 0, 1).zeros_like();
    Tensor::cat(&[first, units.narrow(1, 0, t - 1)], 1).view(size.as_slice())
}

/// A random number in [0, 1).
pub fn uniform() -> f64 {
    f64::try_from(Tensor::rand([], (Kind::Double, tch::Device::Cpu))).expect("one number")
}
