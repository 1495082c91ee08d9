// SPDX-License-Identifier: MPL-2.0
//! The layers of NVIDIA's Cosmos tokenizers, under NVIDIA's names.
//!
//! Features are `[n * t, c, h, w]` in channels-last memory, as in [`crate::model::layers`]; convolutions keep the five
//! axes `[c_out, c_in, t, h, w]` of the checkpoints.

use tch::{nn, Tensor};

use super::config::Resampling;
use crate::model::StreamState;

type Result<T> = std::result::Result<T, tch::TchError>;

/// Convolution over space: kernel 1 x k x k, zero padded.
#[derive(Debug)]
pub struct SpatialConv {
    weight: Tensor,
    bias: Tensor,
    padding: i64,
    stride: i64,
}

/// `weight` and `bias` under `vs.conv3d`, uniform in +-gain/sqrt(fan_in).
fn weights(vs: &nn::Path, shape: [i64; 5], gain: f64) -> (Tensor, Tensor) {
    let vs = vs / "conv3d";
    let bound = gain / ((shape[1..].iter().product::<i64>()) as f64).sqrt();
    let init = nn::Init::Uniform { lo: -bound, up: bound };
    let bias = vs.var("bias", &shape[..1], nn::Init::Const(0.0));
    (vs.var("weight", &shape, init), bias)
}

impl SpatialConv {
    /// A kernel of 1 or 3 that keeps the size.
    pub fn new(vs: nn::Path, c_in: i64, c_out: i64, kernel: i64) -> SpatialConv {
        let (weight, bias) = weights(&vs, [c_out, c_in, 1, kernel, kernel], 1.0);
        SpatialConv {
            weight,
            bias,
            padding: (kernel - 1) / 2,
            stride: 1,
        }
    }

    /// A kernel of 1 that starts at zero.
    pub fn zero(vs: nn::Path, c_in: i64, c_out: i64) -> SpatialConv {
        let (weight, bias) = weights(&vs, [c_out, c_in, 1, 1, 1], 0.0);
        SpatialConv {
            weight,
            bias,
            padding: 0,
            stride: 1,
        }
    }

    /// A kernel of 3 without padding that takes every second position.
    fn halving(vs: nn::Path, channels: i64) -> SpatialConv {
        SpatialConv {
            padding: 0,
            stride: 2,
            ..SpatialConv::new(vs, channels, channels, 3)
        }
    }

    /// `xs: [n, c_in, h, w]` -> `[n, c_out, h', w']`, in the kind of `xs`.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.f_to_kind(xs.kind())?, self.bias.f_to_kind(xs.kind())?);
        let weight = weight.f_squeeze_dim(2)?;
        xs.f_conv2d(&weight, Some(&bias), [self.stride; 2], [self.padding; 2], [1, 1], 1)
    }
}

/// Causal convolution over time: kernel 3 x 1 x 1.
#[derive(Debug)]
pub struct TemporalConv {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
}

impl TemporalConv {
    pub fn new(vs: nn::Path, c_in: i64, c_out: i64) -> TemporalConv {
        let (weight, bias) = weights(&vs, [c_out, c_in, 3, 1, 1], 1.0);
        TemporalConv {
            weight,
            bias,
            stride: 1,
        }
    }

    /// `xs: [n * t, c_in, h, w]` -> `[n * t, c_out, h, w]`; the time before the stream is its first step.
    pub fn forward(&self, xs: &Tensor, n: i64, state: &mut StreamState) -> Result<Tensor> {
        let (_, _, h, w) = xs.size4()?;
        let extended = state.extend(&by_time(xs, n)?, 2)?;
        from_time(&self.over_time(&extended)?, h, w)
    }

    /// `xs: [n, t, h * w, c_in]` -> `[n, t', h * w, c_out]` with t' = (t - 3) / stride + 1. Time and positions are a
    /// picture's two axes for it: that needs no copy of channels-last memory.
    fn over_time(&self, xs: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.f_to_kind(xs.kind())?, self.bias.f_to_kind(xs.kind())?);
        let weight = weight.f_squeeze_dim(4)?;
        xs.f_permute([0, 3, 1, 2])?
            .f_conv2d(&weight, Some(&bias), [self.stride, 1], [0, 0], [1, 1], 1)?
            .f_permute([0, 2, 3, 1])
    }
}

