// SPDX-License-Identifier: MPL-2.0
//! Stage 1: the tokenizer, for reconstruction first, then for the eye.

use std::path::PathBuf;

use anyhow::Result;
use tch::{nn, Device, Kind, Tensor};

use super::checkpoint::Checkpoint;
use super::clips::{Clip, SampleShape, Sampler};
use super::discriminator::Discriminator;
use super::losses;
use super::lpips::Lpips;
use super::optimizer::AdamW;
use super::progress::{progress_bar, Log};
use super::schedule::{Budget, Schedule};
use crate::model::{picture, ModelConfig, StreamState, TensorFile, Tokenizer};

/// What the tokenizer is trained for.
#[derive(Clone, Debug, clap::Args)]
pub struct Weights {
    /// Weight of the multi-scale gradient loss.
    #[arg(long, default_value_t = 1.0)]
    pub gradient_weight: f64,
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
    optimizer: AdamW,
    lpips: Option<Lpips>,
    adversary: Option<Adversary>,
    weights: Weights,
    kind: Kind,
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
    gradient_norm: f64,
}

impl Measures {
    fn csv(&self, step: f64, lr: f64) -> String {
        let Measures {
            loss,
            psnr,
            lpips,
            gradient_norm,
        } = self;
        format!("{step},{loss:.5},{psnr:.3},{lpips:.4},{gradient_norm:.4},{lr:.3e}")
    }
}

impl Stage {
    /// Reconstruction with gradients passed straight through the rounding.
    fn reconstruct(&self, xs: &Tensor) -> Result<Tensor> {
        let fsq = &self.tokenizer.fsq;
        let zs = self.tokenizer.encode(xs, self.kind, &mut StreamState::default())?;
        let bounded = fsq.bound(&zs)?;
        let rounded = &bounded + (fsq.round(&bounded)? - &bounded).detach();
        let codes = fsq.codes(&rounded)?;
        let codes = if self.adversary.is_some() {
            codes.detach()
        } else {
            codes
        };
        Ok(self
            .tokenizer
            .decode(&codes, xs.size()[0], self.kind, &mut StreamState::default())?)
    }

