// SPDX-License-Identifier: MPL-2.0
//! Finite scalar quantisation (Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple", 2023), with
//! the constants of NVIDIA's Cosmos tokenizer.

use tch::{Kind, Tensor};

type Result<T> = std::result::Result<T, tch::TchError>;

/// Maps each channel of a latent to one of a few evenly spaced values.
#[derive(Debug, Clone)]
pub struct Fsq {
    levels: Vec<i64>,
}

impl Fsq {
    /// One entry of `levels` per channel: the number of its values, at least 2.
    pub fn new(levels: &[i64]) -> Fsq {
        Fsq {
            levels: levels.to_vec(),
        }
    }

    /// With the levels of Cosmos' tokens.
    pub fn cosmos() -> Fsq {
        Fsq::new(&crate::bitstream::FSQ_LEVELS.map(i64::from))
    }

    /// NVIDIA's numbering of tokens, the first digit counting least: digits `[n, 6, h, w]` of any kind -> i64
    /// `[n, h, w]` in 0..64000.
    pub fn indices(&self, digits: &Tensor) -> Result<Tensor> {
        let mut indices = digits.f_select(1, 0)?.f_to_kind(Kind::Int64)?;
        let mut basis = 1;
        for k in 1..self.levels.len() {
            basis *= self.levels[k - 1];
            indices = indices.f_add(
                &digits
                    .f_select(1, k as i64)?
                    .f_to_kind(Kind::Int64)?
                    .f_mul_scalar(basis)?,
            )?;
        }
        Ok(indices)
    }

    /// Inverse of [`Self::indices`], as codes: `[n, h, w]` -> `[n, 6, h, w]` f32. Digits are kept in range.
    pub fn codes_of_indices(&self, indices: &Tensor) -> Result<Tensor> {
        let mut rest = indices.f_to_kind(Kind::Int64)?.f_clamp_min(0)?;
        let mut digits = Vec::with_capacity(self.levels.len());
        for &levels in &self.levels {
            digits.push(rest.f_remainder(levels)?);
            rest = rest.f_floor_divide_scalar(levels)?;
        }
        self.codes(&Tensor::f_stack(&digits, 1)?)
    }

    fn per_channel(&self, like: &Tensor, f: impl Fn(i64) -> f64) -> Tensor {
        let values: Vec<f32> = self.levels.iter().map(|&l| f(l) as f32).collect();
        Tensor::from_slice(&values).to_device(like.device()).view([1, -1, 1, 1])
    }

    /// The latent before rounding, as a real-valued digit: `zs: [n, 6, h, w]` f32 -> about 0 ..= L - 1.
    pub fn bound(&self, zs: &Tensor) -> Result<Tensor> {
        let offset = |l: i64| if l % 2 == 0 { 0.5 } else { 0.0 };
        let half = |l: i64| (l - 1) as f64 * 1.001 / 2.0;
        let shift = self.per_channel(zs, |l| (offset(l) / half(l)).atanh());
        let ys = zs.f_add(&shift)?.f_tanh()?.f_mul(&self.per_channel(zs, half))?;
        ys.f_add(&self.per_channel(zs, |l| (l / 2) as f64 - offset(l)))
    }

    /// `zs: [n, 6, h, w]` f32 -> digits u8 in 0..L, rounding half to even.
    pub fn digits(&self, zs: &Tensor) -> Result<Tensor> {
        self.round(&self.bound(zs)?)?.f_to_kind(Kind::Uint8)
    }

    /// Rounds real-valued digits and keeps them in range.
    pub fn round(&self, bounded: &Tensor) -> Result<Tensor> {
        bounded
            .f_round()?
            .f_clamp_min(0.0)?
            .f_minimum(&self.per_channel(bounded, |l| (l - 1) as f64))
    }

    /// Digits `[n, 6, h, w]` of any kind -> codes f32 in [-1, 1]: (digit - L/2) / (L/2), L/2 rounded down.
    pub fn codes(&self, digits: &Tensor) -> Result<Tensor> {
        digits
            .f_to_kind(Kind::Float)?
            .f_sub(&self.per_channel(digits, |l| (l / 2) as f64))?
            .f_div(&self.per_channel(digits, |l| (l / 2) as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn large_latents_reach_the_first_and_the_last_digit_and_no_further() {
        let (low, high) = (-30.0, 30.0);
        for (z, want) in [(low, [0.0; 6]), (high, [7.0, 7.0, 7.0, 4.0, 4.0, 4.0])] {
            let zs = Tensor::full([1, 6, 1, 1], z, (Kind::Float, Device::Cpu));
            let digits = Vec::<f32>::try_from(Fsq::cosmos().digits(&zs).unwrap().flatten(0, -1).to_kind(Kind::Float));
            assert_eq!(digits.unwrap(), want);
        }
    }

    #[test]
    fn zero_latent_is_code_zero() {
        let zs = Tensor::zeros([1, 6, 1, 1], (Kind::Float, Device::Cpu));
        let codes = Fsq::cosmos().codes(&Fsq::cosmos().digits(&zs).unwrap()).unwrap();
        assert_eq!(f64::try_from(codes.abs().max()).unwrap(), 0.0);
    }

    #[test]
    fn indices_number_the_tokens_as_nvidia_does_and_back() {
        let digits = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 1.0, 2.0]).view([1, 6, 1, 1]);
        let indices = Fsq::cosmos().indices(&digits).unwrap();
        assert_eq!(
            indices.int64_value(&[0, 0, 0]),
            1 + 2 * 8 + 3 * 64 + 4 * 512 + 2560 + 2 * 12800
        );
        let codes = Fsq::cosmos().codes_of_indices(&indices).unwrap();
        assert_eq!(codes, Fsq::cosmos().codes(&digits).unwrap());
    }

    #[test]
    fn codes_span_minus_one_to_one() {
        let digits = Tensor::from_slice(&[0f32, 4.0, 7.0, 0.0, 2.0, 4.0]).view([1, 6, 1, 1]);
        let codes = Vec::<f32>::try_from(Fsq::cosmos().codes(&digits).unwrap().flatten(0, -1)).unwrap();
        assert_eq!(codes, [-1.0, 0.0, 0.75, -1.0, 0.0, 1.0]);
    }
}
