// SPDX-License-Identifier: MPL-2.0
//! Stages 1 and 2: the tokenizer, for reconstruction first, then for the eye; then the continuous stream with it.

use std::path::PathBuf;

use anyhow::{ensure, Result};
use tch::{nn, Device, Kind, Tensor};

use super::checkpoint::Checkpoint;
use super::clips::{Clip, SampleShape, Sampler};
use super::discriminator::Discriminator;
use super::joint::{self, uniform, Joint};
use super::losses;
use super::lpips::Lpips;
use super::optimizer::AdamW;
use super::progress::{progress_bar, Log};
use super::schedule::{Budget, Schedule};
use crate::model::picture::{self, Ycbcr};
use crate::model::{ModelConfig, StreamState, Tokenizer};

/// What the tokenizer is trained for.
#[derive(Clone, Debug, clap::Args)]
pub struct Weights {
    /// Weight of the multi-scale gradient loss.
    #[arg(long, default_value_t = 1.0)]
    pub gradient_weight: f64,
    /// Weight of the loss on changes from frame to frame.
    #[arg(long, default_value_t = 1.0)]
    pub temporal_weight: f64,
    /// Weight of the perceptual loss (needs --lpips).
    #[arg(long, default_value_t = 0.5)]
    pub lpips_weight: f64,
    /// Share of the run after which the perceptual loss begins.
    #[arg(long, default_value_t = 0.2)]
    pub lpips_from: f64,
    /// Weight of the adversarial loss, relative to the others at the decoder's last layer; 0 = none. While it
    /// is on, the encoder is frozen: tokens keep their meaning.
    #[arg(long, default_value_t = 0.0)]
    pub adversarial_weight: f64,
    /// Share of the run for which the discriminator learns alone before the decoder listens to it.
    #[arg(long, default_value_t = 0.1)]
    pub adversarial_from: f64,
}

/// One run of the stage.
pub struct Options {
    pub checkpoint: PathBuf,
    /// Model file whose weights a new checkpoint starts from.
    pub model: Option<PathBuf>,
    pub shape: SampleShape,
    pub budget: Budget,
    pub weights: Weights,
    /// Trains the continuous stream too.
    pub joint: Option<joint::Weights>,
    /// Leaves the tokenizer as it is.
    pub freeze_tokenizer: bool,
    pub lpips: Option<PathBuf>,
    pub log: PathBuf,
    pub device: Device,
    pub kind: Kind,
    pub seed: u64,
    /// Minutes between two validations, each of which writes the checkpoint.
    pub validate_every: f64,
}

/// Everything that a step needs.
struct Stage {
    tokenizer: Tokenizer,
    joint: Option<Joint>,
    optimizer: AdamW,
    lpips: Option<Lpips>,
    adversary: Option<Adversary>,
    weights: Weights,
    kind: Kind,
    /// False while validating.
    training: bool,
}

/// The other side of adversarial training.
struct Adversary {
    discriminator: Discriminator,
    optimizer: AdamW,
}

/// The measures of one step.
struct Measures {
    loss: f64,
    psnr: f64,
    lpips: f64,
    /// Bits per sample of the continuous stream.
    rate: f64,
    gradient_norm: f64,
}

impl Measures {
    fn csv(&self, step: f64, lr: f64) -> String {
        let Measures {
            loss,
            psnr,
            lpips,
            rate,
            gradient_norm,
        } = self;
        format!("{step},{loss:.5},{psnr:.3},{lpips:.4},{rate:.5},{gradient_norm:.4},{lr:.3e}")
    }
}

