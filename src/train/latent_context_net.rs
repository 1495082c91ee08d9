// SPDX-License-Identifier: MPL-2.0
//! The float twin of the continuous context model: the same numbers, rounded the same way, with gradients.

use anyhow::Result;
use tch::{nn, Kind, Tensor};

use super::predictor_samples::positions;
use super::quantized::{activate, pass_through, set, sums_of_rows, to_i32, Linear};
use crate::bitstream::FSQ_LEVELS;
use crate::entropy::{
    channel_groups, latent_phase, rows_before, LatentWeights, Region, ACTIVATION_SCALE, CHANGE_ROWS, CHANGE_SOURCES,
    COMPANDING, DIGITS, GAIN_SCALE, GROUP_ROWS, LATENT_PHASES, LATENT_SCALE, LATENT_SCALES, LATENT_SOURCES,
    LATENT_STEPS, LATENT_SYMBOLS, LATENT_TABLE_ROWS, MEAN_SCALE, PHASE_ROWS, ROWS_PER_CHANGE, SKIP_ROWS, STEP_ROWS,
    TABLE_SCALE,
};

const WIDTH: i64 = 96;
/// log2 of the finest quantisation step, and steps per octave.
const FINEST_STEP: f64 = -3.0;
const STEPS_PER_OCTAVE: f64 = 8.0;
/// log2 of the scale of index 0, in steps, and scales per octave.
const LEAST_SCALE: f64 = -5.25;
const SCALES_PER_OCTAVE: f64 = 4.0;
/// Units in 1 of the three results: offset, gain, index of the scale.
const OUTPUT_SCALES: [i32; 3] = [MEAN_SCALE, GAIN_SCALE, 1];
/// Index of the scale that an untrained model starts from.
const FIRST_SCALE: f64 = 18.0;
/// Less cannot be coded.
const LEAST_PROBABILITY: f64 = 1.0 / 65536.0;

/// Quantisation steps in 1/256.
pub fn latent_steps() -> Vec<i32> {
    (0..LATENT_STEPS)
        .map(|i| (f64::from(LATENT_SCALE) * 2f64.powf(FINEST_STEP + i as f64 / STEPS_PER_OCTAVE)).round() as i32)
        .collect()
}

/// Network inputs of 1 nat, eighths of a step of 1, the largest input.
const COMPANDING_GAIN: f64 = 24.0;
const COMPANDING_KNEE: f64 = 4.0;
const COMPANDED_LIMIT: f64 = 127.0;

fn companding() -> Vec<i32> {
    (0..COMPANDING)
        .map(|x| {
            (COMPANDING_GAIN * (1.0 + x as f64 / COMPANDING_KNEE).ln())
                .round()
                .min(COMPANDED_LIMIT) as i32
        })
        .collect()
}

/// Where a unit's latents stand: all maps as the coder has them, latents in 1/256, `[h, w, channels]` i64, tokens
/// `[h, w, 6]` i64.
pub struct LatentUnit<'a> {
    pub latents: &'a Tensor,
    pub previous: Option<&'a Tensor>,
    pub older: Option<&'a Tensor>,
    pub tokens: &'a Tensor,
    /// Masked where nothing is known of them.
    pub previous_tokens: Option<&'a Tensor>,
    /// Whose places are coded: a slice's, beyond which all maps hold nothing.
    pub region: Region,
    /// Which places keep the latents of the unit before, `[h, w]` bool.
    pub skipped: Option<&'a Tensor>,
    /// Index of the quantisation step.
    pub step: usize,
}

/// What the network is given for each place of a unit that is not skipped, and what it has to predict.
pub struct LatentSamples {
    /// `[n, 14 * channels]`, companded, in 1/32.
    context: Tensor,
    /// `[n, 14]` i64: rows of the tables.
    rows: Tensor,
    /// `[n, channels]`: the previous unit's values in steps.
    previous: Tensor,
    /// `[n, channels]`: the values in steps.
    values: Tensor,
}

