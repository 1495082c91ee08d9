// SPDX-License-Identifier: MPL-2.0
//! Our Cosmos networks against vectors of NVIDIA's: weights, an input, and what came of it.

use std::path::Path;

use anyhow::{ensure, Context, Result};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::model::cosmos::{relative_error, Autoencoder};
use crate::model::fsq::Fsq;
use crate::model::TensorFile;

/// What rounding alone may make of the networks in a kind of number: the largest relative error, and how near to a
/// rounding boundary a value must be for its digit to be excused.
pub fn tolerance(kind: Kind) -> f64 {
    match kind {
        Kind::BFloat16 | Kind::Half => 2e-2,
        _ => 1e-4,
    }
}

/// How far our networks are from the vectors.
#[derive(Clone, Debug, Serialize)]
pub struct Parity {
    pub kind: String,
    /// ||ours - theirs|| / ||theirs|| of what is quantised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prequant: Option<f64>,
    /// The same of a continuous tokenizer's latents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latent: Option<f64>,
    /// The same of the decoder's output for the vectors' codes or latents.
    pub reconstruction: f64,
    /// Tokens, those that differ, and those of them that are near to a rounding boundary in the vectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Tokens {
    pub count: usize,
    pub differing: usize,
    pub excused: usize,
}

impl Parity {
    /// No error above `limit`, and no token that differs without an excuse.
    pub fn holds(&self, limit: f64) -> bool {
        let mut errors = self
            .prequant
            .into_iter()
            .chain(self.latent)
            .chain([self.reconstruction]);
        errors.all(|error| error <= limit) && self.tokens.is_none_or(|t| t.differing == t.excused)
    }

    /// Runs a vector file: metadata `kind`, `temporal_compression` and `spatial_compression`; tensors `weights.*` under
    /// NVIDIA's names, `input` and `reconstruction` `[1, 3, t, h, w]`, and `prequant`, `indices` and `codes` of a discrete
    /// tokenizer or `latent` of a continuous one.
    pub fn of(path: &Path, device: Device, kind: Kind) -> Result<Parity> {
        let _no_grad = tch::no_grad_guard();
        let file = TensorFile::read(path)?;
        let text = |name: &str| file.metadata.get(name).with_context(|| format!("no metadata {name:?}"));
        let number = |name: &str| -> Result<i64> { text(name)?.parse().with_context(|| format!("metadata {name:?}")) };
        let factors = (number("temporal_compression")?, number("spatial_compression")?);
        let tensor = |name: &str| -> Result<Tensor> {
            let tensor = file.tensors.get(name).with_context(|| format!("no tensor {name:?}"))?;
            Ok(tensor.f_to_device(device)?)
        };
        let input = tensor("input")?;
        ensure!(input.dim() == 5, "an input of shape {:?}", input.size());
        let mut networks = Autoencoder::new(&file.under("weights."), factors, input.size()[2], device)?;
        networks.set_kind(kind);
        let encoded = networks.encode(&input.f_to_kind(kind)?)?.f_to_kind(Kind::Float)?;
        let mut parity = Parity {
            kind: text("kind")?.clone(),
            prequant: None,
            latent: None,
            reconstruction: 0.0,
            tokens: None,
        };
        let between = match parity.kind.as_str() {
            "DV" => {
                let theirs = by_step(&tensor("prequant")?)?;
                parity.prequant = Some(relative_error(&encoded, &theirs)?);
                parity.tokens = Some(compare_tokens(
                    &encoded,
                    &theirs,
                    &tensor("indices")?.f_squeeze_dim(0)?,
                    tolerance(kind),
                )?);
                by_step(&tensor("codes")?)?
            }
            "CV" => {
                let theirs = by_step(&tensor("latent")?)?;
                parity.latent = Some(relative_error(&encoded, &theirs)?);
                theirs
            }
            other => anyhow::bail!("kind {other:?}, legal are DV and CV"),
        };
        let pictures = networks.decode(&between.f_to_kind(kind)?)?;
        parity.reconstruction = relative_error(&pictures, &tensor("reconstruction")?)?;
        Ok(parity)
    }
}

/// `[1, c, t, h, w]` -> `[t, c, h, w]`.
fn by_step(xs: &Tensor) -> Result<Tensor> {
    Ok(xs.f_squeeze_dim(0)?.f_transpose(0, 1)?)
}

/// Our latents before quantisation against theirs `[t, 6, h, w]` and their indices `[t, h, w]`; `boundary`: how near to
/// one a value must be to excuse a difference.
fn compare_tokens(ours: &Tensor, theirs: &Tensor, indices: &Tensor, boundary: f64) -> Result<Tokens> {
    let fsq = Fsq::cosmos();
    let differs = fsq
        .indices(&fsq.digits(ours)?)?
        .f_ne_tensor(&indices.f_to_kind(Kind::Int64)?)?;
    // A digit changes where the bounded value is halfway between two integers.
    let bounded = fsq.bound(theirs)?;
    let distance = bounded.f_sub(&bounded.f_floor()?)?.f_sub_scalar(0.5)?.f_abs()?;
    let near = distance.f_amin([1i64].as_slice(), false)?.f_le(boundary)?;
    let count = |mask: &Tensor| -> Result<usize> { Ok(i64::try_from(mask.f_sum(Kind::Int64)?)? as usize) };
    Ok(Tokens {
        count: indices.numel(),
        differing: count(&differs)?,
        excused: count(&differs.f_logical_and(&near)?)?,
    })
}
