// SPDX-License-Identifier: MPL-2.0
//! What a reconstruction is compared by.

use tch::{Kind, Tensor};

/// Chroma has half the samples of luma and far less energy: without more weight, colours fade.
const CHROMA_WEIGHT: f64 = 8.0;
const SQUARED_WEIGHT: f64 = 4.0;
const GRADIENT_SCALES: usize = 3;
/// Samples from token to token. What repeats after 4 or 8 samples does so after 16 too.
const MESH_PERIOD: i64 = 16;
/// Half of the shortest period, 4: there such a mesh is at its opposite.
const MESH_ASIDE: i64 = 2;

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

/// A mesh in the period of the tokens: how much more fine luma resembles itself [`MESH_PERIOD`] samples further on than a
/// little before and after that, beyond what the source does. A network without noise to draw on paints one wherever a
/// perceptual loss asks for texture that it does not know. `decoded, source: [n, t, 6, h, w]`; a direction of less than
/// 20 samples does not count.
pub fn mesh(decoded: &Tensor, source: &Tensor) -> Tensor {
    (repetition(decoded) - repetition(source)).relu().mean(Kind::Float)
}

/// The second difference of the autocorrelation of fine luma at the period, of each clip, over both directions.
fn repetition(quads: &Tensor) -> Tensor {
    let size = quads.size();
    let luma = quads.narrow(2, 0, 4).flatten(0, 1).pixel_shuffle(2);
    let fine = &luma - luma.avg_pool2d(5, 1, 2, false, false, None::<i64>);
    let correlation = |dim: i64, lag: i64| {
        let length = fine.size()[dim as usize] - lag;
        (fine.narrow(dim, 0, length) * fine.narrow(dim, lag, length))
            .view([size[0], -1])
            .mean_dim(1, false, Kind::Float)
    };
    let mut total = Tensor::zeros([size[0]], (Kind::Float, quads.device()));
    for dim in [2, 3] {
        if fine.size()[dim as usize] > MESH_PERIOD + MESH_ASIDE {
            total += correlation(dim, MESH_PERIOD) * 2.0
                - correlation(dim, MESH_PERIOD - MESH_ASIDE)
                - correlation(dim, MESH_PERIOD + MESH_ASIDE);
        }
    }
    total
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
    fn a_mesh_is_told_from_noise_and_from_edges() {
        tch::manual_seed(8);
        let quads = |luma: Tensor| {
            let chroma = Tensor::zeros([2, 2, 32, 48], (Kind::Float, Device::Cpu));
            Tensor::cat(&[luma.pixel_unshuffle(2), chroma], 1).unsqueeze(0)
        };
        let column = Tensor::arange(96, (Kind::Float, Device::Cpu)).view([1, 1, 1, 96]);
        let flat = Tensor::zeros([2, 1, 64, 96], (Kind::Float, Device::Cpu));
        let noise = flat.randn_like() * 0.1;
        let edge = &flat + column.ge(40.0).to_kind(Kind::Float);
        let of = |ys: &Tensor| f64::try_from(mesh(&quads(ys.shallow_clone()), &quads(&flat + 0.0))).unwrap();
        for period in [4.0, 8.0, 16.0] {
            let dots = (&flat + column.fmod(period).lt(1.5).to_kind(Kind::Float)) * 0.2;
            assert!(
                of(&dots) > 5.0 * of(&noise).max(of(&edge)),
                "{period}: {}, noise {}, edge {}",
                of(&dots),
                of(&noise),
                of(&edge)
            );
            // A source that has it may be shown with it.
            let source = quads(dots.shallow_clone());
            assert!(f64::try_from(mesh(&source, &source)).unwrap() < 1e-6);
        }
        let tiny = Tensor::ones([1, 2, 6, 8, 8], (Kind::Float, Device::Cpu));
        assert_eq!(f64::try_from(mesh(&tiny, &tiny)).unwrap(), 0.0);
    }
}
