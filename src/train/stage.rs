// SPDX-License-Identifier: MPL-2.0
//! A step of the stages that train tokenizer and fusion.

use anyhow::{ensure, Context, Result};
use tch::{nn, Device, Kind, Tensor};

use super::checkpoint::Checkpoint;
use super::discriminator::Discriminator;
use super::joint::{uniform, Joint};
use super::losses;
use super::masked::MaskedTokens;
use super::optimizer::Optimizer;
use super::options::{Options, Weights};
use super::resized::Resizing;
use super::sent::{draw_point, Sender, Sent};
use crate::bitstream::CodingScale;
use crate::codec::OperatingPoint;
use crate::metrics::Lpips;
use crate::model::picture::{self, Ycbcr};
use crate::model::{ModelConfig, StreamState, Tokenizer};

/// Names of what lies inside of the networks, between their first and last layers and the joints of the control branch.
const INNER_PARTS: [&str; 3] = [".level.", ".down.", ".up."];

/// Everything that a step needs.
pub(super) struct Stage {
    pub tokenizer: Tokenizer,
    pub joint: Option<Joint>,
    masked: Option<MaskedTokens>,
    /// Whose encoder sends what painters are to meet.
    pub sender: Option<Sender>,
    pub optimizer: Optimizer,
    pub lpips: Option<Lpips>,
    adversary: Option<Adversary>,
    weights: Weights,
    kind: Kind,
    /// False while validating.
    pub training: bool,
}

/// The other side of adversarial training.
struct Adversary {
    discriminator: Discriminator,
    optimizer: Optimizer,
}

impl Adversary {
    fn new(options: &Options) -> Adversary {
        let vs = nn::VarStore::new(options.device);
        Adversary {
            discriminator: Discriminator::new(vs.root() / "discriminator", options.kind),
            optimizer: Optimizer::new(&vs, 0.0),
        }
    }
}

/// How latents, and tokens with them, become integers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Quantisation {
    /// Rounded at a step of latents.
    Step(f64),
    /// As an encoder sends them.
    Sent(OperatingPoint),
}

/// What a decoder gets of `n` clips.
struct Symbols {
    /// `[n * t', 6, h', w']` f32.
    digits: Tensor,
    /// `[n * t', channels, h', w']`; `None` without the control branch.
    latents: Option<Tensor>,
    /// Mean cost of the latents, bits per sample of the pictures.
    rate: Option<Tensor>,
}

/// The measures of one step.
pub(super) struct Measures {
    pub loss: f64,
    pub psnr: f64,
    pub lpips: f64,
    /// Bits per sample of the continuous stream.
    rate: f64,
    gradient_norm: f64,
}

