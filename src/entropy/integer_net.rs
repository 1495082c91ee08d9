// SPDX-License-Identifier: MPL-2.0
//! Small networks in integers: layers as they stand in the model file, and ready to run.

use super::EntropyError;

/// log2 of the unit of the multipliers.
pub const MULTIPLIER_BITS: u32 = 24;

/// One dense layer: i8 weights, i32 biases, and an i32 multiplier per output (in 2^-24).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// `[outputs][inputs]`.
    pub weights: Vec<i8>,
    /// `[outputs]`, in the unit of the sums.
    pub biases: Vec<i32>,
    /// `[outputs]`: result = sum * multiplier / 2^24, rounded.
    pub multipliers: Vec<i32>,
}

impl Layer {
    /// Fails if it is not `inputs` -> `outputs` or a bias could overflow a sum.
    pub(super) fn check(&self, name: &str, inputs: usize, outputs: usize) -> Result<(), EntropyError> {
        let lengths = (self.weights.len(), self.biases.len(), self.multipliers.len());
        let bounded = self.biases.iter().all(|b| b.unsigned_abs() < 1 << 28);
        if lengths == (inputs * outputs, outputs, outputs) && bounded {
            return Ok(());
        }
        Err(EntropyError::Model(format!(
            "layer {name} is not {inputs} -> {outputs}"
        )))
    }

    /// Gives all numbers, in a fixed order.
    pub(super) fn each(&self, ints: &mut impl FnMut(&[i32])) {
        ints(&self.weights.iter().map(|&w| w.into()).collect::<Vec<_>>());
        ints(&self.biases);
        ints(&self.multipliers);
    }
}

/// i16 values in a vector register.
#[cfg(target_arch = "x86_64")]
const LANES: usize = 16;

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

    /// Four outputs at a time share the loads of the inputs and the last additions.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    unsafe fn sums_avx2(&self, inputs: &[i16], mut f: impl FnMut(usize, i32)) {
        use std::arch::x86_64::*;
        let whole = inputs.len() / LANES * LANES;
        let groups = self.weights.chunks_exact(4 * inputs.len());
        let first_left = self.biases.len() / 4 * 4;
        for (group, weights) in groups.enumerate() {
            let row = |r: usize| &weights[r * inputs.len()..][..inputs.len()];
            // `array::from_fn` cannot inline a closure of a function with more features than it has.
            let rows = [row(0), row(1), row(2), row(3)];
            let mut sums = [_mm256_setzero_si256(); 4];
            for i in (0..whole).step_by(LANES) {
                // SAFETY: i + 16 <= whole, which is at most the length of the inputs and of each row.
                let a = unsafe { _mm256_loadu_si256(inputs.as_ptr().add(i).cast()) };
                for (sum, row) in sums.iter_mut().zip(rows) {
                    // SAFETY: as above.
                    let w = unsafe { _mm256_loadu_si256(row.as_ptr().add(i).cast()) };
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(w, a));
                }
            }
            let pairs = [_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3])];
            let quads = _mm256_hadd_epi32(pairs[0], pairs[1]);
            let total = _mm_add_epi32(_mm256_castsi256_si128(quads), _mm256_extracti128_si256::<1>(quads));
            let mut totals = [0i32; 4];
            // SAFETY: four i32 are 16 bytes.
            unsafe { _mm_storeu_si128(totals.as_mut_ptr().cast(), total) };
            for (r, total) in totals.into_iter().enumerate() {
                let output = 4 * group + r;
                f(
                    output,
                    self.biases[output] + total + dot(&rows[r][whole..], &inputs[whole..]),
                );
            }
        }
        let left = self.weights.chunks_exact(inputs.len()).enumerate().skip(first_left);
        left.for_each(|(output, row)| f(output, self.biases[output] + dot(row, inputs)));
    }

    fn sums_portable(&self, inputs: &[i16], mut f: impl FnMut(usize, i32)) {
        for (output, (row, bias)) in self.weights.chunks_exact(inputs.len()).zip(&self.biases).enumerate() {
            f(output, bias + dot(row, inputs));
        }
    }

    /// An output's sum in the unit of the results.
    #[inline]
    pub(super) fn rescale(&self, output: usize, sum: i32) -> i64 {
        let product = i64::from(sum) * i64::from(self.multipliers[output]);
        (product + (1 << (MULTIPLIER_BITS - 1))) >> MULTIPLIER_BITS
    }
}

#[inline(always)]
fn dot(row: &[i16], inputs: &[i16]) -> i32 {
    row.iter().zip(inputs).map(|(&w, &a)| i32::from(w) * i32::from(a)).sum()
}

/// Adds rows of a table, each as long as `sums`, to the sums.
pub(super) fn add_rows(sums: &mut [i32], table: &[i16], rows: &[usize]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { add_rows_avx2(sums, table, rows) };
    }
    add_rows_portable(sums, table, rows);
}

/// The same code, compiled for wider registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn add_rows_avx2(sums: &mut [i32], table: &[i16], rows: &[usize]) {
    add_rows_portable(sums, table, rows);
}

/// Columns whose sums stay in registers over all rows.
const BLOCK: usize = 32;

#[inline(always)]
fn add_rows_portable(sums: &mut [i32], table: &[i16], rows: &[usize]) {
    let (width, whole) = (sums.len(), sums.len() / BLOCK * BLOCK);
    let (blocks, left) = sums.as_chunks_mut::<BLOCK>();
    for (block, at) in blocks.iter_mut().zip((0..).step_by(BLOCK)) {
        let mut totals = *block;
        for row in rows {
            add(&mut totals, &table[row * width + at..][..BLOCK]);
        }
        *block = totals;
    }
    for row in rows {
        add(left, &table[row * width + whole..]);
    }
}

#[inline(always)]
fn add(sums: &mut [i32], values: &[i16]) {
    sums.iter_mut().zip(values).for_each(|(sum, &v)| *sum += i32::from(v));
}

/// Clipped ReLU: activations are 0 to 255.
#[inline]
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
        for (width, outputs) in [(96, 32), (16, 4), (160, 96), (37, 9), (5, 3)] {
            let dense = Dense::new(&numbers.layer(width, outputs, 1));
            let inputs: Vec<i16> = (0..width).map(|_| numbers.next(127) as i16 + 128).collect();
            let (mut fast, mut portable) = (vec![], vec![]);
            dense.sums(&inputs, |o, sum| fast.push((o, sum)));
            dense.sums_portable(&inputs, |o, sum| portable.push((o, sum)));
            assert_eq!(fast, portable, "{width} -> {outputs}");
        }
    }

    #[test]
    fn rows_add_up_the_same_in_every_instruction_set() {
        let mut numbers = Numbers(4);
        for width in [96, 37, 5] {
            let table: Vec<i16> = numbers.many(7 * width, 30_000);
            let (mut fast, rows) = (vec![-3; width], [6, 0, 2, 2]);
            let expected: Vec<i32> = (0..width)
                .map(|i| rows.iter().map(|row| i32::from(table[row * width + i])).sum::<i32>() - 3)
                .collect();
            let mut portable = fast.clone();
            add_rows(&mut fast, &table, &rows);
            add_rows_portable(&mut portable, &table, &rows);
            assert_eq!((&fast, &portable), (&expected, &expected), "{width} columns");
        }
    }
}
