// SPDX-License-Identifier: MPL-2.0
//! The trainer: clips, losses, stages, and the export of a model file.

mod alignment;
mod calibrate;
pub mod checkpoint;
pub mod context_net;
mod context_samples;
pub mod context_stage;
#[cfg(test)]
mod counting;
pub mod discriminator;
pub mod export;
pub mod joint;
pub mod latent_context_net;
pub mod latent_prior;
pub mod losses;
mod masked;
mod muon;
pub mod optimizer;
pub mod options;
mod predictor_samples;
pub mod predictor_stage;
pub mod progress;
mod quantized;
mod recordings;
mod resized;
pub mod samples;
pub mod schedule;
pub mod segments;
pub mod sensitivity;
mod sent;
mod simulated;
pub mod slim;
mod stage;
pub mod tokenizer_stage;