impl Measures {
    pub fn csv(&self, step: f64, lr: f64) -> String {
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
    /// The networks of a configuration with the weights of a checkpoint; what it does not have starts anew.
    pub fn new(options: &Options, config: &ModelConfig, checkpoint: &Checkpoint) -> Result<Stage> {
        let vs = nn::VarStore::new(options.device);
        let joint = options
            .joint
            .as_ref()
            .and_then(|weights| Joint::new(&vs.root(), config, weights.clone()));
        let mut stage = Stage {
            tokenizer: Tokenizer::new(vs.root() / "tokenizer", &config.tokenizer),
            joint,
            masked: MaskedTokens::load(checkpoint, config, (options.device, options.kind), options.seed)?,
            sender: sender(options)?,
            optimizer: Optimizer::new(&vs, 0.01),
            lpips: match &options.lpips {
                Some(path) => Some(Lpips::load(path, options.device, options.kind)?),
                None => None,
            },
            adversary: (options.weights.adversarial_weight > 0.0).then(|| Adversary::new(options)),
            weights: options.weights.clone(),
            kind: options.kind,
            training: true,
        };
        stage.set_learning_rates(options, config);
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
        Ok(stage)
    }

    /// By which rule and how fast each part learns, and which ones do not.
    fn set_learning_rates(&mut self, options: &Options, config: &ModelConfig) {
        let optimizer = &mut self.optimizer;
        optimizer.use_muon(&INNER_PARTS, options.kind);
        if let Some(weights) = &options.joint {
            for part in ["fusion.", "prior."] {
                optimizer.scale_lr(part, weights.fusion_lr);
            }
            optimizer.scale_lr("fusion.control.join.", weights.join_lr);
        }
        if options.freeze_tokenizer {
            optimizer.freeze("tokenizer.");
            if config.tokenizer.is_cosmos() {
                // The encoder of the continuous tokenizer.
                optimizer.freeze("fusion.encoder.");
                optimizer.freeze("fusion.quant_conv.");
            }
            if let Some(joint) = &mut self.joint {
                // There is nothing to learn in such a step.
                joint.weights.discrete_share = 0.0;
            }
        }
        if self.adversary.is_some() || self.weights.freeze_encoder {
            optimizer.freeze("tokenizer.encoder");
        }
        if self.weights.freeze_encoder {
            optimizer.freeze("fusion.encoder");
            optimizer.freeze("prior.");
        }
    }

    pub fn store(&self, checkpoint: &mut Checkpoint) {
        checkpoint.store("tokenizer", &self.optimizer);
        if let Some(adversary) = &self.adversary {
            checkpoint.store("discriminator", &adversary.optimizer);
        }
    }

    /// Reconstruction with gradients passed straight through the rounding, and the rate of the latents in bits
    /// per sample. `quantisation`: `None` without the control branch.
    pub fn reconstruct(&self, xs: &Tensor, quantisation: Option<Quantisation>) -> Result<(Tensor, Option<Tensor>)> {
        let (fsq, n, colour) = (&self.tokenizer.fsq, xs.size()[0], self.tokenizer.config.colour());
        let joint = self.joint.as_ref().zip(quantisation);
        let Symbols { digits, latents, rate } = match joint {
            Some((_, Quantisation::Sent(point))) => self.sent(xs, &point)?,
            Some((joint, Quantisation::Step(step))) => self.rounded(xs, Some((joint, step)))?,
            None => self.rounded(xs, None)?,
        };
        let mut codes = fsq.codes(&digits)?;
        let control = match (joint, latents) {
            (Some((joint, _)), Some(latents)) => joint.control(&codes, &latents, n, self.kind)?,
            _ => vec![],
        };
        if self.adversary.is_some() {
            codes = codes.detach();
        }
        let state = &mut StreamState::default();
        let ys = self
            .tokenizer
            .decode_controlled(&codes, &control, n, self.kind, state)?;
        Ok((picture::from_network(&ys, colour, Ycbcr::BT601)?, rate))
    }

    /// Digits and latents of clips rounded at a step, gradients passed straight through; some of them lost.
    fn rounded(&self, xs: &Tensor, joint: Option<(&Joint, f64)>) -> Result<Symbols> {
        let (fsq, n) = (&self.tokenizer.fsq, xs.size()[0]);
        let pictures = picture::to_network(xs, self.tokenizer.config.colour(), Ycbcr::BT601)?;
        let (zs, features) = self
            .tokenizer
            .encode_with_features(&pictures, self.kind, &mut StreamState::default())?;
        let bounded = fsq.bound(&zs)?;
        let digits = &bounded + (fsq.round(&bounded)? - &bounded).detach();
        let Some((joint, step)) = joint else {
            return Ok(Symbols {
                digits,
                latents: None,
                rate: None,
            });
        };
        let chance = |share: f64| self.training && uniform() < share;
        if !chance(joint.weights.lost_share) {
            let latents = joint.latents(&features, &fsq.codes(&digits)?, n, step)?;
            return Ok(Symbols {
                digits,
                latents: Some(latents.values),
                rate: Some(latents.rate),
            });
        }
        let digits = match self.masked.as_ref().filter(|_| chance(joint.weights.masked_share)) {
            Some(masked) => masked.replace(&digits, n)?,
            None => digits,
        };
        Ok(Symbols {
            latents: Some(joint.no_latents(&digits)),
            digits,
            rate: None,
        })
    }

    /// What the encoder sends of clips at a point, without gradients.
    fn sent(&self, xs: &Tensor, point: &OperatingPoint) -> Result<Symbols> {
        let sender = self.sender.as_ref().context("nobody sends")?;
        let Sent { digits, latents } = sender.send(xs, point)?;
        let digits = match self.masked.as_ref().filter(|_| point.mask_ratio > 0.0) {
            Some(masked) => masked.replace(&digits, xs.size()[0])?,
            None => digits,
        };
        Ok(Symbols {
            digits,
            latents: Some(latents),
            rate: None,
        })
    }

    /// How a step's pictures are coded: their size, and the quantisation.
    fn draw_coding(&self, side: i64) -> (Option<Resizing>, Option<Quantisation>) {
        let share = self.weights.resized_share;
        let Some(joint) = &self.joint else {
            return (Resizing::draw(share, side, false), None);
        };
        if uniform() < joint.weights.sent_share {
            let resizing = Resizing::draw(share, side, uniform() < 0.5);
            let scale = resizing.as_ref().map_or(CodingScale::Single, Resizing::scale);
            return (resizing, Some(Quantisation::Sent(draw_point(scale))));
        }
        let step = (uniform() >= joint.weights.discrete_share).then(Joint::draw_step);
        (
            Resizing::draw(share, side, step.is_some()),
            step.map(Quantisation::Step),
        )
    }

    pub fn step(&mut self, xs: &Tensor, progress: f64, lr: f64) -> Result<Measures> {
        let (resizing, quantisation) = self.draw_coding(xs.size()[4] * 2);
        let (xs, coded) = match &resizing {
            Some(resizing) => {
                let cut = resizing.cut(xs)?;
                let coded = resizing.to_coded(&cut)?;
                (cut, coded)
            }
            None => (xs.shallow_clone(), xs.shallow_clone()),
        };
        let (ys, rate) = self.reconstruct(&coded, quantisation)?;
        let excess = losses::excess(&ys, &coded);
        let ys = resizing.map_or(Ok(ys.shallow_clone()), |resizing| resizing.to_shown(&ys))?;
        let xs = &xs;
        let mut loss = losses::pixel(&ys, xs)
            + losses::gradient(&ys, xs) * self.weights.gradient_weight
            + losses::temporal(&ys, xs) * self.weights.temporal_weight
            + excess * self.weights.excess_weight;
        let mut perceptual = f64::NAN;
        if let Some(lpips) = self.lpips.as_ref().filter(|_| progress >= self.weights.lpips_from) {
            let distance = perceptual_loss(lpips, &ys, xs)?;
            perceptual = f64::try_from(&distance)?;
            loss += distance * self.weights.lpips_weight;
        }
        if let (Some(joint), Some(rate), Some(Quantisation::Step(step))) = (&self.joint, &rate, quantisation) {
            loss += rate * joint.price(step, progress);
        }
        let pair = random_below(SPACING)?;
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

/// The encoder that sends a share of the samples, if there is to be one.
fn sender(options: &Options) -> Result<Option<Sender>> {
    let share = options.joint.as_ref().map_or(0.0, |joint| joint.sent_share);
    if share <= 0.0 {
        return Ok(None);
    }
    ensure!(
        options.weights.freeze_encoder || options.freeze_tokenizer,
        "--sent-share needs --freeze-encoder: a model's encoder sends, and is to stay what it is"
    );
    let path = options.model.as_ref();
    let path = path.context("--sent-share needs --model, a file with the same encoder and its context models")?;
    Ok(Some(Sender::load(path)?))
}

/// Frames between two that are looked at: neighbours say the same.
const SPACING: i64 = 4;
/// Places in which LPIPS meets the grid of tokens, in samples each way.
const SHIFTS: i64 = 16;
/// Smallest width and height for LPIPS.
const LPIPS_SIZE: i64 = 32;

/// How much smaller the adversarial gradient is than the other one at the last layer (Esser et al., "Taming
/// Transformers for High-Resolution Image Synthesis", 2021).
fn balance(loss: &Tensor, adversarial: &Tensor, last: &Tensor) -> Result<f64> {
    let norm = |loss: &Tensor| -> Result<f64> {
        let gradient = &Tensor::f_run_backward(&[loss], &[last], true, false)?[0];
        Ok(f64::try_from(gradient.norm())?)
    };
    Ok((norm(loss)? / (norm(adversarial)? + 1e-6)).min(1e4))
}

/// LPIPS of one frame in four, evenly spread from a random start, cut and mirrored at random: seen always in the same
/// place, its strided layers are pleased by a mesh of dots in the period of the tokens (Kettunen et al., "E-LPIPS", 2019).
fn perceptual_loss(lpips: &Lpips, ys: &Tensor, xs: &Tensor) -> Result<Tensor> {
    let start = random_below(SPACING)?;
    let shift = [random_below(SHIFTS)?, random_below(SHIFTS)?];
    let mirrored: &[i64] = if random_below(2)? == 0 { &[] } else { &[3] };
    let pick = |quad: &Tensor| -> Result<Tensor> {
        let rgb = quads_to_rgb(&quad.slice(1, start, None, SPACING).flatten(0, 1))?;
        Ok(cut(&rgb, shift)?.flip(mirrored))
    };
    Ok(lpips.distance(&pick(ys)?, &pick(xs)?)?.mean(Kind::Float))
}

/// Pictures `[n, 3, h, w]` without their first rows and columns, as many as `shift` says, and as many fewer at the end
/// that all shifts give one size. That is 32 at least, what LPIPS can take.
pub(super) fn cut(pictures: &Tensor, shift: [i64; 2]) -> Result<Tensor> {
    let (_, _, h, w) = pictures.size4()?;
    let part = |size: i64, from: i64| {
        let margin = (SHIFTS - 1).min(size - LPIPS_SIZE).max(0);
        (from.min(margin), size - margin)
    };
    let ((top, rows), (left, columns)) = (part(h, shift[0]), part(w, shift[1]));
    Ok(pictures.f_narrow(2, top, rows)?.f_narrow(3, left, columns)?)
}

pub(super) fn random_below(limit: i64) -> Result<i64> {
    Ok(i64::try_from(Tensor::randint(limit, [], (Kind::Int64, Device::Cpu)))?)
}

pub(super) fn quads_to_rgb(quads: &Tensor) -> Result<Tensor> {
    let (luma, chroma) = picture::planes_from_quad(quads)?;
    Ok(Ycbcr::BT601.to_rgb(&luma, &chroma)?.clamp(0.0, 1.0))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_of_one_size_and_never_too_small_for_lpips() {
        for (height, width, rows, columns) in [(128, 96, 113, 81), (40, 32, 32, 32)] {
            let pictures = Tensor::arange(height * width, (Kind::Float, Device::Cpu)).view([1, 1, height, width]);
            let pictures = pictures.expand([2, 3, height, width], false);
            for shift in [[0, 0], [3, 6], [15, 15]] {
                let cut = cut(&pictures, shift).unwrap();
                assert_eq!(cut.size(), [2, 3, rows, columns]);
                let (top, left) = (shift[0].min(height - rows), shift[1].min(width - columns));
                assert_eq!(cut.double_value(&[1, 2, 0, 0]), (top * width + left) as f64);
            }
        }
    }
}
