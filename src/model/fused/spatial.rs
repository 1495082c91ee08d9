// SPDX-License-Identifier: MPL-2.0
//! Blocks in space: what stands before and after a 3x3 convolution.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use tch::{Device, Kind, Tensor};

use super::elementwise::{self, Norm};
use super::matrix::PackedMatrix;
use super::winograd::{self, TILE};
use super::{as_mut_slice, as_slice, channels_last, instructions_for, run_all, values, Lanes, Result, WORTH_A_THREAD};

/// Tiles that a thread transforms at a time: few enough for the cache, enough to use each weight many times.
const TILES: usize = 40;

/// The layers that become one: `y = product(silu(conv(before(x))))`, to which `x` may be added.
#[derive(Debug)]
pub struct Layers<'a> {
    /// Weight and bias of a layer norm over the channels, `[c]` each.
    pub norm: (&'a Tensor, &'a Tensor),
    /// SiLU between the norm and the convolution.
    pub silu_before: bool,
    /// Weight `[hidden, c, 3, 3]` and bias `[hidden]` of the convolution, which is padded with zeros.
    pub conv: (&'a Tensor, &'a Tensor),
    /// SiLU behind the convolution.
    pub silu_after: bool,
    /// Weight `[c_out, hidden, 1, 1]` and bias `[c_out]` of the 1x1 convolution, if there is one.
    pub product: Option<(&'a Tensor, &'a Tensor)>,
    /// Adds the input: `c_out` is `c`.
    pub residual: bool,
}

/// Layers made ready.
#[derive(Debug)]
pub struct FusedConv {
    arch: Arch,
    norm: Norm,
    silu_before: bool,
    /// A matrix `[c, hidden]` for each value of a transformed tile.
    conv: Vec<PackedMatrix>,
    bias: Vec<f32>,
    silu_after: bool,
    product: Option<(PackedMatrix, Vec<f32>)>,
    residual: bool,
}

impl FusedConv {
    /// `None`: these run as they are, for want of instructions, on another device, in another kind, or with other numbers of channels than
    /// multiples of 16.
    pub fn new(layers: &Layers) -> Result<Option<FusedConv>> {
        let weight = layers.conv.0;
        let (hidden, c, kernel, _) = weight.size4()?;
        let c_out = layers.product.map_or(hidden, |(weight, _)| weight.size()[0]);
        let arch = instructions_for(weight, &[hidden, c, c_out]).filter(|_| kernel == 3);
        arch.map(|arch| FusedConv::with(layers, arch)).transpose()
    }

    pub(super) fn with(layers: &Layers, arch: Arch) -> Result<FusedConv> {
        let (weight, bias) = layers.conv;
        let lanes = arch.dispatch(Lanes);
        let (hidden, c) = (weight.size()[0] as usize, weight.size()[1] as usize);
        let conv = winograd::transform_weights(&values(weight)?, hidden, c);
        let product = match layers.product {
            Some((weight, bias)) => {
                let (rows, bias) = (values(weight)?, values(bias)?);
                let matrix = PackedMatrix::new((hidden, bias.len()), lanes, |i, o| rows[o * hidden + i]);
                Some((matrix, bias))
            }
            None => None,
        };
        Ok(FusedConv {
            arch,
            norm: Norm::new(values(layers.norm.0)?, values(layers.norm.1)?),
            silu_before: layers.silu_before,
            conv: (conv.iter())
                .map(|values| PackedMatrix::new((c, hidden), lanes, |i, o| values[i * hidden + o]))
                .collect(),
            bias: values(bias)?,
            silu_after: layers.silu_after,
            product,
            residual: layers.residual,
        })
    }

    /// `xs: [n, c, h, w]` f32, best in channels-last memory -> `[n, c_out, h, w]` in channels-last memory. No gradients.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = channels_last(xs, self.norm.channels())?;
        let (n, h, w, _) = xs.size4()?;
        let mut ys = Tensor::f_empty([n, h, w, self.bias_out().len() as i64], (Kind::Float, Device::Cpu))?;
        let size = (n as usize, h as usize, w as usize);
        self.run(
            as_slice(&xs),
            size,
            as_mut_slice(&mut ys),
            tch::get_num_threads().max(1) as usize,
        );
        ys.f_permute([0, 3, 1, 2])
    }

    fn bias_out(&self) -> &[f32] {
        self.product.as_ref().map_or(&self.bias, |(_, bias)| bias)
    }

    /// Shares the rows of tiles of all pictures among threads.
    pub(super) fn run(&self, xs: &[f32], (n, h, w): (usize, usize, usize), out: &mut [f32], threads: usize) {
        let tile_rows = h.div_ceil(TILE);
        let rows = n * tile_rows;
        let multiplications = h * w * n * self.norm.channels() * self.bias.len();
        let threads = threads.min(rows).min(multiplications / WORTH_A_THREAD + 1);
        // Lines of pictures before a row of tiles.
        let lines = |row: usize| row / tile_rows.max(1) * h + (row % tile_rows.max(1) * TILE).min(h);
        let mut jobs = vec![];
        let (mut rest, mut begin) = (out, 0);
        for i in 0..threads {
            let end = rows * (i + 1) / threads;
            let length = (lines(end) - lines(begin)) * w * self.bias_out().len();
            let (out, others) = rest.split_at_mut(length);
            rest = others;
            jobs.push(Job {
                layers: self,
                xs,
                size: (h, w),
                rows: begin..end,
                out,
            });
            begin = end;
        }
        run_all(self.arch, jobs);
    }
}

