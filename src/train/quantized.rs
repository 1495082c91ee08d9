// SPDX-License-Identifier: MPL-2.0
//! Layers of the context models' float twins: the same numbers as in integers, rounded the same way, with gradients.

use anyhow::Result;
use tch::{nn, Kind, Tensor};

use crate::entropy::{Layer, ACTIVATION_SCALE, MULTIPLIER_BITS};

const WEIGHT_LIMIT: f64 = 127.0;

/// A dense layer whose rounding to i8 weights can be simulated.
pub(super) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub(super) fn new(vs: nn::Path, inputs: i64, outputs: i64) -> Linear {
        let bound = (3.0 / inputs as f64).sqrt();
        Linear {
            weight: vs.var(
                "weight",
                &[outputs, inputs],
                nn::Init::Uniform { lo: -bound, up: bound },
            ),
            bias: vs.var("bias", &[outputs], nn::Init::Const(0.0)),
        }
    }

    /// Step of each output's weights: the largest is 127 steps. `[outputs, 1]`.
    pub(super) fn steps(&self) -> Tensor {
        self.weight.detach().abs().amax([1], true).clamp_min(1e-6) / WEIGHT_LIMIT
    }

    pub(super) fn forward(&self, xs: &Tensor, quantize: bool) -> Tensor {
        if !quantize {
            return xs.linear(&self.weight, Some(&self.bias));
        }
        let steps = self.steps();
        let rounded = (&self.weight / &steps).round() * steps;
        xs.linear(&pass_through(&self.weight, rounded), Some(&self.bias))
    }

    /// Inverse of [`Self::export`].
    pub(super) fn import(&mut self, layer: &Layer, result_scale: impl Fn(usize) -> i32) -> Result<()> {
        let activation = f64::from(ACTIVATION_SCALE);
        let steps: Vec<f64> = layer
            .multipliers
            .iter()
            .enumerate()
            .map(|(o, &m)| f64::from(m) / f64::from(1 << MULTIPLIER_BITS) * activation / f64::from(result_scale(o)))
            .collect();
        let steps = Tensor::from_slice(&steps).unsqueeze(1);
        let weights = Tensor::from_slice(&layer.weights).f_view(self.weight.size().as_slice())?;
        set(&mut self.weight, &(weights * &steps))?;
        let biases = Tensor::from_slice(&layer.biases).to_kind(Kind::Double);
        set(&mut self.bias, &(biases * steps.squeeze_dim(1) / activation))
    }

    /// Adds a number to the biases from an output on.
    pub(super) fn add_to_biases(&mut self, from: i64, number: f64) {
        let count = self.bias.size()[0] - from;
        tch::no_grad(|| {
            let _ = self.bias.narrow(0, from, count).g_add_scalar_(number);
        });
    }

    /// `result_scale`: steps of an output's result in 1.
    pub(super) fn export(&self, result_scale: impl Fn(usize) -> i32) -> Layer {
        let steps = self.steps();
        let activation = f64::from(ACTIVATION_SCALE);
        let weights = (&self.weight / &steps).round().to_kind(Kind::Int8);
        let biases = (&self.bias * activation / steps.squeeze_dim(1)).round();
        let scales: Vec<f64> = (0..self.bias.size()[0] as usize)
            .map(|o| f64::from(result_scale(o)) / activation * f64::from(1 << MULTIPLIER_BITS))
            .collect();
        let multipliers = (steps.squeeze_dim(1).to_kind(Kind::Double) * Tensor::from_slice(&scales)).round();
        Layer {
            weights: Vec::try_from(weights.flatten(0, -1)).expect("i8 weights"),
            biases: to_i32(&biases),
            multipliers: to_i32(&multipliers),
        }
    }
}

/// Gives a variable its values; fails where the sizes differ.
pub(super) fn set(variable: &mut Tensor, values: &Tensor) -> Result<()> {
    let values = values.f_view(variable.size().as_slice())?.to_device(variable.device());
    tch::no_grad(|| variable.copy_(&values.to_kind(Kind::Float)));
    Ok(())
}

pub(super) fn to_i32(xs: &Tensor) -> Vec<i32> {
    let limit = f64::from(i32::MAX);
    Vec::try_from(
        xs.to_kind(Kind::Double)
            .clamp(-limit, limit)
            .to_kind(Kind::Int)
            .flatten(0, -1),
    )
    .expect("i32 values")
}

/// `rounded` forward, the gradient of `xs` backward.
pub(super) fn pass_through(xs: &Tensor, rounded: Tensor) -> Tensor {
    xs + (rounded - xs).detach()
}

/// Sums of a table's rows: `[rows, width]` and `[n, k]` i64 to `[n, width]`. A sum of rows that were picked first took most of a step.
pub(super) fn sums_of_rows(table: &Tensor, rows: &Tensor) -> Tensor {
    const SUM: i64 = 0;
    let (n, k) = rows.size2().expect("rows of each sample");
    let starts = Tensor::arange_start_step(0, n * k, k, (Kind::Int64, rows.device()));
    Tensor::embedding_bag::<Tensor>(table, &rows.flatten(0, -1), &starts, false, SUM, false, None, false).0
}

/// Clipped ReLU in steps of an activation.
pub(super) fn activate(xs: &Tensor, quantize: bool) -> Tensor {
    let scale = f64::from(ACTIVATION_SCALE);
    let clipped = xs.clamp(0.0, 255.0 / scale);
    if !quantize {
        return clipped;
    }
    let rounded = (&clipped * scale).round() / scale;
    pass_through(&clipped, rounded)
}
