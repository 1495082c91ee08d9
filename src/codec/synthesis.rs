// SPDX-License-Identifier: MPL-2.0
//! The decoder's networks: digits and latents to frames.

use super::colour::ycbcr;
use super::restore::Restored;
use super::strips::Strip;
use super::{CodecError, Frame};
use crate::bitstream::SequenceHeader;
use crate::model::{picture, Model, StreamState};

/// The networks over the strips of a picture, and what they remember from unit to unit.
#[derive(Debug)]
pub struct Synthesis {
    strips: Vec<StripState>,
}

#[derive(Debug)]
struct StripState {
    strip: Strip,
    decoder: StreamState,
    control: StreamState,
}

impl Synthesis {
    pub fn new(strips: Vec<Strip>) -> Synthesis {
        let state = |strip| StripState {
            strip,
            decoder: StreamState::default(),
            control: StreamState::default(),
        };
        Synthesis {
            strips: strips.into_iter().map(state).collect(),
        }
    }

    /// The frames of a stream's next unit, all that a group has. `control`: whether the latents reach the picture.
    pub fn run(
        &mut self,
        model: &Model,
        restored: &Restored,
        control: bool,
        sequence: &SequenceHeader,
    ) -> Result<Vec<Frame>, CodecError> {
        let mut frames: Vec<Frame> = Vec::new();
        for state in &mut self.strips {
            let parts = state.run(model, restored, control, sequence)?;
            if frames.is_empty() {
                frames = parts;
            } else {
                frames
                    .iter_mut()
                    .zip(parts)
                    .for_each(|(frame, part)| frame.append(part));
            }
        }
        Ok(frames)
    }
}

impl StripState {
    fn run(
        &mut self,
        model: &Model,
        restored: &Restored,
        control: bool,
        sequence: &SequenceHeader,
    ) -> Result<Vec<Frame>, CodecError> {
        let _no_grad = tch::no_grad_guard();
        let (tokenizer, strip) = (&model.tokenizer, &self.strip);
        let codes = tokenizer.fsq.codes(&strip.view(&restored.digits, 2)?)?;
        let addends = match (&model.continuous, &restored.latents) {
            (Some(continuous), Some(latents)) if control => {
                let latents = strip.view(latents, 2)?;
                continuous
                    .fusion
                    .control(&codes, &latents, 1, model.kind, &mut self.control)?
            }
            _ => vec![],
        };
        let pictures = tokenizer.decode_controlled(&codes, &addends, 1, model.kind, &mut self.decoder)?;
        let quads = picture::from_network(&pictures, tokenizer.config.colour(), ycbcr(sequence))?;
        let factor = tokenizer.config.spatial_factor();
        let quads = strip.crop(&quads, 3, factor / 2)?;
        let below = sequence.height as usize - strip.rows.start * factor as usize;
        let height = below.min(strip.rows.len() * factor as usize);
        Ok(Frame::from_quads(&quads, sequence.width as usize, height)?)
    }
}
