// SPDX-License-Identifier: MPL-2.0
//! From one resolution to the next finer one.

use pulp::{Arch, Simd, WithSimd};
use tch::{Device, Kind, Tensor};

use super::matrix::{PackedMatrix, Start};
use super::scratch::Scratch;
use super::{as_mut_slice, as_slice, channels_last, instructions_for, pointwise, run_all, threads_for, values, Result};

/// A 1x1 convolution whose output channels are `[time, space, space, width]` of the finer resolution.
#[derive(Debug)]
pub struct UpsampleLayers<'a> {
    /// Weight `[time * space * space * width, c, 1, 1]` and bias.
    pub conv: (&'a Tensor, &'a Tensor),
    pub time: i64,
    pub space: i64,
    pub width: i64,
}

/// The convolution made ready: what comes out is written where it belongs.
#[derive(Debug)]
pub struct FusedUpsample {
    arch: Arch,
    channels: usize,
    matrix: PackedMatrix,
    bias: Vec<f32>,
    time: usize,
    space: usize,
    width: usize,
}

impl FusedUpsample {
    /// `None` as for [`super::FusedConv::new`].
    pub fn new(layers: &UpsampleLayers) -> Result<Option<FusedUpsample>> {
        let (c_out, c, _, _) = layers.conv.0.size4()?;
        let arch = instructions_for(layers.conv.0, &[c_out, c]);
        arch.map(|arch| FusedUpsample::with(layers, arch)).transpose()
    }

    pub(super) fn with(layers: &UpsampleLayers, arch: Arch) -> Result<FusedUpsample> {
        Ok(FusedUpsample {
            arch,
            channels: layers.conv.0.size()[1] as usize,
            matrix: pointwise(layers.conv.0, arch)?,
            bias: values(layers.conv.1)?,
            time: layers.time as usize,
            space: layers.space as usize,
            width: layers.width as usize,
        })
    }

    /// `xs: [n * t, c, h, w]` f32 of `n` streams -> `[n * (t * time - dropped), width, h * space, w * space]` in channels-last memory, without
    /// the first `dropped` time steps of each stream.
    pub fn forward(&self, xs: &Tensor, n: i64, dropped: i64) -> Result<Tensor> {
        let xs = channels_last(xs, self.channels)?;
        let (nt, h, w, _) = xs.size4()?;
        let (time, space) = (self.time as i64, self.space as i64);
        if n < 1 || nt % n != 0 || dropped >= time {
            let xs = xs.size();
            return Err(tch::TchError::Shape(format!(
                "{xs:?} of {n} streams without {dropped} time steps"
            )));
        }
        let shape = [nt * time - n * dropped, h * space, w * space, self.width as i64];
        let mut ys = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
        let shape = [n, nt / n, h, w, dropped].map(|size| size as usize);
        let threads = threads_for(xs.numel() * self.bias.len());
        // SAFETY: it has just been made.
        let out = unsafe { as_mut_slice(&mut ys) };
        self.run(as_slice(&xs), shape, out, threads);
        ys.f_permute([0, 3, 1, 2])
    }

    /// Shares the lines of each time step among threads.
    pub(super) fn run(&self, xs: &[f32], [n, t, h, w, dropped]: [usize; 5], out: &mut [f32], threads: usize) {
        let (picture, line_out) = (h * w * self.channels, w * self.space * self.width);
        if n * t * picture == 0 {
            return;
        }
        let share = h.div_ceil(threads);
        let mut frames = out.chunks_exact_mut(h * self.space * line_out);
        for (i, xs) in xs.chunks_exact(picture).enumerate() {
            let dropped = if i % t == 0 { dropped } else { 0 };
            let mut targets: Vec<_> = (dropped..self.time)
                .filter_map(|_| frames.next())
                .map(|frame| frame.chunks_mut(share * self.space * line_out))
                .collect();
            let jobs = xs.chunks(share * w * self.channels).map(|xs| Job {
                layers: self,
                w,
                dropped,
                xs,
                out: targets.iter_mut().filter_map(Iterator::next).collect(),
            });
            run_all(self.arch, jobs.collect());
        }
    }
}

/// Some lines of a time step.
struct Job<'a> {
    layers: &'a FusedUpsample,
    w: usize,
    /// Time steps that nobody wants, of those that come of this one.
    dropped: usize,
    /// `[lines, w, c]`.
    xs: &'a [f32],
    /// `[lines * space, w * space, width]` of each time step that is wanted.
    out: Vec<&'a mut [f32]>,
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let layers = self.layers;
        let (wide, space) = (layers.bias.len(), layers.space);
        let run = space * layers.width;
        let mut scratch = Scratch::take(self.w * wide);
        let product = scratch.floats();
        for (line, xs) in self.xs.chunks_exact(self.w * layers.channels).enumerate() {
            (layers.matrix).multiply(simd, xs, Start::Bias(&layers.bias), product);
            for (t, out) in self.out.iter_mut().enumerate() {
                let lines = &mut out[line * space * self.w * run..][..space * self.w * run];
                for (i, to) in lines.chunks_exact_mut(self.w * run).enumerate() {
                    let first = ((self.dropped + t) * space + i) * run;
                    for (to, from) in to.chunks_exact_mut(run).zip(product.chunks_exact(wide)) {
                        to.copy_from_slice(&from[first..first + run]);
                    }
                }
            }
        }
    }
}
