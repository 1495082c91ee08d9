// SPDX-License-Identifier: MPL-2.0
//! Rules of the encoder for tensors, as the predictor's samples need them: digits that stay what they were, positions that are skipped.

use tch::{Device, Kind, Tensor};

use crate::codec::{CHANGE_BITS, COARSEST_WITH_SKIP_MAP, POSITION_BITS};

/// The digits of a unit: rounded, or those of the unit before where they are within reach. `values, before`: f32, of one shape;
/// `reach`, and `top` as of [`top_digits`], in shapes that fit.
pub(super) fn unit_digits(values: &Tensor, before: Option<&Tensor>, reach: &Tensor, top: &Tensor) -> Tensor {
    let exact = values.round().clamp_min(0.0).minimum(top);
    match before {
        Some(before) => before.where_self(&(values - before).abs().le_tensor(reach), &exact),
        None => exact,
    }
}

/// The largest value of each digit, `[6]` f32.
pub(super) fn top_digits(device: Device) -> Tensor {
    let top = crate::bitstream::FSQ_LEVELS.map(|levels| f32::from(levels - 1));
    Tensor::from_slice(&top).to_device(device)
}

/// Positions that keep what they were at a lambda (see [`crate::codec::OperatingPoint::skip_lambda`]) with the step of an index; `wanted, before` in steps, and in
/// what comes out `channels`, the dimension of these, is 1. Coarse steps hold whole pictures or nothing, which hardly ever happens to a
/// sample: nothing is skipped there.
pub(super) fn skip_map(wanted: &Tensor, before: &Tensor, (step, lambda): (usize, f64), channels: i64) -> Tensor {
    let sum = |xs: Tensor| xs.sum_dim_intlist([channels].as_slice(), true, Kind::Float);
    let nearest = wanted.round();
    let gained = sum((wanted - before).square() - (wanted - &nearest).square());
    let changed = sum(nearest.ne_tensor(&before.round()).to_kind(Kind::Float));
    let lambda = if step <= COARSEST_WITH_SKIP_MAP {
        lambda
    } else {
        f64::NEG_INFINITY
    };
    gained.le_tensor(&((changed * CHANGE_BITS + POSITION_BITS) * lambda))
}

#[cfg(test)]
mod tests {
    use super::super::latent_context_net::latent_steps;
    use super::super::segments::hysteresis;
    use super::*;
    use crate::codec::Analysis;
    use crate::entropy::{LatentMap, TokenMap, LATENT_SCALE};

    /// A clip of four units of 3x4 positions that change little by little, `[4, 3, 4, channels]` in 0 to 4.
    fn clip(channels: i64) -> Tensor {
        tch::manual_seed(3);
        let uniform = |size: &[i64]| Tensor::rand(size, (Kind::Float, Device::Cpu));
        let start = uniform(&[1, 3, 4, channels]) * 7.0;
        let moves = uniform(&[4, 3, 4, channels]) * 3.0 - 1.5;
        (start + moves).clamp(0.0, 4.0)
    }

    #[test]
    fn positions_are_skipped_as_the_encoder_skips_them() {
        let (channels, step, lambda) = (5, 30, 0.1);
        let size = latent_steps()[step];
        let map = |unit: &Tensor| LatentMap {
            width: 4,
            height: 3,
            channels: channels as usize,
            values: Vec::<f32>::try_from(unit.flatten(0, -1))
                .unwrap()
                .iter()
                .map(|v| *v as i32)
                .collect(),
        };
        let values = (clip(channels) * f64::from(LATENT_SCALE)).round();
        let (wanted, before) = (values.get(1), values.get(0));
        let in_steps = |unit: &Tensor| unit.to_kind(Kind::Double) / f64::from(size);
        let found = skip_map(&in_steps(&wanted), &in_steps(&before), (step, lambda), 2);
        let found: Vec<bool> = Vec::try_from(found.flatten(0, -1)).unwrap();
        assert!(found.contains(&true) && found.contains(&false));
        assert_eq!(
            found,
            crate::codec::skip_map(&map(&wanted), &map(&before), size, lambda)
        );
    }

    #[test]
    fn digits_keep_their_values_within_the_hysteresis_as_those_of_the_analysis() {
        let bounded = clip(6);
        let analysis = |unit: i64| Analysis {
            width: 4,
            height: 3,
            digits: Vec::try_from(bounded.get(unit).flatten(0, -1)).unwrap(),
            latents: None,
            weights: vec![1.0; 12],
        };
        let reach = 0.9;
        let mut before: Option<TokenMap> = None;
        let sent = hysteresis(&bounded, reach);
        for (unit, sent) in (0..).zip(&sent) {
            let map = analysis(unit).tokens(before.as_ref(), |_| reach);
            let found: Vec<i64> = Vec::try_from(sent.flatten(0, -1)).unwrap();
            let expected: Vec<i64> = map.tokens.as_flattened().iter().map(|&digit| digit.into()).collect();
            assert_eq!(found, expected, "unit {unit}");
            before = Some(map);
        }
    }
}
