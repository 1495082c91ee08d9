// SPDX-License-Identifier: MPL-2.0
//! Causal layers and the state that makes them stream.
//!
//! Features are `[n * t, c, h, w]`, `n` clips of `t` time steps, in channels-last memory: that is what
//! oneDNN's and cuDNN's fast bf16 convolutions take without a copy.

use tch::{nn, Kind, Tensor};

use super::config::LevelConfig;
use super::fused::{Fused, FusedConv, FusedTemporal, FusedUpsample, Layers, TemporalLayers, UpsampleLayers};
use super::moved::{seen, Moved};
use crate::bitstream::{MotionField, View, Window};

type Result<T> = std::result::Result<T, tch::TchError>;

/// What the causal layers of one network remember between two steps of a stream.
///
/// Layers run in a fixed order, so the state is a list that each of them takes its turn in.
#[derive(Debug, Default)]
pub struct StreamState {
    /// `None`: forgotten, see [`Self::forget_rest`].
    caches: Vec<Option<Tensor>>,
    next: usize,
    started: bool,
    recorded: Option<Vec<Tensor>>,
}

impl StreamState {
    /// Of a stream whose features are to be looked at: see [`Self::take_recorded`].
    pub fn recording() -> StreamState {
        StreamState {
            recorded: Some(vec![]),
            ..StreamState::default()
        }
    }

    /// What went into each block and came out of each level, in the order of the network; nothing but for [`Self::recording`].
    pub fn take_recorded(&mut self) -> Vec<Tensor> {
        self.recorded.take().unwrap_or_default()
    }

    pub(super) fn record(&mut self, xs: &Tensor) {
        if let Some(recorded) = &mut self.recorded {
            // Blocks may use the memory of their input for their output, but never where a gradient will be asked for.
            recorded.push(match xs.requires_grad() {
                true => xs.shallow_clone(),
                false => xs.copy(),
            });
        }
    }

    /// True until the first step of the stream has ended.
    pub fn is_start(&self) -> bool {
        !self.started
    }

    /// To be called before the layers of a step run.
    pub fn begin_step(&mut self) {
        self.next = 0;
    }

    /// To be called after the layers of a step have run.
    pub fn end_step(&mut self) {
        self.started = true;
    }

    /// The last `keep` time steps before `xs: [n, t, ...]`, and remembers those with it. At the start of a stream, and where it was
    /// forgotten, the past is copies of the first time step.
    pub(super) fn remember_last(&mut self, xs: &Tensor, keep: i64) -> Result<Tensor> {
        let past = match self.remembered() {
            Some(cache) => cache.shallow_clone(),
            None => {
                let mut shape = xs.size();
                shape[1] = keep;
                xs.f_narrow(1, 0, 1)?.f_expand(&shape, false)?
            }
        };
        let t = xs.size()[1];
        let last = match t >= keep {
            true => xs.f_narrow(1, t - keep, keep)?.f_detach()?,
            false => Tensor::f_cat(&[&past.f_narrow(1, t, keep - t)?, xs], 1)?.f_detach()?,
        };
        self.remember(last);
        Ok(past)
    }

    /// Puts the last `keep` time steps of the past before `xs: [n, t, ...]`: see [`Self::remember_last`].
    pub(super) fn extend(&mut self, xs: &Tensor, keep: i64) -> Result<Tensor> {
        Tensor::f_cat(&[&self.remember_last(xs, keep)?, xs], 1)
    }

    /// Puts all time steps of the past before `xs: [n, t, ...]` and remembers them all.
    pub(super) fn append(&mut self, xs: &Tensor) -> Result<Tensor> {
        let all = match self.remembered() {
            Some(cache) => Tensor::f_cat(&[cache, xs], 1)?,
            None => xs.shallow_clone(),
        };
        self.remember(all.f_detach()?);
        Ok(all)
    }

