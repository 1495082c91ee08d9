// SPDX-License-Identifier: MPL-2.0
//! LPIPS v0.1 with SqueezeNet 1.1 (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a
//! Perceptual Metric", CVPR 2018). The weights are a file of the user's.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

const MEAN: [f32; 3] = [-0.030, -0.088, -0.188];
const DEVIATION: [f32; 3] = [0.458, 0.448, 0.450];
/// `features` of torchvision's SqueezeNet 1.1 that are fire modules.
const FIRES: [i64; 8] = [3, 4, 6, 7, 9, 10, 11, 12];
/// Layers whose output is compared, the first being the ReLU after the first convolution.
const TAPS: [i64; 7] = [1, 4, 7, 9, 10, 11, 12];
/// Max-pooling layers.
const POOLS: [i64; 3] = [2, 5, 8];

/// The perceptual distance between pictures, 0 for equal ones.
pub struct Lpips {
    weights: HashMap<String, Tensor>,
    kind: Kind,
}

impl Lpips {
    /// Reads `features.*` and `lpips.lin*.model.1.weight` from a safetensors file. Runs in `kind`.
    pub fn load(path: &Path, device: Device, kind: Kind) -> Result<Lpips> {
        let tensors = Tensor::read_safetensors(path).with_context(|| format!("reading {}", path.display()))?;
        let to = |t: Tensor| t.to_device(device).to_kind(kind).set_requires_grad(false);
        let weights: HashMap<_, _> = tensors.into_iter().map(|(name, t)| (name, to(t))).collect();
        let lpips = Lpips { weights, kind };
        for name in [
            "features.0.weight",
            "features.12.expand3x3.weight",
            "lpips.lin6.model.1.weight",
        ] {
            lpips
                .weight(name)
                .with_context(|| format!("{} holds no LPIPS weights", path.display()))?;
        }
        Ok(lpips)
    }

    /// `xs, ys: [n, 3, h, w]` R'G'B' in [0, 1] -> `[n]` f32. h and w at least 32.
    pub fn distance(&self, xs: &Tensor, ys: &Tensor) -> Result<Tensor> {
        let mut total = Tensor::zeros([xs.size()[0]], (Kind::Float, xs.device()));
        for (i, (a, b)) in self.features(xs)?.iter().zip(&self.features(ys)?).enumerate() {
            let head = self.weight(&format!("lpips.lin{i}.model.1.weight"))?.flatten(0, -1);
            let difference = normalize(a) - normalize(b);
            let weighted = &difference * (&difference * head);
            let (_, h, w, _) = weighted.size4()?;
            total += weighted.sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Float) / (h * w) as f64;
        }
        Ok(total)
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        self.weights.get(name).with_context(|| format!("no tensor {name}"))
    }

    fn conv(&self, xs: &Tensor, name: &str, stride: i64, padding: i64) -> Result<Tensor> {
        let weight = self.weight(&format!("features.{name}.weight"))?;
        let bias = self.weight(&format!("features.{name}.bias"))?;
        Ok(xs.conv2d(weight, Some(bias), stride, padding, 1, 1).relu())
    }

    fn features(&self, xs: &Tensor) -> Result<Vec<Tensor>> {
        let channel = |values: [f32; 3]| Tensor::from_slice(&values).to_device(xs.device()).view([1, 3, 1, 1]);
        let xs = (xs * 2.0 - 1.0 - channel(MEAN)) / channel(DEVIATION);
        let xs = xs
            .permute([0, 2, 3, 1])
            .to_kind(self.kind)
            .contiguous()
            .permute([0, 3, 1, 2]);
        let mut xs = self.conv(&xs, "0", 2, 0)?;
        let mut taps = vec![xs.shallow_clone()];
        for layer in 2..=12 {
            if POOLS.contains(&layer) {
                xs = xs.max_pool2d(3, 2, 0, 1, true);
            } else if FIRES.contains(&layer) {
                let squeezed = self.conv(&xs, &format!("{layer}.squeeze"), 1, 0)?;
                xs = Tensor::cat(
                    &[
                        self.conv(&squeezed, &format!("{layer}.expand1x1"), 1, 0)?,
                        self.conv(&squeezed, &format!("{layer}.expand3x3"), 1, 1)?,
                    ],
                    1,
                );
            }
            if TAPS.contains(&layer) {
                taps.push(xs.shallow_clone());
            }
        }
        Ok(taps)
    }
}

/// Unit length over channels: `[n, c, h, w]` -> `[n, h, w, c]`, contiguous where features are in channels-last memory.
fn normalize(xs: &Tensor) -> Tensor {
    let xs = xs.permute([0, 2, 3, 1]);
    let length = xs.norm_scalaropt_dim(2.0, [-1i64].as_slice(), true);
    &xs * (length + 1e-10).reciprocal()
}