/// Some rows of tiles of `n` pictures, counted over all pictures, and the memory of their outputs.
struct Job<'a> {
    layers: &'a FusedConv,
    /// `[n, h, w, c]`.
    xs: &'a [f32],
    size: (usize, usize),
    rows: Range<usize>,
    /// `[lines, w, c_out]`.
    out: &'a mut [f32],
}

/// What a thread works in.
struct Scratch {
    /// Lines of what the convolution sees, with the zeros around them: `[lines + 2, columns + 2, c]`.
    padded: Vec<f32>,
    /// Transformed tiles and their products.
    before: Vec<f32>,
    after: Vec<f32>,
    /// What comes out of the convolution: `[lines, w, hidden]`.
    hidden: Vec<f32>,
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Job {
            layers,
            xs,
            size: (h, w),
            rows,
            mut out,
        } = self;
        let (c, hidden, c_out) = (layers.norm.channels(), layers.bias.len(), layers.bias_out().len());
        let (tile_rows, across) = (h.div_ceil(TILE), w.div_ceil(TILE));
        let block = (TILES / across.max(1)).max(1);
        let pitch = (across * TILE + 2) * c;
        let tiles = block * across;
        let mut scratch = Scratch {
            padded: vec![0.0; (block * TILE + 2) * pitch],
            before: vec![0.0; winograd::VALUES * winograd::plane(tiles * c)],
            after: vec![0.0; winograd::VALUES * winograd::plane(tiles * hidden)],
            hidden: vec![0.0; block * TILE * w * hidden],
        };
        let mut row = rows.start;
        while row < rows.end {
            let (picture, first) = (row / tile_rows, row % tile_rows);
            let count = block.min(rows.end - row).min(tile_rows - first);
            let xs = &xs[picture * h * w * c..][..h * w * c];
            let line = first * TILE;
            let lines = (count * TILE).min(h - line);
            let (now, later) = out.split_at_mut(lines * w * c_out);
            let block = Block {
                xs,
                size: (h, w),
                line,
                lines,
                tiles: (count, across),
            };
            layers.strip(simd, &block, &mut scratch, now);
            out = later;
            row += count;
        }
    }
}

/// Some lines of a picture.
struct Block<'a> {
    xs: &'a [f32],
    size: (usize, usize),
    line: usize,
    lines: usize,
    /// Down and across.
    tiles: (usize, usize),
}

impl FusedConv {
    #[inline(always)]
    fn strip<S: Simd>(&self, simd: S, block: &Block, scratch: &mut Scratch, out: &mut [f32]) {
        let (c, hidden, w) = (self.norm.channels(), self.bias.len(), block.size.1);
        let Scratch {
            padded,
            before,
            after,
            hidden: activations,
        } = scratch;
        self.fill_padded(simd, block, padded);
        winograd::transform_input(simd, padded, c, block.tiles, before);
        let tiles = block.tiles.0 * block.tiles.1;
        for (value, matrix) in self.conv.iter().enumerate() {
            let from = &before[value * winograd::plane(tiles * c)..][..tiles * c];
            let to = &mut after[value * winograd::plane(tiles * hidden)..][..tiles * hidden];
            matrix.multiply(simd, from, None, None, to);
        }
        let used = block.lines * w * hidden;
        let convolved = match &self.product {
            Some(_) => &mut activations[..used],
            None => &mut *out,
        };
        winograd::transform_output(simd, after, hidden, (block.lines, w), &self.bias, convolved);
        if self.silu_after {
            elementwise::silu(convolved);
        }
        if let Some((matrix, bias)) = &self.product {
            let xs = &block.xs[block.line * w * c..][..block.lines * w * c];
            let start = self.residual.then_some(xs);
            matrix.multiply(simd, &activations[..used], Some(bias), start, out);
        }
    }

    /// The lines of a block, one more above and below, and the zeros around the picture.
    #[inline(always)]
    fn fill_padded<S: Simd>(&self, simd: S, block: &Block, padded: &mut [f32]) {
        let (c, (h, w)) = (self.norm.channels(), block.size);
        let pitch = (block.tiles.1 * TILE + 2) * c;
        for (i, to) in padded
            .chunks_exact_mut(pitch)
            .take(block.tiles.0 * TILE + 2)
            .enumerate()
        {
            to.fill(0.0);
            let Some(line) = (block.line + i).checked_sub(1).filter(|line| *line < h) else {
                continue;
            };
            let to = &mut to[c..][..w * c];
            self.norm.apply(simd, &block.xs[line * w * c..][..w * c], to);
            if self.silu_before {
                elementwise::silu(to);
            }
        }
    }
}