    /// Goes on in another window: what is remembered moves with the world, and repeats its edge where nothing is. `view`: of the token map. Not
    /// for Cosmos, whose layers remember whole pictures.
    pub fn look(&mut self, view: &View) -> Result<()> {
        for cache in self.caches.iter_mut().flatten() {
            // `[.., h, w, channels]`
            let rows = cache.dim() as i64 - 3;
            let times = cache.size()[rows as usize] as usize / view.map_size().1;
            *cache = seen(cache, rows, &view.enlarged(times))?;
        }
        Ok(())
    }

    /// Moves with what a unit's window shows.
    pub fn follow(&mut self, field: &MotionField, window: &Window) -> Result<()> {
        let mut levels: Vec<(usize, Moved)> = vec![];
        for cache in self.caches.iter_mut().flatten() {
            let rows = cache.dim() as i64 - 3;
            let times = cache.size()[rows as usize] as usize / window.tokens().1;
            if !levels.iter().any(|(each, _)| *each == times) {
                levels.push((times, Moved::new(field, window, times, cache.device())?));
            }
            for (_, moved) in levels.iter().filter(|(each, _)| *each == times) {
                *cache = moved.of(cache, rows)?;
            }
        }
        Ok(())
    }

    /// Forgets what the layers that have not run in this step remember: for them the next step is the first one.
    pub(super) fn forget_rest(&mut self) {
        self.caches[self.next..].fill_with(|| None);
    }

    /// What the layer whose turn it is remembers.
    fn remembered(&self) -> Option<&Tensor> {
        self.caches.get(self.next)?.as_ref()
    }

    /// The same for a layer that uses its memory up.
    fn take_remembered(&mut self) -> Option<Tensor> {
        self.caches.get_mut(self.next)?.take()
    }

    fn remember(&mut self, cache: Tensor) {
        match self.caches.get_mut(self.next) {
            Some(place) => *place = Some(cache),
            None => self.caches.push(Some(cache)),
        }
        self.next += 1;
    }
}

/// A convolution over space, zero padded at the sides.
#[derive(Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: i64,
}

impl Conv2d {
    /// `weight: [c_out, c_in, kernel, kernel]`, uniform in +-gain/sqrt(fan_in); a gain of 0 starts at zero.
    pub fn new(vs: nn::Path, c_in: i64, c_out: i64, kernel: i64, stride: i64, gain: f64) -> Conv2d {
        let bound = gain / ((c_in * kernel * kernel) as f64).sqrt();
        let init = nn::Init::Uniform { lo: -bound, up: bound };
        Conv2d {
            weight: vs.var("weight", &[c_out, c_in, kernel, kernel], init),
            bias: vs.var("bias", &[c_out], nn::Init::Const(0.0)),
            stride,
            padding: if stride == 1 { (kernel - 1) / 2 } else { 0 },
        }
    }

    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Weight and bias.
    pub(super) fn parameters(&self) -> (&Tensor, &Tensor) {
        (&self.weight, &self.bias)
    }

    /// `xs: [n, c_in, h, w]` -> `[n, c_out, h / stride, w / stride]`, in the kind of `xs`.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        // Weights stay in f32 while they are trained; this is a no-op on a model loaded for use.
        let (weight, bias) = (self.weight.f_to_kind(xs.kind())?, self.bias.f_to_kind(xs.kind())?);
        if weight.size()[2] == 1 && self.stride == 1 {
            return pointwise(xs, &weight, &bias);
        }
        xs.f_conv2d(&weight, Some(&bias), [self.stride; 2], [self.padding; 2], [1, 1], 1)
    }
}

/// A 1x1 convolution as the product of matrices that it is in channels-last memory: with a single thread libtorch would copy `xs` first.
/// `xs: [n, c_in, h, w]`, `weight: [c_out, c_in, 1, 1]`.
fn pointwise(xs: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let weight = weight.f_flatten(1, -1)?;
    let ys = xs.f_permute([0, 2, 3, 1])?.f_linear(&weight, Some(bias))?;
    ys.f_permute([0, 3, 1, 2])
}

