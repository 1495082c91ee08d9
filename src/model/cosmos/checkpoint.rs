// SPDX-License-Identifier: MPL-2.0
//! NVIDIA's TorchScript files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tch::{CModule, Device, IValue, Kind, Tensor};

use super::autoencoder::{relative_error, Autoencoder, Factors};
use crate::model::file::raw_bytes;
use crate::model::fsq::Fsq;
use crate::model::ModelError;

/// A tokenizer to make a model of.
pub struct Imported {
    pub config: super::config::CosmosConfig,
    /// Values of a token or a latent.
    pub embedding: i64,
    /// By NVIDIA's names.
    pub tensors: HashMap<String, Tensor>,
    /// What the file keeps them in.
    pub kind: Kind,
    /// For people.
    pub note: String,
}

/// Frames and side of the clip that a checkpoint is tried on.
const TRIAL_FRAMES: i64 = 9;
const TRIAL_SIDE: i64 = 64;
/// Steps and side of the latent that tells the factors.
const TRIAL_STEPS: i64 = 2;
const TRIAL_LATENT_SIDE: i64 = 4;
/// Relative error up to which our networks count as the checkpoint's, in f32 and in numbers of 16 bits.
const MAX_ERROR: f64 = 1e-3;
const MAX_ERROR_16: f64 = 6e-2;
/// Share of the digits that may differ: those near a rounding boundary do.
const MAX_DIFFERING: f64 = 0.01;
const MAX_DIFFERING_16: f64 = 0.2;

/// Values of a discrete tokenizer's embedding.
const DIGITS: i64 = crate::bitstream::FSQ_LEVELS.len() as i64;

/// A folder with NVIDIA's TorchScript files, on the CPU.
pub struct Checkpoint {
    folder: PathBuf,
    encoder: CModule,
    decoder: CModule,
    /// By NVIDIA's names.
    tensors: HashMap<String, Tensor>,
    /// Of the weights and of what the networks take.
    pub kind: Kind,
}

impl Checkpoint {
    /// Reads `encoder.jit` and `decoder.jit`.
    pub fn read(folder: &Path) -> Result<Checkpoint, ModelError> {
        let load = |name: &str| {
            let path = folder.join(name);
            let module = match path.exists() {
                true => CModule::load_on_device(&path, Device::Cpu).map_err(|e| e.to_string()),
                false => Err("there is no such file".into()),
            };
            module.map_err(|problem| ModelError::Checkpoint { path, problem })
        };
        let (encoder, decoder) = (load("encoder.jit")?, load("decoder.jit")?);
        let mut tensors: HashMap<_, _> = encoder.named_parameters()?.into_iter().collect();
        tensors.extend(decoder.named_parameters()?);
        let kind = tensors.values().next().map_or(Kind::Float, Tensor::kind);
        Ok(Checkpoint {
            folder: folder.into(),
            encoder,
            decoder,
            tensors,
            kind,
        })
    }

    fn problem(&self, what: impl ToString) -> ModelError {
        ModelError::Checkpoint {
            path: self.folder.clone(),
            problem: what.to_string(),
        }
    }

    /// NVIDIA's own encoder: a clip `[1, 3, t, h, w]` in [-1, 1] -> indices `[1, t', h', w']` or latents
    /// `[1, c, t', h', w']`.
    pub fn encode(&self, pictures: &Tensor) -> Result<Tensor, ModelError> {
        self.run(&self.encoder, pictures)
    }

    /// NVIDIA's own decoder, its inverse.
    pub fn decode(&self, latent: &Tensor) -> Result<Tensor, ModelError> {
        self.run(&self.decoder, latent)
    }

    /// Our networks with these weights.
    pub fn networks(&self, trained_frames: i64) -> Result<Autoencoder, ModelError> {
        let mut networks = Autoencoder::new(&self.tensors, self.factors()?, trained_frames, Device::Cpu)
            .map_err(|e| self.problem(e))?;
        networks.config.checkpoint = fingerprint(&self.tensors)?;
        networks.set_kind(self.kind);
        Ok(networks)
    }

