// SPDX-License-Identifier: MPL-2.0
//! The arithmetic that no tuning of code gets rid of.

use std::fmt;
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use crate::model::{analysis_macs, painter_macs, Convolutions, ModelConfig};

/// Multiplications that a model takes in numbers of a kind, and how many this machine makes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    pub kind: Kind,
    /// 10^3 multiplications for each luma sample: of the encoders of tokens and latents, and of decoder and control branch.
    pub encode: f64,
    pub decode: f64,
    /// 10^9 multiplications and additions a second.
    pub speed: f64,
}

impl Floor {
    pub const HEADER: &str = "numbers,encode_kmac_per_sample,decode_kmac_per_sample,gmac_per_s";
}

/// A line of CSV.
impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = match self.kind {
            Kind::BFloat16 => "bf16",
            _ => "f32",
        };
        write!(f, "{name},{:.2},{:.2},{:.1}", self.encode, self.decode, self.speed)
    }
}

/// Of f32, where 3x3 convolutions take a quarter of their multiplications, and of bf16.
pub fn floor(config: &ModelConfig) -> [Floor; 2] {
    let kinds = [
        (Kind::Float, Convolutions::Winograd),
        (Kind::BFloat16, Convolutions::Direct),
    ];
    kinds.map(|(kind, convolutions)| Floor {
        kind,
        encode: analysis_macs(config, convolutions) / 1e3,
        decode: painter_macs(config, convolutions) / 1e3,
        speed: product_speed(kind),
    })
}

/// Of a product of matrices like those of the networks, `[4096, 160] [160, 160]`.
fn product_speed(kind: Kind) -> f64 {
    const SIZE: [i64; 3] = [4096, 160, 160];
    const REPETITIONS: usize = 50;
    let _guard = tch::no_grad_guard();
    let [m, k, n] = SIZE;
    let a = Tensor::ones([m, k], (kind, Device::Cpu));
    let b = Tensor::ones([k, n], (kind, Device::Cpu));
    let seconds = (0..REPETITIONS).map(|_| {
        let start = Instant::now();
        let _product = a.matmul(&b);
        start.elapsed().as_secs_f64()
    });
    SIZE.iter().product::<i64>() as f64 / seconds.fold(f64::INFINITY, f64::min) / 1e9
}
