// SPDX-License-Identifier: MPL-2.0

use std::path::PathBuf;

/// Why a model cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("cannot access model file {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("not a TVC model file: {0}")]
    NotAModel(String),
    #[error("model file of format version {found}, this build reads version {expected}")]
    Version { found: String, expected: &'static str },
    #[error("model configuration: {0}")]
    Config(String),
    #[error("damaged model file: the integer model hashes to {found:016x}, the file says {expected}")]
    Checksum { found: u64, expected: String },
    #[error("Cosmos checkpoint {}: {problem}", path.display())]
    Checkpoint { path: PathBuf, problem: String },
    #[error("device {0:?} is not available: {1}")]
    Device(String, String),
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}
