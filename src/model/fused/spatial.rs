// SPDX-License-Identifier: MPL-2.0
//! Blocks in space: what stands before and after a 3x3 convolution.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use tch::{Device, Kind, Tensor};

use super::elementwise::{self, Norm};
use super::matrix::{PackedMatrix, Start};
use super::scratch::{split, Scratch};
use super::winograd::{self, TILE};
use super::{as_mut_slice, channels_last, instructions_for, pointwise, run_all, threads_for, values, Lanes, Result};

/// Tiles that a thread transforms at a time, about, but always whole rows: few enough for the cache, enough to use each weight many times.
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
        // What is added to needs the memory of what is added.
        let adds = !layers.residual || layers.product.is_some() && c_out == c;
        let arch = instructions_for(weight, &[hidden, c, c_out]).filter(|_| kernel == 3 && adds);
        arch.map(|arch| FusedConv::with(layers, arch)).transpose()
    }

    pub(super) fn with(layers: &Layers, arch: Arch) -> Result<FusedConv> {
        let (weight, bias) = layers.conv;
        let lanes = arch.dispatch(Lanes);
        let (hidden, c) = (weight.size()[0] as usize, weight.size()[1] as usize);
        let conv = winograd::transform_weights(&values(weight)?, hidden, c);
        let product = match layers.product {
            Some((weight, bias)) => Some((pointwise(weight, arch)?, values(bias)?)),
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

    /// `xs: [n, c, h, w]` f32, best in channels-last memory -> `[n, c_out, h, w]` in channels-last memory. No gradients. `xs` is used up: where
    /// c_out is c, its memory holds what comes out.
    pub fn forward(&self, xs: Tensor) -> Result<Tensor> {
        let mut xs = channels_last(&xs, self.norm.channels())?;
        let (n, h, w, c) = xs.size4()?;
        let (size, c_out) = ((n as usize, h as usize, w as usize), self.bias_out().len() as i64);
        let threads = threads_for(xs.numel() * self.bias.len());
        // SAFETY: it is used up.
        let input = unsafe { as_mut_slice(&mut xs) };
        if c_out == c {
            self.run(input, size, None, threads);
            return xs.f_permute([0, 3, 1, 2]);
        }
        let mut ys = Tensor::f_empty([n, h, w, c_out], (Kind::Float, Device::Cpu))?;
        // SAFETY: it has just been made.
        let out = unsafe { as_mut_slice(&mut ys) };
        self.run(input, size, Some(out), threads);
        ys.f_permute([0, 3, 1, 2])
    }

    fn bias_out(&self) -> &[f32] {
        self.product.as_ref().map_or(&self.bias, |(_, bias)| bias)
    }

    /// Shares the rows of tiles of all pictures among threads. `out`: where it is not to be in the place of `xs`.
    pub(super) fn run(
        &self,
        xs: &mut [f32],
        (n, h, w): (usize, usize, usize),
        mut out: Option<&mut [f32]>,
        threads: usize,
    ) {
        let (tile_rows, pitch) = (h.div_ceil(TILE), w * self.norm.channels());
        let rows = n * tile_rows;
        if rows * pitch == 0 {
            return;
        }
        let threads = threads.min(rows);
        let shares: Vec<_> = (0..threads)
            .map(|i| pieces(rows * i / threads..rows * (i + 1) / threads, tile_rows))
            .collect();
        // What another thread may have overwritten by the time that it is looked at.
        let line =
            |picture: usize, line: usize| (line < h).then(|| xs[(picture * h + line) * pitch..][..pitch].to_vec());
        let around: Vec<_> = (shares.iter().flatten())
            .map(|(picture, rows)| {
                let above = rows
                    .start
                    .checked_sub(1)
                    .and_then(|row| line(*picture, row * TILE + TILE - 1));
                (above, line(*picture, rows.end * TILE))
            })
            .collect();
        let (mut around, mut rest) = (around.into_iter(), xs);
        let mut jobs = vec![];
        for share in shares {
            let mut job = Job {
                layers: self,
                w,
                pieces: vec![],
            };
            for (_, rows) in share {
                let lines = (rows.end * TILE).min(h) - rows.start * TILE;
                let (above, below) = around.next().unwrap_or_default();
                job.pieces.push(Piece {
                    lines: split(&mut rest, lines * pitch),
                    above,
                    below,
                    out: out.as_mut().map(|out| split(out, lines * w * self.bias_out().len())),
                });
            }
            jobs.push(job);
        }
        run_all(self.arch, jobs);
    }
}

/// Rows of tiles, counted over all pictures, as pictures and rows of each.
fn pieces(rows: Range<usize>, tile_rows: usize) -> Vec<(usize, Range<usize>)> {
    let (mut pieces, mut begin) = (vec![], rows.start);
    while begin < rows.end {
        let picture = begin / tile_rows;
        let end = rows.end.min((picture + 1) * tile_rows);
        pieces.push((picture, begin % tile_rows..end - picture * tile_rows));
        begin = end;
    }
    pieces
}

/// Neighbouring lines of one picture.
struct Piece<'a> {
    /// `[lines, w, c]`.
    lines: &'a mut [f32],
    /// The lines before and after, `[w, c]`; `None` outside the picture.
    above: Option<Vec<f32>>,
    below: Option<Vec<f32>>,
    /// `[lines, w, c_out]`, where it is not to be in the place of `lines`.
    out: Option<&'a mut [f32]>,
}

