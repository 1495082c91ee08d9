// SPDX-License-Identifier: MPL-2.0
//! The discrete video tokenizer: frames to FSQ digits and back, streaming.

use tch::{nn, Kind, Tensor};

use super::config::{LevelConfig, LevelNetworks, NetworkConfig, TokenizerConfig};
use super::cosmos;
use super::fsq::Fsq;
use super::fused::{Fused, FusedConv, Layers};
use super::layers::{
    add, new_levels, silu, to_channels_last, Conv2d, Downsample, Level, Norm, StreamState, TimeSteps, Upsample,
};
use super::patch::{patch, unpatch};

type Result<T> = std::result::Result<T, tch::TchError>;

/// Frames to latents.
#[derive(Debug)]
struct Encoder {
    conv_in: Conv2d,
    levels: Vec<Level>,
    downsamples: Vec<Downsample>,
    norm_out: Norm,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(vs: nn::Path, levels: &[LevelConfig], c_in: i64, c_out: i64) -> Encoder {
        let coarsest = levels.last().expect("a validated configuration has levels").width;
        Encoder {
            conv_in: Conv2d::new(&vs / "conv_in", c_in, levels[0].width, 3, 1, 1.0),
            levels: new_levels(&vs, levels),
            downsamples: (1..levels.len())
                .map(|i| Downsample::new(&vs / "down" / (i - 1), &levels[i - 1], &levels[i]))
                .collect(),
            norm_out: Norm::new(&vs / "norm_out", coarsest),
            conv_out: Conv2d::new(&vs / "conv_out", coarsest, c_out, 3, 1, 1.0),
        }
    }

    /// `xs: [n * t, c_in, h, w]` -> latents `[n * t', c_out, h', w']` and the features of the level before the
    /// coarsest, `[n * t", c, h", w"]`; with a single level there are none.
    fn forward(&self, xs: &Tensor, n: i64, state: &mut StreamState) -> Result<(Tensor, Tensor)> {
        let mut xs = self.conv_in.forward(xs)?;
        let mut features = Tensor::new();
        for (i, level) in self.levels.iter().enumerate() {
            xs = level.forward(xs, n, state)?;
            if let Some(down) = self.downsamples.get(i) {
                features = xs.shallow_clone();
                xs = down.forward(xs, n, state)?;
            }
        }
        let latents = self.conv_out.forward(&self.norm_out.forward(&xs)?.f_silu()?)?;
        Ok((latents, features))
    }
}

/// Latents to frames.
#[derive(Debug)]
struct Decoder {
    conv_in: Conv2d,
    levels: Vec<Level>,
    upsamples: Vec<Upsample>,
    norm_out: Norm,
    /// The first factor of the last convolution, where that has two.
    conv_rank: Option<Conv2d>,
    conv_out: Conv2d,
    /// From `norm_out` to `conv_out`.
    fused_out: Fused<FusedConv>,
}

impl Decoder {
    fn new(vs: nn::Path, config: &LevelNetworks, c_in: i64, c_out: i64) -> Decoder {
        let levels = &config.decoder;
        let finest = levels[0].width;
        let coarsest = levels.last().expect("a validated configuration has levels").width;
        Decoder {
            conv_in: Conv2d::new(&vs / "conv_in", c_in, coarsest, 3, 1, 1.0),
            levels: new_levels(&vs, levels),
            upsamples: (1..levels.len())
                .map(|i| Upsample::new(&vs / "up" / (i - 1), &levels[i], &levels[i - 1]))
                .collect(),
            norm_out: Norm::new(&vs / "norm_out", finest),
            conv_rank: config
                .output_rank
                .map(|rank| Conv2d::new(&vs / "conv_rank", finest, rank, 3, 1, 1.0)),
            conv_out: match config.output_rank {
                Some(rank) => Conv2d::new(&vs / "conv_out", rank, c_out, 1, 1, 1.0),
                None => Conv2d::new(&vs / "conv_out", finest, c_out, 3, 1, 1.0),
            },
            fused_out: Fused::default(),
        }
    }

    fn freeze(&mut self) {
        self.levels.iter_mut().for_each(Level::freeze);
        self.upsamples.iter_mut().for_each(Upsample::freeze);
        self.fused_out.allow();
    }

