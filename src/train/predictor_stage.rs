// SPDX-License-Identifier: MPL-2.0
//! Stage 4: the transformer that predicts masked tokens, on the tokens and latents of trained networks.

use std::cell::RefCell;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tch::{nn, Kind, Tensor};

use super::checkpoint::Checkpoint;
use super::optimizer::Optimizer;
use super::predictor_samples::Samples;
use super::segments::{learn, Learned, Networks, Options, Segment};
use crate::bitstream::FSQ_LEVELS;
use crate::codec::{DEFAULT_QUANTIZER, MAX_QUANTIZER};
use crate::entropy::MASKED;
use crate::media::Clip;
use crate::model::predictor::{Prediction, Predictor, PREDICTOR_UNITS};
use crate::model::PredictorConfig;

/// What an error of the lost latents costs, the mean of which over their channels is squared, in bits per token.
const LATENT_WEIGHT: f64 = 4.0;

/// Mean cost of the digits of masked tokens in bits per token, and their mean squared error in shares of the range,
/// as predicted and as repeated from the unit before.
struct Score {
    bits: Tensor,
    error: f64,
    repeated: f64,
    /// Mean squared error of the lost latents; `None` where none are lost.
    latents: Option<Tensor>,
    /// The same of what stands in for them.
    stand_in: f64,
}

fn score(predictor: &Predictor, samples: &Samples, kind: Kind) -> Result<Score> {
    let Prediction { logits, latents } = predictor.predict(&samples.digits, samples.latents.as_ref(), kind)?;
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
    let lost = samples.lost.to_kind(Kind::Float);
    let places = f64::try_from(lost.sum(Kind::Float))?;
    let latent_error = |latents: &Tensor, truth: &Tensor| {
        let squares = (latents - truth)
            .square()
            .mean_dim([3i64].as_slice(), false, Kind::Float);
        (squares * &lost).sum(Kind::Float) / places.max(1.0)
    };
    let truth = samples.true_latents.as_ref().filter(|_| places > 0.0);
    let stand_in = samples.latents.as_ref().map(|all| all.select(1, PREDICTOR_UNITS - 1));
    let stand_in = stand_in.zip(truth).map(|(given, truth)| latent_error(&given, truth));
    Ok(Score {
        latents: latents.zip(truth).map(|(latents, truth)| latent_error(&latents, truth)),
        stand_in: stand_in.map_or(Ok(0.0), f64::try_from)?,
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
    let shape = PredictorConfig {
        latents: true,
        ..config.predictor.unwrap_or_else(PredictorConfig::small)
    };
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
        let score = score(&predictor, &samples, options.kind)?;
        let Score {
            error,
            repeated,
            stand_in,
            ..
        } = score;
        let mean_bits = f64::try_from(&score.bits)?;
        let latents = score.latents.as_ref().map_or(Ok(0.0), f64::try_from)?;
        Ok(Learned {
            loss: score
                .latents
                .map_or(score.bits.shallow_clone(), |error| &score.bits + error * LATENT_WEIGHT),
            message: format!(
                "{mean_bits:.3} bits/token  error {error:.4} ({repeated:.4})  latents {latents:.3} ({stand_in:.3})"
            ),
            measures: format!("{mean_bits:.4},{error:.5},{repeated:.5},{latents:.5},{stand_in:.5}"),
        })
    };
    let columns = "bits_per_token,error,repeated_error,latent_error,stand_in_error";
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
    let (mut bits, mut error, mut repeated, mut latents, mut stand_in) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for segment in validation {
        let score = score(predictor, &Samples::draw(segment, 32, &mut rng), options.kind)?;
        bits += f64::try_from(score.bits)?;
        error += score.error;
        repeated += score.repeated;
        latents += score.latents.map_or(Ok(0.0), f64::try_from)?;
        stand_in += score.stand_in;
    }
    let n = validation.len().max(1) as f64;
    Ok(format!(
        "validation: {:.3} bits per masked token, squared error {:.4}, of the unit before {:.4}; of lost latents {:.4}, of what stands in \
         for them {:.4}",
        bits / n,
        error / n,
        repeated / n,
        latents / n,
        stand_in / n
    ))
}
