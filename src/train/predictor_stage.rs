// SPDX-License-Identifier: MPL-2.0
//! Stage 4: the transformer that predicts masked tokens, on the tokens and latents of trained networks.

use std::cell::RefCell;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tch::{nn, Kind, Tensor};

use super::checkpoint::Checkpoint;
use super::optimizer::Optimizer;
use super::segments::{learn, Learned, Networks, Options, Segment, MAX_HOLD};
use crate::bitstream::{Slice, FSQ_LEVELS};
use crate::codec::{DEFAULT_QUANTIZER, MAX_QUANTIZER};
use crate::entropy::{pattern_masks, Region, LATENT_SCALE, LATENT_STEPS, MASKED};
use crate::media::Clip;
use crate::model::predictor::{Predictor, PREDICTOR_UNITS};
use crate::model::PredictorConfig;

/// Share of the samples without latents: masking is for rates at which none are sent.
const WITHOUT_LATENTS: f64 = 0.6;

/// Share of the samples of which a slice or all is lost: of those the latents are lost as well, and the decoder keeps those of the unit before.
const LOST_SHARE: f64 = 0.5;
/// Share of those of which all is lost.
const WHOLE_SHARE: f64 = 0.5;

/// A batch for the predictor.
struct Samples {
    /// `[n, 3, h, w, 6]` i64, the last unit partly masked.
    digits: Tensor,
    /// `[n, 3, h, w, channels]` f32.
    latents: Option<Tensor>,
    /// `[n, h, w, 6]` i64: the last unit as it is.
    truth: Tensor,
}

impl Samples {
    /// Delta units of one segment, each with a mask of its own.
    fn draw(segment: &Segment, count: usize, rng: &mut StdRng) -> Samples {
        let units: Vec<usize> = (0..count).map(|_| rng.random_range(1..segment.tokens.len())).collect();
        let truth: Vec<&Tensor> = units.iter().map(|&at| &segment.tokens[at]).collect();
        let (mut digits, mut all_latents) = (vec![], vec![]);
        for &at in &units {
            let (older, previous) = (&segment.tokens[at.saturating_sub(2)], &segment.tokens[at - 1]);
            let lost = rng.random_bool(LOST_SHARE).then(|| draw_loss(&segment.tokens[at], rng));
            let masked = match &lost {
                Some(lost) => lost.1.shallow_clone(),
                None => draw_mask(&segment.tokens[at], at as u32, rng),
            };
            digits.push(Tensor::stack(&[older, previous, &masked], 0));
            if let Some(units) = latents(segment, at, rng) {
                let last = units.select(0, PREDICTOR_UNITS - 1);
                let kept = lost.map(|(is_lost, _)| units.select(0, PREDICTOR_UNITS - 2).where_self(&is_lost, &last));
                let known = units.narrow(0, 0, PREDICTOR_UNITS - 1);
                all_latents.push(Tensor::cat(&[known, kept.unwrap_or(last).unsqueeze(0)], 0));
            }
        }
        let latents = (!all_latents.is_empty()).then_some(all_latents);
        Samples {
            digits: Tensor::stack(&digits, 0),
            latents: latents.map(|all| Tensor::stack(&all, 0)),
            truth: Tensor::stack(&truth, 0),
        }
    }
}

/// The latents of a unit and the two before at some step, or none: `[3, h, w, channels]` f32.
fn latents(segment: &Segment, at: usize, rng: &mut StdRng) -> Option<Tensor> {
    let step = rng.random_range(0..LATENT_STEPS);
    let known = segment.quantised(&Vec::from_iter(0..=at), step, rng.random_range(0.0..MAX_HOLD))?;
    let units = [at.saturating_sub(2), at - 1, at].map(|unit| &known[unit].values);
    let stacked = Tensor::stack(&units, 0).to_kind(Kind::Float) / f64::from(LATENT_SCALE);
    Some(match rng.random_bool(WITHOUT_LATENTS) {
        true => stacked.zeros_like(),
        false => stacked,
    })
}

/// Loses every second of the tokens `[h, w, 6]`, as of two slices one may be, or all: which ones, `[h, w, 1]`, and the map without them.
fn draw_loss(tokens: &Tensor, rng: &mut StdRng) -> (Tensor, Tensor) {
    let (h, w, _) = tokens.size3().expect("a map has three dimensions");
    let lost = match rng.random_bool(WHOLE_SHARE) {
        true => Region::WHOLE,
        false => Region::of(Slice {
            index: rng.random_range(0..2),
            count: 2,
        }),
    };
    let is_lost: Vec<bool> = lost.positions(w as usize, h as usize).collect();
    let is_lost = Tensor::from_slice(&is_lost).view([h, w, 1]).to_device(tokens.device());
    let masked = Tensor::from_slice(&MASKED.map(i64::from)).to_device(tokens.device());
    let left = masked.where_self(&is_lost, tokens);
    (is_lost, left)
}

/// Masks tokens `[h, w, 6]`: scattered, in a pattern, or in blobs.
pub(super) fn draw_mask(tokens: &Tensor, unit: u32, rng: &mut StdRng) -> Tensor {
    let (h, w, _) = tokens.size3().expect("a map has three dimensions");
    let ratio = rng.random_range(0.1..0.95);
    let mask = match rng.random_range(0..3) {
        0 => Tensor::rand([h, w], (Kind::Float, tokens.device())).lt(ratio),
        1 => {
            let quarters = rng.random_range(1..4);
            let bits: Vec<bool> = (0..h * w)
                .map(|at| pattern_masks(quarters, unit, (at % w) as usize, (at / w) as usize))
                .collect();
            Tensor::from_slice(&bits).view([h, w]).to_device(tokens.device())
        }
        _ => {
            let coarse = Tensor::rand([1, 1, (h + 2) / 3, (w + 2) / 3], (Kind::Float, tokens.device()));
            coarse
                .upsample_bilinear2d([h, w], false, None, None)
                .view([h, w])
                .lt(ratio)
        }
    };
    let masked = Tensor::from_slice(&MASKED.map(i64::from)).to_device(tokens.device());
    masked.where_self(&mask.unsqueeze(2), tokens)
}

