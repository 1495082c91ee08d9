// SPDX-License-Identifier: MPL-2.0
//! Looks into model files and measures what they do.

mod compare;
mod evaluate;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{ensure, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use compare::{compare, CompareArguments};
use evaluate::{evaluate, EvalArguments};
use gsttvc::eval::{self, Perceptual};
use gsttvc::metrics::Lpips;
use gsttvc::model::{cosmos, Model, ModelSource};

/// Looks into TVC model files and measures what they do.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints what a model file is; without FILE, the built-in model.
    Info { file: Option<PathBuf> },
    /// Prints how many multiplications a model takes and how many this machine makes: no tuning of a model's code gets past that.
    Floor(FloorArguments),
    /// Makes a model file from NVIDIA's Cosmos tokenizer checkpoints.
    ImportCosmos(ImportArguments),
    /// Compares the Cosmos networks with a vector file of NVIDIA's; fails where they differ.
    Parity(ParityArguments),
    /// Codes clips and prints a line of CSV for each.
    Eval(Box<EvalArguments>),
    /// Compares a clip with what came back of it, from this codec or others.
    Compare(CompareArguments),
    /// Prints hashes of a synthetic clip coded and decoded in many ways: equal before and after a change that is to change nothing. On one
    /// machine only, with TVC_NUMBERS=f32.
    Hashes {
        /// Model file; the built-in model without it.
        model: Option<PathBuf>,
    },
}

#[derive(Args)]
struct FloorArguments {
    /// Model file; the built-in model without it.
    model: Option<PathBuf>,
    /// CPU threads; 0: all cores.
    #[arg(long, default_value_t = 0)]
    threads: i32,
}

#[derive(Args)]
struct ImportArguments {
    /// Folder of a discrete tokenizer (DV): encoder.jit and decoder.jit.
    #[arg(long)]
    discrete: PathBuf,
    /// Folder of a continuous tokenizer (CV) of the same factors.
    #[arg(long)]
    continuous: Option<PathBuf>,
    /// Model file to write.
    #[arg(long)]
    out: PathBuf,
    /// Frames of the clips that the tokenizers were trained on, as their model cards say (17, 49 or 121): a stream has
    /// a key unit at least that often.
    #[arg(long, default_value_t = 49, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    trained_frames: i64,
}

#[derive(Args)]
struct ParityArguments {
    /// safetensors file: weights, input and outputs.
    file: PathBuf,
    /// What the networks compute in.
    #[arg(long, value_enum, default_value_t = Number::F32)]
    kind: Number,
    /// Largest relative error; without it 1e-4, with bf16 2e-2.
    #[arg(long)]
    limit: Option<f64>,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "cpu")]
    device: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Number {
    F32,
    Bf16,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Info { file } => info(file),
        Command::Floor(arguments) => floor(&arguments),
        Command::ImportCosmos(arguments) => import(&arguments),
        Command::Parity(arguments) => parity(&arguments),
        Command::Eval(arguments) => evaluate(&arguments),
        Command::Compare(arguments) => compare(&arguments),
        Command::Hashes { model } => eval::hashes(&load(model, "cpu")?, |hashes| println!("{hashes}")),
    }
}

fn load(file: Option<PathBuf>, device: &str) -> Result<Arc<Model>> {
    let source = file.map_or(ModelSource::Embedded, ModelSource::File);
    Ok(Model::load(&source, device)?)
}

fn info(file: Option<PathBuf>) -> Result<()> {
    let model = load(file, "cpu")?;
    let config = model.config();
    let tokenizer = &config.tokenizer;
    println!("name:        {}", config.name);
    println!("identity:    {:016x}", model.id());
    println!("weights:     {}", model.parameters());
    match (&config.continuous, model.latent_context()) {
        (Some(config), Some(_)) => println!("latents:     {} values beside each token", config.channels),
        (Some(config), None) => println!(
            "latents:     {} values beside each token, not sent before the fusion is trained",
            config.channels
        ),
        (None, _) => println!("latents:     none"),
    }
    match &config.predictor {
        Some(predictor) => println!("predictor:   {} layers of width {}", predictor.layers, predictor.width),
        None => println!("predictor:   none, masked tokens repeat the unit before"),
    }
    println!(
        "one token:   {} frames of {s}x{s} samples, FSQ levels {:?}",
        tokenizer.temporal_factor(),
        tokenizer.fsq_levels,
        s = tokenizer.spatial_factor()
    );
    for (key, value) in model.card() {
        println!("{key}: {value}");
    }
    println!("configuration: {}", serde_json::to_string(config)?);
    Ok(())
}

fn floor(arguments: &FloorArguments) -> Result<()> {
    if arguments.threads > 0 {
        tch::set_num_threads(arguments.threads);
    }
    println!("{}", eval::Floor::HEADER);
    for floor in eval::floor(load(arguments.model.clone(), "cpu")?.config()) {
        println!("{floor}");
    }
    Ok(())
}

fn import(arguments: &ImportArguments) -> Result<()> {
    let continuous = arguments.continuous.as_deref();
    let file = cosmos::import(&arguments.discrete, continuous, arguments.trained_frames)?;
    file.write(&arguments.out)?;
    info(Some(arguments.out.clone()))
}

fn parity(arguments: &ParityArguments) -> Result<()> {
    let kind = match arguments.kind {
        Number::F32 => tch::Kind::Float,
        Number::Bf16 => tch::Kind::BFloat16,
    };
    // By default CUDA's convolutions of f32 read 10 bits of a mantissa, too few for the limit; CUDA's libraries look here
    // when they are loaded.
    std::env::set_var("NVIDIA_TF32_OVERRIDE", "0");
    let device = gsttvc::model::device::select(&arguments.device)?;
    let parity = eval::Parity::of(&arguments.file, device, kind)?;
    println!("{}", serde_json::to_string(&parity)?);
    ensure!(
        parity.holds(arguments.limit.unwrap_or(eval::tolerance(kind))),
        "the networks differ from the vectors"
    );
    Ok(())
}

/// `every`: of which frames it is to be taken.
fn read_perceptual(weights: Option<&Path>, every: u16) -> Result<Perceptual> {
    let lpips = weights
        .map(|path| Lpips::load(path, tch::Device::Cpu, tch::Kind::Float))
        .transpose()?;
    Ok(Perceptual {
        lpips,
        every: every.into(),
    })
}
