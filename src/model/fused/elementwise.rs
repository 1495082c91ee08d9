// SPDX-License-Identifier: MPL-2.0
//! Layer norm and SiLU over slices.

use pulp::Simd;

/// What libtorch adds to the variance.
const EPSILON: f32 = 1e-5;

/// Layer norm over channels.
#[derive(Debug)]
pub struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Norm {
    pub fn new(weight: Vec<f32>, bias: Vec<f32>) -> Norm {
        Norm { weight, bias }
    }

    pub fn channels(&self) -> usize {
        self.weight.len()
    }

    /// `xs: [positions, c]`, the same out; c is a multiple of the width of a register.
    #[inline(always)]
    pub fn apply<S: Simd>(&self, simd: S, xs: &[f32], out: &mut [f32]) {
        let c = self.channels();
        let (weight, bias) = (S::as_simd_f32s(&self.weight).0, S::as_simd_f32s(&self.bias).0);
        for (xs, out) in xs.chunks_exact(c).zip(out.chunks_exact_mut(c)) {
            let (xs, out) = (S::as_simd_f32s(xs).0, S::as_mut_simd_f32s(out).0);
            let mut sum = simd.splat_f32s(0.0);
            for x in xs {
                sum = simd.add_f32s(sum, *x);
            }
            let mean = simd.splat_f32s(simd.reduce_sum_f32s(sum) / c as f32);
            let mut squares = simd.splat_f32s(0.0);
            for x in xs {
                let d = simd.sub_f32s(*x, mean);
                squares = simd.mul_add_f32s(d, d, squares);
            }
            let variance = simd.reduce_sum_f32s(squares) / c as f32;
            let scale = simd.splat_f32s(1.0 / (variance + EPSILON).sqrt());
            for (((x, y), weight), bias) in xs.iter().zip(out).zip(weight).zip(bias) {
                let normal = simd.mul_f32s(simd.sub_f32s(*x, mean), scale);
                *y = simd.mul_add_f32s(normal, *weight, *bias);
            }
        }
    }
}

/// `x / (1 + exp(-x))` in place.
#[inline(always)]
pub fn silu(xs: &mut [f32]) {
    for x in xs {
        *x /= 1.0 + exp(-*x);
    }
}

/// `exp(x)` within 2e-7 of its value: 2^n by the exponent's bits and a polynomial of the rest in [-ln(2) / 2, ln(2) / 2], with the
/// coefficients of Cephes' expf.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Added to a small number it leaves the nearest integer in the lowest bits.
    const TO_INTEGER: f32 = 12_582_912.0;
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, TO_INTEGER);
    let n = shifted - TO_INTEGER;
    let r = (-n).mul_add(LN_2.1, (-n).mul_add(LN_2.0, x));
    let mut p = 1.987_569_1e-4_f32;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(r, coefficient);
    }
    let fraction = (p * r).mul_add(r, r + 1.0);
    f32::from_bits(fraction.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_as_exact_as_its_numbers() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let right = f64::from(x).exp();
            let off = (f64::from(super::exp(x)) - right).abs() / right;
            assert!(off < 2e-7, "exp({x}) is off by {off} of its value");
        }
        assert!(super::exp(f32::NEG_INFINITY) < 1e-37);
        assert!(super::exp(f32::INFINITY) > 1e38);
    }
}
