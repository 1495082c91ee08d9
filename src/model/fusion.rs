// SPDX-License-Identifier: MPL-2.0
//! The continuous stream: latents beside the tokens, and the control branch that brings them into the decoder
//! (Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023).

use tch::{nn, Kind, Tensor};

use super::config::{ContinuousConfig, ContinuousNetworks, LevelConfig, NetworkConfig, TokenizerConfig};
use super::cosmos;
use super::layers::{new_levels, to_channels_last, Conv2d, Downsample, Level, Norm, StreamState, TimeSteps, Upsample};

type Result<T> = std::result::Result<T, tch::TchError>;

/// The continuous encoder and the control branch.
#[derive(Debug)]
pub struct Fusion {
    pub config: ContinuousConfig,
    networks: Networks,
}

/// Encoder and control branch, of either family.
#[derive(Debug)]
enum Networks {
    Levels(Box<Encoder>, Box<Control>),
    Cosmos(Box<cosmos::Encoder>, Box<cosmos::Control>),
}

/// The tokenizer's features to latents.
#[derive(Debug)]
struct Encoder {
    down: Downsample,
    level: Level,
    norm_out: Norm,
    conv_out: Conv2d,
}

/// A copy of the decoder's stages that also sees the latents. Each level's features go to the decoder through a
/// 1x1 convolution that starts at zero, so that training starts from the decoder as it is.
#[derive(Debug)]
struct Control {
    conv_in: Conv2d,
    hint: Conv2d,
    levels: Vec<Level>,
    upsamples: Vec<Upsample>,
    joins: Vec<Conv2d>,
}

impl Encoder {
    fn new(vs: nn::Path, config: &LevelConfig, finer: &LevelConfig, channels: i64) -> Encoder {
        Encoder {
            down: Downsample::new(&vs / "down", finer, config),
            level: Level::new(&vs / "level", config),
            norm_out: Norm::new(&vs / "norm_out", config.width),
            // Larger than usual: latents that all round to zero get no gradient and never wake up.
            conv_out: Conv2d::new(&vs / "conv_out", config.width, channels, 3, 1, 6.0),
        }
    }

    fn forward(&self, features: &Tensor, n: i64, state: &mut StreamState) -> Result<Tensor> {
        let xs = self.down.forward(features.shallow_clone(), n, state)?;
        let xs = self.level.forward(xs, n, state)?;
        self.conv_out.forward(&self.norm_out.forward(&xs)?.f_silu()?)
    }
}

impl Control {
    fn new(vs: nn::Path, levels: &[LevelConfig], channels: i64, digits: i64) -> Control {
        let coarsest = levels.last().expect("a validated configuration has levels").width;
        Control {
            conv_in: Conv2d::new(&vs / "conv_in", digits, coarsest, 3, 1, 1.0),
            hint: Conv2d::new(&vs / "hint", channels, coarsest, 3, 1, 1.0),
            levels: new_levels(&vs, levels),
            upsamples: (1..levels.len())
                .map(|i| Upsample::new(&vs / "up" / (i - 1), &levels[i], &levels[i - 1]))
                .collect(),
            joins: (0..levels.len() as i64)
                .zip(levels)
                .map(|(i, level)| Conv2d::new(&vs / "join" / i, level.width, level.width, 1, 1, 0.0))
                .collect(),
        }
    }

    fn forward(
        &self,
        codes: &Tensor,
        latents: &Tensor,
        (n, steps): (i64, TimeSteps),
        state: &mut StreamState,
    ) -> Result<Vec<Tensor>> {
        let mut xs = self.conv_in.forward(codes)?.f_add(&self.hint.forward(latents)?)?;
        let mut joined = Vec::with_capacity(self.levels.len());
        for (i, level) in self.levels.iter().enumerate().rev() {
            let steps = if i == 0 { steps } else { TimeSteps::All };
            xs = level.forward_steps(xs, n, steps, state)?;
            state.record(&xs);
            joined.push(self.joins[i].forward(&xs)?);
            if i > 0 {
                xs = self.upsamples[i - 1].forward(xs, n, state)?;
            }
        }
        joined.reverse();
        Ok(joined)
    }

    /// Keeps the coarsest level up to date; the finer ones forget.
    fn skip(&self, codes: &Tensor, latents: &Tensor, n: i64, state: &mut StreamState) -> Result<()> {
        let xs = self.conv_in.forward(codes)?.f_add(&self.hint.forward(latents)?)?;
        if let Some(coarsest) = self.levels.last() {
            let _features = coarsest.forward(xs, n, state)?;
        }
        state.forget_rest();
        Ok(())
    }
}

