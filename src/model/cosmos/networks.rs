// SPDX-License-Identifier: MPL-2.0
//! Encoder and decoder of NVIDIA's Cosmos tokenizers.

use tch::{nn, Tensor};

use super::config::{CosmosConfig, PATCH_CHANNELS};
use super::layers::{FactorisedConv, HybridDown, HybridUp, Middle, Norm, ResBlock, SpatialConv};
use crate::model::StreamState;

type Result<T> = std::result::Result<T, tch::TchError>;

/// Haar patches to what is quantised: `encoder.*` and `quant_conv`.
#[derive(Debug)]
pub struct Encoder {
    conv_in: FactorisedConv,
    levels: Vec<Vec<ResBlock>>,
    downsamples: Vec<HybridDown>,
    middle: Middle,
    norm_out: Norm,
    conv_out: FactorisedConv,
    quant_conv: SpatialConv,
}

impl Encoder {
    /// `embedding`: channels that come out.
    pub fn new(vs: nn::Path, config: &CosmosConfig, embedding: i64) -> Encoder {
        let root = &vs / "encoder";
        let widths: Vec<i64> = config.encoder.iter().map(|m| m * config.channels).collect();
        let coarsest = *widths.last().expect("a validated configuration has levels");
        let level = |(i, &width): (usize, &i64)| {
            let before = if i == 0 { config.channels } else { widths[i - 1] };
            new_blocks(&root / "down" / i / "block", before, width, config.blocks)
        };
        let downsample = |(i, resampling)| HybridDown::new(&root / "down" / i / "downsample", widths[i], resampling);
        Encoder {
            conv_in: FactorisedConv::new(&root / "conv_in", PATCH_CHANNELS, config.channels),
            levels: widths.iter().enumerate().map(level).collect(),
            downsamples: config.downsamplings().into_iter().enumerate().map(downsample).collect(),
            middle: Middle::new(&root / "mid", coarsest),
            norm_out: Norm::new(&root / "norm_out", coarsest),
            conv_out: FactorisedConv::new(&root / "conv_out", coarsest, config.z_channels),
            quant_conv: SpatialConv::new(&vs / "quant_conv", config.z_channels, embedding, 1),
        }
    }

    /// `patches: [n * t, 192, h, w]` -> `[n * t', embedding, h', w']`.
    pub fn forward(&self, patches: &Tensor, n: i64, state: &mut StreamState) -> Result<Tensor> {
        let mut xs = self.conv_in.forward(patches, n, state)?;
        for (i, level) in self.levels.iter().enumerate() {
            for block in level {
                xs = block.forward(&xs, n, state)?;
            }
            if let Some(down) = self.downsamples.get(i) {
                xs = down.forward(xs, n, state)?;
            }
        }
        let xs = self.middle.forward(&xs, n, state)?;
        let xs = self
            .conv_out
            .forward(&self.norm_out.forward(&xs)?.f_silu()?, n, state)?;
        self.quant_conv.forward(&xs)
    }
}

fn new_blocks(vs: nn::Path, before: i64, width: i64, count: i64) -> Vec<ResBlock> {
    (0..count)
        .map(|i| ResBlock::new(&vs / i, if i == 0 { before } else { width }, width))
        .collect()
}

/// The decoder up to its finest features: `post_quant_conv` and `decoder.*` without its output layers. The control
/// branch is a second one.
#[derive(Debug)]
pub struct DecoderTrunk {
    post_quant_conv: SpatialConv,
    conv_in: FactorisedConv,
    middle: Middle,
    levels: Vec<Vec<ResBlock>>,
    upsamples: Vec<HybridUp>,
}

impl DecoderTrunk {
    /// `blocks`: residual blocks of a level.
    pub fn new(vs: nn::Path, config: &CosmosConfig, embedding: i64, blocks: i64) -> DecoderTrunk {
        let root = &vs / "decoder";
        let widths = decoder_widths(config);
        let coarsest = *widths.last().expect("a validated configuration has levels");
        let level = |(i, &width): (usize, &i64)| {
            let before = widths.get(i + 1).copied().unwrap_or(coarsest);
            new_blocks(&root / "up" / i / "block", before, width, blocks)
        };
        let upsample = |(i, resampling)| {
            let width = widths[i + 1];
            HybridUp::new(&root / "up" / (i + 1) / "upsample", width, resampling)
        };
        DecoderTrunk {
            post_quant_conv: SpatialConv::new(&vs / "post_quant_conv", embedding, config.z_channels, 1),
            conv_in: FactorisedConv::new(&root / "conv_in", config.z_channels, coarsest),
            middle: Middle::new(&root / "mid", coarsest),
            levels: widths.iter().enumerate().map(level).collect(),
            upsamples: config.upsamplings().into_iter().enumerate().map(upsample).collect(),
        }
    }

