// SPDX-License-Identifier: MPL-2.0
//! Blocks in time: a position sees itself and the two time steps before.

use pulp::{Arch, Simd, WithSimd};
use tch::{Device, Kind, Tensor};

use super::elementwise::{self, Norm};
use super::matrix::PackedMatrix;
use super::{as_mut_slice, as_slice, channels_last, instructions_for, run_all, values, Lanes, Result, WORTH_A_THREAD};

/// Time steps that a step adds to: itself and two later ones.
const STEPS: usize = 3;
/// Positions that go through all layers at a time.
const POSITIONS: usize = 48;

/// The layers that become one: `y = x + product(silu(conv(norm(x) of this time step and the two before)))`.
#[derive(Debug)]
pub struct TemporalLayers<'a> {
    /// Weight and bias of a layer norm over the channels, `[c]` each.
    pub norm: (&'a Tensor, &'a Tensor),
    /// Weight `[hidden, 3 c, 1, 1]`, inputs of the oldest time step first, and bias `[hidden]`.
    pub conv: (&'a Tensor, &'a Tensor),
    /// Weight `[c, hidden, 1, 1]` and bias `[c]`.
    pub product: (&'a Tensor, &'a Tensor),
}

/// Layers made ready.
#[derive(Debug)]
pub struct FusedTemporal {
    arch: Arch,
    norm: Norm,
    /// `[c, 3 hidden]`: what a time step gives to the one two later, to the next and to itself.
    conv: PackedMatrix,
    bias: Vec<f32>,
    product: PackedMatrix,
    product_bias: Vec<f32>,
}

impl FusedTemporal {
    /// `None` as for [`super::FusedConv::new`].
    pub fn new(layers: &TemporalLayers) -> Result<Option<FusedTemporal>> {
        let (c, hidden, _, _) = layers.product.0.size4()?;
        let arch = instructions_for(layers.conv.0, &[c, hidden]);
        arch.map(|arch| FusedTemporal::with(layers, arch)).transpose()
    }

    pub(super) fn with(layers: &TemporalLayers, arch: Arch) -> Result<FusedTemporal> {
        let lanes = arch.dispatch(Lanes);
        let (c, hidden, _, _) = layers.product.0.size4()?;
        let (c, hidden) = (c as usize, hidden as usize);
        let (conv, product) = (values(layers.conv.0)?, values(layers.product.0)?);
        Ok(FusedTemporal {
            arch,
            norm: Norm::new(values(layers.norm.0)?, values(layers.norm.1)?),
            conv: PackedMatrix::new((c, STEPS * hidden), lanes, |i, o| {
                conv[o % hidden * STEPS * c + o / hidden * c + i]
            }),
            bias: values(layers.conv.1)?,
            product: PackedMatrix::new((hidden, c), lanes, |i, o| product[o * hidden + i]),
            product_bias: values(layers.product.1)?,
        })
    }

    /// `xs: [n * t, c, h, w]` f32 of `n` streams, best in channels-last memory. `pending: [n, h, w, 2 hidden]` is what earlier time steps
    /// give to the first of these and to the one after it, before the bias; `None` at the start of a stream, where the past is copies of
    /// the first time step. -> `[n * t, c, h, w]` in channels-last memory, and what these and earlier ones give to later time steps.
    pub fn forward(&self, xs: &Tensor, n: i64, pending: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let xs = channels_last(xs, self.norm.channels())?;
        let (nt, h, w, c) = xs.size4()?;
        let wide = 2 * self.bias.len() as i64;
        if pending.is_some_and(|pending| pending.size() != [n, h, w, wide]) || nt % n != 0 {
            return Err(tch::TchError::Shape(format!(
                "{:?} of {n} streams after {:?}",
                xs.size(),
                pending.map(Tensor::size)
            )));
        }
        let empty = |shape: [i64; 4]| Tensor::f_empty(shape, (Kind::Float, Device::Cpu));
        let (mut ys, mut later) = (empty([nt, h, w, c])?, empty([n, h, w, wide])?);
        let shape = (n as usize, (nt / n) as usize, (h * w) as usize);
        let threads = tch::get_num_threads().max(1) as usize;
        let pending = pending.map(as_slice);
        let out = (as_mut_slice(&mut ys), as_mut_slice(&mut later));
        self.run(as_slice(&xs), pending, shape, out, threads);
        Ok((ys.f_permute([0, 3, 1, 2])?, later))
    }