/// `[n * t, c, h, w]` -> `[n, t, h * w, c]`.
fn by_time(xs: &Tensor, n: i64) -> Result<Tensor> {
    let (_, c, h, w) = xs.size4()?;
    xs.f_permute([0, 2, 3, 1])?.f_reshape([n, -1, h * w, c])
}

/// Inverse of [`by_time`].
fn from_time(xs: &Tensor, h: i64, w: i64) -> Result<Tensor> {
    let c = xs.size()[3];
    xs.f_reshape([-1, h, w, c])?.f_permute([0, 3, 1, 2])
}

/// A spatial convolution and a temporal one: what stands for a 3 x 3 x 3 one.
#[derive(Debug)]
pub struct FactorisedConv(SpatialConv, TemporalConv);

impl FactorisedConv {
    pub fn new(vs: nn::Path, c_in: i64, c_out: i64) -> FactorisedConv {
        FactorisedConv(
            SpatialConv::new(&vs / 0, c_in, c_out, 3),
            TemporalConv::new(&vs / 1, c_out, c_out),
        )
    }

    pub fn forward(&self, xs: &Tensor, n: i64, state: &mut StreamState) -> Result<Tensor> {
        self.1.forward(&self.0.forward(xs)?, n, state)
    }

    /// Weights of its last part.
    pub fn weight(&self) -> &Tensor {
        &self.1.weight
    }
}

/// Group norm with one group: statistics over the channels and positions of one time step.
#[derive(Debug)]
pub struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    pub fn new(vs: nn::Path, channels: i64) -> Norm {
        let vs = vs / "norm";
        Norm {
            weight: vs.var("weight", &[channels], nn::Init::Const(1.0)),
            bias: vs.var("bias", &[channels], nn::Init::Const(0.0)),
        }
    }

    /// `xs: [n, c, h, w]`, same shape out.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.f_to_kind(xs.kind())?, self.bias.f_to_kind(xs.kind())?);
        xs.f_group_norm(1, Some(&weight), Some(&bias), 1e-6, true)
    }
}

/// `shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))`.
#[derive(Debug)]
pub struct ResBlock {
    norm1: Norm,
    conv1: FactorisedConv,
    norm2: Norm,
    conv2: FactorisedConv,
    nin_shortcut: Option<SpatialConv>,
}

impl ResBlock {
    pub fn new(vs: nn::Path, c_in: i64, c_out: i64) -> ResBlock {
        ResBlock {
            norm1: Norm::new(&vs / "norm1", c_in),
            conv1: FactorisedConv::new(&vs / "conv1", c_in, c_out),
            norm2: Norm::new(&vs / "norm2", c_out),
            conv2: FactorisedConv::new(&vs / "conv2", c_out, c_out),
            nin_shortcut: (c_in != c_out).then(|| SpatialConv::new(&vs / "nin_shortcut", c_in, c_out, 1)),
        }
    }

    pub fn forward(&self, xs: &Tensor, n: i64, state: &mut StreamState) -> Result<Tensor> {
        let hidden = self.conv1.forward(&self.norm1.forward(xs)?.f_silu()?, n, state)?;
        let hidden = self.conv2.forward(&self.norm2.forward(&hidden)?.f_silu()?, n, state)?;
        match &self.nin_shortcut {
            Some(shortcut) => shortcut.forward(xs)?.f_add(&hidden),
            None => xs.f_add(&hidden),
        }
    }
}

/// The projections of single-head attention, with a residual connection around it.
#[derive(Debug)]
struct Projections {
    norm: Norm,
    q: SpatialConv,
    k: SpatialConv,
    v: SpatialConv,
    proj_out: SpatialConv,
}

impl Projections {
    fn new(vs: nn::Path, channels: i64) -> Projections {
        let conv = |name| SpatialConv::new(&vs / name, channels, channels, 1);
        Projections {
            norm: Norm::new(&vs / "norm", channels),
            q: conv("q"),
            k: conv("k"),
            v: conv("v"),
            proj_out: conv("proj_out"),
        }
    }
}

/// Attention among the positions of one time step.
#[derive(Debug)]
pub struct SpatialAttention(Projections);

impl SpatialAttention {
    /// Scores that are held at a time, of all queries in flight: 64 MiB in f32.
    const SCORES: i64 = 1 << 24;

    pub fn new(vs: nn::Path, channels: i64) -> SpatialAttention {
        SpatialAttention(Projections::new(vs, channels))
    }

