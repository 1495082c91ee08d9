// SPDX-License-Identifier: MPL-2.0
//! The continuous checkerboard context model: a small integer network that gives each latent value a mean and
//! selects the table of its distribution.
//!
//! Values are coded after the tokens of the unit, in four phases: the first quarter of the positions from the previous two units, the
//! second from those of its diagonal neighbours too, the other two from more and more of all eight. All see this unit's tokens, and
//! where they changed. At a position the channels follow each other in groups, and each sees how far those before missed their means
//! (Minnen and Singh, "Channel-wise Autoregressive Entropy Models for Learned Image Compression", 2020). Positions that are skipped keep the
//! values of the unit before, whatever its step was, and are passed over.

use super::map::{LatentContext, LatentMap};
use super::skip_map::{code_skip_map, skipped_around};
use super::weights::{
    channel_groups, digit_row, latent_phase, LatentWeights, CHANGE_ROWS, CHANGE_SOURCES, COMPANDING, GAIN_SCALE,
    GROUP_ROWS, LATENT_PHASES, LATENT_SCALES, LATENT_SOURCES, LATENT_STEPS, LATENT_SYMBOLS, MEAN_SCALE, PHASE_ROWS,
    ROWS_PER_CHANGE, SKIP_ROWS, STEP_ROWS,
};
use crate::entropy::binary::code_exp_golomb;
use crate::entropy::integer_net::{activate, add_rows, Dense};
use crate::entropy::probability::{Categorical, Probabilities};
use crate::entropy::range_coder::SymbolCoder;
use crate::entropy::region::Region;
use crate::entropy::tokens::{TokenContext, TokenMap, ACTIVATION_SCALE, DIGITS, MASKED, TABLE_SCALE};
use crate::entropy::EntropyError;

/// Values from the mean that have a symbol of their own.
const REACH: i32 = (LATENT_SYMBOLS as i32 - 1) / 2 - 1;
/// Bound of a value in steps.
const MAX_LEVEL: i32 = 1 << 14;
/// Bound of a mean in eighths of a step.
const MAX_MEAN: i64 = (MAX_LEVEL * MEAN_SCALE) as i64;

/// How a unit carries its latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatentMode {
    /// There are none: the decoder takes zeros.
    Absent,
    /// They are those of the unit before.
    Skipped,
    /// Quantised with the step of this index, 0 (finest) to 47.
    Coded(usize),
}

/// Codes latents.
#[derive(Debug)]
pub struct LatentContextModel {
    weights: LatentWeights,
    input: Dense,
    earlier: Dense,
    trunk: Dense,
    /// Of each group of channels: offsets, gains, scales.
    output: Vec<Dense>,
    tables: Vec<Categorical>,
}

/// Working memory of one position.
struct Scratch {
    context: Vec<i16>,
    /// Of the first layer, without what the groups before say.
    position_sums: Vec<i32>,
    /// How far the values of the groups before missed their means, companded; 0 from there on.
    surprises: Vec<i16>,
    sums: Vec<i32>,
    features: Vec<i16>,
    trunk: Vec<i16>,
    output: Vec<i64>,
}

/// What the network says of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prediction {
    /// In eighths of a step.
    mean: i32,
    /// Index of the scale.
    scale: usize,
}

impl Prediction {
    /// The mean, rounded to steps.
    fn base(self) -> i32 {
        (self.mean + MEAN_SCALE / 2).div_euclid(MEAN_SCALE)
    }

    /// What the rounding left, 0 to 7 for -4/8 to 3/8 of a step.
    fn fraction(self) -> usize {
        (self.mean - MEAN_SCALE * self.base() + MEAN_SCALE / 2) as usize
    }
}

/// A latent whose level an encoder has to choose.
#[derive(Clone, Copy, Debug)]
pub struct Quantization {
    /// As the networks want it, [`super::LATENT_SCALE`] to 1.
    pub value: i32,
    /// The quantisation step, in the same unit.
    pub step: i32,
    /// The level that is expected.
    pub expected: i32,
    /// Index of the table of probabilities of the difference from that.
    pub table: usize,
    /// Position, row by row.
    pub at: usize,
}

