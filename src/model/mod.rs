// SPDX-License-Identifier: MPL-2.0
//! The networks, their configurations, and the model file.

pub mod config;
mod error;
pub mod file;
pub mod fsq;
pub mod layers;
pub mod patch;
pub mod picture;
pub mod tokenizer;

pub use config::{ModelConfig, TokenizerConfig};
pub use error::ModelError;
pub use file::TensorFile;
pub use layers::StreamState;
pub use tokenizer::Tokenizer;
