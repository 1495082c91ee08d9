// SPDX-License-Identifier: MPL-2.0
//! Stage 2: the context model on the tokens of a trained tokenizer.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{ensure, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tch::{nn, Device, Kind, Tensor};

use super::checkpoint::Checkpoint;
use super::clips::Clip;
use super::context_net::{context_rows, ContextNet};
use super::optimizer::AdamW;
use super::progress::{progress_bar, Log};
use super::schedule::{Budget, Schedule};
use crate::codec::{dead_zone_reach, DEFAULT_QUANTIZER, MAX_QUANTIZER};
use crate::model::{picture, StreamState, Tokenizer};

/// One run of the stage.
pub struct Options {
    pub checkpoint: PathBuf,
    pub budget: Budget,
    /// Units of a step.
    pub batch: usize,
    pub log: PathBuf,
    pub device: Device,
    pub kind: Kind,
    pub seed: u64,
}

/// Frames from one key unit to the next when clips are tokenized.
const SEGMENT_FRAMES: i64 = 1 + 8 * 12;
/// Share of the run after which the rounding of the integer model is simulated.
const QUANTIZE_FROM: f64 = 0.6;

/// The token maps of a stretch of video that starts with a key unit, each `[h, w, 6]` i64.
type Segment = Vec<Tensor>;

/// Tokenizes clips as the encoder does, each segment with a quantizer of its own.
fn tokenize(
    tokenizer: &Tokenizer,
    clips: &[Clip],
    options: &Options,
    quantizer: impl Fn() -> u32,
) -> Result<Vec<Segment>> {
    let _no_grad = tch::no_grad_guard();
    let mut segments = Vec::new();
    for clip in clips {
        let (width, height) = (clip.size().0 & !15, clip.size().1 & !15);
        let mut at = 0;
        while at < clip.frames() {
            let frames = (clip.frames() - at - 1).min(SEGMENT_FRAMES - 1) / 8 * 8 + 1;
            let cut = |t: &Tensor, scale: i64| {
                t.narrow(0, at, frames)
                    .slice(-2, 0, height / scale, 1)
                    .slice(-1, 0, width / scale, 1)
            };
            let quads = picture::quad_from_planes(&cut(&clip.luma, 1), &cut(&clip.chroma, 2))?;
            let quads = quads.unsqueeze(0).to_device(options.device);
            let latents = tokenizer.encode(&quads, options.kind, &mut StreamState::default())?;
            let bounded = tokenizer.fsq.bound(&latents)?.permute([0, 2, 3, 1]);
            segments.push(dead_zone(&bounded, quantizer()));
            at += frames.max(SEGMENT_FRAMES);
        }
    }
    Ok(segments)
}

/// The encoder's rounding with hysteresis; `bounded: [units, h, w, 6]`.
fn dead_zone(bounded: &Tensor, quantizer: u32) -> Segment {
    let reach = dead_zone_reach(quantizer);
    let top: Vec<f32> = crate::FSQ_LEVELS.iter().map(|&l| f32::from(l - 1)).collect();
    let top = Tensor::from_slice(&top).to_device(bounded.device());
    let mut maps: Segment = Vec::new();
    for unit in 0..bounded.size()[0] {
        let values = bounded.select(0, unit);
        let rounded = values.round().clamp_min(0.0).minimum(&top);
        let map = match maps.last() {
            Some(last) => {
                let last = last.to_kind(Kind::Float);
                last.where_self(&(&values - &last).abs().le(reach), &rounded)
            }
            None => rounded,
        };
        maps.push(map.to_kind(Kind::Int64));
    }
    maps
}

fn unit_rows(segment: &Segment, unit: usize) -> (Tensor, Tensor) {
    let back = |n: usize| unit.checked_sub(n).map(|u| &segment[u]);
    let rows = context_rows(&segment[unit], back(1), back(2));
    (rows, segment[unit].flatten(0, 1))
}