/// `xs` and what a 1x1 convolution makes of `hidden`, added up while the product is made: a pass over memory less than a sum afterwards.
/// `xs: [n, c_out, h, w]`, `hidden: [n, c_in, h, w]`.
fn add_pointwise(xs: &Tensor, hidden: &Tensor, conv: &Conv2d) -> Result<Tensor> {
    let (n, c, h, w) = xs.size4()?;
    let (weight, bias) = (conv.weight.f_to_kind(xs.kind())?, conv.bias.f_to_kind(xs.kind())?);
    let rows = |xs: &Tensor| xs.f_permute([0, 2, 3, 1])?.f_reshape([n * h * w, -1]);
    let (hidden, weight) = (rows(hidden)?, weight.f_flatten(1, -1)?.f_tr()?);
    let mut sum = rows(xs)?.f_add(&bias)?;
    let sum = match sum.requires_grad() || hidden.requires_grad() {
        true => sum.f_addmm(&hidden, &weight)?,
        false => sum.f_addmm_(&hidden, &weight)?,
    };
    sum.f_view([n, h, w, c])?.f_permute([0, 3, 1, 2])
}

/// SiLU, in the memory of `xs` where no gradient will ask for it: fresh memory costs more than the arithmetic.
pub fn silu(mut xs: Tensor) -> Result<Tensor> {
    match xs.requires_grad() {
        true => xs.f_silu(),
        false => xs.f_silu_(),
    }
}

/// `xs + ys`, in the memory of `ys` where no gradient will ask for it.
pub fn add(xs: &Tensor, mut ys: Tensor) -> Result<Tensor> {
    match ys.requires_grad() || xs.requires_grad() {
        true => xs.f_add(&ys),
        false => ys.f_add_(xs),
    }
}

/// Layer norm over the channels of each position: no statistics over space, so no seams, and one fused
/// kernel on every device.
#[derive(Debug)]
pub struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    pub fn new(vs: nn::Path, channels: i64) -> Norm {
        Norm {
            weight: vs.var("weight", &[channels], nn::Init::Const(1.0)),
            bias: vs.var("bias", &[channels], nn::Init::Const(0.0)),
        }
    }

    /// Weight and bias.
    pub(super) fn parameters(&self) -> (&Tensor, &Tensor) {
        (&self.weight, &self.bias)
    }

    /// `xs: [n, c, h, w]`, same shape out.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.forward_last(&xs.f_permute([0, 2, 3, 1])?)?.f_permute([0, 3, 1, 2])
    }

    /// `xs: [..., c]`, same shape out.
    pub fn forward_last(&self, xs: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.f_to_kind(xs.kind())?, self.bias.f_to_kind(xs.kind())?);
        xs.f_layer_norm(weight.size(), Some(&weight), Some(&bias), 1e-5, true)
    }
}

/// Residual block in space: `x + conv1x1(silu(conv3x3(norm(x))))`.
#[derive(Debug)]
pub struct SpatialBlock {
    norm: Norm,
    conv1: Conv2d,
    conv2: Conv2d,
    fused: Fused<FusedConv>,
}

impl SpatialBlock {
    fn new(vs: nn::Path, width: i64, hidden: i64) -> Self {
        SpatialBlock {
            norm: Norm::new(&vs / "norm", width),
            conv1: Conv2d::new(&vs / "conv1", width, hidden, 3, 1, 1.0),
            conv2: Conv2d::new(&vs / "conv2", hidden, width, 1, 1, 0.0),
            fused: Fused::default(),
        }
    }

    fn layers(&self) -> Layers<'_> {
        Layers {
            norm: self.norm.parameters(),
            silu_before: false,
            conv: self.conv1.parameters(),
            silu_after: true,
            product: Some(self.conv2.parameters()),
            residual: true,
        }
    }

    /// `xs` is used up: its memory may hold the output.
    fn forward(&self, xs: Tensor) -> Result<Tensor> {
        match self.fused.get(|| FusedConv::new(&self.layers())) {
            Some(fused) => fused.forward(xs),
            None => add_pointwise(&xs, &self.hidden(&xs)?, &self.conv2),
        }
    }

    fn hidden(&self, xs: &Tensor) -> Result<Tensor> {
        silu(self.conv1.forward(&self.norm.forward(xs)?)?)
    }
}

