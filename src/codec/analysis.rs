// SPDX-License-Identifier: MPL-2.0
//! The encoder's networks: frames to real-valued digits and latents.

use tch::Tensor;

use super::colour::ycbcr;
use super::{CodecError, Frame};
use crate::bitstream::SequenceHeader;
use crate::entropy::{LatentMap, TokenMap, DIGITS, LATENT_SCALE};
use crate::model::{picture, Model, StreamState};

/// What the networks remember from unit to unit.
#[derive(Debug, Default)]
pub struct AnalysisState {
    tokenizer: StreamState,
    continuous: StreamState,
}

/// What the networks say of a unit, before anything is rounded.
#[derive(Debug)]
pub struct Analysis {
    pub width: usize,
    pub height: usize,
    /// `[height][width][6]`, about 0 to L - 1.
    pub digits: Vec<f32>,
    /// In 1/256; None without a continuous stream.
    pub latents: Option<LatentMap>,
}

impl Analysis {
    /// Runs the networks over a group of frames of a stream.
    pub fn of(
        model: &Model,
        frames: &[&Frame],
        sequence: &SequenceHeader,
        state: &mut AnalysisState,
    ) -> Result<Analysis, CodecError> {
        let _no_grad = tch::no_grad_guard();
        let tokenizer = &model.tokenizer;
        let factor = tokenizer.config.spatial_factor() as usize;
        let align = |size: u32| (size as usize).next_multiple_of(factor);
        let quads = Frame::to_quads(frames, align(sequence.width), align(sequence.height))?;
        let quads = quads.f_to_device(model.device)?;
        let pictures = picture::to_network(&quads, tokenizer.config.colour(), ycbcr(sequence))?;
        let (zs, features) = tokenizer.encode_with_features(&pictures, model.kind, &mut state.tokenizer)?;
        let digits = tokenizer.fsq.bound(&zs)?;
        let (_, _, height, width) = digits.size4()?;
        let (width, height) = (width as usize, height as usize);
        let latents = match &model.continuous {
            Some(continuous) => {
                let ys = continuous.fusion.encode(&features, 1, &mut state.continuous)?;
                Some(LatentMap {
                    width,
                    height,
                    channels: continuous.context.weights().channels,
                    values: by_place(&ys.f_mul_scalar(f64::from(LATENT_SCALE))?.f_round()?)?
                        .into_iter()
                        .map(|v| v as i32)
                        .collect(),
                })
            }
            None => None,
        };
        Ok(Analysis {
            width,
            height,
            digits: by_place(&digits)?,
            latents,
        })
    }

    /// Rounds the digits. One keeps its value of the previous unit while the new one is not further away than
    /// `dead_zone` steps: that costs next to nothing to code.
    pub fn tokens(&self, previous: Option<&TokenMap>, dead_zone: f64) -> TokenMap {
        let mut map = TokenMap::zero(self.width, self.height);
        for (at, token) in map.tokens.iter_mut().enumerate() {
            for (k, digit) in token.iter_mut().enumerate() {
                let value = self.digits[at * DIGITS + k];
                let last = previous.map(|map| map.tokens[at][k]);
                *digit = match last {
                    Some(last) if (f64::from(value) - f64::from(last)).abs() <= dead_zone => last,
                    _ => value.round_ties_even().clamp(0.0, f32::from(crate::FSQ_LEVELS[k] - 1)) as u8,
                };
            }
        }
        map
    }
}

/// `xs: [1, c, h, w]` -> the values with the channels of a place together.
fn by_place(xs: &Tensor) -> Result<Vec<f32>, CodecError> {
    let xs = xs
        .f_permute([0, 2, 3, 1])?
        .f_to_device(tch::Device::Cpu)?
        .f_contiguous()?;
    let mut values = vec![0f32; xs.numel()];
    xs.f_copy_data(&mut values, xs.numel())?;
    Ok(values)
}
