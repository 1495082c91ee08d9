// SPDX-License-Identifier: MPL-2.0
//! Trains TVC models.

use std::path::PathBuf;

use anyhow::{ensure, Result};
use clap::{Args, Parser, Subcommand};
use gsttvc::media::{find, read_all, Clip};
use gsttvc::model::{device, Model, ModelSource};
use gsttvc::train::checkpoint::Checkpoint;
use gsttvc::train::samples::SampleShape;
use gsttvc::train::schedule::Budget;
use gsttvc::train::{
    context_stage, export, joint, options, predictor_stage, segments, sensitivity, slim, tokenizer_stage,
};
use tch::{Device, Kind};

/// Trains a TVC model, stage by stage, from a folder of clips.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    stage: Stage,
}

#[derive(Subcommand)]
enum Stage {
    /// Stage 1: encoder, quantiser and decoder.
    Tokenizer {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        weights: options::Weights,
    },
    /// Stage 2: the continuous stream and its control branch, together with the tokenizer.
    Fusion {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        weights: options::Weights,
        #[command(flatten)]
        joint: joint::Weights,
        /// Leave the tokenizer as it is.
        #[arg(long)]
        freeze_tokenizer: bool,
    },
    /// Stage 3: the context models of the entropy coder, on what the stages before give.
    Context {
        #[command(flatten)]
        common: Common,
    },
    /// Stage 4: the transformer that predicts masked tokens, on what the first two stages give.
    Predictor {
        #[command(flatten)]
        common: Common,
    },
    /// Makes decoder and control branch slimmer; they go on learning with `fusion --freeze-encoder`. Old streams decode.
    Slim {
        /// Checkpoint to start from.
        #[arg(long)]
        checkpoint: PathBuf,
        /// Model file to start from where there is no such checkpoint.
        #[arg(long)]
        model: Option<PathBuf>,
        #[arg(long)]
        out: PathBuf,
        /// Clips on which the slimmer networks are fitted to the whole ones: files or folders. Without any, weights are just left out.
        #[arg(long, num_args = 1..)]
        clips: Vec<PathBuf>,
        #[command(flatten)]
        plan: slim::Plan,
    },
    /// Averages runs that went on from one checkpoint with different seeds, for instance one per core.
    Average {
        /// The checkpoint that they started from.
        #[arg(long)]
        before: PathBuf,
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        #[arg(long)]
        out: PathBuf,
    },
    /// Measures what errors in the digits of tokens do to the picture, alone and two together, divided by the mean of those alone: what
    /// the encoder weighs them by.
    Sensitivity {
        /// Model file.
        #[arg(long)]
        model: PathBuf,
        /// Clips: files or folders.
        #[arg(long, num_args = 1.., required = true)]
        clips: Vec<PathBuf>,
        /// LPIPS weights (safetensors).
        #[arg(long)]
        lpips: PathBuf,
        /// Batches of two samples.
        #[arg(long, default_value_t = 12)]
        rounds: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Writes a model file from a checkpoint.
    Export {
        #[arg(long)]
        checkpoint: PathBuf,
        #[arg(long)]
        out: PathBuf,
        /// Model file that the checkpoint was started from: its context models are taken where the checkpoint has none. They fit
        /// as long as the encoder was frozen.
        #[arg(long)]
        model: Option<PathBuf>,
        /// Line of the model card, KEY=VALUE.
        #[arg(long, value_parser = card_line)]
        card: Vec<(String, String)>,
    },
}

fn card_line(line: &str) -> Result<(String, String), String> {
    let (key, value) = line.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

#[derive(Args)]
struct Common {
    /// Checkpoint to go on from and to write.
    #[arg(long)]
    checkpoint: PathBuf,
    /// Model file whose weights a new checkpoint starts from, for instance models/tvc-small.safetensors.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Clips to train on: files or folders.
    #[arg(long, num_args = 1.., required = true)]
    clips: Vec<PathBuf>,
    /// Clips to validate on: files or folders.
    #[arg(long, num_args = 1..)]
    validation: Vec<PathBuf>,
    #[command(flatten)]
    budget: Budget,
    /// Samples of a step.
    #[arg(long, default_value_t = 8)]
    batch: i64,
    /// Frames of a sample, 1 + a multiple of 8.
    #[arg(long, default_value_t = 17)]
    frames: i64,
    /// Width and height of a sample, a multiple of 16.
    #[arg(long, default_value_t = 128)]
    size: i64,
    /// LPIPS weights (safetensors).
    #[arg(long)]
    lpips: Option<PathBuf>,
    /// Where to append the measures of every step, as CSV.
    #[arg(long)]
    log: Option<PathBuf>,
    /// Minutes between two validations, or writings of the checkpoint.
    #[arg(long, default_value_t = 5.0)]
    validate_every: f64,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Threads, 0 for all cores.
    #[arg(long, default_value_t = 0)]
    threads: i32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Common {
    fn read_clips(&self) -> Result<(Vec<Clip>, Vec<Clip>)> {
        let (clips, validation) = (read_all(&find(&self.clips)?)?, read_all(&find(&self.validation)?)?);
        let frames: i64 = clips.iter().map(Clip::frames).sum();
        println!(
            "{} clips, {frames} frames; {} clips to validate on",
            clips.len(),
            validation.len()
        );
        Ok((clips, validation))
    }

    fn log(&self, stage: &str) -> PathBuf {
        self.log
            .clone()
            .unwrap_or_else(|| self.checkpoint.with_extension(format!("{stage}.csv")))
    }

    fn device(&self) -> Result<(Device, Kind)> {
        if self.threads > 0 {
            tch::set_num_threads(self.threads);
        }
        let device = device::select(&self.device)?;
        Ok((device, device::fast_kind(device)))
    }
}

fn main() -> Result<()> {
    match Arguments::parse().stage {
        Stage::Tokenizer { common, weights } => networks(&common, weights, None, false),
        Stage::Fusion {
            common,
            weights,
            joint,
            freeze_tokenizer,
        } => networks(&common, weights, Some(joint), freeze_tokenizer),
        Stage::Context { common } => on_segments(&common, "context", context_stage::run),
        Stage::Predictor { common } => on_segments(&common, "predictor", predictor_stage::run),
        Stage::Slim {
            checkpoint,
            model,
            out,
            clips,
            plan,
        } => slim::run(&checkpoint, model.as_deref(), &out, &plan, read_all(&find(&clips)?)?),
        Stage::Average { before, runs, out } => {
            let runs: Vec<_> = runs.iter().map(|p| Checkpoint::open(p)).collect::<Result<_>>()?;
            Checkpoint::average(runs, &Checkpoint::open(&before)?)?.write(&out)
        }
        Stage::Export {
            checkpoint,
            out,
            model,
            card,
        } => export::run(&checkpoint, &out, &card, model.as_deref()),
        Stage::Sensitivity {
            model,
            clips,
            lpips,
            rounds,
            seed,
        } => {
            let model = Model::load(&ModelSource::File(model), "cpu")?;
            let found = sensitivity::run(&model, read_all(&find(&clips)?)?, &lpips, rounds, seed)?;
            ["squared error of luma", "LPIPS"]
                .iter()
                .zip(&found)
                .for_each(|(name, metric)| print_metric(name, metric));
            Ok(())
        }
    }
}

fn print_metric(name: &str, metric: &sensitivity::Metric) {
    let mean = (0..metric.len()).map(|digit| metric[digit][digit]).sum::<f64>() / metric.len() as f64;
    println!("{name}, {mean:.4} for a digit in the mean");
    for row in metric {
        let row: Vec<String> = row.iter().map(|value| format!("{:6.2}", value / mean)).collect();
        println!("{}", row.join(" "));
    }
}

fn networks(
    common: &Common,
    weights: options::Weights,
    joint: Option<joint::Weights>,
    freeze_tokenizer: bool,
) -> Result<()> {
    ensure!(
        common.frames % 8 == 1 && common.frames > 1,
        "--frames {}: legal are 9, 17, 25 ...",
        common.frames
    );
    ensure!(
        common.size % 16 == 0 && common.size >= 64,
        "--size {}: legal are 64, 80, 96 ...",
        common.size
    );
    tch::manual_seed(common.seed as i64);
    let (device, kind) = common.device()?;
    let (clips, validation) = common.read_clips()?;
    let options = options::Options {
        checkpoint: common.checkpoint.clone(),
        model: common.model.clone(),
        shape: SampleShape {
            batch: common.batch,
            frames: common.frames,
            size: common.size,
        },
        budget: common.budget,
        weights,
        lpips: common.lpips.clone(),
        log: common.log(if joint.is_some() { "fusion" } else { "tokenizer" }),
        joint,
        freeze_tokenizer,
        device,
        kind,
        seed: common.seed,
        validate_every: common.validate_every,
    };
    tokenizer_stage::run(&options, clips, &validation)
}

/// What the stages that learn from segments have in common.
fn on_segments(common: &Common, name: &str, run: fn(&segments::Options, &[Clip], &[Clip]) -> Result<()>) -> Result<()> {
    tch::manual_seed(common.seed as i64);
    let (device, kind) = common.device()?;
    let (clips, validation) = common.read_clips()?;
    let options = segments::Options {
        checkpoint: common.checkpoint.clone(),
        model: common.model.clone(),
        budget: common.budget,
        batch: common.batch as usize,
        log: common.log(name),
        device,
        kind,
        seed: common.seed,
        write_every: common.validate_every,
    };
    run(&options, &clips, &validation)
}
