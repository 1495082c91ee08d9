// SPDX-License-Identifier: MPL-2.0
//! One unit at one operating point.

use std::cell::OnceCell;
use std::sync::LazyLock;

use super::analysis::{Analysis, AnalysisState};
use super::detail::{in_cells, Canvas, Stillness, Watch};
use super::holding::{held_places, is_still, COARSEST_IN_PLACES, HELD_ZONE};
use super::ladder::{point_between, OperatingPoint, Quality};
use super::masking::{mask_adaptive, mask_pattern, MaskingStrategy};
use super::past::Past;
use super::restore::Restorer;
use super::settings::EncoderSettings;
use super::strips::Strip;
use super::synthesis::{Painting, Synthesis};
use super::{CodecError, Frame};
use crate::bitstream::{Clock, SequenceHeader};
use crate::entropy::{
    code_detail, DetailHistory, DetailMap, LatentMap, LatentMode, Masking, TokenMap, UnitEncoder, WantedLatents,
};
use crate::model::{Model, TimeSteps};

/// What lasts from a key unit to the next.
pub(super) struct Stream {
    pub sequence: SequenceHeader,
    pub state: AnalysisState,
    pub past: Past,
    pub restorer: Restorer,
    /// `None` where no detail is sent: the networks that paint take time.
    pub mirror: Option<Mirror>,
    pub clock: Clock,
    pub frames: u32,
}

/// What the decoder shows, and what that lacks.
pub(super) struct Mirror {
    synthesis: Synthesis,
    canvas: Canvas,
    watch: Watch,
}

/// Whether details may be sent at all. Cosmos networks are too slow to paint in the encoder as well.
pub(super) fn may_refine(model: &Model, settings: &EncoderSettings) -> bool {
    settings.detail && !model.tokenizer.config.is_cosmos()
}

/// What is known of a unit before it is coded.
pub(super) struct Unit {
    pub analysis: Analysis,
    /// `None` in a key unit, and without a mirror.
    stillness: Option<Stillness>,
    /// How well its tokens are predicted, without and with latents: they differ little from trial to trial, and the transformer takes
    /// time.
    errors: [OnceCell<Vec<f32>>; 2],
}