impl Fusion {
    /// Networks of a validated configuration, with their weights under `vs`.
    pub fn new(vs: nn::Path, config: &ContinuousConfig, tokenizer: &TokenizerConfig) -> Fusion {
        let digits = tokenizer.fsq_levels.len() as i64;
        let control = &vs / "control";
        let networks = match (&config.networks, &tokenizer.networks) {
            (
                ContinuousNetworks::Levels {
                    encoder,
                    control: levels,
                },
                NetworkConfig::Levels(tokenizer),
            ) => {
                let finer = &tokenizer.encoder[tokenizer.encoder.len() - 2];
                Networks::Levels(
                    Encoder::new(&vs / "encoder", encoder, finer, config.channels).into(),
                    Control::new(control, levels, config.channels, digits).into(),
                )
            }
            (ContinuousNetworks::Cosmos { cosmos, control_blocks }, NetworkConfig::Cosmos { cosmos: discrete }) => {
                Networks::Cosmos(
                    cosmos::Encoder::new(vs, cosmos, config.channels).into(),
                    cosmos::Control::new(control, discrete, *control_blocks, config.channels, digits).into(),
                )
            }
            _ => unreachable!("a validated configuration is of one family"),
        };
        Fusion {
            config: config.clone(),
            networks,
        }
    }

    /// To be called when the weights are final: layers may then run in a form that is made of them once.
    pub fn freeze(&mut self) {
        if let Networks::Levels(encoder, control) = &mut self.networks {
            encoder.level.freeze();
            control.levels.iter_mut().for_each(Level::freeze);
            control.upsamples.iter_mut().for_each(Upsample::freeze);
        }
    }

    /// One step of the continuous encoder. `features`: those of
    /// [`super::Tokenizer::encode_with_features`] -> latents `[n * t', channels, h', w']` f32.
    pub fn encode(&self, features: &Tensor, n: i64, state: &mut StreamState) -> Result<Tensor> {
        state.begin_step();
        let ys = match &self.networks {
            Networks::Levels(encoder, _) => encoder.forward(features, n, state)?,
            Networks::Cosmos(encoder, _) => encoder.forward(features, n, state)?,
        };
        state.end_step();
        ys.f_to_kind(Kind::Float)
    }

    /// One step of the control branch: codes `[n * t', 6, h', w']` and latents `[n * t', channels, h', w']` ->
    /// what [`super::Tokenizer::decode_controlled`] adds to each level, in `kind`.
    pub fn control(
        &self,
        codes: &Tensor,
        latents: &Tensor,
        n: i64,
        kind: Kind,
        state: &mut StreamState,
    ) -> Result<Vec<Tensor>> {
        self.control_steps(codes, latents, (n, TimeSteps::All), kind, state)
    }

    /// [`Self::control`] for [`super::Tokenizer::decode_steps`].
    pub fn control_steps(
        &self,
        codes: &Tensor,
        latents: &Tensor,
        (n, steps): (i64, TimeSteps),
        kind: Kind,
        state: &mut StreamState,
    ) -> Result<Vec<Tensor>> {
        state.begin_step();
        let (codes, latents) = (to_channels_last(codes, kind)?, to_channels_last(latents, kind)?);
        let joined = match &self.networks {
            Networks::Levels(_, control) => control.forward(&codes, &latents, (n, steps), state)?,
            Networks::Cosmos(_, control) => control.forward(&codes, &latents, n, state)?,
        };
        state.end_step();
        Ok(joined)
    }

