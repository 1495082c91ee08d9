// SPDX-License-Identifier: MPL-2.0
//! One unit at one operating point.

use super::analysis::{Analysis, AnalysisState};
use super::encoder::EncoderSettings;
use super::ladder::{operating_point, OperatingPoint};
use super::masking::{mask_adaptive, mask_pattern, MaskingStrategy};
use super::past::Past;
use super::restore::Restorer;
use super::strips::Strip;
use super::{CodecError, Frame};
use crate::bitstream::{Clock, CodingScale, SequenceHeader};
use crate::entropy::{LatentContextModel, LatentMap, LatentMode, Masking, TokenMap, UnitEncoder};
use crate::model::Model;

/// Latents are held where at no place more than one in this many moved: a walker far off is a few places of hundreds ...
const HELD_SHARE: usize = 16;
/// ... by more than this many quarters of a step.
const HELD_QUARTERS: i64 = 3;

/// What lasts from a key unit to the next.
pub(super) struct Stream {
    pub sequence: SequenceHeader,
    pub state: AnalysisState,
    pub past: Past,
    pub restorer: Restorer,
    pub clock: Clock,
    pub frames: u32,
}

/// A unit at one operating point.
pub(super) struct Candidate {
    pub quantizer: u32,
    pub tokens: TokenMap,
    pub latents: Option<LatentMap>,
    pub payload: Vec<u8>,
}

impl Stream {
    /// Where nothing has been coded yet.
    pub fn new(model: &Model, sequence: SequenceHeader) -> Stream {
        Stream {
            sequence,
            state: AnalysisState::new(Strip::cover(model, &sequence)),
            past: Past::default(),
            restorer: Restorer::default(),
            clock: Clock::new(&sequence),
            frames: 1,
        }
    }

    /// Runs the networks over the next frames, in the coded size.
    pub fn analyse(&mut self, model: &Model, frames: &[&Frame]) -> Result<Analysis, CodecError> {
        let (sequence, state) = (&self.sequence, &mut self.state);
        if sequence.coding_scale == CodingScale::Single {
            return Analysis::of(model, frames, sequence, state);
        }
        let (width, height) = sequence.coded_size();
        let coded_size = (width as usize, height as usize);
        let resized: Vec<Frame> = frames
            .iter()
            .map(|frame| frame.resized(coded_size))
            .collect::<Result<_, _>>()?;
        Analysis::of(model, &resized.iter().collect::<Vec<_>>(), sequence, state)
    }

    /// The unit at a quantizer's operating point.
    pub fn candidate(
        &self,
        model: &Model,
        settings: &EncoderSettings,
        analysis: &Analysis,
        quantizer: u32,
    ) -> Result<Candidate, CodecError> {
        let scale = self.sequence.coding_scale;
        let point = settings.point.unwrap_or_else(|| operating_point(quantizer, scale));
        let past = &self.past;
        let mut tokens = analysis.tokens(past.tokens.previous.as_ref(), point.dead_zone);
        let masking = self.mask(model, settings, (analysis, &point), &mut tokens)?;
        let mut coder = UnitEncoder::new();
        model.context.code(&mut coder, &past.tokens, masking, &mut tokens)?;
        let mut latents = None;
        if let (Some(continuous), Some(wanted)) = (&model.continuous, &analysis.latents) {
            let mode = match point.latent_step {
                None => LatentMode::Absent,
                Some(step) => latent_mode(&continuous.context, wanted, past, step),
            };
            latents = Some(continuous.context.encode(
                &mut coder,
                &past.latents,
                (&tokens, &past.tokens),
                mode,
                (wanted, point.rounding),
            )?);
        }
        Ok(Candidate {
            quantizer,
            tokens,
            latents,
            payload: coder.finish(),
        })
    }

    /// Masks tokens of a delta unit as the settings or the operating point ask for. Key units are always complete.
    fn mask(
        &self,
        model: &Model,
        settings: &EncoderSettings,
        (analysis, point): (&Analysis, &OperatingPoint),
        tokens: &mut TokenMap,
    ) -> Result<Masking, CodecError> {
        let history = &self.past.tokens;
        let ratio = settings.mask_ratio.unwrap_or(point.mask_ratio);
        if history.previous.is_none() || ratio <= 0.0 {
            return Ok(Masking::None);
        }
        if settings.masking == MaskingStrategy::Pattern {
            return Ok(mask_pattern(tokens, history, ratio));
        }
        let zero = |map: &LatentMap| LatentMap::zero(map.width, map.height, map.channels);
        let zeros;
        let latents = match point.latent_step {
            Some(_) => analysis.latents.as_ref(),
            None => {
                zeros = analysis.latents.as_ref().map(zero);
                zeros.as_ref()
            }
        };
        let errors = self.restorer.errors(model, tokens, latents)?;
        Ok(mask_adaptive(tokens, history, ratio, &errors))
    }
}

/// Latents that hardly moved are held: a still picture costs nothing.
fn latent_mode(context: &LatentContextModel, wanted: &LatentMap, past: &Past, step: usize) -> LatentMode {
    let Some(previous) = &past.latents.previous else {
        return LatentMode::Coded(step);
    };
    let bound = i64::from(context.weights().steps[step]) * HELD_QUARTERS;
    let moved = |(a, b): &(&i32, &i32)| (i64::from(**a) - i64::from(**b)).abs() * 4 > bound;
    let channels = wanted.channels;
    let mut places = wanted.values.chunks(channels).zip(previous.values.chunks(channels));
    let is_still = |(a, b): (&[i32], &[i32])| a.iter().zip(b).filter(moved).count() * HELD_SHARE <= channels;
    if places.all(is_still) {
        LatentMode::Held
    } else {
        LatentMode::Coded(step)
    }
}
