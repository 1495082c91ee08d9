// SPDX-License-Identifier: MPL-2.0
//! The discrete checkerboard context model: a small integer network that gives the probabilities of a token's
//! digits from tokens that the decoder already has.
//!
//! A map is coded in two phases. The anchors, where column + row is even, see the previous two units; the
//! others see their four neighbours as well. Each digit also sees the earlier digits of its token.

use constriction::stream::queue::{RangeDecoder, RangeEncoder};
use constriction::stream::{Decode, Encode};
use constriction::UnwrapInfallible;

use super::map::{History, Token, TokenMap, DIGITS};
use super::probability::Probabilities;
use super::weights::{
    rows_before, values_before, ContextWeights, Layer, ACTIVATION_SCALE, MULTIPLIER_BITS, ROWS_PER_SOURCE, SOURCES,
    TABLE_SCALE,
};
use super::EntropyError;
use crate::FSQ_LEVELS;

/// Weights of a layer as i16: products of i16 pairs are what compilers turn into multiply-add instructions.
#[derive(Debug)]
struct Dense {
    weights: Vec<i16>,
    biases: Vec<i32>,
    multipliers: Vec<i32>,
}

impl Dense {
    fn new(layer: &Layer) -> Dense {
        Dense {
            weights: layer.weights.iter().map(|&w| w.into()).collect(),
            biases: layer.biases.clone(),
            multipliers: layer.multipliers.clone(),
        }
    }

    /// Calls `f(output, sum)` for every output. Integer sums come out the same in every instruction set.
    fn sums(&self, inputs: &[i16], f: impl FnMut(usize, i32)) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            return unsafe { self.sums_avx2(inputs, f) };
        }
        self.sums_portable(inputs, f);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    unsafe fn sums_avx2(&self, inputs: &[i16], f: impl FnMut(usize, i32)) {
        self.sums_portable(inputs, f);
    }

    #[inline(always)]
    fn sums_portable(&self, inputs: &[i16], mut f: impl FnMut(usize, i32)) {
        for (o, (row, bias)) in self.weights.chunks_exact(inputs.len()).zip(&self.biases).enumerate() {
            let dot: i32 = row.iter().zip(inputs).map(|(&w, &a)| i32::from(w) * i32::from(a)).sum();
            f(o, bias + dot);
        }
    }

    fn rescale(&self, output: usize, sum: i32) -> i64 {
        let product = i64::from(sum) * i64::from(self.multipliers[output]);
        (product + (1 << (MULTIPLIER_BITS - 1))) >> MULTIPLIER_BITS
    }
}

fn activate(value: i64) -> i16 {
    value.clamp(0, 255) as i16
}

/// What gives or takes the digits in coding order.
trait DigitCoder {
    /// Codes one digit: an encoder returns `digit`, a decoder the one that it reads.
    fn code(&mut self, probabilities: &Probabilities, digit: u8) -> Result<u8, EntropyError>;
}

type Encoder = RangeEncoder<u16, u64>;

impl DigitCoder for Encoder {
    fn code(&mut self, probabilities: &Probabilities, digit: u8) -> Result<u8, EntropyError> {
        self.encode_symbol(usize::from(digit), probabilities.model())
            .map_err(|_| EntropyError::Model(format!("digit {digit} is out of range")))?;
        Ok(digit)
    }
}

type Decoder = RangeDecoder<u16, u64, constriction::backends::Cursor<u16, Vec<u16>>>;

impl DigitCoder for Decoder {
    fn code(&mut self, probabilities: &Probabilities, _: u8) -> Result<u8, EntropyError> {
        let digit = self
            .decode_symbol(&probabilities.model())
            .map_err(|_| EntropyError::Damaged)?;
        Ok(digit as u8)
    }
}

/// Counts bits without coding.
struct Counter(f64);

impl DigitCoder for Counter {
    fn code(&mut self, probabilities: &Probabilities, digit: u8) -> Result<u8, EntropyError> {
        self.0 += probabilities.cost(digit);
        Ok(digit)
    }
}

/// Codes token maps.
#[derive(Debug)]
pub struct ContextModel {
    weights: ContextWeights,
    trunk: Dense,
    hidden: Vec<Dense>,
    output: Vec<Dense>,
}

