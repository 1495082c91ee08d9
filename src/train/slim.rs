// SPDX-License-Identifier: MPL-2.0
//! A painter (decoder and control branch) of fewer multiplications from a trained one: the channels and blocks that matter least go,
//! the last convolution becomes a product of two. Tokens, latents and the model's identity stay: old streams decode.

use std::path::Path;

use anyhow::{ensure, Context, Result};
use tch::{Device, Kind, Tensor};

use super::calibrate::{self, Pair, Weights, CONTROL, DECODER};
use super::checkpoint::Checkpoint;
use super::samples::{SampleShape, Sampler};
use crate::media::Clip;
use crate::model::{
    painter_macs, ContinuousNetworks, Convolutions, LevelConfig, LevelNetworks, ModelConfig, NetworkConfig,
};

/// Hidden widths are multiples of this: what vector units like.
const GRAIN: i64 = 16;

/// What is kept. Lists are of levels, the finest first; what is not given stays, or follows from the cost.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Plan {
    /// Thousand multiplications for each luma sample that the painter may take: hidden widths are cut by one factor until it does.
    #[arg(long)]
    pub kmac: Option<f64>,
    /// Hidden widths of the decoder's levels, before --kmac.
    #[arg(long, value_delimiter = ',')]
    pub hidden: Vec<i64>,
    /// Blocks in space of the decoder's levels.
    #[arg(long, value_delimiter = ',')]
    pub blocks: Vec<i64>,
    /// Hidden widths of the control branch's levels, before --kmac.
    #[arg(long, value_delimiter = ',')]
    pub control_hidden: Vec<i64>,
    /// Blocks in space of the control branch's levels.
    #[arg(long, value_delimiter = ',')]
    pub control_blocks: Vec<i64>,
    /// Channels between the factors of the last convolution.
    #[arg(long)]
    pub output_rank: Option<i64>,
}

/// Samples that a slimmer painter is fitted on.
const SAMPLES: SampleShape = SampleShape {
    batch: 25,
    frames: 17,
    size: 128,
};

/// Reads a checkpoint, or a model file where that is given, and writes a checkpoint with the slimmer painter, fitted to what the whole one
/// makes of clips.
pub fn run(checkpoint: &Path, model: Option<&Path>, out: &Path, plan: &Plan, clips: Vec<Clip>) -> Result<()> {
    let mut checkpoint = Checkpoint::open_or_from(checkpoint, model)?;
    let before = checkpoint.config()?.context("the checkpoint has no configuration")?;
    let after = plan.apply(&before)?;
    println!(
        "{:.2} -> {:.2} thousand multiplications a luma sample",
        painter_macs(&before, Convolutions::Direct) / 1e3,
        painter_macs(&after, Convolutions::Direct) / 1e3
    );
    let old = checkpoint.averages("tokenizer");
    let copy = || old.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect();
    let (mut weights, kept) = slim(copy(), &before, &after)?;
    if !clips.is_empty() {
        let quads = Sampler::new(clips, Device::Cpu, 1).batch(SAMPLES);
        fit_weights((&after, &mut weights), (&before, &old), &kept, &quads)?;
    }
    checkpoint.restart("tokenizer", weights);
    checkpoint.set_config(&after)?;
    checkpoint.write(out)
}

impl Plan {
    /// The configuration that is left of one.
    pub fn apply(&self, config: &ModelConfig) -> Result<ModelConfig> {
        let mut planned = config.clone();
        let (networks, control) = painter_mut(&mut planned)?;
        set_levels(&mut networks.decoder, &self.hidden, &self.blocks)?;
        if let Some(rank) = self.output_rank {
            networks.output_rank = Some(rank);
        }
        if let Some(control) = control {
            set_levels(control, &self.control_hidden, &self.control_blocks)?;
        }
        let planned = match self.kmac {
            Some(kmac) => fit(&planned, kmac * 1e3)?,
            None => planned,
        };
        planned.validate()?;
        Ok(planned)
    }
}

