// SPDX-License-Identifier: MPL-2.0
//! The decoder-only transformer that predicts masked tokens from those of this unit that were sent and from all of
//! the units before.
//!
//! Attention is causal from unit to unit and confined to windows, shifted in every second layer, so that the cost
//! grows linearly with the picture. The result is for the pixel decoder only: the entropy coder never sees it.

use tch::{nn, Kind, Tensor};

use super::config::PredictorConfig;
use super::fsq::Fsq;
use super::layers::Norm;
use super::windows::Windows;

type Result<T> = std::result::Result<T, tch::TchError>;

/// Units that it sees: this one and two before.
pub const PREDICTOR_UNITS: i64 = 3;

/// The network.
#[derive(Debug)]
pub struct Predictor {
    config: PredictorConfig,
    fsq: Fsq,
    levels: Vec<i64>,
    /// `[sum of (levels + 1)][width]`: a row per value of each digit, and one for "masked".
    tokens: Tensor,
    /// The same for the token of the unit before, added to each place of the last unit: without it, attention would
    /// have to find that token first.
    before: Tensor,
    /// `[sum of levels][most levels]`: log-odds of a digit's values given its value in the unit before.
    repeat: Tensor,
    latents: Option<Linear>,
    /// `[units][window * window][width]`.
    places: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
    head: Linear,
    /// How far lost latents are from what stands in for them.
    latent_head: Option<Linear>,
}

/// What it expects of a unit.
#[derive(Debug)]
pub struct Prediction {
    /// Log-odds of the digits, `[n, h, w, 39]` f32, the values of the first digit first.
    pub logits: Tensor,
    /// The latents, `[n, h, w, channels]` f32; `None` if it predicts none.
    pub latents: Option<Tensor>,
}

#[derive(Debug)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn new(vs: nn::Path, inputs: i64, outputs: i64, gain: f64) -> Linear {
        let bound = gain / (inputs as f64).sqrt();
        let init = nn::Init::Uniform { lo: -bound, up: bound };
        Linear {
            weight: vs.var("weight", &[outputs, inputs], init),
            bias: vs.var("bias", &[outputs], nn::Init::Const(0.0)),
        }
    }

    /// One that starts with nothing.
    fn zero(vs: nn::Path, inputs: i64, outputs: i64) -> Linear {
        Linear {
            weight: vs.zeros("weight", &[outputs, inputs]),
            bias: vs.zeros("bias", &[outputs]),
        }
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.f_to_kind(xs.kind())?, self.bias.f_to_kind(xs.kind())?);
        xs.f_linear(&weight, Some(&bias))
    }
}

/// Attention and a two-layer perceptron, each after a norm and around a shortcut.
#[derive(Debug)]
struct Layer {
    norm1: Norm,
    qkv: Linear,
    out: Linear,
    norm2: Norm,
    up: Linear,
    down: Linear,
    heads: i64,
    windows: Windows,
}

impl Layer {
    fn new(vs: nn::Path, config: &PredictorConfig, windows: Windows) -> Layer {
        let width = config.width;
        Layer {
            norm1: Norm::new(&vs / "norm1", width),
            qkv: Linear::new(&vs / "qkv", width, 3 * width, 1.0),
            out: Linear::new(&vs / "out", width, width, 0.0),
            norm2: Norm::new(&vs / "norm2", width),
            up: Linear::new(&vs / "up", width, 4 * width, 1.0),
            down: Linear::new(&vs / "down", 4 * width, width, 0.0),
            heads: config.heads,
            windows,
        }
    }