    fn output_layers(&self) -> Layers<'_> {
        let factors = self.conv_rank.as_ref().map(|conv| (conv, &self.conv_out));
        Layers {
            norm: self.norm_out.parameters(),
            silu_before: true,
            conv: factors.map_or(&self.conv_out, |(conv, _)| conv).parameters(),
            silu_after: false,
            product: factors.map(|(_, conv)| conv.parameters()),
            residual: false,
        }
    }

    /// `zs: [n * t', c_in, h', w']` -> `[n * t, c_out, h, w]`. `control`: what is added to each level's
    /// features, the finest first; empty = nothing. `steps`: of the pictures; then t is of these alone.
    fn forward(
        &self,
        zs: &Tensor,
        control: &[Tensor],
        (n, steps): (i64, TimeSteps),
        state: &mut StreamState,
    ) -> Result<Tensor> {
        let mut xs = self.conv_in.forward(zs)?;
        for (i, level) in self.levels.iter().enumerate().rev() {
            let steps = if i == 0 { steps } else { TimeSteps::All };
            xs = level.forward_steps(xs, n, steps, state)?;
            if let Some(addend) = control.get(i) {
                xs = add(addend, xs)?;
            }
            state.record(&xs);
            if i > 0 {
                xs = self.upsamples[i - 1].forward(xs, n, state)?;
            }
        }
        if let Some(fused) = self.fused_out.get(|| FusedConv::new(&self.output_layers())) {
            return fused.forward(xs);
        }
        let xs = silu(self.norm_out.forward(&xs)?)?;
        match &self.conv_rank {
            Some(conv) => self.conv_out.forward(&conv.forward(&xs)?),
            None => self.conv_out.forward(&xs),
        }
    }

    /// Keeps the coarsest level up to date; the finer ones forget.
    fn skip(&self, zs: &Tensor, n: i64, state: &mut StreamState) -> Result<()> {
        if let Some(coarsest) = self.levels.last() {
            let _features = coarsest.forward(self.conv_in.forward(zs)?, n, state)?;
        }
        state.forget_rest();
        Ok(())
    }
}

/// The two directions, of either family.
#[derive(Debug)]
enum Networks {
    Levels(Box<Encoder>, Box<Decoder>),
    Cosmos(Box<cosmos::Encoder>, Box<cosmos::Decoder>),
}

impl Networks {
    fn levels(vs: &nn::Path, config: &LevelNetworks, patches: i64, digits: i64) -> Networks {
        Networks::Levels(
            Encoder::new(vs / "encoder", &config.encoder, patches, digits).into(),
            Decoder::new(vs / "decoder", config, digits, patches).into(),
        )
    }
}

/// Encoder, quantiser and decoder.
#[derive(Debug)]
pub struct Tokenizer {
    pub config: TokenizerConfig,
    pub fsq: Fsq,
    networks: Networks,
}

impl Tokenizer {
    /// Networks of a validated configuration, with their weights under `vs`.
    pub fn new(vs: nn::Path, config: &TokenizerConfig) -> Tokenizer {
        let (patches, digits) = (config.patch_channels(), config.fsq_levels.len() as i64);
        Tokenizer {
            config: config.clone(),
            fsq: Fsq::new(&config.fsq_levels),
            networks: match &config.networks {
                NetworkConfig::Levels(levels) => Networks::levels(&vs, levels, patches, digits),
                NetworkConfig::Cosmos { cosmos } => Networks::Cosmos(
                    cosmos::Encoder::new(vs.clone(), cosmos, digits).into(),
                    cosmos::Decoder::new(vs, cosmos, digits).into(),
                ),
            },
        }
    }

    /// To be called when the weights are final: layers may then run in a form that is made of them once.
    pub fn freeze(&mut self) {
        if let Networks::Levels(encoder, decoder) = &mut self.networks {
            encoder.levels.iter_mut().for_each(Level::freeze);
            decoder.freeze();
        }
    }

    /// Weights of the decoder's last layer: adversarial training balances its losses there.
    pub fn last_weight(&self) -> &Tensor {
        match &self.networks {
            Networks::Levels(_, decoder) => decoder.conv_out.weight(),
            Networks::Cosmos(_, decoder) => decoder.last_weight(),
        }
    }

    /// One step of the encoder. `xs: [n, t, c, h, w]` in about [-1, 1], h and w multiples of a token, t = 1 + fk at
    /// the start of a stream and fk later, with the temporal factor f -> latents before FSQ, `[n * t', 6, h', w']`
    /// f32, t' = 1 + k or k. The networks run in `kind`.
    pub fn encode(&self, xs: &Tensor, kind: Kind, state: &mut StreamState) -> Result<Tensor> {
        Ok(self.encode_with_features(xs, kind, state)?.0)
    }

