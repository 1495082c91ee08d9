// SPDX-License-Identifier: MPL-2.0
//! Planes of a picture as tensors, in the layouts that networks and metrics take.

use tch::{Kind, Tensor};

use super::config::Colour;

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

/// Planes `[n, c, h, w]` f32 in another size, `[height, width]`: bicubic, and without aliases where that is smaller.
pub fn resize(planes: &Tensor, size: [i64; 2]) -> Result<Tensor> {
    let (_, _, height, width) = planes.size4()?;
    if [height, width] == size {
        return Ok(planes.shallow_clone());
    }
    planes.f_internal_upsample_bicubic2d_aa(size, false, None, None)
}

/// Quad pictures `[n, t, 6, h/2, w/2]` f32 in another size of luma, `[height, width]`, both even.
pub fn resize_quads(quads: &Tensor, [height, width]: [i64; 2]) -> Result<Tensor> {
    let flat = quads.f_flatten(0, 1)?;
    let luma = resize(&flat.f_narrow(1, 0, 4)?.f_pixel_shuffle(2)?, [height, width])?;
    let chroma = resize(&flat.f_narrow(1, 4, 2)?, [height / 2, width / 2])?;
    let size = quads.size();
    Tensor::f_cat(&[luma.f_pixel_unshuffle(2)?, chroma], 1)?.f_view([size[0], size[1], 6, height / 2, width / 2])
}

/// Rounds samples 0 to 255 to u8.
pub fn to_u8(samples: &Tensor) -> Result<Tensor> {
    samples.f_round()?.f_clamp(0.0, 255.0)?.f_to_kind(Kind::Uint8)
}

/// How Y'CbCr and R'G'B' belong together (ITU-R BT.601-7, 2.5; BT.709-6, 3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ycbcr {
    /// Share of R' in Y'.
    pub kr: f64,
    /// Share of B' in Y'.
    pub kb: f64,
    /// Samples from 0 to 255 rather than Y' from 16 to 235, Cb and Cr from 16 to 240.
    pub full_range: bool,
}

impl Ycbcr {
    /// Limited range.
    pub const BT601: Ycbcr = Ycbcr {
        kr: 0.299,
        kb: 0.114,
        full_range: false,
    };
    /// Limited range.
    pub const BT709: Ycbcr = Ycbcr {
        kr: 0.2126,
        kb: 0.0722,
        full_range: false,
    };

    /// Black, and the spans of Y' and of Cb, Cr, in samples.
    fn levels(self) -> (f64, f64, f64) {
        match self.full_range {
            true => (0.0, 255.0, 255.0),
            false => (16.0, 219.0, 224.0),
        }
    }

    /// Planes as in [`planes_from_quad`] -> R'G'B' `[n, 3, h, w]` f32, 0 to 1 where in gamut. Chroma is repeated.
    pub fn to_rgb(self, luma: &Tensor, chroma: &Tensor) -> Result<Tensor> {
        let (_, h, w) = luma.size3()?;
        let (black, span, chroma_span) = self.levels();
        let scaled =
            |t: &Tensor, zero: f64, span: f64| t.f_to_kind(Kind::Float)?.f_sub_scalar(zero)?.f_mul_scalar(1.0 / span);
        let y = scaled(luma, black, span)?;
        let c = scaled(chroma, 128.0, chroma_span)?.f_upsample_nearest2d([h, w], None, None)?;
        let (cb, cr) = (c.f_select(1, 0)?, c.f_select(1, 1)?);
        let r = y.f_add(&cr.f_mul_scalar(2.0 * (1.0 - self.kr))?)?;
        let b = y.f_add(&cb.f_mul_scalar(2.0 * (1.0 - self.kb))?)?;
        let rest = y.f_sub(&r.f_mul_scalar(self.kr)?)?.f_sub(&b.f_mul_scalar(self.kb)?)?;
        let g = rest.f_mul_scalar(1.0 / (1.0 - self.kr - self.kb))?;
        Tensor::f_stack(&[r, g, b], 1)
    }

