// SPDX-License-Identifier: MPL-2.0
//! The orthonormal discrete cosine transform of 8x8 samples.

use std::f32::consts::PI;
use std::sync::LazyLock;

/// Samples of a block, row by row, or its coefficients.
pub type Block = [f32; 64];

/// Row k: the basis function of frequency k.
static BASIS: LazyLock<[[f32; 8]; 8]> = LazyLock::new(|| {
    std::array::from_fn(|k| {
        let scale = if k == 0 { 0.125f32 } else { 0.25 }.sqrt();
        std::array::from_fn(|n| scale * (PI / 8.0 * (n as f32 + 0.5) * k as f32).cos())
    })
});

pub fn forward(samples: &Block) -> Block {
    let basis = &*BASIS;
    transposed_product(&transposed_product(samples, |k, n| basis[k][n]), |k, n| basis[k][n])
}

pub fn inverse(coefficients: &Block) -> Block {
    let basis = &*BASIS;
    transposed_product(&transposed_product(coefficients, |n, k| basis[k][n]), |n, k| {
        basis[k][n]
    })
}

/// The transposed product of a matrix with a block's transpose: applied twice, both sides are transformed.
fn transposed_product(block: &Block, matrix: impl Fn(usize, usize) -> f32) -> Block {
    let mut out = [0.0; 64];
    for row in 0..8 {
        for k in 0..8 {
            out[k * 8 + row] = (0..8).map(|n| matrix(k, n) * block[row * 8 + n]).sum();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_and_keep_their_energy() {
        let samples: Block = std::array::from_fn(|i| ((i * 37) % 101) as f32 - 50.0);
        let coefficients = forward(&samples);
        let energy = |block: &Block| block.iter().map(|v| v * v).sum::<f32>();
        assert!((energy(&samples) / energy(&coefficients) - 1.0).abs() < 1e-5);
        let back = inverse(&coefficients);
        assert!(back.iter().zip(&samples).all(|(a, b)| (a - b).abs() < 1e-3));
    }

    #[test]
    fn rows_change_along_the_first_row_of_coefficients() {
        let constant = forward(&[3.0; 64]);
        assert!((constant[0] - 24.0).abs() < 1e-4 && constant[1..].iter().all(|v| v.abs() < 1e-4));
        let columns: Block = std::array::from_fn(|i| (i % 8) as f32);
        let found = forward(&columns);
        assert!(found[1].abs() > 1.0 && found[8].abs() < 1e-4);
    }
}
