// SPDX-License-Identifier: MPL-2.0
//! What the predictor learns from: units of which tokens are masked, or a slice or all is lost.

use rand::rngs::StdRng;
use rand::RngExt;
use tch::{Device, Kind, Tensor};

use super::segments::{Segment, MAX_HOLD};
use crate::bitstream::Slice;
use crate::codec::{follow_neighbours, nearest_tokens};
use crate::entropy::{pattern_masks, LatentMap, Region, TokenMap, LATENT_SCALE, LATENT_STEPS, MASKED};

/// Share of the samples of which a slice or all is lost, and of those, of units of which all is, and of key units of which a slice is.
const LOST_SHARE: f64 = 0.6;
const WHOLE_SHARE: f64 = 0.3;
const KEY_SHARE: f64 = 0.15;

/// Share of the samples without latents: masking is for rates at which none are sent, losses are not.
const WITHOUT_LATENTS: f64 = 0.6;
const LOST_WITHOUT_LATENTS: f64 = 0.1;

/// A batch for the predictor.
pub struct Samples {
    /// `[n, 3, h, w, 6]` i64, the last unit partly masked.
    pub digits: Tensor,
    /// `[n, 3, h, w, channels]` f32, in the last unit what stands in for those that are lost.
    pub latents: Option<Tensor>,
    /// `[n, h, w, 6]` i64: the last unit as it is.
    pub truth: Tensor,
    /// `[n, h, w, channels]` f32: its latents as they are.
    pub true_latents: Option<Tensor>,
    /// `[n, h, w]` bool: where its latents are lost.
    pub lost: Tensor,
}

/// One of them: the same without `n`.
struct Sample {
    digits: Tensor,
    latents: Option<Tensor>,
    truth: Tensor,
    true_latents: Option<Tensor>,
    lost: Tensor,
}

impl Samples {
    /// Units of one segment, each with a mask of its own.
    pub fn draw(segment: &Segment, count: usize, rng: &mut StdRng) -> Samples {
        let samples: Vec<Sample> = (0..count).map(|_| Sample::draw(segment, rng)).collect();
        let stack = |part: fn(&Sample) -> &Tensor| Tensor::stack(&samples.iter().map(part).collect::<Vec<_>>(), 0);
        let stack_some = |part: fn(&Sample) -> Option<&Tensor>| {
            let parts: Option<Vec<&Tensor>> = samples.iter().map(part).collect();
            parts.map(|parts| Tensor::stack(&parts, 0))
        };
        Samples {
            digits: stack(|sample| &sample.digits),
            latents: stack_some(|sample| sample.latents.as_ref()),
            truth: stack(|sample| &sample.truth),
            true_latents: stack_some(|sample| sample.true_latents.as_ref()),
            lost: stack(|sample| &sample.lost),
        }
    }
}

impl Sample {
    fn draw(segment: &Segment, rng: &mut StdRng) -> Sample {
        if !rng.random_bool(LOST_SHARE) {
            return Sample::masked(segment, rng);
        }
        let slice = Region::of(Slice {
            index: rng.random_range(0..2),
            count: 2,
        });
        if rng.random_bool(KEY_SHARE) {
            return Sample::lost_key(segment, slice, rng);
        }
        let region = match rng.random_bool(WHOLE_SHARE) {
            true => Region::WHOLE,
            false => slice,
        };
        Sample::lost_delta(segment, region, rng)
    }

    /// A delta unit as an encoder masks it.
    fn masked(segment: &Segment, rng: &mut StdRng) -> Sample {
        let at = rng.random_range(1..segment.tokens.len());
        let truth = segment.tokens[at].shallow_clone();
        let masked = draw_mask(&truth, at as u32, rng);
        let latents = Latents::draw(segment, at, WITHOUT_LATENTS, rng);
        let (h, w, _) = truth.size3().expect("a map has three dimensions");
        Sample {
            digits: sequence(segment, at, &masked),
            true_latents: latents.as_ref().map(|latents| real(&latents.last)),
            latents: latents.map(|latents| latents.with(&latents.last)),
            lost: Tensor::zeros([h, w], (Kind::Bool, truth.device())),
            truth,
        }
    }

    /// A delta unit of which a slice or all is lost.
    fn lost_delta(segment: &Segment, region: Region, rng: &mut StdRng) -> Sample {
        let at = rng.random_range(1..segment.tokens.len());
        let (truth, lost) = (
            segment.tokens[at].shallow_clone(),
            positions(region, &segment.tokens[at]),
        );
        let latents = Latents::draw(segment, at, LOST_WITHOUT_LATENTS, rng);
        Sample {
            digits: sequence(segment, at, &without(&truth, &lost)),
            true_latents: latents.as_ref().map(|latents| real(&latents.last)),
            latents: latents.map(|latents| latents.with(&stand_in(&latents.last, &latents.before[1], &lost))),
            truth,
            lost,
        }
    }

    /// A key unit of which a slice is lost: the nearest tokens take the place of those before.
    fn lost_key(segment: &Segment, slice: Region, rng: &mut StdRng) -> Sample {
        let (truth, lost) = (segment.tokens[0].shallow_clone(), positions(slice, &segment.tokens[0]));
        let left = without(&truth, &lost);
        let near = nearest(&left);
        let latents = Latents::draw(segment, 0, LOST_WITHOUT_LATENTS, rng);
        let given = latents.as_ref().map(|latents| {
            let given = real(&stand_in(&latents.last, &latents.last.zeros_like(), &lost));
            Tensor::stack(&[&given, &given, &given], 0)
        });
        Sample {
            digits: Tensor::stack(&[&near, &near, &left], 0),
            true_latents: latents.map(|latents| real(&latents.last)),
            latents: given,
            truth,
            lost,
        }
    }
}