impl Quantization {
    /// The level that is nearest.
    pub fn nearest(&self) -> i32 {
        // A value may be anything that a network makes: the sum must not overflow.
        (i64::from(self.value) + i64::from(self.step / 2)).div_euclid(self.step.into()) as i32
    }
}

/// What an encoder wants to have coded.
#[derive(Clone, Copy)]
pub struct WantedLatents<'a> {
    /// Real latents in 1/256: each is quantised as its turn comes.
    pub latents: &'a LatentMap,
    /// Chooses the level of a latent. Decoders know nothing of it.
    pub quantize: &'a dyn Fn(Quantization) -> i32,
    /// The positions that keep the values of the unit before, row by row; empty for none.
    pub skipped: &'a [bool],
}

/// What is known of a unit before its first value.
struct Known<'a> {
    history: &'a LatentContext,
    tokens: &'a TokenMap,
    /// What the tokens were coded with.
    before: &'a TokenContext,
    /// Row by row; empty where no position is skipped.
    skipped: Vec<bool>,
    step: usize,
    region: Region,
}

impl LatentContextModel {
    /// Fails if a size does not fit or a number could overflow a sum.
    pub fn new(weights: LatentWeights) -> Result<LatentContextModel, EntropyError> {
        weights.check()?;
        let table = |row: &[i32]| {
            let row: Vec<u16> = row.iter().map(|&p| p as u16).collect();
            Categorical::from_nonzero_fixed_point_probabilities(row, false)
                .expect("probabilities are positive and add up to 2^16")
        };
        Ok(LatentContextModel {
            input: Dense::new(&weights.input),
            earlier: Dense::new(&weights.earlier),
            trunk: Dense::new(&weights.trunk),
            output: channel_groups(weights.channels)
                .map(|group| Dense::new(&weights.output_of(group)))
                .collect(),
            tables: weights.probabilities.chunks(LATENT_SYMBOLS).map(table).collect(),
            weights,
        })
    }

    pub fn weights(&self) -> &LatentWeights {
        &self.weights
    }

    /// Codes the latents of a unit, or of a region beyond which all is 0, whose tokens have been coded: an encoder's as wanted, a decoder's as they come where nothing is wanted.
    /// Returns them as the decoder has them. `tokens`: this unit's; `before`: the context that they were coded with.
    pub fn code(
        &self,
        coder: &mut impl SymbolCoder,
        history: &LatentContext,
        (tokens, before): (&TokenMap, &TokenContext),
        region: Region,
        wanted: Option<(LatentMode, WantedLatents)>,
    ) -> Result<(LatentMode, LatentMap), EntropyError> {
        let mode = code_mode(coder, wanted.map_or(LatentMode::Absent, |(mode, _)| mode))?;
        let source = wanted.map(|(_, wanted)| wanted);
        Ok((
            mode,
            self.code_values(coder, history, (tokens, before), (region, mode), source)?,
        ))
    }

