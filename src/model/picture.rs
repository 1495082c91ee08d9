// SPDX-License-Identifier: MPL-2.0
//! Planes of a picture as tensors, in the layouts that networks and metrics take.

use tch::{Kind, Tensor};

type Result<T> = std::result::Result<T, tch::TchError>;

/// Y' `[n, h, w]` and Cb Cr `[n, 2, h/2, w/2]`, samples 0 to 255 of any kind -> quad pictures
/// `[n, 6, h/2, w/2]` f32 in [-1, 1].
pub fn quad_from_planes(luma: &Tensor, chroma: &Tensor) -> Result<Tensor> {
    let luma = luma.f_unsqueeze(1)?.f_pixel_unshuffle(2)?;
    Tensor::f_cat(&[&luma, chroma], 1)?
        .f_to_kind(Kind::Float)?
        .f_mul_scalar(1.0 / 127.5)?
        .f_sub_scalar(1.0)
}

/// Inverse of [`quad_from_planes`]: -> (luma `[n, h, w]`, chroma `[n, 2, h/2, w/2]`) f32 in 0 to 255, neither
/// rounded nor clamped.
pub fn planes_from_quad(quad: &Tensor) -> Result<(Tensor, Tensor)> {
    let samples = quad.f_add_scalar(1.0)?.f_mul_scalar(127.5)?;
    let luma = samples.f_narrow(1, 0, 4)?.f_pixel_shuffle(2)?.f_squeeze_dim(1)?;
    Ok((luma, samples.f_narrow(1, 4, 2)?))
}

/// Rounds samples 0 to 255 to u8.
pub fn to_u8(samples: &Tensor) -> Result<Tensor> {
    samples.f_round()?.f_clamp(0.0, 255.0)?.f_to_kind(Kind::Uint8)
}

/// Planes as in [`planes_from_quad`], BT.601 limited range -> R'G'B' `[n, 3, h, w]` f32, 0 to 1 where in gamut
/// (ITU-R BT.601-7, 2.5.3). Chroma is repeated.
pub fn rgb_from_planes(luma: &Tensor, chroma: &Tensor) -> Result<Tensor> {
    let (_, h, w) = luma.size3()?;
    let y = luma
        .f_to_kind(Kind::Float)?
        .f_sub_scalar(16.0)?
        .f_mul_scalar(1.0 / 219.0)?;
    let c = chroma
        .f_to_kind(Kind::Float)?
        .f_sub_scalar(128.0)?
        .f_mul_scalar(1.0 / 224.0)?
        .f_upsample_nearest2d([h, w], None, None)?;
    let (cb, cr) = (c.f_select(1, 0)?, c.f_select(1, 1)?);
    let r = y.f_add(&cr.f_mul_scalar(1.402)?)?;
    let g = y
        .f_sub(&cb.f_mul_scalar(0.344_136)?)?
        .f_sub(&cr.f_mul_scalar(0.714_136)?)?;
    let b = y.f_add(&cb.f_mul_scalar(1.772)?)?;
    Tensor::f_stack(&[r, g, b], 1)
}
