// SPDX-License-Identifier: MPL-2.0
//! Looks into model files and measures what they do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{ensure, Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use gsttvc::bitstream::CodingScale;
use gsttvc::codec::{
    DecoderSettings, EncoderAblation, EncoderSettings, Link, MaskedTokens, MaskingStrategy, OperatingPoint, RateMode,
    Rdoq, ReconstructionSettings, DEFAULT_BUFFER_SECONDS, DEFAULT_QUANTIZER,
};
use gsttvc::entropy::{LATENT_STEPS, RESIDUAL_STEPS};
use gsttvc::eval::{self, BufferUse, Pictures};
use gsttvc::media::{find, write_montage, Clip};
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
    Eval(EvalArguments),
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

#[derive(Args)]
struct EvalArguments {
    /// Clips or folders: Y4M, or anything that GStreamer decodes.
    #[arg(required = true)]
    clips: Vec<PathBuf>,
    /// Model file; the built-in model without it.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Quantizers to measure, 0 to 63.
    #[arg(long, value_delimiter = ',', default_values_t = [DEFAULT_QUANTIZER])]
    quantizer: Vec<u32>,
    /// Rates to measure instead, kbit/s.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["quantizer", "bpp"])]
    bitrate: Vec<f64>,
    /// Rates to measure instead, bits per pixel.
    #[arg(long, value_delimiter = ',', conflicts_with = "quantizer")]
    bpp: Vec<f64>,
    /// Decoder's buffer at a rate, in ms of the rate.
    #[arg(long, default_value_t = (DEFAULT_BUFFER_SECONDS * 1000.0) as u32, value_parser = clap::value_parser!(u32).range(1..))]
    vbv_buf_capacity: u32,
    /// Operating points to measure instead, as HYSTERESIS:LATENT_STEP:MASK_RATIO, with :LAMBDA, :SKIP_LAMBDA, :KEY_QP_OFFSET and :RESIDUAL_STEP behind if not the usual ones; a step of -
    /// means no latents, or no residual, as is usual.
    #[arg(long, value_delimiter = ',', value_parser = parse_point, conflicts_with_all = ["quantizer", "bpp", "bitrate"])]
    point: Vec<OperatingPoint>,
    /// How much larger pictures are coded: 0.5, 0.67, 1, 1.5 or 2; without it, as the quantizer or the rate ask for.
    #[arg(long)]
    coding_scale: Option<CodingScale>,
    /// Share of the tokens between key units that are masked, 0 to 0.9; without it, as the encoder chooses.
    #[arg(long)]
    mask_ratio: Option<f64>,
    /// Mask in a regular pattern rather than what is best predicted.
    #[arg(long)]
    mask_pattern: bool,
    /// What masked tokens are taken from.
    #[arg(long, value_enum, default_value_t = Restore::Predicted)]
    restore: Restore,
    /// Keep the latents from the picture: what the tokens alone give.
    #[arg(long)]
    no_control: bool,
    /// Show small changes from frame to frame as they are decoded.
    #[arg(long)]
    no_post_filter: bool,
    /// Leave the dots that networks paint in the grid of the tokens.
    #[arg(long)]
    no_grid_filter: bool,
    /// Send no residual of static regions.
    #[arg(long)]
    no_residual: bool,
    /// Frames from one key unit to the next at most, 0 = automatic.
    #[arg(long, default_value_t = 0)]
    key_int_max: u32,
    /// LPIPS weights (safetensors); without them that column is empty.
    #[arg(long)]
    lpips: Option<PathBuf>,
    /// Folder for a PNG per clip and setting: source above, decoded below.
    #[arg(long)]
    montage: Option<PathBuf>,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "auto")]
    device: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Restore {
    /// The transformer's prediction.
    Predicted,
    /// The unit before.
    Repeated,
    /// The nearest token that was sent.
    Nearest,
}

#[derive(Args)]
struct CompareArguments {
    source: PathBuf,
    /// A coded stream, for its size, and what it was decoded to; once for each that is to be compared.
    #[arg(long, num_args = 2, required = true, value_names = ["STREAM", "DECODED"])]
    coded: Vec<PathBuf>,
    /// LPIPS weights (safetensors); without them that column is empty.
    #[arg(long)]
    lpips: Option<PathBuf>,
    /// PNG to write: the source above, below it what it became.
    #[arg(long)]
    png: Option<PathBuf>,
}

