// SPDX-License-Identifier: MPL-2.0
//! The networks that the tensors of a checkpoint describe.

use std::collections::HashMap;

use tch::{nn, Device, Kind, Tensor};

use super::config::CosmosConfig;
use super::networks::{Decoder, Encoder};
use crate::model::loaded::{fill_fitting, misfits};
use crate::model::patch::{patch, unpatch};
use crate::model::{ModelError, StreamState, TokenizerConfig};

/// Frames per latent and samples per latent along each side: the tensors do not tell, since the checkpoints have the
/// weights of every resampling, used or not.
pub type Factors = (i64, i64);

/// Encoder and decoder around one kind of embedding: FSQ digits or continuous latents.
#[derive(Debug)]
pub struct Autoencoder {
    pub config: CosmosConfig,
    /// Channels of what is between encoder and decoder.
    pub embedding: i64,
    encoder: Encoder,
    decoder: Decoder,
    variables: nn::VarStore,
}

impl Autoencoder {
    /// Networks that fit `tensors`, which have NVIDIA's names, filled with them. All names and shapes that do not fit
    /// are listed in one error.
    pub fn new(
        tensors: &HashMap<String, Tensor>,
        factors: Factors,
        trained_frames: i64,
        device: Device,
    ) -> Result<Autoencoder, ModelError> {
        let (config, embedding) = infer(tensors, factors, trained_frames)?;
        let variables = nn::VarStore::new(device);
        let networks = Autoencoder {
            encoder: Encoder::new(variables.root(), &config, embedding),
            decoder: Decoder::new(variables.root(), &config, embedding),
            config,
            embedding,
            variables,
        };
        let mut problems = fill_fitting(&networks.variables, tensors)?;
        let known = networks.variables.variables();
        let unknown = tensors.keys().filter(|name| !known.contains_key(*name));
        problems.extend(unknown.map(|name| format!("{name} is unknown")));
        misfits(problems)?;
        Ok(networks)
    }

    /// All weights, by NVIDIA's names.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        self.variables.variables()
    }

    /// Computes in another kind of number from now on.
    pub fn set_kind(&mut self, kind: Kind) {
        self.variables.freeze();
        self.variables.set_kind(kind);
    }

    /// A whole clip `[1, 3, t, h, w]` in [-1, 1] -> what is between encoder and decoder, `[t', embedding, h', w']`. The
    /// networks run in the kind of the clip.
    pub fn encode(&self, pictures: &Tensor) -> Result<Tensor, ModelError> {
        let mut state = StreamState::default();
        let patches = patch(&self.tokenizer().patch(), &pictures.f_transpose(1, 2)?, &state)?;
        Ok(self.encoder.forward(&patches, 1, &mut state)?)
    }

    /// The inverse: `[t', embedding, h', w']` -> `[1, 3, t, h, w]`, not clamped.
    pub fn decode(&self, codes: &Tensor) -> Result<Tensor, ModelError> {
        let mut state = StreamState::default();
        let patches = self.decoder.forward(codes, &[], 1, &mut state)?;
        let tokenizer = self.tokenizer();
        let (patch, channels) = (tokenizer.patch(), tokenizer.colour().channels());
        // The clip is a stream of its own: see [`patch`].
        let pictures = unpatch(&patch, &patches, 1, channels, patch.time - 1)?;
        Ok(pictures.f_transpose(1, 2)?)
    }

    fn tokenizer(&self) -> TokenizerConfig {
        TokenizerConfig::cosmos(self.config.clone())
    }
}

fn infer(
    tensors: &HashMap<String, Tensor>,
    (temporal_factor, spatial_factor): Factors,
    trained_frames: i64,
) -> Result<(CosmosConfig, i64), ModelError> {
    let rows = |name: String| tensors.get(&name).and_then(|t| t.size().first().copied());
    let need = |name: &str| {
        let rows = rows(format!("{name}.conv3d.weight")).filter(|&rows| rows > 0);
        rows.ok_or_else(|| ModelError::NotAModel(format!("no Cosmos tokenizer: {name}.conv3d.weight is missing")))
    };
    let channels = need("encoder.conv_in.0")?;
    let levels = |prefix: &str| -> Vec<i64> {
        let width = |i| rows(format!("{prefix}.{i}.block.0.conv1.0.conv3d.weight"));
        (0..).map_while(width).map(|width| width / channels).collect()
    };
    let block = |i: &i64| tensors.contains_key(&format!("encoder.down.0.block.{i}.norm1.norm.weight"));
    let config = CosmosConfig {
        channels,
        encoder: levels("encoder.down"),
        decoder: levels("decoder.up"),
        blocks: (0..).take_while(block).count() as i64,
        z_channels: need("encoder.conv_out.0")?,
        temporal_factor,
        spatial_factor,
        trained_frames,
        checkpoint: String::new(),
    };
    config.validate()?;
    Ok((config, need("quant_conv")?))
}

/// ||a - b|| / ||b||, in f64.
pub fn relative_error(a: &Tensor, b: &Tensor) -> Result<f64, ModelError> {
    if a.size() != b.size() {
        return Err(ModelError::NotAModel(format!(
            "shapes {:?} and {:?} where equal ones are expected",
            a.size(),
            b.size()
        )));
    }
    let norm =
        |t: &Tensor| -> Result<f64, tch::TchError> { f64::try_from(t.f_square()?.f_sum(Kind::Double)?.f_sqrt()?) };
    let (a, b) = (a.f_to_kind(Kind::Double)?, b.f_to_kind(Kind::Double)?);
    Ok(norm(&a.f_sub(&b)?)? / norm(&b)?)
}
