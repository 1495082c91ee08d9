// SPDX-License-Identifier: MPL-2.0
//! What is left of a slimmed painter, fitted to what the whole one computes (He et al., "Channel Pruning for Accelerating Very Deep
//! Neural Networks", 2017): block by block, on clips, the hidden channels are chosen from which the features behind the block can best be
//! predicted, and the block's last convolution is the least-squares prediction. Errors of the blocks before are corrected along the way.

use std::collections::HashMap;

use anyhow::{Context, Result};
use tch::{nn, Device, Kind, Tensor};

use crate::model::layers::Block;
use crate::model::{fill, picture, Fusion, LevelConfig, ModelConfig, StreamState, Tokenizer};

/// Quantisation steps of the latents of the clips, in turn; NaN: none are sent.
const LATENT_STEPS: [f64; 5] = [0.5, 1.0, 2.0, 4.0, f64::NAN];
/// How much the weights before count beside what is measured, in shares of the inputs' mean power.
const RIDGE: f64 = 1e-3;
/// Chroma errors weigh this much more than luma errors, as an amplitude: about as in the training loss.
pub(super) const CHROMA: f32 = 2.8;

pub(super) type Weights = HashMap<String, Tensor>;

/// A place in a network where features are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before a block in space.
    Spatial(i64),
    /// Before a block in time.
    Temporal(i64),
    /// Behind a level.
    End,
}

/// The places of a network with their levels, in its order.
fn places(levels: &[LevelConfig]) -> Vec<(usize, Place)> {
    let mut places = vec![];
    for (i, level) in levels.iter().enumerate().rev() {
        for block in 0..level.blocks {
            places.push((i, Place::Spatial(block)));
            if block < level.temporal_blocks {
                places.push((i, Place::Temporal(block)));
            }
        }
        places.push((i, Place::End));
    }
    places
}

/// A network that is fitted, and the one that it was.
pub(super) struct Pair<'a> {
    /// Where its weights are.
    pub name: &'static str,
    pub before: &'a [LevelConfig],
    pub after: &'a [LevelConfig],
    /// Blocks in space that are left, for each level.
    pub kept: &'a [Vec<i64>],
}

impl Pair<'_> {
    /// Where in the network before the features were recorded that a block should give; `None` for the end of a level.
    fn next_origin(&self, (level, place): (usize, Place)) -> Option<usize> {
        let mut own = places(self.after).into_iter().skip_while(|at| *at != (level, place));
        let next = own.nth(1).filter(|_| place != Place::End)?.1;
        let origin = match next {
            Place::Spatial(block) => Place::Spatial(self.kept[level][block as usize]),
            other => other,
        };
        places(self.before).iter().position(|at| *at == (level, origin))
    }
}

/// What a painter gets of `n` clips.
pub(super) struct Inputs {
    codes: Tensor,
    latents: Tensor,
    n: i64,
}

/// The networks of a configuration with weights.
pub(super) struct Painter {
    _variables: nn::VarStore,
    tokenizer: Tokenizer,
    fusion: Option<Fusion>,
}

impl Painter {
    pub(super) fn new(config: &ModelConfig, weights: &Weights) -> Result<Painter> {
        let variables = nn::VarStore::new(Device::Cpu);
        let tokenizer = Tokenizer::new(variables.root() / "tokenizer", &config.tokenizer);
        let continuous = config.continuous.as_ref();
        let fusion = continuous.map(|c| Fusion::new(variables.root() / "fusion", c, &config.tokenizer));
        fill(&variables, weights)?;
        Ok(Painter {
            _variables: variables,
            tokenizer,
            fusion,
        })
    }