impl LatentSamples {
    /// The samples of a unit.
    pub fn of(unit: &LatentUnit) -> LatentSamples {
        let (h, w, channels) = unit.latents.size3().expect("a map has three dimensions");
        let size = f64::from(latent_steps()[unit.step]);
        let device = unit.latents.device();
        let eighths = |map: &Tensor| {
            let scaled = map.to_kind(Kind::Double) * f64::from(MEAN_SCALE) + (size / 2.0).floor();
            (scaled / size).floor()
        };
        let table = Tensor::from_slice(&companding()).to_device(device);
        let compand = |map: &Tensor| {
            let eighths = eighths(map);
            let magnitude = eighths.abs().clamp_max(COMPANDING as f64 - 1.0).to_kind(Kind::Int64);
            let companded = table.index_select(0, &magnitude.flatten(0, -1)).view([h, w, channels]);
            companded.to_kind(Kind::Double) * eighths.sign() / f64::from(ACTIVATION_SCALE)
        };
        let pad = |map: Tensor| map.permute([2, 0, 1]).constant_pad_nd([1, 1, 1, 1]).permute([1, 2, 0]);
        let nothing = unit.latents.zeros_like();
        let maps = [Some(unit.latents), unit.previous, unit.older].map(|map| pad(compand(map.unwrap_or(&nothing))));
        let context: Vec<Tensor> = LATENT_SOURCES
            .iter()
            .map(|&(source, dx, dy)| {
                let values = maps[usize::from(source)]
                    .narrow(0, 1 + dy as i64, h)
                    .narrow(1, 1 + dx as i64, w);
                if source == 0 {
                    values * coded_before((h, w), (dx, dy), device).unsqueeze(2)
                } else {
                    values
                }
            })
            .collect();
        let none = Tensor::zeros([h, w], (Kind::Bool, device));
        let skipped = unit.skipped.unwrap_or(&none);
        let coded = skipped.logical_not().logical_and(&positions(unit.region, unit.tokens));
        let coded = coded.flatten(0, 1).nonzero().squeeze_dim(1);
        let sample = |map: Tensor| map.view([h * w, -1]).index_select(0, &coded);
        let floats = |map: Tensor| sample(map).to_kind(Kind::Float);
        LatentSamples {
            context: floats(Tensor::cat(&context, 2)),
            rows: sample(table_rows(unit, skipped)),
            previous: floats(eighths(unit.previous.unwrap_or(&nothing)) / f64::from(MEAN_SCALE)),
            values: floats((unit.latents.to_kind(Kind::Double) / size).round()),
        }
    }

    /// The samples of several units.
    pub fn cat(samples: &[&LatentSamples]) -> LatentSamples {
        let cat =
            |part: fn(&LatentSamples) -> &Tensor| Tensor::cat(&samples.iter().map(|s| part(s)).collect::<Vec<_>>(), 0);
        LatentSamples {
            context: cat(|s| &s.context),
            rows: cat(|s| &s.rows),
            previous: cat(|s| &s.previous),
            values: cat(|s| &s.values),
        }
    }
}

/// A number for each place of a map, `[h, w]` i64.
fn by_place((h, w): (i64, i64), device: tch::Device, number: impl Fn(isize, isize) -> i64) -> Tensor {
    let numbers: Vec<i64> = (0..h as isize)
        .flat_map(|y| (0..w as isize).map(move |x| (x, y)))
        .map(|(x, y)| number(x, y))
        .collect();
    Tensor::from_slice(&numbers).view([h, w]).to_device(device)
}

/// 1 where the neighbour at an offset is coded in an earlier phase, 0 elsewhere: `[h, w]`.
fn coded_before(size: (i64, i64), (dx, dy): (isize, isize), device: tch::Device) -> Tensor {
    by_place(size, device, |x, y| {
        i64::from(latent_phase(x + dx, y + dy) < latent_phase(x, y))
    })
}