/// Decoder and control branch of a model of levels.
fn painter_mut(config: &mut ModelConfig) -> Result<(&mut LevelNetworks, Option<&mut Vec<LevelConfig>>)> {
    let NetworkConfig::Levels(networks) = &mut config.tokenizer.networks else {
        anyhow::bail!("only models of this project's own networks can be made slimmer");
    };
    let control = match config.continuous.as_mut().map(|continuous| &mut continuous.networks) {
        Some(ContinuousNetworks::Levels { control, .. }) => Some(control),
        _ => None,
    };
    Ok((networks, control))
}

fn set_levels(levels: &mut [LevelConfig], hidden: &[i64], blocks: &[i64]) -> Result<()> {
    for list in [hidden, blocks] {
        ensure!(
            list.is_empty() || list.len() == levels.len(),
            "{} numbers for {} levels",
            list.len(),
            levels.len()
        );
    }
    for (level, &hidden) in levels.iter_mut().zip(hidden) {
        ensure!(
            hidden <= level.hidden,
            "a hidden width of {hidden}, at most {}",
            level.hidden
        );
        level.hidden = hidden;
    }
    for (level, &blocks) in levels.iter_mut().zip(blocks) {
        ensure!(blocks <= level.blocks, "{blocks} blocks, at most {}", level.blocks);
        level.blocks = blocks;
        level.temporal_blocks = level.temporal_blocks.min(blocks);
    }
    Ok(())
}

/// The widest hidden layers, cut by one factor, that keep to a number of multiplications.
fn fit(config: &ModelConfig, macs: f64) -> Result<ModelConfig> {
    let cut = |share: f64| -> Result<ModelConfig> {
        let mut config = config.clone();
        let (networks, control) = painter_mut(&mut config)?;
        for level in networks.decoder.iter_mut().chain(control.into_iter().flatten()) {
            let wanted = (level.hidden as f64 * share) as i64 / GRAIN * GRAIN;
            level.hidden = wanted.max(GRAIN).min(level.hidden);
        }
        Ok(config)
    };
    for percent in (0..=100).rev() {
        let config = cut(f64::from(percent) / 100.0)?;
        if painter_macs(&config, Convolutions::Direct) <= macs {
            return Ok(config);
        }
    }
    let least = painter_macs(&cut(0.0)?, Convolutions::Direct) / 1e3;
    anyhow::bail!("with these blocks the painter takes {least:.2} thousand multiplications a sample at least")
}

/// Blocks in space that are left, for each level of decoder and control branch.
struct Kept {
    decoder: Vec<Vec<i64>>,
    control: Vec<Vec<i64>>,
}

/// The weights of one configuration, cut to another.
fn slim(mut weights: Weights, before: &ModelConfig, after: &ModelConfig) -> Result<(Weights, Kept)> {
    let (mut before, mut after) = (before.clone(), after.clone());
    let (old, old_control) = painter_mut(&mut before)?;
    let (new, new_control) = painter_mut(&mut after)?;
    let mut slimmer = Slimmer { weights: &mut weights };
    let decoder = slimmer.levels(DECODER, &old.decoder, &new.decoder)?;
    if let Some(rank) = new.output_rank.filter(|_| old.output_rank != new.output_rank) {
        slimmer.factorize(rank)?;
    }
    let mut control = vec![];
    if let (Some(old), Some(new)) = (old_control, new_control) {
        control = slimmer.levels(CONTROL, old, new)?;
    }
    Ok((weights, Kept { decoder, control }))
}