/// A unit at one operating point.
pub(super) struct Candidate {
    pub quality: Quality,
    pub tokens: TokenMap,
    pub latents: Option<LatentMap>,
    /// How they are coded.
    latent_mode: LatentMode,
    /// `None` in a key unit.
    pub detail: Option<DetailMap>,
    /// Bits of the payload that it takes.
    pub detail_bits: usize,
    /// Whether units at this point may have details.
    pub has_detail: bool,
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
            mirror: None,
            clock: Clock::new(&sequence),
            frames: 1,
        }
    }

    /// What is known of the next frames, which the networks have seen.
    pub fn unit(&self, analysis: Analysis, frames: &[&Frame]) -> Unit {
        let mirror = self.mirror.as_ref();
        Unit {
            stillness: mirror.and_then(|mirror| mirror.watch.look(frames, &mirror.canvas)),
            analysis,
            errors: Default::default(),
        }
    }

    /// Whether anything is frozen: a key unit would lose it.
    pub fn has_frozen(&self) -> bool {
        self.mirror
            .as_ref()
            .is_some_and(|mirror| mirror.canvas.history.any_known())
    }

    /// Forgets all units, but not what the networks have seen of their frames.
    pub fn forget_units(&mut self) {
        self.past = Past::default();
        self.restorer = Restorer::default();
    }

    /// Makes a unit the previous one as far as the symbols of the next one depend on it.
    pub fn push_symbols(&mut self, model: &Model, coded: &Candidate) -> Result<(), CodecError> {
        self.restorer.push(model, &coded.tokens, coded.latents.as_ref())?;
        self.past.push(coded.tokens.clone(), coded.latents.clone());
        Ok(())
    }

    /// Prepares for details, before the first unit.
    pub fn begin_details(&mut self, model: &Model) {
        // Pictures in strips are too large to be painted twice.
        let strips = Strip::cover(model, &self.sequence);
        if strips.len() == 1 {
            self.mirror = Some(Mirror {
                synthesis: Synthesis::new(strips, true),
                canvas: Canvas::default(),
                watch: Watch::default(),
            });
        }
    }

    /// Makes a unit of frames the previous one.
    pub fn push(&mut self, model: &Model, coded: Candidate, frames: &[&Frame]) -> Result<(), CodecError> {
        let restored = self.restorer.push(model, &coded.tokens, coded.latents.as_ref())?;
        if let Some(mirror) = &mut self.mirror {
            // Only the last picture lasts.
            let painting = Painting {
                latents: coded.latents.as_ref().map(|_| coded.latent_mode),
                control: true,
                steps: TimeSteps::Last,
            };
            let mut pictures = mirror.synthesis.run(model, &restored, painting, &self.sequence)?;
            mirror.watch.push(&pictures, &frames[frames.len() - pictures.len()..]);
            mirror.canvas.push(coded.detail.as_ref(), &mut pictures);
        }
        self.past.push(coded.tokens, coded.latents);
        Ok(())
    }

    /// Runs the networks over the next frames, in the coded size.
    pub fn analyse(&mut self, model: &Model, frames: &[&Frame]) -> Result<Analysis, CodecError> {
        Analysis::of(model, frames, &self.sequence, &mut self.state)
    }

    /// The unit at a quality's operating point.
    pub fn candidate(
        &self,
        model: &Model,
        settings: &EncoderSettings,
        unit: &Unit,
        quality: Quality,
    ) -> Result<Candidate, CodecError> {
        let (quantizer, scale) = (quality.quantizer, self.sequence.coding_scale);
        let mut point = settings.point.unwrap_or_else(|| point_between(quantizer, scale));
        if quality.repeats {
            point.dead_zone = f64::INFINITY;
        }
        let (past, analysis) = (&self.past, &unit.analysis);
        let (mode, held) = match quality.repeats {
            true => self.repeated_latents(analysis),
            false => self.latent_plan(model, analysis, &point),
        };
        let dead_zone = |at| match held.get(at) {
            Some(true) => point.dead_zone.max(HELD_ZONE),
            _ => point.dead_zone,
        };
        let mut tokens = analysis.tokens(past.tokens.previous.as_ref(), dead_zone);
        let masking = match quality.repeats {
            true => Masking::None,
            false => self.mask(model, settings, (unit, &point), &mut tokens)?,
        };
        let mut coder = UnitEncoder::new();
        model.context.code(&mut coder, &past.tokens, masking, &mut tokens)?;
        let mut latents = None;
        if let (Some(continuous), Some(wanted)) = (&model.continuous, &analysis.latents) {
            let wanted = WantedLatents {
                latents: wanted,
                rounding: point.rounding,
                held: &held,
            };
            let coded = continuous
                .context
                .encode(&mut coder, &past.latents, (&tokens, &past.tokens), mode, wanted)?;
            latents = Some(coded);
        }
        let detail_step = point.detail_step.filter(|_| may_refine(model, settings));
        let bits = quality.detail_bits.map_or(f32::INFINITY, |bits| bits as f32);
        let mut detail = self.detail(unit.stillness.as_ref(), detail_step, bits);
        let before = coder.bits();
        if let Some(detail) = &mut detail {
            code_detail(&mut coder, self.detail_history(), detail)?;
        }
        Ok(Candidate {
            detail_bits: coder.bits() - before,
            quality,
            tokens,
            latents,
            latent_mode: mode,
            detail,
            has_detail: detail_step.is_some(),
            payload: coder.finish(),
        })
    }

    /// The detail of a delta unit with the step of an index, in so many bits, about; `None` in a key unit.
    fn detail(&self, stillness: Option<&Stillness>, step: Option<usize>, bits: f32) -> Option<DetailMap> {
        self.past.tokens.previous.as_ref()?;
        let Some(stillness) = stillness else {
            let (width, height) = in_cells(&self.sequence);
            return Some(DetailMap::none(width, height));
        };
        Some(stillness.detail(step, bits))
    }

    /// Without a mirror nothing was ever frozen.
    fn detail_history(&self) -> &DetailHistory {
        static NOTHING: LazyLock<DetailHistory> = LazyLock::new(DetailHistory::default);
        let mirror = self.mirror.as_ref();
        mirror.map_or(&*NOTHING, |mirror| &mirror.canvas.history)
    }

    /// The latents of a unit that changes nothing.
    fn repeated_latents(&self, analysis: &Analysis) -> (LatentMode, Vec<bool>) {
        match (&analysis.latents, &self.past.latents.previous) {
            (Some(_), Some(previous)) => (LatentMode::Held, vec![true; previous.values.len() / previous.channels]),
            _ => (LatentMode::Absent, vec![]),
        }
    }

    /// How the unit's latents are coded at an operating point, and which places are held.
    fn latent_plan(&self, model: &Model, analysis: &Analysis, point: &OperatingPoint) -> (LatentMode, Vec<bool>) {
        let (Some(continuous), Some(wanted), Some(step)) = (&model.continuous, &analysis.latents, point.latent_step)
        else {
            return (LatentMode::Absent, vec![]);
        };
        let Some(previous) = &self.past.latents.previous else {
            return (LatentMode::Coded(step.saturating_sub(point.key_finer)), vec![]);
        };
        let size = continuous.context.weights().steps[step];
        let held = match step <= COARSEST_IN_PLACES {
            true => held_places(wanted, previous, size, point.hold),
            false => vec![is_still(wanted, previous, size); wanted.values.len() / wanted.channels],
        };
        match held.contains(&false) {
            true => (LatentMode::Coded(step), held),
            false => (LatentMode::Held, held),
        }
    }

    /// Masks tokens of a delta unit as the settings or the operating point ask for. Key units are always complete.
    fn mask(
        &self,
        model: &Model,
        settings: &EncoderSettings,
        (unit, point): (&Unit, &OperatingPoint),
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
        let has_latents = point.latent_step.is_some();
        let errors = match unit.errors[usize::from(has_latents)].get() {
            Some(errors) => errors,
            None => {
                let found = self.prediction_errors(model, unit, has_latents, tokens)?;
                unit.errors[usize::from(has_latents)].get_or_init(|| found)
            }
        };
        Ok(mask_adaptive(tokens, history, ratio, errors))
    }

    /// See [`Restorer::errors`]; without latents the predictor sees zeros.
    fn prediction_errors(
        &self,
        model: &Model,
        unit: &Unit,
        has_latents: bool,
        tokens: &TokenMap,
    ) -> Result<Vec<f32>, CodecError> {
        let latents = unit.analysis.latents.as_ref();
        let zeros = latents
            .filter(|_| !has_latents)
            .map(|map| LatentMap::zero(map.width, map.height, map.channels));
        self.restorer.errors(model, tokens, zeros.as_ref().or(latents))
    }
}