    /// [`Self::control`] for [`super::Tokenizer::skip`].
    pub fn skip(&self, codes: &Tensor, latents: &Tensor, n: i64, kind: Kind, state: &mut StreamState) -> Result<()> {
        let (codes, latents) = (to_channels_last(codes, kind)?, to_channels_last(latents, kind)?);
        state.begin_step();
        match &self.networks {
            Networks::Levels(_, control) => control.skip(&codes, &latents, n, state)?,
            Networks::Cosmos(_, control) => drop(control.forward(&codes, &latents, n, state)?),
        }
        state.end_step();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tokenizer;
    use tch::Device;

    /// The networks of the tiny configuration; residual branches and joins start at zero, `noise` moves them.
    fn tiny(noise: f64) -> (nn::VarStore, Tokenizer, Fusion) {
        tch::manual_seed(9);
        let vs = nn::VarStore::new(Device::Cpu);
        let tokenizer = Tokenizer::new(vs.root() / "tokenizer", &TokenizerConfig::tiny());
        let fusion = Fusion::new(vs.root() / "fusion", &ContinuousConfig::tiny(), &tokenizer.config);
        tch::no_grad(|| {
            for mut v in vs.trainable_variables() {
                let noise = v.randn_like() * noise;
                let _ = v.g_add_(&noise);
            }
        });
        (vs, tokenizer, fusion)
    }

    /// Latents and pictures of a clip that comes in pieces.
    fn run(tokenizer: &Tokenizer, fusion: &Fusion, xs: &Tensor, plan: &[i64]) -> (Tensor, Tensor) {
        run_steps(tokenizer, fusion, xs, plan, TimeSteps::All)
    }

    /// The same of some of the time steps of each piece.
    fn run_steps(
        tokenizer: &Tokenizer,
        fusion: &Fusion,
        xs: &Tensor,
        plan: &[i64],
        steps: TimeSteps,
    ) -> (Tensor, Tensor) {
        let mut states: [StreamState; 4] = Default::default();
        let [encoder, continuous, control, decoder] = &mut states;
        let (mut latents, mut pictures, mut at) = (vec![], vec![], 0);
        for &frames in plan {
            let piece = xs.narrow(1, at, frames);
            let (zs, features) = tokenizer.encode_with_features(&piece, Kind::Float, encoder).unwrap();
            let ys = fusion.encode(&features, 1, continuous).unwrap();
            let codes = tokenizer.fsq.codes(&tokenizer.fsq.digits(&zs).unwrap()).unwrap();
            let joined = fusion
                .control_steps(&codes, &ys, (1, steps), Kind::Float, control)
                .unwrap();
            let piece = tokenizer.decode_steps(&codes, &joined, (1, steps), Kind::Float, decoder);
            pictures.push(piece.unwrap());
            latents.push(ys);
            at += frames;
        }
        (Tensor::cat(&latents, 0), Tensor::cat(&pictures, 1))
    }

    fn clip() -> Tensor {
        Tensor::rand([1, 25, 6, 24, 32], (Kind::Float, Device::Cpu)) * 2.0 - 1.0
    }

    #[test]
    fn chunk_plans_give_equal_latents_and_equal_pictures() {
        let _guard = tch::no_grad_guard();
        let (_vs, tokenizer, fusion) = tiny(0.15);
        let xs = clip();
        let (latents, pictures) = run(&tokenizer, &fusion, &xs, &[25]);
        assert_eq!(latents.size(), [4, 4, 3, 4], "a latent beside every token");
        for plan in [&[1, 8, 8, 8][..], &[1, 16, 8]] {
            let (l, p) = run(&tokenizer, &fusion, &xs, plan);
            for (a, b) in [(l, &latents), (p, &pictures)] {
                let error = f64::try_from((a - b).abs().max()).unwrap();
                assert!(error < 1e-4, "plan {plan:?} differs by {error}");
            }
        }
    }

    #[test]
    fn the_last_time_steps_alone_are_what_they_are_among_all() {
        let _guard = tch::no_grad_guard();
        let (_vs, tokenizer, fusion) = tiny(0.15);
        let (xs, plan) = (clip(), [1, 8, 8, 8]);
        let (_, all) = run(&tokenizer, &fusion, &xs, &plan);
        let (_, last) = run_steps(&tokenizer, &fusion, &xs, &plan, TimeSteps::Last);
        let frames = tokenizer.config.patch().time;
        let ends = [1, 9, 17, 25].map(|end| all.slice(1, (end - frames).max(0), end, 1));
        assert_eq!(last.size()[1], 1 + 3 * frames, "less than all {} frames", all.size()[1]);
        let error = f64::try_from((last - Tensor::cat(&ends, 1)).abs().max()).unwrap();
        assert!(error < 1e-4, "they differ by {error}");
    }

    #[test]
    fn an_untrained_control_branch_leaves_the_picture_as_it_is() {
        let _guard = tch::no_grad_guard();
        let (_vs, tokenizer, fusion) = tiny(0.0);
        let xs = clip();
        let (_, fused) = run(&tokenizer, &fusion, &xs, &[25]);
        let zs = tokenizer.encode(&xs, Kind::Float, &mut StreamState::default()).unwrap();
        let codes = tokenizer.fsq.codes(&tokenizer.fsq.digits(&zs).unwrap()).unwrap();
        let plain = tokenizer.decode(&codes, 1, Kind::Float, &mut StreamState::default());
        assert_eq!(fused, plain.unwrap());
    }
}
