// SPDX-License-Identifier: MPL-2.0
//! SSIMULACRA2 (Sneyers, Cloudinary): structural similarity in six scales of XYB, fitted to what viewers say.

use anyhow::Result;
use ssimulacra2::{compute_frame_ssimulacra2, ColorPrimaries, Rgb, TransferCharacteristic};
use tch::{Kind, Tensor};

/// The score of a picture beside its source: 100 is the same, 90 no difference to be seen, 70 high, 50 medium, 30 low quality; below 0
/// it goes on without a bound. `[3, h, w]` R'G'B' in [0, 1], at least 8x8; an error at smaller ones.
pub fn ssimulacra2(source: &Tensor, picture: &Tensor) -> Result<f64> {
    Ok(compute_frame_ssimulacra2(image(source)?, image(picture)?)?)
}

fn image(xs: &Tensor) -> Result<Rgb> {
    let (_, height, width) = xs.size3()?;
    let samples = xs.permute([1, 2, 0]).contiguous().to_kind(Kind::Float).flatten(0, -1);
    let samples: Vec<f32> = Vec::try_from(samples)?;
    let pixels = samples.chunks_exact(3).map(|rgb| [rgb[0], rgb[1], rgb[2]]).collect();
    Ok(Rgb::new(
        pixels,
        width as usize,
        height as usize,
        TransferCharacteristic::SRGB,
        ColorPrimaries::BT709,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn the_score_falls_with_noise_and_a_picture_itself_has_100() {
        tch::manual_seed(3);
        let options = (Kind::Float, Device::Cpu);
        let slope = Tensor::arange(96, options) / 96.0;
        let source = slope.expand([3, 64, 96], false);
        let noise = Tensor::rand([3, 64, 96], options) - 0.5;
        let score = |amount: f64| {
            let picture = &source + &noise * amount;
            ssimulacra2(&source, &picture.clamp(0.0, 1.0)).unwrap()
        };
        assert!((score(0.0) - 100.0).abs() < 1e-6);
        assert!(
            score(0.05) < 95.0 && score(0.2) < score(0.05) - 5.0,
            "{} {}",
            score(0.05),
            score(0.2)
        );
    }

    #[test]
    fn pictures_of_other_sizes_and_tiny_ones_are_refused() {
        let picture = |h: i64| Tensor::zeros([3, h, 16], (Kind::Float, Device::Cpu));
        assert!(ssimulacra2(&picture(16), &picture(24)).is_err());
        assert!(ssimulacra2(&picture(4), &picture(4)).is_err());
    }
}