    /// `digits`: what a discrete tokenizer's embedding must have; None = a continuous one.
    pub(super) fn import(self, digits: Option<i64>, trained_frames: i64) -> Result<Imported, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let networks = self.networks(trained_frames)?;
        let found = networks.embedding;
        match digits {
            Some(digits) if found != digits => {
                return Err(self.problem(format!("{found} values in a latent; a discrete tokenizer has {digits}")))
            }
            None if found == DIGITS => {
                return Err(self.problem("a discrete tokenizer where a continuous one is expected"))
            }
            _ => {}
        }
        Ok(Imported {
            note: self.compare(&networks)?,
            config: networks.config,
            embedding: found,
            tensors: self.tensors,
            kind: self.kind,
        })
    }

    /// Says how far our networks are from the checkpoint's own code on the trial clip. Fails if they are too far off.
    fn compare(&self, networks: &Autoencoder) -> Result<String, ModelError> {
        let (max_error, max_differing) = match self.kind {
            Kind::Float => (MAX_ERROR, MAX_DIFFERING),
            _ => (MAX_ERROR_16, MAX_DIFFERING_16),
        };
        let check = |name: &str, error: f64, allowed: f64| match error.is_nan() || error > allowed {
            true => Err(self.problem(format!(
                "its own {name} gives something else than ours (error {error:.2e}, allowed {allowed})"
            ))),
            false => Ok(()),
        };
        let (clip, is_discrete) = (trial(self.kind), networks.embedding == DIGITS);
        let ours = networks.encode(&clip)?;
        let latent = self.latent(&ours)?;
        let encoder = match self.encode(&clip) {
            Ok(theirs) if is_discrete => {
                check("encoder", differing(&latent, &theirs)?, max_differing)?;
                ""
            }
            Ok(theirs) => {
                check("encoder", relative_error(&latent, &theirs)?, max_error)?;
                ""
            }
            // libtorch has no avg_pool3d of 16 bits on a CPU.
            Err(_) if self.kind != Kind::Float => "; its encoder does not run on this machine and was not compared",
            Err(problem) => return Err(problem),
        };
        let codes = match is_discrete {
            true => Fsq::cosmos().codes_of_indices(&latent.f_squeeze_dim(0)?)?,
            false => ours,
        };
        let error = relative_error(&networks.decode(&codes.f_to_kind(self.kind)?)?, &self.decode(&latent)?)?;
        check("decoder", error, max_error)?;
        Ok(format!(
            "{:?}, relative error {error:.1e} against the checkpoint{encoder}",
            self.kind
        ))
    }

    /// What our encoder gives, `[t, c, h, w]`, as the checkpoint's decoder takes it: see [`Self::encode`]. Six values
    /// are those of a discrete tokenizer, before rounding.
    pub fn latent(&self, ours: &Tensor) -> Result<Tensor, ModelError> {
        Ok(if ours.size()[1] == DIGITS {
            let fsq = Fsq::cosmos();
            let indices = fsq.indices(&fsq.digits(&ours.f_to_kind(Kind::Float)?)?)?;
            indices.f_to_kind(Kind::Int)?.f_unsqueeze(0)?
        } else {
            ours.f_transpose(0, 1)?.f_unsqueeze(0)?.f_contiguous()?
        })
    }

    /// The first output of a network.
    fn run(&self, module: &CModule, input: &Tensor) -> Result<Tensor, ModelError> {
        let output = module.forward_is(&[IValue::Tensor(input.shallow_clone())]);
        match output.map_err(|e| self.problem(e))? {
            IValue::Tensor(tensor) => Ok(tensor),
            IValue::Tuple(mut values) if !values.is_empty() => match values.swap_remove(0) {
                IValue::Tensor(tensor) => Ok(tensor),
                other => Err(self.problem(format!("its first output is {other:?}"))),
            },
            other => Err(self.problem(format!("its output is {other:?}"))),
        }
    }

    /// Frames and samples per latent: the decoder tells, by the size of what it makes of a latent. The encoder is not
    /// asked, because it does not run in 16 bits on a CPU.
    fn factors(&self) -> Result<Factors, ModelError> {
        let embedding = self.tensors.get("quant_conv.conv3d.weight").map(|t| t.size()[0]);
        let embedding = embedding.ok_or_else(|| self.problem("quant_conv.conv3d.weight is missing"))?;
        let size = [TRIAL_STEPS, embedding, TRIAL_LATENT_SIDE, TRIAL_LATENT_SIDE];
        let zeros = Tensor::f_zeros(size, (self.kind, Device::Cpu))?;
        let pictures = self.decode(&self.latent(&zeros)?)?;
        match pictures.size()[..] {
            [1, 3, frames, height, _] if frames > 1 => {
                Ok(((frames - 1) / (TRIAL_STEPS - 1), height / TRIAL_LATENT_SIDE))
            }
            _ => Err(self.problem(format!("its decoder gives pictures of shape {:?}", pictures.size()))),
        }
    }
}

/// Share of the digits in which indices `[1, t, h, w]` differ.
fn differing(ours: &Tensor, theirs: &Tensor) -> Result<f64, ModelError> {
    let codes = |indices: &Tensor| Fsq::cosmos().codes_of_indices(&indices.f_squeeze_dim(0)?);
    let differs = codes(ours)?.f_ne_tensor(&codes(theirs)?)?;
    Ok(f64::try_from(differs.f_to_kind(Kind::Double)?.f_mean(Kind::Double)?)?)
}

/// A clip `[1, 3, t, h, w]` in [-1, 1] with waves of several lengths that move.
fn trial(kind: Kind) -> Tensor {
    let axis = |length: i64, shape: [i64; 5]| (Tensor::arange(length, (Kind::Float, Device::Cpu)) * 0.3).view(shape);
    let colour = axis(3, [1, 3, 1, 1, 1]) * 4.0;
    let time = axis(TRIAL_FRAMES, [1, 1, -1, 1, 1]);
    let (y, x) = (axis(TRIAL_SIDE, [1, 1, 1, -1, 1]), axis(TRIAL_SIDE, [1, 1, 1, 1, -1]));
    let waves = (&x + &time + &colour).sin() * (&y * 0.5 - &time).cos() + (&x * &y * 0.2 + &colour).sin() * 0.4;
    (waves * 0.7).to_kind(kind)
}

/// The first 8 bytes of the SHA-256 of all weights in the order of their names, in hexadecimal.
fn fingerprint(tensors: &HashMap<String, Tensor>) -> Result<String, ModelError> {
    let mut names: Vec<_> = tensors.keys().collect();
    names.sort();
    let mut hasher = Sha256::new();
    for name in names {
        hasher.update(raw_bytes(&tensors[name])?.2);
    }
    Ok(hasher.finalize()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
