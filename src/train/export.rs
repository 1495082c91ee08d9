// SPDX-License-Identifier: MPL-2.0
//! From a checkpoint to a model file.

use std::path::Path;

use anyhow::{Context, Result};
use tch::{nn, Device};

use super::checkpoint::Checkpoint;
use super::context_net::ContextNet;
use super::context_stage::fill;
use crate::model;

/// Writes the averaged weights of all stages as a model file. `card`: lines about data and results, for people.
pub fn run(checkpoint: &Path, out: &Path, card: &[(String, String)]) -> Result<()> {
    let checkpoint = Checkpoint::open(checkpoint)?;
    let config = checkpoint.config()?.context("the checkpoint has no configuration")?;
    let vs = nn::VarStore::new(Device::Cpu);
    let net = ContextNet::new(vs.root() / "context");
    fill(&vs, &checkpoint.averages("context")).context("run the stage 'context' first")?;
    let mut card = card.to_vec();
    for stage in ["tokenizer", "context"] {
        let total = |what: &str| checkpoint.total(&format!("{stage}.{what}"));
        card.push((
            format!("training.{stage}"),
            format!("{} steps, {:.0} minutes", total("steps"), total("minutes")),
        ));
    }
    let _no_grad = tch::no_grad_guard();
    let file = model::pack(&config, checkpoint.averages("tokenizer"), &net.export(), &card)?;
    Ok(file.write(out)?)
}
