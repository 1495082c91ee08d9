// SPDX-License-Identifier: MPL-2.0
//! `tvc-model eval`: clips through the codec, a line of CSV for each.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use gsttvc::bitstream::CodingScale;
use gsttvc::codec::{
    DecoderSettings, EncoderAblation, EncoderSettings, ErrorResilience, Link, MaskedTokens, MaskingStrategy,
    OperatingPoint, RateMode, Rdoq, ReconstructionSettings, DEFAULT_BUFFER_SECONDS, DEFAULT_QUANTIZER,
};
use gsttvc::entropy::{LATENT_STEPS, RESIDUAL_STEPS};
use gsttvc::eval::{self, BufferUse, LossModel, LossyLink, Repair};
use gsttvc::media::{find, write_montage, Clip};

use crate::{load, read_perceptual};

#[derive(Args)]
pub struct EvalArguments {
    /// Clips or folders: Y4M, or anything that GStreamer decodes.
    #[arg(required = true)]
    clips: Vec<PathBuf>,
    /// Model file; the built-in model without it.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Quantizers to measure, 0 to 63.
    #[arg(long, value_delimiter = ',', default_values_t = [DEFAULT_QUANTIZER], value_parser = clap::value_parser!(u32).range(0..=63))]
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
    /// Do not follow the camera.
    #[arg(long)]
    no_camera: bool,
    /// Do not follow what moves by itself.
    #[arg(long)]
    no_motion: bool,
    /// Send no residual of static regions.
    #[arg(long)]
    no_residual: bool,
    /// Frames from one key unit to the next at most, 0 = automatic.
    #[arg(long, default_value_t = 0)]
    key_int_max: u32,
    /// What may be lost without the rest: none, units, or slices.
    #[arg(long, value_enum, default_value_t = Resilience::None)]
    error_resilience: Resilience,
    /// Bytes of a slice, at most.
    #[arg(long, default_value_t = 1180)]
    slice_size: usize,
    /// Share of the packets that are lost, 0 to 1; or GOOD:BAD:TO_BAD:TO_GOOD, losses in the two states of a Gilbert-Elliott channel and the
    /// probabilities of going to the other one.
    #[arg(long, value_parser = parse_losses)]
    loss: Option<LossModel>,
    /// Of the losses' random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Bytes of a packet without IP and UDP headers, at most.
    #[arg(long, default_value_t = 1200)]
    mtu: usize,
    /// Milliseconds after which a key unit comes that the receiver asks for, at least 1; without it, it cannot ask.
    #[arg(long, value_parser = parse_round_trip)]
    round_trip: Option<f64>,
    /// Milliseconds that packets lie in the receiver's jitter buffer.
    #[arg(long, default_value_t = 0.0)]
    jitter_buffer: f64,
    /// Send lost packets again while they can still come into the jitter buffer in time.
    #[arg(long, requires = "round_trip")]
    retransmit: bool,
    /// Packets of parity for a hundred of the stream, as rtpulpfecenc makes them.
    #[arg(long, conflicts_with = "retransmit", value_parser = clap::value_parser!(u32).range(1..=100))]
    fec: Option<u32>,
    /// Let the receiver acknowledge units, so that later ones may refer to them.
    #[arg(long, requires = "round_trip")]
    acknowledge: bool,
    /// Show the last picture in place of lost units.
    #[arg(long)]
    repeat_last: bool,
    /// LPIPS weights (safetensors); without them that column is empty.
    #[arg(long)]
    lpips: Option<PathBuf>,
    /// CSV file for a line per frame: clip, setting, number, PSNR, share of the positions that were lost.
    #[arg(long)]
    frames: Option<PathBuf>,
    /// Take LPIPS and SSIMULACRA2 of every n-th frame only, which saves time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    perceptual_every: u16,
    /// Folder for a PNG per clip and setting: source above, decoded below.
    #[arg(long)]
    montage: Option<PathBuf>,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "auto")]
    device: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Resilience {
    /// Units need each other.
    None,
    /// Units need the key unit, or an acknowledged one.
    Units,
    /// Slices of units need those of the key unit.
    Slices,
}

/// A share, or the four numbers of a channel with two states.
fn parse_losses(text: &str) -> Result<LossModel, String> {
    let number = |text: &str| match text.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err(format!("{text}, legal are 0 to 1")),
    };
    let numbers = text.split(':').map(number).collect::<Result<Vec<f64>, String>>()?;
    match numbers[..] {
        [share] => Ok(LossModel::Independent(share)),
        [good, bad, to_bad, to_good] => Ok(LossModel::GilbertElliott {
            losses: [good, bad],
            changes: [to_bad, to_good],
        }),
        _ => Err("expected SHARE or GOOD:BAD:TO_BAD:TO_GOOD".into()),
    }
}

