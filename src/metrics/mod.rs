// SPDX-License-Identifier: MPL-2.0
//! How near decoded pictures come to their source. Functions of luma take clips `[t, h, w]`, samples 0 to 255.

mod lpips;
mod ssimulacra2;

pub use lpips::Lpips;
pub use ssimulacra2::ssimulacra2;

use tch::{Kind, Tensor};

/// Peak signal-to-noise ratio in dB of each frame.
pub fn psnr(xs: &Tensor, ys: &Tensor) -> Vec<f64> {
    let difference = xs.to_kind(Kind::Float) - ys.to_kind(Kind::Float);
    let errors = difference
        .square()
        .mean_dim([1i64, 2].as_slice(), false, Kind::Float)
        .clamp_min(1e-4);
    let decibels = (errors.reciprocal() * 255.0 * 255.0).log10() * 10.0;
    Vec::try_from(decibels.to_kind(Kind::Double)).unwrap_or_default()
}

/// The mean; NaN of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean of the lowest tenth, of at least one value: what a viewer of a lossy link remembers.
pub fn lowest_tenth(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.truncate(values.len().div_ceil(10));
    mean(&sorted)
}

/// Structural similarity (Wang et al., "Image Quality Assessment: From Error Visibility to Structural
/// Similarity", 2004): Gaussian window of 11 samples with deviation 1.5.
pub fn ssim(xs: &Tensor, ys: &Tensor) -> f64 {
    let frames = xs.size()[0];
    // One frame at a time keeps the memory small.
    let total: f64 = (0..frames)
        .map(|t| frame_ssim(&xs.narrow(0, t, 1), &ys.narrow(0, t, 1)))
        .sum();
    total / frames as f64
}

fn frame_ssim(xs: &Tensor, ys: &Tensor) -> f64 {
    const C1: f64 = 0.01 * 255.0 * 0.01 * 255.0;
    const C2: f64 = 0.03 * 255.0 * 0.03 * 255.0;
    let taps: Vec<f32> = (-5..=5)
        .map(|i| (-f64::from(i * i) / (2.0 * 1.5 * 1.5)).exp() as f32)
        .collect();
    let taps = Tensor::from_slice(&taps);
    let taps = &taps / taps.sum(Kind::Float);
    let blur = |t: &Tensor| {
        let rows = t.conv2d(&taps.view([1, 1, 1, -1]), None::<&Tensor>, 1, 0, 1, 1);
        rows.conv2d(&taps.view([1, 1, -1, 1]), None::<&Tensor>, 1, 0, 1, 1)
    };
    let (xs, ys) = (
        xs.to_kind(Kind::Float).unsqueeze(1),
        ys.to_kind(Kind::Float).unsqueeze(1),
    );
    let (mx, my) = (blur(&xs), blur(&ys));
    let (vx, vy) = (blur(&xs.square()) - mx.square(), blur(&ys.square()) - my.square());
    let covariance = blur(&(&xs * &ys)) - &mx * &my;
    let numerator = (&mx * &my * 2.0 + C1) * (covariance * 2.0 + C2);
    let denominator = (mx.square() + my.square() + C1) * (vx + vy + C2);
    f64::try_from((numerator / denominator).mean(Kind::Float)).unwrap_or(f64::NAN)
}

/// Temporal flicker: mean |(y_t - y_t-1) - (x_t - x_t-1)|.
pub fn flicker(xs: &Tensor, ys: &Tensor) -> f64 {
    let change = |t: &Tensor| t.to_kind(Kind::Float).diff(1, 0, None::<&Tensor>, None::<&Tensor>);
    f64::try_from((change(ys) - change(xs)).abs().mean(Kind::Float)).unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn noise() -> Tensor {
        Tensor::rand([3, 32, 32], (Kind::Float, Device::Cpu)) * 255.0
    }

    #[test]
    fn equal_clips_are_perfect() {
        let xs = noise();
        assert!((ssim(&xs, &xs) - 1.0).abs() < 1e-4);
        assert_eq!(flicker(&xs, &xs), 0.0);
    }

    #[test]
    fn an_error_of_one_step_is_48_db() {
        let xs = noise();
        assert!(psnr(&xs, &(&xs + 1.0)).iter().all(|psnr| (psnr - 48.13).abs() < 0.01));
    }

    #[test]
    fn a_constant_offset_does_not_flicker_and_a_changing_one_does() {
        let xs = noise();
        assert!(flicker(&xs, &(&xs + 9.0)) < 1e-4);
        let blink = Tensor::from_slice(&[0f32, 6.0, 0.0]).view([3, 1, 1]);
        assert!((flicker(&xs, &(&xs + blink)) - 6.0).abs() < 1e-3);
    }

    #[test]
    fn the_lowest_tenth_is_at_least_one_value() {
        assert_eq!(lowest_tenth(&[5.0, 2.0, 9.0]), 2.0);
        let many: Vec<f64> = (0..21).rev().map(f64::from).collect();
        assert_eq!(lowest_tenth(&many), 1.0);
        assert!(lowest_tenth(&[]).is_nan());
    }
}