    /// `xs: [n, t, h, w, width]`, same shape out; `visible`: [`Windows::visible`].
    fn forward(&self, xs: &Tensor, visible: &Tensor) -> Result<Tensor> {
        let size = xs.size();
        let width = size[4];
        let tokens = self.windows.split(&self.norm1.forward_last(xs)?)?;
        let (n, length, _) = tokens.size3()?;
        let qkv = self
            .qkv
            .forward(&tokens)?
            .f_view([n, length, 3, self.heads, width / self.heads])?
            .f_permute([2, 0, 3, 1, 4])?;
        let (q, k, v) = (qkv.f_select(0, 0)?, qkv.f_select(0, 1)?, qkv.f_select(0, 2)?);
        let attended = Tensor::f_scaled_dot_product_attention(&q, &k, &v, Some(visible), 0.0, false, None, false)?
            .f_transpose(1, 2)?
            .f_reshape([n, length, width])?;
        let xs = xs.f_add(&self.windows.join(&self.out.forward(&attended)?, &size)?)?;
        let hidden = self.up.forward(&self.norm2.forward_last(&xs)?)?.f_silu()?;
        xs.f_add(&self.down.forward(&hidden)?)
    }
}

/// First row of each digit in a table with `levels + more` rows per digit.
fn bases(levels: &[i64], more: i64) -> Tensor {
    let starts = levels.iter().scan(0, |next, l| {
        let start = *next;
        *next += l + more;
        Some(start)
    });
    Tensor::from_slice(&starts.collect::<Vec<i64>>())
}

/// Where training starts: a digit probably stays what it was, or moves by one.
fn repeat_odds(levels: &[i64]) -> Tensor {
    let widest = levels.iter().copied().max().unwrap_or(1);
    let mut odds = Vec::new();
    for &l in levels {
        for value in 0..l {
            odds.extend((0..widest).map(|other| match value.abs_diff(other) {
                0 => 3.0f32,
                1 => 1.5,
                _ => 0.0,
            }));
        }
    }
    Tensor::from_slice(&odds).view([-1, widest])
}

impl Predictor {
    /// A network of a validated configuration, with its weights under `vs`. `levels`: values of each digit;
    /// `channels`: values of a latent, 0 without a continuous stream.
    pub fn new(vs: nn::Path, config: &PredictorConfig, levels: &[i64], channels: i64) -> Predictor {
        let width = config.width;
        let small = nn::Init::Randn { mean: 0.0, stdev: 0.1 };
        let rows = levels.iter().map(|l| l + 1).sum();
        let places = [PREDICTOR_UNITS, config.window * config.window, width];
        Predictor {
            config: *config,
            fsq: Fsq::new(levels),
            levels: levels.to_vec(),
            tokens: vs.var("tokens", &[rows, width], small),
            before: vs.var("before", &[rows, width], small),
            repeat: vs.var_copy("repeat", &repeat_odds(levels)),
            latents: (channels > 0).then(|| Linear::new(&vs / "latents", channels, width, 1.0)),
            places: vs.var("places", &places, small),
            layers: (0..config.layers)
                .map(|i| {
                    let (side, odd) = (config.window, i % 2);
                    let shift = odd * side / 2;
                    Layer::new(&vs / "layer" / i, config, Windows { side, shift })
                })
                .collect(),
            norm: Norm::new(&vs / "norm", width),
            head: Linear::new(&vs / "head", width, levels.iter().sum(), 0.1),
            latent_head: (channels > 0 && config.latents).then(|| Linear::zero(&vs / "latent_head", width, channels)),
        }
    }

    /// What the last unit is: `digits: [n, 3, h, w, 6]` i64, a digit equal to its number of values is masked; `latents:
    /// [n, 3, h, w, channels]`, zeros where there are none, and where they are lost what stands in for them. The network runs in `kind`.
    pub fn predict(&self, digits: &Tensor, latents: Option<&Tensor>, kind: Kind) -> Result<Prediction> {
        let units = digits.size()[1];
        let hidden = self.hidden(digits, latents, kind)?;
        let before = digits.f_select(1, units - 2)?;
        let logits = self.head.forward(&hidden)?.f_to_kind(Kind::Float)?;
        let latents = match self.latent_head.as_ref().zip(latents) {
            Some((head, latents)) => {
                let change = head.forward(&hidden)?.f_to_kind(Kind::Float)?;
                Some(latents.f_select(1, units - 1)?.f_add(&change)?)
            }
            None => None,
        };
        Ok(Prediction {
            logits: logits.f_add(&self.repeated(&before)?)?,
            latents,
        })
    }