    fn code_values(
        &self,
        coder: &mut impl SymbolCoder,
        history: &LatentContext,
        (tokens, before): (&TokenMap, &TokenContext),
        (region, mode): (Region, LatentMode),
        wanted: Option<WantedLatents>,
    ) -> Result<LatentMap, EntropyError> {
        let channels = self.weights.channels;
        let mut map = LatentMap::zero(tokens.width, tokens.height, channels);
        let step = match mode {
            LatentMode::Absent => return Ok(map),
            LatentMode::Skipped => return Ok(history.previous.clone().unwrap_or(map)),
            LatentMode::Coded(step) => step,
        };
        let skipped = wanted.map_or(&[][..], |wanted| wanted.skipped);
        let skipped = code_skip_map(coder, history, (tokens, before), region, skipped)?.unwrap_or_default();
        let known = Known {
            history,
            tokens,
            before,
            skipped,
            step,
            region,
        };
        let mut scratch = self.scratch();
        let (width, height) = (map.width as isize, map.height as isize);
        for phase in 0..LATENT_PHASES {
            for position in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
                let at = (position.0 as usize, position.1 as usize);
                if latent_phase(position.0, position.1) == phase && region.contains(at, map.height) {
                    self.code_position(coder, &known, position, wanted, &mut map, &mut scratch)?;
                }
            }
        }
        Ok(map)
    }

    /// Codes the channels of a position, unless it is skipped.
    fn code_position(
        &self,
        coder: &mut impl SymbolCoder,
        known: &Known,
        (x, y): (isize, isize),
        wanted: Option<WantedLatents>,
        map: &mut LatentMap,
        scratch: &mut Scratch,
    ) -> Result<(), EntropyError> {
        let at = y as usize * map.width + x as usize;
        let first = at * map.channels;
        let is_skipped = known.skipped.get(at).copied().unwrap_or(false);
        if let Some(previous) = known.history.previous.as_ref().filter(|_| is_skipped) {
            map.values[first..][..map.channels].copy_from_slice(previous.position(at));
            return Ok(());
        }
        self.look_around(known, map, (x, y), scratch);
        for (group, members) in channel_groups(map.channels).enumerate() {
            self.run(group, scratch);
            for (member, channel) in members.clone().enumerate() {
                let prediction = self.prediction(known, (x, y), (channel, member, members.len()), scratch);
                let level = self.code_level(coder, prediction, known.step, wanted, first + channel)?;
                map.values[first + channel] = level * self.weights.steps[known.step];
                scratch.surprises[channel] = self.compand(level * MEAN_SCALE - prediction.mean);
            }
        }
        Ok(())
    }

    fn scratch(&self) -> Scratch {
        let width = self.weights.width;
        Scratch {
            context: vec![0; self.weights.inputs()],
            position_sums: vec![0; width],
            surprises: vec![0; self.weights.channels],
            sums: vec![0; width],
            features: vec![0; width],
            trunk: vec![0; width],
            output: vec![0; 3 * self.weights.channels],
        }
    }

    /// What the first layer makes of the surroundings of a position.
    fn look_around(&self, known: &Known, map: &LatentMap, (x, y): (isize, isize), scratch: &mut Scratch) {
        let channels = self.weights.channels;
        for (source, (unit, dx, dy)) in LATENT_SOURCES.into_iter().enumerate() {
            let from = match unit {
                0 => (latent_phase(x + dx, y + dy) < latent_phase(x, y)).then_some(map),
                1 => known.history.previous.as_ref(),
                _ => known.history.older.as_ref(),
            };
            let inputs = &mut scratch.context[source * channels..][..channels];
            match from.and_then(|m| m.get(x + dx, y + dy)) {
                Some(values) => {
                    for (input, &value) in inputs.iter_mut().zip(values) {
                        *input = self.compand(self.eighths(value, known.step));
                    }
                }
                None => inputs.fill(0),
            }
        }
        let Scratch {
            context, position_sums, ..
        } = scratch;
        self.input
            .sums(context, |o, sum| position_sums[o] = bounded(self.input.rescale(o, sum)));
        add_rows(position_sums, &self.weights.tables, &table_rows(known, (x, y)));
        scratch.surprises.fill(0);
    }

    /// Runs the network for a group of channels.
    fn run(&self, group: usize, scratch: &mut Scratch) {
        let Scratch {
            position_sums,
            surprises,
            sums,
            features,
            trunk,
            output,
            ..
        } = scratch;
        self.earlier.sums(surprises, |o, sum| {
            sums[o] = position_sums[o] + bounded(self.earlier.rescale(o, sum))
        });
        add_rows(sums, &self.weights.tables, &[GROUP_ROWS + group]);
        const STEP: i32 = TABLE_SCALE / ACTIVATION_SCALE;
        for (a, sum) in features.iter_mut().zip(sums.iter()) {
            *a = activate(i64::from((sum + STEP / 2).div_euclid(STEP)));
        }
        self.trunk
            .sums(features, |o, sum| trunk[o] = activate(self.trunk.rescale(o, sum)));
        let last = &self.output[group];
        last.sums(trunk, |o, sum| output[o] = last.rescale(o, sum));
    }

    fn prediction(
        &self,
        known: &Known,
        (x, y): (isize, isize),
        (channel, member, members): (usize, usize, usize),
        scratch: &Scratch,
    ) -> Prediction {
        let previous = known.history.previous.as_ref().and_then(|m| m.get(x, y));
        let previous = previous.map_or(0, |values| i64::from(self.eighths(values[channel], known.step)));
        let gain = scratch.output[members + member].clamp(0, GAIN_SCALE.into());
        let carried = (previous * gain + i64::from(GAIN_SCALE) / 2).div_euclid(GAIN_SCALE.into());
        let offset = scratch.output[member].clamp(-MAX_MEAN, MAX_MEAN);
        Prediction {
            mean: (offset + carried).clamp(-MAX_MEAN, MAX_MEAN) as i32,
            scale: scratch.output[2 * members + member].clamp(0, LATENT_SCALES as i64 - 1) as usize,
        }
    }

    /// A latent in eighths of a step.
    fn eighths(&self, value: i32, step: usize) -> i32 {
        let step = i64::from(self.weights.steps[step]);
        let eighths = (i64::from(value) * i64::from(MEAN_SCALE) + step / 2).div_euclid(step);
        eighths.clamp(-MAX_MEAN, MAX_MEAN) as i32
    }

    fn compand(&self, eighths: i32) -> i16 {
        let magnitude = eighths.unsigned_abs().min(COMPANDING as u32 - 1);
        (self.weights.companding[magnitude as usize] * eighths.signum()) as i16
    }

    /// One value in steps.
    fn code_level(
        &self,
        coder: &mut impl SymbolCoder,
        prediction: Prediction,
        step: usize,
        wanted: Option<WantedLatents>,
        at: usize,
    ) -> Result<i32, EntropyError> {
        let base = prediction.base();
        if prediction.scale == 0 {
            return Ok(base.clamp(-MAX_LEVEL, MAX_LEVEL));
        }
        let table = (prediction.scale - 1) * 8 + prediction.fraction();
        let difference = match wanted {
            Some(wanted) => {
                let level = (wanted.quantize)(Quantization {
                    value: wanted.latents.values[at],
                    step: self.weights.steps[step],
                    expected: base,
                    table,
                    at: at / wanted.latents.channels,
                });
                level.clamp(-MAX_LEVEL, MAX_LEVEL) - base
            }
            None => 0,
        };
        let level = base + code_difference(coder, &self.tables[table], difference)?;
        if level.abs() > MAX_LEVEL {
            return Err(EntropyError::Damaged);
        }
        Ok(level)
    }
}

