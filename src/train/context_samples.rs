// SPDX-License-Identifier: MPL-2.0
//! A unit that was sent as the context models see it.

use tch::{Device, Kind, Tensor};

use super::context_net::context_rows;
use super::latent_context_net::{LatentSamples, LatentUnit};
use super::predictor_samples::{positions, without};
use crate::bitstream::Slice;
use crate::codec::SentUnit;
use crate::entropy::{CodingContext, LatentMap, LatentMode, Region, TokenMap, DIGITS, MASKED};

/// What a slice of a unit asks of the context models.
pub struct Samples {
    /// Rows of the tables and digits of the tokens that are sent: see [`super::context_net::ContextNet::bits`].
    pub rows: Tensor,
    pub digits: Tensor,
    /// `None` where no latents are sent.
    pub latents: Option<LatentSamples>,
}

impl Samples {
    /// Of the slice of an index.
    pub fn of(unit: &SentUnit, index: u8, device: Device) -> Samples {
        let (window, count) = (unit.symbols.camera.window, unit.slices);
        let region = Region::within(Slice { index, count }, &window);
        let known = unit.before.seen_in(window);
        let known = known.seen_from(region);
        let whole = digits(&unit.symbols.tokens, device);
        let is_in = positions(region, &whole);
        let tokens = without(&whole, &is_in.logical_not());
        let before = [&known.tokens.previous, &known.tokens.older];
        let [previous, older] = before.map(|map| map.as_ref().map(|map| digits(map, device)));
        let rows = context_rows(&tokens, previous.as_ref(), older.as_ref(), region);
        let flat = tokens.flatten(0, 1);
        let sent = flat.select(1, 0).lt(i64::from(MASKED[0])).nonzero().squeeze_dim(1);
        Samples {
            rows: rows.index_select(0, &sent),
            digits: flat.index_select(0, &sent),
            latents: latent_samples(unit, &known, (region, &is_in), (&tokens, previous.as_ref())),
        }
    }
}

fn latent_samples(
    unit: &SentUnit,
    known: &CodingContext,
    (region, is_in): (Region, &Tensor),
    (tokens, previous_tokens): (&Tensor, Option<&Tensor>),
) -> Option<LatentSamples> {
    let Some((LatentMode::Coded(step), map)) = &unit.symbols.latents else {
        return None;
    };
    let device = tokens.device();
    let before = [&known.latents.previous, &known.latents.older];
    let [previous, older] = before.map(|map| map.as_ref().map(|map| latents(map, device)));
    let skipped = match unit.skipped.is_empty() {
        true => is_in.zeros_like(),
        false => Tensor::from_slice(&unit.skipped).to_device(device).view_as(is_in),
    };
    Some(LatentSamples::of(&LatentUnit {
        latents: &(latents(map, device) * is_in.unsqueeze(2)),
        previous: previous.as_ref(),
        older: older.as_ref(),
        tokens,
        previous_tokens,
        region,
        skipped: Some(&skipped.logical_and(is_in)),
        step: *step,
    }))
}

/// `[h, w, 6]` i64.
pub(super) fn digits(map: &TokenMap, device: Device) -> Tensor {
    let size = [map.height as i64, map.width as i64, DIGITS as i64];
    let digits = Tensor::from_slice(map.tokens.as_flattened()).view(size);
    digits.to_device(device).to_kind(Kind::Int64)
}

