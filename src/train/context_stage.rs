// SPDX-License-Identifier: MPL-2.0
//! Stage 3: the context models, on the tokens and latents of trained networks.

use std::cell::RefCell;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tch::{nn, Device, Kind, Tensor};

use super::checkpoint::Checkpoint;
use super::context_net::{context_rows, ContextNet};
use super::latent_context_net::{LatentContextNet, LatentSamples, LatentUnit};
use super::optimizer::Optimizer;
use super::predictor_samples::{positions, without};
use super::progress::Log;
use super::segments::{learn, Learned, Networks, Options, QuantisedLatents, Segment, MAX_HOLD};
use crate::bitstream::Slice;
use crate::codec::{DEFAULT_QUANTIZER, MAX_QUANTIZER};
use crate::entropy::{Region, LATENT_STEPS, MASKED};
use crate::media::Clip;
use crate::model::{fill, IntegerModel, ModelConfig, TensorFile};

/// Share of the run after which the rounding of the integer model is simulated.
const QUANTIZE_FROM: f64 = 0.6;

/// Share of the units of a step whose tokens are partly masked.
const MASKED_SHARE: f64 = 0.25;

/// Share of the units of a step of which no places are skipped.
const UNSKIPPED_SHARE: f64 = 0.1;

/// Share of the units of a step that refer to one unit further back, as those of resilient streams do: mostly to the key unit.
const DISTANT_SHARE: f64 = 0.25;
const KEY_SHARE: f64 = 0.6;
/// Share of those of which a slice is coded.
const SLICE_SHARE: f64 = 0.4;

/// What a unit is coded from.
struct Unit<'a> {
    segment: &'a Segment,
    at: usize,
    /// The unit that it refers to, in a resilient stream.
    reference: Option<usize>,
    region: Region,
    /// Its tokens with [`MASKED`] where they are not sent.
    tokens: Tensor,
    /// The last tokens that were sent, as of the unit before.
    previous: Option<Tensor>,
    /// Quantisation step of the latents.
    step: usize,
    /// See [`crate::codec::OperatingPoint::skip_lambda`]; negative: no places are skipped.
    skip_lambda: f64,
}

