// SPDX-License-Identifier: MPL-2.0
//! NVIDIA's TorchScript files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tch::{CModule, Device, IValue, Kind, Tensor};

use super::autoencoder::{relative_error, Autoencoder, Factors};
use super::import::Imported;
use crate::model::file::raw_bytes;
use crate::model::fsq::Fsq;
use crate::model::ModelError;

/// Frames and side of the clip that a checkpoint is tried on.
const TRIAL_FRAMES: i64 = 9;
const TRIAL_SIDE: i64 = 64;
/// Relative error up to which our networks count as the checkpoint's, in f32 and in numbers of 16 bits.
const MAX_ERROR: f64 = 1e-3;
const MAX_ERROR_16: f64 = 6e-2;
/// Share of the digits that may differ: those near a rounding boundary do.
const MAX_DIFFERING: f64 = 0.01;
const MAX_DIFFERING_16: f64 = 0.2;

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
        let factors = self.factors(&self.encode(&trial(self.kind))?)?;
        let mut networks =
            Autoencoder::new(&self.tensors, factors, trained_frames, Device::Cpu).map_err(|e| self.problem(e))?;
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
            None if found == crate::FSQ_LEVELS.len() as i64 => {
                return Err(self.problem("a discrete tokenizer where a continuous one is expected"))
            }
            _ => {}
        }
        let error = self.difference(&networks, digits.is_some())?;
        Ok(Imported {
            note: format!("{:?}, relative error {error:.1e} against the checkpoint", self.kind),
            config: networks.config,
            embedding: found,
            tensors: self.tensors,
            kind: self.kind,
        })
    }

    /// How far our networks are from the checkpoint's own code on the trial clip: the decoder's relative error. Fails if
    /// that, or what the encoder gives, is too far off.
    fn difference(&self, networks: &Autoencoder, is_discrete: bool) -> Result<f64, ModelError> {
        let (max_error, max_differing) = match self.kind {
            Kind::Float => (MAX_ERROR, MAX_DIFFERING),
            _ => (MAX_ERROR_16, MAX_DIFFERING_16),
        };
        let clip = trial(self.kind);
        let latent = self.encode(&clip)?;
        let ours = networks.encode(&clip)?;
        // [1, t, h, w] or [1, c, t, h, w] -> [t, c, h, w].
        let (codes, encoder, allowed) = if is_discrete {
            let fsq = Fsq::cosmos();
            let codes = fsq.codes_of_indices(&latent.f_squeeze_dim(0)?)?;
            let ours = fsq.codes(&fsq.digits(&ours.f_to_kind(Kind::Float)?)?)?;
            let differing = f64::try_from(
                ours.f_ne_tensor(&codes)?
                    .f_to_kind(Kind::Double)?
                    .f_mean(Kind::Double)?,
            )?;
            (codes, differing, max_differing)
        } else {
            let codes = latent.f_squeeze_dim(0)?.f_transpose(0, 1)?;
            let error = relative_error(&ours, &codes)?;
            (codes, error, max_error)
        };
        let decoder = relative_error(&networks.decode(&codes.f_to_kind(self.kind)?)?, &self.decode(&latent)?)?;
        for (name, error, allowed) in [("encoder", encoder, allowed), ("decoder", decoder, max_error)] {
            if error.is_nan() || error > allowed {
                return Err(self.problem(format!(
                    "its own {name} gives something else than ours (error {error:.2e}, allowed {allowed})"
                )));
            }
        }
        Ok(decoder)
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

    fn factors(&self, latent: &Tensor) -> Result<Factors, ModelError> {
        let [.., time, height, _] = latent.size()[..] else {
            return Err(self.problem(format!("a latent of shape {:?}", latent.size())));
        };
        if time < 2 || height < 1 {
            return Err(self.problem(format!("a latent of shape {:?}", latent.size())));
        }
        Ok(((TRIAL_FRAMES - 1) / (time - 1), TRIAL_SIDE / height))
    }
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