/// Trains until the budget is spent, and writes the checkpoint.
pub fn run(options: &Options, clips: &[Clip], validation: &[Clip]) -> Result<()> {
    let mut checkpoint = Checkpoint::open(&options.checkpoint)?;
    let config = checkpoint.config()?;
    ensure!(
        config.is_some(),
        "{} has no trained tokenizer",
        options.checkpoint.display()
    );
    let tokenizer_vs = nn::VarStore::new(options.device);
    let tokenizer = Tokenizer::new(tokenizer_vs.root() / "tokenizer", &config.unwrap_or_default().tokenizer);
    fill(&tokenizer_vs, &checkpoint.averages("tokenizer"))?;

    let rng = std::cell::RefCell::new(StdRng::seed_from_u64(options.seed));
    let any_quantizer = || rng.borrow_mut().random_range(0..=MAX_QUANTIZER);
    println!("tokenizing {} clips", clips.len() + validation.len());
    let segments = tokenize(&tokenizer, clips, options, any_quantizer)?;
    let validation = tokenize(&tokenizer, validation, options, || DEFAULT_QUANTIZER)?;

    let vs = nn::VarStore::new(options.device);
    let net = ContextNet::new(vs.root() / "context");
    let mut optimizer = AdamW::new(&vs, 0.0);
    let missing = checkpoint.load("context", &mut optimizer);
    println!("{} tensors start anew", missing.len());

    let mut schedule = Schedule::new(options.budget);
    let mut log = Log::open(&options.log, "step,bits_per_token,learning_rate")?;
    let bar = progress_bar();
    while !schedule.is_over() {
        let quantize = schedule.progress() >= QUANTIZE_FROM;
        let drawn = (0..options.batch).map(|_| {
            let mut rng = rng.borrow_mut();
            let segment = &segments[rng.random_range(0..segments.len())];
            // One unit in seven is a key unit, or the model would hardly see any.
            let unit = if rng.random_bool(0.15) {
                0
            } else {
                rng.random_range(0..segment.len())
            };
            unit_rows(segment, unit)
        });
        let (rows, digits): (Vec<_>, Vec<_>) = drawn.unzip();
        let bits = net
            .bits(&Tensor::cat(&rows, 0), &Tensor::cat(&digits, 0), quantize)
            .mean(Kind::Float);
        optimizer.zero_grad();
        bits.backward();
        optimizer.step(schedule.lr(), 5.0);
        let bits = f64::try_from(bits)?;
        let step = schedule.advance();
        bar.set_position((schedule.progress() * 1000.0) as u64);
        bar.set_message(format!("step {step}  {bits:.3} bits/token"));
        log.line(&format!("{step},{bits:.4},{:.3e}", schedule.lr()))?;
    }
    checkpoint.store("context", &optimizer);
    checkpoint.set_total(
        "context.steps",
        checkpoint.total("context.steps") + schedule.steps() as f64,
    );
    checkpoint.set_total(
        "context.minutes",
        checkpoint.total("context.minutes") + schedule.minutes(),
    );
    checkpoint.write(&options.checkpoint)?;
    optimizer.swap_average();
    report(&net, &validation, &mut log)
}

/// Bits per token on the validation clips: float, simulated integers, and the integer model itself.
fn report(net: &ContextNet, validation: &[Segment], log: &mut Log) -> Result<()> {
    use crate::entropy::{ContextModel, History, TokenMap};
    let _no_grad = tch::no_grad_guard();
    let integer = ContextModel::new(net.export())?;
    let (mut float, mut simulated, mut exact, mut tokens) = (0.0, 0.0, 0.0, 0);
    for segment in validation {
        let mut history = History::default();
        for unit in 0..segment.len() {
            let (rows, digits) = unit_rows(segment, unit);
            float += f64::try_from(net.bits(&rows, &digits, false).sum(Kind::Double))?;
            simulated += f64::try_from(net.bits(&rows, &digits, true).sum(Kind::Double))?;
            let (h, w, _) = segment[unit].size3()?;
            let mut map = TokenMap::zero(w as usize, h as usize);
            let values = Vec::<i64>::try_from(digits.flatten(0, -1))?;
            map.tokens
                .as_flattened_mut()
                .iter_mut()
                .zip(values)
                .for_each(|(d, v)| *d = v as u8);
            exact += integer.cost(&history, &map)?;
            history.push(map);
            tokens += w * h;
        }
    }
    let per_token = |bits: f64| bits / tokens.max(1) as f64;
    let line = format!(
        "validation bits per token: float {:.3}, simulated {:.3}, integer model {:.3}",
        per_token(float),
        per_token(simulated),
        per_token(exact)
    );
    println!("{line}");
    log.note(&line)
}

/// Copies averaged weights into a store; every variable must be there.
pub fn fill(vs: &nn::VarStore, weights: &HashMap<String, Tensor>) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    for (name, mut variable) in vs.variables() {
        let weight = weights.get(&name);
        ensure!(
            weight.is_some_and(|w| w.size() == variable.size()),
            "the checkpoint has no {name} of this shape"
        );
        variable.copy_(&weights[&name]);
    }
    Ok(())
}