    /// `codes: [n * t', embedding, h', w']` -> the finest features. `hint` is added to the coarsest features before
    /// the middle; `each` may change the features of each level, the coarsest coming first.
    pub fn forward(
        &self,
        codes: &Tensor,
        hint: Option<&Tensor>,
        n: i64,
        state: &mut StreamState,
        mut each: impl FnMut(usize, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut xs = self.conv_in.forward(&self.post_quant_conv.forward(codes)?, n, state)?;
        if let Some(hint) = hint {
            xs = xs.f_add(hint)?;
        }
        xs = self.middle.forward(&xs, n, state)?;
        for (i, level) in self.levels.iter().enumerate().rev() {
            for block in level {
                xs = block.forward(&xs, n, state)?;
            }
            xs = each(i, xs)?;
            if i > 0 {
                xs = self.upsamples[i - 1].forward(xs, n, state)?;
            }
        }
        Ok(xs)
    }
}

/// Widths of the decoder's levels, the finest first.
pub fn decoder_widths(config: &CosmosConfig) -> Vec<i64> {
    config.decoder.iter().map(|m| m * config.channels).collect()
}

/// Codes or latents to Haar patches.
#[derive(Debug)]
pub struct Decoder {
    trunk: DecoderTrunk,
    norm_out: Norm,
    conv_out: FactorisedConv,
}

impl Decoder {
    /// `embedding`: channels of the codes.
    pub fn new(vs: nn::Path, config: &CosmosConfig, embedding: i64) -> Decoder {
        let root = &vs / "decoder";
        let finest = decoder_widths(config)[0];
        Decoder {
            trunk: DecoderTrunk::new(vs.clone(), config, embedding, config.blocks + 1),
            norm_out: Norm::new(&root / "norm_out", finest),
            conv_out: FactorisedConv::new(&root / "conv_out", finest, PATCH_CHANNELS),
        }
    }

    /// Weights of the last layer.
    pub fn last_weight(&self) -> &Tensor {
        self.conv_out.weight()
    }

    /// `codes: [n * t', embedding, h', w']` -> patches `[n * t, 192, h, w]`. `control`: what is added to each level's
    /// features, the finest first; empty = nothing.
    pub fn forward(&self, codes: &Tensor, control: &[Tensor], n: i64, state: &mut StreamState) -> Result<Tensor> {
        let add = |i: usize, xs: Tensor| match control.get(i) {
            Some(addend) => xs.f_add(addend),
            None => Ok(xs),
        };
        let xs = self.trunk.forward(codes, None, n, state, add)?;
        self.conv_out.forward(&self.norm_out.forward(&xs)?.f_silu()?, n, state)
    }
}

/// A copy of the decoder's stages that also sees the latents; each level's features go to the decoder through a 1x1
/// convolution that starts at zero.
#[derive(Debug)]
pub struct Control {
    hint: SpatialConv,
    trunk: DecoderTrunk,
    joins: Vec<SpatialConv>,
}

impl Control {
    /// `config`: the decoder's; `blocks`: residual blocks of a level; `latents`, `embedding`: channels of latents and
    /// codes.
    pub fn new(vs: nn::Path, config: &CosmosConfig, blocks: i64, latents: i64, embedding: i64) -> Control {
        let widths = decoder_widths(config);
        let coarsest = *widths.last().expect("a validated configuration has levels");
        let join = |(i, &width): (usize, &i64)| SpatialConv::zero(&vs / "join" / i, width, width);
        Control {
            hint: SpatialConv::new(&vs / "hint", latents, coarsest, 3),
            joins: widths.iter().enumerate().map(join).collect(),
            trunk: DecoderTrunk::new(vs, config, embedding, blocks),
        }
    }

    /// Codes `[n * t', embedding, h', w']` and latents beside them -> what is added to each level of the decoder, the
    /// finest first.
    pub fn forward(&self, codes: &Tensor, latents: &Tensor, n: i64, state: &mut StreamState) -> Result<Vec<Tensor>> {
        let hint = self.hint.forward(latents)?;
        let mut joined = Vec::with_capacity(self.joins.len());
        let _finest = self.trunk.forward(codes, Some(&hint), n, state, |i, xs| {
            joined.push(self.joins[i].forward(&xs)?);
            Ok(xs)
        })?;
        joined.reverse();
        Ok(joined)
    }
}
