// SPDX-License-Identifier: MPL-2.0
//! Dense layers in integers.

use super::weights::{Layer, MULTIPLIER_BITS};

/// Weights of a layer as i16: products of i16 pairs are what compilers turn into multiply-add instructions.
#[derive(Debug)]
pub(super) struct Dense {
    weights: Vec<i16>,
    biases: Vec<i32>,
    multipliers: Vec<i32>,
}

impl Dense {
    pub(super) fn new(layer: &Layer) -> Dense {
        Dense {
            weights: layer.weights.iter().map(|&w| w.into()).collect(),
            biases: layer.biases.clone(),
            multipliers: layer.multipliers.clone(),
        }
    }

    /// Calls `f(output, sum)` for every output. Integer sums come out the same in every instruction set.
    pub(super) fn sums(&self, inputs: &[i16], f: impl FnMut(usize, i32)) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            return unsafe { self.sums_avx2(inputs, f) };
        }
        self.sums_portable(inputs, f);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    unsafe fn sums_avx2(&self, inputs: &[i16], f: impl FnMut(usize, i32)) {
        self.sums_portable(inputs, f);
    }

    #[inline(always)]
    fn sums_portable(&self, inputs: &[i16], mut f: impl FnMut(usize, i32)) {
        for (o, (row, bias)) in self.weights.chunks_exact(inputs.len()).zip(&self.biases).enumerate() {
            let dot: i32 = row.iter().zip(inputs).map(|(&w, &a)| i32::from(w) * i32::from(a)).sum();
            f(o, bias + dot);
        }
    }

    /// An output's sum in the unit of the results.
    pub(super) fn rescale(&self, output: usize, sum: i32) -> i64 {
        let product = i64::from(sum) * i64::from(self.multipliers[output]);
        (product + (1 << (MULTIPLIER_BITS - 1))) >> MULTIPLIER_BITS
    }
}

/// Clipped ReLU: activations are 0 to 255.
pub(super) fn activate(value: i64) -> i16 {
    value.clamp(0, 255) as i16
}

#[cfg(test)]
mod tests {
    use super::super::numbers::Numbers;
    use super::*;

    #[test]
    fn sums_are_the_same_in_every_instruction_set() {
        let mut numbers = Numbers(9);
        let dense = Dense::new(&numbers.layer(96, 32, 1));
        let inputs: Vec<i16> = (0..96).map(|_| numbers.next(127) as i16 + 128).collect();
        let (mut fast, mut portable) = (vec![], vec![]);
        dense.sums(&inputs, |_, sum| fast.push(sum));
        dense.sums_portable(&inputs, |_, sum| portable.push(sum));
        assert_eq!(fast, portable);
    }
}
