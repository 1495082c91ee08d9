// SPDX-License-Identifier: MPL-2.0
//! Operating points: what each value of the quantizer means.

use crate::bitstream::CodingScale;
use crate::codec::encoder::decide::Rdoq;

/// Largest value of the quantizer.
pub const MAX_QUANTIZER: u32 = 63;
/// Middle of the range.
pub const DEFAULT_QUANTIZER: u32 = 32;
/// From this position on the curve on there are no latents: tokens alone.
const FIRST_WITHOUT_LATENTS: u32 = 54;

/// The scales, the largest first, and the last quantizer of each: where pictures are too large for a scale, its quantizers
/// stand for the next one.
pub const SCALES: [(CodingScale, u32); 5] = [
    (CodingScale::Double, 7),
    (CodingScale::OneAndAHalf, 15),
    (CodingScale::Single, 41),
    (CodingScale::TwoThirds, 51),
    (CodingScale::Half, MAX_QUANTIZER),
];
/// The last quantizer that enlarges pictures.
pub const LAST_ENLARGED: u32 = SCALES[1].1;
/// No picture is enlarged to more than this by itself, 640x360: what two cores code in real time.
const MAX_CODED_SAMPLES: u64 = 640 * 360;

/// What a unit spends its bits on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperatingPoint {
    /// How far a real-valued digit may be from the previous unit's value to keep it, in steps of the digit, if a change costs what changes do in
    /// the mean: 0.5 at least, where changes are free.
    pub hysteresis: f64,
    /// Index of the latents' quantisation step; None = no latents.
    pub latent_step: Option<usize>,
    /// By how many indices finer key units are quantised: what stands still after them is skipped, and stays as good.
    pub key_qp_offset: usize,
    /// Share of the tokens that are not sent, 0 to 0.9.
    pub mask_ratio: f64,
    /// How the latents are rounded.
    pub rdoq: Rdoq,
    /// What a bit is worth in squared steps where positions are skipped, that is keep the latents of the unit before; 0 skips none but
    /// those that are better as they were.
    pub skip_lambda: f64,
    /// Index of the quantisation step of the residual of what stands still; `None`: no residual is sent.
    pub residual_step: Option<usize>,
}

/// How good a unit is to be: a value on the quantizer's scale, and how much of its residual is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// 0 (best) to 63 (smallest); points between two quantizers are between theirs.
    pub quantizer: f64,
    /// Bits that the unit's residual may take, about; `None`: all that its point sends.
    pub residual_bits: Option<f64>,
    /// Whether the unit changes nothing, whatever its frames show: the smallest that there is. Only of delta units.
    pub repeats: bool,
}

impl From<f64> for Quality {
    fn from(quantizer: f64) -> Quality {
        Quality {
            quantizer,
            residual_bits: None,
            repeats: false,
        }
    }
}

impl From<u32> for Quality {
    fn from(quantizer: u32) -> Quality {
        f64::from(quantizer).into()
    }
}

/// A position on the curve with its hysteresis, latent step, mask ratio and lambda; between two of them they change evenly.
struct Knot(u32, f64, f64, f64, f64);

/// The points on the edge of LPIPS, PSNR and SSIMULACRA2 over bits, 0.01, 0.25 dB and 2 being worth the same, among some sixty combinations on
/// clips that the model was trained on. Latents finer than the first cost bits and show nothing for them. Steps coarser than 44 save less than
/// a higher price of a bit and digits that stay for longer. The tokens that are masked first are those that hardly cost anything: masking
/// starts where it saves something.
const CURVE: [Knot; 13] = [
    Knot(0, 0.5, 12.0, 0.0, 0.06),
    Knot(20, 0.5, 36.0, 0.0, 0.06),
    Knot(32, 0.65, 39.0, 0.0, 0.06),
    Knot(40, 0.8, 42.0, 0.0, 0.06),
    Knot(44, 0.9, 44.0, 0.0, 0.06),
    Knot(46, 1.2, 44.0, 0.0, 0.06),
    Knot(48, 1.6, 44.0, 0.0, 0.12),
    Knot(50, 1.7, 44.0, 0.0, 0.2),
    Knot(52, 2.0, 46.0, 0.0, 0.2),
    Knot(53, 2.0, 46.0, 0.0, 0.45),
    Knot(55, 2.2, 47.0, 0.0, 0.5),
    Knot(56, 1.8, 47.0, 0.6, 0.5),
    Knot(63, 1.5, 47.0, 0.9, 0.5),
];

