// SPDX-License-Identifier: MPL-2.0
//! Space-time patches: blocks of pixels to channels and back.

use tch::Tensor;

use super::config::{PatchConfig, Transform};
use super::layers::StreamState;

type Result<T> = std::result::Result<T, tch::TchError>;

/// `xs: [n, t, c, h, w]` -> `[n * t', c', h', w']` with t' = 1 + (t - 1) / time at the start of a stream and
/// t / time later; channels-last. At the start the first frame is repeated to fill a patch of its own.
pub fn patch(config: &PatchConfig, xs: &Tensor, state: &StreamState) -> Result<Tensor> {
    let (n, _, c, h, w) = xs.size5()?;
    let xs = if state.is_start() {
        let first = xs.f_narrow(1, 0, 1)?.f_expand([n, config.time - 1, c, h, w], false)?;
        Tensor::f_cat(&[&first, xs], 1)?
    } else {
        xs.shallow_clone()
    };
    let (pt, ps) = (config.time, config.space);
    match config.transform {
        Transform::Raw => xs
            .f_reshape([n, -1, pt, c, h / ps, ps, w / ps, ps])?
            .f_permute([0, 1, 4, 6, 2, 3, 5, 7])?
            .f_reshape([-1, h / ps, w / ps, pt * c * ps * ps])?
            .f_permute([0, 3, 1, 2]),
        Transform::Haar => {
            let mut ys = xs;
            let mut side = 1;
            while side < ps {
                ys = haar_analysis(&ys)?;
                side *= 2;
            }
            let (_, _, c, h, w) = ys.size5()?;
            ys.f_permute([0, 1, 3, 4, 2])?
                .f_reshape([-1, h, w, c])?
                .f_permute([0, 3, 1, 2])
        }
    }
}

/// Inverse of [`patch`]: `ys: [n * t', c', h', w']` -> `[n, t, channels, h, w]`. `skipped`: first frames that are dropped, the
/// repeated copies at the start of a stream.
pub fn unpatch(config: &PatchConfig, ys: &Tensor, n: i64, channels: i64, skipped: i64) -> Result<Tensor> {
    let (_, c, h, w) = ys.size4()?;
    let (pt, ps) = (config.time, config.space);
    let xs = match config.transform {
        Transform::Raw => ys
            .f_permute([0, 2, 3, 1])?
            .f_reshape([n, -1, h, w, pt, channels, ps, ps])?
            .f_permute([0, 1, 4, 5, 2, 6, 3, 7])?
            .f_reshape([n, -1, channels, h * ps, w * ps])?,
        Transform::Haar => {
            let mut xs = ys.f_reshape([n, -1, c, h, w])?;
            let mut side = 1;
            while side < ps {
                xs = haar_synthesis(&xs)?;
                side *= 2;
            }
            xs
        }
    };
    xs.f_narrow(1, skipped, xs.size()[1] - skipped)
}

/// Axes of a pair split, in the order in which the Cosmos tokenizer applies and numbers them.
const HAAR_AXES: [i64; 3] = [1, 3, 4];

/// One level of the 3D Haar transform, `[n, t, c, h, w]` -> `[n, t/2, 8c, h/2, w/2]`: each band is the signed
/// sum of eight voxels / 8 (Cosmos divides its orthonormal bands by 2 sqrt 2). Band 4t + 2h + w comes first
/// in the channel order.
fn haar_analysis(xs: &Tensor) -> Result<Tensor> {
    let mut bands = vec![xs.shallow_clone()];
    for axis in HAAR_AXES {
        let mut split = Vec::with_capacity(2 * bands.len());
        for band in bands {
            let end = band.size()[axis as usize];
            let (a, b) = (band.f_slice(axis, 0, end, 2)?, band.f_slice(axis, 1, end, 2)?);
            split.push(a.f_add(&b)?.f_mul_scalar(0.5)?);
            split.push(a.f_sub(&b)?.f_mul_scalar(0.5)?);
        }
        bands = split;
    }
    Tensor::f_cat(&bands, 2)
}

/// Inverse of [`haar_analysis`]: each voxel is the signed sum of eight bands.
fn haar_synthesis(ys: &Tensor) -> Result<Tensor> {
    let mut bands = ys.f_chunk(8, 2)?;
    for axis in HAAR_AXES.into_iter().rev() {
        bands = bands
            .chunks(2)
            .map(|pair| {
                let (low, high) = (&pair[0], &pair[1]);
                let joined = Tensor::f_stack(&[low.f_add(high)?, low.f_sub(high)?], axis + 1)?;
                let mut shape = low.size();
                shape[axis as usize] *= 2;
                joined.f_reshape(&shape)
            })
            .collect::<Result<Vec<_>>>()?;
    }
    Ok(bands.remove(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn config(transform: Transform, space: i64) -> PatchConfig {
        PatchConfig {
            transform,
            time: 4,
            space,
        }
    }

    #[test]
    fn unpatch_inverts_patch_at_the_start_and_later() {
        let cases = [(Transform::Raw, 2), (Transform::Raw, 4), (Transform::Haar, 4)];
        for (transform, space) in cases {
            let config = config(transform, space);
            let mut state = StreamState::default();
            for frames in [9, 8] {
                let xs = Tensor::rand([2, frames, 3, 16, 24], (Kind::Float, Device::Cpu));
                let ys = patch(&config, &xs, &state).unwrap();
                let skipped = if state.is_start() { config.time - 1 } else { 0 };
                let back = unpatch(&config, &ys, 2, 3, skipped).unwrap();
                assert!(f64::try_from((back - xs).abs().max()).unwrap() < 1e-6);
                state.begin_step();
                state.end_step();
            }
        }
    }

    #[test]
    fn haar_bands_are_signed_sums_over_eight() {
        let xs = Tensor::arange(8, (Kind::Float, Device::Cpu)).reshape([1, 2, 1, 2, 2]);
        let bands = Vec::<f32>::try_from(haar_analysis(&xs).unwrap().flatten(0, -1)).unwrap();
        // Mean 3.5; neighbours differ by 1 along W, 2 along H, 4 along T, and half of that is the band.
        assert_eq!(bands, [3.5, -0.5, -1.0, 0.0, -2.0, 0.0, 0.0, 0.0]);
    }
}