/// Working memory of one token.
struct Scratch {
    sums: Vec<i32>,
    features: Vec<i16>,
    trunk: Vec<i16>,
    hidden: Vec<i16>,
}

impl ContextModel {
    /// Fails if a size does not fit or a number could overflow a sum.
    pub fn new(weights: ContextWeights) -> Result<ContextModel, EntropyError> {
        weights.check()?;
        Ok(ContextModel {
            trunk: Dense::new(&weights.trunk),
            hidden: weights.hidden.iter().map(Dense::new).collect(),
            output: weights.output.iter().map(Dense::new).collect(),
            weights,
        })
    }

    pub fn weights(&self) -> &ContextWeights {
        &self.weights
    }

    /// The map's bytes. End-of-coder overhead is at most 4 bytes.
    ///
    /// Fails if a digit is out of range.
    pub fn encode(&self, history: &History, map: &TokenMap) -> Result<Vec<u8>, EntropyError> {
        let mut coder = Encoder::new();
        self.code(history, &mut map.clone(), &mut coder)?;
        let words = coder.into_compressed().unwrap_infallible();
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u16::to_be_bytes).collect();
        // The decoder reads zeros after the end.
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    /// Inverse of [`Self::encode`]. Damaged bytes mostly give a wrong map rather than an error: compare
    /// [`TokenMap::check`].
    pub fn decode(
        &self,
        history: &History,
        width: usize,
        height: usize,
        bytes: &[u8],
    ) -> Result<TokenMap, EntropyError> {
        let word = |pair: &[u8]| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let words: Vec<u16> = bytes.chunks(2).map(word).collect();
        let mut coder = Decoder::from_compressed(words).unwrap_infallible();
        let mut map = TokenMap::zero(width, height);
        self.code(history, &mut map, &mut coder)?;
        Ok(map)
    }

    /// Ideal cost of a map in bits.
    pub fn cost(&self, history: &History, map: &TokenMap) -> Result<f64, EntropyError> {
        let mut counter = Counter(0.0);
        self.code(history, &mut map.clone(), &mut counter)?;
        Ok(counter.0)
    }

    /// Probabilities of the digits of one token: `neighbours` says whether it is coded in the
    /// second phase.
    #[cfg(test)]
    fn probabilities(
        &self,
        history: &History,
        map: &TokenMap,
        (x, y): (usize, usize),
        neighbours: bool,
    ) -> Vec<Probabilities> {
        struct Recorder(Vec<Probabilities>);
        impl DigitCoder for Recorder {
            fn code(&mut self, probabilities: &Probabilities, digit: u8) -> Result<u8, EntropyError> {
                self.0.push(*probabilities);
                Ok(digit)
            }
        }
        let mut recorder = Recorder(Vec::new());
        let token = map.tokens[y * map.width + x];
        let mut scratch = self.scratch();
        self.features(history, map, (x as isize, y as isize), neighbours, &mut scratch);
        self.code_token(token, &mut recorder, &mut scratch)
            .expect("a recorder takes every digit");
        recorder.0
    }

    fn scratch(&self) -> Scratch {
        Scratch {
            sums: vec![0; self.weights.width],
            features: vec![0; self.weights.width],
            trunk: vec![0; self.weights.width],
            hidden: vec![0; self.weights.head_width],
        }
    }

    fn code(&self, history: &History, map: &mut TokenMap, coder: &mut impl DigitCoder) -> Result<(), EntropyError> {
        let mut scratch = self.scratch();
        for phase in 0..2 {
            for y in 0..map.height {
                for x in (0..map.width).filter(|x| (x + y) % 2 == phase) {
                    self.features(history, map, (x as isize, y as isize), phase == 1, &mut scratch);
                    let at = y * map.width + x;
                    map.tokens[at] = self.code_token(map.tokens[at], coder, &mut scratch)?;
                }
            }
        }
        Ok(())
    }

