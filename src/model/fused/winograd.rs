// SPDX-License-Identifier: MPL-2.0
//! F(4x4, 3x3): 16 outputs of a 3x3 convolution from 36 products instead of 144 (Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks", 2016; the points 0, 1, -1, 2, -2 and infinity).

use pulp::Simd;

/// Outputs of a tile, across and down.
pub const TILE: usize = 4;
/// Inputs of a tile, across and down.
const INPUTS: usize = TILE + 2;
/// Values of a transformed tile.
pub const VALUES: usize = INPUTS * INPUTS;

/// Memory between the same value of all tiles and the next one, for `used` floats of each. A line more keeps them out of each other's way
/// in the cache.
pub fn plane(used: usize) -> usize {
    used + 16
}

/// What a 3x3 weight is multiplied with, on both sides.
const G: [[f64; 3]; INPUTS] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// `weight: [hidden, c, 3, 3]` -> `[c, hidden]` for each value of a tile.
pub fn transform_weights(weight: &[f32], hidden: usize, c: usize) -> Vec<Vec<f32>> {
    let mut values = vec![vec![0.0; c * hidden]; VALUES];
    for (i, o) in (0..c).flat_map(|i| (0..hidden).map(move |o| (i, o))) {
        let kernel = &weight[(o * c + i) * 9..][..9];
        let row = |k: usize| {
            let row = [kernel[k], kernel[k + 1], kernel[k + 2]].map(f64::from);
            G.map(|g| dot(g, row))
        };
        let rows = [row(0), row(3), row(6)];
        for (value, values) in values.iter_mut().enumerate() {
            let (down, across) = (value / INPUTS, value % INPUTS);
            let column = [rows[0][across], rows[1][across], rows[2][across]];
            values[i * hidden + o] = dot(G[down], column) as f32;
        }
    }
    values
}

#[inline(always)]
fn input_row<S: Simd>(simd: S, d: [S::f32s; INPUTS]) -> [S::f32s; INPUTS] {
    let times = |a: f32, x, y| simd.mul_add_f32s(simd.splat_f32s(a), x, y);
    let (near, far) = (times(-4.0, d[2], d[4]), times(-4.0, d[1], d[3]));
    let (even, odd) = (simd.sub_f32s(d[4], d[2]), simd.sub_f32s(d[3], d[1]));
    [
        times(4.0, d[0], times(-5.0, d[2], d[4])),
        simd.add_f32s(near, far),
        simd.sub_f32s(near, far),
        times(2.0, odd, even),
        times(-2.0, odd, even),
        times(4.0, d[1], times(-5.0, d[3], d[5])),
    ]
}

#[inline(always)]
fn output_row<S: Simd>(simd: S, m: [S::f32s; INPUTS]) -> [S::f32s; TILE] {
    let times = |a: f32, x, y| simd.mul_add_f32s(simd.splat_f32s(a), x, y);
    let (sum1, sum2) = (simd.add_f32s(m[1], m[2]), simd.add_f32s(m[3], m[4]));
    let (off1, off2) = (simd.sub_f32s(m[1], m[2]), simd.sub_f32s(m[3], m[4]));
    [
        simd.add_f32s(m[0], simd.add_f32s(sum1, sum2)),
        times(2.0, off2, off1),
        times(4.0, sum2, sum1),
        simd.add_f32s(times(8.0, off2, off1), m[5]),
    ]
}

/// `padded: [4 down + 2, 4 across + 2, c]` -> `[36, down * across, c]`, a [`plane`] apart.
#[inline(always)]
pub fn transform_input<S: Simd>(simd: S, padded: &[f32], c: usize, (down, across): (usize, usize), out: &mut [f32]) {
    let tiles = down * across;
    let (pitch, plane) = ((across * TILE + 2) * c, plane(tiles * c));
    assert!(padded.len() >= (down * TILE + 2) * pitch && out.len() >= VALUES * plane && c.is_multiple_of(S::F32_LANES));
    for tile in 0..tiles {
        let corner = tile / across * TILE * pitch + tile % across * TILE * c;
        for channel in (0..c).step_by(S::F32_LANES) {
            // SAFETY: the last value that is read or written lies within the lengths asserted above.
            unsafe {
                let from = padded.as_ptr().add(corner + channel);
                let to = out.as_mut_ptr().add(tile * c + channel);
                let mut columns = [[simd.splat_f32s(0.0); INPUTS]; INPUTS];
                for (j, column) in columns.iter_mut().enumerate() {
                    let mut d = [simd.splat_f32s(0.0); INPUTS];
                    for (i, d) in d.iter_mut().enumerate() {
                        *d = from.add(i * pitch + j * c).cast::<S::f32s>().read_unaligned();
                    }
                    *column = input_row(simd, d);
                }
                for i in 0..INPUTS {
                    let mut d = [simd.splat_f32s(0.0); INPUTS];
                    for (d, column) in d.iter_mut().zip(&columns) {
                        *d = column[i];
                    }
                    for (j, value) in input_row(simd, d).into_iter().enumerate() {
                        let at = to.add((i * INPUTS + j) * plane);
                        at.cast::<S::f32s>().write_unaligned(value);
                    }
                }
            }
        }
    }
}

/// `products: [36, tiles, hidden]`, a [`plane`] apart -> `out: [lines, w, hidden]`, with a bias; what a tile has beyond these is dropped.
#[inline(always)]
pub fn transform_output<S: Simd>(
    simd: S,
    products: &[f32],
    hidden: usize,
    (lines, w): (usize, usize),
    bias: &[f32],
    out: &mut [f32],
) {
    let (down, across) = (lines.div_ceil(TILE), w.div_ceil(TILE));
    let tiles = down * across;
    let plane = plane(tiles * hidden);
    assert!(products.len() >= VALUES * plane && out.len() == lines * w * hidden && bias.len() == hidden);
    assert!(hidden.is_multiple_of(S::F32_LANES));
    for tile in 0..tiles {
        let (line, column) = (tile / across * TILE, tile % across * TILE);
        let (inside_down, inside_across) = (TILE.min(lines - line), TILE.min(w - column));
        for channel in (0..hidden).step_by(S::F32_LANES) {
            // SAFETY: the last value that is read or written lies within the lengths asserted above.
            unsafe {
                let from = products.as_ptr().add(tile * hidden + channel);
                let to = out.as_mut_ptr().add((line * w + column) * hidden + channel);
                let bias = bias.as_ptr().add(channel).cast::<S::f32s>().read_unaligned();
                let mut columns = [[simd.splat_f32s(0.0); TILE]; INPUTS];
                for (j, column) in columns.iter_mut().enumerate() {
                    let mut m = [simd.splat_f32s(0.0); INPUTS];
                    for (i, m) in m.iter_mut().enumerate() {
                        let at = from.add((i * INPUTS + j) * plane);
                        *m = at.cast::<S::f32s>().read_unaligned();
                    }
                    *column = output_row(simd, m);
                }
                for i in 0..inside_down {
                    let mut m = [simd.splat_f32s(0.0); INPUTS];
                    for (m, column) in m.iter_mut().zip(&columns) {
                        *m = column[i];
                    }
                    for (j, value) in output_row(simd, m).into_iter().take(inside_across).enumerate() {
                        let at = to.add((i * w + j) * hidden);
                        at.cast::<S::f32s>().write_unaligned(simd.add_f32s(value, bias));
                    }
                }
            }
        }
    }
}