/// See [`OperatingPoint::skip_lambda`].
const SKIP_LAMBDA: f64 = 0.08;
/// See [`OperatingPoint::key_qp_offset`]: at the positions up to this one, and one less with each position after it, down to the least.
const KEY_QP_OFFSET: usize = 6;
const KEY_QP_OFFSET_UP_TO: usize = 40;
const LEAST_KEY_QP_OFFSET: usize = 2;

/// Indices of the residual's steps.
const FINEST_RESIDUAL: u32 = 11;
pub const COARSEST_RESIDUAL: u32 = 20;
/// The last quantizer that sends any residual.
pub const LAST_WITH_RESIDUAL: u32 = 15;

/// Where on [`CURVE`] the points of a scale stand: a quantizer and its position. Between two of them positions change
/// evenly. Where a picture without latents, or with most of its tokens masked, would be next, a smaller one is better at the
/// same bits; masking is for what nothing else reaches.
const HALF: [(u32, u32); 6] = [(0, 10), (52, 50), (56, 53), (57, 55), (58, 56), (63, 63)];
const TWO_THIRDS: [(u32, u32); 4] = [(0, 10), (42, 48), (51, 53), (63, 63)];
const SINGLE: [(u32, u32); 6] = [(0, 0), (16, 20), (22, 32), (28, 41), (41, 52), (63, 63)];
const ONE_AND_A_HALF: [(u32, u32); 4] = [(0, 12), (8, 28), (15, 43), (63, 63)];
const DOUBLE: [(u32, u32); 3] = [(0, 18), (7, 42), (63, 63)];

/// The largest scale that the codec chooses for pictures of a width and height.
pub fn largest_scale((width, height): (u32, u32)) -> CodingScale {
    let fits =
        |scale: &&CodingScale| u64::from(scale.coded(width)) * u64::from(scale.coded(height)) <= MAX_CODED_SAMPLES;
    CodingScale::ALL
        .iter()
        .rev()
        .find(fits)
        .copied()
        .unwrap_or_default()
        .max(CodingScale::Single)
}

/// The scale that a quantizer stands for.
pub fn scale_of(quantizer: u32) -> CodingScale {
    let found = SCALES.iter().find(|(_, last)| quantizer <= *last);
    found.map_or(CodingScale::Half, |(scale, _)| *scale)
}

/// The point of a quantizer, 0 (best) to 63 (smallest), for pictures coded at a scale: of each scale, first the latents get
/// coarser, then tokens become more reluctant to change, then the latents are left out, then more and more of the tokens.
pub fn operating_point(quantizer: u32, scale: CodingScale) -> OperatingPoint {
    point_between(quantizer.into(), scale)
}

/// The same of any value on the quantizer's scale.
pub fn point_between(quantizer: f64, scale: CodingScale) -> OperatingPoint {
    let quantizer = quantizer.clamp(0.0, MAX_QUANTIZER.into());
    let position = |quantizer: f64| f64::from(position(positions(scale), quantizer as u32));
    let (finer, coarser) = (position(quantizer.floor()), position(quantizer.ceil()));
    OperatingPoint {
        residual_step: residual_step(quantizer.round() as u32),
        ..point_at(finer + (coarser - finer) * quantizer.fract())
    }
}

/// See [`OperatingPoint::residual_step`]. Coarser residual than the last is worth less than finer tokens.
fn residual_step(quantizer: u32) -> Option<usize> {
    let step = (FINEST_RESIDUAL + quantizer * 3 / 4).min(COARSEST_RESIDUAL);
    (quantizer <= LAST_WITH_RESIDUAL).then_some(step as usize)
}

fn positions(scale: CodingScale) -> &'static [(u32, u32)] {
    match scale {
        CodingScale::Half => &HALF,
        CodingScale::TwoThirds => &TWO_THIRDS,
        CodingScale::Single => &SINGLE,
        CodingScale::OneAndAHalf => &ONE_AND_A_HALF,
        CodingScale::Double => &DOUBLE,
    }
}

