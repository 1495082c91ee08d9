// SPDX-License-Identifier: MPL-2.0
//! Which tokens are not sent.

use crate::entropy::{pattern_masks, Masking, TokenContext, TokenMap, MASKED};

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaskingStrategy {
    /// Those that the predictor restores best for what they would cost, one bit per token says which.
    #[default]
    Adaptive,
    /// A regular pattern, as many quarters of them as come nearest.
    Pattern,
}

/// Masks a share of the tokens in a regular pattern.
pub fn mask_pattern(tokens: &mut TokenMap, history: &TokenContext, ratio: f64) -> Masking {
    let quarters = (ratio * 4.0).round().clamp(0.0, 3.0) as u8;
    if quarters == 0 {
        return Masking::None;
    }
    for at in 0..tokens.tokens.len() {
        if pattern_masks(quarters, history.units, at % tokens.width, at / tokens.width) {
            tokens.tokens[at] = MASKED;
        }
    }
    Masking::Pattern(quarters)
}

/// Masks the share of the tokens whose prediction errors are the smallest for what they save.
pub fn mask_adaptive(tokens: &mut TokenMap, history: &TokenContext, ratio: f64, errors: &[f32]) -> Masking {
    let count = (ratio * tokens.tokens.len() as f64).round() as usize;
    if count == 0 {
        return Masking::None;
    }
    let score = |at: usize| errors[at] / saved_bits(tokens, history, at);
    let mut order: Vec<usize> = (0..tokens.tokens.len()).collect();
    order.sort_by(|&a, &b| score(a).total_cmp(&score(b)).then(a.cmp(&b)));
    for &at in order.iter().take(count) {
        tokens.tokens[at] = MASKED;
    }
    Masking::Adaptive
}

/// About what a token costs: little if nothing changed, some bits per digit that did.
fn saved_bits(tokens: &TokenMap, history: &TokenContext, at: usize) -> f32 {
    const UNCHANGED: f32 = 0.5;
    const PER_DIGIT: f32 = 2.0;
    let before = history.previous.as_ref().map(|map| map.tokens[at]);
    let changed = before.map_or(tokens.tokens[at].len(), |before| {
        before.iter().zip(&tokens.tokens[at]).filter(|(a, b)| a != b).count()
    });
    UNCHANGED + PER_DIGIT * changed as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(map: &TokenMap) -> usize {
        map.tokens.iter().filter(|t| **t == MASKED).count()
    }

    #[test]
    fn a_ratio_is_kept() {
        for ratio in [0.0, 0.25, 0.5, 0.75, 0.9] {
            let mut map = TokenMap::zero(8, 6);
            let errors: Vec<f32> = (0..48).map(|i| (i * 7 % 48) as f32).collect();
            let kind = mask_adaptive(&mut map, &TokenContext::default(), ratio, &errors);
            assert_eq!(masked(&map), (48.0 * ratio).round() as usize);
            assert_eq!(kind == Masking::None, ratio == 0.0);
            let mut map = TokenMap::zero(8, 6);
            mask_pattern(&mut map, &TokenContext::default(), ratio);
            assert_eq!(masked(&map), (48.0 * ratio.min(0.75)) as usize);
        }
    }

    #[test]
    fn what_is_predicted_well_or_costs_much_goes_first() {
        let mut history = TokenContext::default();
        history.push(TokenMap::zero(3, 1));
        let mut map = TokenMap::zero(3, 1);
        map.tokens[1] = [1; 6];
        // The same error everywhere: the one that changed saves most.
        let mut by_cost = map.clone();
        mask_adaptive(&mut by_cost, &history, 0.34, &[1.0; 3]);
        assert_eq!(by_cost.tokens[1], MASKED);
        mask_adaptive(&mut map, &history, 0.34, &[0.9, 40.0, 0.1]);
        assert_eq!(map.tokens[2], MASKED);
    }
}
