// SPDX-License-Identifier: MPL-2.0
//! Tokens and latents as an encoder sends them, while the networks learn: digits that stay what they were, skipped positions,
//! latents that are left out. Decoders that only meet what is exact take the rest for something that moves.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::joint::uniform;
use super::latent_context_net::latent_steps;
use crate::bitstream::CodingScale;
use crate::codec::{
    operating_point, scale_of, OperatingPoint, CHANGE_BITS, COARSEST_WITH_SKIP_MAP, MAX_QUANTIZER, POSITION_BITS,
    SKIP_HYSTERESIS,
};
use crate::entropy::LATENT_SCALE;

/// Bits that a level takes more than the next one towards the expected one, about, unless that is the expected one itself.
const LEVEL_BITS: f64 = 1.5;

/// A clip's units, or the one in question.
pub(super) struct Sent {
    /// `[n * t', c, h', w']` f32.
    pub values: Tensor,
    /// Which positions are skipped: `[n * t', 1, h', w']` bool.
    pub skipped: Tensor,
}

/// The point of one of the quantizers that stand for a scale, each as likely as the others.
pub(super) fn draw_point(scale: CodingScale) -> OperatingPoint {
    let quantizers: Vec<u32> = (0..=MAX_QUANTIZER).filter(|&q| scale_of(q) == scale).collect();
    let at = (uniform() * quantizers.len() as f64) as usize;
    operating_point(quantizers[at], scale)
}

/// Latents `ys: [n * t', c, h', w']` of `n` clips as they are sent at a point; all zero where it sends none.
pub(super) fn latents(ys: &Tensor, n: i64, point: &OperatingPoint) -> Result<Sent> {
    let units = by_unit(ys, n)?;
    let none = |unit: &Tensor| unit.narrow(1, 0, 1).zeros_like().to_kind(Kind::Bool);
    let Some(step) = point.latent_step else {
        return Ok(Sent {
            values: ys.zeros_like(),
            skipped: none(ys),
        });
    };
    let sizes = latent_steps();
    let size_of = |index: usize| f64::from(sizes[index]) / f64::from(LATENT_SCALE);
    let (key_size, size) = (size_of(step.saturating_sub(point.key_qp_offset)), size_of(step));
    let (mut sent, mut skipped): (Vec<Tensor>, Vec<Tensor>) = (vec![], vec![]);
    for wanted in &units {
        let (values, positions) = match sent.last() {
            None => (rounded(&(wanted / key_size), None, point) * key_size, none(wanted)),
            Some(before) => {
                let (before, wanted) = (before / size, wanted / size);
                let values = rounded(&wanted, Some(&before), point);
                let positions = skip_map(&wanted, &before, (step, point.skip_lambda), 1);
                (before.where_self(&positions, &values) * size, positions)
            }
        };
        sent.push(values);
        skipped.push(positions);
    }
    Ok(Sent {
        values: by_clip(&sent)?,
        skipped: by_clip(&skipped)?,
    })
}

/// Real-valued digits `bounded: [n * t', 6, h', w']` of `n` clips as they are sent at a point, f32; `skipped`: see [`Sent`].
pub(super) fn digits(bounded: &Tensor, skipped: &Tensor, n: i64, point: &OperatingPoint) -> Result<Tensor> {
    let top = top_digits(bounded.device()).view([1, -1, 1, 1]);
    let mut sent: Vec<Tensor> = vec![];
    for (values, skipped) in by_unit(bounded, n)?.iter().zip(by_unit(skipped, n)?) {
        let usual = skipped.zeros_like().to_kind(Kind::Float) + point.hysteresis;
        let reach = usual.clamp_min(SKIP_HYSTERESIS).where_self(&skipped, &usual);
        sent.push(unit_digits(values, sent.last(), &reach, &top));
    }
    by_clip(&sent)
}

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

/// Levels of values in steps: the nearest, or the next one towards the expected one where that is worth its bits: see
/// [`crate::entropy::Rdoq`]. What is expected is that of the unit before where it is near, else 0.
fn rounded(values: &Tensor, before: Option<&Tensor>, point: &OperatingPoint) -> Tensor {
    let nearest = values.round();
    let expected = match before {
        Some(before) => {
            let zero = before.zeros_like();
            before
                .round()
                .where_self(&(values - before).abs().lt_tensor(&values.abs()), &zero)
        }
        None => values.zeros_like(),
    };
    let nearer = &nearest - (&nearest - &expected).sign();
    let worse = (values - &nearer).square() - (values - &nearest).square();
    let bits = nearer.eq_tensor(&expected).to_kind(Kind::Float) * (CHANGE_BITS - LEVEL_BITS) + LEVEL_BITS;
    let is_worth = worse.lt_tensor(&(bits * f64::from(point.rdoq.lambda)));
    nearer.where_self(&is_worth, &nearest)
}

/// Positions that keep what they were at a lambda (see [`OperatingPoint::skip_lambda`]) with the step of an index; `wanted, before` in steps, and in
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

/// `[n * t', ...]` -> the `t'` units, `[n, ...]`.
fn by_unit(xs: &Tensor, n: i64) -> Result<Vec<Tensor>> {
    let size = xs.size();
    let units = xs.f_reshape([&[n, -1], &size[1..]].concat())?;
    Ok(units.f_unbind(1)?)
}

/// The inverse of [`by_unit`].
fn by_clip(units: &[Tensor]) -> Result<Tensor> {
    Ok(Tensor::f_stack(units, 1)?.f_flatten(0, 1)?)
}

#[cfg(test)]
mod tests {
    use super::super::segments::{hysteresis, Segment};
    use super::*;
    use crate::codec::{Analysis, Rdoq};
    use crate::entropy::{LatentMap, TokenMap};

