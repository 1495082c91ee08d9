// SPDX-License-Identifier: MPL-2.0
//! The encoder's networks: frames to real-valued digits and latents.

use tch::Tensor;

use super::decide::{activity_weights, nearest};
use crate::bitstream::{CodingScale, MotionField, SequenceHeader, View, Window, FSQ_LEVELS};
use crate::codec::colour::ycbcr;
use crate::codec::geometry::Tile;
use crate::codec::{CodecError, Frame};
use crate::entropy::{LatentMap, TokenMap, DIGITS, LATENT_SCALE};
use crate::model::picture::{self, Ycbcr};
use crate::model::{values, Model, StreamState};

/// The tiles of a stream's pictures, and what the networks remember of each from unit to unit.
#[derive(Debug)]
pub struct AnalysisState {
    tiles: Vec<TileState>,
}

#[derive(Debug)]
struct TileState {
    tile: Tile,
    tokenizer: StreamState,
    continuous: StreamState,
}

impl AnalysisState {
    pub fn new(tiles: Vec<Tile>) -> AnalysisState {
        let state = |tile| TileState {
            tile,
            tokenizer: StreamState::default(),
            continuous: StreamState::default(),
        };
        AnalysisState {
            tiles: tiles.into_iter().map(state).collect(),
        }
    }

    /// Moves with what the last unit's window shows.
    pub fn follow(&mut self, field: &MotionField, window: &Window) -> Result<(), CodecError> {
        for state in &mut self.tiles {
            state.tokenizer.follow(field, window)?;
            state.continuous.follow(field, window)?;
        }
        Ok(())
    }

    /// Goes on in another window, one tile as before. `view`: of the token map.
    pub fn look(&mut self, view: &View) -> Result<(), CodecError> {
        for state in &mut self.tiles {
            state.tile = Tile::whole(view.size().1);
            state.tokenizer.look(view)?;
            state.continuous.look(view)?;
        }
        Ok(())
    }
}

/// What the encoder knows of a unit before anything is rounded.
#[derive(Debug)]
pub struct Analysis {
    pub width: usize,
    pub height: usize,
    /// `[height][width][6]`, about 0 to L - 1.
    pub digits: Vec<f32>,
    /// In 1/256; None without a continuous stream.
    pub latents: Option<LatentMap>,
    /// What an error in each token is worth: see [`activity_weights`].
    pub weights: Vec<f32>,
}

impl Analysis {
    /// Runs the networks over a group of pictures of a stream's window, in the coded size.
    pub fn of(
        model: &Model,
        frames: &[&Frame],
        (sequence, window): (&SequenceHeader, &Window),
        state: &mut AnalysisState,
    ) -> Result<Analysis, CodecError> {
        let factor = model.tokenizer.config.spatial_factor() as usize;
        let (width, height) = window.tokens();
        let (coded_width, coded_height) = window.sequence(sequence).coded_size();
        let coded_size = (coded_width as usize, coded_height as usize);
        let mut digits = Vec::with_capacity(width * height * DIGITS);
        let mut latents = model.continuous.as_ref().map(|continuous| LatentMap {
            width,
            height,
            channels: continuous.context.weights().channels,
            values: Vec::new(),
        });
        for state in &mut state.tiles {
            let rows = state.tile.seen.start * factor..state.tile.seen.end * factor;
            let quads = match sequence.coding_scale {
                CodingScale::Single => Frame::to_quads(frames, width * factor, rows)?,
                _ => Frame::to_resized_quads(frames, coded_size, width * factor, rows)?,
            };
            let quads = quads.f_to_device(model.device)?;
            let found = state.run(model, &quads, ycbcr(sequence))?;
            digits.extend(by_place(&found.0)?);
            if let (Some(map), Some(values)) = (&mut latents, found.1) {
                map.values.extend(by_place(&values)?.into_iter().map(|v| v as i32));
            }
        }
        // Cosmos networks were not measured.
        let weights = match model.tokenizer.config.is_cosmos() {
            true => vec![1.0; width * height],
            false => {
                let side = (factor * frames[0].width) as f64 / f64::from(coded_width);
                activity_weights(frames, (width, height), side)
            }
        };
        Ok(Analysis {
            width,
            height,
            digits,
            latents,
            weights,
        })
    }

    /// Rounds the digits. One keeps its value of the previous unit while the new one is not further away than its place's
    /// `hysteresis` in steps: that costs next to nothing to code.
    pub fn tokens(&self, previous: Option<&TokenMap>, hysteresis: impl Fn(usize) -> f64) -> TokenMap {
        let mut map = TokenMap::zero(self.width, self.height);
        for (at, token) in map.tokens.iter_mut().enumerate() {
            let hysteresis = hysteresis(at);
            for (k, digit) in token.iter_mut().enumerate() {
                let value = self.digits[at * DIGITS + k];
                // A token that was never sent has no digits.
                let last = previous
                    .map(|map| map.tokens[at][k])
                    .filter(|digit| *digit < FSQ_LEVELS[k]);
                *digit = match last {
                    Some(last) if (f64::from(value) - f64::from(last)).abs() <= hysteresis => last,
                    _ => nearest(value, k),
                };
            }
        }
        map
    }
}

impl TileState {
    /// Quad pictures of the tile -> digits and latents in 1/256, `[1, c, h, w]` f32.
    fn run(&mut self, model: &Model, quads: &Tensor, colours: Ycbcr) -> Result<(Tensor, Option<Tensor>), CodecError> {
        let _no_grad = tch::no_grad_guard();
        let tokenizer = &model.tokenizer;
        let pictures = picture::to_network(quads, tokenizer.config.colour(), colours)?;
        let (zs, features) = tokenizer.encode_with_features(&pictures, model.kind, &mut self.tokenizer)?;
        let digits = self.tile.crop(&tokenizer.fsq.bound(&zs)?, 2, 1)?;
        let latents = match &model.continuous {
            Some(continuous) => {
                let ys = continuous.fusion.encode(&features, 1, &mut self.continuous)?;
                let ys = ys.f_mul_scalar(f64::from(LATENT_SCALE))?.f_round()?;
                Some(self.tile.crop(&ys, 2, 1)?)
            }
            None => None,
        };
        Ok((digits, latents))
    }
}

/// `xs: [1, c, h, w]` -> the values with the channels of a place together.
fn by_place(xs: &Tensor) -> Result<Vec<f32>, CodecError> {
    Ok(values(&xs.f_permute([0, 2, 3, 1])?)?)
}