/// Fits the weights of the configuration after to what the one before makes of pictures, `quads: [n, t, 6, h/2, w/2]`.
fn fit_weights(
    (after, weights): (&ModelConfig, &mut Weights),
    (before, old_weights): (&ModelConfig, &Weights),
    kept: &Kept,
    quads: &Tensor,
) -> Result<()> {
    let inputs = tch::no_grad(|| calibrate::inputs(before, old_weights, quads))?;
    let (mut before_parts, mut after_parts) = (before.clone(), after.clone());
    let (old, old_control) = painter_mut(&mut before_parts)?;
    let (new, new_control) = painter_mut(&mut after_parts)?;
    let control = match (&old_control, &new_control) {
        (Some(old), Some(new)) => Some(Pair {
            name: CONTROL,
            before: old,
            after: new,
            kept: &kept.control,
        }),
        _ => None,
    };
    let decoder = Pair {
        name: DECODER,
        before: &old.decoder,
        after: &new.decoder,
        kept: &kept.decoder,
    };
    calibrate::fit((after, weights), (before, old_weights), (control, decoder), &inputs)
}

struct Slimmer<'a> {
    weights: &'a mut Weights,
}

impl Slimmer<'_> {
    fn get(&self, name: &str) -> Result<Tensor> {
        let tensor = self.weights.get(name).with_context(|| format!("no tensor {name}"))?;
        Ok(tensor.shallow_clone())
    }

    fn set(&mut self, name: String, tensor: Tensor) {
        self.weights.insert(name, tensor.contiguous());
    }

    fn remove(&mut self, prefix: &str) {
        self.weights.retain(|name, _| !name.starts_with(prefix));
    }

    /// Cuts the levels of a network; which of their blocks in space are left.
    fn levels(&mut self, network: &str, old: &[LevelConfig], new: &[LevelConfig]) -> Result<Vec<Vec<i64>>> {
        let mut all_kept = vec![];
        for (i, (old, new)) in old.iter().zip(new).enumerate() {
            let level = format!("{network}.level.{i}");
            all_kept.push(self.drop_blocks(&level, old, new)?);
            let kinds = [("spatial", new.blocks), ("temporal", new.temporal_blocks)];
            for (kind, count) in kinds.into_iter().filter(|_| new.hidden < old.hidden) {
                for block in 0..count {
                    self.narrow(&format!("{level}.{kind}.{block}"), new.hidden)?;
                }
            }
        }
        Ok(all_kept)
    }

    /// Removes the blocks in space that matter least of those that no block in time follows, and the last blocks in time.
    fn drop_blocks(&mut self, level: &str, old: &LevelConfig, new: &LevelConfig) -> Result<Vec<i64>> {
        let mut alone = vec![];
        for block in new.temporal_blocks.min(new.blocks)..old.blocks {
            alone.push((self.power(&format!("{level}.spatial.{block}"))?, block));
        }
        alone.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut kept: Vec<i64> = (0..new.temporal_blocks.min(new.blocks)).collect();
        kept.extend(
            alone
                .iter()
                .take((new.blocks as usize).saturating_sub(kept.len()))
                .map(|(_, block)| *block),
        );
        kept.sort();
        for (to, from) in kept.iter().enumerate() {
            self.rename(&format!("{level}.spatial.{from}."), &format!("{level}.spatial.{to}."));
        }
        for block in new.blocks..old.blocks {
            self.remove(&format!("{level}.spatial.{block}."));
        }
        for block in new.temporal_blocks..old.temporal_blocks {
            self.remove(&format!("{level}.temporal.{block}."));
        }
        Ok(kept)
    }

    fn rename(&mut self, from: &str, to: &str) {
        let names: Vec<String> = self
            .weights
            .keys()
            .filter(|name| name.starts_with(from))
            .cloned()
            .collect();
        for name in names {
            if let Some(tensor) = self.weights.get(&name).map(Tensor::shallow_clone) {
                self.weights.insert(name.replacen(from, to, 1), tensor);
            }
        }
    }

    /// How much each hidden channel of a block sends on where its inputs are of unit variance, `[hidden]`: the norm of its outgoing
    /// weights times that of its incoming ones.
    fn importance(&self, block: &str) -> Result<Tensor> {
        let (inward, outward) = (
            self.get(&format!("{block}.conv1.weight"))?,
            self.get(&format!("{block}.conv2.weight"))?,
        );
        let scale = self.get(&format!("{block}.norm.weight"))?;
        let hidden = inward.size()[0];
        // A block in time has the channels of three time steps side by side.
        let inward = inward.f_reshape([hidden, -1, scale.size()[0], inward.size()[2] * inward.size()[3]])?;
        let inward = inward * scale.view([1, 1, -1, 1]);
        let norm = |matrix: Tensor| matrix.norm_scalaropt_dim(2.0, [1i64].as_slice(), false);
        Ok(norm(inward.flatten(1, -1)) * norm(outward.flatten(1, -1).tr()))
    }

    /// The sum of the squares of [`Self::importance`].
    fn power(&self, block: &str) -> Result<f64> {
        Ok(f64::try_from(self.importance(block)?.square().sum(Kind::Float))?)
    }

    /// Keeps the hidden channels of a block that matter most.
    fn narrow(&mut self, block: &str, hidden: i64) -> Result<()> {
        let (_, kept) = self.importance(block)?.topk(hidden, 0, true, true);
        for (name, dim) in [("conv1.weight", 0), ("conv1.bias", 0), ("conv2.weight", 1)] {
            let name = format!("{block}.{name}");
            let cut = self.get(&name)?.index_select(dim, &kept);
            self.set(name, cut);
        }
        Ok(())
    }

    /// Makes the last convolution a product of a 3x3 and a 1x1 convolution of a rank, the nearest one (Eckart and Young, 1936).
    fn factorize(&mut self, rank: i64) -> Result<()> {
        let (weight, bias) = calibrate::whole_output(self.weights)?;
        let size = weight.size();
        ensure!(rank <= size[0], "an output rank of {rank}, at most {}", size[0]);
        let (u, s, v) = weight.flatten(1, -1).svd(true, true);
        let root = s.narrow(0, 0, rank).sqrt();
        let first = (v.narrow(1, 0, rank) * &root)
            .tr()
            .reshape([rank, size[1], size[2], size[3]]);
        let second = (u.narrow(1, 0, rank) * &root).reshape([size[0], rank, 1, 1]);
        let nothing = Tensor::zeros([rank], (Kind::Float, weight.device()));
        for (name, tensor) in [
            ("conv_rank.weight", first),
            ("conv_rank.bias", nothing),
            ("conv_out.weight", second),
            ("conv_out.bias", bias),
        ] {
            self.set(format!("{DECODER}.{name}"), tensor);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Fusion, Tokenizer};
    use tch::nn;

    #[test]
    fn a_plan_keeps_to_its_cost_or_says_what_is_possible() {
        let whole = ModelConfig::default();
        let plan = Plan {
            kmac: Some(8.0),
            output_rank: Some(48),
            ..Plan::default()
        };
        let slimmer = plan.apply(&whole).unwrap();
        let kmac = painter_macs(&slimmer, Convolutions::Direct) / 1e3;
        assert!((7.0..=8.0).contains(&kmac), "{kmac}");
        let NetworkConfig::Levels(networks) = &slimmer.tokenizer.networks else {
            panic!("it is of levels");
        };
        assert!(networks.decoder.iter().all(|level| level.hidden % GRAIN == 0));
        let refused = |plan: Plan| plan.apply(&whole).unwrap_err().to_string();
        let too_slim = refused(Plan {
            kmac: Some(0.5),
            ..Plan::default()
        });
        assert!(too_slim.contains("at least"), "{too_slim}");
        let short = refused(Plan {
            hidden: vec![32],
            ..Plan::default()
        });
        assert!(short.contains("1 numbers for 3 levels"), "{short}");
        let wide = refused(Plan {
            control_hidden: vec![32, 32, 4000],
            ..Plan::default()
        });
        assert!(wide.contains("at most 128"), "{wide}");
    }

    /// Weights of the tiny networks, none of them zero.
    fn tiny() -> (ModelConfig, Weights) {
        tch::manual_seed(11);
        let config = ModelConfig {
            predictor: None,
            ..ModelConfig::tiny()
        };
        let vs = nn::VarStore::new(Device::Cpu);
        let _tokenizer = Tokenizer::new(vs.root() / "tokenizer", &config.tokenizer);
        let continuous = config.continuous.as_ref().unwrap();
        let _fusion = Fusion::new(vs.root() / "fusion", continuous, &config.tokenizer);
        let noisy = |t: &Tensor| tch::no_grad(|| t + t.randn_like() * 0.15);
        let weights = vs
            .variables()
            .iter()
            .map(|(name, t)| (name.clone(), noisy(t)))
            .collect();
        (config, weights)
    }

    fn copy(weights: &Weights) -> Weights {
        weights.iter().map(|(name, t)| (name.clone(), t.copy())).collect()
    }

    /// By how much the pictures of two painters differ, as a mean square, chroma weighted as in the fit.
    fn difference(a: (&ModelConfig, &Weights), b: (&ModelConfig, &Weights), quads: &Tensor) -> f64 {
        let _no_grad = tch::no_grad_guard();
        let inputs = calibrate::inputs(a.0, a.1, quads).unwrap();
        let pictures = |(config, weights): (&ModelConfig, &Weights)| {
            let painter = calibrate::Painter::new(config, weights).unwrap();
            let (_, joined) = painter.control(&inputs).unwrap();
            painter.decoder(&inputs, &joined).unwrap().1
        };
        let difference = pictures(a) - pictures(b);
        let _ = difference.narrow(2, 4, 2).g_mul_scalar_(f64::from(calibrate::CHROMA));
        f64::try_from(difference.square().mean(Kind::Float)).unwrap()
    }

    fn quads() -> Tensor {
        Tensor::rand([5, 9, 6, 16, 16], (Kind::Float, Device::Cpu)) * 2.0 - 1.0
    }

    #[test]
    fn fitted_painters_are_nearer_to_the_whole_one_than_cut_ones() {
        let (whole, weights) = tiny();
        let plan = Plan {
            hidden: vec![6, 5, 6],
            blocks: vec![2, 1, 2],
            control_hidden: vec![6, 6, 6],
            output_rank: Some(40),
            ..Plan::default()
        };
        let slimmer = plan.apply(&whole).unwrap();
        assert!(painter_macs(&slimmer, Convolutions::Direct) < painter_macs(&whole, Convolutions::Direct));
        let (cut, kept) = slim(copy(&weights), &whole, &slimmer).unwrap();
        let (mut fitted, quads) = (copy(&cut), quads());
        fit_weights((&slimmer, &mut fitted), (&whole, &weights), &kept, &quads).unwrap();
        let error = |other: &Weights| difference((&whole, &weights), (&slimmer, other), &quads);
        let (cut, fitted) = (error(&cut), error(&fitted));
        assert!(fitted < 0.7 * cut, "{fitted} after fitting, {cut} before");
    }

    #[test]
    fn the_last_convolution_can_be_factorized_again() {
        let (whole, weights) = tiny();
        let of_rank = |rank, config: &ModelConfig, weights: &Weights| {
            let plan = Plan {
                output_rank: Some(rank),
                ..Plan::default()
            };
            let after = plan.apply(config).unwrap();
            let (weights, kept) = slim(copy(weights), config, &after).unwrap();
            (after, weights, kept)
        };
        let quads = quads();
        let (first, once, _) = of_rank(60, &whole, &weights);
        let (_, at_once, _) = of_rank(40, &whole, &weights);
        let (second, mut twice, kept) = of_rank(40, &first, &once);
        let error = difference((&second, &at_once), (&second, &twice), &quads);
        assert!(error < 1e-6, "another factorization than that of the whole: {error}");
        let cut = difference((&first, &once), (&second, &twice), &quads);
        fit_weights((&second, &mut twice), (&first, &once), &kept, &quads).unwrap();
        let fitted = difference((&first, &once), (&second, &twice), &quads);
        // The fit is drawn a little towards what was before.
        assert!(fitted < 1.01 * cut, "{fitted} after fitting, {cut} before");
    }
}
