// SPDX-License-Identifier: MPL-2.0
//! Clips as trained networks see them: the tokens and latents that the predictor learns from.

use std::path::PathBuf;

use anyhow::Result;
use tch::{nn, Device, Kind, Tensor};

use super::checkpoint::Checkpoint;
use super::latent_context_net::latent_steps;
use super::optimizer::Optimizer;
use super::progress::{progress_bar, Log};
use super::schedule::{Budget, Schedule};
use super::simulated::{skip_map, top_digits, unit_digits};
use crate::bitstream::CodingScale;
use crate::codec::{operating_point, scale_of};
use crate::entropy::LATENT_SCALE;
use crate::media::Clip;
use crate::model::picture::{self, Ycbcr};
use crate::model::{fill, Fusion, ModelConfig, StreamState, Tokenizer};

/// One run of a stage that learns from segments.
pub struct Options {
    pub checkpoint: PathBuf,
    /// Model file that a new checkpoint starts from.
    pub model: Option<PathBuf>,
    pub budget: Budget,
    /// Units of a step.
    pub batch: usize,
    pub log: PathBuf,
    pub device: Device,
    pub kind: Kind,
    pub seed: u64,
    /// Minutes between two writings of the checkpoint.
    pub write_every: f64,
}

/// What a step has found.
pub struct Learned {
    pub loss: Tensor,
    /// For the progress bar.
    pub message: String,
    /// For the log, after the number of the step and before the learning rate.
    pub measures: String,
}

/// Lets a part of a checkpoint learn until the budget is spent; the checkpoint is written now and then, and at the end.
/// `step` gets the share of the budget that is spent; `columns` names its measures.
pub fn learn(
    options: &Options,
    (checkpoint, part): (&mut Checkpoint, &str),
    (optimizer, max_norm): (&mut Optimizer, f64),
    columns: &str,
    mut step: impl FnMut(f64) -> Result<Learned>,
) -> Result<Log> {
    let missing = checkpoint.load(part, optimizer);
    println!("{} tensors start anew", missing.len());
    if !missing.is_empty() {
        optimizer.reset_average();
    }
    let before = checkpoint.totals(part);
    let mut schedule = Schedule::new(options.budget);
    let mut log = Log::open(&options.log, &format!("step,{columns},learning_rate"))?;
    let bar = progress_bar();
    let mut next_write = options.write_every;
    loop {
        let Learned {
            loss,
            message,
            measures,
        } = step(schedule.progress())?;
        optimizer.zero_grad();
        loss.backward();
        optimizer.step(schedule.lr(), max_norm);
        let number = schedule.advance();
        bar.set_position((schedule.progress() * 1000.0) as u64);
        bar.set_message(format!("step {number}  {message}"));
        log.line(&format!("{number},{measures},{:.3e}", schedule.lr()))?;
        if schedule.is_over() || schedule.minutes() >= next_write {
            next_write = schedule.minutes() + options.write_every;
            checkpoint.store(part, optimizer);
            checkpoint.set_totals(part, before, &schedule);
            checkpoint.write(&options.checkpoint)?;
        }
        if schedule.is_over() {
            return Ok(log);
        }
    }
}

/// Frames from one key unit to the next when clips are encoded.
const SEGMENT_FRAMES: i64 = 1 + 8 * 12;

/// The highest price of a bit at which places are skipped: see [`crate::codec::OperatingPoint::skip_lambda`].
pub const MAX_HOLD: f64 = 0.2;

/// A stretch of video that starts with a key unit.
pub struct Segment {
    /// Token maps `[h, w, 6]` i64.
    pub tokens: Vec<Tensor>,
    /// Real-valued latents in 1/256, `[units, h, w, channels]` f32.
    pub latents: Option<Tensor>,
}

impl Segment {
    /// The latents of some units, each of which refers to the one before it here, as the codec has them with the step of an index, in 1/256, and which of
    /// their places are skipped: see [`crate::codec::OperatingPoint::skip_lambda`].
    pub fn quantised(&self, numbers: &[usize], step: usize, skip_lambda: f64) -> Option<Vec<QuantisedLatents>> {
        let size = f64::from(latent_steps()[step]);
        let latents = self.latents.as_ref()?;
        let mut units: Vec<QuantisedLatents> = Vec::new();
        for &unit in numbers {
            let wanted = latents.select(0, unit as i64);
            let mut values = ((&wanted / size).round() * size).to_kind(Kind::Int64);
            let mut skipped = Tensor::zeros(&values.size()[..2], (Kind::Bool, values.device()));
            if let Some(before) = units.last() {
                let before_steps = before.values.to_kind(Kind::Float) / size;
                let places = skip_map(&(wanted / size), &before_steps, (step, skip_lambda), 2);
                values = before.values.where_self(&places, &values);
                skipped = places.squeeze_dim(2);
            }
            units.push(QuantisedLatents { values, skipped });
        }
        Some(units)
    }
}