/// In 1/256, `[h, w, channels]` i64.
pub(super) fn latents(map: &LatentMap, device: Device) -> Tensor {
    let size = [map.height as i64, map.width as i64, map.channels as i64];
    Tensor::from_slice(&map.values)
        .view(size)
        .to_device(device)
        .to_kind(Kind::Int64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{EncoderSettings, ErrorResilience};
    use crate::entropy::{as_wanted, BitCounter, Masking, WantedLatents};
    use crate::media::Clip;
    use crate::model::{Model, ModelSource};
    use crate::train::context_net::ContextNet;
    use crate::train::counting::After;
    use crate::train::latent_context_net::LatentContextNet;
    use crate::train::recordings::record;
    use tch::nn;

    /// A pan over waves, 112x80.
    fn pan() -> Clip {
        let axis = |size: i64| Tensor::arange(size, (Kind::Float, Device::Cpu));
        let (x, y) = (axis(200).view([1, -1]), axis(80).view([-1, 1]));
        let wave = |a: f64, b: f64| (&x * a + &y * b).sin();
        let world = wave(0.21, 0.05) * 40.0 + wave(0.07, -0.26) * 35.0 + wave(-0.39, 0.17) * 25.0 + 128.0;
        let frames: Vec<Tensor> = (0..33).map(|t| world.narrow(1, 2 * t, 112)).collect();
        Clip {
            name: "pan".into(),
            luma: Tensor::stack(&frames, 0).to_kind(Kind::Uint8),
            chroma: Tensor::full([33, 2, 40, 56], 128, (Kind::Uint8, Device::Cpu)),
            frame_rate: 25.0,
        }
    }

    /// What the integer coder takes for the tokens and latents of a slice.
    fn integer_bits(model: &Model, unit: &SentUnit, index: u8) -> [f64; 2] {
        let window = unit.symbols.camera.window;
        let slice = Slice {
            index,
            count: unit.slices,
        };
        let region = Region::within(slice, &window);
        let known = unit.before.seen_in(window);
        let known = known.seen_from(region);
        let (mut counter, mut tokens) = (BitCounter::default(), unit.symbols.tokens.clone());
        let coded = model.context.code(
            &mut counter,
            &known.tokens,
            (Masking::None, &as_wanted),
            region,
            &mut tokens,
        );
        coded.unwrap();
        let (mode, latents) = unit.symbols.latents.as_ref().unwrap();
        // The mode is two symbols; whether any position is skipped is one, and which ones are, one each.
        let places: Vec<bool> = region.positions(latents.width, latents.height).collect();
        let is_skipped = |(at, is_in): (usize, &bool)| *is_in && unit.skipped.get(at) == Some(&true);
        let before = match known.latents.previous {
            None => 2,
            Some(_) if places.iter().enumerate().any(is_skipped) => 3 + places.iter().filter(|is_in| **is_in).count(),
            Some(_) => 3,
        };
        let mut latent_counter = After(before, BitCounter::default());
        let wanted = WantedLatents {
            latents,
            quantize: &|latent| latent.nearest(),
            skipped: &unit.skipped,
        };
        let seen = (&tokens, &known.tokens);
        let model = model.latent_context().unwrap();
        let coded = model.code(&mut latent_counter, &known.latents, seen, region, Some((*mode, wanted)));
        coded.unwrap();
        [counter.0, latent_counter.1 .0]
    }

    #[test]
    fn the_nets_cost_what_the_coder_takes_for_what_was_sent() {
        let _no_grad = tch::no_grad_guard();
        let model = Model::load(&ModelSource::Embedded, "cpu").unwrap();
        let vs = nn::VarStore::new(Device::Cpu);
        let weights = model.latent_context().unwrap().weights();
        let mut token_net = ContextNet::new(vs.root() / "tokens");
        let mut latent_net = LatentContextNet::new(vs.root() / "latents", weights.channels as i64);
        token_net.import(model.context.weights()).unwrap();
        latent_net.import(weights).unwrap();
        for error_resilience in [ErrorResilience::None, ErrorResilience::Slices { size: 400 }] {
            let settings = EncoderSettings {
                residual: false,
                error_resilience,
                ..EncoderSettings::at_quantizer(20)
            };
            let units = record(&model, &pan(), settings, || false).unwrap();
            assert!(
                units.iter().any(|unit| !unit.symbols.camera.is_picture()),
                "windows move"
            );
            let (mut float, mut exact) = ([0.0; 2], [0.0; 2]);
            for (unit, index) in units
                .iter()
                .flat_map(|unit| (0..unit.slices).map(move |index| (unit, index)))
            {
                let samples = Samples::of(unit, index, Device::Cpu);
                let latents = samples.latents.map(|latents| latent_net.bits(&latents, true));
                let tokens = token_net.bits(&samples.rows, &samples.digits, true);
                let sums = [Some(tokens), latents]
                    .map(|bits| bits.map_or(0.0, |bits| bits.sum(Kind::Double).double_value(&[])));
                let taken = integer_bits(&model, unit, index);
                for part in 0..2 {
                    float[part] += sums[part];
                    exact[part] += taken[part];
                }
            }
            for (float, exact) in float.into_iter().zip(exact) {
                assert!(
                    (float / exact - 1.0).abs() < 0.02,
                    "{float} bits in floats, {exact} in integers"
                );
            }
        }
    }
}
