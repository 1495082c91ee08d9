// SPDX-License-Identifier: MPL-2.0
//! The decoder's networks: digits and latents to frames.

use tch::Tensor;

use super::grid_filter::{filter_grid, has_artefacts};
use super::patches::frames_of_patches;
use super::prediction::CompleteUnit;
use crate::bitstream::{CodingScale, MotionField, SequenceHeader, View, Window};
use crate::codec::colour::ycbcr;
use crate::codec::geometry::Tile;
use crate::codec::{CodecError, Frame};
use crate::entropy::LatentMode;
use crate::model::picture::{self, Ycbcr};
use crate::model::{Fusion, Model, StreamState, TimeSteps};

/// The networks over the tiles of a picture, and what they remember from unit to unit.
#[derive(Debug)]
pub struct Synthesis {
    tiles: Vec<TileState>,
    filters_grid: bool,
    /// Whether the last unit had artefacts.
    has_artefacts: bool,
}

/// How a unit is painted.
#[derive(Clone, Copy, Debug)]
pub struct Painting {
    /// How the unit carries its latents; `None`: the model has none.
    pub latents: Option<LatentMode>,
    /// Whether they reach the picture.
    pub control: bool,
    /// The frames of which time steps are wanted.
    pub steps: TimeSteps,
}

#[derive(Debug)]
struct TileState {
    tile: Tile,
    decoder: StreamState,
    control: StreamState,
}

impl Synthesis {
    /// `filters_grid`: see [`filter_grid`].
    pub fn new(tiles: Vec<Tile>, filters_grid: bool) -> Synthesis {
        let state = |tile| TileState {
            tile,
            decoder: StreamState::default(),
            control: StreamState::default(),
        };
        Synthesis {
            tiles: tiles.into_iter().map(state).collect(),
            filters_grid,
            has_artefacts: false,
        }
    }

    /// Goes on in another window, one tile as before. `view`: of the token map.
    pub fn look(&mut self, view: &View) -> Result<(), CodecError> {
        for state in &mut self.tiles {
            state.tile = Tile::whole(view.size().1);
            state.decoder.look(view)?;
            state.control.look(view)?;
        }
        Ok(())
    }

    /// Moves with what the last unit's window shows.
    pub fn follow(&mut self, field: &MotionField, window: &Window) -> Result<(), CodecError> {
        for state in &mut self.tiles {
            state.decoder.follow(field, window)?;
            state.control.follow(field, window)?;
        }
        Ok(())
    }

    /// The pictures of the window of a stream's next unit, all that a group has or those of its last time step.
    pub fn run(
        &mut self,
        model: &Model,
        complete: &CompleteUnit,
        painting: Painting,
        (sequence, window): (&SequenceHeader, &Window),
    ) -> Result<Vec<Frame>, CodecError> {
        let factor = model.tokenizer.config.spatial_factor() as usize;
        let (width, height) = window.sequence(sequence).coded_size();
        let mut frames: Vec<Frame> = Vec::new();
        for state in &mut self.tiles {
            let rows = &state.tile.rows;
            let below = height as usize - rows.start * factor;
            let size = (width as usize, below.min(rows.len() * factor));
            let parts = state.run(model, complete, painting, (size, ycbcr(sequence)))?;
            if frames.is_empty() {
                frames = parts;
            } else {
                frames
                    .iter_mut()
                    .zip(parts)
                    .for_each(|(frame, part)| frame.append(part));
            }
        }
        self.has_artefacts = has_artefacts(painting.latents, self.has_artefacts);
        if self.filters_grid && self.has_artefacts && !model.tokenizer.config.is_cosmos() {
            filter_grid(&mut frames, factor);
        }
        if sequence.coding_scale == CodingScale::Single {
            return Ok(frames);
        }
        frames.iter().map(|frame| Ok(frame.resized(window.size())?)).collect()
    }

    /// A unit after the first one of which no frame is wanted. `latents`, `control`: see [`Painting`].
    pub fn skip(
        &mut self,
        model: &Model,
        complete: &CompleteUnit,
        latents: Option<LatentMode>,
        control: bool,
    ) -> Result<(), CodecError> {
        for state in &mut self.tiles {
            state.skip(model, complete, control)?;
        }
        self.has_artefacts = has_artefacts(latents, self.has_artefacts);
        Ok(())
    }
}

/// The networks that bring latents into the picture, and the latents.
type Latents<'a> = (&'a Fusion, Tensor);

impl TileState {
    /// The codes of the tile's tokens and, where `control` wants them, its latents.
    fn inputs<'a>(
        &self,
        model: &'a Model,
        complete: &CompleteUnit,
        control: bool,
    ) -> Result<(Tensor, Option<Latents<'a>>), tch::TchError> {
        let codes = model.tokenizer.fsq.codes(&self.tile.view(&complete.digits, 2)?)?;
        let latents = match (&model.continuous, &complete.latents) {
            (Some(continuous), Some(latents)) if control => Some((&continuous.fusion, self.tile.view(latents, 2)?)),
            _ => None,
        };
        Ok((codes, latents))
    }

    fn skip(&mut self, model: &Model, complete: &CompleteUnit, control: bool) -> Result<(), tch::TchError> {
        let _no_grad = tch::no_grad_guard();
        let (codes, latents) = self.inputs(model, complete, control)?;
        if let Some((fusion, latents)) = latents {
            fusion.skip(&codes, &latents, 1, model.kind, &mut self.control)?;
        }
        model.tokenizer.skip(&codes, 1, model.kind, &mut self.decoder)
    }

    /// The tile's part of the frames, in which a picture's last rows may be fewer than the networks give.
    fn run(
        &mut self,
        model: &Model,
        complete: &CompleteUnit,
        Painting { control, steps, .. }: Painting,
        (size, colours): ((usize, usize), Ycbcr),
    ) -> Result<Vec<Frame>, tch::TchError> {
        let _no_grad = tch::no_grad_guard();
        let (tokenizer, tile) = (&model.tokenizer, &self.tile);
        let (codes, latents) = self.inputs(model, complete, control)?;
        let addends = match latents {
            Some((fusion, latents)) => {
                fusion.control_steps(&codes, &latents, (1, steps), model.kind, &mut self.control)?
            }
            None => vec![],
        };
        let (kind, decoder, factor) = (model.kind, &mut self.decoder, tokenizer.config.spatial_factor());
        if let Some(patch) = tokenizer.config.planar_patch() {
            let mut patches = tokenizer.decode_patches(&codes, &addends, (1, steps), kind, decoder)?;
            patches.values = tile.crop(&patches.values, 2, factor / (2 * patch.space))?;
            return frames_of_patches(&patches, patch, size);
        }
        let pictures = tokenizer.decode_steps(&codes, &addends, (1, steps), kind, decoder)?;
        let quads = picture::from_network(&pictures, tokenizer.config.colour(), colours)?;
        Frame::from_quads(&tile.crop(&quads, 3, factor / 2)?, size.0, size.1)
    }
}