/// Residual block in time: `x_t + silu-gated map of norm(x)_{t-2}, norm(x)_{t-1}, norm(x)_t`.
#[derive(Debug)]
pub struct TemporalBlock {
    norm: Norm,
    conv1: Conv2d,
    conv2: Conv2d,
    fused: Fused<FusedTemporal>,
}

impl TemporalBlock {
    /// Time steps of the past that a step sees.
    const PAST: i64 = 2;

    fn new(vs: nn::Path, width: i64, hidden: i64) -> Self {
        TemporalBlock {
            norm: Norm::new(&vs / "norm", width),
            // Inputs: those of the oldest time step, then those of the next one.
            conv1: Conv2d::new(&vs / "conv1", (Self::PAST + 1) * width, hidden, 1, 1, 1.0),
            conv2: Conv2d::new(&vs / "conv2", hidden, width, 1, 1, 0.0),
            fused: Fused::default(),
        }
    }

    fn layers(&self) -> TemporalLayers<'_> {
        TemporalLayers {
            norm: self.norm.parameters(),
            conv: self.conv1.parameters(),
            product: self.conv2.parameters(),
        }
    }

    /// `xs` is used up: its memory may hold the output.
    fn forward(&self, xs: Tensor, n: i64, state: &mut StreamState) -> Result<Tensor> {
        if let Some(fused) = self.fused.get(|| FusedTemporal::new(&self.layers())) {
            let (ys, pending) = fused.forward(xs, n, state.take_remembered())?;
            state.remember(pending);
            return Ok(ys);
        }
        add_pointwise(&xs, &self.hidden(&xs, n, state)?, &self.conv2)
    }

    /// What a time step gives to the one two later, to the next and to itself is computed and remembered once; joining the channels
    /// of three time steps first would be the same sum from three times as much memory.
    fn hidden(&self, xs: &Tensor, n: i64, state: &mut StreamState) -> Result<Tensor> {
        let (_, width, h, w) = xs.size4()?;
        let hidden = self.conv1.weight.size()[0];
        let weight = self
            .conv1
            .weight
            .f_view([hidden, Self::PAST + 1, width])?
            .f_permute([1, 0, 2])?
            .f_reshape([-1, width])?
            .f_to_kind(xs.kind())?;
        let given = self
            .norm
            .forward_last(&xs.f_permute([0, 2, 3, 1])?)?
            .f_linear(&weight, None::<&Tensor>)?
            .f_reshape([n, -1, h, w, (Self::PAST + 1) * hidden])?;
        let t = given.size()[1];
        let past = state.remember_last(&given, Self::PAST)?;
        // What was given `k` steps ago for now, where the first steps are of the past.
        let delayed = |k: i64| -> Result<Tensor> {
            let part = |xs: &Tensor| xs.f_narrow(4, (Self::PAST - k) * hidden, hidden);
            let old = part(&past)?.f_narrow(1, Self::PAST - k, k.min(t))?;
            match t > k {
                true => Tensor::f_cat(&[old, part(&given)?.f_narrow(1, 0, t - k)?], 1),
                false => Ok(old),
            }
        };
        let bias = self.conv1.bias.f_to_kind(xs.kind())?;
        let mut sum = given.f_narrow(4, Self::PAST * hidden, hidden)?.f_add(&bias)?;
        for k in 1..=Self::PAST {
            sum = add(&delayed(k)?, sum)?;
        }
        silu(sum.f_reshape([n * t, h, w, hidden])?.f_permute([0, 3, 1, 2])?)
    }
}

/// A residual block on its own.
#[derive(Debug)]
pub enum Block {
    Spatial(SpatialBlock),
    Temporal(TemporalBlock),
}

impl Block {
    pub fn spatial(vs: nn::Path, width: i64, hidden: i64) -> Block {
        Block::Spatial(SpatialBlock::new(vs, width, hidden))
    }

    pub fn temporal(vs: nn::Path, width: i64, hidden: i64) -> Block {
        Block::Temporal(TemporalBlock::new(vs, width, hidden))
    }

