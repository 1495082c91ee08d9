// SPDX-License-Identifier: MPL-2.0
//! One unit, coded on trial at one operating point.

use std::cell::OnceCell;
use std::sync::Arc;

use super::analysis::{Analysis, AnalysisState};
use super::camera::{CameraTracker, Framed};
use super::decide::{
    is_still, mask_adaptive, mask_pattern, skip_map, DigitRdoq, MaskingStrategy, Metric, StaticRegionDetector,
    StaticRegions, SymbolBits, COARSEST_WITH_SKIP_MAP, SKIP_HYSTERESIS,
};
use super::package::Package;
use super::rate::{point_between, OperatingPoint, Quality};
use super::resilience::Links;
use super::{EncoderSettings, ErrorResilience};
use crate::bitstream::{Clock, SequenceHeader, Timing, MAX_SLICES};
use crate::codec::geometry::{grid, Tile};
use crate::codec::recon::{Reconstruction, ReconstructionSettings, Wanted};
use crate::codec::{CodecError, Frame};
use crate::entropy::{
    CodedUnit, CodingContext, DigitChoice, EntropyError, LatentMap, LatentMode, Masking, Quantization, ResidualMap,
    TokenMap, UnitSymbols, WantedLatents, WantedUnit,
};
use crate::model::Model;

/// What lasts from a key unit to the next.
pub(super) struct Gop {
    pub sequence: SequenceHeader,
    /// `None` before the key unit's frame.
    camera: Option<CameraTracker>,
    analysis: AnalysisState,
    pub context: CodingContext,
    /// With pictures only where residuals are sent: the networks that paint take time.
    reconstruction: Reconstruction,
    static_regions: StaticRegionDetector,
    bits: Arc<SymbolBits>,
    pub clock: Clock,
    pub frames: u32,
    /// Where units may be lost.
    pub links: Option<Links>,
    /// Bytes of the next unit's times, in each of its slices.
    pub time_bytes: usize,
}

/// Whether residuals may be sent at all. Cosmos networks are too slow to paint in the encoder as well, and residuals add to pictures that
/// a receiver may not have had.
pub(super) fn may_refine(model: &Model, settings: &EncoderSettings) -> bool {
    let may_lose = settings.error_resilience != ErrorResilience::None;
    settings.residual && !may_lose && !model.tokenizer.config.is_cosmos()
}

/// What is known of a unit before it is coded.
pub(super) struct Unit {
    pub framed: Framed,
    analysis: Analysis,
    /// `None` in a key unit, and where the encoder does not paint.
    static_regions: Option<StaticRegions>,
    /// How well its tokens are predicted, without and with latents: they differ little from trial to trial, and the transformer takes
    /// time.
    errors: [OnceCell<Vec<f32>>; 2],
}

/// A unit at one operating point.
pub(super) struct TrialUnit {
    pub quality: Quality,
    /// Whether units at this point may have residuals.
    pub has_residual: bool,
    pub coded: CodedUnit,
    /// The positions that keep the latents of the unit before, row by row; empty for none.
    pub skipped: Vec<bool>,
}

impl Gop {
    /// Where nothing has been coded yet. `bits`: of the model's latents. `links`: where units may be lost.
    pub fn new(model: &Model, sequence: SequenceHeader, bits: Arc<SymbolBits>, links: Option<Links>) -> Gop {
        Gop {
            sequence,
            camera: None,
            analysis: AnalysisState::new(Tile::cover(model, &sequence)),
            context: CodingContext::default(),
            reconstruction: Reconstruction::default(),
            static_regions: StaticRegionDetector::default(),
            bits,
            clock: Clock::new(&sequence),
            frames: 1,
            links,
            time_bytes: 0,
        }
    }