    /// The first two layers: what is the same for all digits of a token.
    fn features(
        &self,
        history: &History,
        map: &TokenMap,
        (x, y): (isize, isize),
        neighbours: bool,
        scratch: &mut Scratch,
    ) {
        let width = self.weights.width;
        scratch.sums.copy_from_slice(&self.weights.table_bias);
        for (source, (unit, dx, dy)) in SOURCES.into_iter().enumerate() {
            let from = match unit {
                0 => neighbours.then_some(map),
                1 => history.previous.as_ref(),
                _ => history.older.as_ref(),
            };
            let token = from.and_then(|m| m.get(x + dx, y + dy));
            for k in 0..DIGITS {
                let value = token.map_or(FSQ_LEVELS[k], |t| t[k]);
                let row = source * ROWS_PER_SOURCE + rows_before(k) + usize::from(value);
                let row = &self.weights.tables[row * width..][..width];
                scratch
                    .sums
                    .iter_mut()
                    .zip(row)
                    .for_each(|(sum, &v)| *sum += i32::from(v));
            }
        }
        const STEP: i32 = TABLE_SCALE / ACTIVATION_SCALE;
        for (a, sum) in scratch.features.iter_mut().zip(&scratch.sums) {
            *a = activate(i64::from((sum + STEP / 2).div_euclid(STEP)));
        }
        let Scratch { features, trunk, .. } = scratch;
        self.trunk
            .sums(features, |o, sum| trunk[o] = activate(self.trunk.rescale(o, sum)));
    }

    fn code_token(
        &self,
        token: Token,
        coder: &mut impl DigitCoder,
        scratch: &mut Scratch,
    ) -> Result<Token, EntropyError> {
        let head = self.weights.head_width;
        let mut coded = token;
        for k in 0..DIGITS {
            scratch.sums.resize(self.weights.width.max(head), 0);
            let Scratch {
                sums, trunk, hidden, ..
            } = scratch;
            self.hidden[k].sums(trunk, |o, sum| sums[o] = sum);
            for (j, &digit) in coded[..k].iter().enumerate() {
                let row = &self.weights.earlier[k][(values_before(j) + usize::from(digit)) * head..][..head];
                sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
            }
            for (o, a) in hidden.iter_mut().enumerate() {
                *a = activate(self.hidden[k].rescale(o, sums[o]));
            }
            let mut logits = [0i32; 8];
            self.output[k].sums(hidden, |o, sum| {
                logits[o] = self.output[k].rescale(o, sum).clamp(-(1 << 24), 1 << 24) as i32;
            });
            let values = usize::from(FSQ_LEVELS[k]);
            let probabilities = Probabilities::from_logits(&logits[..values], &self.weights.powers);
            if usize::from(coded[k]) >= values {
                return Err(EntropyError::Model(format!("digit {} is out of range", coded[k])));
            }
            coded[k] = coder.code(&probabilities, coded[k])?;
        }
        scratch.sums.truncate(self.weights.width);
        Ok(coded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::weights::LOGIT_SCALE;
    use proptest::prelude::*;

    /// A linear congruential generator: the golden values must not depend on any crate's random numbers.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self, range: i32) -> i32 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as i32 % (2 * range + 1) - range
        }

        fn many<T: TryFrom<i32>>(&mut self, count: usize, range: i32) -> Vec<T>
        where
            T::Error: std::fmt::Debug,
        {
            (0..count).map(|_| self.next(range).try_into().unwrap()).collect()
        }

        fn layer(&mut self, inputs: usize, outputs: usize, multiplier: i32) -> Layer {
            Layer {
                weights: self.many(inputs * outputs, 127),
                biases: self.many(outputs, 4000),
                multipliers: vec![multiplier; outputs],
            }
        }
    }

    fn weights() -> ContextWeights {
        let (width, head, mut numbers) = (16, 8, Numbers(1));
        ContextWeights {
            width,
            head_width: head,
            tables: numbers.many(ContextWeights::TABLE_ROWS * width, 200),
            table_bias: numbers.many(width, 500),
            trunk: numbers.layer(width, width, 1 << 15),
            hidden: (0..DIGITS).map(|_| numbers.layer(width, head, 1 << 15)).collect(),
            earlier: (0..DIGITS)
                .map(|k| numbers.many(ContextWeights::earlier_rows(k) * head, 9000))
                .collect(),
            output: FSQ_LEVELS
                .iter()
                .map(|&l| numbers.layer(head, l.into(), 1 << 20))
                .collect(),
            powers: (0..LOGIT_SCALE)
                .map(|i| 2f64.powf(30.0 - f64::from(i) / 1024.0).round() as i32)
                .collect(),
        }
    }