    /// `xs: [n, c, h, w]`, same shape out. Memory grows with the positions, not with their square.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = xs.size4()?;
        let normed = self.0.norm.forward(xs)?;
        let flat = |conv: &SpatialConv| by_time(&conv.forward(&normed)?, normed.size()[0]);
        let (q, k, v) = (flat(&self.0.q)?, flat(&self.0.k)?, flat(&self.0.v)?);
        let block = (Self::SCORES / (h * w)).clamp(1, h * w);
        let mut steps = Vec::new();
        for step in 0..q.size()[0] {
            let (q, k, v) = (q.f_select(0, step)?, k.f_select(0, step)?, v.f_select(0, step)?);
            steps.push(attend_in_blocks(
                &q.f_squeeze_dim(0)?,
                &k.f_squeeze_dim(0)?,
                &v.f_squeeze_dim(0)?,
                block,
            )?);
        }
        let attended = from_time(&Tensor::f_stack(&steps, 0)?.f_unsqueeze(1)?, h, w)?;
        xs.f_add(&self.0.proj_out.forward(&attended)?)
    }
}

/// Softmax attention of `q, k, v: [length, c]`, `block` queries at a time.
fn attend_in_blocks(q: &Tensor, k: &Tensor, v: &Tensor, block: i64) -> Result<Tensor> {
    let (length, channels) = q.size2()?;
    let q = q.f_mul_scalar((channels as f64).powf(-0.5))?;
    let k = k.f_transpose(0, 1)?;
    let attend = |from: i64| -> Result<Tensor> {
        let q = q.f_narrow(0, from, block.min(length - from))?;
        q.f_matmul(&k)?.f_softmax(-1, None)?.f_matmul(v)
    };
    let blocks = (0..length)
        .step_by(block as usize)
        .map(attend)
        .collect::<Result<Vec<_>>>()?;
    Tensor::f_cat(&blocks, 0)
}

/// Attention of each position to its own past, back to the start of the stream.
#[derive(Debug)]
pub struct TemporalAttention(Projections);

impl TemporalAttention {
    pub fn new(vs: nn::Path, channels: i64) -> TemporalAttention {
        TemporalAttention(Projections::new(vs, channels))
    }

    /// `xs: [n * t, c, h, w]`, same shape out; `state` keeps the keys and values of all time steps.
    pub fn forward(&self, xs: &Tensor, n: i64, state: &mut StreamState) -> Result<Tensor> {
        let (_, _, h, w) = xs.size4()?;
        let normed = self.0.norm.forward(xs)?;
        // [n, t, h * w, c]: each time step of the queries meets one of the keys at a time, so that nothing is
        // transposed to sequences of a handful of time steps.
        let q = by_time(&self.0.q.forward(&normed)?, n)?;
        let k = state.append(&by_time(&self.0.k.forward(&normed)?, n)?)?;
        let v = state.append(&by_time(&self.0.v.forward(&normed)?, n)?)?;
        let (t, past) = (q.size()[1], k.size()[1] - q.size()[1]);
        let scale = (q.size()[3] as f64).powf(-0.5);
        let mut steps = Vec::new();
        for step in 0..t {
            let query = q.f_narrow(1, step, 1)?;
            let seen = past + step + 1;
            let scores = query
                .f_mul(&k.f_narrow(1, 0, seen)?)?
                .f_sum_dim_intlist([3i64].as_slice(), true, None)?
                .f_mul_scalar(scale)?;
            let weights = scores.f_softmax(1, None)?;
            steps.push(
                weights
                    .f_mul(&v.f_narrow(1, 0, seen)?)?
                    .f_sum_dim_intlist([1i64].as_slice(), true, None)?,
            );
        }
        let attended = from_time(&Tensor::f_cat(&steps, 1)?, h, w)?;
        xs.f_add(&self.0.proj_out.forward(&attended)?)
    }
}

/// The coarsest features: a block, attention over space, attention over time, a block.
#[derive(Debug)]
pub struct Middle {
    block_1: ResBlock,
    spatial: SpatialAttention,
    temporal: TemporalAttention,
    block_2: ResBlock,
}

impl Middle {
    pub fn new(vs: nn::Path, channels: i64) -> Middle {
        Middle {
            block_1: ResBlock::new(&vs / "block_1", channels, channels),
            spatial: SpatialAttention::new(&vs / "attn_1" / 0, channels),
            temporal: TemporalAttention::new(&vs / "attn_1" / 1, channels),
            block_2: ResBlock::new(&vs / "block_2", channels, channels),
        }
    }