    /// How the next unit is packed, a key unit first.
    pub fn package(&self, frames: usize, timing: Timing) -> Package<'_> {
        Package {
            sequence: self.context.tokens.previous.is_none().then_some(self.sequence),
            frames,
            timing,
            links: self.links.as_ref(),
        }
    }

    /// Before the times of the next delta unit of so many frames are packed: where units may be lost, they follow from its number.
    pub fn find_time(&mut self, frames: usize) {
        if let Some(links) = &self.links {
            self.clock.seek_unit(links.number(), frames);
        }
    }

    /// The receiver has a unit of a group of pictures.
    pub fn acknowledge(&mut self, group: u8, unit: u8) {
        if let Some(links) = &mut self.links {
            links.acknowledge(group, unit);
            self.context = links.context();
        }
    }

    /// Runs the networks over the next frames, in the coded size: the key unit's, or those of a whole delta unit.
    pub fn analyse(
        &mut self,
        model: &Model,
        settings: &EncoderSettings,
        frames: &[&Frame],
    ) -> Result<Unit, CodecError> {
        let framed = match &mut self.camera {
            None => {
                let grid = match self.links {
                    None => grid(model, &self.sequence),
                    Some(_) => grid(model, &self.sequence).rigid(),
                };
                self.camera = Some(CameraTracker::new(grid, frames[0]));
                Framed::key(grid)
            }
            Some(camera) => {
                let from = camera.window();
                let framed = camera.push(
                    frames,
                    &settings.ablation,
                    settings.most_motion_bits(&self.sequence, frames.len()),
                );
                if framed.window() != from {
                    self.analysis.look(&framed.window().view_of_tokens(&from))?;
                }
                framed
            }
        };
        let pictures = framed.stilled(frames);
        let analysis = Analysis::of(model, &pictures, (&self.sequence, &framed.window()), &mut self.analysis)?;
        if let Some(field) = framed.camera.field() {
            self.analysis.follow(&field, &framed.window())?;
        }
        self.unit(framed, frames, analysis)
    }

    /// What is known now of the next unit of frames, which the networks have seen before the one in front of it was coded.
    pub fn resume(&mut self, seen: Unit, frames: &[&Frame]) -> Result<Unit, CodecError> {
        self.unit(seen.framed, frames, seen.analysis)
    }

    fn unit(&mut self, framed: Framed, frames: &[&Frame], analysis: Analysis) -> Result<Unit, CodecError> {
        self.reconstruction.look(framed.window())?;
        let detector = &mut self.static_regions;
        let background = self.reconstruction.background();
        let static_regions =
            background.and_then(|background| detector.look(&framed.pictures(frames), framed.window(), background));
        Ok(Unit {
            framed,
            static_regions,
            analysis,
            errors: Default::default(),
        })
    }

    /// Whether any macroblock is static: a key unit would lose it.
    pub fn has_static(&self) -> bool {
        let background = self.reconstruction.background();
        background.is_some_and(|background| background.history().any_known())
    }

    /// Whether it paints what the decoder shows.
    pub fn paints(&self) -> bool {
        self.reconstruction.background().is_some()
    }

    /// Forgets all units, but not what the networks have seen of their frames.
    pub fn forget_units(&mut self) {
        self.context = CodingContext::default();
        self.reconstruction = Reconstruction::default();
        if let Some(links) = &mut self.links {
            links.forget_units();
        }
    }

    /// From the first unit on, paints what the decoder shows, for residuals.
    pub fn begin_painting(&mut self, model: &Model) {
        // Pictures in tiles are too large to be painted twice.
        if Tile::cover(model, &self.sequence).len() == 1 {
            self.reconstruction = Reconstruction::new(model, self.sequence, ReconstructionSettings::default());
        }
    }

    /// Makes a unit of frames the previous one.
    pub fn push(&mut self, model: &Model, unit: &UnitSymbols, frames: &[&Frame]) -> Result<(), CodecError> {
        let static_regions = &mut self.static_regions;
        // Only the last pictures last.
        self.reconstruction.push(model, (unit, &[]), Wanted::Last, |neural| {
            static_regions.push(neural, &frames[frames.len() - neural.len()..], unit.camera.window);
        })?;
        self.context.push(unit);
        if let Some(links) = &mut self.links {
            self.context = links.push(std::mem::take(&mut self.context));
        }
        Ok(())
    }

    /// The unit at a quality's operating point.
    pub fn trial(
        &self,
        model: &Model,
        settings: &EncoderSettings,
        unit: &Unit,
        quality: Quality,
    ) -> Result<TrialUnit, CodecError> {
        let point = self.point(settings, quality);
        let known = self.context.seen_in(unit.framed.window());
        let (mode, skipped) = match quality.repeats {
            true => repeated_latents(&known, &unit.analysis),
            false => latent_plan(model, &known, &unit.analysis, &point),
        };
        let hysteresis = |at| hysteresis_at(&point, &skipped, at);
        let mut tokens = unit.analysis.tokens(known.tokens.previous.as_ref(), hysteresis);
        let masking = match quality.repeats {
            true => Masking::None,
            false => self.mask(model, settings, (unit, &point, &known), &mut tokens)?,
        };
        // What is left by masks is predicted from: it must be right.
        let may_choose = !quality.repeats && masking == Masking::None;
        let before = known.tokens.previous.as_ref().filter(|_| may_choose);
        let digits = before.map(|before| DigitRdoq {
            values: &unit.analysis.digits,
            before,
            metric: Metric::of(model),
            hysteresis,
            weights: &unit.analysis.weights,
        });
        let choose = |choice: DigitChoice| match &digits {
            Some(digits) => digits.choose(choice),
            None => choice.wanted,
        };
        let quantize = |latent: Quantization| {
            let rdoq = point.rdoq.weighted(unit.analysis.weights[latent.at]);
            self.bits.level(latent, rdoq)
        };
        let latents = unit.analysis.latents.as_ref().map(|latents| WantedLatents {
            latents,
            quantize: &quantize,
            skipped: &skipped,
        });
        let residual_step = point.residual_step.filter(|_| may_refine(model, settings));
        let wanted = WantedUnit {
            camera: unit.framed.camera.clone(),
            tokens,
            masking,
            choose: &choose,
            latents: latents.map(|latents| (mode, latents)),
            residual: self.residual(unit, residual_step, quality.residual_bits),
        };
        let coded = self.encode(model, settings, wanted)?;
        Ok(TrialUnit {
            quality,
            has_residual: residual_step.is_some(),
            coded,
            skipped,
        })
    }

    /// The operating point of a quality.
    fn point(&self, settings: &EncoderSettings, quality: Quality) -> OperatingPoint {
        let usual = || point_between(quality.quantizer, self.sequence.coding_scale);
        let mut point = settings.ablation.point.unwrap_or_else(usual);
        if quality.repeats {
            point.hysteresis = f64::INFINITY;
        }
        point
    }

    /// Cut into as many slices as the settings ask for.
    fn encode(&self, model: &Model, settings: &EncoderSettings, wanted: WantedUnit) -> Result<CodedUnit, EntropyError> {
        let (ErrorResilience::Slices { size }, Some(_)) = (settings.error_resilience, &self.links) else {
            return self.context.encode(model.contexts(), wanted, 1);
        };
        let header = self.package(1, Timing::Grid).header_length(0, 2, size);
        let room = size.saturating_sub(header + self.time_bytes).max(1);
        let mut count = 2;
        loop {
            let coded = self.context.encode(model.contexts(), wanted.clone(), count as u8)?;
            let longest = coded.slices.iter().map(|slice| slice.payload.len()).max().unwrap_or(0);
            if longest <= room || count == usize::from(MAX_SLICES) {
                return Ok(coded);
            }
            let needed = (count * longest.div_ceil(room)).next_multiple_of(2);
            count = needed.min(MAX_SLICES.into());
        }
    }

    /// The residual of a delta unit with the step of an index, in so many bits, about; `None` in a key unit.
    fn residual(&self, unit: &Unit, step: Option<usize>, bits: Option<f64>) -> Option<ResidualMap> {
        self.context.tokens.previous.as_ref()?;
        let Some(static_regions) = &unit.static_regions else {
            let (width, height) = unit.framed.window().macroblocks();
            return Some(ResidualMap::none(width, height));
        };
        let bits = bits.map_or(f32::INFINITY, |bits| bits as f32);
        Some(static_regions.residual(step, bits))
    }

    /// Masks tokens of a delta unit as the settings or the operating point ask for. Key units are always complete.
    fn mask(
        &self,
        model: &Model,
        settings: &EncoderSettings,
        (unit, point, known): (&Unit, &OperatingPoint, &CodingContext),
        tokens: &mut TokenMap,
    ) -> Result<Masking, CodecError> {
        let history = &known.tokens;
        let ratio = settings.mask_ratio.unwrap_or(point.mask_ratio);
        if history.previous.is_none() || ratio <= 0.0 {
            return Ok(Masking::None);
        }
        if settings.ablation.masking == MaskingStrategy::Pattern {
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

    /// See [`MaskedTokenPrediction::errors`]; without latents the predictor sees zeros.
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
        self.reconstruction
            .prediction(unit.framed.window())?
            .errors(model, tokens, zeros.as_ref().or(latents))
    }
}