    /// [`Self::encode`], and what the continuous encoder starts from: the features of the level before the coarsest,
    /// or, with Cosmos, the patches.
    pub fn encode_with_features(&self, xs: &Tensor, kind: Kind, state: &mut StreamState) -> Result<(Tensor, Tensor)> {
        state.begin_step();
        let n = xs.size()[0];
        let patches = patch(&self.config.patch(), &xs.f_to_kind(kind)?, state)?;
        let (zs, features) = match &self.networks {
            Networks::Levels(encoder, _) => encoder.forward(&patches, n, state)?,
            Networks::Cosmos(encoder, _) => (encoder.forward(&patches, n, state)?, patches),
        };
        state.end_step();
        Ok((zs.f_to_kind(Kind::Float)?, features))
    }

    /// One step of the decoder, the mirror of [`Self::encode`]: codes `[n * t', 6, h', w']` of `n` streams ->
    /// `[n, t, c, h, w]` f32 in about [-1, 1].
    pub fn decode(&self, codes: &Tensor, n: i64, kind: Kind, state: &mut StreamState) -> Result<Tensor> {
        self.decode_controlled(codes, &[], n, kind, state)
    }

    /// [`Self::decode`] with what a control branch adds to each level.
    pub fn decode_controlled(
        &self,
        codes: &Tensor,
        control: &[Tensor],
        n: i64,
        kind: Kind,
        state: &mut StreamState,
    ) -> Result<Tensor> {
        self.decode_steps(codes, control, (n, TimeSteps::All), kind, state)
    }

    /// [`Self::decode_controlled`] of some of the time steps, the frames of one patch each: they are those of all time steps but for
    /// rounding, and so is what follows. Cosmos networks look back everywhere and give all of them. `control`: of the same time steps.
    pub fn decode_steps(
        &self,
        codes: &Tensor,
        control: &[Tensor],
        (n, steps): (i64, TimeSteps),
        kind: Kind,
        state: &mut StreamState,
    ) -> Result<Tensor> {
        let Patches { values, skipped } = self.decode_patches(codes, control, (n, steps), kind, state)?;
        let xs = unpatch(
            &self.config.patch(),
            &values,
            n,
            self.config.colour().channels(),
            skipped,
        )?;
        xs.f_to_kind(Kind::Float)
    }

    /// [`Self::decode_steps`] before the patches are put together.
    pub fn decode_patches(
        &self,
        codes: &Tensor,
        control: &[Tensor],
        (n, steps): (i64, TimeSteps),
        kind: Kind,
        state: &mut StreamState,
    ) -> Result<Patches> {
        state.begin_step();
        let codes = to_channels_last(codes, kind)?;
        let values = match &self.networks {
            Networks::Levels(_, decoder) => decoder.forward(&codes, control, (n, steps), state)?,
            Networks::Cosmos(_, decoder) => decoder.forward(&codes, control, n, state)?,
        };
        let skipped = if state.is_start() {
            self.config.patch().time - 1
        } else {
            0
        };
        state.end_step();
        Ok(Patches { values, skipped })
    }

    /// A step of the decoder of which no picture is wanted, after the first one of a stream; `codes` as for [`Self::decode`]. The
    /// coarsest level, which looks back furthest, goes on as ever; the finer ones start anew at the next step. As they look back a few
    /// time steps only, what they give is soon the same again. Cosmos networks run in full.
    pub fn skip(&self, codes: &Tensor, n: i64, kind: Kind, state: &mut StreamState) -> Result<()> {
        let codes = to_channels_last(codes, kind)?;
        state.begin_step();
        match &self.networks {
            Networks::Levels(_, decoder) => decoder.skip(&codes, n, state)?,
            Networks::Cosmos(_, decoder) => drop(decoder.forward(&codes, &[], n, state)?),
        }
        state.end_step();
        Ok(())
    }
}