    pub fn forward(&self, xs: &Tensor, n: i64, state: &mut StreamState) -> Result<Tensor> {
        let xs = self.block_1.forward(xs, n, state)?;
        let xs = self.spatial.forward(&xs)?;
        let xs = self.temporal.forward(&xs, n, state)?;
        self.block_2.forward(&xs, n, state)
    }
}

/// Hybrid down-sampling: strided convolutions beside average pooling. The checkpoints have its weights between all
/// levels, even where nothing is resampled.
#[derive(Debug)]
pub struct HybridDown {
    conv1: SpatialConv,
    conv2: TemporalConv,
    conv3: SpatialConv,
    resampling: Resampling,
}

impl HybridDown {
    pub fn new(vs: nn::Path, channels: i64, resampling: Resampling) -> HybridDown {
        HybridDown {
            conv1: SpatialConv::halving(&vs / "conv1", channels),
            conv2: TemporalConv {
                stride: 2,
                ..TemporalConv::new(&vs / "conv2", channels, channels)
            },
            conv3: SpatialConv::new(&vs / "conv3", channels, channels, 1),
            resampling,
        }
    }

    /// `xs: [n * t, c, h, w]`; h and w even where space is halved, t even after the start of a stream and odd at it
    /// where time is.
    pub fn forward(&self, xs: Tensor, n: i64, state: &mut StreamState) -> Result<Tensor> {
        if self.resampling == Resampling::default() {
            return Ok(xs);
        }
        let mut xs = xs;
        if self.resampling.space {
            let padded = xs.f_constant_pad_nd([0, 1, 0, 1])?;
            // The pooling windows of an even size do not reach the padding.
            let pooled = xs.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)?;
            xs = self.conv1.forward(&padded)?.f_add(&pooled)?;
        }
        if self.resampling.time {
            let (_, _, h, w) = xs.size4()?;
            let mut steps = by_time(&xs, n)?;
            if state.is_start() {
                steps = Tensor::f_cat(&[&steps.f_narrow(1, 0, 1)?, &steps], 1)?;
            }
            let extended = state.extend(&steps, 1)?;
            let pairs = steps.f_reshape([n, -1, 2, h * w, steps.size()[3]])?;
            let pooled = pairs.f_mean_dim([2i64].as_slice(), false, None)?;
            xs = from_time(&self.conv2.over_time(&extended)?.f_add(&pooled)?, h, w)?;
        }
        self.conv3.forward(&xs)
    }
}

/// Hybrid up-sampling: repetition, and convolutions that add what it lacks.
#[derive(Debug)]
pub struct HybridUp {
    conv1: TemporalConv,
    conv2: SpatialConv,
    conv3: SpatialConv,
    resampling: Resampling,
}

impl HybridUp {
    pub fn new(vs: nn::Path, channels: i64, resampling: Resampling) -> HybridUp {
        HybridUp {
            conv1: TemporalConv::new(&vs / "conv1", channels, channels),
            conv2: SpatialConv::new(&vs / "conv2", channels, channels, 3),
            conv3: SpatialConv::new(&vs / "conv3", channels, channels, 1),
            resampling,
        }
    }

    /// `xs: [n * t, c, h, w]`. At the start of a stream the first step is not doubled in time.
    pub fn forward(&self, xs: Tensor, n: i64, state: &mut StreamState) -> Result<Tensor> {
        if self.resampling == Resampling::default() {
            return Ok(xs);
        }
        let mut xs = xs;
        if self.resampling.time {
            let (_, _, h, w) = xs.size4()?;
            let mut steps = by_time(&xs, n)?.f_repeat_interleave_self_int(2, 1, None)?;
            if state.is_start() {
                steps = steps.f_narrow(1, 1, steps.size()[1] - 1)?;
            }
            let doubled = from_time(&steps, h, w)?;
            xs = self.conv1.forward(&doubled, n, state)?.f_add(&doubled)?;
        }
        if self.resampling.space {
            let (_, _, h, w) = xs.size4()?;
            let doubled = xs.f_upsample_nearest2d([2 * h, 2 * w], None, None)?;
            xs = self.conv2.forward(&doubled)?.f_add(&doubled)?;
        }
        self.conv3.forward(&xs)
    }
}
