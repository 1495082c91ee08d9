// SPDX-License-Identifier: MPL-2.0
//! The discrete checkerboard context model: a small integer network that gives the probabilities of a token's
//! digits from tokens that the decoder already has.
//!
//! A map is coded in two phases. The anchors, where column + row is even, see the previous two units; the
//! others see their four neighbours as well. Each digit also sees the earlier digits of its token.

use super::map::{Token, TokenContext, TokenMap, DIGITS, MASKED};
use super::mask::{code_mask, Masking};
use super::weights::{
    rows_before, values_before, ContextWeights, ACTIVATION_SCALE, ROWS_PER_SOURCE, SOURCES, TABLE_SCALE,
};
use crate::bitstream::FSQ_LEVELS;
use crate::entropy::integer_net::{activate, add_rows, Dense};
use crate::entropy::probability::Probabilities;
use crate::entropy::range_coder::SymbolCoder;
use crate::entropy::region::Region;
use crate::entropy::EntropyError;

/// Codes token maps.
#[derive(Debug)]
pub struct ContextModel {
    weights: ContextWeights,
    trunk: Dense,
    hidden: Vec<Dense>,
    output: Vec<Dense>,
}

/// A digit whose turn it is to be coded.
pub struct DigitChoice<'a> {
    /// Its token's place in the map, row by row.
    pub at: usize,
    /// The digits of the token before it, as they are coded.
    pub earlier: &'a [u8],
    /// What the map holds.
    pub wanted: u8,
    /// Of its values.
    pub probabilities: &'a Probabilities,
}