    /// What its last convolution sees at the start of `n` streams: `xs: [n * t, width, h, w]` -> `[n * t, hidden, h, w]`.
    pub fn hidden(&self, xs: &Tensor, n: i64) -> Result<Tensor> {
        match self {
            Block::Spatial(block) => block.hidden(xs),
            Block::Temporal(block) => block.hidden(xs, n, &mut StreamState::default()),
        }
    }
}

/// Which time steps of a step of a stream come out of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeSteps {
    #[default]
    All,
    /// The last one. The layers behind the last that looks back see no other; what is remembered is the same.
    Last,
}

impl TimeSteps {
    /// `xs: [n * t, c, h, w]` -> these time steps of it.
    fn of(self, xs: &Tensor, n: i64) -> Result<Tensor> {
        let (nt, c, h, w) = xs.size4()?;
        if self == TimeSteps::All || nt == n {
            return Ok(xs.shallow_clone());
        }
        let last = xs
            .f_permute([0, 2, 3, 1])?
            .f_reshape([n, -1, h, w, c])?
            .f_select(1, -1)?;
        last.f_permute([0, 3, 1, 2])
    }
}

/// The blocks of one resolution.
#[derive(Debug)]
pub struct Level {
    spatial: Vec<SpatialBlock>,
    temporal: Vec<TemporalBlock>,
}

impl Level {
    pub fn new(vs: nn::Path, config: &LevelConfig) -> Level {
        let (width, hidden) = (config.width, config.hidden);
        Level {
            spatial: (0..config.blocks)
                .map(|i| SpatialBlock::new(&vs / "spatial" / i, width, hidden))
                .collect(),
            temporal: (0..config.temporal_blocks)
                .map(|i| TemporalBlock::new(&vs / "temporal" / i, width, hidden))
                .collect(),
        }
    }

    /// To be called when the weights are final: see [`Fused`].
    pub fn freeze(&mut self) {
        self.spatial.iter_mut().for_each(|block| block.fused.allow());
        self.temporal.iter_mut().for_each(|block| block.fused.allow());
    }

    /// `xs: [n * t, width, h, w]`, same shape out. `xs` is used up: its memory may hold the output, so nobody else may look at it.
    pub fn forward(&self, xs: Tensor, n: i64, state: &mut StreamState) -> Result<Tensor> {
        self.forward_steps(xs, n, TimeSteps::All, state)
    }

    /// [`Self::forward`] of some of the time steps.
    pub fn forward_steps(&self, xs: Tensor, n: i64, steps: TimeSteps, state: &mut StreamState) -> Result<Tensor> {
        let mut xs = xs;
        for (i, block) in self.spatial.iter().enumerate() {
            if i == self.temporal.len() {
                xs = steps.of(&xs, n)?;
            }
            state.record(&xs);
            xs = block.forward(xs)?;
            if let Some(temporal) = self.temporal.get(i) {
                state.record(&xs);
                xs = temporal.forward(xs, n, state)?;
            }
        }
        match self.spatial.len() > self.temporal.len() {
            true => Ok(xs),
            false => steps.of(&xs, n),
        }
    }
}

/// The levels of a network, under `level.0`, `level.1` ...
pub fn new_levels(vs: &nn::Path, levels: &[LevelConfig]) -> Vec<Level> {
    let new = |(i, level)| Level::new(vs / "level" / i, level);
    levels.iter().enumerate().map(new).collect()
}

/// From one resolution to the next coarser one: groups of 1 or 2 time steps by 1x1 or 2x2 positions.
#[derive(Debug)]
pub struct Downsample {
    conv: Conv2d,
    time: i64,
}

impl Downsample {
    pub fn new(vs: nn::Path, from: &LevelConfig, to: &LevelConfig) -> Downsample {
        let (time, space) = (1 + i64::from(from.halve_time), 1 + i64::from(from.halve_space));
        Downsample {
            conv: Conv2d::new(vs / "conv", time * from.width, to.width, space, space, 1.0),
            time,
        }
    }