impl Unit<'_> {
    /// A unit with all tokens sent.
    fn whole(segment: &Segment, at: usize, step: usize) -> Unit<'_> {
        Unit {
            segment,
            at,
            reference: None,
            region: Region::WHOLE,
            tokens: segment.tokens[at].shallow_clone(),
            previous: at.checked_sub(1).map(|u| segment.tokens[u].shallow_clone()),
            step,
            skip_lambda: VALIDATION_HOLD,
        }
    }

    /// A random unit; now and then some of its tokens and of those before are masked, or no places are skipped.
    fn draw<'a>(segments: &'a [Segment], rng: &mut StdRng) -> Unit<'a> {
        let segment = &segments[rng.random_range(0..segments.len())];
        // One unit in seven is a key unit, or the model would hardly see any.
        let at = if rng.random_bool(0.15) {
            0
        } else {
            rng.random_range(0..segment.tokens.len())
        };
        let mut unit = Unit::whole(segment, at, rng.random_range(0..LATENT_STEPS));
        unit.skip_lambda = match rng.random_bool(UNSKIPPED_SHARE) {
            true => -1.0,
            false => rng.random_range(0.0..MAX_HOLD),
        };
        if at > 0 && rng.random_bool(DISTANT_SHARE) {
            unit.refer_back(rng);
        }
        let Some(previous) = unit.previous.as_ref().filter(|_| rng.random_bool(MASKED_SHARE)) else {
            return unit;
        };
        let ratio = rng.random_range(0.1..0.9);
        let size = unit.tokens.size();
        let mask = || Tensor::rand([size[0], size[1], 1], (Kind::Float, previous.device())).lt(ratio);
        let older = &segment.tokens[unit.reference.unwrap_or(at.saturating_sub(1)).saturating_sub(1)];
        let last_sent = older.where_self(&mask(), previous);
        unit.tokens = without(&unit.tokens, &mask().squeeze_dim(2));
        unit.previous = Some(last_sent);
        unit.cut();
        unit
    }

    /// Lets it refer to one unit before the last, and to nothing else; now and then it is a slice.
    fn refer_back(&mut self, rng: &mut StdRng) {
        let reference = match rng.random_bool(KEY_SHARE) {
            true => 0,
            false => rng.random_range(0..self.at),
        };
        self.reference = Some(reference);
        self.previous = Some(self.segment.tokens[reference].shallow_clone());
        if rng.random_bool(SLICE_SHARE) {
            let index = rng.random_range(0..2);
            self.region = Region::of(Slice { index, count: 2 });
            self.cut();
        }
    }

    /// Masks what is beyond its region.
    fn cut(&mut self) {
        if self.region.is_whole() {
            return;
        }
        let beyond = positions(self.region, &self.tokens).logical_not();
        for map in [Some(&mut self.tokens), self.previous.as_mut()].into_iter().flatten() {
            *map = without(map, &beyond);
        }
    }

    /// Table rows and digits of the tokens that are sent.
    fn token_samples(&self) -> (Tensor, Tensor) {
        let older = self.at.checked_sub(2).map(|u| &self.segment.tokens[u]);
        let older = older.filter(|_| self.reference.is_none());
        let rows = context_rows(&self.tokens, self.previous.as_ref(), older, self.region);
        let digits = self.tokens.flatten(0, 1);
        let sent = digits.select(1, 0).lt(i64::from(MASKED[0])).nonzero().squeeze_dim(1);
        (rows.index_select(0, &sent), digits.index_select(0, &sent))
    }

    fn latent_samples(&self) -> Option<LatentSamples> {
        // What a slice's latents are coded from is what whole units have in their first two phases.
        if !self.region.is_whole() {
            return None;
        }
        let units = match self.reference {
            Some(reference) => self
                .segment
                .quantised(&[reference, self.at], self.step, self.skip_lambda)?,
            None => self
                .segment
                .quantised(&Vec::from_iter(0..=self.at), self.step, self.skip_lambda)?,
        };
        let mut latest = units.iter().rev();
        let unit = latest.next()?;
        let values = |unit: &'_ QuantisedLatents| unit.values.shallow_clone();
        let (previous, older) = (latest.next().map(values), latest.next().map(values));
        Some(LatentSamples::of(&LatentUnit {
            latents: &unit.values,
            previous: previous.as_ref(),
            older: older.as_ref(),
            tokens: &self.tokens,
            previous_tokens: self.previous.as_ref(),
            skipped: Some(&unit.skipped),
            step: self.step,
        }))
    }
}

/// The float twins of both context models.
struct Nets {
    tokens: ContextNet,
    latents: Option<LatentContextNet>,
}

impl Nets {
    fn new(vs: &nn::VarStore, config: &ModelConfig) -> Nets {
        let latents = config.continuous.as_ref();
        Nets {
            tokens: ContextNet::new(vs.root() / "context"),
            latents: latents.map(|c| LatentContextNet::new(vs.root() / "latent_context", c.channels)),
        }
    }
}

impl Nets {
    /// Takes up the integer models of a model file, as far as they are of the size that is trained.
    fn import(&mut self, file: &TensorFile, config: &ModelConfig) -> Result<()> {
        let integers = IntegerModel::read(file, config)?;
        if ContextNet::fits(&integers.context) {
            self.tokens.import(&integers.context)?;
        }
        match (&mut self.latents, &integers.latent_context) {
            (Some(net), Some(weights)) if net.fits(weights) => net.import(weights),
            _ => Ok(()),
        }
    }
}