    /// The recorded features of the control branch, and what it adds to the decoder's levels, the finest first.
    pub(super) fn control(&self, inputs: &Inputs) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let mut state = StreamState::recording();
        let joined = match &self.fusion {
            Some(fusion) => fusion.control(&inputs.codes, &inputs.latents, inputs.n, Kind::Float, &mut state)?,
            None => vec![],
        };
        Ok((state.take_recorded(), joined))
    }

    /// The recorded features of the decoder, and its pictures.
    pub(super) fn decoder(&self, inputs: &Inputs, joined: &[Tensor]) -> Result<(Vec<Tensor>, Tensor)> {
        let mut state = StreamState::recording();
        let pictures = self
            .tokenizer
            .decode_controlled(&inputs.codes, joined, inputs.n, Kind::Float, &mut state)?;
        Ok((state.take_recorded(), pictures))
    }

    /// What errors in the recorded features of control branch and decoder mean for the pictures: matrices `[c, c]` that turn an error
    /// into one whose square is the pictures', in the mean. From the gradients of sums of samples with random signs, whose second
    /// moments are those of the Jacobian (Hutchinson, 1989).
    fn sensitivities(&self, inputs: &Inputs) -> Result<[Vec<Tensor>; 2]> {
        let (control, joined) = self.control(inputs)?;
        let (decoder, pictures) = self.decoder(inputs, &joined)?;
        let features: Vec<&Tensor> = control.iter().chain(&decoder).collect();
        let signs = pictures.detach().bernoulli_float_(0.5) * 2.0 - 1.0;
        let _ = signs.narrow(2, 4, 2).g_mul_scalar_(f64::from(CHROMA));
        let gradients = Tensor::f_run_backward(&[(pictures * signs).sum(Kind::Float)], &features, false, false)?;
        let mut roots = tch::no_grad(|| gradients.iter().map(root_of_power).collect::<Result<Vec<_>>>())?;
        let decoder = roots.split_off(control.len());
        Ok([roots, decoder])
    }
}

/// Pictures `[n, t, 6, h/2, w/2]` as a decoder gets them, at several quantisation steps.
pub(super) fn inputs(config: &ModelConfig, weights: &Weights, quads: &Tensor) -> Result<Inputs> {
    let painter = Painter::new(config, weights)?;
    let (n, tokenizer) = (quads.size()[0], &painter.tokenizer);
    let pictures = picture::to_network(quads, tokenizer.config.colour(), picture::Ycbcr::BT601)?;
    let (zs, features) = tokenizer.encode_with_features(&pictures, Kind::Float, &mut StreamState::default())?;
    let codes = tokenizer.fsq.codes(&tokenizer.fsq.digits(&zs)?)?;
    let latents = match &painter.fusion {
        Some(fusion) => fusion.encode(&features, n, &mut StreamState::default())?,
        None => codes.zeros_like(),
    };
    let clips = latents.view([n, -1, latents.size()[1], latents.size()[2], latents.size()[3]]);
    let sent: Vec<Tensor> = (0..n)
        .zip(LATENT_STEPS.iter().cycle())
        .map(|(clip, step)| match step.is_nan() {
            true => clips.get(clip).zeros_like(),
            false => (clips.get(clip) / *step).round() * *step,
        })
        .collect();
    Ok(Inputs {
        codes,
        latents: Tensor::stack(&sent, 0).flatten(0, 1),
        n,
    })
}

/// Fits the weights of a painter to one that it was made of: the control branch first, then the decoder.
pub(super) fn fit(
    (config, weights): (&ModelConfig, &mut Weights),
    (config_before, weights_before): (&ModelConfig, &Weights),
    (control, decoder): (Option<Pair>, Pair),
    inputs: &Inputs,
) -> Result<()> {
    let whole = Painter::new(config_before, weights_before)?;
    let [control_roots, decoder_roots] = whole.sensitivities(inputs)?;
    let _no_grad = tch::no_grad_guard();
    let (control_features, joined) = whole.control(inputs)?;
    let decoder_features = whole.decoder(inputs, &joined)?.0;
    if let Some(pair) = control {
        for (at, place) in places(pair.after).into_iter().enumerate() {
            let (features, _) = Painter::new(config, weights)?.control(inputs)?;
            match pair.next_origin(place) {
                Some(next) => {
                    let known = (&features[at], &control_features[next], &control_roots[next]);
                    fit_block(&pair, place, known, inputs.n, (weights, weights_before))?;
                }
                None => fit_join(place.0, (&features[at], &joined[place.0]), weights)?,
            }
        }
    }
    let (_, joined) = Painter::new(config, weights)?.control(inputs)?;
    for (at, place) in places(decoder.after).into_iter().enumerate() {
        if let Some(next) = decoder.next_origin(place) {
            let features = Painter::new(config, weights)?.decoder(inputs, &joined)?.0;
            let known = (&features[at], &decoder_features[next], &decoder_roots[next]);
            fit_block(&decoder, place, known, inputs.n, (weights, weights_before))?;
        }
    }
    if let Some(rank) = weights
        .get("tokenizer.decoder.conv_rank.bias")
        .map(|bias| bias.size()[0])
    {
        let features = Painter::new(config, weights)?.decoder(inputs, &joined)?.0;
        let known = features
            .last()
            .zip(decoder_features.last())
            .context("a decoder without levels")?;
        fit_output(rank, known, (weights, weights_before))?;
    }
    Ok(())
}

pub(super) const CONTROL: &str = "fusion.control";
pub(super) const DECODER: &str = "tokenizer.decoder";

