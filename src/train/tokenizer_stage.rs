// SPDX-License-Identifier: MPL-2.0
//! Stages 1 and 2: the tokenizer, for reconstruction first, then for the eye; then the continuous stream with it.

use anyhow::{ensure, Context, Result};
use tch::{Kind, Tensor};

use super::checkpoint::Checkpoint;
use super::losses;
use super::options::Options;
use super::progress::{progress_bar, Log};
use super::samples::Sampler;
use super::schedule::Schedule;
use super::stage::{cut, quads_to_rgb, Quantisation, Stage};
use crate::bitstream::CodingScale;
use crate::codec::{operating_point, scale_of};
use crate::media::Clip;
use crate::metrics::ssimulacra2;
use crate::model::{picture, ModelConfig};

/// Trains until the budget is spent; the checkpoint is written at every validation and at the end.
pub fn run(options: &Options, clips: Vec<Clip>, validation: &[Clip]) -> Result<()> {
    let mut checkpoint = Checkpoint::open_or_from(&options.checkpoint, options.model.as_deref())?;
    let config = configuration(&checkpoint, options.joint.is_some())?;
    checkpoint.set_config(&config)?;
    let mut stage = Stage::new(options, &config, &checkpoint)?;
    let mut batches = Sampler::new(clips, options.device, options.seed).batches(options.shape);
    let mut log = Log::open(
        &options.log,
        "step,loss,psnr_db,lpips,rate_bpp,gradient_norm,learning_rate",
    )?;
    let bar = progress_bar();
    let mut schedule = Schedule::new(options.budget);
    let before = checkpoint.totals("tokenizer");
    let mut next_validation = options.validate_every;
    loop {
        let xs = batches.next().context("no more batches")?;
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
            stage.store(&mut checkpoint);
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

/// That of the checkpoint, or the default one without what other stages make; with a continuous stream if there is to
/// be one.
fn configuration(checkpoint: &Checkpoint, has_latents: bool) -> Result<ModelConfig> {
    let mut config = checkpoint.config()?.unwrap_or(ModelConfig {
        continuous: None,
        predictor: None,
        ..ModelConfig::default()
    });
    if has_latents && config.continuous.is_none() {
        ensure!(
            !config.tokenizer.is_cosmos(),
            "the model has no continuous tokenizer: import it with one"
        );
        config.continuous = ModelConfig::default().continuous;
    }
    Ok(config)
}

/// Quantisation steps of the latents that are looked at.
const VALIDATION_STEPS: [f64; 3] = [0.25, 1.0, 4.0];

/// Quantizers at which is looked at what an encoder sends, of all scales but the largest.
const VALIDATION_QUANTIZERS: [u32; 5] = [12, 24, 41, 51, 57];

/// Steps of 8-bit samples from 0 to 1.
const HALF_RANGE: f64 = 127.5;

/// Frames of each validation clip that are looked at, and those of what is sent, where differences add up.
const VALIDATION_FRAMES: i64 = 25;
const SENT_FRAMES: i64 = 57;
/// Where LPIPS meets the grid of the tokens: on it, and off it both ways.
const VALIDATION_SHIFTS: [[i64; 2]; 2] = [[0, 0], [3, 6]];

/// LPIPS and SSIMULACRA2 are those of every n-th frame.
const SCORED_EVERY: i64 = 6;

/// Measures of the clips, with the averaged weights: without the control branch, then at some steps.
fn validate(stage: &mut Stage, clips: &[Clip]) -> Result<String> {
    stage.optimizer.swap_average();
    stage.training = false;
    let result = tch::no_grad(|| -> Result<String> {
        let rounded = |step: Option<f64>| {
            let quantisation = step.map(Quantisation::Step);
            validate_at(stage, clips, VALIDATION_FRAMES, (quantisation, CodingScale::Single))
        };
        let sent = |quantizer| {
            let scale = scale_of(quantizer);
            let quantisation = Quantisation::Sent(operating_point(quantizer, scale));
            validate_at(stage, clips, SENT_FRAMES, (Some(quantisation), scale))
        };
        let mut line = format!("validation {}", rounded(None)?);
        for step in VALIDATION_STEPS.iter().filter(|_| stage.joint.is_some()) {
            line += &format!("; step {step}: {}", rounded(Some(*step))?);
        }
        for quantizer in VALIDATION_QUANTIZERS.iter().filter(|_| stage.sender.is_some()) {
            line += &format!("; sent at quantizer {quantizer}: {}", sent(*quantizer)?);
        }
        Ok(line)
    });
    stage.optimizer.swap_average();
    stage.training = true;
    result
}

/// Mean PSNR, SSIMULACRA2, flicker, excess of amplitudes, LPIPS and, where they are rounded, rate of the latents over the clips, coded at a scale
/// in whole tokens. LPIPS is that of pictures
/// in the grid of the tokens, and that of pictures cut out of it, which tells whether networks fit LPIPS rather than what it
/// measures.
fn validate_at(
    stage: &Stage,
    clips: &[Clip],
    frames: i64,
    (quantisation, scale): (Option<Quantisation>, CodingScale),
) -> Result<String> {
    let (mut psnr, mut flicker, mut excess, mut bits) = (0.0, 0.0, 0.0, 0.0);
    let (mut perceptual, mut score) = ([0.0; 2], 0.0);
    for clip in clips {
        let xs = clip.quads(0, frames)?.to_device(stage.tokenizer.last_weight().device());
        let (height, width) = (xs.size()[3] * 2, xs.size()[4] * 2);
        let token = stage.tokenizer.config.spatial_factor();
        let coded = [height, width].map(|side| i64::from(scale.coded(side as u32).div_ceil(token as u32)) * token);
        let coded_xs = picture::resize_quads(&xs, coded)?;
        let (ys, rate) = stage.reconstruct(&coded_xs, quantisation)?;
        let ys = picture::resize_quads(&ys, [height, width])?;
        let samples = (coded[0] * coded[1]) as f64 / (width * height) as f64;
        psnr += losses::psnr_luma(&ys, &xs);
        flicker += f64::try_from(losses::temporal(&ys, &xs))? * HALF_RANGE;
        excess += f64::try_from(losses::excess(&ys, &xs))?;
        bits += rate.as_ref().map_or(Ok(0.0), f64::try_from)? * samples;
        let rgb = |quad: &Tensor| quads_to_rgb(&quad.squeeze_dim(0).slice(0, 0, None, SCORED_EVERY));
        let (ys, xs) = (rgb(&ys)?, rgb(&xs)?);
        score += mean_ssimulacra2(&ys, &xs)?;
        if let Some(lpips) = &stage.lpips {
            for (sum, shift) in perceptual.iter_mut().zip(VALIDATION_SHIFTS) {
                let distance = lpips.distance(&cut(&ys, shift)?, &cut(&xs, shift)?)?;
                *sum += f64::try_from(distance.mean(Kind::Float))?;
            }
        }
    }
    let n = clips.len().max(1) as f64;
    let rate = match quantisation {
        Some(Quantisation::Step(_)) => format!(" at {:.4} bits per sample", bits / n),
        _ => String::new(),
    };
    let (psnr, score, flicker, excess) = (psnr / n, score / n, flicker / n, excess / n);
    let [aligned, shifted] = perceptual.map(|sum| sum / n);
    Ok(format!(
        "PSNR {psnr:.2} dB, SSIMULACRA2 {score:.2}, flicker {flicker:.2}, excess {excess:.2}, LPIPS {aligned:.4} (off the grid {shifted:.4}){rate}"
    ))
}

/// Mean SSIMULACRA2 of pictures beside their sources, both `[n, 3, h, w]` R'G'B' in [0, 1].
fn mean_ssimulacra2(ys: &Tensor, xs: &Tensor) -> Result<f64> {
    let frames = xs.size()[0];
    let score = |at: i64| ssimulacra2(&xs.get(at), &ys.get(at));
    let total: f64 = (0..frames).map(score).sum::<Result<f64>>()?;
    Ok(total / frames as f64)
}
