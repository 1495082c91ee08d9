// SPDX-License-Identifier: MPL-2.0
//! A patch discriminator over pairs of neighbouring frames: it sees texture and how it moves.

use anyhow::Result;
use tch::{nn, Kind, Tensor};

use crate::model::layers::{to_channels_last, Conv2d};

const WIDTHS: [i64; 3] = [48, 96, 128];
/// Quad pictures of two frames.
const CHANNELS: i64 = 12;

/// Scores patches: high for real ones (Isola et al., "Image-to-Image Translation with Conditional Adversarial
/// Networks", 2017).
pub struct Discriminator {
    convs: Vec<Conv2d>,
    head: Conv2d,
    kind: Kind,
}

impl Discriminator {
    pub fn new(vs: nn::Path, kind: Kind) -> Discriminator {
        let inputs = [CHANNELS, WIDTHS[0], WIDTHS[1]];
        let layer = |(i, (&c_in, &c_out)): (usize, (&i64, &i64))| {
            Conv2d::new(
                &vs / "convs" / i as i64,
                c_in,
                c_out,
                if i == 0 { 3 } else { 4 },
                1 + i64::from(i > 0),
                1.7,
            )
        };
        Discriminator {
            convs: inputs.iter().zip(&WIDTHS).enumerate().map(layer).collect(),
            head: Conv2d::new(&vs / "head", WIDTHS[2], 1, 3, 1, 1.0),
            kind,
        }
    }

    /// `quads: [n, t, 6, h, w]`; the frames are taken in pairs from `start` on, one pair in four frames.
    pub fn score(&self, quads: &Tensor, start: i64) -> Result<Tensor> {
        let t = quads.size()[1];
        let pairs: Vec<Tensor> = (0..)
            .map(|i| start + 4 * i)
            .take_while(|at| at + 1 < t)
            .map(|at| Tensor::cat(&[quads.select(1, at), quads.select(1, at + 1)], 1))
            .collect();
        let mut xs = to_channels_last(&Tensor::cat(&pairs, 0), self.kind)?;
        for conv in &self.convs {
            xs = conv.forward(&xs)?.leaky_relu();
        }
        Ok(self.head.forward(&xs)?.to_kind(Kind::Float))
    }

    /// Hinge loss of the discriminator.
    pub fn loss(&self, real: &Tensor, fake: &Tensor, start: i64) -> Result<Tensor> {
        let (real, fake) = (self.score(real, start)?, self.score(&fake.detach(), start)?);
        Ok((-real + 1.0).relu().mean(Kind::Float) + (fake + 1.0).relu().mean(Kind::Float))
    }
}
