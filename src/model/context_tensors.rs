// SPDX-License-Identifier: MPL-2.0
//! The integer context model as tensors of a model file.

use std::collections::HashMap;

use tch::{Kind, Tensor};

use super::ModelError;
use crate::entropy::{ContextWeights, Layer, DIGITS};

/// Tensors by name, without the prefix `context.`.
pub fn write(weights: &ContextWeights) -> Result<Vec<(String, Tensor)>, ModelError> {
    let width = weights.width as i64;
    let mut out = vec![
        (
            "tables".to_string(),
            Tensor::from_slice(&weights.tables).f_view([-1, width])?,
        ),
        ("table_bias".into(), Tensor::from_slice(&weights.table_bias)),
        ("powers".into(), Tensor::from_slice(&weights.powers)),
    ];
    let mut layer = |name: String, layer: &Layer| -> Result<(), ModelError> {
        let outputs = layer.biases.len() as i64;
        out.push((
            format!("{name}.weights"),
            Tensor::from_slice(&layer.weights).f_view([outputs, -1])?,
        ));
        out.push((format!("{name}.biases"), Tensor::from_slice(&layer.biases)));
        out.push((format!("{name}.multipliers"), Tensor::from_slice(&layer.multipliers)));
        Ok(())
    };
    layer("trunk".into(), &weights.trunk)?;
    for k in 0..DIGITS {
        layer(format!("hidden.{k}"), &weights.hidden[k])?;
        layer(format!("output.{k}"), &weights.output[k])?;
    }
    for (k, table) in weights.earlier.iter().enumerate().skip(1) {
        let rows = Tensor::from_slice(table).f_view([-1, weights.head_width as i64])?;
        out.push((format!("earlier.{k}"), rows));
    }
    Ok(out)
}

/// Inverse of [`write`]; sizes are checked by [`crate::entropy::ContextModel::new`].
pub fn read(tensors: &HashMap<String, Tensor>) -> Result<ContextWeights, ModelError> {
    let get = |name: &str, kind: Kind| -> Result<Tensor, ModelError> {
        let tensor = tensors
            .get(name)
            .ok_or_else(|| ModelError::NotAModel(format!("context.{name} is missing")))?;
        if tensor.kind() != kind {
            return Err(ModelError::NotAModel(format!("context.{name} is not {kind:?}")));
        }
        Ok(tensor.f_flatten(0, -1)?)
    };
    let ints = |name: &str| Ok::<_, ModelError>(Vec::<i32>::try_from(get(name, Kind::Int)?)?);
    let layer = |name: String| -> Result<Layer, ModelError> {
        Ok(Layer {
            weights: Vec::<i8>::try_from(get(&format!("{name}.weights"), Kind::Int8)?)?,
            biases: ints(&format!("{name}.biases"))?,
            multipliers: ints(&format!("{name}.multipliers"))?,
        })
    };
    let layers = |name: &str| {
        (0..DIGITS)
            .map(|k| layer(format!("{name}.{k}")))
            .collect::<Result<Vec<_>, _>>()
    };
    let table_bias = ints("table_bias")?;
    let hidden = layers("hidden")?;
    let earlier = (1..DIGITS).map(|k| ints(&format!("earlier.{k}")));
    Ok(ContextWeights {
        width: table_bias.len(),
        head_width: hidden[0].biases.len(),
        tables: Vec::<i16>::try_from(get("tables", Kind::Int16)?)?,
        table_bias,
        trunk: layer("trunk".into())?,
        earlier: std::iter::once(Ok(Vec::new()))
            .chain(earlier)
            .collect::<Result<_, ModelError>>()?,
        output: layers("output")?,
        powers: ints("powers")?,
        hidden,
    })
}
