// SPDX-License-Identifier: MPL-2.0
//! Pictures that are coded larger than they are shown: finer tokens for a picture that deserves them.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::joint::uniform;
use super::stage::random_below;
use crate::model::picture;

/// Coded sides are multiples of this: of a token, and such that every shown side is even.
const GRAIN: i64 = 48;
/// Sides below this are not cut: LPIPS needs 32 samples.
const LEAST_SIDE: i64 = 96;

/// Sides of a square, in luma samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Enlargement {
    shown: i64,
    coded: i64,
}

impl Enlargement {
    /// One and a half times or twice the size, of about as many coded samples as a square of `side`; `None` in all but a
    /// `share` of the cases, and where the square is too small.
    pub(super) fn draw(share: f64, side: i64) -> Option<Enlargement> {
        if uniform() >= share || side < LEAST_SIDE {
            return None;
        }
        let coded = (side + GRAIN / 2) / GRAIN * GRAIN;
        let shown = if uniform() < 0.6 { coded * 2 / 3 } else { coded / 2 };
        Some(Enlargement { shown, coded })
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
    pub(super) fn enlarge(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(picture::resize_quads(xs, [self.coded; 2])?)
    }

    /// Coded pictures in the shown size.
    pub(super) fn shrink(&self, ys: &Tensor) -> Result<Tensor> {
        Ok(picture::resize_quads(&ys.to_kind(Kind::Float), [self.shown; 2])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn a_smooth_picture_survives_enlarging_and_shrinking() {
        let ramp = Tensor::arange(128, (Kind::Float, Device::Cpu)) / 64.0 - 1.0;
        let luma = ramp.view([1, 1, 128]) + ramp.view([1, 128, 1]) * 0.5;
        let chroma = Tensor::full([1, 2, 64, 64], 0.25, (Kind::Float, Device::Cpu));
        let quads = Tensor::cat(&[luma.unsqueeze(1).pixel_unshuffle(2), chroma], 1).unsqueeze(0);
        let mut sides = vec![];
        for _ in 0..20 {
            let enlargement = Enlargement::draw(1.0, 128).unwrap();
            let cut = enlargement.cut(&quads).unwrap();
            let large = enlargement.enlarge(&cut).unwrap();
            assert_eq!(large.size(), [1, 1, 6, 72, 72]);
            let error = (enlargement.shrink(&large).unwrap() - &cut).abs();
            let inside = error.slice(3, 4, -4, 1).slice(4, 4, -4, 1).max();
            assert!(f64::try_from(inside).unwrap() < 1e-3);
            sides.push(cut.size()[4]);
        }
        assert!(sides.contains(&48) && sides.contains(&36), "{sides:?}");
    }

    #[test]
    fn small_pictures_stay_as_they_are() {
        assert_eq!(Enlargement::draw(1.0, 64), None);
        assert_eq!(Enlargement::draw(0.0, 128), None);
    }
}