/// Chooses the hidden channels of a block whose input is `xs`, and fits its last convolution so that it gives `wanted`. `root`: what
/// errors there mean, see [`Painter::sensitivities`].
fn fit_block(
    pair: &Pair,
    (level, place): (usize, Place),
    (xs, wanted, root): (&Tensor, &Tensor, &Tensor),
    n: i64,
    (weights, before): (&mut Weights, &Weights),
) -> Result<()> {
    let (kind, from, to) = match place {
        Place::Spatial(block) => ("spatial", pair.kept[level][block as usize], block),
        Place::Temporal(block) => ("temporal", block, block),
        Place::End => return Ok(()),
    };
    let (old, new) = (pair.before[level], pair.after[level]);
    let [from, to] = [from, to].map(|block| format!("{}.level.{level}.{kind}.{block}.", pair.name));
    let vs = nn::VarStore::new(Device::Cpu);
    let block = match place {
        Place::Spatial(_) => Block::spatial(vs.root(), old.width, old.hidden),
        _ => Block::temporal(vs.root(), old.width, old.hidden),
    };
    let part = |name: &str| {
        before
            .get(&format!("{from}{name}"))
            .with_context(|| format!("no tensor {from}{name}"))
    };
    for (name, mut variable) in vs.variables() {
        variable.copy_(part(&name)?);
    }
    let hidden = rows(&block.hidden(xs, n)?);
    let change = rows(&(wanted - xs));
    let moments = Moments::of(&hidden, &change);
    let kept = moments.best_inputs(new.hidden, root);
    let prior = part("conv2.weight")?.flatten(1, -1).tr().index_select(0, &kept);
    let (fitted, bias) = moments.subset(&kept).regression(&prior)?;
    for (name, tensor) in [
        ("norm.weight", part("norm.weight")?.copy()),
        ("norm.bias", part("norm.bias")?.copy()),
        ("conv1.weight", part("conv1.weight")?.index_select(0, &kept)),
        ("conv1.bias", part("conv1.bias")?.index_select(0, &kept)),
        (
            "conv2.weight",
            fitted.tr().contiguous().view([old.width, new.hidden, 1, 1]),
        ),
        ("conv2.bias", bias),
    ] {
        weights.insert(format!("{to}{name}"), tensor);
    }
    Ok(())
}

/// Fits what the control branch adds to a level of the decoder.
fn fit_join(level: usize, (xs, wanted): (&Tensor, &Tensor), weights: &mut Weights) -> Result<()> {
    let name = format!("{CONTROL}.join.{level}");
    let weight = weights.get(&format!("{name}.weight")).context("no join")?;
    let prior = weight.flatten(1, -1).tr();
    let (fitted, bias) = Moments::of(&rows(xs), &rows(wanted)).regression(&prior)?;
    let weight = fitted.tr().contiguous().view(weight.size().as_slice());
    weights.insert(format!("{name}.weight"), weight);
    weights.insert(format!("{name}.bias"), bias);
    Ok(())
}

fn of_decoder(weights: &Weights, name: &str) -> Result<Tensor> {
    let name = format!("{DECODER}.{name}");
    let tensor = weights.get(&name).with_context(|| format!("no tensor {name}"))?;
    Ok(tensor.shallow_clone())
}

/// The decoder's last convolution, `[outputs, width, 3, 3]`, and its bias: the product of its factors where it has two.
pub(super) fn whole_output(weights: &Weights) -> Result<(Tensor, Tensor)> {
    let (last, bias) = (
        of_decoder(weights, "conv_out.weight")?,
        of_decoder(weights, "conv_out.bias")?,
    );
    let Ok(first) = of_decoder(weights, "conv_rank.weight") else {
        return Ok((last, bias));
    };
    let last = last.flatten(1, -1);
    let size = [last.size()[0], first.size()[1], first.size()[2], first.size()[3]];
    let bias = bias + last.matmul(&of_decoder(weights, "conv_rank.bias")?);
    Ok((last.matmul(&first.flatten(1, -1)).view(size), bias))
}