/// An index of a step, - for none.
fn parse_step(name: &str, text: &str, count: usize) -> Result<Option<usize>, String> {
    if text == "-" {
        return Ok(None);
    }
    match text.parse() {
        Ok(step) if step < count => Ok(Some(step)),
        _ => Err(format!("{name} {text}, legal are 0 to {} and -", count - 1)),
    }
}

fn parse_point(text: &str) -> Result<OperatingPoint, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let [hysteresis, step, mask_ratio, ref others @ ..] = parts[..] else {
        return Err(
            "expected HYSTERESIS:LATENT_STEP:MASK_RATIO[:LAMBDA[:SKIP_LAMBDA[:KEY_QP_OFFSET[:RESIDUAL_STEP]]]]".into(),
        );
    };
    let number = |text: &str| text.parse::<f64>().map_err(|e| format!("{text}: {e}"));
    let latent_step = parse_step("latent step", step, LATENT_STEPS)?;
    let usual = gsttvc::codec::operating_point(DEFAULT_QUANTIZER, CodingScale::Single);
    if others.len() > 4 {
        return Err("more than seven numbers".into());
    }
    let other = |at: usize, usual: f64| others.get(at).map_or(Ok(usual), |text| number(text));
    Ok(OperatingPoint {
        hysteresis: number(hysteresis)?,
        latent_step,
        mask_ratio: number(mask_ratio)?,
        rdoq: Rdoq {
            lambda: other(0, usual.rdoq.lambda.into())? as f32,
        },
        skip_lambda: other(1, usual.skip_lambda)?,
        key_qp_offset: other(2, usual.key_qp_offset as f64)? as usize,
        residual_step: parse_step("detail step", others.get(3).copied().unwrap_or("-"), RESIDUAL_STEPS)?,
    })
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