    /// What the layers make of the last unit: `[n, h, w, width]`, normed. Arguments as for [`Self::predict`].
    fn hidden(&self, digits: &Tensor, latents: Option<&Tensor>, kind: Kind) -> Result<Tensor> {
        let size = digits.size();
        let (n, units, h, w) = (size[0], size[1], size[2], size[3]);
        let rows = digits.f_add(&bases(&self.levels, 1).f_to_device(digits.device())?)?;
        let embed = |table: &Tensor, rows: &Tensor, units: i64| {
            table
                .f_index_select(0, &rows.f_reshape([-1])?)?
                .f_view([n, units, h, w, self.levels.len() as i64, self.config.width])?
                .f_sum_dim_intlist([4i64].as_slice(), false, Kind::Float)?
                .f_to_kind(kind)
        };
        let carried = embed(&self.before, &rows.f_narrow(1, units - 2, 1)?, 1)?;
        let xs = embed(&self.tokens, &rows, units)?;
        let last = xs.f_narrow(1, units - 1, 1)?.f_add(&carried)?;
        let mut xs = Tensor::f_cat(&[&xs.f_narrow(1, 0, units - 1)?, &last], 1)?;
        if let (Some(linear), Some(latents)) = (&self.latents, latents) {
            xs = xs.f_add(&linear.forward(&latents.f_to_kind(kind)?)?)?;
        }
        xs = xs.f_add(&self.place_map(h, w)?.f_to_kind(kind)?)?;
        // Every second layer has the same windows.
        let mut visible: Vec<Tensor> = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            if i < 2 {
                visible.push(layer.windows.visible(&xs.size(), xs.device())?);
            }
            xs = layer.forward(&xs, &visible[i % 2])?;
        }
        self.norm.forward_last(&xs.f_select(1, units - 1)?)
    }

    /// Log-odds from the unit before alone: `digits: [n, h, w, 6]` -> `[n, h, w, 39]` f32.
    fn repeated(&self, digits: &Tensor) -> Result<Tensor> {
        let size = digits.size();
        let rows = digits.f_add(&bases(&self.levels, 0).f_to_device(digits.device())?)?;
        let odds = self
            .repeat
            .f_index_select(0, &rows.f_reshape([-1])?)?
            .f_to_kind(Kind::Float)?
            .f_view([size[0], size[1], size[2], size[3], -1])?;
        let digits = self.levels.iter().enumerate();
        let parts = digits.map(|(k, &l)| odds.f_select(3, k as i64)?.f_narrow(3, 0, l));
        Tensor::f_cat(&parts.collect::<Result<Vec<_>>>()?, 3)
    }

    /// The embeddings of the places, repeated over a map: `[units, h, w, width]`.
    fn place_map(&self, h: i64, w: i64) -> Result<Tensor> {
        let side = self.config.window;
        let (rows, columns) = ((h + side - 1) / side, (w + side - 1) / side);
        self.places
            .f_view([PREDICTOR_UNITS, side, side, self.config.width])?
            .f_repeat([1, rows, columns, 1])?
            .f_narrow(1, 0, h)?
            .f_narrow(2, 0, w)
    }

    /// Expected digits of the last unit, real-valued, `[n, h, w, 6]` f32: those that were sent as they are. Arguments
    /// as for [`Self::predict`].
    pub fn restore(&self, digits: &Tensor, latents: Option<&Tensor>, kind: Kind) -> Result<Tensor> {
        self.complete(digits, &self.predict(digits, latents, kind)?)
    }

    /// The same of a prediction.
    pub fn complete(&self, digits: &Tensor, prediction: &Prediction) -> Result<Tensor> {
        let expected = self.expected(&prediction.logits)?;
        let last = digits.f_select(1, digits.size()[1] - 1)?;
        let masked = last.f_select(3, 0)?.f_ge(self.levels[0])?.f_unsqueeze(3)?;
        expected.f_where_self(&masked, &last.f_to_kind(Kind::Float)?)
    }

    /// Expected digits of log-odds `[n, h, w, 39]` -> `[n, h, w, 6]` f32: what is least wrong on average.
    pub fn expected(&self, logits: &Tensor) -> Result<Tensor> {
        let mut at = 0;
        let digits = self.levels.iter().map(|&l| {
            let probabilities = logits.f_narrow(3, at, l)?.f_softmax(3, Kind::Float)?;
            at += l;
            let values = Tensor::f_arange(l, (Kind::Float, logits.device()))?;
            probabilities.f_matmul(&values)
        });
        Tensor::f_stack(&digits.collect::<Result<Vec<_>>>()?, 3)
    }

    /// Codes of digits `[n, h, w, 6]` -> `[n, 6, h, w]`.
    pub fn codes(&self, digits: &Tensor) -> Result<Tensor> {
        self.fsq.codes(&digits.f_permute([0, 3, 1, 2])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::FSQ_LEVELS;
    use tch::Device;

    fn tiny() -> (nn::VarStore, Predictor) {
        tch::manual_seed(5);
        let vs = nn::VarStore::new(Device::Cpu);
        let levels = FSQ_LEVELS.map(i64::from);
        let predictor = Predictor::new(vs.root(), &PredictorConfig::tiny(), &levels, 3);
        tch::no_grad(|| {
            for mut v in vs.trainable_variables() {
                let noise = v.randn_like() * 0.2;
                let _ = v.g_add_(&noise);
            }
        });
        (vs, predictor)
    }

    fn digits(h: i64, w: i64) -> Tensor {
        let digits: Vec<_> = FSQ_LEVELS
            .iter()
            .map(|&l| Tensor::randint(l.into(), [1, PREDICTOR_UNITS, h, w], (Kind::Int64, Device::Cpu)))
            .collect();
        Tensor::stack(&digits, 4)
    }

    #[test]
    fn tokens_that_were_sent_stay_and_masked_ones_are_in_range() {
        let _no_grad = tch::no_grad_guard();
        let (_vs, predictor) = tiny();
        let digits = digits(5, 7);
        let masked = Tensor::from_slice(&FSQ_LEVELS.map(i64::from));
        digits.narrow(1, 2, 1).narrow(2, 1, 1).copy_(&masked);
        let complete = predictor.restore(&digits, None, Kind::Float).unwrap();
        let last = digits.select(1, 2).to_kind(Kind::Float);
        assert_eq!(complete.narrow(1, 2, 3), last.narrow(1, 2, 3));
        let row = complete.narrow(1, 1, 1);
        assert!(bool::try_from(row.ge(0.0).all()).unwrap());
        assert!(bool::try_from(row.lt_tensor(&(masked - 1).to_kind(Kind::Float).clamp_min(1.0)).all()).unwrap());
    }

    #[test]
    fn a_prediction_depends_on_what_is_near_and_on_earlier_units() {
        let _no_grad = tch::no_grad_guard();
        let (_vs, predictor) = tiny();
        let original = digits(6, 40);
        let logits = |digits: &Tensor| predictor.predict(digits, None, Kind::Float).unwrap().logits;
        let before = logits(&original);
        let changed_at = |unit: i64, x: i64| {
            let changed = original.copy();
            let mut place = changed.narrow(1, unit, 1).narrow(2, 0, 1).narrow(3, x, 1);
            let _ = place.fill_(1);
            let difference = (logits(&changed) - &before).abs().amax([3], false).squeeze();
            f64::try_from(difference.narrow(1, 0, 1).max()).unwrap()
        };
        assert!(changed_at(0, 1) > 1e-6, "two units before");
        assert!(changed_at(2, 1) > 1e-6, "the same unit");
        assert!(changed_at(2, 39) < 1e-6, "out of reach of two windows");
    }
}