/// Far more than a sum of table rows can be, and far from an overflow.
fn bounded(sum: i64) -> i32 {
    sum.clamp(-(1 << 24), 1 << 24) as i32
}

fn code_mode(coder: &mut impl SymbolCoder, mode: LatentMode) -> Result<LatentMode, EntropyError> {
    // Two symbols of up to eight values each: 0 to 47 are steps, then skipped, then absent.
    let number = match mode {
        LatentMode::Coded(step) => step,
        LatentMode::Skipped => LATENT_STEPS,
        LatentMode::Absent => LATENT_STEPS + 1,
    };
    let eight = Probabilities::uniform(8);
    let number = coder.code(&eight, number / 8)? * 8 + coder.code(&eight, number % 8)?;
    match number.checked_sub(LATENT_STEPS) {
        None => Ok(LatentMode::Coded(number)),
        Some(0) => Ok(LatentMode::Skipped),
        Some(1) => Ok(LatentMode::Absent),
        Some(_) => Err(EntropyError::Damaged),
    }
}

/// A difference from the rounded mean: a symbol of the table, and what is beyond it in Exp-Golomb bits.
fn code_difference(coder: &mut impl SymbolCoder, table: &Categorical, difference: i32) -> Result<i32, EntropyError> {
    let symbol = (difference.clamp(-REACH - 1, REACH + 1) + REACH + 1) as usize;
    let in_table = coder.code(table, symbol)? as i32 - REACH - 1;
    if in_table.abs() <= REACH {
        return Ok(in_table);
    }
    let beyond = code_exp_golomb(coder, difference.unsigned_abs().saturating_sub(REACH as u32 + 1))?;
    Ok(in_table.signum() * (beyond as i32 + REACH + 1))
}

