// SPDX-License-Identifier: MPL-2.0
//! Stage 3: the context models, on the tokens and latents of trained networks.

use std::sync::Arc;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tch::{nn, Device, Kind, Tensor};

use super::checkpoint::Checkpoint;
use super::context_net::ContextNet;
use super::context_samples::Samples;
use super::export::pack;
use super::latent_context_net::{LatentContextNet, LatentSamples};
use super::optimizer::Optimizer;
use super::progress::progress_bar;
use super::recordings;
use super::segments::{learn, Learned, Options};
use crate::codec::SentUnit;
use crate::media::Clip;
use crate::model::{fill, IntegerModel, Model, ModelConfig, TensorFile};

/// Share of the run after which the rounding of the integer model is simulated.
const QUANTIZE_FROM: f64 = 0.6;

/// Streams of each clip that are learned from.
const STREAMS: usize = 2;

/// Share of the units of a step that begin a stream, or the models would hardly see any.
const KEY_SHARE: f64 = 0.15;

/// Quantizers at which the validation clips are looked at.
const VALIDATION_QUANTIZERS: [u32; 6] = [16, 24, 32, 41, 46, 57];

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

    fn export(&self) -> IntegerModel {
        let _no_grad = tch::no_grad_guard();
        IntegerModel {
            context: self.tokens.export(),
            latent_context: self.latents.as_ref().map(LatentContextNet::export),
        }
    }

    /// Bits of the tokens of samples, `[n]`, and of the latents at each position, `[n]`.
    fn bits(&self, samples: &[Samples], quantize: bool) -> [Tensor; 2] {
        let all = |part: fn(&Samples) -> &Tensor| Tensor::cat(&samples.iter().map(part).collect::<Vec<_>>(), 0);
        let tokens = self.tokens.bits(&all(|s| &s.rows), &all(|s| &s.digits), quantize);
        let latents: Vec<&LatentSamples> = samples.iter().filter_map(|s| s.latents.as_ref()).collect();
        let latents = match &self.latents {
            Some(net) if !latents.is_empty() => {
                let bits = net.bits(&LatentSamples::cat(&latents), quantize);
                bits.sum_dim_intlist([1i64].as_slice(), false, Kind::Float)
            }
            _ => tokens.narrow(0, 0, 0),
        };
        [tokens, latents]
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
    Ok(nets.export())
}