fn parse_round_trip(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ms) if (1.0..=1e6).contains(&ms) => Ok(ms),
        _ => Err(format!("{text}, legal are 1 to 1000000")),
    }
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
        residual_step: parse_step("residual step", others.get(3).copied().unwrap_or("-"), RESIDUAL_STEPS)?,
    })
}

/// Codes all clips with all settings.
pub fn evaluate(arguments: &EvalArguments) -> Result<()> {
    let model = load(arguments.model.clone(), &arguments.device)?;
    let perceptual = read_perceptual(arguments.lpips.as_deref(), arguments.perceptual_every)?;
    if let Some(folder) = &arguments.montage {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let mut frames = arguments.frames.as_deref().map(create_frames).transpose()?;
    println!("clip,setting,frames,bytes,bpp,kbps,vbv_low_ms,vbv_dry,vbv_idle_ms,psnr_y,ssim,lpips,flicker,enc_fps,dec_fps,peak_mib,wire_bytes,packets,lost,not_shown,key_requests,worst_psnr_y,ssimulacra2");
    for path in find(&arguments.clips)? {
        let clip = Clip::read(&path)?;
        for (setting, settings) in arguments.settings(&clip) {
            let settings = (settings, arguments.decoder());
            let (coded, m) = eval::run(&model, &clip, settings, arguments.link(), &perceptual)?;
            println!(
                "{},{setting},{},{},{:.6},{:.2},{},{:.3},{:.4},{},{:.3},{:.1},{:.1},{:.0},{},{},{},{},{},{:.3},{:.2}",
                clip.name,
                clip.frames(),
                coded.bytes,
                m.bits_per_pixel,
                m.kbit_per_second,
                buffer_columns(coded.buffer),
                m.psnr,
                m.ssim,
                if m.lpips.is_nan() {
                    String::new()
                } else {
                    format!("{:.4}", m.lpips)
                },
                m.flicker,
                coded.encode_rate,
                coded.decode_rate,
                eval::peak_memory_mib(),
                coded.sent.bytes,
                coded.sent.packets,
                coded.sent.lost,
                coded.not_shown,
                coded.sent.requests,
                m.worst_psnr,
                m.ssimulacra2,
            );
            if let Some(file) = &mut frames {
                write_frames(file, (&clip.name, &setting), &m.frame_psnr, &coded.lost)?;
            }
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

fn create_frames(path: &Path) -> Result<File> {
    let mut file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    writeln!(file, "clip,setting,frame,psnr_y,lost")?;
    Ok(file)
}

fn write_frames(file: &mut File, (clip, setting): (&str, &str), psnr: &[f64], lost: &[f32]) -> Result<()> {
    for (number, (psnr, lost)) in psnr.iter().zip(lost).enumerate() {
        writeln!(file, "{clip},{setting},{number},{psnr:.3},{lost:.3}")?;
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

    fn repair(&self) -> Repair {
        match (self.fec, self.round_trip.filter(|_| self.retransmit)) {
            (Some(percentage), _) => Repair::Parity(f64::from(percentage) / 100.0),
            (None, Some(round_trip)) => Repair::Retransmission {
                round_trip: round_trip / 1000.0,
                delay: self.jitter_buffer / 1000.0,
            },
            (None, None) => Repair::None,
        }
    }

    fn link(&self) -> Option<LossyLink> {
        Some(LossyLink {
            losses: self.loss?,
            repair: self.repair(),
            delay: self.jitter_buffer / 1000.0,
            mtu: self.mtu,
            seed: self.seed,
            round_trip: self.round_trip.map(|ms| ms / 1000.0),
            acknowledges: self.acknowledge,
            repeats: self.repeat_last,
        })
    }

    /// What a clip is to be coded with, and how that is called.
    fn settings(&self, clip: &Clip) -> Vec<(String, EncoderSettings)> {
        let common = EncoderSettings {
            key_int_max: self.key_int_max,
            scale: self.coding_scale,
            mask_ratio: self.mask_ratio,
            residual: !self.no_residual,
            error_resilience: match self.error_resilience {
                Resilience::None => ErrorResilience::None,
                Resilience::Units => ErrorResilience::Units,
                Resilience::Slices => ErrorResilience::Slices { size: self.slice_size },
            },
            ablation: EncoderAblation {
                masking: match self.mask_pattern {
                    true => MaskingStrategy::Pattern,
                    false => MaskingStrategy::Adaptive,
                },
                camera: !self.no_camera,
                motion: !self.no_motion,
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
                let (hysteresis, ratio, finer) = (p.hysteresis, p.mask_ratio, p.key_qp_offset);
                let name = format!("{hysteresis}:{step}:{ratio}:{price}:{skip_lambda}:{finer}{residual}");
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