fn evaluate(arguments: &EvalArguments) -> Result<()> {
    let model = load(arguments.model.clone(), &arguments.device)?;
    let lpips = read_lpips(arguments.lpips.as_deref())?;
    if let Some(folder) = &arguments.montage {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    println!("clip,setting,frames,bytes,bpp,kbps,vbv_low_ms,vbv_dry,vbv_idle_ms,psnr_y,ssim,lpips,flicker,enc_fps,dec_fps,peak_mib");
    for path in find(&arguments.clips)? {
        let clip = Clip::read(&path)?;
        for (setting, settings) in arguments.settings(&clip) {
            let settings = (settings, arguments.decoder());
            let (coded, m) = eval::run(&model, &clip, settings, lpips.as_ref())?;
            println!(
                "{},{setting},{},{},{:.6},{:.2},{},{:.3},{:.4},{:.4},{:.3},{:.1},{:.1},{:.0}",
                clip.name,
                clip.frames(),
                coded.bytes,
                m.bits_per_pixel,
                m.kbit_per_second,
                buffer_columns(coded.buffer),
                m.psnr,
                m.ssim,
                m.lpips,
                m.flicker,
                coded.encode_rate,
                coded.decode_rate,
                eval::peak_memory_mib()
            );
            if let Some(folder) = &arguments.montage {
                let rows = [
                    eval::to_rgb(&clip.luma, &clip.chroma)?,
                    eval::to_rgb(&coded.pictures.luma, &coded.pictures.chroma)?,
                ];
                write_montage(&folder.join(format!("{}_{setting}.png", clip.name)), &rows)?;
            }
        }
    }
    Ok(())
}

/// What the buffer did; nothing at constant quality.
fn buffer_columns(used: Option<BufferUse>) -> String {
    used.map_or(",,".into(), |used| {
        format!("{:.0},{},{:.0}", used.lowest_ms, used.dry, used.idle_ms)
    })
}

impl EvalArguments {
    fn decoder(&self) -> DecoderSettings {
        DecoderSettings {
            reconstruction: ReconstructionSettings {
                masked_tokens: match self.restore {
                    Restore::Predicted => MaskedTokens::Predicted,
                    Restore::Repeated => MaskedTokens::Repeated,
                    Restore::Nearest => MaskedTokens::Nearest,
                },
                control: !self.no_control,
                grid_filter: !self.no_grid_filter,
            },
            post_filter: !self.no_post_filter,
        }
    }

    /// What a clip is to be coded with, and how that is called.
    fn settings(&self, clip: &Clip) -> Vec<(String, EncoderSettings)> {
        let common = EncoderSettings {
            key_int_max: self.key_int_max,
            scale: self.coding_scale,
            mask_ratio: self.mask_ratio,
            residual: !self.no_residual,
            ablation: EncoderAblation {
                masking: match self.mask_pattern {
                    true => MaskingStrategy::Pattern,
                    false => MaskingStrategy::Adaptive,
                },
                ..EncoderAblation::default()
            },
            ..EncoderSettings::default()
        };
        let at_rate = |name: String, rate: f64| {
            let buffer = f64::from(self.vbv_buf_capacity) / 1000.0;
            let rate_mode = RateMode::Bitrate(Link { rate, buffer });
            (name, EncoderSettings { rate_mode, ..common })
        };
        if !self.bitrate.is_empty() {
            let rates = self.bitrate.iter();
            return rates.map(|r| at_rate(format!("{r}kbps"), r * 1000.0)).collect();
        }
        if !self.point.is_empty() {
            let named = |p: &OperatingPoint| {
                let step = p.latent_step.map_or("-".into(), |s| s.to_string());
                let (price, skip_lambda) = (p.rdoq.lambda, p.skip_lambda);
                let residual = p.residual_step.map_or(String::new(), |step| format!(":{step}"));
                let (zone, ratio, finer) = (p.hysteresis, p.mask_ratio, p.key_qp_offset);
                let name = format!("{zone}:{step}:{ratio}:{price}:{skip_lambda}:{finer}{residual}");
                (
                    name,
                    EncoderSettings {
                        ablation: EncoderAblation {
                            point: Some(*p),
                            ..common.ablation
                        },
                        ..common
                    },
                )
            };
            return self.point.iter().map(named).collect();
        }
        if !self.bpp.is_empty() {
            let (width, height) = clip.size();
            let samples = (width * height) as f64 * clip.frame_rate;
            return self
                .bpp
                .iter()
                .map(|b| at_rate(format!("{b}bpp"), b * samples))
                .collect();
        }
        let at_quantizer = |&quantizer: &u32| {
            let rate_mode = RateMode::ConstantQuality { quantizer };
            (format!("q{quantizer}"), EncoderSettings { rate_mode, ..common })
        };
        self.quantizer.iter().map(at_quantizer).collect()
    }
}

fn compare(arguments: &CompareArguments) -> Result<()> {
    let source = Clip::read(&arguments.source)?;
    let lpips = read_lpips(arguments.lpips.as_deref())?;
    let (width, height) = source.size();
    println!(
        "{width}x{height}, {} frames at {:.2} frames/s",
        source.frames(),
        source.frame_rate
    );
    println!("stream                   bytes   kbit/s  bit/pixel  PSNR (luma)   SSIM   LPIPS  flicker");
    let mut rows = vec![eval::to_rgb(&source.luma, &source.chroma)?];
    for pair in arguments.coded.chunks(2) {
        let decoded = Clip::read(&pair[1])?;
        let pictures = Pictures {
            luma: decoded.luma,
            chroma: decoded.chroma,
        };
        let bytes = std::fs::metadata(&pair[0])?.len();
        let m =
            eval::measure(&source, &pictures, bytes, lpips.as_ref()).with_context(|| pair[1].display().to_string())?;
        let perceptual = lpips.as_ref().map_or("-".into(), |_| format!("{:.4}", m.lpips));
        println!(
            "{:20} {bytes:9} {:8.2}  {:9.5}  {:8.2} dB  {:.3}  {perceptual:>6}  {:7.2}",
            pair[0].file_name().unwrap_or_default().to_string_lossy(),
            m.kbit_per_second,
            m.bits_per_pixel,
            m.psnr,
            m.ssim,
            m.flicker
        );
        rows.push(eval::to_rgb(&pictures.luma, &pictures.chroma)?);
    }
    if let Some(png) = &arguments.png {
        write_montage(png, &rows)?;
        println!("picture: {}", png.display());
    }
    Ok(())
}

fn read_lpips(weights: Option<&Path>) -> Result<Option<Lpips>> {
    weights
        .map(|path| Lpips::load(path, tch::Device::Cpu, tch::Kind::Float))
        .transpose()
}
