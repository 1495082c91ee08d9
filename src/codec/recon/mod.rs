// SPDX-License-Identifier: MPL-2.0
//! The reconstruction loop: symbols to pictures, the same in encoder and decoder. Masked tokens are predicted, the networks paint, and static
//! regions show their background reference instead.

mod background;
mod blocks;
mod dct;
mod grid_filter;
mod patches;
mod prediction;
mod synthesis;
mod warp;

pub use background::{block_step, coefficients, dequantised, quantised, step_size, Background};
pub use blocks::{gather, squared_error};
pub use dct::{forward, Block};
#[cfg(feature = "train")]
pub(crate) use prediction::nearest_tokens;
pub use prediction::{CompleteUnit, MaskedTokenPrediction, MaskedTokens};
pub use synthesis::{Painting, Synthesis};
pub use warp::Warp;

use super::geometry::Tile;
use super::{CodecError, Frame};
use crate::bitstream::{MotionField, SequenceHeader, Window};
use crate::entropy::UnitSymbols;
use crate::model::{Model, TimeSteps};

/// Which pictures of a unit are painted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// All of them.
    #[default]
    All,
    /// Those of the last time step, half of a unit with `tvc-small`: the background reference is kept.
    Last,
    /// None. Costs about an eighth of [`Wanted::All`]. The networks' coarsest level, which looks back furthest, is kept up to date; the
    /// finer ones, which look back over two units or so, start anew at the next unit, as they do at a key unit. So units later than that
    /// are what they would have been, and the first ones nearly so. A unit in which macroblocks become static
    /// ([`super::ParsedUnit::starts_static`]) as the skipped unit would have shown them misses that.
    None,
}

/// What to do without, to see what it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconstructionSettings {
    /// What masked tokens are taken from.
    pub masked_tokens: MaskedTokens,
    /// Whether the latents reach the picture.
    pub control: bool,
    /// Whether dots in the grid of the tokens are filled.
    pub grid_filter: bool,
}

impl Default for ReconstructionSettings {
    fn default() -> Self {
        ReconstructionSettings {
            masked_tokens: MaskedTokens::default(),
            control: true,
            grid_filter: true,
        }
    }
}

/// What is reconstructed from a key unit to the next.
#[derive(Debug, Default)]
pub struct Reconstruction {
    /// Of the last unit.
    window: Option<Window>,
    prediction: MaskedTokenPrediction,
    /// `None`: only symbols are followed, as an encoder does that refers to no picture.
    pictures: Option<Pictures>,
}

/// What paints, and what it refers to.
#[derive(Debug)]
struct Pictures {
    sequence: SequenceHeader,
    control: bool,
    synthesis: Synthesis,
    background: Background,
}

impl Reconstruction {
    /// Of a stream that begins with the key unit of a sequence header, with pictures. [`Reconstruction::default`] has none.
    pub fn new(model: &Model, sequence: SequenceHeader, settings: ReconstructionSettings) -> Reconstruction {
        Reconstruction {
            window: None,
            prediction: MaskedTokenPrediction::new(settings.masked_tokens),
            pictures: Some(Pictures {
                sequence,
                control: settings.control,
                synthesis: Synthesis::new(Tile::cover(model, &sequence), settings.grid_filter),
                background: Background::default(),
            }),
        }
    }

    /// The units before, as the predictor sees them in a window.
    pub fn prediction(&self, window: Window) -> Result<MaskedTokenPrediction, CodecError> {
        let from = self.window.unwrap_or(window);
        self.prediction.seen(&window.view_of_tokens(&from))
    }

    /// What static regions show; `None` without pictures.
    pub fn background(&self) -> Option<&Background> {
        self.pictures.as_ref().map(|pictures| &pictures.background)
    }

    /// Goes on in another window.
    pub fn look(&mut self, window: Window) -> Result<(), CodecError> {
        let from = self.window.replace(window).filter(|from| *from != window);
        let Some(from) = from else { return Ok(()) };
        let tokens = window.view_of_tokens(&from);
        self.prediction = self.prediction.seen(&tokens)?;
        if let Some(pictures) = &mut self.pictures {
            pictures.synthesis.look(&tokens)?;
            pictures.background.look(&from, &window);
        }
        Ok(())
    }

    /// Takes the next unit and gives the pictures that are wanted of its group, as large as its window, with what repeats behind the last of
    /// a short unit. `lost`: the positions that were lost, row by row; empty where none are. `neural` sees them as the networks painted
    /// them, with what moves where it is, before static regions are put in; it is not called where nothing is painted.
    pub fn push(
        &mut self,
        model: &Model,
        (unit, lost): (&UnitSymbols, &[bool]),
        wanted: Wanted,
        neural: impl FnOnce(&[Frame]),
    ) -> Result<Vec<Frame>, CodecError> {
        self.look(unit.camera.window)?;
        let latents = unit.latents.as_ref().map(|(_, latents)| latents);
        let complete = self.prediction.push(model, &unit.tokens, latents, lost)?;
        let field = unit.camera.field();
        let frames = match &mut self.pictures {
            Some(pictures) => pictures.push(model, (unit, field.as_ref()), &complete, wanted, neural)?,
            None => vec![],
        };
        if let Some(field) = field {
            self.follow(&field, &unit.camera.window)?;
        }
        Ok(frames)
    }

    /// Moves with what the last unit's window shows.
    fn follow(&mut self, field: &MotionField, window: &Window) -> Result<(), CodecError> {
        self.prediction.follow(field, window)?;
        match &mut self.pictures {
            Some(pictures) => pictures.synthesis.follow(field, window),
            None => Ok(()),
        }
    }
}

impl Pictures {
    fn push(
        &mut self,
        model: &Model,
        (unit, field): (&UnitSymbols, Option<&MotionField>),
        complete: &CompleteUnit,
        wanted: Wanted,
        neural: impl FnOnce(&[Frame]),
    ) -> Result<Vec<Frame>, CodecError> {
        let latents = unit.latents.as_ref().map(|(mode, _)| *mode);
        let steps = match wanted {
            Wanted::All => TimeSteps::All,
            Wanted::Last => TimeSteps::Last,
            Wanted::None => {
                self.synthesis.skip(model, complete, latents, self.control)?;
                self.background.skip(unit.residual.as_ref());
                return Ok(vec![]);
            }
        };
        let painting = Painting {
            latents,
            control: self.control,
            steps,
        };
        let stream = (&self.sequence, &unit.camera.window);
        let mut frames = self.synthesis.run(model, complete, painting, stream)?;
        if let Some(field) = field {
            let painted: Vec<&Frame> = frames.iter().collect();
            let whole = unit.camera.positions.len();
            frames = Warp::each(&painted, whole, |size, part| Warp::moved(field, size, part));
        }
        neural(&frames);
        self.background.push(unit.residual.as_ref(), &mut frames);
        Ok(frames)
    }
}