/// `[h, w, 14]` i64: rows of this unit's digits, of the changes around, of the step, of the phase, of what is skipped around.
fn table_rows(unit: &LatentUnit, skipped: &Tensor) -> Tensor {
    let (tokens, previous, step) = (unit.tokens, unit.previous_tokens, unit.step);
    let (h, w, _) = tokens.size3().expect("a map has three dimensions");
    let bases: Vec<i64> = (0..DIGITS).map(|k| rows_before(k) as i64).collect();
    let digits = tokens + Tensor::from_slice(&bases).to_device(tokens.device());
    let is_masked = |tokens: &Tensor| tokens.select(2, 0).eq(i64::from(FSQ_LEVELS[0]));
    let masked = is_masked(tokens);
    let unknown = ROWS_PER_CHANGE as i64 - 1;
    let changed = match previous {
        Some(previous) => tokens
            .ne_tensor(previous)
            .sum_dim_intlist([2i64].as_slice(), false, Kind::Int64)
            .masked_fill(&masked.logical_or(&is_masked(previous)), unknown),
        None => masked.to_kind(Kind::Int64).full_like(unknown),
    };
    let padded = (changed - unknown).constant_pad_nd([1, 1, 1, 1]) + unknown;
    let mut rows = vec![digits];
    for (i, (dx, dy)) in CHANGE_SOURCES.into_iter().enumerate() {
        let place = padded.narrow(0, 1 + dy as i64, h).narrow(1, 1 + dx as i64, w);
        rows.push((place + (CHANGE_ROWS + i * ROWS_PER_CHANGE) as i64).unsqueeze(2));
    }
    rows.push(
        masked
            .to_kind(Kind::Int64)
            .full_like((STEP_ROWS + step) as i64)
            .unsqueeze(2),
    );
    // A slice of odd positions knows as much in its two phases as the first two of a whole unit do.
    let phases = if unit.region.is_whole() {
        LATENT_PHASES
    } else {
        LATENT_PHASES / 2
    };
    let phase = |x, y| (PHASE_ROWS + latent_phase(x, y) % phases) as i64;
    rows.push(by_place((h, w), tokens.device(), phase).unsqueeze(2));
    let padded = skipped.to_kind(Kind::Int64).constant_pad_nd([1, 1, 1, 1]);
    let part = |i: i64| padded.narrow(0, i / 3, h).narrow(1, i % 3, w);
    let around: Tensor = (0..9).filter(|i| *i != 4).map(part).sum();
    rows.push((around + SKIP_ROWS as i64).unsqueeze(2));
    Tensor::cat(&rows, 2)
}

/// The network; see [`crate::entropy::LatentContextModel`] for its shape.
pub struct LatentContextNet {
    channels: i64,
    input: Linear,
    tables: Tensor,
    earlier: Linear,
    trunk: Linear,
    output: Linear,
}

impl LatentContextNet {
    pub fn new(vs: nn::Path, channels: i64) -> LatentContextNet {
        let inputs = LATENT_SOURCES.len() as i64 * channels;
        let small = nn::Init::Randn { mean: 0.0, stdev: 0.05 };
        LatentContextNet {
            channels,
            input: Linear::new(&vs / "input", inputs, WIDTH),
            tables: vs.var("tables", &[LATENT_TABLE_ROWS as i64, WIDTH], small),
            earlier: Linear::new(&vs / "earlier", channels, WIDTH),
            trunk: Linear::new(&vs / "trunk", WIDTH, WIDTH),
            output: Linear::new(&vs / "output", WIDTH, 3 * channels),
        }
    }