    fn step(&mut self, xs: &Tensor, progress: f64, lr: f64) -> Result<Measures> {
        let ys = self.reconstruct(xs)?;
        let mut loss = losses::pixel(&ys, xs) + losses::gradient(&ys, xs) * self.weights.gradient_weight;
        let mut perceptual = f64::NAN;
        if let Some(lpips) = self.lpips.as_ref().filter(|_| progress >= self.weights.lpips_from) {
            let distance = perceptual_loss(lpips, &ys, xs)?;
            perceptual = f64::try_from(&distance)?;
            loss += distance * self.weights.lpips_weight;
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
    Ok(picture::rgb_from_planes(&luma, &chroma)?.clamp(0.0, 1.0))
}

/// Trains until the budget is spent; the checkpoint is written at every validation and at the end.
pub fn run(options: &Options, config: &ModelConfig, clips: Vec<Clip>, validation: &[Clip]) -> Result<()> {
    let vs = nn::VarStore::new(options.device);
    let tokenizer = Tokenizer::new(vs.root() / "tokenizer", &config.tokenizer);
    let mut stage = Stage {
        tokenizer,
        optimizer: AdamW::new(&vs, 0.01),
        lpips: match &options.lpips {
            Some(path) => Some(Lpips::load(path, options.device, options.kind)?),
            None => None,
        },
        adversary: None,
        weights: options.weights.clone(),
        kind: options.kind,
    };
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
    let mut checkpoint = Checkpoint::open(&options.checkpoint)?;
    checkpoint.set_config(config)?;
    let mut missing = checkpoint.load("tokenizer", &mut stage.optimizer);
    if let Some(path) = options.model.as_ref().filter(|_| !missing.is_empty()) {
        let file = TensorFile::read(path)?;
        missing = stage.optimizer.load(|name| {
            let name = name.strip_prefix("weight.").or_else(|| name.strip_prefix("average."))?;
            file.tensors.get(name).map(Tensor::shallow_clone)
        });
        missing.retain(|name| name.starts_with("weight."));
    }
    if !missing.is_empty() {
        println!("{} tensors start anew", missing.len());
        stage.optimizer.reset_average();
    }
    if let Some(adversary) = &mut stage.adversary {
        checkpoint.load("discriminator", &mut adversary.optimizer);
    }
    let mut sampler = Sampler::new(clips, options.device, options.seed);
    let mut log = Log::open(&options.log, "step,loss,psnr_db,lpips,gradient_norm,learning_rate")?;
    let bar = progress_bar();
    let mut schedule = Schedule::new(options.budget);
    let (steps_before, minutes_before) = (
        checkpoint.total("tokenizer.steps"),
        checkpoint.total("tokenizer.minutes"),
    );
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
        let total = steps_before + step as f64;
        log.line(&measures.csv(total, schedule.lr()))?;
        if schedule.minutes() >= next_validation || schedule.is_over() {
            next_validation = schedule.minutes() + options.validate_every;
            checkpoint.store("tokenizer", &stage.optimizer);
            if let Some(adversary) = &stage.adversary {
                checkpoint.store("discriminator", &adversary.optimizer);
            }
            checkpoint.set_total("tokenizer.steps", total);
            checkpoint.set_total("tokenizer.minutes", minutes_before + schedule.minutes());
            checkpoint.write(&options.checkpoint)?;
            let line = validate(&mut stage, validation)?;
            bar.println(format!(
                "step {total}, {:.1} min: {line}",
                minutes_before + schedule.minutes()
            ));
            log.note(&format!(
                "step {total}, {:.1} min: {line}",
                minutes_before + schedule.minutes()
            ))?;
        }
        if schedule.is_over() {
            return Ok(());
        }
    }
}

/// Frames of each validation clip that are looked at.
const VALIDATION_FRAMES: i64 = 25;

/// Mean PSNR, LPIPS and share of unchanged tokens over the clips, with the averaged weights.
fn validate(stage: &mut Stage, clips: &[Clip]) -> Result<String> {
    stage.optimizer.swap_average();
    let result = tch::no_grad(|| -> Result<String> {
        let (mut psnr, mut perceptual, mut repeated) = (0.0, 0.0, 0.0);
        for clip in clips {
            let (width, height) = (clip.size().0 & !15, clip.size().1 & !15);
            let frames = (clip.frames() - 1).min(VALIDATION_FRAMES - 1) / 8 * 8 + 1;
            let cut = |t: &Tensor, scale: i64| {
                t.narrow(0, 0, frames)
                    .slice(-2, 0, height / scale, 1)
                    .slice(-1, 0, width / scale, 1)
            };
            let xs = picture::quad_from_planes(&cut(&clip.luma, 1), &cut(&clip.chroma, 2))?.unsqueeze(0);
            let ys = stage.reconstruct(&xs)?;
            psnr += losses::psnr_luma(&ys, &xs);
            let zs = stage.tokenizer.encode(&xs, stage.kind, &mut StreamState::default())?;
            let digits = stage.tokenizer.fsq.digits(&zs)?;
            let units = digits.size()[0];
            let same = digits
                .narrow(0, 1, units - 1)
                .eq_tensor(&digits.narrow(0, 0, units - 1))
                .all_dim(1, false);
            repeated += f64::try_from(same.to_kind(Kind::Float).mean(Kind::Float))?;
            if let Some(lpips) = &stage.lpips {
                let rgb = |quad: &Tensor| quads_to_rgb(&quad.squeeze_dim(0).slice(0, 0, None, 6));
                perceptual += f64::try_from(lpips.distance(&rgb(&ys)?, &rgb(&xs)?)?.mean(Kind::Float))?;
            }
        }
        let n = clips.len().max(1) as f64;
        Ok(format!(
            "validation PSNR {:.2} dB, LPIPS {:.3}, repeated tokens {:.1} %",
            psnr / n,
            perceptual / n,
            repeated / n * 100.0
        ))
    });
    stage.optimizer.swap_average();
    result
}