/// Mean cost of the digits of masked tokens in bits per token, and their mean squared error in shares of the range,
/// as predicted and as repeated from the unit before.
struct Score {
    bits: Tensor,
    error: f64,
    repeated: f64,
}

fn score(predictor: &Predictor, samples: &Samples, kind: Kind) -> Result<Score> {
    let logits = predictor.logits(&samples.digits, samples.latents.as_ref(), kind)?;
    let current = samples.digits.select(1, PREDICTOR_UNITS - 1);
    let masked = current.select(3, 0).ge(i64::from(MASKED[0]));
    let weight = masked.to_kind(Kind::Float);
    let count = weight.sum(Kind::Float).clamp_min(1.0);
    let mut bits = weight.zeros_like();
    let mut at = 0;
    for (k, levels) in FSQ_LEVELS.into_iter().map(i64::from).enumerate() {
        let log_probabilities = logits.narrow(3, at, levels).log_softmax(3, Kind::Float);
        let digit = samples.truth.select(3, k as i64).unsqueeze(3);
        bits -= log_probabilities.gather(3, &digit, false).squeeze_dim(3) / std::f64::consts::LN_2;
        at += levels;
    }
    let range = Tensor::from_slice(&FSQ_LEVELS.map(|l| f32::from(l - 1))).to_device(logits.device());
    let error = |digits: &Tensor| -> Result<f64> {
        let squares = ((digits - &samples.truth) / &range)
            .square()
            .mean_dim([3i64].as_slice(), false, Kind::Float);
        Ok(f64::try_from((squares * &weight).sum(Kind::Float) / &count)?)
    };
    Ok(Score {
        bits: (bits * &weight).sum(Kind::Float) / &count,
        error: error(&predictor.expected(&logits.detach())?)?,
        repeated: error(&samples.digits.select(1, PREDICTOR_UNITS - 2))?,
    })
}

/// Trains until the budget is spent, and writes the checkpoint.
pub fn run(options: &Options, clips: &[Clip], validation: &[Clip]) -> Result<()> {
    let mut checkpoint = Checkpoint::open_or_from(&options.checkpoint, options.model.as_deref())?;
    let config = checkpoint
        .heads_config()?
        .with_context(|| format!("{} has no trained tokenizer", options.checkpoint.display()))?;
    let networks = Networks::load(&checkpoint, &config, options.device, options.kind)?;
    let rng = RefCell::new(StdRng::seed_from_u64(options.seed));
    println!("encoding {} clips", clips.len() + validation.len());
    let longer = |segment: &Segment| segment.tokens.len() > 1;
    let mut segments = networks.segments(clips, || rng.borrow_mut().random_range(0..=MAX_QUANTIZER))?;
    segments.retain(longer);
    let mut validation = networks.segments(validation, || DEFAULT_QUANTIZER)?;
    validation.retain(longer);

    let vs = nn::VarStore::new(options.device);
    let shape = config.predictor.unwrap_or_else(PredictorConfig::small);
    let channels = config.continuous.as_ref().map_or(0, |c| c.channels);
    let levels = &config.tokenizer.fsq_levels;
    let predictor = Predictor::new(vs.root() / "predictor", &shape, levels, channels);
    checkpoint.set_predictor(shape)?;
    let mut optimizer = Optimizer::new(&vs, 0.01);
    optimizer.use_muon(&["predictor.layer."], options.kind);
    let step = |_| {
        let samples = {
            let mut rng = rng.borrow_mut();
            let segment = &segments[rng.random_range(0..segments.len())];
            Samples::draw(segment, options.batch, &mut rng)
        };
        let Score { bits, error, repeated } = score(&predictor, &samples, options.kind)?;
        let mean_bits = f64::try_from(&bits)?;
        Ok(Learned {
            loss: bits,
            message: format!("{mean_bits:.3} bits/token  error {error:.4} ({repeated:.4})"),
            measures: format!("{mean_bits:.4},{error:.5},{repeated:.5}"),
        })
    };
    let columns = "bits_per_token,error,repeated_error";
    let mut log = learn(
        options,
        (&mut checkpoint, "predictor"),
        (&mut optimizer, 1.0),
        columns,
        step,
    )?;
    optimizer.swap_average();
    let line = validate(&predictor, &validation, options)?;
    println!("{line}");
    log.note(&line)
}

fn validate(predictor: &Predictor, validation: &[Segment], options: &Options) -> Result<String> {
    let _no_grad = tch::no_grad_guard();
    let mut rng = StdRng::seed_from_u64(0);
    let (mut bits, mut error, mut repeated) = (0.0, 0.0, 0.0);
    for segment in validation {
        let score = score(predictor, &Samples::draw(segment, 8, &mut rng), options.kind)?;
        bits += f64::try_from(score.bits)?;
        error += score.error;
        repeated += score.repeated;
    }
    let n = validation.len().max(1) as f64;
    Ok(format!(
        "validation: {:.3} bits per masked token, squared error {:.4}, of the unit before {:.4}",
        bits / n,
        error / n,
        repeated / n
    ))
}