    /// Cost of each value in bits, `[n, channels]`. `quantize`: with the rounding of the integer model.
    pub fn bits(&self, samples: &LatentSamples, quantize: bool) -> Tensor {
        let n = samples.rows.size()[0];
        let place = self.input.forward(&samples.context, quantize) + sums_of_rows(&self.tables, &samples.rows);
        let mut surprises = place.new_zeros([n, self.channels], (Kind::Float, place.device()));
        let mut bits = Vec::new();
        for (group, range) in channel_groups(self.channels as usize).enumerate() {
            let (first, members) = (range.start as i64, range.len() as i64);
            let sums = &place
                + self.earlier.forward(&surprises, quantize)
                + self.tables.select(0, (GROUP_ROWS + group) as i64);
            let output = self.output(&sums, quantize);
            let part = |i: i64| output.narrow(1, i * self.channels + first, members);
            let gain = rounded(part(1).clamp(0.0, 1.0), f64::from(GAIN_SCALE), quantize);
            let carried = samples.previous.narrow(1, first, members) * gain;
            let mean = rounded(part(0) + carried, f64::from(MEAN_SCALE), quantize);
            let missed = samples.values.narrow(1, first, members) - mean;
            bits.push(cost(&missed, &part(2), quantize));
            let last = self.channels - first - members;
            surprises = Tensor::cat(
                &[
                    surprises.narrow(1, 0, first),
                    compand_eighths(&(missed * f64::from(MEAN_SCALE)), quantize),
                    surprises.narrow(1, first + members, last),
                ],
                1,
            );
        }
        Tensor::cat(&bits, 1)
    }

    /// The layers behind the first one's sums.
    fn output(&self, sums: &Tensor, quantize: bool) -> Tensor {
        let features = activate(sums, quantize);
        let trunk = activate(&self.trunk.forward(&features, quantize), quantize);
        self.output.forward(&trunk, quantize)
    }

    /// Whether [`Self::import`] can take such numbers.
    pub fn fits(&self, weights: &LatentWeights) -> bool {
        (weights.width, weights.channels) == (WIDTH as usize, self.channels as usize)
    }

    /// Inverse of [`Self::export`]: to go on from a model whose floats are gone. Fails if it is of another size.
    pub fn import(&mut self, weights: &LatentWeights) -> Result<()> {
        let tables = Tensor::from_slice(&weights.tables).to_kind(Kind::Double);
        set(&mut self.tables, &(tables / f64::from(TABLE_SCALE)))?;
        self.input.import(&weights.input, |_| TABLE_SCALE)?;
        self.earlier.import(&weights.earlier, |_| TABLE_SCALE)?;
        self.trunk.import(&weights.trunk, |_| ACTIVATION_SCALE)?;
        let channels = self.channels as usize;
        self.output.import(&weights.output, |o| OUTPUT_SCALES[o / channels])?;
        self.output.add_to_biases(2 * self.channels, -FIRST_SCALE);
        Ok(())
    }

    /// The integers that a decoder computes with.
    pub fn export(&self) -> LatentWeights {
        let limit = f64::from(i16::MAX);
        let tables = (&self.tables * f64::from(TABLE_SCALE)).round().clamp(-limit, limit);
        let channels = self.channels as usize;
        let mut output = self.output.export(|o| OUTPUT_SCALES[o / channels]);
        let first: Vec<i32> = to_i32(
            &(self.output.steps().squeeze_dim(1).pow_tensor_scalar(-1.0) * (FIRST_SCALE * f64::from(ACTIVATION_SCALE)))
                .round(),
        );
        for (bias, first) in output.biases.iter_mut().zip(first).skip(2 * channels) {
            *bias = bias.saturating_add(first);
        }
        LatentWeights {
            channels,
            width: WIDTH as usize,
            steps: latent_steps(),
            companding: companding(),
            input: self.input.export(|_| TABLE_SCALE),
            tables: Vec::try_from(tables.to_kind(Kind::Int16).flatten(0, -1)).expect("i16 tables"),
            earlier: self.earlier.export(|_| TABLE_SCALE),
            trunk: self.trunk.export(|_| ACTIVATION_SCALE),
            output,
            probabilities: (1..LATENT_SCALES)
                .flat_map(|scale| (0..8).flat_map(move |fraction| table(scale, fraction)))
                .collect(),
        }
    }
}

/// Rounds to shares of 1 where asked for; the gradient passes.
fn rounded(xs: Tensor, shares: f64, quantize: bool) -> Tensor {
    if !quantize {
        return xs;
    }
    let rounded = (&xs * shares).round() / shares;
    pass_through(&xs, rounded)
}

