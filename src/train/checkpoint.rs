// SPDX-License-Identifier: MPL-2.0
//! A training run on disk: one safetensors file with the weights, their averages and the optimisers' moments
//! of every part that has been trained so far.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use tch::Tensor;

use super::optimizer::AdamW;
use crate::model::{ModelConfig, TensorFile};

/// What a stage starts from and leaves behind.
#[derive(Default)]
pub struct Checkpoint {
    file: TensorFile,
}

impl Checkpoint {
    /// Reads `path`, or starts empty where there is no such file.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        if !path.exists() {
            return Ok(Checkpoint::default());
        }
        let file = TensorFile::read(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Checkpoint { file })
    }

    pub fn config(&self) -> Result<Option<ModelConfig>> {
        self.file
            .metadata
            .get("config")
            .map(|json| Ok(serde_json::from_str(json)?))
            .transpose()
    }

    pub fn set_config(&mut self, config: &ModelConfig) -> Result<()> {
        self.file
            .metadata
            .insert("config".into(), serde_json::to_string(config)?);
        Ok(())
    }

    /// A total that grows over all runs, such as `tokenizer.steps`.
    pub fn total(&self, name: &str) -> f64 {
        self.file.metadata.get(name).and_then(|v| v.parse().ok()).unwrap_or(0.0)
    }

    pub fn set_total(&mut self, name: &str, value: f64) {
        self.file.metadata.insert(name.into(), value.to_string());
    }

    /// Loads a part into its optimiser; returns the names that were not there.
    pub fn load(&self, part: &str, optimizer: &mut AdamW) -> Vec<String> {
        let tensors = self.file.under(&format!("{part}/"));
        optimizer.load(|name| tensors.get(name).map(Tensor::shallow_clone))
    }

    pub fn store(&mut self, part: &str, optimizer: &AdamW) {
        for (name, tensor) in optimizer.tensors() {
            self.file.tensors.insert(format!("{part}/{name}"), tensor);
        }
    }

    /// The averaged weights of a part, by variable name.
    pub fn averages(&self, part: &str) -> HashMap<String, Tensor> {
        self.file.under(&format!("{part}/average."))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(self.file.write(path)?)
    }
}