/// Trains until the budget is spent, and writes the checkpoint.
pub fn run(options: &Options, clips: &[Clip], validation: &[Clip]) -> Result<()> {
    let mut checkpoint = Checkpoint::open_or_from(&options.checkpoint, options.model.as_deref())?;
    let config = checkpoint
        .heads_config()?
        .with_context(|| format!("{} has no trained tokenizer", options.checkpoint.display()))?;
    let vs = nn::VarStore::new(options.device);
    let mut nets = Nets::new(&vs, &config);
    let is_new = checkpoint.averages("context").is_empty();
    if let Some(model) = options.model.as_ref().filter(|_| is_new) {
        nets.import(&TensorFile::read(model)?, &config)
            .with_context(|| format!("going on from {}", model.display()))?;
    }
    let mut optimizer = Optimizer::new(&vs, 1e-4);
    checkpoint.load("context", &mut optimizer);
    let encoder = encoder(&checkpoint, &nets, options.device)?;
    let validation = Validation::record(&encoder, validation, options.device)?;
    validation.report(&nets, |_| Ok(()))?;
    let mut rng = StdRng::seed_from_u64(options.seed);
    let streams = record(&encoder, clips, &mut rng)?;
    let step = |progress| {
        let drawn: Vec<Samples> = (0..options.batch)
            .map(|_| draw(&streams, options.device, &mut rng))
            .collect();
        learned(nets.bits(&drawn, progress >= QUANTIZE_FROM))
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
    validation.report(&nets, |line| log.note(line))
}

/// What the bits of a step's tokens and latents say.
fn learned(bits: [Tensor; 2]) -> Result<Learned> {
    // There may be no latents.
    let [tokens, latents] = bits.map(|bits| bits.sum(Kind::Float) / bits.size()[0].max(1) as f64);
    let (token_bits, latent_bits) = (f64::try_from(&tokens)?, f64::try_from(&latents)?);
    Ok(Learned {
        loss: tokens + latents,
        message: format!("{token_bits:.3} bits/token  {latent_bits:.3} bits/latent"),
        measures: format!("{token_bits:.4},{latent_bits:.4}"),
    })
}

/// The codec with the networks of a checkpoint, whose encoder chooses what is sent.
fn encoder(checkpoint: &Checkpoint, nets: &Nets, device: Device) -> Result<Arc<Model>> {
    let file = pack(checkpoint, &nets.export(), &[])?;
    Ok(Arc::new(Model::from_bytes(&file.to_bytes()?, device)?))
}

/// Some streams of each clip.
fn record(encoder: &Arc<Model>, clips: &[Clip], rng: &mut StdRng) -> Result<Vec<Vec<SentUnit>>> {
    println!("encoding {} clips", clips.len());
    let bar = progress_bar();
    let count = clips.len() * STREAMS;
    let streams = clips.iter().cycle().take(count).enumerate().map(|(at, clip)| {
        bar.set_position((1000 * at / count) as u64);
        recordings::draw(encoder, clip, rng)
    });
    streams.collect()
}

/// A slice of a random unit.
fn draw(streams: &[Vec<SentUnit>], device: Device, rng: &mut StdRng) -> Samples {
    let stream = &streams[rng.random_range(0..streams.len())];
    let at = match rng.random_bool(KEY_SHARE) {
        true => 0,
        false => rng.random_range(0..stream.len()),
    };
    let unit = &stream[at];
    Samples::of(unit, rng.random_range(0..unit.slices), device)
}

/// What other clips ask of the models at some quantizers, unit by unit.
struct Validation(Vec<(u32, Vec<Samples>)>);

impl Validation {
    fn record(encoder: &Arc<Model>, clips: &[Clip], device: Device) -> Result<Validation> {
        let at = |quantizer| {
            let streams = clips
                .iter()
                .map(|clip| recordings::at_quantizer(encoder, clip, quantizer));
            let streams = streams.collect::<Result<Vec<_>>>()?;
            let samples = streams.iter().flatten().map(|unit| Samples::of(unit, 0, device));
            Ok((quantizer, samples.collect()))
        };
        Ok(Validation(
            VALIDATION_QUANTIZERS.map(at).into_iter().collect::<Result<_>>()?,
        ))
    }

    /// Prints and notes bits per token and per position with latents: in floats and in simulated integers.
    fn report(&self, nets: &Nets, mut note: impl FnMut(&str) -> Result<()>) -> Result<()> {
        for (quantizer, samples) in self.0.iter().filter(|(_, samples)| !samples.is_empty()) {
            let [tokens, latents] = mean_bits(nets, samples, false)?;
            let [integer_tokens, integer_latents] = mean_bits(nets, samples, true)?;
            let line = format!(
                "validation at quantizer {quantizer}, bits per token: float {tokens:.3}, integers {integer_tokens:.3}; per latent: float \
                 {latents:.3}, integers {integer_latents:.3}"
            );
            println!("{line}");
            note(&line)?;
        }
        Ok(())
    }
}

/// Mean bits of a token and of the latents at a position.
fn mean_bits(nets: &Nets, samples: &[Samples], quantize: bool) -> Result<[f64; 2]> {
    let _no_grad = tch::no_grad_guard();
    let (mut sums, mut counts) = ([0.0; 2], [0; 2]);
    for unit in samples.chunks(1) {
        for (at, bits) in nets.bits(unit, quantize).iter().enumerate() {
            sums[at] += f64::try_from(bits.sum(Kind::Double))?;
            counts[at] += bits.size()[0];
        }
    }
    Ok(std::array::from_fn(|at| sums[at] / counts[at].max(1) as f64))
}
