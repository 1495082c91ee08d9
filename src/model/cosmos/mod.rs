// SPDX-License-Identifier: MPL-2.0
//! NVIDIA's Cosmos video tokenizers (Agarwal et al., "Cosmos World Foundation Model Platform for Physical AI", 2025):
//! their networks at any width, and the import of their checkpoints.

mod autoencoder;
mod checkpoint;
mod config;
mod import;
mod layers;
mod networks;

pub use autoencoder::{relative_error, Autoencoder, Factors};
pub use checkpoint::{Checkpoint, Imported};
pub use config::CosmosConfig;
pub use import::{assemble, import};
pub use networks::{Control, Decoder, Encoder};