    /// Shares the positions of each stream among threads.
    pub(super) fn run(
        &self,
        xs: &[f32],
        pending: Option<&[f32]>,
        (n, t, positions): (usize, usize, usize),
        (out, later): (&mut [f32], &mut [f32]),
        threads: usize,
    ) {
        let (c, wide) = (self.norm.channels(), 2 * self.bias.len());
        let (frame, state) = (positions * c, positions * wide);
        if frame * t == 0 {
            return;
        }
        let multiplications = t * positions * (STEPS + 1) * c * self.bias.len();
        let threads = threads.min(multiplications / WORTH_A_THREAD + 1);
        let share = positions.div_ceil(threads);
        for stream in 0..n {
            let xs = &xs[stream * t * frame..][..t * frame];
            let pending = pending.map(|pending| &pending[stream * state..][..state]);
            let mut frames: Vec<_> = out[stream * t * frame..][..t * frame]
                .chunks_exact_mut(frame)
                .map(|frame| frame.chunks_mut(share * c))
                .collect();
            let later = later[stream * state..][..state].chunks_mut(share * wide);
            let jobs = later.enumerate().map(|(i, later)| Job {
                layers: self,
                xs: (xs.chunks_exact(frame))
                    .map(|xs| &xs[i * share * c..][..later.len() / wide * c])
                    .collect(),
                pending: pending.map(|pending| &pending[i * share * wide..][..later.len()]),
                out: frames.iter_mut().filter_map(Iterator::next).collect(),
                later,
            });
            run_all(self.arch, jobs.collect());
        }
    }
}

/// Some positions of a stream.
struct Job<'a> {
    layers: &'a FusedTemporal,
    /// `[positions, c]` of each time step.
    xs: Vec<&'a [f32]>,
    /// `[positions, 2 hidden]`
    pending: Option<&'a [f32]>,
    /// As `xs`.
    out: Vec<&'a mut [f32]>,
    /// As `pending`.
    later: &'a mut [f32],
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let layers = self.layers;
        let (c, hidden) = (layers.norm.channels(), layers.bias.len());
        let (mut normal, mut given) = (vec![0.0; POSITIONS * c], vec![0.0; POSITIONS * STEPS * hidden]);
        let mut activations = vec![0.0; POSITIONS * hidden];
        for (i, later) in self.later.chunks_mut(POSITIONS * 2 * hidden).enumerate() {
            let count = later.len() / (2 * hidden);
            if let Some(pending) = self.pending {
                later.copy_from_slice(&pending[i * POSITIONS * 2 * hidden..][..later.len()]);
            }
            for (t, (xs, out)) in self.xs.iter().zip(&mut self.out).enumerate() {
                let xs = &xs[i * POSITIONS * c..][..count * c];
                let out = &mut out[i * POSITIONS * c..][..count * c];
                let normal = &mut normal[..count * c];
                let given = &mut given[..count * STEPS * hidden];
                layers.norm.apply(simd, xs, normal);
                layers.conv.multiply(simd, normal, None, None, given);
                if t == 0 && self.pending.is_none() {
                    begin(given, later, hidden);
                }
                let activations = &mut activations[..count * hidden];
                step(given, later, &layers.bias, activations);
                elementwise::silu(activations);
                (layers.product).multiply(simd, activations, Some(&layers.product_bias), Some(xs), out);
            }
        }
    }
}

/// What copies of a time step before it would have given to it and to the next one.
#[inline(always)]
fn begin(given: &[f32], pending: &mut [f32], hidden: usize) {
    for (given, pending) in given
        .chunks_exact(STEPS * hidden)
        .zip(pending.chunks_exact_mut(2 * hidden))
    {
        let (second, first) = given[..2 * hidden].split_at(hidden);
        let (now, next) = pending.split_at_mut(hidden);
        for (((now, next), second), first) in now.iter_mut().zip(next).zip(second).zip(first) {
            *now = second + first;
            *next = *second;
        }
    }
}

/// Adds up what is given to a time step, and what is given to the two after it.
#[inline(always)]
fn step(given: &[f32], pending: &mut [f32], bias: &[f32], sums: &mut [f32]) {
    let hidden = bias.len();
    let rows = given
        .chunks_exact(STEPS * hidden)
        .zip(pending.chunks_exact_mut(2 * hidden));
    for ((given, pending), sums) in rows.zip(sums.chunks_exact_mut(hidden)) {
        let (now, next) = pending.split_at_mut(hidden);
        for i in 0..hidden {
            sums[i] = given[2 * hidden + i] + now[i] + bias[i];
            now[i] = next[i] + given[hidden + i];
            next[i] = given[i];
        }
    }
}
