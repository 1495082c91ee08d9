// SPDX-License-Identifier: MPL-2.0
//! How near decoded pictures come to their source. Functions of luma take clips `[t, h, w]`, samples 0 to 255.

mod lpips;

pub use lpips::Lpips;

use tch::{Kind, Tensor};

/// Peak signal-to-noise ratio of each frame in dB, `[t]`.
fn frame_psnr(xs: &Tensor, ys: &Tensor) -> Tensor {
    let difference = xs.to_kind(Kind::Float) - ys.to_kind(Kind::Float);
    let errors = difference
        .square()
        .mean_dim([1i64, 2].as_slice(), false, Kind::Float)
        .clamp_min(1e-4);
    (errors.reciprocal() * 255.0 * 255.0).log10() * 10.0
}

/// Peak signal-to-noise ratio in dB, the mean over the frames.
pub fn psnr(xs: &Tensor, ys: &Tensor) -> f64 {
    f64::try_from(frame_psnr(xs, ys).mean(Kind::Float)).unwrap_or(f64::NAN)
}

/// The same, the mean over the tenth of the frames where it is lowest: what losses do, which a mean over all frames hides.
pub fn worst_psnr(xs: &Tensor, ys: &Tensor) -> f64 {
    let (frames, _) = frame_psnr(xs, ys).sort(0, false);
    let worst = frames.narrow(0, 0, (frames.size()[0] + 9) / 10);
    f64::try_from(worst.mean(Kind::Float)).unwrap_or(f64::NAN)
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
        assert!((psnr(&xs, &(&xs + 1.0)) - 48.13).abs() < 0.01);
    }

    #[test]
    fn the_worst_psnr_is_that_of_a_tenth_of_the_frames() {
        let xs = Tensor::full([11, 4, 4], 100, (Kind::Uint8, Device::Cpu));
        let ys = xs.copy();
        // Of eleven frames the worst two count, rounded up: one off by ten steps, one by one.
        let _ = ys.narrow(0, 3, 1).fill_(110);
        let _ = ys.narrow(0, 7, 1).fill_(101);
        let off_by = |steps: f64| 20.0 * (255.0 / steps).log10();
        let expected = (off_by(10.0) + off_by(1.0)) / 2.0;
        assert!((worst_psnr(&xs, &ys) - expected).abs() < 1e-3);
    }

    #[test]
    fn a_constant_offset_does_not_flicker_and_a_changing_one_does() {
        let xs = noise();
        assert!(flicker(&xs, &(&xs + 9.0)) < 1e-4);
        let blink = Tensor::from_slice(&[0f32, 6.0, 0.0]).view([3, 1, 1]);
        assert!((flicker(&xs, &(&xs + blink)) - 6.0).abs() < 1e-3);
    }
}