    fn model() -> ContextModel {
        ContextModel::new(weights()).unwrap()
    }

    fn map(width: usize, height: usize, seed: u64) -> TokenMap {
        let (mut map, mut numbers) = (TokenMap::zero(width, height), Numbers(seed));
        for token in &mut map.tokens {
            *token = FSQ_LEVELS.map(|l| (numbers.next(1 << 20).unsigned_abs() % u32::from(l)) as u8);
        }
        map
    }

    fn history(width: usize, height: usize, units: u64) -> History {
        let mut history = History::default();
        (0..units).for_each(|unit| history.push(map(width, height, 100 + unit)));
        history
    }

    proptest! {
        #[test]
        fn any_map_round_trips(width in 1usize..12, height in 1usize..12, seed: u64, units in 0u64..3) {
            let (model, map, history) = (model(), map(width, height, seed), history(width, height, units));
            let bytes = model.encode(&history, &map).unwrap();
            let bits = model.cost(&history, &map).unwrap();
            prop_assert!(bytes.len() as f64 * 8.0 <= bits + 33.0, "{} bytes for {bits} bits", bytes.len());
            prop_assert_eq!(model.decode(&history, width, height, &bytes).unwrap(), map);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>, units in 0u64..3) {
            let _ = model().decode(&history(5, 4, units), 5, 4, &bytes);
        }

        #[test]
        fn check_notices_a_changed_digit(seed: u64, at in 0usize..20, digit in 0usize..DIGITS) {
            let original = map(5, 4, seed);
            let mut changed = original.clone();
            changed.tokens[at][digit] ^= 1;
            prop_assert_ne!(original.check(), changed.check());
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = model().encode(&history(4, 3, 2), &map(4, 3, 5)).unwrap();
        assert_eq!(bytes, GOLDEN, "streams of earlier builds must stay decodable");
    }

    #[test]
    fn golden_probabilities() {
        let probabilities = model().probabilities(&history(4, 3, 1), &map(4, 3, 5), (1, 2), true);
        let values: Vec<_> = probabilities.iter().map(|p| p.values()[0]).collect();
        assert_eq!(values, GOLDEN_FIRST_VALUES);
    }

    #[test]
    fn neighbours_are_seen_in_the_second_phase_only() {
        let (model, history) = (model(), history(4, 3, 1));
        let (a, mut b) = (map(4, 3, 5), map(4, 3, 5));
        b.tokens[4][0] ^= 1;
        let probabilities = |map: &TokenMap, phase| model.probabilities(&history, map, (1, 1), phase);
        assert_eq!(probabilities(&a, false), probabilities(&b, false));
        assert_ne!(probabilities(&a, true), probabilities(&b, true));
    }

    #[test]
    fn weights_of_the_wrong_size_are_refused() {
        let short = ContextWeights {
            tables: vec![0; 5],
            ..weights()
        };
        assert!(ContextModel::new(short).is_err());
        let mut wild = weights();
        wild.trunk.biases[0] = i32::MAX;
        assert!(ContextModel::new(wild).is_err(), "a bias that could overflow a sum");
    }

    #[test]
    fn sums_are_the_same_in_every_instruction_set() {
        let mut numbers = Numbers(9);
        let dense = Dense::new(&numbers.layer(96, 32, 1));
        let inputs: Vec<i16> = (0..96).map(|_| numbers.next(127) as i16 + 128).collect();
        let (mut fast, mut portable) = (vec![], vec![]);
        dense.sums(&inputs, |_, sum| fast.push(sum));
        dense.sums_portable(&inputs, |_, sum| portable.push(sum));
        assert_eq!(fast, portable);
    }

    const GOLDEN: [u8; 26] = [
        220, 242, 254, 45, 31, 190, 233, 107, 119, 31, 78, 174, 91, 133, 136, 212, 207, 18, 172, 249, 188, 159, 5, 188,
        239, 216,
    ];
    const GOLDEN_FIRST_VALUES: [u16; DIGITS] = [7935, 6741, 10944, 21589, 16933, 14343];
}