    fn point(latent_step: Option<usize>, skip_lambda: f64, lambda: f32) -> OperatingPoint {
        OperatingPoint {
            hysteresis: 0.9,
            latent_step,
            key_qp_offset: 0,
            mask_ratio: 0.0,
            rdoq: Rdoq { lambda },
            skip_lambda,
            residual_step: None,
        }
    }

    /// Two clips of four units of 3x4 positions that change little by little, `[8, channels, 3, 4]` in 0 to 7.
    fn clips(channels: i64) -> Tensor {
        tch::manual_seed(3);
        let uniform = |size: &[i64]| Tensor::rand(size, (Kind::Float, Device::Cpu));
        let start = uniform(&[2, 1, channels, 3, 4]) * 7.0;
        let moves = uniform(&[2, 4, channels, 3, 4]) * 3.0 - 1.5;
        (start + moves).clamp(0.0, 4.0).flatten(0, 1)
    }

    fn clip(xs: &Tensor, at: i64) -> Tensor {
        xs.narrow(0, 4 * at, 4).permute([0, 2, 3, 1]).contiguous()
    }

    #[test]
    fn latents_are_those_that_the_predictor_learns_from() {
        let scale = f64::from(LATENT_SCALE);
        let ys = (clips(5) * scale).round() / scale;
        let sent = latents(&ys, 2, &point(Some(30), 0.1, 0.0)).unwrap();
        for at in 0..2 {
            let segment = Segment {
                tokens: vec![],
                latents: Some(clip(&ys, at) * scale),
            };
            let units = segment.quantised(&[0, 1, 2, 3], 30, 0.1).unwrap();
            let values = Tensor::stack(&units.iter().map(|unit| &unit.values).collect::<Vec<_>>(), 0);
            let skipped = Tensor::stack(&units.iter().map(|unit| &unit.skipped).collect::<Vec<_>>(), 0);
            assert!(
                bool::try_from(skipped.any()).unwrap() && !bool::try_from(skipped.slice(0, 1, None, 1).all()).unwrap()
            );
            assert_eq!(clip(&sent.skipped, at).squeeze_dim(3), skipped);
            let error = (clip(&sent.values, at) * scale - values).abs().max();
            assert!(f64::try_from(error).unwrap() < 1e-2);
        }
    }

    #[test]
    fn digits_are_those_that_the_predictor_learns_from() {
        let bounded = clips(6);
        let skipped = Tensor::zeros([8, 1, 3, 4], (Kind::Bool, Device::Cpu));
        let sent = digits(&bounded, &skipped, 2, &point(None, 0.0, 0.0)).unwrap();
        for at in 0..2 {
            let units = hysteresis(&clip(&bounded, at), 0.9);
            assert_eq!(clip(&sent, at).to_kind(Kind::Int64), Tensor::stack(&units, 0));
        }
        let everywhere = digits(&bounded, &skipped.ones_like(), 2, &point(None, 0.0, 0.0)).unwrap();
        assert_eq!(everywhere, sent, "a hysteresis that is wide enough stays as it is");
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
        let values = (clip(&clips(channels), 0) * f64::from(LATENT_SCALE)).round();
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
        let clips = clips(6);
        let bounded = clip(&clips, 0);
        let analysis = |unit: i64| Analysis {
            width: 4,
            height: 3,
            digits: Vec::try_from(bounded.get(unit).flatten(0, -1)).unwrap(),
            latents: None,
        };
        let reach = 0.9;
        let mut before: Option<TokenMap> = None;
        let skipped = Tensor::zeros([8, 1, 3, 4], (Kind::Bool, Device::Cpu));
        let sent = clip(&digits(&clips, &skipped, 2, &point(None, 0.0, 0.0)).unwrap(), 0);
        for unit in 0..4 {
            let map = analysis(unit).tokens(before.as_ref(), |_| reach);
            let found: Vec<f32> = Vec::try_from(sent.get(unit).flatten(0, -1)).unwrap();
            let expected: Vec<f32> = map.tokens.as_flattened().iter().map(|&digit| digit.into()).collect();
            assert_eq!(found, expected, "unit {unit}");
            before = Some(map);
        }
    }

    #[test]
    fn a_point_without_latents_sends_zeros() {
        let sent = latents(&clips(5), 2, &point(None, 0.1, 0.0)).unwrap();
        assert_eq!(
            (sent.values.size()[1], f64::try_from(sent.values.abs().max()).unwrap()),
            (5, 0.0)
        );
        assert!(!bool::try_from(sent.skipped.any()).unwrap());
    }

    #[test]
    fn levels_move_towards_what_is_expected_where_bits_are_worth_it() {
        let level = |value: f32, before: Option<f32>, lambda| {
            let before = before.map(|before| Tensor::from_slice(&[before]));
            let level = rounded(
                &Tensor::from_slice(&[value]),
                before.as_ref(),
                &point(None, 0.0, lambda),
            );
            f64::try_from(level.get(0)).unwrap()
        };
        // The error grows by 0.36 - 0.16 for five bits less.
        assert_eq!((level(0.6, None, 0.03), level(0.6, None, 0.05)), (1.0, 0.0));
        assert_eq!(
            (level(-2.6, Some(-2.0), 0.05), level(-2.6, Some(2.0), 0.05)),
            (-2.0, -3.0)
        );
    }

    #[test]
    fn points_are_those_of_the_scale() {
        for _ in 0..50 {
            assert!(draw_point(CodingScale::Half).latent_step.is_none_or(|step| step > 40));
            assert!(draw_point(CodingScale::OneAndAHalf).residual_step.is_some());
        }
    }
}
