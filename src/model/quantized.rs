// SPDX-License-Identifier: MPL-2.0
//! Weights of networks stored as bytes: half the size of bf16, or twice the network in a file.

use std::collections::HashMap;

use tch::{Kind, Tensor};

use super::ModelError;

/// Behind the name of a weight: that of its scales.
const SCALES: &str = ".scale";
/// Smaller tensors hardly take space.
const LEAST_VALUES: usize = 4096;
/// Largest stored value.
const LIMIT: f64 = 127.0;

/// Stores large weights `[rows, ...]` as i8 with an f32 scale for each row, everything else in `kind`.
pub fn quantize(floats: HashMap<String, Tensor>, kind: Kind) -> Result<HashMap<String, Tensor>, ModelError> {
    let mut stored = HashMap::new();
    for (name, tensor) in floats {
        if !name.ends_with(".weight") || tensor.dim() < 2 || tensor.numel() < LEAST_VALUES {
            stored.insert(name, tensor.f_to_kind(kind)?);
            continue;
        }
        let rows = tensor.f_to_kind(Kind::Float)?.f_flatten(1, -1)?;
        let scales = rows
            .f_abs()?
            .f_amax([1], true)?
            .f_clamp_min(f64::from(f32::MIN_POSITIVE))?
            / LIMIT;
        let values = rows.f_div(&scales)?.f_round()?.f_view(tensor.size().as_slice())?;
        stored.insert(format!("{name}{SCALES}"), scales.f_squeeze_dim(1)?);
        stored.insert(name, values.f_to_kind(Kind::Int8)?);
    }
    Ok(stored)
}

/// Inverse of `quantize`: weights that have scales become f32. An error where the two do not belong together.
pub fn dequantize(tensors: &mut HashMap<String, Tensor>) -> Result<(), ModelError> {
    let quantized: Vec<String> = tensors
        .keys()
        .filter_map(|name| name.strip_suffix(SCALES).map(str::to_string))
        .collect();
    for name in quantized {
        let scales = tensors.remove(&format!("{name}{SCALES}")).expect("its name was found");
        let misshapen = || ModelError::NotAModel(format!("{name} and its scales do not belong together"));
        let values = tensors.get_mut(&name).ok_or_else(misshapen)?;
        let size = values.size();
        if size.len() < 2 || scales.size() != size[..1] {
            return Err(misshapen());
        }
        let mut column = vec![1; size.len()];
        column[0] = size[0];
        *values = values
            .f_to_kind(Kind::Float)?
            .f_mul(&scales.f_view(column.as_slice())?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn weights_come_back_within_half_a_step_of_their_row() {
        tch::manual_seed(3);
        let weight = Tensor::randn([32, 16, 3, 3], (Kind::Float, Device::Cpu))
            * Tensor::rand([32, 1, 1, 1], (Kind::Float, Device::Cpu));
        let bias = Tensor::randn([32], (Kind::Float, Device::Cpu));
        let floats = [("a.weight", &weight), ("a.bias", &bias)].map(|(name, t)| (name.to_string(), t.shallow_clone()));
        let mut stored = quantize(floats.into(), Kind::BFloat16).unwrap();
        assert_eq!(stored["a.weight"].kind(), Kind::Int8);
        assert_eq!((stored["a.bias"].kind(), stored.len()), (Kind::BFloat16, 3));
        dequantize(&mut stored).unwrap();
        assert_eq!(stored.len(), 2);
        let steps = weight.abs().amax([1, 2, 3], true) / LIMIT;
        let error = ((&stored["a.weight"] - &weight).abs() / steps).max();
        assert!(f64::try_from(error).unwrap() <= 0.501);
    }

    #[test]
    fn a_row_of_zeros_stays_one() {
        let zeros = Tensor::zeros([64, 64], (Kind::Float, Device::Cpu));
        let mut stored = quantize([("a.weight".to_string(), zeros.shallow_clone())].into(), Kind::BFloat16).unwrap();
        dequantize(&mut stored).unwrap();
        assert_eq!(stored["a.weight"], zeros);
    }

    #[test]
    fn scales_without_their_weight_are_refused() {
        let tensor = |size: &[i64]| Tensor::ones(size, (Kind::Float, Device::Cpu));
        let mut alone = HashMap::from([("a.weight.scale".to_string(), tensor(&[4]))]);
        assert!(dequantize(&mut alone).is_err());
        let mut wrong = HashMap::from([
            ("a.weight.scale".to_string(), tensor(&[4])),
            ("a.weight".to_string(), tensor(&[5, 2])),
        ]);
        assert!(dequantize(&mut wrong).is_err());
    }
}
