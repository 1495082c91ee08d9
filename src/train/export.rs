// SPDX-License-Identifier: MPL-2.0
//! From a checkpoint to a model file.

use std::path::Path;

use anyhow::{Context, Result};

use super::checkpoint::{Checkpoint, STAGES};
use super::context_stage;
use tch::Kind;

use crate::model::{self, IntegerModel, ModelConfig, TensorFile};

/// Writes the averaged weights of all stages as a model file, large ones as bytes. `card`: lines about data and results, for people.
/// `before`: the model file that the checkpoint was started from, whose context models are taken where the checkpoint has none.
pub fn run(checkpoint: &Path, out: &Path, card: &[(String, String)], before: Option<&Path>) -> Result<()> {
    let checkpoint = Checkpoint::open(checkpoint)?;
    let integers = match before {
        Some(before) if checkpoint.averages("context").is_empty() => {
            let file = TensorFile::read(before).with_context(|| format!("reading {}", before.display()))?;
            IntegerModel::read(&file, &configuration(&checkpoint)?)?
        }
        _ => context_stage::export(&checkpoint).context("run the stage 'context' first")?,
    };
    let mut card = card.to_vec();
    card.extend(STAGES.map(|stage| checkpoint.card_line(stage)));
    Ok(pack(&checkpoint, &integers, &card)?.write(out)?)
}

/// The model file.
pub(super) fn pack(checkpoint: &Checkpoint, integers: &IntegerModel, card: &[(String, String)]) -> Result<TensorFile> {
    // The rate model of the training is of no use to anyone else.
    let mut networks = checkpoint.averages("tokenizer");
    networks.retain(|name, _| !name.starts_with("prior."));
    networks.extend(checkpoint.averages("predictor"));
    let config = configuration(checkpoint)?;
    Ok(model::pack(&config, networks, Kind::Int8, integers, card)?)
}

fn configuration(checkpoint: &Checkpoint) -> Result<ModelConfig> {
    checkpoint.config()?.context("the checkpoint has no configuration")
}