/// Rows that a position selects: a token's digits, changes around it, the step, the phase, how many neighbours are skipped.
const POSITION_ROWS: usize = DIGITS + CHANGE_SOURCES.len() + 3;

/// Rows of the tables that a position's tokens, the step, the phase and what is skipped around it select.
fn table_rows(known: &Known, (x, y): (isize, isize)) -> [usize; POSITION_ROWS] {
    let (tokens, before) = (known.tokens, known.before);
    let token = *tokens.get(x, y).unwrap_or(&MASKED);
    let changes = CHANGE_SOURCES.map(|(dx, dy)| {
        let now = tokens.get(x + dx, y + dy).filter(|t| **t != MASKED);
        let then = before.previous.as_ref().and_then(|m| m.get(x + dx, y + dy));
        match (now, then.filter(|t| **t != MASKED)) {
            (Some(now), Some(then)) => now.iter().zip(then).filter(|(a, b)| a != b).count(),
            _ => ROWS_PER_CHANGE - 1,
        }
    });
    let mut rows = [STEP_ROWS + known.step; POSITION_ROWS];
    for k in 0..DIGITS {
        rows[k] = digit_row(k, token[k]);
    }
    for (i, change) in changes.into_iter().enumerate() {
        rows[DIGITS + i] = CHANGE_ROWS + i * ROWS_PER_CHANGE + change;
    }
    // A slice of odd positions knows as much in its two phases as the first two of a whole unit do.
    let phases = if known.region.is_whole() {
        LATENT_PHASES
    } else {
        LATENT_PHASES / 2
    };
    rows[POSITION_ROWS - 2] = PHASE_ROWS + latent_phase(x, y) % phases;
    rows[POSITION_ROWS - 1] =
        SKIP_ROWS + skipped_around(&known.skipped, tokens.width, y as usize * tokens.width + x as usize);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::FSQ_LEVELS;
    use crate::entropy::numbers::{latent_weights, Numbers};
    use crate::entropy::{UnitDecoder, UnitEncoder};
    use proptest::prelude::*;

    const CHANNELS: usize = 3;

    fn model() -> LatentContextModel {
        LatentContextModel::new(latent_weights(CHANNELS)).unwrap()
    }

    fn tokens(seed: u64) -> TokenMap {
        let (mut map, mut numbers) = (TokenMap::zero(5, 4), Numbers(seed));
        for token in &mut map.tokens {
            *token = FSQ_LEVELS.map(|l| (numbers.next(1 << 20).unsigned_abs() % u32::from(l)) as u8);
        }
        map.tokens[3] = MASKED;
        map
    }

    fn latents(seed: u64, range: i32) -> LatentMap {
        let mut map = LatentMap::zero(5, 4, CHANNELS);
        map.values = Numbers(seed).many(map.values.len(), range.max(1));
        map
    }

    /// The histories before the last of `units` units.
    fn histories(units: u64) -> (TokenContext, LatentContext) {
        let (mut history, mut latent_history) = (TokenContext::default(), LatentContext::default());
        for unit in 0..units {
            history.push(tokens(unit));
            latent_history.push(latents(unit + 50, 3000));
        }
        (history, latent_history)
    }

    fn exactly(latents: &LatentMap) -> WantedLatents<'_> {
        WantedLatents {
            latents,
            quantize: &|latent| latent.nearest(),
            skipped: &[],
        }
    }

    fn encode(
        coder: &mut UnitEncoder,
        units: u64,
        tokens: &TokenMap,
        mode: LatentMode,
        wanted: WantedLatents,
    ) -> LatentMap {
        let (history, latent_history) = histories(units);
        let coded = model().code(
            coder,
            &latent_history,
            (tokens, &history),
            Region::WHOLE,
            Some((mode, wanted)),
        );
        coded.unwrap().1
    }

    proptest! {
        #[test]
        fn the_decoder_gets_what_the_encoder_says(
            seed: u64, range in 1i32..1_000_000, units in 0u64..3, step in 0..LATENT_STEPS, towards in 0i32..2,
            skipped: [bool; 20],
        ) {
            let (tokens, latents) = (tokens(seed), latents(seed, range));
            let (history, latent_history) = histories(units);
            let quantize = |latent: Quantization| {
                let nearest = latent.nearest();
                nearest - towards * (nearest - latent.expected).signum()
            };
            for mode in [LatentMode::Coded(step), LatentMode::Skipped, LatentMode::Absent] {
                let mut coder = UnitEncoder::new();
                let wanted = WantedLatents { latents: &latents, quantize: &quantize, skipped: &skipped };
                let coded = encode(&mut coder, units, &tokens, mode, wanted);
                let previous = latent_history.previous.as_ref().filter(|_| mode == LatentMode::Coded(step));
                for at in (0..20).filter(|&at| previous.is_some() && skipped[at]) {
                    prop_assert_eq!(coded.position(at), previous.unwrap().position(at));
                }
                let bytes = coder.finish();
                let mut coder = UnitDecoder::new(&bytes);
                let decoded = model().code(&mut coder, &latent_history, (&tokens, &history), Region::WHOLE, None).unwrap();
                prop_assert_eq!(decoded, (mode, coded));
            }
        }

        #[test]
        fn values_are_off_by_half_a_step_at_most(seed: u64, range in 1i32..100_000, step in 0..LATENT_STEPS) {
            let wanted = latents(seed, range);
            let mode = LatentMode::Coded(step);
            let coded = encode(&mut UnitEncoder::new(), 1, &tokens(seed), mode, exactly(&wanted));
            let size = model().weights.steps[step];
            for (at, (a, b)) in coded.values.iter().zip(&wanted.values).enumerate() {
                // The first channel's scale says that nothing is to be coded.
                prop_assert!(at % CHANNELS == 0 || (a - b).abs() * 2 <= size + 2 * size / 64 + 2, "{} for {}", a, b);
            }
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>, units in 0u64..3) {
            let (history, latent_history) = histories(units);
            let _ = model().code(&mut UnitDecoder::new(&bytes), &latent_history, (&tokens(1), &history), Region::WHOLE, None);
        }

        #[test]
        fn what_is_beyond_the_table_round_trips(difference in -(1 << 15)..1 << 15) {
            let table = &model().tables[40];
            let mut coder = UnitEncoder::new();
            code_difference(&mut coder, table, difference).unwrap();
            let bytes = coder.finish();
            prop_assert_eq!(code_difference(&mut UnitDecoder::new(&bytes), table, 0), Ok(difference));
        }
    }

    #[test]
    fn a_skipped_unit_costs_a_byte() {
        let mut coder = UnitEncoder::new();
        encode(
            &mut coder,
            1,
            &tokens(1),
            LatentMode::Skipped,
            exactly(&latents(1, 100)),
        );
        assert!(coder.finish().len() <= 2);
    }

    #[test]
    fn golden_bytes() {
        let mut coder = UnitEncoder::new();
        let latents = latents(9, 2000);
        let skipped: Vec<bool> = (0..20).map(|at| at % 5 < 2).collect();
        let wanted = WantedLatents {
            skipped: &skipped,
            ..exactly(&latents)
        };
        encode(&mut coder, 2, &tokens(7), LatentMode::Coded(20), wanted);
        assert_eq!(coder.finish(), GOLDEN, "streams of earlier builds must stay decodable");
    }

    #[test]
    fn weights_of_the_wrong_size_are_refused() {
        let refused = |change: &dyn Fn(&mut LatentWeights)| {
            let mut weights = latent_weights(CHANNELS);
            change(&mut weights);
            LatentContextModel::new(weights).is_err()
        };
        assert!(refused(&|w| w.channels = 4));
        assert!(refused(&|w| w.steps[3] = 0), "steps that do not grow");
        assert!(refused(&|w| w.probabilities[0] += 1), "a sum of more than 2^16");
        assert!(
            refused(&|w| w.trunk.biases[0] = i32::MAX),
            "a bias that could overflow a sum"
        );
    }

    const GOLDEN: [u8; 16] = [83, 255, 97, 38, 206, 44, 4, 135, 224, 125, 90, 152, 250, 32, 88, 202];
}
