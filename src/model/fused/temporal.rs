// SPDX-License-Identifier: MPL-2.0
//! Blocks in time: a position sees itself and the two time steps before.

use pulp::{Arch, Simd, WithSimd};
use tch::{Device, Kind, Tensor};

use super::elementwise::{self, Norm};
use super::matrix::{PackedMatrix, Start};
use super::scratch::{split, Scratch};
use super::{as_mut_slice, channels_last, instructions_for, pointwise, run_all, threads_for, values, Lanes, Result};

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
        let conv = values(layers.conv.0)?;
        Ok(FusedTemporal {
            arch,
            norm: Norm::new(values(layers.norm.0)?, values(layers.norm.1)?),
            conv: PackedMatrix::new((c, STEPS * hidden), lanes, |i, o| {
                conv[o % hidden * STEPS * c + o / hidden * c + i]
            }),
            bias: values(layers.conv.1)?,
            product: pointwise(layers.product.0, arch)?,
            product_bias: values(layers.product.1)?,
        })
    }

    /// `xs: [n * t, c, h, w]` f32 of `n` streams, best in channels-last memory. `pending: [n, h, w, 2 hidden]` is what earlier time steps
    /// give to the first of these and to the one after it, before the bias; `None` at the start of a stream or where it was forgotten: then
    /// the past is copies of the first time step. -> `[n * t, c, h, w]` in channels-last memory, and what these and earlier ones give to
    /// later time steps. Both are used up: their memory holds what comes out.
    pub fn forward(&self, xs: Tensor, n: i64, pending: Option<Tensor>) -> Result<(Tensor, Tensor)> {
        let mut xs = channels_last(&xs, self.norm.channels())?;
        let (nt, h, w, _) = xs.size4()?;
        let shape = [n, h, w, 2 * self.bias.len() as i64];
        let begins = pending.is_none();
        let mut pending = match pending {
            Some(pending) => pending,
            None => Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?,
        };
        if pending.size() != shape || n < 1 || nt < n || nt % n != 0 {
            let (xs, pending) = (xs.size(), pending.size());
            return Err(tch::TchError::Shape(format!("{xs:?} of {n} streams after {pending:?}")));
        }
        let shape = (n as usize, (nt / n) as usize, (h * w) as usize);
        let threads = threads_for((STEPS + 1) * xs.numel() * self.bias.len());
        // SAFETY: both are used up.
        let memory = unsafe { (as_mut_slice(&mut xs), as_mut_slice(&mut pending)) };
        self.run(memory, begins, shape, threads);
        Ok((xs.f_permute([0, 3, 1, 2])?, pending))
    }

    /// Shares the positions of each stream among threads.
    pub(super) fn run(
        &self,
        (xs, pending): (&mut [f32], &mut [f32]),
        begins: bool,
        (n, t, positions): (usize, usize, usize),
        threads: usize,
    ) {
        let (c, wide) = (self.norm.channels(), 2 * self.bias.len());
        let (frame, state) = (positions * c, positions * wide);
        if n * t * frame == 0 {
            return;
        }
        let share = positions.div_ceil(threads);
        for (xs, pending) in xs.chunks_exact_mut(t * frame).zip(pending.chunks_exact_mut(state)) {
            let mut frames: Vec<_> = xs.chunks_exact_mut(frame).map(|xs| xs.chunks_mut(share * c)).collect();
            let jobs = pending.chunks_mut(share * wide).map(|pending| Job {
                layers: self,
                begins,
                xs: frames.iter_mut().filter_map(Iterator::next).collect(),
                pending,
            });
            run_all(self.arch, jobs.collect());
        }
    }
}

/// Some positions of a stream.
struct Job<'a> {
    layers: &'a FusedTemporal,
    begins: bool,
    /// `[positions, c]` of each time step.
    xs: Vec<&'a mut [f32]>,
    /// `[positions, 2 hidden]`
    pending: &'a mut [f32],
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let layers = self.layers;
        let (c, hidden) = (layers.norm.channels(), layers.bias.len());
        let mut scratch = Scratch::take(POSITIONS * (c + (STEPS + 1) * hidden));
        for (i, pending) in self.pending.chunks_mut(POSITIONS * 2 * hidden).enumerate() {
            let count = pending.len() / (2 * hidden);
            let mut rest = scratch.floats();
            let [normal, given, sums] = [c, STEPS * hidden, hidden].map(|wide| split(&mut rest, count * wide));
            for (t, xs) in self.xs.iter_mut().enumerate() {
                let xs = &mut xs[i * POSITIONS * c..][..count * c];
                layers.norm.apply(simd, xs, normal);
                layers.conv.multiply(simd, normal, Start::Zero, given);
                if t == 0 && self.begins {
                    begin(simd, given, pending, hidden);
                }
                step(simd, given, pending, &layers.bias, sums);
                elementwise::silu(sums);
                layers
                    .product
                    .multiply(simd, sums, Start::Sum(&layers.product_bias), xs);
            }
        }
    }
}

/// What copies of a time step before it would have given to it and to the next one.
#[inline(always)]
fn begin<S: Simd>(simd: S, given: &[f32], pending: &mut [f32], hidden: usize) {
    for (given, pending) in given
        .chunks_exact(STEPS * hidden)
        .zip(pending.chunks_exact_mut(2 * hidden))
    {
        let (second, first) = given[..2 * hidden].split_at(hidden);
        let (now, next) = pending.split_at_mut(hidden);
        let inputs = S::as_simd_f32s(second).0.iter().zip(S::as_simd_f32s(first).0);
        let outputs = S::as_mut_simd_f32s(now).0.iter_mut().zip(S::as_mut_simd_f32s(next).0);
        for ((second, first), (now, next)) in inputs.zip(outputs) {
            *now = simd.add_f32s(*second, *first);
            *next = *second;
        }
    }
}

/// Adds up what is given to a time step, and what is given to the two after it.
#[inline(always)]
fn step<S: Simd>(simd: S, given: &[f32], pending: &mut [f32], bias: &[f32], sums: &mut [f32]) {
    let hidden = bias.len();
    let rows = given
        .chunks_exact(STEPS * hidden)
        .zip(pending.chunks_exact_mut(2 * hidden));
    for ((given, pending), sums) in rows.zip(sums.chunks_exact_mut(hidden)) {
        let (second, rest) = given.split_at(hidden);
        let (first, own) = rest.split_at(hidden);
        let (now, next) = pending.split_at_mut(hidden);
        let [second, first, own, bias] = [second, first, own, bias].map(|xs| S::as_simd_f32s(xs).0.iter());
        let [now, next, sums] = [now, next, sums].map(|xs| S::as_mut_simd_f32s(xs).0.iter_mut());
        let given = second.zip(first).zip(own.zip(bias));
        for (((second, first), (own, bias)), ((now, next), sum)) in given.zip(now.zip(next).zip(sums)) {
            *sum = simd.add_f32s(simd.add_f32s(*own, *now), *bias);
            *now = simd.add_f32s(*next, *first);
            *next = *second;
        }
    }
}