/// See [`OperatingPoint::hysteresis`]: at least that of skipped latents where they are skipped.
fn hysteresis_at(point: &OperatingPoint, skipped: &[bool], at: usize) -> f64 {
    match skipped.get(at) {
        Some(true) => point.hysteresis.max(SKIP_HYSTERESIS),
        _ => point.hysteresis,
    }
}

/// The latents of a unit that changes nothing.
fn repeated_latents(known: &CodingContext, analysis: &Analysis) -> (LatentMode, Vec<bool>) {
    match (&analysis.latents, &known.latents.previous) {
        (Some(_), Some(previous)) => (
            LatentMode::Skipped,
            vec![true; previous.values.len() / previous.channels],
        ),
        _ => (LatentMode::Absent, vec![]),
    }
}

/// How the unit's latents are coded at an operating point, and which positions are skipped.
fn latent_plan(
    model: &Model,
    known: &CodingContext,
    analysis: &Analysis,
    point: &OperatingPoint,
) -> (LatentMode, Vec<bool>) {
    let (Some(continuous), Some(wanted), Some(step)) = (&model.continuous, &analysis.latents, point.latent_step) else {
        return (LatentMode::Absent, vec![]);
    };
    let Some(previous) = &known.latents.previous else {
        return (LatentMode::Coded(step.saturating_sub(point.key_qp_offset)), vec![]);
    };
    let size = continuous.context.weights().steps[step];
    let skipped = match step <= COARSEST_WITH_SKIP_MAP {
        true => skip_map(wanted, previous, size, point.skip_lambda),
        false => vec![is_still(wanted, previous, size); wanted.values.len() / wanted.channels],
    };
    match skipped.contains(&false) {
        true => (LatentMode::Coded(step), skipped),
        false => (LatentMode::Skipped, skipped),
    }
}