/// Pictures as a network gives them.
#[derive(Debug)]
pub struct Patches {
    /// `[n * t', c', h', w']` in about [-1, 1].
    pub values: Tensor,
    /// Frames of the first patch that count for nothing: at the start of a stream it holds a single one.
    pub skipped: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn tiny() -> (nn::VarStore, Tokenizer) {
        tch::manual_seed(7);
        let vs = nn::VarStore::new(Device::Cpu);
        let tokenizer = Tokenizer::new(vs.root(), &TokenizerConfig::tiny());
        // Residual branches start at zero; move everything so that the test sees them.
        tch::no_grad(|| {
            for mut v in vs.trainable_variables() {
                let noise = v.randn_like() * 0.15;
                let _ = v.g_add_(&noise);
            }
        });
        (vs, tokenizer)
    }

    fn run(tokenizer: &Tokenizer, xs: &Tensor, plan: &[i64]) -> (Tensor, Tensor) {
        let (mut enc, mut dec) = (StreamState::default(), StreamState::default());
        let (mut digits, mut pictures, mut at) = (vec![], vec![], 0);
        for &frames in plan {
            let zs = tokenizer
                .encode(&xs.narrow(1, at, frames), Kind::Float, &mut enc)
                .unwrap();
            let d = tokenizer.fsq.digits(&zs).unwrap();
            let codes = tokenizer.fsq.codes(&d).unwrap();
            pictures.push(tokenizer.decode(&codes, 1, Kind::Float, &mut dec).unwrap());
            digits.push(d);
            at += frames;
        }
        (Tensor::cat(&digits, 0), Tensor::cat(&pictures, 1))
    }

    #[test]
    fn chunk_plans_give_equal_tokens_and_equal_pictures() {
        let _guard = tch::no_grad_guard();
        let (_vs, tokenizer) = tiny();
        let xs = Tensor::rand([1, 25, 6, 24, 32], (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
        let (tokens, pictures) = run(&tokenizer, &xs, &[25]);
        assert_eq!(
            tokens.size(),
            [4, 6, 3, 4],
            "1 + 24 / 8 units of 24 / 8 x 32 / 8 tokens"
        );
        assert_eq!(pictures.size(), xs.size());
        for plan in [&[1, 8, 8, 8][..], &[1, 16, 8]] {
            let (t, p) = run(&tokenizer, &xs, plan);
            assert_eq!(t, tokens, "tokens of plan {plan:?}");
            let error = f64::try_from((p - &pictures).abs().max()).unwrap();
            assert!(error < 1e-4, "pictures of plan {plan:?} differ by {error}");
        }
    }

    #[test]
    fn soon_after_skipped_steps_pictures_are_what_they_would_have_been() {
        let _guard = tch::no_grad_guard();
        let (_vs, tokenizer) = tiny();
        let codes = tokenizer
            .fsq
            .codes(&Tensor::rand([12, 6, 3, 4], (Kind::Float, Device::Cpu)));
        let codes = codes.unwrap();
        let run = |skipped: std::ops::Range<i64>| -> Vec<Tensor> {
            let mut state = StreamState::default();
            let mut pictures = vec![];
            for unit in 0..12 {
                let codes = codes.narrow(0, unit, 1);
                if skipped.contains(&unit) {
                    tokenizer.skip(&codes, 1, Kind::Float, &mut state).unwrap();
                } else {
                    pictures.push(tokenizer.decode(&codes, 1, Kind::Float, &mut state).unwrap());
                }
            }
            pictures
        };
        let (all, some) = (run(0..0), run(2..4));
        let off = |a: &Tensor, b: &Tensor| f64::try_from((a - b).abs().max()).unwrap();
        assert_eq!((all.len(), some.len()), (12, 10));
        assert!(off(&all[4], &some[2]) > 1e-4, "the finer levels have forgotten");
        assert!(off(&all[11], &some[9]) < 1e-4, "{}", off(&all[11], &some[9]));
    }

    #[test]
    fn a_picture_depends_on_the_past_and_not_on_the_future() {
        let _guard = tch::no_grad_guard();
        let (_vs, tokenizer) = tiny();
        let xs = Tensor::rand([1, 17, 6, 16, 16], (Kind::Float, Device::Cpu));
        let changed = xs.copy();
        let _ = changed.narrow(1, 9, 8).fill_(0.5);
        let (_, a) = run(&tokenizer, &xs, &[17]);
        let (_, b) = run(&tokenizer, &changed, &[17]);
        let differs = |from, frames| {
            let difference = a.narrow(1, from, frames) - b.narrow(1, from, frames);
            f64::try_from(difference.abs().max()).unwrap()
        };
        assert!(differs(0, 9) < 1e-5, "frames before the change");
        assert!(differs(9, 8) > 1e-3, "frames of the change");
    }
}