impl Stage {
    /// Reconstruction with gradients passed straight through the rounding, and the rate of the latents in bits
    /// per sample. `step`: quantisation step of the latents, `None` without the control branch.
    fn reconstruct(&self, xs: &Tensor, step: Option<f64>) -> Result<(Tensor, Option<Tensor>)> {
        let (fsq, n, colour) = (&self.tokenizer.fsq, xs.size()[0], self.tokenizer.config.colour());
        let pictures = picture::to_network(xs, colour, Ycbcr::BT601)?;
        let (zs, features) = self
            .tokenizer
            .encode_with_features(&pictures, self.kind, &mut StreamState::default())?;
        let bounded = fsq.bound(&zs)?;
        let rounded = &bounded + (fsq.round(&bounded)? - &bounded).detach();
        let mut codes = fsq.codes(&rounded)?;
        let (mut control, mut rate) = (vec![], None);
        if let (Some(joint), Some(step)) = (&self.joint, step) {
            let latents = joint.latents(&features, &codes, n, step)?;
            let lost = self.training && uniform() < joint.weights.lost_share;
            let values = if lost {
                latents.values.zeros_like()
            } else {
                latents.values
            };
            control = joint.control(&codes, &values, n, self.kind)?;
            rate = (!lost).then_some(latents.rate);
        }
        if self.adversary.is_some() {
            codes = codes.detach();
        }
        let state = &mut StreamState::default();
        let ys = self
            .tokenizer
            .decode_controlled(&codes, &control, n, self.kind, state)?;
        Ok((picture::from_network(&ys, colour, Ycbcr::BT601)?, rate))
    }

    fn step(&mut self, xs: &Tensor, progress: f64, lr: f64) -> Result<Measures> {
        let quantisation = self
            .joint
            .as_ref()
            .and_then(|joint| (uniform() >= joint.weights.discrete_share).then(Joint::draw_step));
        let (ys, rate) = self.reconstruct(xs, quantisation)?;
        let mut loss = losses::pixel(&ys, xs)
            + losses::gradient(&ys, xs) * self.weights.gradient_weight
            + losses::temporal(&ys, xs) * self.weights.temporal_weight;
        let mut perceptual = f64::NAN;
        if let Some(lpips) = self.lpips.as_ref().filter(|_| progress >= self.weights.lpips_from) {
            let distance = perceptual_loss(lpips, &ys, xs)?;
            perceptual = f64::try_from(&distance)?;
            loss += distance * self.weights.lpips_weight;
        }
        if let (Some(joint), Some(rate), Some(step)) = (&self.joint, &rate, quantisation) {
            loss += rate * joint.price(step, progress);
        }
        let pair = i64::try_from(Tensor::randint(SPACING, [], (Kind::Int64, Device::Cpu)))?;
        if let Some(adversary) = self
            .adversary
            .as_ref()
            .filter(|_| progress >= self.weights.adversarial_from)
        {
            let adversarial = -adversary.discriminator.score(&ys, pair)?.mean(Kind::Float);
            let balance = balance(&loss, &adversarial, self.tokenizer.last_weight())?;
            loss += adversarial * (balance * self.weights.adversarial_weight);
        }
        self.optimizer.zero_grad();
        loss.backward();
        if let Some(adversary) = &mut self.adversary {
            adversary.optimizer.zero_grad();
            adversary.discriminator.loss(xs, &ys, pair)?.backward();
            adversary.optimizer.step(lr, 1.0);
        }
        Ok(Measures {
            gradient_norm: self.optimizer.step(lr, 1.0),
            loss: f64::try_from(&loss)?,
            psnr: losses::psnr_luma(&ys.detach(), xs),
            lpips: perceptual,
            rate: rate.map_or(f64::NAN, |rate| f64::try_from(&rate.detach()).unwrap_or(f64::NAN)),
        })
    }
}

/// Frames between two that are looked at: neighbours say the same.
const SPACING: i64 = 4;

/// How much smaller the adversarial gradient is than the other one at the last layer (Esser et al., "Taming
/// Transformers for High-Resolution Image Synthesis", 2021).
fn balance(loss: &Tensor, adversarial: &Tensor, last: &Tensor) -> Result<f64> {
    let norm = |loss: &Tensor| -> Result<f64> {
        let gradient = &Tensor::f_run_backward(&[loss], &[last], true, false)?[0];
        Ok(f64::try_from(gradient.norm())?)
    };
    Ok((norm(loss)? / (norm(adversarial)? + 1e-6)).min(1e4))
}