/// The integer models of a checkpoint.
pub fn export(checkpoint: &Checkpoint) -> Result<IntegerModel> {
    let config = checkpoint
        .heads_config()?
        .context("the checkpoint has no configuration")?;
    let vs = nn::VarStore::new(Device::Cpu);
    let nets = Nets::new(&vs, &config);
    fill(&vs, &checkpoint.averages("context"))?;
    let _no_grad = tch::no_grad_guard();
    Ok(IntegerModel {
        context: nets.tokens.export(),
        latent_context: nets.latents.as_ref().map(LatentContextNet::export),
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
    let segments = networks.segments(clips, || rng.borrow_mut().random_range(0..=MAX_QUANTIZER))?;
    let validation = networks.segments(validation, || DEFAULT_QUANTIZER)?;
    let vs = nn::VarStore::new(options.device);
    let mut nets = Nets::new(&vs, &config);
    if let Some(model) = options
        .model
        .as_ref()
        .filter(|_| checkpoint.averages("context").is_empty())
    {
        nets.import(&TensorFile::read(model)?, &config)
            .with_context(|| format!("going on from {}", model.display()))?;
    }
    let mut optimizer = Optimizer::new(&vs, 1e-4);
    let step = |progress| {
        let drawn: Vec<Unit> = (0..options.batch)
            .map(|_| Unit::draw(&segments, &mut rng.borrow_mut()))
            .collect();
        let (token_bits, latent_bits) = mean_bits(&nets, &drawn, progress >= QUANTIZE_FROM);
        let loss = &token_bits + &latent_bits;
        let (token_bits, latent_bits) = (f64::try_from(token_bits)?, f64::try_from(latent_bits)?);
        Ok(Learned {
            loss,
            message: format!("{token_bits:.3} bits/token  {latent_bits:.3} bits/latent"),
            measures: format!("{token_bits:.4},{latent_bits:.4}"),
        })
    };
    let columns = "bits_per_token,bits_per_latent";
    let mut log = learn(
        options,
        (&mut checkpoint, "context"),
        (&mut optimizer, 5.0),
        columns,
        step,
    )?;
    optimizer.swap_average();
    report(&nets, &validation, &mut log)
}

/// Mean bits of a token that is sent and of the latents at a place that is not skipped.
fn mean_bits(nets: &Nets, units: &[Unit], quantize: bool) -> (Tensor, Tensor) {
    let (rows, digits): (Vec<_>, Vec<_>) = units.iter().map(Unit::token_samples).unzip();
    let token_bits = nets
        .tokens
        .bits(&Tensor::cat(&rows, 0), &Tensor::cat(&digits, 0), quantize)
        .mean(Kind::Float);
    let latent_bits = match &nets.latents {
        Some(net) => {
            let samples: Vec<_> = units.iter().filter_map(Unit::latent_samples).collect();
            let bits = net.bits(&LatentSamples::cat(&samples), quantize);
            // There may be no place that is not skipped.
            bits.sum(Kind::Float) / bits.size()[0].max(1) as f64
        }
        None => token_bits.zeros_like(),
    };
    (token_bits, latent_bits)
}

/// Step of the latents that the validation clips are looked at with, and how far places are skipped there.
const VALIDATION_STEP: usize = 24;
const VALIDATION_HOLD: f64 = 0.07;

/// Bits per token and per latent on the validation clips: float and simulated integers.
fn report(nets: &Nets, validation: &[Segment], log: &mut Log) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    let mut totals = [[0.0; 2]; 2];
    let mut units = 0.0;
    for segment in validation {
        for at in 0..segment.tokens.len() {
            let unit = [Unit::whole(segment, at, VALIDATION_STEP)];
            for (quantize, total) in [false, true].into_iter().zip(&mut totals) {
                let (tokens, latents) = mean_bits(nets, &unit, quantize);
                total[0] += f64::try_from(tokens)?;
                total[1] += f64::try_from(latents)?;
            }
            units += 1.0;
        }
    }
    let line = format!(
        "validation bits per token: float {:.3}, integers {:.3}; per latent: float {:.3}, integers {:.3}",
        totals[0][0] / units,
        totals[1][0] / units,
        totals[0][1] / units,
        totals[1][1] / units
    );
    println!("{line}");
    log.note(&line)
}
