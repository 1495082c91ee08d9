// SPDX-License-Identifier: MPL-2.0
//! NVIDIA's checkpoints as model files.

use std::collections::HashMap;
use std::path::Path;

use tch::{nn, Device, Tensor};

use super::checkpoint::{Checkpoint, Imported};
use super::CosmosConfig;
use crate::entropy::ContextWeights;
use crate::model::{
    pack, powers, ContinuousConfig, Fusion, IntegerModel, ModelConfig, ModelError, TensorFile, TokenizerConfig,
};

/// Makes a model file from the folders of a discrete and, if wanted, a continuous tokenizer. `trained_frames`: length
/// of the clips that they were trained on, as their model cards say.
pub fn import(discrete: &Path, continuous: Option<&Path>, trained_frames: i64) -> Result<TensorFile, ModelError> {
    let digits = crate::bitstream::FSQ_LEVELS.len() as i64;
    let discrete = Checkpoint::read(discrete)?.import(Some(digits), trained_frames)?;
    let continuous = continuous
        .map(|folder| Checkpoint::read(folder)?.import(None, trained_frames))
        .transpose()?;
    assemble(&discrete, continuous.as_ref())
}

/// The model file of tokenizers with equal factors. Its heads are untrained: the context model expects each digit to
/// stay as it is, and no latents are sent.
pub fn assemble(discrete: &Imported, continuous: Option<&Imported>) -> Result<TensorFile, ModelError> {
    let config = ModelConfig {
        name: name(&discrete.config),
        tokenizer: TokenizerConfig::cosmos(discrete.config.clone()),
        continuous: continuous.map(|c| ContinuousConfig::cosmos(c.config.clone(), c.embedding)),
        predictor: None,
    };
    config.validate()?;
    let mut card = vec![("import.discrete".to_string(), discrete.note.clone())];
    let mut floats = HashMap::new();
    if let (Some(continuous), Some(networks)) = (continuous, &config.continuous) {
        card.push(("import.continuous".into(), continuous.note.clone()));
        floats = control(networks, &config.tokenizer, &discrete.tensors)?;
        let encoder = |name: &&String| name.starts_with("encoder.") || name.starts_with("quant_conv.");
        for name in continuous.tensors.keys().filter(encoder) {
            floats.insert(format!("fusion.{name}"), continuous.tensors[name].shallow_clone());
        }
    }
    for (name, tensor) in &discrete.tensors {
        floats.insert(format!("tokenizer.{name}"), tensor.shallow_clone());
    }
    let integers = IntegerModel {
        context: ContextWeights::repeating(powers()),
        latent_context: None,
    };
    card.push(("heads".into(), "untrained".into()));
    pack(&config, floats, discrete.kind, &integers, &card)
}

fn name(config: &CosmosConfig) -> String {
    format!("cosmos-{}x{s}x{s}", config.temporal_factor, s = config.spatial_factor)
}

/// A control branch that starts as a copy of the decoder's stages.
fn control(
    config: &ContinuousConfig,
    tokenizer: &TokenizerConfig,
    decoder: &HashMap<String, Tensor>,
) -> Result<HashMap<String, Tensor>, ModelError> {
    let variables = nn::VarStore::new(Device::Cpu);
    let _fusion = Fusion::new(variables.root() / "fusion", config, tokenizer);
    let mut floats = variables.variables();
    floats.retain(|name, _| name.starts_with("fusion.control."));
    for (name, tensor) in &mut floats {
        let original = name.strip_prefix("fusion.control.").and_then(|rest| decoder.get(rest));
        if let Some(original) = original.filter(|t| t.size() == tensor.size()) {
            *tensor = original.shallow_clone();
        }
    }
    Ok(floats)
}
