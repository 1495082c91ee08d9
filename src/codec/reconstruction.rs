// SPDX-License-Identifier: MPL-2.0
//! Symbols to pictures: masked-token prediction, the networks, the residual layer of static regions and the post-filters.

use std::sync::Arc;

use super::decoder::DecoderSettings;
use super::detail::Canvas;
use super::restore::Restorer;
use super::smoothing::Smoother;
use super::strips::Strip;
use super::symbols::UnitSymbols;
use super::synthesis::{Painting, Synthesis};
use super::{CodecError, Frame};
use crate::bitstream::SequenceHeader;
use crate::model::{Model, TimeSteps};

/// Which pictures of a unit are painted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    #[default]
    All,
    /// Those of the last time step, half of a unit with `tvc-small`: the background reference is kept.
    Last,
    /// None. Costs about an eighth of [`Wanted::All`]. The networks' coarsest level, which looks back furthest, is kept up to date; the
    /// finer ones, which look back over two units or so, start anew at the next unit, as they do at a key unit. So units later than that
    /// are what they would have been, and the first ones nearly so. A unit that freezes what the skipped unit would have shown
    /// ([`UnitSymbols::freezes_shown`]) misses that. Key units are painted all the same.
    None,
}

/// Paints a stream's units, one after the other.
pub struct Reconstruction {
    model: Arc<Model>,
    settings: DecoderSettings,
    stream: Option<Stream>,
}

/// What lasts from a key unit to the next.
struct Stream {
    sequence: SequenceHeader,
    synthesis: Synthesis,
    canvas: Canvas,
    restorer: Restorer,
    smoother: Smoother,
}

impl Reconstruction {
    pub fn new(model: Arc<Model>, settings: DecoderSettings) -> Reconstruction {
        Reconstruction {
            model,
            settings,
            stream: None,
        }
    }

    /// Paints the next unit: its frames, `None` where they were not wanted. After an error nothing can be painted until the next key
    /// unit.
    pub fn run(&mut self, unit: &UnitSymbols, wanted: Wanted) -> Result<Vec<Option<Frame>>, CodecError> {
        let stream = self.stream.take();
        let started = unit.is_key.then(|| self.start(unit.sequence));
        let mut stream = started.or(stream).ok_or(CodecError::NoKeyUnit)?;
        let wanted = if unit.is_key { Wanted::All } else { wanted };
        let frames = stream.run(&self.model, &self.settings, unit, wanted)?;
        self.stream = Some(stream);
        Ok(frames)
    }

    fn start(&self, sequence: SequenceHeader) -> Stream {
        Stream {
            sequence,
            synthesis: Synthesis::new(Strip::cover(&self.model, &sequence), self.settings.spots),
            canvas: Canvas::default(),
            restorer: Restorer::new(self.settings.restoration),
            smoother: Smoother::default(),
        }
    }
}

impl Stream {
    fn run(
        &mut self,
        model: &Model,
        settings: &DecoderSettings,
        unit: &UnitSymbols,
        wanted: Wanted,
    ) -> Result<Vec<Option<Frame>>, CodecError> {
        let latents = unit.latents.as_ref();
        let restored = self
            .restorer
            .push(model, &unit.tokens, latents.map(|(_, latents)| latents))?;
        let steps = match wanted {
            Wanted::All => TimeSteps::All,
            Wanted::Last => TimeSteps::Last,
            Wanted::None => {
                let mode = latents.map(|(mode, _)| *mode);
                self.synthesis.skip(model, &restored, mode, settings.control)?;
                self.canvas.skip(unit.detail.as_ref());
                return Ok(vec![None; unit.times.len()]);
            }
        };
        let painting = Painting {
            latents: latents.map(|(mode, _)| *mode),
            control: settings.control,
            steps,
        };
        let mut frames = self.synthesis.run(model, &restored, painting, &self.sequence)?;
        self.canvas.push(unit.detail.as_ref(), &mut frames);
        let group = if unit.is_key { 1 } else { model.group_frames() };
        // A short unit is a whole one for the networks.
        let unpainted = group.saturating_sub(frames.len());
        frames.truncate(unit.times.len().saturating_sub(unpainted));
        if settings.smoothing {
            frames.iter_mut().for_each(|frame| self.smoother.push(frame));
        }
        let mut all = vec![None; unpainted.min(unit.times.len())];
        all.extend(frames.into_iter().map(Some));
        let timed = all.iter_mut().zip(&unit.times);
        timed.for_each(|(frame, time)| {
            if let Some(frame) = frame {
                frame.pts = *time;
            }
        });
        Ok(all)
    }
}
