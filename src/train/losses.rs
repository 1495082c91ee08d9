// SPDX-License-Identifier: MPL-2.0
//! What a reconstruction is compared by.

use tch::{Kind, Tensor};

/// Chroma has half the samples of luma and far less energy: without more weight, colours fade.
const CHROMA_WEIGHT: f64 = 8.0;
const SQUARED_WEIGHT: f64 = 4.0;
const GRADIENT_SCALES: usize = 3;
/// Sides of the squares whose spectra are compared, in samples: two tokens.
const SPECTRUM_SIDE: i64 = 32;
/// Frames between two whose spectra are taken.
const SPECTRUM_SPACING: i64 = 2;
/// Amplitudes far below this one count for nothing: one step of 8 bits, in samples of [-1, 1].
const LEAST_AMPLITUDE: f64 = 1.0 / 127.5;

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

/// Meshes and lines: by how much amplitudes of luma are larger than the source's, summed over the frequencies of squares of
/// 32 samples, mean over clips. A network without noise to draw on paints a regular pattern wherever a
/// perceptual loss asks for texture that it does not know: much of a few frequencies, while real texture has a little of
/// many. `decoded, source: [n, t, 6, h, w]`; 0 for pictures smaller than a square.
pub fn excess(decoded: &Tensor, source: &Tensor) -> Tensor {
    let side = SPECTRUM_SIDE / 2;
    if decoded.size()[3] < side || decoded.size()[4] < side {
        return Tensor::zeros([], (Kind::Float, decoded.device()));
    }
    let excess = (amplitudes(decoded) - amplitudes(source)).relu();
    excess
        .sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Float)
        .mean(Kind::Float)
}

/// The root of the mean power of luma at each frequency of its squares, of each clip: `[n, 32, 17]`. White noise has its own
/// deviation everywhere (Welch's method with a Hann window).
fn amplitudes(quads: &Tensor) -> Tensor {
    let n = quads.size()[0];
    let luma = quads
        .slice(1, 0, None, SPECTRUM_SPACING)
        .narrow(2, 0, 4)
        .flatten(0, 1)
        .pixel_shuffle(2);
    let squares = luma
        .unfold(2, SPECTRUM_SIDE, SPECTRUM_SIDE)
        .unfold(3, SPECTRUM_SIDE, SPECTRUM_SIDE);
    let squares = squares
        .reshape([n, -1, SPECTRUM_SIDE, SPECTRUM_SIDE])
        .to_kind(Kind::Float);
    let hann = Tensor::hann_window(SPECTRUM_SIDE, (Kind::Float, quads.device()));
    let window = hann.unsqueeze(1) * &hann;
    let window = &window / window.square().sum(Kind::Float).sqrt();
    let mean = squares.mean_dim([2i64, 3].as_slice(), true, Kind::Float);
    let spectrum = ((squares - mean) * window).fft_rfft2(None::<&[i64]>, [-2i64, -1].as_slice(), "backward");
    let power = spectrum
        .view_as_real()
        .square()
        .sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
    (power.mean_dim([1i64].as_slice(), false, Kind::Float) + LEAST_AMPLITUDE.powi(2)).sqrt()
}

/// Peak signal-to-noise ratio of luma in dB, of samples 0 to 255 in [-1, 1].
pub fn psnr_luma(xs: &Tensor, ys: &Tensor) -> f64 {
    let error = (xs.narrow(2, 0, 4).clamp(-1.0, 1.0) - ys.narrow(2, 0, 4))
        .square()
        .mean(Kind::Float);
    10.0 * (4.0 / f64::try_from(error).unwrap_or(f64::NAN)).log10()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn lines_are_in_excess_and_texture_is_not() {
        tch::manual_seed(8);
        let quads = |luma: &Tensor| {
            let chroma = Tensor::zeros([2, 2, 32, 48], (Kind::Float, Device::Cpu));
            Tensor::cat(&[luma.pixel_unshuffle(2), chroma], 1).unsqueeze(0)
        };
        let of = |ys: &Tensor, xs: &Tensor| f64::try_from(excess(&quads(ys), &quads(xs))).unwrap();
        let column = Tensor::arange(96, (Kind::Float, Device::Cpu)).view([1, 1, 1, 96]);
        let flat = Tensor::zeros([2, 1, 64, 96], (Kind::Float, Device::Cpu));
        let (source, other) = (flat.randn_like() * 0.1, flat.randn_like() * 0.1);
        for period in [3.55, 4.0, 8.0, 16.0] {
            // As strong as the noise.
            let lines = (&column * (std::f64::consts::TAU / period)).sin() * 0.1 * 2f64.sqrt() + &flat;
            let found = of(&lines, &source);
            assert!(found > 0.3 * of(&lines, &flat), "{period}: {found}");
            // A source that has them may be shown with them.
            assert!(of(&lines, &lines) < 1e-6);
        }
        // Noise instead of the same amount of noise: what is left is that 24 squares are not all.
        let fresh = of(&other, &source) / of(&other, &flat);
        assert!(fresh < 0.15, "{fresh}");
        // Less than there is is never too much.
        assert!(of(&(&source * 0.5), &source) < 1e-6);
        let tiny = Tensor::ones([1, 2, 6, 8, 8], (Kind::Float, Device::Cpu));
        assert_eq!(f64::try_from(excess(&tiny, &tiny)).unwrap(), 0.0);
    }
}