/// Fits the factors of the last convolution (reduced-rank regression, Izenman, 1975): `xs`, features behind the finest level, to what
/// the whole convolution makes of the features `before`.
fn fit_output(rank: i64, (xs, before): (&Tensor, &Tensor), (weights, old): (&mut Weights, &Weights)) -> Result<()> {
    let activated = |weights: &Weights, xs: &Tensor| -> Result<Tensor> {
        let (scale, shift) = (
            of_decoder(weights, "norm_out.weight")?,
            of_decoder(weights, "norm_out.bias")?,
        );
        let normed = xs
            .permute([0, 2, 3, 1])
            .layer_norm(scale.size(), Some(&scale), Some(&shift), 1e-5, true);
        Ok(normed.silu().permute([0, 3, 1, 2]))
    };
    let (whole, bias) = whole_output(old)?;
    let wanted = activated(old, before)?.conv2d(&whole, Some(&bias), 1, 1, 1, 1);
    let inputs = activated(weights, xs)?;
    let outputs = whole.size()[0];
    // Of four frames, four luma samples and Cb, Cr of each square of a patch.
    let scale: Vec<f32> = (0..outputs).map(|o| if o / 4 % 6 < 4 { 1.0 } else { CHROMA }).collect();
    let scale = Tensor::from_slice(&scale);
    let mut moments = Moments::none(whole.size()[1] * 9, outputs);
    for i in 0..inputs.size()[0] {
        let patches = inputs
            .narrow(0, i, 1)
            .contiguous()
            .im2col([3, 3], [1, 1], [1, 1], [1, 1]);
        moments.add(&patches.squeeze_dim(0).tr(), &(rows(&wanted.narrow(0, i, 1)) * &scale));
    }
    let prior = whole.flatten(1, -1).tr() * &scale;
    let (fitted, bias) = moments.regression(&prior)?;
    let power = fitted.tr().matmul(&moments.centred_inputs()).matmul(&fitted);
    let (_, vectors) = power.linalg_eigh("L");
    let main = vectors.narrow(1, outputs - rank, rank);
    let first = fitted.matmul(&main).tr().contiguous();
    weights.insert(
        format!("{DECODER}.conv_rank.weight"),
        first.view([rank, whole.size()[1], 3, 3]),
    );
    // The means go through whole.
    let lost = moments
        .mean_inputs()
        .matmul(&(&fitted - fitted.matmul(&main).matmul(&main.tr())));
    weights.insert(format!("{DECODER}.conv_out.bias"), (bias + lost) / &scale);
    let second = (main / scale.unsqueeze(1)).contiguous();
    weights.insert(format!("{DECODER}.conv_out.weight"), second.view([outputs, rank, 1, 1]));
    Ok(())
}

/// `[n, c, h, w]` -> the Cholesky factor of the second moments of the channels, `[c, c]` f64.
fn root_of_power(xs: &Tensor) -> Result<Tensor> {
    let xs = rows(xs);
    let power = xs.tr().matmul(&xs).to_kind(Kind::Double) / xs.size()[0] as f64;
    let least = power.diagonal(0, 0, 1).mean(Kind::Double) * RIDGE;
    let eye = Tensor::eye(power.size()[0], (Kind::Double, Device::Cpu)) * least;
    Ok((power + eye).f_linalg_cholesky(false)?)
}

/// `[n, c, h, w]` -> `[n * h * w, c]`
fn rows(xs: &Tensor) -> Tensor {
    let channels = xs.size()[1];
    xs.permute([0, 2, 3, 1]).reshape([-1, channels])
}

/// Sums over the rows of inputs `x: [rows, a]` and outputs `y: [rows, b]`.
struct Moments {
    count: f64,
    x: Tensor,
    y: Tensor,
    xx: Tensor,
    xy: Tensor,
}

