// SPDX-License-Identifier: MPL-2.0
//! Pictures that are coded larger or smaller than they are shown: finer tokens for a picture that deserves them, coarser ones
//! where there are no bits.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::joint::uniform;
use super::stage::random_below;
use crate::bitstream::CodingScale;
use crate::model::picture;

/// Coded sides are multiples of this: of a token, and such that every shown side is even.
const GRAIN: i64 = 48;
/// The same for coded pictures that are smaller than the shown ones.
const SMALL_GRAIN: i64 = 16;
/// Sides below this are not cut: LPIPS needs 32 samples.
const LEAST_SIDE: i64 = 96;
/// Share of the resized pictures that are coded smaller, where latents are to be had.
const SMALLER_SHARE: f64 = 0.45;

/// Sides of a square, in luma samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resizing {
    shown: i64,
    coded: i64,
}

impl Resizing {
    /// Two thirds, half, one and a half times or twice the size, in squares of at most about `side`; `None` in all but a
    /// `share` of the cases, and where the square is too small. Finer tokens are for those who pay: only a picture with
    /// latents is enlarged.
    pub(super) fn draw(share: f64, side: i64, has_latents: bool) -> Option<Resizing> {
        if uniform() >= share || side < LEAST_SIDE {
            return None;
        }
        let first = uniform() < 0.6;
        if has_latents && uniform() >= SMALLER_SHARE {
            let coded = (side + GRAIN / 2) / GRAIN * GRAIN;
            let shown = if first { coded * 2 / 3 } else { coded / 2 };
            return Some(Resizing { shown, coded });
        }
        let coded = if first { side * 2 / 3 } else { side / 2 } / SMALL_GRAIN * SMALL_GRAIN;
        let shown = if first { coded * 3 / 2 } else { coded * 2 };
        Some(Resizing { shown, coded })
    }

    /// What a stream calls it.
    pub(super) fn scale(&self) -> CodingScale {
        let fits = |scale: &CodingScale| i64::from(scale.coded(self.shown as u32)) == self.coded;
        CodingScale::ALL.into_iter().find(fits).unwrap_or_default()
    }

    /// A square of the pictures at random, `xs: [n, t, 6, h/2, w/2]`, none of whose sides is shorter than the square.
    pub(super) fn cut(&self, xs: &Tensor) -> Result<Tensor> {
        let side = self.shown / 2;
        let mut cut = xs.shallow_clone();
        for dim in [3, 4] {
            let room = cut.size()[dim] - side;
            cut = cut.f_narrow(dim as i64, random_below(room + 1)?, side)?;
        }
        Ok(cut)
    }

    /// Shown pictures in the coded size.
    pub(super) fn to_coded(self, xs: &Tensor) -> Result<Tensor> {
        Ok(picture::resize_quads(xs, [self.coded; 2])?)
    }

    /// Coded pictures in the shown size.
    pub(super) fn to_shown(self, ys: &Tensor) -> Result<Tensor> {
        Ok(picture::resize_quads(&ys.to_kind(Kind::Float), [self.shown; 2])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn a_smooth_picture_survives_every_size() {
        let ramp = Tensor::arange(128, (Kind::Float, Device::Cpu)) / 64.0 - 1.0;
        let luma = ramp.view([1, 1, 128]) + ramp.view([1, 128, 1]) * 0.5;
        let chroma = Tensor::full([1, 2, 64, 64], 0.25, (Kind::Float, Device::Cpu));
        let quads = Tensor::cat(&[luma.unsqueeze(1).pixel_unshuffle(2), chroma], 1).unsqueeze(0);
        let mut sizes = vec![];
        for i in 0..60 {
            let resizing = Resizing::draw(1.0, 128, i % 2 == 0).unwrap();
            let cut = resizing.cut(&quads).unwrap();
            let coded = resizing.to_coded(&cut).unwrap();
            assert_eq!(coded.size()[4] % 8, 0, "whole tokens");
            let error = (resizing.to_shown(&coded).unwrap() - &cut).abs();
            let inside = error.slice(3, 6, -6, 1).slice(4, 6, -6, 1).max();
            let inside = f64::try_from(inside).unwrap();
            assert!(inside < 2e-3, "{resizing:?}: {inside}");
            sizes.push((cut.size()[4] * 2, coded.size()[4] * 2));
            assert!(
                i % 2 == 0 || cut.size()[4] > coded.size()[4],
                "only latents pay for finer tokens"
            );
        }
        for size in [(96, 144), (72, 144), (120, 80), (128, 64)] {
            assert!(sizes.contains(&size), "no {size:?}");
        }
    }

    #[test]
    fn small_pictures_stay_as_they_are() {
        assert_eq!(Resizing::draw(1.0, 64, true), None);
        assert_eq!(Resizing::draw(0.0, 128, true), None);
    }
}