/// LPIPS of one frame in four, evenly spread from a random start.
fn perceptual_loss(lpips: &Lpips, ys: &Tensor, xs: &Tensor) -> Result<Tensor> {
    let start = i64::try_from(Tensor::randint(SPACING, [], (Kind::Int64, Device::Cpu)))?;
    let pick = |quad: &Tensor| -> Result<Tensor> { quads_to_rgb(&quad.slice(1, start, None, SPACING).flatten(0, 1)) };
    Ok(lpips.distance(&pick(ys)?, &pick(xs)?)?.mean(Kind::Float))
}

fn quads_to_rgb(quads: &Tensor) -> Result<Tensor> {
    let (luma, chroma) = picture::planes_from_quad(quads)?;
    Ok(Ycbcr::BT601.to_rgb(&luma, &chroma)?.clamp(0.0, 1.0))
}

/// Trains until the budget is spent; the checkpoint is written at every validation and at the end.
pub fn run(options: &Options, clips: Vec<Clip>, validation: &[Clip]) -> Result<()> {
    let mut checkpoint = Checkpoint::open_or_from(&options.checkpoint, options.model.as_deref())?;
    let mut config = checkpoint.config()?.unwrap_or(ModelConfig {
        // What other stages make is not there before them.
        continuous: None,
        predictor: None,
        ..ModelConfig::default()
    });
    if options.joint.is_some() && config.continuous.is_none() {
        ensure!(
            !config.tokenizer.is_cosmos(),
            "the model has no continuous tokenizer: import it with one"
        );
        config.continuous = ModelConfig::default().continuous;
    }
    let config = &config;
    checkpoint.set_config(config)?;
    let vs = nn::VarStore::new(options.device);
    let tokenizer = Tokenizer::new(vs.root() / "tokenizer", &config.tokenizer);
    let joint = options
        .joint
        .as_ref()
        .and_then(|weights| Joint::new(&vs.root(), config, weights.clone()))
        .map(|mut joint| {
            if options.freeze_tokenizer {
                // There is nothing to learn in such a step.
                joint.weights.discrete_share = 0.0;
            }
            joint
        });
    let mut stage = Stage {
        tokenizer,
        joint,
        optimizer: AdamW::new(&vs, 0.01),
        lpips: match &options.lpips {
            Some(path) => Some(Lpips::load(path, options.device, options.kind)?),
            None => None,
        },
        adversary: None,
        weights: options.weights.clone(),
        kind: options.kind,
        training: true,
    };
    if let Some(weights) = &options.joint {
        for part in ["fusion.", "prior."] {
            stage.optimizer.scale_lr(part, weights.fusion_lr);
        }
        stage.optimizer.scale_lr("fusion.control.join.", weights.join_lr);
    }
    if options.freeze_tokenizer {
        stage.optimizer.freeze("tokenizer.");
        if config.tokenizer.is_cosmos() {
            // The encoder of the continuous tokenizer.
            stage.optimizer.freeze("fusion.encoder.");
            stage.optimizer.freeze("fusion.quant_conv.");
        }
    }
    let adversary_vs = nn::VarStore::new(options.device);
    if options.weights.adversarial_weight > 0.0 {
        stage.optimizer.freeze("tokenizer.encoder");
        let discriminator = Discriminator::new(adversary_vs.root() / "discriminator", options.kind);
        let optimizer = AdamW::new(&adversary_vs, 0.0);
        stage.adversary = Some(Adversary {
            discriminator,
            optimizer,
        });
    }
    let missing = checkpoint.load("tokenizer", &mut stage.optimizer);
    if !missing.is_empty() {
        println!("{} tensors start anew", missing.len());
        if missing.iter().any(|name| name.starts_with("weight.fusion.control.")) {
            copy_decoder_to_control(&vs);
        }
        stage.optimizer.reset_average();
    }
    if let Some(adversary) = &mut stage.adversary {
        checkpoint.load("discriminator", &mut adversary.optimizer);
    }
    let mut sampler = Sampler::new(clips, options.device, options.seed);
    let mut log = Log::open(
        &options.log,
        "step,loss,psnr_db,lpips,rate_bpp,gradient_norm,learning_rate",
    )?;
    let bar = progress_bar();
    let mut schedule = Schedule::new(options.budget);
    let before = checkpoint.totals("tokenizer");
    let mut next_validation = options.validate_every;
    loop {
        let xs = sampler.batch(options.shape);
        let measures = stage.step(&xs, schedule.progress(), schedule.lr())?;
        let step = schedule.advance();
        bar.set_position((schedule.progress() * 1000.0) as u64);
        bar.set_message(format!(
            "step {step}  loss {:.4}  PSNR {:.2} dB  LPIPS {:.3}",
            measures.loss, measures.psnr, measures.lpips
        ));
        let total = before[0] + step as f64;
        log.line(&measures.csv(total, schedule.lr()))?;
        if schedule.minutes() >= next_validation || schedule.is_over() {
            next_validation = schedule.minutes() + options.validate_every;
            checkpoint.store("tokenizer", &stage.optimizer);
            if let Some(adversary) = &stage.adversary {
                checkpoint.store("discriminator", &adversary.optimizer);
            }
            checkpoint.set_totals("tokenizer", before, &schedule);
            checkpoint.write(&options.checkpoint)?;
            let minutes = before[1] + schedule.minutes();
            let line = format!("step {total}, {minutes:.1} min: {}", validate(&mut stage, validation)?);
            bar.println(&line);
            log.note(&line)?;
        }
        if schedule.is_over() {
            return Ok(());
        }
    }
}