    /// `xs: [n * t, c, h, w]`. At the start of a stream the first time step counts twice, so that it stands
    /// alone and the following ones pair up.
    pub fn forward(&self, xs: Tensor, n: i64, state: &StreamState) -> Result<Tensor> {
        if self.time == 1 {
            return self.conv.forward(&xs);
        }
        let (_, c, h, w) = xs.size4()?;
        let mut xs = xs.f_permute([0, 2, 3, 1])?.f_reshape([n, -1, h, w, c])?;
        if state.is_start() {
            xs = Tensor::f_cat(&[&xs.f_narrow(1, 0, 1)?, &xs], 1)?;
        }
        let joined = xs
            .f_reshape([-1, 2, h, w, c])?
            .f_permute([0, 2, 3, 1, 4])?
            .f_reshape([-1, h, w, 2 * c])?
            .f_permute([0, 3, 1, 2])?;
        self.conv.forward(&joined)
    }
}

/// From one resolution to the next finer one: a 1x1 convolution whose channels become time and space.
#[derive(Debug)]
pub struct Upsample {
    conv: Conv2d,
    time: i64,
    space: i64,
    width: i64,
    fused: Fused<FusedUpsample>,
}

impl Upsample {
    pub fn new(vs: nn::Path, from: &LevelConfig, to: &LevelConfig) -> Upsample {
        let (time, space) = (1 + i64::from(to.halve_time), 1 + i64::from(to.halve_space));
        Upsample {
            conv: Conv2d::new(vs / "conv", from.width, time * space * space * to.width, 1, 1, 1.0),
            time,
            space,
            width: to.width,
            fused: Fused::default(),
        }
    }

    /// To be called when the weights are final: see [`Fused`].
    pub fn freeze(&mut self) {
        self.fused.allow();
    }

    fn layers(&self) -> UpsampleLayers<'_> {
        UpsampleLayers {
            conv: self.conv.parameters(),
            time: self.time,
            space: self.space,
            width: self.width,
        }
    }

    /// `xs: [n * t, c, h, w]`. At the start of a stream the first of the doubled time steps is dropped: the
    /// mirror of [`Downsample::forward`].
    pub fn forward(&self, xs: Tensor, n: i64, state: &StreamState) -> Result<Tensor> {
        if let Some(fused) = self.fused.get(|| FusedUpsample::new(&self.layers())) {
            let dropped = if state.is_start() { self.time - 1 } else { 0 };
            return fused.forward(&xs, n, dropped);
        }
        let (_, _, h, w) = xs.size4()?;
        let (kt, ks, c) = (self.time, self.space, self.width);
        let ys = self
            .conv
            .forward(&xs)?
            .f_permute([0, 2, 3, 1])?
            .f_reshape([n, -1, h, w, kt, ks, ks, c])?
            .f_permute([0, 1, 4, 2, 5, 3, 6, 7])?
            .f_reshape([n, -1, h * ks, w * ks, c])?;
        let ys = if kt > 1 && state.is_start() {
            ys.f_narrow(1, kt - 1, ys.size()[1] - (kt - 1))?
        } else {
            ys
        };
        ys.f_reshape([-1, h * ks, w * ks, c])?.f_permute([0, 3, 1, 2])
    }
}

/// The values of a tensor, row by row, as f32 on the processor.
pub fn values(xs: &Tensor) -> Result<Vec<f32>> {
    let xs = xs
        .f_to_kind(Kind::Float)?
        .f_to_device(tch::Device::Cpu)?
        .f_contiguous()?;
    let mut values = vec![0.0; xs.numel()];
    xs.f_copy_data(&mut values, xs.numel())?;
    Ok(values)
}

/// Channels-last copy of `xs: [n, c, h, w]` in `kind`.
pub fn to_channels_last(xs: &Tensor, kind: Kind) -> Result<Tensor> {
    xs.f_permute([0, 2, 3, 1])?
        .f_to_kind(kind)?
        .f_contiguous()?
        .f_permute([0, 3, 1, 2])
}