impl Moments {
    fn none(a: i64, b: i64) -> Moments {
        let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Double, Device::Cpu));
        Moments {
            count: 0.0,
            x: zeros(&[a]),
            y: zeros(&[b]),
            xx: zeros(&[a, a]),
            xy: zeros(&[a, b]),
        }
    }

    fn of(x: &Tensor, y: &Tensor) -> Moments {
        let mut moments = Moments::none(x.size()[1], y.size()[1]);
        moments.add(x, y);
        moments
    }

    fn add(&mut self, x: &Tensor, y: &Tensor) {
        let sum = |xs: &Tensor| xs.sum_dim_intlist([0i64].as_slice(), false, Kind::Double);
        self.count += x.size()[0] as f64;
        self.x += sum(x);
        self.y += sum(y);
        self.xx += x.tr().matmul(x).to_kind(Kind::Double);
        self.xy += x.tr().matmul(y).to_kind(Kind::Double);
    }

    /// Of some of the inputs.
    fn subset(&self, inputs: &Tensor) -> Moments {
        let pick = |xs: &Tensor| xs.index_select(0, inputs);
        Moments {
            count: self.count,
            x: pick(&self.x),
            y: self.y.shallow_clone(),
            xx: pick(&self.xx).index_select(1, inputs),
            xy: pick(&self.xy),
        }
    }

    fn centred_inputs(&self) -> Tensor {
        (&self.xx - self.x.unsqueeze(1) * &self.x / self.count).to_kind(Kind::Float)
    }

    fn mean_inputs(&self) -> Tensor {
        (&self.x / self.count).to_kind(Kind::Float)
    }

    /// Weights `[a, b]` and bias `[b]` of the linear prediction of least squares, drawn a little towards `prior`.
    fn regression(&self, prior: &Tensor) -> Result<(Tensor, Tensor)> {
        let xx = &self.xx - self.x.unsqueeze(1) * &self.x / self.count;
        let xy = &self.xy - self.x.unsqueeze(1) * &self.y / self.count;
        let ridge = xx.diagonal(0, 0, 1).mean(Kind::Double) * RIDGE;
        let eye = Tensor::eye(xx.size()[0], (Kind::Double, Device::Cpu)) * &ridge;
        let wanted = xy + prior.to_kind(Kind::Double) * ridge;
        let weights = Tensor::f_linalg_solve(&(&xx + eye), &wanted, true)?;
        let bias = (&self.y - self.x.matmul(&weights)) / self.count;
        Ok((weights.to_kind(Kind::Float), bias.to_kind(Kind::Float)))
    }

    /// The `count` inputs from which the outputs can best be predicted, chosen one after the other (orthogonal least squares, Chen
    /// et al., 1989), in their order. Errors are multiplied by `root: [b, b]` first.
    fn best_inputs(&self, count: i64, root: &Tensor) -> Tensor {
        let mut xx = &self.xx - self.x.unsqueeze(1) * &self.x / self.count;
        let mut xy = (&self.xy - self.x.unsqueeze(1) * &self.y / self.count).matmul(root);
        let least = xx.diagonal(0, 0, 1).mean(Kind::Double) * 1e-6;
        let mut chosen: Vec<i64> = vec![];
        for _ in 0..count.min(xx.size()[0]) {
            let power = xx.diagonal(0, 0, 1).maximum(&least);
            let gain = xy.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Double) / &power;
            for &at in &chosen {
                let _ = gain.get(at).fill_(-1.0);
            }
            let best = gain.argmax(0, false).int64_value(&[]);
            chosen.push(best);
            // What the chosen one explains is taken out of all others.
            let (column, row) = (xx.select(1, best) / power.get(best), xy.get(best));
            let line = xx.get(best);
            xy -= column.unsqueeze(1) * row;
            xx -= column.unsqueeze(1) * line;
        }
        chosen.sort();
        Tensor::from_slice(&chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inputs_that_explain_the_outputs_are_chosen_and_weighted() {
        tch::manual_seed(2);
        let x = Tensor::randn([500, 6], (Kind::Float, Device::Cpu)) + 1.0;
        // Input 5 says the same as input 1, with noise.
        x.select(1, 5).copy_(&(x.select(1, 1) + x.select(1, 5) * 0.3));
        let y = (x.select(1, 1) * 2.0 - x.select(1, 3) + 4.0).unsqueeze(1);
        let moments = Moments::of(&x, &y);
        let kept = moments.best_inputs(2, &Tensor::ones([1, 1], (Kind::Double, Device::Cpu)));
        assert_eq!(Vec::<i64>::try_from(&kept).unwrap(), [1, 3]);
        let prior = Tensor::from_slice(&[2f32, -1.0]).unsqueeze(1);
        let (weights, bias) = moments.subset(&kept).regression(&prior).unwrap();
        let error = (weights - prior).abs().max().double_value(&[]);
        assert!(error < 1e-4 && (bias.double_value(&[0]) - 4.0).abs() < 1e-3);
    }

    #[test]
    fn places_are_in_the_order_in_which_features_are_recorded() {
        let config = ModelConfig::tiny();
        let vs = nn::VarStore::new(Device::Cpu);
        let tokenizer = Tokenizer::new(vs.root(), &config.tokenizer);
        let crate::model::NetworkConfig::Levels(networks) = &config.tokenizer.networks else {
            panic!("the tiny model is of levels");
        };
        let mut state = StreamState::recording();
        let codes = Tensor::zeros([2, 6, 2, 2], (Kind::Float, Device::Cpu));
        let _pictures = tokenizer.decode(&codes, 1, Kind::Float, &mut state).unwrap();
        let places = places(&networks.decoder);
        let recorded = state.take_recorded();
        assert_eq!(recorded.len(), places.len());
        for ((level, _), features) in places.iter().zip(&recorded) {
            assert_eq!(features.size()[1], networks.decoder[*level].width);
        }
    }
}
