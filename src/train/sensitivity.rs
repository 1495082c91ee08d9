// SPDX-License-Identifier: MPL-2.0
//! What errors in the digits of tokens do to the picture: what the encoder weighs them by when it chooses digits.

use std::path::Path;

use anyhow::{ensure, Context, Result};
use tch::{no_grad, Device, Kind, Tensor};

use super::samples::{SampleShape, Sampler};
use super::stage::quads_to_rgb;
use crate::bitstream::FSQ_LEVELS;
use crate::entropy::DIGITS;
use crate::media::Clip;
use crate::metrics::Lpips;
use crate::model::picture::{self, Ycbcr};
use crate::model::{Fusion, Model, StreamState, Tokenizer};

const SAMPLES: SampleShape = SampleShape {
    batch: 2,
    frames: 17,
    size: 128,
};
/// Quantisation step of the latents: a coarse one, where digits matter most.
const LATENT_STEP: f64 = 4.0;
/// Share of the tokens that get an error, as far as all their digits may have one.
const SHARE: f64 = 0.25;
/// LPIPS is that of every n-th frame.
const SCORED_EVERY: i64 = 4;
/// The widest steps of 8-bit samples are half of their range.
const HALF_RANGE: f64 = 127.5;

/// What errors of a step each in two digits of a token do together, for every pair of digits: those of one digit stand on the diagonal.
pub type Metric = [[f64; DIGITS]; DIGITS];

/// Measures it on `rounds` batches of samples: squared error of luma, 8 bits, and LPIPS, both summed over the pictures and divided by the number
/// of tokens with an error. Errors are of random sign, one and the same for both digits of a pair. Fails if a file cannot be read or the
/// model has no latents.
pub fn run(model: &Model, clips: Vec<Clip>, lpips: &Path, rounds: usize, seed: u64) -> Result<[Metric; 2]> {
    ensure!(!clips.is_empty(), "no clips");
    ensure!(rounds > 0, "no rounds");
    tch::manual_seed(seed as i64);
    let lpips = Lpips::load(lpips, Device::Cpu, Kind::Float)?;
    let mut sampler = Sampler::new(clips, Device::Cpu, seed);
    let mut sums = [Metric::default(); 2];
    for _ in 0..rounds {
        let found = no_grad(|| measure(model, &lpips, &sampler.batch(SAMPLES)))?;
        for (sum, found) in sums.iter_mut().zip(found) {
            let pairs = sum.as_flattened_mut().iter_mut().zip(found.as_flattened());
            pairs.for_each(|(sum, found)| *sum += found / rounds as f64);
        }
    }
    Ok(sums)
}

/// A batch's tokens and latents, and what is painted from them.
struct Painted<'a> {
    tokenizer: &'a Tokenizer,
    fusion: &'a Fusion,
    digits: Tensor,
    latents: Tensor,
}

fn measure(model: &Model, lpips: &Lpips, xs: &Tensor) -> Result<[Metric; 2]> {
    let painted = Painted::new(model, xs)?;
    let base = painted.paint(&painted.digits)?;
    let signs = signs(&painted.digits)?;
    let count = f64::try_from(signs.abs().sum(Kind::Float))?;
    let rgb = |quads: &Tensor| quads_to_rgb(&quads.slice(1, SCORED_EVERY, None, SCORED_EVERY).flatten(0, 1));
    let (samples, scored) = ((base.numel() * 2 / 3) as f64, rgb(&base)?);
    let errors = |digits: &[usize]| -> Result<[f64; 2]> {
        let wrong = painted.digits.copy();
        for &digit in digits {
            let _ = wrong.narrow(1, digit as i64, 1).f_add_(&signs)?;
        }
        let quads = painted.paint(&wrong)?;
        let luma = (&quads - &base).narrow(2, 0, 4) * HALF_RANGE;
        let squared = f64::try_from(luma.square().mean(Kind::Float))? * samples;
        let distance = f64::try_from(lpips.distance(&rgb(&quads)?, &scored)?.mean(Kind::Float))? * samples;
        Ok([squared / count, distance / count])
    };
    let mut alone = [[0.0; 2]; DIGITS];
    for (digit, errors_of_it) in alone.iter_mut().enumerate() {
        *errors_of_it = errors(&[digit])?;
    }
    let mut metrics = [Metric::default(); 2];
    for first in 0..DIGITS {
        for (measure, metric) in metrics.iter_mut().enumerate() {
            metric[first][first] = alone[first][measure];
        }
        for second in first + 1..DIGITS {
            let both = errors(&[first, second])?;
            for (measure, metric) in metrics.iter_mut().enumerate() {
                let together = (both[measure] - alone[first][measure] - alone[second][measure]) / 2.0;
                metric[first][second] = together;
                metric[second][first] = together;
            }
        }
    }
    Ok(metrics)
}

/// Errors for some of the tokens, 1 or -1 in all digits, 0 for the others: `[n, 1, h, w]` for `digits: [n, 6, h, w]`.
fn signs(digits: &Tensor) -> Result<Tensor> {
    let (n, _, h, w) = digits.size4()?;
    let random = || Tensor::rand([n, 1, h, w], (Kind::Float, Device::Cpu));
    let signs = (random().gt(0.5).to_kind(Kind::Float) * 2.0 - 1.0) * random().lt(SHARE).to_kind(Kind::Float);
    // Only where all digits stay within their values: there is nothing beyond.
    let levels = Tensor::from_slice(&FSQ_LEVELS.map(f32::from)).view([1, -1, 1, 1]);
    let wrong = digits + &signs;
    let is_low = wrong.lt_tensor(&(levels - 0.5));
    let is_legal = wrong.ge(-0.5).logical_and(&is_low).all_dim(1, true);
    Ok(signs * is_legal.to_kind(Kind::Float))
}

impl Painted<'_> {
    /// Tokens and latents of quad pictures, rounded.
    fn new<'a>(model: &'a Model, xs: &Tensor) -> Result<Painted<'a>> {
        let tokenizer = &model.tokenizer;
        let fusion = &model.continuous.as_ref().context("the model has no latents")?.fusion;
        let pictures = picture::to_network(xs, tokenizer.config.colour(), Ycbcr::BT601)?;
        let state = &mut StreamState::default();
        let (zs, features) = tokenizer.encode_with_features(&pictures, Kind::Float, state)?;
        let latents = fusion.encode(&features, SAMPLES.batch, &mut StreamState::default())?;
        Ok(Painted {
            tokenizer,
            fusion,
            digits: tokenizer.fsq.round(&tokenizer.fsq.bound(&zs)?)?,
            latents: (latents / LATENT_STEP).round() * LATENT_STEP,
        })
    }

    /// Quad pictures of digits, with the latents.
    fn paint(&self, digits: &Tensor) -> Result<Tensor> {
        let (tokenizer, fusion) = (self.tokenizer, self.fusion);
        let (n, kind) = (SAMPLES.batch, Kind::Float);
        let codes = tokenizer.fsq.codes(digits)?;
        let control = fusion.control(&codes, &self.latents, n, kind, &mut StreamState::default())?;
        let ys = tokenizer.decode_controlled(&codes, &control, n, kind, &mut StreamState::default())?;
        Ok(picture::from_network(&ys, tokenizer.config.colour(), Ycbcr::BT601)?)
    }
}
