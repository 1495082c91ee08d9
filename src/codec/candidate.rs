// SPDX-License-Identifier: MPL-2.0
//! One unit at one operating point.

use std::sync::LazyLock;

use super::analysis::{Analysis, AnalysisState};
use super::detail::{in_cells, Canvas, Stillness, Watch};
use super::encoder::EncoderSettings;
use super::holding::{held_places, is_still, COARSEST_IN_PLACES, HELD_ZONE};
use super::ladder::{operating_point, OperatingPoint, Quality, COARSEST_DETAIL};
use super::masking::{mask_adaptive, mask_pattern, MaskingStrategy};
use super::past::Past;
use super::restore::Restorer;
use super::strips::Strip;
use super::synthesis::{Painting, Synthesis};
use super::{CodecError, Frame};
use crate::bitstream::{Clock, CodingScale, SequenceHeader};
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
    pub stillness: Option<Stillness>,
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

    /// Looks at the next frames.
    pub fn look(&mut self, model: &Model, frames: &[&Frame]) -> Result<Unit, CodecError> {
        let mirror = self.mirror.as_ref();
        Ok(Unit {
            stillness: mirror.and_then(|mirror| mirror.watch.look(frames, &mirror.canvas)),
            analysis: self.analyse(model, frames)?,
        })
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
    fn analyse(&mut self, model: &Model, frames: &[&Frame]) -> Result<Analysis, CodecError> {
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

    /// The unit at a quality's operating point.
    pub fn candidate(
        &self,
        model: &Model,
        settings: &EncoderSettings,
        unit: &Unit,
        quality: Quality,
    ) -> Result<Candidate, CodecError> {
        let (quantizer, scale) = (quality.quantizer, self.sequence.coding_scale);
        let mut point = settings.point.unwrap_or_else(|| operating_point(quantizer, scale));
        point.hold *= quality.holding;
        let (past, analysis) = (&self.past, &unit.analysis);
        let (mode, held) = self.latent_plan(model, analysis, &point);
        let dead_zone = |at| match held.get(at) {
            Some(true) => point.dead_zone.max(HELD_ZONE),
            _ => point.dead_zone,
        };
        let mut tokens = analysis.tokens(past.tokens.previous.as_ref(), dead_zone);
        let masking = self.mask(model, settings, (analysis, &point), &mut tokens)?;
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
        let mut detail = self.detail(unit.stillness.as_ref(), detail_step, quality.detail_bits);
        if let Some(detail) = &mut detail {
            code_detail(&mut coder, self.detail_history(), detail)?;
        }
        Ok(Candidate {
            quality,
            tokens,
            latents,
            latent_mode: mode,
            detail,
            has_detail: detail_step.is_some(),
            payload: coder.finish(),
        })
    }

    /// The detail of a delta unit with the step of an index; `None` in a key unit. `bits`: see [`Quality::detail_bits`].
    fn detail(&self, stillness: Option<&Stillness>, step: Option<usize>, bits: Option<f64>) -> Option<DetailMap> {
        self.past.tokens.previous.as_ref()?;
        let Some(stillness) = stillness else {
            let (width, height) = in_cells(&self.sequence);
            return Some(DetailMap::none(width, height));
        };
        Some(match bits {
            None => stillness.detail(step, f32::INFINITY),
            // A rate may have bits for detail where no quantizer would send any.
            Some(bits) => stillness.detail(step.or(Some(COARSEST_DETAIL as usize)), bits as f32),
        })
    }

    /// Without a mirror nothing was ever frozen.
    fn detail_history(&self) -> &DetailHistory {
        static NOTHING: LazyLock<DetailHistory> = LazyLock::new(DetailHistory::default);
        let mirror = self.mirror.as_ref();
        mirror.map_or(&*NOTHING, |mirror| &mirror.canvas.history)
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
