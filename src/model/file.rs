// SPDX-License-Identifier: MPL-2.0
//! safetensors files with their metadata, as tensors.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Kind, Tensor};

use super::ModelError;

/// Tensors by name and the free-form strings that travel with them.
#[derive(Debug, Default)]
pub struct TensorFile {
    pub tensors: HashMap<String, Tensor>,
    pub metadata: HashMap<String, String>,
}

const KINDS: [(Kind, Dtype); 7] = [
    (Kind::Float, Dtype::F32),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Int8, Dtype::I8),
    (Kind::Int16, Dtype::I16),
    (Kind::Int, Dtype::I32),
    (Kind::Int64, Dtype::I64),
];

impl TensorFile {
    /// Parses a whole file. Every offset and size is checked before a tensor is made from it.
    pub fn parse(bytes: &[u8]) -> Result<TensorFile, ModelError> {
        let not_a_model = |e: safetensors::SafeTensorError| ModelError::NotAModel(e.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(not_a_model)?;
        let views = SafeTensors::deserialize(bytes).map_err(not_a_model)?;
        let mut tensors = HashMap::new();
        for (name, view) in views.iter() {
            let kind = KINDS.iter().find(|(_, dtype)| *dtype == view.dtype());
            let Some((kind, _)) = kind else {
                return Err(ModelError::NotAModel(format!(
                    "tensor {name} has kind {:?}",
                    view.dtype()
                )));
            };
            let shape: Vec<i64> = view.shape().iter().map(|&s| s as i64).collect();
            tensors.insert(name.to_string(), Tensor::f_from_data_size(view.data(), &shape, *kind)?);
        }
        Ok(TensorFile {
            tensors,
            metadata: header.metadata().clone().unwrap_or_default(),
        })
    }

    pub fn read(path: &Path) -> Result<TensorFile, ModelError> {
        let bytes = std::fs::read(path).map_err(|source| ModelError::Io {
            path: path.into(),
            source,
        })?;
        TensorFile::parse(&bytes)
    }

    /// Inverse of [`Self::parse`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let mut names: Vec<&String> = self.tensors.keys().collect();
        names.sort();
        let data = names
            .iter()
            .map(|name| raw_bytes(&self.tensors[*name]))
            .collect::<Result<Vec<_>, _>>()?;
        let views = names.iter().zip(&data).map(|(name, (dtype, shape, bytes))| {
            let view = TensorView::new(*dtype, shape.clone(), bytes).expect("bytes match the shape");
            (name.as_str(), view)
        });
        safetensors::serialize(views, Some(self.metadata.clone())).map_err(|e| ModelError::NotAModel(e.to_string()))
    }

    /// Writes beside `path` and renames: a crash leaves the old file or the new one.
    pub fn write(&self, path: &Path) -> Result<(), ModelError> {
        let bytes = self.to_bytes()?;
        let partial = path.with_extension("partial");
        let io = |source| ModelError::Io {
            path: path.into(),
            source,
        };
        std::fs::write(&partial, bytes).map_err(io)?;
        std::fs::rename(&partial, path).map_err(io)
    }

    /// The tensors whose name starts with `prefix`, without it.
    pub fn under(&self, prefix: &str) -> HashMap<String, Tensor> {
        let strip = |(name, t): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_string(), t.shallow_clone()));
        self.tensors.iter().filter_map(strip).collect()
    }
}

/// Kind, shape and values of a tensor as they are stored.
pub(super) fn raw_bytes(tensor: &Tensor) -> Result<(Dtype, Vec<usize>, Vec<u8>), ModelError> {
    let tensor = tensor.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
    let dtype = KINDS
        .iter()
        .find(|(kind, _)| *kind == tensor.kind())
        .map(|(_, dtype)| *dtype);
    let dtype = dtype.ok_or_else(|| ModelError::NotAModel(format!("cannot store {:?}", tensor.kind())))?;
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok((dtype, tensor.size().iter().map(|&s| s as usize).collect(), bytes))
}