/// A unit's latents as the codec has them.
pub struct QuantisedLatents {
    /// In 1/256: `[h, w, channels]` i64.
    pub values: Tensor,
    /// `[h, w]` bool.
    pub skipped: Tensor,
}

/// Frozen networks that make segments.
pub struct Networks {
    tokenizer: Tokenizer,
    fusion: Option<Fusion>,
    device: Device,
    kind: Kind,
}

impl Networks {
    /// The averaged weights of a checkpoint.
    pub fn load(checkpoint: &Checkpoint, config: &ModelConfig, device: Device, kind: Kind) -> Result<Networks> {
        let mut vs = nn::VarStore::new(device);
        let networks = Networks {
            tokenizer: Tokenizer::new(vs.root() / "tokenizer", &config.tokenizer),
            fusion: config
                .continuous
                .as_ref()
                .map(|continuous| Fusion::new(vs.root() / "fusion", continuous, &config.tokenizer)),
            device,
            kind,
        };
        fill(&vs, &checkpoint.averages("tokenizer"))?;
        vs.freeze();
        Ok(networks)
    }

    /// Runs the encoders over clips as the codec does, each segment with a quantizer of its own.
    pub fn segments(&self, clips: &[Clip], quantizer: impl Fn() -> u32) -> Result<Vec<Segment>> {
        let _no_grad = tch::no_grad_guard();
        let mut segments = Vec::new();
        for clip in clips {
            let mut at = 0;
            while at < clip.frames() {
                let quads = clip.quads(at, self.segment_frames())?.to_device(self.device);
                segments.push(self.segment(&quads, quantizer())?);
                at += self.segment_frames();
            }
        }
        Ok(segments)
    }

    /// No more than the tokenizer was trained for.
    fn segment_frames(&self) -> i64 {
        let known = self.tokenizer.config.max_frames().map_or(SEGMENT_FRAMES, i64::from);
        (known.min(SEGMENT_FRAMES) - 1) / 8 * 8 + 1
    }

    fn segment(&self, quads: &Tensor, quantizer: u32) -> Result<Segment> {
        let scale = self.scale(quantizer);
        let quads = &self.resized(quads, scale)?;
        let pictures = picture::to_network(quads, self.tokenizer.config.colour(), Ycbcr::BT601)?;
        let (zs, features) = self
            .tokenizer
            .encode_with_features(&pictures, self.kind, &mut StreamState::default())?;
        let bounded = self.tokenizer.fsq.bound(&zs)?.permute([0, 2, 3, 1]);
        let latents = match &self.fusion {
            Some(fusion) => {
                let ys = fusion.encode(&features, 1, &mut StreamState::default())?;
                Some(
                    (ys.permute([0, 2, 3, 1]) * f64::from(LATENT_SCALE))
                        .round()
                        .contiguous(),
                )
            }
            None => None,
        };
        Ok(Segment {
            tokens: hysteresis(&bounded, operating_point(quantizer, scale).hysteresis),
            latents,
        })
    }

    /// At which scale the codec codes pictures that are small enough.
    fn scale(&self, quantizer: u32) -> CodingScale {
        match self.tokenizer.config.is_cosmos() {
            true => CodingScale::Single,
            false => scale_of(quantizer),
        }
    }

    /// Pictures in the size in which they are coded at the scale, whole tokens; of enlarged ones only so much of the middle that
    /// they are about as large as before.
    fn resized(&self, quads: &Tensor, scale: CodingScale) -> Result<Tensor> {
        if scale == CodingScale::Single {
            return Ok(quads.shallow_clone());
        }
        let token = self.tokenizer.config.spatial_factor();
        let (mut shown, mut coded) = (quads.shallow_clone(), [0, 0]);
        for (dim, coded) in [3, 4].into_iter().zip(&mut coded) {
            let size = quads.size()[dim];
            let part = (size * size / i64::from(scale.coded(size as u32))).min(size);
            shown = shown.f_narrow(dim as i64, (size - part) / 2, part)?;
            *coded = (i64::from(scale.coded(2 * part as u32)) / token).max(1) * token;
        }
        Ok(picture::resize_quads(&shown, coded)?)
    }
}

/// The encoder's rounding with hysteresis; `bounded: [units, h, w, 6]`.
pub(super) fn hysteresis(bounded: &Tensor, reach: f64) -> Vec<Tensor> {
    let (top, reach) = (
        top_digits(bounded.device()),
        Tensor::from_slice(&[reach as f32]).to_device(bounded.device()),
    );
    let mut maps: Vec<Tensor> = Vec::new();
    for unit in 0..bounded.size()[0] {
        let last = maps.last().map(|last| last.to_kind(Kind::Float));
        let map = unit_digits(&bounded.select(0, unit), last.as_ref(), &reach, &top);
        maps.push(map.to_kind(Kind::Int64));
    }
    maps
}