/// The choice of a decoder, and of an encoder that has none.
pub fn as_wanted(choice: DigitChoice) -> u8 {
    choice.wanted
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

    /// Codes a region of a map, beyond which all is masked, as in `history`. An encoder's `map` holds [`MASKED`] where a token is not sent,
    /// as `masking` says; `choose` says which digits of the others are coded, and the map has those then. A decoder's is overwritten. Damaged
    /// bytes mostly give a wrong map rather than an error: compare [`crate::entropy::UnitSymbols::check`].
    ///
    /// Fails if a digit is out of range.
    pub fn code(
        &self,
        coder: &mut impl SymbolCoder,
        history: &TokenContext,
        (masking, choose): (Masking, &dyn Fn(DigitChoice) -> u8),
        region: Region,
        map: &mut TokenMap,
    ) -> Result<(), EntropyError> {
        code_mask(coder, masking, history, region, map)?;
        let mut scratch = self.scratch();
        for phase in 0..2 {
            for y in 0..map.height {
                for x in (0..map.width).filter(|&x| region.phase(x, y) == phase) {
                    let at = y * map.width + x;
                    if map.tokens[at] == MASKED {
                        continue;
                    }
                    let neighbours = (phase == 1).then_some(region);
                    self.features(history, map, (x as isize, y as isize), neighbours, &mut scratch);
                    map.tokens[at] = self.code_token((at, map.tokens[at]), choose, coder, &mut scratch)?;
                }
            }
        }
        Ok(())
    }

    /// Probabilities of the digits of one token: `neighbours` says whether it is coded in the
    /// second phase.
    #[cfg(test)]
    fn probabilities(
        &self,
        history: &TokenContext,
        map: &TokenMap,
        (x, y): (usize, usize),
        neighbours: bool,
    ) -> Vec<Vec<u16>> {
        use crate::entropy::probability::SymbolModel;
        struct Recorder(Vec<Vec<u16>>);
        impl SymbolCoder for Recorder {
            fn code(&mut self, model: &impl SymbolModel, symbol: usize) -> Result<usize, EntropyError> {
                let values = (0..).map_while(|s| model.left_cumulative_and_probability(s));
                self.0.push(values.map(|(_, p)| p.get()).collect());
                Ok(symbol)
            }
        }
        let mut recorder = Recorder(Vec::new());
        let token = map.tokens[y * map.width + x];
        let mut scratch = self.scratch();
        let neighbours = neighbours.then_some(Region::WHOLE);
        self.features(history, map, (x as isize, y as isize), neighbours, &mut scratch);
        self.code_token((0, token), &as_wanted, &mut recorder, &mut scratch)
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

    /// The first two layers: what is the same for all digits of a token. `neighbours`: in the second phase, those of a region.
    fn features(
        &self,
        history: &TokenContext,
        map: &TokenMap,
        (x, y): (isize, isize),
        neighbours: Option<Region>,
        scratch: &mut Scratch,
    ) {
        let mut rows = [0; SOURCES.len() * DIGITS];
        for (source, (unit, dx, dy)) in SOURCES.into_iter().enumerate() {
            let (dx, dy) = neighbours
                .filter(|_| unit == 0)
                .map_or((dx, dy), |region| region.neighbour(dx, dy));
            let from = match unit {
                0 => neighbours.map(|_| map),
                1 => history.previous.as_ref(),
                _ => history.older.as_ref(),
            };
            let token = from.and_then(|m| m.get(x + dx, y + dy));
            for k in 0..DIGITS {
                let value = token.map_or(FSQ_LEVELS[k], |t| t[k]);
                rows[source * DIGITS + k] = source * ROWS_PER_SOURCE + rows_before(k) + usize::from(value);
            }
        }
        scratch.sums.copy_from_slice(&self.weights.table_bias);
        add_rows(&mut scratch.sums, &self.weights.tables, &rows);
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
        (at, token): (usize, Token),
        choose: &dyn Fn(DigitChoice) -> u8,
        coder: &mut impl SymbolCoder,
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
            let (earlier, rest) = coded.split_at_mut(k);
            let digit = choose(DigitChoice {
                at,
                earlier,
                wanted: rest[0],
                probabilities: &probabilities,
            });
            rest[0] = coder.code(&probabilities, digit.into())? as u8;
        }
        scratch.sums.truncate(self.weights.width);
        Ok(coded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::{Grid, SequenceHeader};
    use crate::entropy::numbers::{context_weights, Numbers};
    use crate::entropy::{pattern_masks, BitCounter, Camera, UnitDecoder, UnitEncoder, UnitSymbols};
    use proptest::prelude::*;

    fn model() -> ContextModel {
        ContextModel::new(context_weights()).unwrap()
    }

    fn map(width: usize, height: usize, seed: u64) -> TokenMap {
        let (mut map, mut numbers) = (TokenMap::zero(width, height), Numbers(seed));
        for token in &mut map.tokens {
            *token = FSQ_LEVELS.map(|l| (numbers.next(1 << 20).unsigned_abs() % u32::from(l)) as u8);
        }
        map
    }

    fn history(width: usize, height: usize, units: u64) -> TokenContext {
        let mut history = TokenContext::default();
        (0..units).for_each(|unit| history.push(map(width, height, 100 + unit)));
        history
    }

    fn encode(history: &TokenContext, masking: Masking, map: &TokenMap) -> Vec<u8> {
        let mut coder = UnitEncoder::new();
        model()
            .code(
                &mut coder,
                history,
                (masking, &as_wanted),
                Region::WHOLE,
                &mut map.clone(),
            )
            .unwrap();
        coder.finish()
    }

    fn decode(history: &TokenContext, width: usize, height: usize, bytes: &[u8]) -> Result<TokenMap, EntropyError> {
        let mut map = TokenMap::zero(width, height);
        model().code(
            &mut UnitDecoder::new(bytes),
            history,
            (Masking::None, &as_wanted),
            Region::WHOLE,
            &mut map,
        )?;
        Ok(map)
    }

    fn mask(map: &mut TokenMap, masked: impl Fn(usize, usize) -> bool) {
        for at in (0..map.tokens.len()).filter(|at| masked(at % map.width, at / map.width)) {
            map.tokens[at] = MASKED;
        }
    }

    proptest! {
        #[test]
        fn any_map_round_trips(width in 1usize..12, height in 1usize..12, seed: u64, units in 0u64..3) {
            let (map, history) = (map(width, height, seed), history(width, height, units));
            let bytes = encode(&history, Masking::None, &map);
            let mut counter = BitCounter::default();
            model().code(&mut counter, &history, (Masking::None, &as_wanted), Region::WHOLE, &mut map.clone()).unwrap();
            prop_assert!(bytes.len() as f64 * 8.0 <= counter.0 + 33.0, "{} bytes for {} bits", bytes.len(), counter.0);
            prop_assert_eq!(decode(&history, width, height, &bytes).unwrap(), map);
        }

        #[test]
        fn masked_maps_round_trip(seed: u64, units in 0u64..6, quarters in 1u8..4, masked: u64) {
            let history = history(8, 8, units);
            let (mut patterned, mut adaptive) = (map(8, 8, seed), map(8, 8, seed));
            mask(&mut patterned, |x, y| pattern_masks(quarters, history.units, x, y));
            mask(&mut adaptive, |x, y| masked >> (8 * y + x) & 1 == 1);
            prop_assert_eq!(patterned.tokens.iter().filter(|t| **t == MASKED).count(), usize::from(quarters) * 16);
            for (masking, map) in [(Masking::Pattern(quarters), patterned), (Masking::Adaptive, adaptive)] {
                let bytes = encode(&history, masking, &map);
                prop_assert_eq!(decode(&history, 8, 8, &bytes).unwrap(), map);
            }
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>, units in 0u64..3) {
            let _ = decode(&history(5, 4, units), 5, 4, &bytes);
        }

        #[test]
        fn check_notices_a_changed_digit(seed: u64, at in 0usize..20, digit in 0usize..DIGITS) {
            let original = map(5, 4, seed);
            let mut changed = original.clone();
            changed.tokens[at][digit] ^= 1;
            let sequence = SequenceHeader::new(80, 64, (25, 1));
            let camera = Camera::key(Grid::new(&sequence, 16, 8, true));
            let check = |tokens: TokenMap| {
                UnitSymbols { camera: camera.clone(), tokens, latents: None, residual: None }.check()
            };
            prop_assert_ne!(check(original), check(changed));
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode(&history(4, 3, 2), Masking::None, &map(4, 3, 5));
        assert_eq!(bytes, GOLDEN, "streams of earlier builds must stay decodable");
    }

    #[test]
    fn golden_probabilities() {
        let probabilities = model().probabilities(&history(4, 3, 1), &map(4, 3, 5), (1, 2), true);
        let values: Vec<_> = probabilities.iter().map(|p| p[0]).collect();
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
            ..context_weights()
        };
        assert!(ContextModel::new(short).is_err());
        let mut wild = context_weights();
        wild.trunk.biases[0] = i32::MAX;
        assert!(ContextModel::new(wild).is_err(), "a bias that could overflow a sum");
    }

    const GOLDEN: [u8; 26] = [
        44, 48, 109, 11, 160, 78, 122, 143, 78, 66, 141, 237, 45, 80, 141, 234, 159, 117, 114, 198, 150, 60, 249, 68,
        33, 164,
    ];
    const GOLDEN_FIRST_VALUES: [u16; DIGITS] = [7935, 6741, 10944, 21589, 16933, 14343];
}
