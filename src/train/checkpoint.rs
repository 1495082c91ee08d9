// SPDX-License-Identifier: MPL-2.0
//! A training run on disk: one safetensors file with the weights, their averages and the optimisers' moments
//! of every part that has been trained so far.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use super::optimizer::Optimizer;
use super::schedule::Schedule;
use crate::model::{dequantize, ModelConfig, PredictorConfig, TensorFile};

/// The stages of which there are totals.
pub const STAGES: [&str; 3] = ["tokenizer", "context", "predictor"];

/// The numbers of a line, in their order.
fn numbers(line: &str) -> impl Iterator<Item = f64> + '_ {
    line.split_whitespace().filter_map(|word| word.parse().ok())
}

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

    /// A run that starts from a model file: its configuration, networks and totals, without what optimisers remember. The
    /// context models' integers are taken up by their own stage.
    pub fn from_model(path: &Path) -> Result<Checkpoint> {
        let mut model = TensorFile::read(path).with_context(|| format!("reading {}", path.display()))?;
        dequantize(&mut model.tensors)?;
        let mut checkpoint = Checkpoint::default();
        let config = model.metadata.get("config").context("it has no configuration")?;
        checkpoint.file.metadata.insert("config".into(), config.clone());
        for (name, tensor) in model.tensors.iter().filter(|(_, t)| t.is_floating_point()) {
            let part = if name.starts_with("predictor.") {
                "predictor"
            } else {
                "tokenizer"
            };
            let tensor = tensor.to_kind(Kind::Float);
            for what in ["weight", "average"] {
                let name = format!("{part}/{what}.{name}");
                checkpoint.file.tensors.insert(name, tensor.shallow_clone());
            }
        }
        for stage in STAGES {
            let line = model.metadata.get(&format!("card.training.{stage}"));
            for (what, value) in ["steps", "minutes"]
                .into_iter()
                .zip(line.iter().flat_map(|line| numbers(line)))
            {
                checkpoint.set_total(&format!("{stage}.{what}"), value);
            }
        }
        Ok(checkpoint)
    }

    /// The line of the model card for a stage, which [`Self::from_model`] reads.
    pub fn card_line(&self, stage: &str) -> (String, String) {
        let [steps, minutes] = self.totals(stage);
        (
            format!("training.{stage}"),
            format!("{steps} steps, {minutes:.0} minutes"),
        )
    }

    /// [`Self::open`], or where there is nothing to open and a model is given, [`Self::from_model`].
    pub fn open_or_from(path: &Path, model: Option<&Path>) -> Result<Checkpoint> {
        match model {
            Some(model) if !path.exists() => Checkpoint::from_model(model),
            _ => Checkpoint::open(path),
        }
    }

    /// The configuration as context models and predictor see it: without latents as long as the control branch adds
    /// nothing to the picture.
    pub fn heads_config(&self) -> Result<Option<ModelConfig>> {
        let mut config = self.config()?;
        let joins = self.file.under("tokenizer/average.fusion.control.join.");
        let says_nothing = |join: &Tensor| join.abs().max().double_value(&[]) == 0.0;
        if let Some(config) = config.as_mut().filter(|_| joins.values().all(says_nothing)) {
            config.continuous = None;
        }
        Ok(config)
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
    fn total(&self, name: &str) -> f64 {
        self.file.metadata.get(name).and_then(|v| v.parse().ok()).unwrap_or(0.0)
    }

    pub fn set_predictor(&mut self, predictor: PredictorConfig) -> Result<()> {
        let mut config = self.config()?.context("the checkpoint has no configuration")?;
        config.predictor = Some(predictor);
        self.set_config(&config)
    }

    /// Steps and minutes of a part.
    pub fn totals(&self, part: &str) -> [f64; 2] {
        ["steps", "minutes"].map(|what| self.total(&format!("{part}.{what}")))
    }

    /// Notes what a run that started from the totals `before` has done.
    pub fn set_totals(&mut self, part: &str, before: [f64; 2], schedule: &Schedule) {
        for (what, value) in [
            ("steps", before[0] + schedule.steps() as f64),
            ("minutes", before[1] + schedule.minutes()),
        ] {
            self.set_total(&format!("{part}.{what}"), value);
        }
    }

    fn set_total(&mut self, name: &str, value: f64) {
        self.file.metadata.insert(name.into(), value.to_string());
    }

    /// Loads a part into its optimiser; returns the names of the weights that were not there.
    pub fn load(&self, part: &str, optimizer: &mut Optimizer) -> Vec<String> {
        let tensors = self.file.under(&format!("{part}/"));
        let mut missing = optimizer.load(|name| tensors.get(name).map(Tensor::shallow_clone));
        missing.retain(|name| name.starts_with("weight."));
        missing
    }

    pub fn store(&mut self, part: &str, optimizer: &Optimizer) {
        for (name, tensor) in optimizer.tensors() {
            self.file.tensors.insert(format!("{part}/{name}"), tensor);
        }
    }

    /// Puts other weights in the place of a part; what its optimiser remembered is forgotten, totals stay.
    pub fn restart(&mut self, part: &str, weights: HashMap<String, Tensor>) {
        let prefix = format!("{part}/");
        self.file.tensors.retain(|name, _| !name.starts_with(&prefix));
        for (name, tensor) in weights {
            for what in ["weight", "average"] {
                let name = format!("{prefix}{what}.{name}");
                self.file.tensors.insert(name, tensor.shallow_clone());
            }
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