/// The companding table as a function with a gradient: eighths of a step to network inputs.
fn compand_eighths(eighths: &Tensor, quantize: bool) -> Tensor {
    let magnitude = (eighths.abs().clamp_max(COMPANDING as f64 - 1.0) / COMPANDING_KNEE).log1p() * COMPANDING_GAIN;
    rounded(magnitude.clamp_max(COMPANDED_LIMIT), 1.0, quantize) * eighths.sign() / f64::from(ACTIVATION_SCALE)
}

/// Bits of values that miss their means by so many steps. `scale`: from the network.
fn cost(missed: &Tensor, scale: &Tensor, quantize: bool) -> Tensor {
    let index = (scale + FIRST_SCALE).clamp(0.0, LATENT_SCALES as f64 - 1.0);
    let scale = (rounded(index, 1.0, quantize) / SCALES_PER_OCTAVE + LEAST_SCALE).exp2();
    let distance = missed.abs();
    // On the side of the tail: differences of numbers near 1 would lose all digits.
    let probability = ((-&distance + 0.5) / &scale).sigmoid() - ((-&distance - 0.5) / &scale).sigmoid();
    // Far away the gradient of the clamped probability is nothing: this keeps one.
    let slope = (&distance - 0.5).relu() * 1e-3;
    -(probability + LEAST_PROBABILITY).clamp_max(1.0).log2() + slope
}

