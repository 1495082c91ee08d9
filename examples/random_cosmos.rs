// SPDX-License-Identifier: MPL-2.0
//! Writes a Cosmos model with random weights, to measure speed and memory without a checkpoint:
//! `random_cosmos OUT [TEMPORAL_FACTOR SPATIAL_FACTOR CHANNELS]`, 8 16 128 without them.

use anyhow::{Context, Result};
use gsttvc::entropy::ContextWeights;
use gsttvc::model::cosmos::CosmosConfig;
use gsttvc::model::{pack, powers, IntegerModel, ModelConfig, Tokenizer, TokenizerConfig};
use tch::{nn, Device, Kind};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let out = arguments.next().context("expected a file to write")?;
    let numbers = arguments.map(|a| a.parse()).collect::<Result<Vec<i64>, _>>()?;
    let (temporal, spatial, channels) = match numbers[..] {
        [] => (8, 16, 128),
        [temporal, spatial, channels] => (temporal, spatial, channels),
        _ => anyhow::bail!("expected OUT [TEMPORAL_FACTOR SPATIAL_FACTOR CHANNELS]"),
    };
    let config = ModelConfig {
        name: format!("random-cosmos-{temporal}x{spatial}x{spatial}"),
        tokenizer: TokenizerConfig::cosmos(CosmosConfig::new(channels, temporal, spatial, false)),
        continuous: None,
        predictor: None,
    };
    config.validate()?;
    tch::manual_seed(1);
    let variables = nn::VarStore::new(Device::Cpu);
    let _tokenizer = Tokenizer::new(variables.root() / "tokenizer", &config.tokenizer);
    let integers = IntegerModel {
        context: ContextWeights::repeating(powers()),
        latent_context: None,
    };
    let file = pack(&config, variables.variables(), Kind::BFloat16, &integers, &[])?;
    Ok(file.write(out.as_ref())?)
}