    /// Inverse of [`Self::to_rgb`]: R'G'B' `[n, 3, h, w]` 0 to 1 -> planes, each chroma sample the mean of 2x2.
    pub fn planes_of_rgb(self, rgb: &Tensor) -> Result<(Tensor, Tensor)> {
        let (black, span, chroma_span) = self.levels();
        let (r, g, b) = (rgb.f_select(1, 0)?, rgb.f_select(1, 1)?, rgb.f_select(1, 2)?);
        let y = r
            .f_mul_scalar(self.kr)?
            .f_add(&g.f_mul_scalar(1.0 - self.kr - self.kb)?)?
            .f_add(&b.f_mul_scalar(self.kb)?)?;
        let cb = b.f_sub(&y)?.f_mul_scalar(0.5 / (1.0 - self.kb))?;
        let cr = r.f_sub(&y)?.f_mul_scalar(0.5 / (1.0 - self.kr))?;
        let chroma = Tensor::f_stack(&[cb, cr], 1)?.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)?;
        Ok((
            y.f_mul_scalar(span)?.f_add_scalar(black)?,
            chroma.f_mul_scalar(chroma_span)?.f_add_scalar(128.0)?,
        ))
    }
}

/// Quad pictures `[n, t, 6, h/2, w/2]` as a tokenizer of `colour` takes them: `[n, t, c, h', w']` in [-1, 1].
pub fn to_network(quads: &Tensor, colour: Colour, ycbcr: Ycbcr) -> Result<Tensor> {
    match colour {
        Colour::Quad420 => Ok(quads.shallow_clone()),
        Colour::Rgb => {
            let (n, t, _, h, w) = quads.size5()?;
            let (luma, chroma) = planes_from_quad(&quads.f_flatten(0, 1)?)?;
            let rgb = ycbcr.to_rgb(&luma, &chroma)?.f_clamp(0.0, 1.0)?;
            rgb.f_mul_scalar(2.0)?
                .f_sub_scalar(1.0)?
                .f_view([n, t, 3, 2 * h, 2 * w])
        }
    }
}

/// Inverse of [`to_network`], colours that cannot be shown clamped.
pub fn from_network(pictures: &Tensor, colour: Colour, ycbcr: Ycbcr) -> Result<Tensor> {
    match colour {
        Colour::Quad420 => Ok(pictures.shallow_clone()),
        Colour::Rgb => {
            let (n, t, _, h, w) = pictures.size5()?;
            let rgb = pictures
                .f_flatten(0, 1)?
                .f_add_scalar(1.0)?
                .f_mul_scalar(0.5)?
                .f_clamp(0.0, 1.0)?;
            let (luma, chroma) = ycbcr.planes_of_rgb(&rgb)?;
            quad_from_planes(&luma, &chroma)?.f_view([n, t, 6, h / 2, w / 2])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn colours_come_back_from_rgb_in_every_matrix_and_range() {
        let full = Ycbcr {
            full_range: true,
            ..Ycbcr::BT601
        };
        for ycbcr in [Ycbcr::BT601, Ycbcr::BT709, full] {
            let luma = Tensor::rand([2, 8, 12], (Kind::Float, Device::Cpu)) * 60.0 + 90.0;
            let chroma = Tensor::rand([2, 2, 4, 6], (Kind::Float, Device::Cpu)) * 20.0 + 118.0;
            let quads = quad_from_planes(&luma, &chroma).unwrap().unsqueeze(0);
            let pictures = to_network(&quads, Colour::Rgb, ycbcr).unwrap();
            assert_eq!(pictures.size(), [1, 2, 3, 8, 12]);
            let back = from_network(&pictures, Colour::Rgb, ycbcr).unwrap();
            let error = f64::try_from((back - quads).abs().max()).unwrap();
            assert!(error < 1e-4, "{ycbcr:?} differs by {error}");
        }
    }

    #[test]
    fn white_black_and_red_are_where_the_standards_put_them() {
        let cases = [
            (Ycbcr::BT601, [235.0, 128.0, 128.0], [1.0, 1.0, 1.0]),
            (Ycbcr::BT709, [16.0, 128.0, 128.0], [0.0, 0.0, 0.0]),
            (Ycbcr::BT601, [81.48, 90.20, 240.0], [1.0, 0.0, 0.0]),
            (Ycbcr::BT709, [62.56, 102.34, 240.0], [1.0, 0.0, 0.0]),
        ];
        for (ycbcr, [y, cb, cr], want) in cases {
            let luma = Tensor::full([1, 2, 2], y, (Kind::Float, Device::Cpu));
            let chroma = Tensor::from_slice(&[cb as f32, cr as f32]).view([1, 2, 1, 1]);
            let rgb = ycbcr.to_rgb(&luma, &chroma).unwrap().select(2, 0).select(2, 0);
            let rgb = Vec::<f32>::try_from(rgb.flatten(0, -1)).unwrap();
            assert!(
                rgb.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-3),
                "{rgb:?}, expected {want:?}"
            );
        }
    }
}
