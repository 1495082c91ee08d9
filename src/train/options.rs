// SPDX-License-Identifier: MPL-2.0
//! What a run of the tokenizer's stage is told.

use std::path::PathBuf;

use tch::{Device, Kind};

use super::joint;
use super::samples::SampleShape;
use super::schedule::Budget;

/// What the tokenizer is trained for.
#[derive(Clone, Debug, clap::Args)]
pub struct Weights {
    /// Weight of the multi-scale gradient loss.
    #[arg(long, default_value_t = 1.0)]
    pub gradient_weight: f64,
    /// Weight of the loss on changes from frame to frame.
    #[arg(long, default_value_t = 1.0)]
    pub temporal_weight: f64,
    /// Weight of the loss on frequencies of which the decoded picture has more than the source: meshes and lines.
    #[arg(long, default_value_t = 0.025)]
    pub excess_weight: f64,
    /// Share of the steps whose pictures are coded larger or smaller than they are, as the finest and the coarsest quantizers do.
    #[arg(long, default_value_t = 0.0)]
    pub resized_share: f64,
    /// Weight of the perceptual loss (needs --lpips).
    #[arg(long, default_value_t = 0.5)]
    pub lpips_weight: f64,
    /// Share of the run after which the perceptual loss begins.
    #[arg(long, default_value_t = 0.2)]
    pub lpips_from: f64,
    /// Trains only what makes pictures: streams stay what they are, and the models of the later stages fit as before.
    #[arg(long)]
    pub freeze_encoder: bool,
    /// Weight of the adversarial loss, relative to the others at the decoder's last layer; 0 = none. While it
    /// is on, the encoder is frozen: tokens keep their meaning.
    #[arg(long, default_value_t = 0.0)]
    pub adversarial_weight: f64,
    /// Share of the run for which the discriminator learns alone before the decoder listens to it.
    #[arg(long, default_value_t = 0.1)]
    pub adversarial_from: f64,
}

/// One run of the stage.
pub struct Options {
    pub checkpoint: PathBuf,
    /// Model file whose weights a new checkpoint starts from.
    pub model: Option<PathBuf>,
    pub shape: SampleShape,
    pub budget: Budget,
    pub weights: Weights,
    /// Trains the continuous stream too.
    pub joint: Option<joint::Weights>,
    /// Leaves the tokenizer as it is.
    pub freeze_tokenizer: bool,
    pub lpips: Option<PathBuf>,
    pub log: PathBuf,
    pub device: Device,
    pub kind: Kind,
    pub seed: u64,
    /// Minutes between two validations, each of which writes the checkpoint.
    pub validate_every: f64,
}
