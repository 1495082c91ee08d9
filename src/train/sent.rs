// SPDX-License-Identifier: MPL-2.0
//! Tokens and latents as the codec's own encoder sends them, while the painter learns: digits that stay what they were, skipped positions,
//! latents that are left out. Painters that only meet what is exact take the rest for something that moves.

use std::path::Path;
use std::sync::Arc;

use anyhow::{ensure, Context, Result};
use tch::{Device, Kind, Tensor};

use super::context_samples;
use super::joint::uniform;
use super::recordings::record;
use crate::bitstream::CodingScale;
use crate::codec::{operating_point, scale_of, EncoderAblation, EncoderSettings, OperatingPoint, MAX_QUANTIZER};
use crate::entropy::LATENT_SCALE;
use crate::media::Clip;
use crate::model::{picture, Model, ModelSource};

/// Of samples, whose stride varies.
const FRAME_RATE: f64 = 25.0;

/// What decoders get of some clips.
pub(super) struct Sent {
    /// Digits of the tokens, `[n * t', 6, h', w']` f32.
    pub digits: Tensor,
    /// `[n * t', channels, h', w']` f32; all zero where none are sent.
    pub latents: Tensor,
}

/// A model whose encoder sends.
pub(super) struct Sender(Arc<Model>);

/// The point of one of the quantizers that stand for a scale, each as likely as the others.
pub(super) fn draw_point(scale: CodingScale) -> OperatingPoint {
    let quantizers: Vec<u32> = (0..=MAX_QUANTIZER).filter(|&q| scale_of(q) == scale).collect();
    let at = (uniform() * quantizers.len() as f64) as usize;
    operating_point(quantizers[at], scale)
}

impl Sender {
    /// The model in a file. Fails where it sends no latents: there is nothing to be joined.
    pub fn load(path: &Path) -> Result<Sender> {
        let source = ModelSource::File(path.to_path_buf());
        let model = Model::load(&source, "cpu").with_context(|| format!("reading {}", path.display()))?;
        ensure!(model.continuous.is_some(), "{} has no latents", path.display());
        Ok(Sender(model))
    }

    /// What is sent at a point of clips `xs: [n, t, 6, h/2, w/2]` in [-1, 1], in whole tokens and 1 + a multiple of 8 frames. Windows stay
    /// where they are, for samples follow the camera already, and no token is masked.
    pub fn send(&self, xs: &Tensor, point: &OperatingPoint) -> Result<Sent> {
        let _no_grad = tch::no_grad_guard();
        let settings = settings(point, xs.size()[1]);
        let (mut digits, mut latents) = (vec![], vec![]);
        for quads in xs.f_unbind(0)? {
            for unit in record(&self.0, &clip(&quads)?, settings, || false)? {
                let (_, sent) = unit.symbols.latents.as_ref().context("the model has no latents")?;
                digits.push(context_samples::digits(&unit.symbols.tokens, xs.device()));
                latents.push(context_samples::latents(sent, xs.device()));
            }
        }
        let stacked = |units: &[Tensor]| {
            Tensor::f_stack(units, 0)?
                .f_permute([0, 3, 1, 2])?
                .f_to_kind(Kind::Float)
        };
        Ok(Sent {
            digits: stacked(&digits)?,
            latents: stacked(&latents)? / f64::from(LATENT_SCALE),
        })
    }
}

/// Of clips of so many frames: units of the same lengths in all of them.
fn settings(point: &OperatingPoint, frames: i64) -> EncoderSettings {
    EncoderSettings {
        scale: Some(CodingScale::Single),
        residual: false,
        key_int_max: frames as u32,
        ablation: EncoderAblation {
            point: Some(OperatingPoint {
                mask_ratio: 0.0,
                ..*point
            }),
            camera: false,
            motion: false,
            ..EncoderAblation::default()
        },
        ..EncoderSettings::default()
    }
}