/// The position of a quantizer in a table like [`DOUBLE`].
fn position(table: &[(u32, u32)], quantizer: u32) -> u32 {
    let next = table.partition_point(|pair| pair.0 < quantizer).max(1);
    let (from, to) = (table[next - 1], table[next]);
    from.1 + (quantizer - from.0) * (to.1 - from.1) / (to.0 - from.0)
}

fn point_at(position: f64) -> OperatingPoint {
    let next = CURVE.partition_point(|knot| f64::from(knot.0) < position).max(1);
    let (from, to) = (&CURVE[next - 1], &CURVE[next]);
    let share = (position - f64::from(from.0)) / f64::from(to.0 - from.0);
    let between = |from: f64, to: f64| from + (to - from) * share;
    OperatingPoint {
        hysteresis: between(from.1, to.1),
        latent_step: (position < f64::from(FIRST_WITHOUT_LATENTS)).then(|| between(from.2, to.2).round() as usize),
        mask_ratio: between(from.3, to.3),
        rdoq: Rdoq {
            lambda: between(from.4, to.4) as f32,
        },
        skip_lambda: SKIP_LAMBDA,
        residual_step: None,
        key_qp_offset: KEY_QP_OFFSET
            .saturating_sub((position.round() as usize).saturating_sub(KEY_QP_OFFSET_UP_TO))
            .max(LEAST_KEY_QP_OFFSET),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::LATENT_STEPS;

    #[test]
    fn points_spend_less_and_less() {
        let points: Vec<_> = (0..=MAX_QUANTIZER).map(|position| point_at(position.into())).collect();
        let step = |point: &OperatingPoint| point.latent_step.unwrap_or(LATENT_STEPS);
        for pair in points.windows(2) {
            assert!(pair[0].mask_ratio <= pair[1].mask_ratio);
            assert!(step(&pair[0]) <= step(&pair[1]));
            assert!(pair[0].rdoq.lambda <= pair[1].rdoq.lambda);
            assert!(pair[0] != pair[1], "{pair:?}");
        }
        let unmasked = points.iter().take_while(|point| point.mask_ratio == 0.0);
        assert!(unmasked.is_sorted_by(|a, b| a.hysteresis <= b.hysteresis));
        assert_eq!((points[0].hysteresis, points[0].latent_step), (0.5, Some(12)));
        assert_eq!((points[63].latent_step, points[63].mask_ratio), (None, 0.9));
    }

    #[test]
    fn points_between_two_quantizers_are_between_theirs() {
        for scale in CodingScale::ALL {
            for quantizer in [0, 21, 40, 58, 62] {
                let point = |share: f64| point_between(f64::from(quantizer) + share, scale);
                assert_eq!(point(0.0), operating_point(quantizer, scale));
                assert_eq!(point(1.0), operating_point(quantizer + 1, scale));
                let ratios = [0.0, 0.5, 1.0].map(|share| point(share).mask_ratio);
                assert!(
                    ratios[0] <= ratios[1] && ratios[1] <= ratios[2],
                    "{scale:?} {quantizer}"
                );
            }
        }
    }

    #[test]
    fn every_scale_goes_down_to_the_smallest() {
        for scale in CodingScale::ALL {
            let table = positions(scale);
            let positions: Vec<_> = (0..=MAX_QUANTIZER)
                .map(|quantizer| position(table, quantizer))
                .collect();
            assert!(positions.is_sorted(), "{positions:?}");
            assert_eq!(positions[63], MAX_QUANTIZER);
            assert!(table.iter().all(|&(quantizer, at)| positions[quantizer as usize] == at));
        }
    }

    #[test]
    fn only_small_pictures_are_enlarged() {
        let scales = [
            (160, 120),
            (320, 180),
            (320, 240),
            (426, 240),
            (427, 241),
            (640, 360),
            (641, 361),
            (8192, 16),
        ]
        .map(largest_scale);
        use CodingScale::{Double, OneAndAHalf, Single};
        assert_eq!(
            scales,
            [Double, Double, OneAndAHalf, OneAndAHalf, Single, Single, Single, Single]
        );
    }
}
