// SPDX-License-Identifier: MPL-2.0
//! The networks, their configurations, and the model file.

pub mod config;
mod context_tensors;
pub mod device;
mod error;
pub mod file;
pub mod fsq;
pub mod layers;
mod loaded;
pub mod patch;
pub mod picture;
pub mod tokenizer;

pub use config::{ModelConfig, TokenizerConfig};
pub use error::ModelError;
pub use file::TensorFile;
pub use layers::StreamState;
pub use loaded::{identity, pack, Model, ModelSource};
pub use tokenizer::Tokenizer;