/// The control branch starts as a copy of the decoder's blocks that it has.
fn copy_decoder_to_control(vs: &nn::VarStore) {
    let variables = vs.variables();
    tch::no_grad(|| {
        for (name, variable) in &variables {
            let Some(rest) = name.strip_prefix("fusion.control.") else {
                continue;
            };
            let original = variables.get(&format!("tokenizer.decoder.{rest}"));
            if let Some(original) = original.filter(|t| t.size() == variable.size()) {
                variable.shallow_clone().copy_(original);
            }
        }
    });
}

/// Quantisation steps of the latents that are looked at.
const VALIDATION_STEPS: [f64; 3] = [0.25, 1.0, 4.0];

/// Frames of each validation clip that are looked at.
const VALIDATION_FRAMES: i64 = 25;

/// Measures of the clips, with the averaged weights: without the control branch, then at some steps.
fn validate(stage: &mut Stage, clips: &[Clip]) -> Result<String> {
    stage.optimizer.swap_average();
    stage.training = false;
    let result = tch::no_grad(|| -> Result<String> {
        let mut line = format!("validation {}", validate_at(stage, clips, None)?);
        for step in VALIDATION_STEPS.iter().filter(|_| stage.joint.is_some()) {
            line += &format!("; step {step}: {}", validate_at(stage, clips, Some(*step))?);
        }
        Ok(line)
    });
    stage.optimizer.swap_average();
    stage.training = true;
    result
}

/// Mean PSNR, LPIPS and rate of the latents over the clips.
fn validate_at(stage: &Stage, clips: &[Clip], step: Option<f64>) -> Result<String> {
    let (mut psnr, mut perceptual, mut bits) = (0.0, 0.0, 0.0);
    for clip in clips {
        let xs = clip
            .quads(0, VALIDATION_FRAMES)?
            .to_device(stage.tokenizer.last_weight().device());
        let (ys, rate) = stage.reconstruct(&xs, step)?;
        psnr += losses::psnr_luma(&ys, &xs);
        bits += rate.map_or(Ok(0.0), f64::try_from)?;
        if let Some(lpips) = &stage.lpips {
            let rgb = |quad: &Tensor| quads_to_rgb(&quad.squeeze_dim(0).slice(0, 0, None, 6));
            perceptual += f64::try_from(lpips.distance(&rgb(&ys)?, &rgb(&xs)?)?.mean(Kind::Float))?;
        }
    }
    let n = clips.len().max(1) as f64;
    let rate = match step {
        Some(_) => format!(" at {:.4} bits per sample", bits / n),
        None => String::new(),
    };
    Ok(format!("PSNR {:.2} dB, LPIPS {:.3}{rate}", psnr / n, perceptual / n))
}