/// Pictures `[t, 6, h/2, w/2]` in [-1, 1] as an encoder takes them.
fn clip(quads: &Tensor) -> Result<Clip> {
    let (luma, chroma) = picture::planes_from_quad(quads)?;
    let bytes = |plane: Tensor| {
        plane
            .round()
            .clamp(0.0, 255.0)
            .to_kind(Kind::Uint8)
            .to_device(Device::Cpu)
    };
    Ok(Clip {
        name: String::new(),
        luma: bytes(luma),
        chroma: bytes(chroma),
        frame_rate: FRAME_RATE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Decoder, Encoder};
    use crate::model::picture::Ycbcr;
    use crate::model::StreamState;

    /// Two clips of three units, each of another scene, which cuts.
    fn clips() -> Tensor {
        tch::manual_seed(2);
        let noise =
            |frames: i64| Tensor::rand([2, 1, 6, 3, 4], (Kind::Float, Device::Cpu)).expand([2, frames, 6, 3, 4], false);
        let small = Tensor::cat(&[noise(9), noise(8)], 1) * 1.6 - 0.8;
        small
            .repeat_interleave_self_int(8, 3, None)
            .repeat_interleave_self_int(8, 4, None)
    }

    fn sender() -> Sender {
        Sender(Model::load(&ModelSource::Embedded, "cpu").unwrap())
    }

    #[test]
    fn what_is_sent_has_the_form_of_what_networks_take() {
        let sent = sender()
            .send(&clips(), &operating_point(30, CodingScale::Single))
            .unwrap();
        assert_eq!(sent.digits.size(), [6, 6, 3, 4]);
        assert_eq!((sent.latents.size()[0], &sent.latents.size()[2..]), (6, &[3i64, 4][..]));
        assert!(f64::try_from(sent.latents.abs().max()).unwrap() > 0.0);
    }

    /// Pictures `[t, 6, h/2, w/2]` that a decoder shows of a clip.
    fn shown(model: &Arc<Model>, clip: &Clip, settings: EncoderSettings) -> Tensor {
        let mut encoder = Encoder::new(model.clone(), clip.sequence(), settings).unwrap();
        let mut units: Vec<_> = (0..clip.frames())
            .flat_map(|at| encoder.push(clip.frame(at).unwrap(), false).unwrap())
            .collect();
        units.extend(encoder.drain().unwrap());
        let mut decoder = Decoder::new(model.clone());
        let frames = units
            .iter()
            .flat_map(|unit| decoder.decode(&unit.bytes).unwrap().frames);
        let quads: Vec<_> = frames
            .map(|frame| {
                let (w, h) = (frame.width as i64, frame.height as i64);
                let chroma = [1, 2].map(|plane| Tensor::from_slice(&frame.planes[plane]).view([1, h / 2, w / 2]));
                let luma = Tensor::from_slice(&frame.planes[0]).view([1, h, w]);
                picture::quad_from_planes(&luma, &Tensor::stack(&chroma, 1)).unwrap()
            })
            .collect();
        Tensor::cat(&quads, 0)
    }

    #[test]
    fn painters_learn_from_what_decoders_show() {
        let (Sender(model), xs) = (sender(), clips());
        let point = operating_point(30, CodingScale::Single);
        let sent = Sender(model.clone()).send(&xs, &point).unwrap();
        let codes = model.tokenizer.fsq.codes(&sent.digits).unwrap();
        let fusion = &model.continuous.as_ref().unwrap().fusion;
        let control = fusion.control(&codes, &sent.latents, 2, Kind::Float, &mut StreamState::default());
        let painted =
            model
                .tokenizer
                .decode_controlled(&codes, &control.unwrap(), 2, Kind::Float, &mut StreamState::default());
        let painted = picture::from_network(&painted.unwrap(), model.tokenizer.config.colour(), Ycbcr::BT601).unwrap();
        for at in 0..2 {
            let shown = shown(&model, &clip(&xs.get(at)).unwrap(), settings(&point, 17));
            let difference = (painted.get(at) - shown).abs().mean(Kind::Float);
            // Decoders filter what is painted.
            assert!(f64::try_from(difference).unwrap() < 0.02);
        }
    }

    #[test]
    fn a_point_without_latents_sends_zeros() {
        let point = operating_point(57, CodingScale::Half);
        assert_eq!(point.latent_step, None);
        let sent = sender().send(&clips(), &point).unwrap();
        assert_eq!(f64::try_from(sent.latents.abs().max()).unwrap(), 0.0);
    }

    #[test]
    fn points_are_those_of_the_scale() {
        for _ in 0..50 {
            assert!(draw_point(CodingScale::Half).latent_step.is_none_or(|step| step > 40));
            assert!(draw_point(CodingScale::OneAndAHalf).residual_step.is_some());
        }
    }
}
