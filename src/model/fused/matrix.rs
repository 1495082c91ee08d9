// SPDX-License-Identifier: MPL-2.0
//! Products of matrices whose right-hand side is known long before.

use pulp::Simd;

/// Registers across a panel.
const ACROSS: usize = 2;

/// Rows of a panel that are read at a time.
const UNROLL: usize = 2;

/// What a product is added to.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    Zero,
    /// One value for each column.
    Bias(&'a [f32]),
    /// What is there already, and a bias.
    Sum(&'a [f32]),
}

/// A matrix `[k, n]`, k even and n a multiple of the width of a register, in panels of `[k, 2 registers]`; the last panel may have one register.
#[derive(Debug)]
pub struct PackedMatrix {
    values: Vec<f32>,
    k: usize,
    n: usize,
    lanes: usize,
}

impl PackedMatrix {
    /// `lanes`: f32 in a register.
    pub fn new((k, n): (usize, usize), lanes: usize, value: impl Fn(usize, usize) -> f32) -> PackedMatrix {
        let mut values = Vec::with_capacity(k * n);
        for first in (0..n).step_by(ACROSS * lanes) {
            for i in 0..k {
                values.extend((first..n.min(first + ACROSS * lanes)).map(|o| value(i, o)));
            }
        }
        PackedMatrix { values, k, n, lanes }
    }

    /// `out = a b + start`, with `a: [m, k]` and `out: [m, n]`.
    #[inline(always)]
    pub fn multiply<S: Simd>(&self, simd: S, a: &[f32], start: Start, out: &mut [f32]) {
        let m = a.len() / self.k;
        assert!(self.k.is_multiple_of(UNROLL) && self.n.is_multiple_of(S::F32_LANES) && self.lanes == S::F32_LANES);
        assert!(a.len() == m * self.k && out.len() == m * self.n && self.values.len() == self.k * self.n);
        let (bias, adds) = match start {
            Start::Zero => (None, false),
            Start::Bias(bias) => (Some(bias), false),
            Start::Sum(bias) => (Some(bias), true),
        };
        assert!(bias.is_none_or(|bias| bias.len() == self.n));
        let mut column = 0;
        while column < self.n {
            let panel = Panel {
                // SAFETY: a panel begins after k rows of the columns before it.
                values: unsafe { self.values.as_ptr().add(column * self.k) },
                a: a.as_ptr(),
                k: self.k,
                n: self.n,
                column,
                bias: bias.map(<[f32]>::as_ptr),
                adds,
                out: out.as_mut_ptr(),
            };
            let width = match self.n - column >= ACROSS * S::F32_LANES {
                true => ACROSS,
                false => 1,
            };
            // SAFETY: the sizes have been compared above, and n is a multiple of the register's width.
            unsafe {
                match (S::REGISTER_COUNT >= 32, width) {
                    (true, ACROSS) => panel.rows::<S, 12, ACROSS>(simd, m),
                    (false, ACROSS) => panel.rows::<S, 6, ACROSS>(simd, m),
                    (true, _) => panel.rows::<S, 12, 1>(simd, m),
                    (false, _) => panel.rows::<S, 6, 1>(simd, m),
                }
            }
            column += width * S::F32_LANES;
        }
    }
}

/// The columns of a panel in a product.
#[derive(Clone, Copy)]
struct Panel {
    values: *const f32,
    a: *const f32,
    k: usize,
    n: usize,
    column: usize,
    bias: Option<*const f32>,
    /// To what is there already.
    adds: bool,
    out: *mut f32,
}

impl Panel {
    /// All `m` rows, `MR` at a time.
    ///
    /// # Safety
    /// `a` has m rows of k; `out` has m rows of n; the panel has k rows of `NV` registers; `bias` has n values.
    #[inline(always)]
    unsafe fn rows<S: Simd, const MR: usize, const NV: usize>(self, simd: S, m: usize) {
        let mut row = 0;
        unsafe {
            while row + MR <= m {
                self.block::<S, MR, NV>(simd, row);
                row += MR;
            }
            while row + 4 <= m {
                self.block::<S, 4, NV>(simd, row);
                row += 4;
            }
            while row < m {
                self.block::<S, 1, NV>(simd, row);
                row += 1;
            }
        }
    }

    /// # Safety
    /// As [`Self::rows`] for the rows from `row` on.
    #[inline(always)]
    unsafe fn block<S: Simd, const MR: usize, const NV: usize>(self, simd: S, row: usize) {
        let mut sums = [[simd.splat_f32s(0.0); NV]; MR];
        unsafe {
            let a = self.a.add(row * self.k);
            // Two rows of the panel a time: half as many addresses to compute.
            for i in (0..self.k).step_by(UNROLL) {
                let mut b = [[simd.splat_f32s(0.0); NV]; UNROLL];
                for (u, b) in b.iter_mut().enumerate() {
                    for (v, b) in b.iter_mut().enumerate() {
                        *b = load::<S>(self.values.add(((i + u) * NV + v) * S::F32_LANES));
                    }
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = a.add(r * self.k + i);
                    for (u, b) in b.iter().enumerate() {
                        let x = simd.splat_f32s(*a.add(u));
                        for v in 0..NV {
                            sums[v] = simd.mul_add_e_f32s(x, b[v], sums[v]);
                        }
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    let column = self.column + v * S::F32_LANES;
                    let at = (row + r) * self.n + column;
                    let mut sum = *sum;
                    if let Some(bias) = self.bias {
                        sum = simd.add_f32s(sum, load::<S>(bias.add(column)));
                    }
                    if self.adds {
                        sum = simd.add_f32s(sum, load::<S>(self.out.add(at)));
                    }
                    self.out.add(at).cast::<S::f32s>().write_unaligned(sum);
                }
            }
        }
    }
}

/// # Safety
/// There is a register's width of values at `from`.
#[inline(always)]
unsafe fn load<S: Simd>(from: *const f32) -> S::f32s {
    unsafe { from.cast::<S::f32s>().read_unaligned() }
}
