// SPDX-License-Identifier: MPL-2.0
//! The networks, their configurations, and the model file.

pub mod config;
mod context_tensors;
pub mod cosmos;
pub mod device;
mod error;
pub mod file;
pub mod fsq;
pub mod fused;
pub mod fusion;
pub mod layers;
mod loaded;
mod moved;
pub mod openmp;
pub mod patch;
pub mod picture;
pub mod predictor;
mod quantized;
pub mod tokenizer;
mod windows;

pub use config::{
    analysis_macs, painter_macs, ContinuousConfig, ContinuousNetworks, Convolutions, LevelConfig, LevelNetworks,
    ModelConfig, NetworkConfig, PredictorConfig, TokenizerConfig,
};
pub use context_tensors::powers;
pub use error::ModelError;
pub use file::TensorFile;
pub use fusion::Fusion;
pub use layers::{values, StreamState, TimeSteps};
pub use loaded::{fill, pack, Continuous, IntegerModel, Model, ModelSource};
pub use moved::seen;
pub use predictor::Predictor;
pub use quantized::dequantize;
pub use tokenizer::{Patches, Tokenizer};