/// What a thread does.
struct Job<'a> {
    layers: &'a FusedConv,
    w: usize,
    pieces: Vec<Piece<'a>>,
}

/// What a thread works in.
struct Memory<'a> {
    /// What the convolution sees of some lines, one more above and below, and the zeros around the picture: `[lines + 2, 4 across + 2, c]`.
    padded: &'a mut [f32],
    /// Transformed tiles and their products.
    tiles: &'a mut [f32],
    products: &'a mut [f32],
    /// What comes out of the convolution: `[lines, w, hidden]`.
    hidden: &'a mut [f32],
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Job { layers, w, pieces } = self;
        let (c, hidden, across) = (layers.norm.channels(), layers.bias.len(), w.div_ceil(TILE));
        let block = (TILES / across.max(1)).max(1);
        let sizes = [
            (block * TILE + 2) * (across * TILE + 2) * c,
            winograd::VALUES * winograd::plane(block * across * c),
            winograd::VALUES * winograd::plane(block * across * hidden),
            block * TILE * w * hidden,
        ];
        let mut scratch = Scratch::take(sizes.iter().sum());
        let mut rest = scratch.floats();
        let [padded, tiles, products, hidden] = sizes.map(|size| split(&mut rest, size));
        let mut memory = Memory {
            padded,
            tiles,
            products,
            hidden,
        };
        for piece in pieces {
            layers.piece(simd, piece, (w, block), &mut memory);
        }
    }
}

impl FusedConv {
    /// All lines of a piece, `block` rows of tiles at a time.
    #[inline(always)]
    fn piece<S: Simd>(&self, simd: S, mut piece: Piece, (w, block): (usize, usize), memory: &mut Memory) {
        let (c, c_out, across) = (self.norm.channels(), self.bias_out().len(), w.div_ceil(TILE));
        let pitch = (across * TILE + 2) * c;
        let lines = piece.lines.len() / (w * c);
        self.pad(simd, piece.above.as_deref(), &mut memory.padded[..pitch]);
        self.pad(simd, Some(&piece.lines[..w * c]), &mut memory.padded[pitch..2 * pitch]);
        for first in (0..lines).step_by(block * TILE) {
            let count = (block * TILE).min(lines - first);
            let down = count.div_ceil(TILE);
            for i in 2..down * TILE + 2 {
                let line = first + i - 1;
                let xs = match line < lines {
                    true => Some(&piece.lines[line * w * c..][..w * c]),
                    false => piece.below.as_deref().filter(|_| line == lines),
                };
                self.pad(simd, xs, &mut memory.padded[i * pitch..][..pitch]);
            }
            let target = match &mut piece.out {
                Some(out) => &mut out[first * w * c_out..][..count * w * c_out],
                None => &mut piece.lines[first * w * c..][..count * w * c],
            };
            self.strip(simd, (down, w), memory, target);
            memory
                .padded
                .copy_within(down * TILE * pitch..(down * TILE + 2) * pitch, 0);
        }
    }

    /// A line as the convolution sees it, with zeros before and after. `xs: [w, c]`; `None` outside the picture.
    #[inline(always)]
    fn pad<S: Simd>(&self, simd: S, xs: Option<&[f32]>, padded: &mut [f32]) {
        let c = self.norm.channels();
        let Some(xs) = xs else {
            return padded.fill(0.0);
        };
        padded[..c].fill(0.0);
        padded[c + xs.len()..].fill(0.0);
        let inside = &mut padded[c..][..xs.len()];
        self.norm.apply(simd, xs, inside);
        if self.silu_before {
            elementwise::silu(inside);
        }
    }

    /// From padded lines to what comes out: `out: [lines, w, c_out]` holds what the input is where that is added.
    #[inline(always)]
    fn strip<S: Simd>(&self, simd: S, (down, w): (usize, usize), memory: &mut Memory, out: &mut [f32]) {
        let (c, hidden, across) = (self.norm.channels(), self.bias.len(), w.div_ceil(TILE));
        let tiles = down * across;
        let lines = out.len() / (w * self.bias_out().len());
        winograd::transform_input(simd, memory.padded, c, (down, across), memory.tiles);
        for (value, matrix) in self.conv.iter().enumerate() {
            let from = &memory.tiles[value * winograd::plane(tiles * c)..][..tiles * c];
            let to = &mut memory.products[value * winograd::plane(tiles * hidden)..][..tiles * hidden];
            matrix.multiply(simd, from, Start::Zero, to);
        }
        let convolved = match &self.product {
            Some(_) => &mut memory.hidden[..lines * w * hidden],
            None => &mut *out,
        };
        winograd::transform_output(simd, memory.products, hidden, (lines, w), &self.bias, convolved);
        if self.silu_after {
            elementwise::silu(convolved);
        }
        if let Some((matrix, bias)) = &self.product {
            let start = match self.residual {
                true => Start::Sum(bias),
                false => Start::Bias(bias),
            };
            matrix.multiply(simd, &memory.hidden[..lines * w * hidden], start, out);
        }
    }
}