/// Probabilities of the values from -15 to 15 around a mean of (fraction - 4) / 8 steps, and of what is beyond, in
/// 2^-16: a logistic distribution.
fn table(scale: usize, fraction: usize) -> Vec<i32> {
    const TOTAL: i32 = 1 << 16;
    let symbols = LATENT_SYMBOLS as i32;
    let scale = (scale as f64 / SCALES_PER_OCTAVE + LEAST_SCALE).exp2();
    let mean = (fraction as f64 - 4.0) / 8.0;
    let below = |edge: f64| 1.0 / (1.0 + (-(edge - mean) / scale).exp());
    let reach = symbols / 2;
    let probability = |symbol: i32| {
        let value = f64::from(symbol - reach);
        let low = if symbol == 0 { 0.0 } else { below(value - 0.5) };
        let high = if symbol == symbols - 1 { 1.0 } else { below(value + 0.5) };
        high - low
    };
    let mut row: Vec<i32> = (0..symbols)
        .map(|s| 1 + (probability(s) * f64::from(TOTAL - symbols)).floor() as i32)
        .collect();
    let largest = (0..row.len()).max_by_key(|&i| row[i]).unwrap_or(0);
    row[largest] += TOTAL - row.iter().sum::<i32>();
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::{
        BitCounter, LatentContext, LatentContextModel, LatentMap, LatentMode, TokenContext, TokenMap, WantedLatents,
    };
    use crate::train::counting::After;
    use tch::Device;

    #[test]
    fn the_integer_model_costs_what_its_float_twin_says() {
        tch::manual_seed(3);
        let _no_grad = tch::no_grad_guard();
        let (vs, channels) = (nn::VarStore::new(Device::Cpu), 4);
        let net = LatentContextNet::new(vs.root(), channels);
        for mut variable in vs.trainable_variables() {
            let noise = variable.randn_like() * 0.05;
            let _ = variable.g_add_(&noise);
        }
        let integer = LatentContextModel::new(net.export()).unwrap();
        let step = 24;
        let size = i64::from(latent_steps()[step]);
        let random_latents = || {
            (Tensor::randn([5, 7, channels], (Kind::Float, Device::Cpu)) * 2.0)
                .round()
                .to_kind(Kind::Int64)
                * size
        };
        let random_tokens = || {
            let digits: Vec<_> = FSQ_LEVELS
                .iter()
                .map(|&l| Tensor::randint(l.into(), [5, 7], (Kind::Int64, Device::Cpu)))
                .collect();
            Tensor::stack(&digits, 2)
        };
        let ints = |t: &Tensor| Vec::<i64>::try_from(t.flatten(0, -1)).unwrap();
        let as_latents = |t: &Tensor| LatentMap {
            width: 7,
            height: 5,
            channels: channels as usize,
            values: ints(t).into_iter().map(|v| v as i32).collect(),
        };
        let as_tokens = |t: &Tensor| {
            let mut map = TokenMap::zero(7, 5);
            let digits = map.tokens.as_flattened_mut().iter_mut().zip(ints(t));
            digits.for_each(|(d, v)| *d = v as u8);
            map
        };
        let (older, previous, latents) = (random_latents(), random_latents(), random_latents());
        let (previous_tokens, tokens) = (random_tokens(), random_tokens());
        let skipped = Tensor::rand([5, 7], (Kind::Float, Device::Cpu)).lt(0.3);
        for known in 0..3 {
            let latents = match known {
                0 => latents.shallow_clone(),
                _ => previous.where_self(&skipped.unsqueeze(2), &latents),
            };
            let unit = LatentUnit {
                latents: &latents,
                previous: (known > 0).then_some(&previous),
                older: (known > 1).then_some(&older),
                tokens: &tokens,
                previous_tokens: (known > 0).then_some(&previous_tokens),
                region: Region::WHOLE,
                skipped: (known > 0).then_some(&skipped),
                step,
            };
            let float = net.bits(&LatentSamples::of(&unit), true).sum(Kind::Double);
            let float = f64::try_from(float).unwrap();
            let (mut history, mut latent_history) = (TokenContext::default(), LatentContext::default());
            for map in [unit.older, unit.previous].into_iter().flatten() {
                latent_history.push(as_latents(map));
            }
            unit.previous_tokens.iter().for_each(|map| history.push(as_tokens(map)));
            // The mode is two symbols; whether places are skipped, and which ones, one each.
            let mut counter = After(if known > 0 { 2 + 1 + 35 } else { 2 }, BitCounter::default());
            let wanted = as_latents(&latents);
            let skipped: Vec<bool> = ints(&skipped.to_kind(Kind::Int64)).iter().map(|&v| v == 1).collect();
            let latents = WantedLatents {
                latents: &wanted,
                quantize: &|latent| latent.nearest(),
                skipped: &skipped,
            };
            let seen = (&as_tokens(&tokens), &history);
            let coded = integer.code(
                &mut counter,
                &latent_history,
                seen,
                Region::WHOLE,
                Some((LatentMode::Coded(step), latents)),
            );
            let (_, coded) = coded.unwrap();
            assert_eq!(coded, wanted, "multiples of the step are coded as they are");
            let exact = counter.1 .0;
            assert!(
                (float / exact - 1.0).abs() < 0.02,
                "{float} bits in floats, {exact} in integers"
            );
        }
        let nothing = LatentSamples::of(&LatentUnit {
            latents: &latents,
            previous: Some(&latents),
            older: None,
            tokens: &tokens,
            previous_tokens: None,
            region: Region::WHOLE,
            skipped: Some(&skipped.ones_like()),
            step,
        });
        assert_eq!(
            net.bits(&nothing, true).size(),
            [0, channels],
            "no place is coded where all are skipped"
        );
        let mut other = LatentContextNet::new(nn::VarStore::new(Device::Cpu).root(), channels);
        other.import(&net.export()).unwrap();
        assert_eq!(other.export(), net.export(), "a model can be taken up again");
    }

    #[test]
    fn tables_add_up_and_lean_with_the_mean() {
        for scale in 1..LATENT_SCALES {
            for fraction in 0..8 {
                let row = table(scale, fraction);
                assert_eq!(row.iter().sum::<i32>(), 1 << 16);
                assert!(row.iter().all(|&p| p > 0));
            }
            let (left, right) = (table(scale, 0), table(scale, 7));
            assert!(left[15] >= right[15] && left[17] <= right[17], "scale {scale}");
        }
    }
}
