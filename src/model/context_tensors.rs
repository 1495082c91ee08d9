// SPDX-License-Identifier: MPL-2.0
//! The integer context models as tensors of a model file.

use std::collections::HashMap;

use tch::{Kind, Tensor};

use super::ModelError;
use crate::entropy::{ContextWeights, LatentWeights, Layer, DIGITS, LATENT_SYMBOLS, LOGIT_SCALE};

/// What is taken from a probability in 2^-16 for the file.
const PROBABILITY_MIDDLE: i32 = 1 << 15;

type Named = Vec<(String, Tensor)>;

/// [`ContextWeights::powers`], for the making of a model: who uses one reads them from its file.
pub fn powers() -> Vec<i32> {
    (0..LOGIT_SCALE)
        .map(|i| 2f64.powf(30.0 - f64::from(i) / f64::from(LOGIT_SCALE)).round() as i32)
        .collect()
}

fn write_layer(out: &mut Named, name: &str, layer: &Layer) -> Result<(), ModelError> {
    let outputs = layer.biases.len() as i64;
    let weights = Tensor::from_slice(&layer.weights).f_view([outputs, -1])?;
    out.push((format!("{name}.weights"), weights));
    out.push((format!("{name}.biases"), Tensor::from_slice(&layer.biases)));
    out.push((format!("{name}.multipliers"), Tensor::from_slice(&layer.multipliers)));
    Ok(())
}

/// The discrete model's tensors by name, without the prefix `context.`.
pub fn write(weights: &ContextWeights) -> Result<Named, ModelError> {
    let tables = Tensor::from_slice(&weights.tables).f_view([-1, weights.width as i64])?;
    let mut out = vec![
        ("tables".to_string(), tables),
        ("table_bias".into(), Tensor::from_slice(&weights.table_bias)),
        ("powers".into(), Tensor::from_slice(&weights.powers)),
    ];
    write_layer(&mut out, "trunk", &weights.trunk)?;
    for k in 0..DIGITS {
        write_layer(&mut out, &format!("hidden.{k}"), &weights.hidden[k])?;
        write_layer(&mut out, &format!("output.{k}"), &weights.output[k])?;
    }
    for (k, table) in weights.earlier.iter().enumerate().skip(1) {
        let rows = Tensor::from_slice(table).f_view([-1, weights.head_width as i64])?;
        out.push((format!("earlier.{k}"), rows));
    }
    Ok(out)
}

/// The continuous model's tensors by name, without the prefix `latent_context.`.
pub fn write_latent(weights: &LatentWeights) -> Result<Named, ModelError> {
    let tables = Tensor::from_slice(&weights.tables).f_view([-1, weights.width as i64])?;
    // Largest of the tables: probabilities below 2^16 fit into two bytes when their middle is taken away.
    let probabilities = Tensor::from_slice(&weights.probabilities)
        .f_sub_scalar(i64::from(PROBABILITY_MIDDLE))?
        .f_to_kind(Kind::Int16)?
        .f_view([-1, 8, LATENT_SYMBOLS as i64])?;
    let mut out = vec![
        ("tables".to_string(), tables),
        ("steps".into(), Tensor::from_slice(&weights.steps)),
        ("companding".into(), Tensor::from_slice(&weights.companding)),
        ("probabilities".into(), probabilities),
    ];
    write_layer(&mut out, "input", &weights.input)?;
    write_layer(&mut out, "earlier", &weights.earlier)?;
    write_layer(&mut out, "trunk", &weights.trunk)?;
    write_layer(&mut out, "output", &weights.output)?;
    Ok(out)
}

/// Tensors of one context model, by name without `prefix`.
struct Reader<'a> {
    tensors: &'a HashMap<String, Tensor>,
    prefix: &'static str,
}

impl Reader<'_> {
    fn get(&self, name: &str, kind: Kind) -> Result<Tensor, ModelError> {
        let not_a_model = |what: String| ModelError::NotAModel(format!("{}{name} {what}", self.prefix));
        let tensor = self.tensors.get(&format!("{}{name}", self.prefix));
        let tensor = tensor.ok_or_else(|| not_a_model("is missing".into()))?;
        if tensor.kind() != kind {
            return Err(not_a_model(format!("is not {kind:?}")));
        }
        Ok(tensor.f_flatten(0, -1)?)
    }

    fn ints(&self, name: &str) -> Result<Vec<i32>, ModelError> {
        Ok(Vec::try_from(self.get(name, Kind::Int)?)?)
    }

    fn shorts(&self, name: &str) -> Result<Vec<i16>, ModelError> {
        Ok(Vec::try_from(self.get(name, Kind::Int16)?)?)
    }

    fn layer(&self, name: &str) -> Result<Layer, ModelError> {
        Ok(Layer {
            weights: Vec::try_from(self.get(&format!("{name}.weights"), Kind::Int8)?)?,
            biases: self.ints(&format!("{name}.biases"))?,
            multipliers: self.ints(&format!("{name}.multipliers"))?,
        })
    }
}

/// Inverse of [`write`], from all tensors of a file; sizes are checked by [`crate::entropy::ContextModel::new`].
pub fn read(tensors: &HashMap<String, Tensor>) -> Result<ContextWeights, ModelError> {
    let reader = Reader {
        tensors,
        prefix: "context.",
    };
    let layers = |name: &str| {
        (0..DIGITS)
            .map(|k| reader.layer(&format!("{name}.{k}")))
            .collect::<Result<Vec<_>, _>>()
    };
    let table_bias = reader.ints("table_bias")?;
    let hidden = layers("hidden")?;
    let earlier = (1..DIGITS).map(|k| reader.ints(&format!("earlier.{k}")));
    Ok(ContextWeights {
        width: table_bias.len(),
        head_width: hidden[0].biases.len(),
        tables: reader.shorts("tables")?,
        table_bias,
        trunk: reader.layer("trunk")?,
        earlier: std::iter::once(Ok(Vec::new()))
            .chain(earlier)
            .collect::<Result<_, ModelError>>()?,
        output: layers("output")?,
        powers: reader.ints("powers")?,
        hidden,
    })
}

/// Inverse of [`write_latent`]; sizes are checked by [`crate::entropy::LatentContextModel::new`].
pub fn read_latent(tensors: &HashMap<String, Tensor>) -> Result<LatentWeights, ModelError> {
    let reader = Reader {
        tensors,
        prefix: "latent_context.",
    };
    let (trunk, output) = (reader.layer("trunk")?, reader.layer("output")?);
    Ok(LatentWeights {
        channels: output.biases.len() / 3,
        width: trunk.biases.len(),
        steps: reader.ints("steps")?,
        companding: reader.ints("companding")?,
        input: reader.layer("input")?,
        tables: reader.shorts("tables")?,
        earlier: reader.layer("earlier")?,
        trunk,
        output,
        probabilities: (reader.shorts("probabilities")?.into_iter())
            .map(|p| i32::from(p) + PROBABILITY_MIDDLE)
            .collect(),
    })
}
