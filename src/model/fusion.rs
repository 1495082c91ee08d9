// SPDX-License-Identifier: MPL-2.0
//! The continuous stream: latents beside the tokens, and the control branch that brings them into the decoder
//! (Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023).

use tch::{nn, Kind, Tensor};

use super::config::{ContinuousConfig, TokenizerConfig};
use super::layers::{new_levels, to_channels_last, Conv2d, Downsample, Level, Norm, StreamState, Upsample};

type Result<T> = std::result::Result<T, tch::TchError>;

/// The continuous encoder and the control branch.
#[derive(Debug)]
pub struct Fusion {
    pub config: ContinuousConfig,
    encoder: Encoder,
    control: Control,
}

/// The tokenizer's features to latents.
#[derive(Debug)]
struct Encoder {
    down: Downsample,
    level: Level,
    norm_out: Norm,
    conv_out: Conv2d,
}

/// A copy of the decoder's stages that also sees the latents. Each level's features go to the decoder through a
/// 1x1 convolution that starts at zero, so that training starts from the decoder as it is.
#[derive(Debug)]
struct Control {
    conv_in: Conv2d,
    hint: Conv2d,
    levels: Vec<Level>,
    upsamples: Vec<Upsample>,
    joins: Vec<Conv2d>,
}

impl Control {
    fn new(vs: nn::Path, config: &ContinuousConfig, digits: i64) -> Control {
        let levels = &config.control;
        let coarsest = levels.last().expect("a validated configuration has levels").width;
        Control {
            conv_in: Conv2d::new(&vs / "conv_in", digits, coarsest, 3, 1, 1.0),
            hint: Conv2d::new(&vs / "hint", config.channels, coarsest, 3, 1, 1.0),
            levels: new_levels(&vs, levels),
            upsamples: (1..levels.len())
                .map(|i| Upsample::new(&vs / "up" / (i - 1), &levels[i], &levels[i - 1]))
                .collect(),
            joins: (0..levels.len() as i64)
                .zip(levels)
                .map(|(i, level)| Conv2d::new(&vs / "join" / i, level.width, level.width, 1, 1, 0.0))
                .collect(),
        }
    }

    fn forward(&self, codes: &Tensor, latents: &Tensor, n: i64, state: &mut StreamState) -> Result<Vec<Tensor>> {
        let mut xs = self.conv_in.forward(codes)?.f_add(&self.hint.forward(latents)?)?;
        let mut joined = Vec::with_capacity(self.levels.len());
        for (i, level) in self.levels.iter().enumerate().rev() {
            xs = level.forward(xs, n, state)?;
            joined.push(self.joins[i].forward(&xs)?);
            if i > 0 {
                xs = self.upsamples[i - 1].forward(xs, n, state)?;
            }
        }
        joined.reverse();
        Ok(joined)
    }
}

impl Fusion {
    /// Networks of a validated configuration, with their weights under `vs`.
    pub fn new(vs: nn::Path, config: &ContinuousConfig, tokenizer: &TokenizerConfig) -> Fusion {
        let finer = &tokenizer.encoder[tokenizer.encoder.len() - 2];
        let encoder = &vs / "encoder";
        Fusion {
            config: config.clone(),
            encoder: Encoder {
                down: Downsample::new(&encoder / "down", finer, &config.encoder),
                level: Level::new(&encoder / "level", &config.encoder),
                norm_out: Norm::new(&encoder / "norm_out", config.encoder.width),
                // Larger than usual: latents that all round to zero get no gradient and never wake up.
                conv_out: Conv2d::new(&encoder / "conv_out", config.encoder.width, config.channels, 3, 1, 6.0),
            },
            control: Control::new(&vs / "control", config, tokenizer.fsq_levels.len() as i64),
        }
    }

    /// One step of the continuous encoder. `features`: those of
    /// [`super::Tokenizer::encode_with_features`] -> latents `[n * t', channels, h', w']` f32.
    pub fn encode(&self, features: &Tensor, n: i64, state: &mut StreamState) -> Result<Tensor> {
        state.begin_step();
        let Encoder {
            down,
            level,
            norm_out,
            conv_out,
        } = &self.encoder;
        let xs = down.forward(features.shallow_clone(), n, state)?;
        let xs = level.forward(xs, n, state)?;
        let ys = conv_out.forward(&norm_out.forward(&xs)?.f_silu()?)?;
        state.end_step();
        ys.f_to_kind(Kind::Float)
    }

    /// One step of the control branch: codes `[n * t', 6, h', w']` and latents `[n * t', channels, h', w']` ->
    /// what [`super::Tokenizer::decode_controlled`] adds to each level, in `kind`.
    pub fn control(
        &self,
        codes: &Tensor,
        latents: &Tensor,
        n: i64,
        kind: Kind,
        state: &mut StreamState,
    ) -> Result<Vec<Tensor>> {
        state.begin_step();
        let (codes, latents) = (to_channels_last(codes, kind)?, to_channels_last(latents, kind)?);
        let joined = self.control.forward(&codes, &latents, n, state)?;
        state.end_step();
        Ok(joined)
    }
}
