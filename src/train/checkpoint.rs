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

    /// The mean of runs that went on from the same checkpoint, each with a seed of its own: on a machine whose cores
    /// are shared, one thread each brings further than one run that has to wait for the slowest thread in every
    /// layer. What only some of them have is taken from the first that has it; totals are added up over `before`,
    /// the checkpoint that they started from.
    pub fn average(runs: Vec<Checkpoint>, before: &Checkpoint) -> Result<Checkpoint> {
        let count = runs.len() as f64;
        let mut mean = Checkpoint::default();
        for run in &runs {
            for (name, tensor) in &run.file.tensors {
                let tensors = runs.iter().map(|r| r.file.tensors.get(name));
                let same = |t: &&Tensor| t.size() == tensor.size() && t.is_floating_point();
                let all: Option<Vec<&Tensor>> = tensors.map(|t| t.filter(same)).collect();
                let merged = match all {
                    Some(all) => {
                        Tensor::stack(&all, 0).sum_dim_intlist([0i64].as_slice(), false, tensor.kind()) / count
                    }
                    None => tensor.shallow_clone(),
                };
                mean.file.tensors.entry(name.clone()).or_insert(merged);
            }
            for (name, value) in &run.file.metadata {
                if value.parse::<f64>().is_ok() {
                    let start = before.total(name);
                    let grown: f64 = runs.iter().map(|r| (r.total(name) - start).max(0.0)).sum();
                    mean.set_total(name, start + grown);
                } else {
                    mean.file.metadata.entry(name.clone()).or_insert(value.clone());
                }
            }
        }
        Ok(mean)
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(self.file.write(path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_of_two_runs_is_between_them_and_counts_both() {
        let checkpoint = |weight: f32, steps: f64| {
            let mut checkpoint = Checkpoint::default();
            let tensors = &mut checkpoint.file.tensors;
            tensors.insert("tokenizer/weight.a".into(), Tensor::from_slice(&[weight, 1.0]));
            tensors.insert("tokenizer/steps".into(), Tensor::from(steps as i64));
            checkpoint.set_total("tokenizer.steps", steps);
            checkpoint
        };
        let (before, a, b) = (checkpoint(0.0, 100.0), checkpoint(1.0, 130.0), checkpoint(4.0, 120.0));
        let mean = Checkpoint::average(vec![a, b], &before).unwrap();
        assert_eq!(
            mean.file.tensors["tokenizer/weight.a"],
            Tensor::from_slice(&[2.5f32, 1.0])
        );
        assert_eq!(mean.file.tensors["tokenizer/steps"], Tensor::from(130i64));
        assert_eq!(mean.total("tokenizer.steps"), 150.0);
    }
}