/// The latents of a unit, and of the two before: in 1/256, `[h, w, channels]` i64.
struct Latents {
    before: [Tensor; 2],
    last: Tensor,
}

impl Latents {
    /// At some step; zeros in a share of the cases.
    fn draw(segment: &Segment, at: usize, without: f64, rng: &mut StdRng) -> Option<Latents> {
        let step = rng.random_range(0..LATENT_STEPS);
        let known = segment.quantised(&Vec::from_iter(0..=at), step, rng.random_range(0.0..MAX_HOLD))?;
        let scale = i64::from(!rng.random_bool(without));
        let of = |unit: usize| &known[unit].values * scale;
        Some(Latents {
            before: [of(at.saturating_sub(2)), of(at.saturating_sub(1))],
            last: of(at),
        })
    }

    /// `[3, h, w, channels]` f32, with others in the last unit.
    fn with(&self, last: &Tensor) -> Tensor {
        real(&Tensor::stack(&[&self.before[0], &self.before[1], last], 0))
    }
}

fn real(latents: &Tensor) -> Tensor {
    latents.to_kind(Kind::Float) / f64::from(LATENT_SCALE)
}

/// The two units before one, and what is left of that.
fn sequence(segment: &Segment, at: usize, left: &Tensor) -> Tensor {
    Tensor::stack(
        &[&segment.tokens[at.saturating_sub(2)], &segment.tokens[at - 1], left],
        0,
    )
}

/// Which positions of a map `[h, w, 6]` a region has: `[h, w]` bool.
pub(super) fn positions(region: Region, tokens: &Tensor) -> Tensor {
    let (h, w, _) = tokens.size3().expect("a map has three dimensions");
    let is_in: Vec<bool> = region.positions(w as usize, h as usize).collect();
    Tensor::from_slice(&is_in).view([h, w]).to_device(tokens.device())
}

/// Tokens `[h, w, 6]`, masked where they are lost.
pub(super) fn without(tokens: &Tensor, lost: &Tensor) -> Tensor {
    let masked = Tensor::from_slice(&MASKED.map(i64::from)).to_device(tokens.device());
    masked.where_self(&lost.unsqueeze(2), tokens)
}

/// As a decoder fills a key unit: see [`nearest_tokens`].
fn nearest(tokens: &Tensor) -> Tensor {
    let (h, w, digits) = tokens.size3().expect("a map has three dimensions");
    let values = Vec::<u8>::try_from(flat(&tokens.to_kind(Kind::Uint8))).expect("of its kind");
    let map = TokenMap {
        tokens: values
            .chunks_exact(digits as usize)
            .map(|token| std::array::from_fn(|k| token[k]))
            .collect(),
        ..TokenMap::zero(w as usize, h as usize)
    };
    let filled = nearest_tokens(&map);
    let values: Vec<i64> = filled.tokens.iter().flatten().map(|digit| i64::from(*digit)).collect();
    Tensor::from_slice(&values)
        .view([h, w, digits])
        .to_device(tokens.device())
}

/// What a decoder has in place of lost latents `[h, w, channels]`: see [`follow_neighbours`].
fn stand_in(latents: &Tensor, before: &Tensor, lost: &Tensor) -> Tensor {
    let (h, w, channels) = latents.size3().expect("a map has three dimensions");
    let map = |latents: &Tensor| LatentMap {
        values: Vec::try_from(flat(&latents.to_kind(Kind::Int))).expect("of its kind"),
        ..LatentMap::zero(w as usize, h as usize, channels as usize)
    };
    let mut filled = map(&before.where_self(&lost.unsqueeze(2), latents));
    let present = Vec::<bool>::try_from(flat(&lost.logical_not())).expect("of its kind");
    follow_neighbours(&mut filled, &map(before), &present);
    let values: Vec<i64> = filled.values.iter().map(|value| i64::from(*value)).collect();
    Tensor::from_slice(&values)
        .view([h, w, channels])
        .to_device(latents.device())
}

/// In order, for a vector.
fn flat(xs: &Tensor) -> Tensor {
    xs.to_device(Device::Cpu).contiguous().flatten(0, -1)
}

/// Masks tokens `[h, w, 6]`: scattered, in a pattern, or in blobs.
pub(super) fn draw_mask(tokens: &Tensor, unit: u32, rng: &mut StdRng) -> Tensor {
    let (h, w, _) = tokens.size3().expect("a map has three dimensions");
    let ratio = rng.random_range(0.1..0.95);
    let mask = match rng.random_range(0..3) {
        0 => Tensor::rand([h, w], (Kind::Float, tokens.device())).lt(ratio),
        1 => {
            let quarters = rng.random_range(1..4);
            let bits: Vec<bool> = (0..h * w)
                .map(|at| pattern_masks(quarters, unit, (at % w) as usize, (at / w) as usize))
                .collect();
            Tensor::from_slice(&bits).view([h, w]).to_device(tokens.device())
        }
        _ => {
            let coarse = Tensor::rand([1, 1, (h + 2) / 3, (w + 2) / 3], (Kind::Float, tokens.device()));
            coarse
                .upsample_bilinear2d([h, w], false, None, None)
                .view([h, w])
                .lt(ratio)
        }
    };
    without(tokens, &mask)
}
