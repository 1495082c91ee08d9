// SPDX-License-Identifier: MPL-2.0
//! The trainer: clips, losses, stages, and the export of a model file.

pub mod checkpoint;
pub mod clips;
pub mod losses;
pub mod lpips;
pub mod optimizer;
pub mod schedule;
pub mod tokenizer_stage;
