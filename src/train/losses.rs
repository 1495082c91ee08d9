// SPDX-License-Identifier: MPL-2.0
//! What a reconstruction is compared by.

use tch::{Kind, Tensor};

/// Chroma has half the samples of luma and far less energy: without more weight, colours fade.
const CHROMA_WEIGHT: f64 = 8.0;
const SQUARED_WEIGHT: f64 = 4.0;
const GRADIENT_SCALES: usize = 3;

/// Squared and absolute difference. `xs, ys: [n, t, 6, h, w]` quad pictures in [-1, 1] -> a number.
pub fn pixel(xs: &Tensor, ys: &Tensor) -> Tensor {
    let difference = xs - ys;
    let part = |from, channels| {
        let d = difference.narrow(2, from, channels);
        d.square().mean(Kind::Float) * SQUARED_WEIGHT + d.abs().mean(Kind::Float)
    };
    part(0, 4) + part(4, 2) * CHROMA_WEIGHT
}

/// Absolute difference of the gradients of luma at full, half and quarter size.
pub fn gradient(xs: &Tensor, ys: &Tensor) -> Tensor {
    // The gradient of the difference: all of this is linear.
    let mut difference = (xs.narrow(2, 0, 4) - ys.narrow(2, 0, 4)).flatten(0, 1).pixel_shuffle(2);
    let mut total = Tensor::zeros([], (Kind::Float, xs.device()));
    for scale in 0..GRADIENT_SCALES {
        if scale > 0 {
            difference = difference.avg_pool2d(2, 2, 0, false, true, None::<i64>);
        }
        for dim in [2, 3] {
            total += difference
                .diff(1, dim, None::<&Tensor>, None::<&Tensor>)
                .abs()
                .mean(Kind::Float);
        }
    }
    total
}

/// Absolute difference of the changes of luma from frame to frame: flicker and boiling. `xs, ys: [n, t, 6, h, w]`,
/// t at least 2.
pub fn temporal(xs: &Tensor, ys: &Tensor) -> Tensor {
    let difference = xs.narrow(2, 0, 4) - ys.narrow(2, 0, 4);
    difference
        .diff(1, 1, None::<&Tensor>, None::<&Tensor>)
        .abs()
        .mean(Kind::Float)
}

/// Peak signal-to-noise ratio of luma in dB, of samples 0 to 255 in [-1, 1].
pub fn psnr_luma(xs: &Tensor, ys: &Tensor) -> f64 {
    let error = (xs.narrow(2, 0, 4).clamp(-1.0, 1.0) - ys.narrow(2, 0, 4))
        .square()
        .mean(Kind::Float);
    10.0 * (4.0 / f64::try_from(error).unwrap_or(f64::NAN)).log10()
}
