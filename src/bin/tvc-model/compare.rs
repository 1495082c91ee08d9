// SPDX-License-Identifier: MPL-2.0
//! `tvc-model compare`: a clip beside what it became.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use gsttvc::eval::{self, Pictures};
use gsttvc::media::{write_montage, Clip};

use crate::read_perceptual;

#[derive(Args)]
pub struct CompareArguments {
    source: PathBuf,
    /// A coded stream, for its size, and what it was decoded to; once for each that is to be compared.
    #[arg(long, num_args = 2, required = true, value_names = ["STREAM", "DECODED"])]
    coded: Vec<PathBuf>,
    /// LPIPS weights (safetensors); without them that column is empty.
    #[arg(long)]
    lpips: Option<PathBuf>,
    /// Take LPIPS and SSIMULACRA2 of every n-th frame only, which saves time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    perceptual_every: u16,
    /// PNG to write: the source above, below it what it became.
    #[arg(long)]
    png: Option<PathBuf>,
}

/// Prints a line for each decoded clip, and writes the picture.
pub fn compare(arguments: &CompareArguments) -> Result<()> {
    let source = Clip::read(&arguments.source)?;
    let perceptual = read_perceptual(arguments.lpips.as_deref(), arguments.perceptual_every)?;
    let (width, height) = source.size();
    println!(
        "{width}x{height}, {} frames at {:.2} frames/s",
        source.frames(),
        source.frame_rate
    );
    println!(
        "stream                   bytes   kbit/s  bit/pixel  PSNR (luma)   SSIM   LPIPS  flicker  PSNR, worst tenth  SSIMULACRA2"
    );
    let mut rows = vec![eval::to_rgb(&source.luma, &source.chroma)?];
    for pair in arguments.coded.chunks(2) {
        let decoded = Clip::read(&pair[1])?;
        let pictures = Pictures {
            luma: decoded.luma,
            chroma: decoded.chroma,
        };
        let bytes = std::fs::metadata(&pair[0])?.len();
        let m = eval::measure(&source, &pictures, bytes, &perceptual).with_context(|| pair[1].display().to_string())?;
        let distance = perceptual
            .lpips
            .as_ref()
            .map_or("-".into(), |_| format!("{:.4}", m.lpips));
        println!(
            "{:20} {bytes:9} {:8.2}  {:9.5}  {:8.2} dB  {:.3}  {distance:>6}  {:7.2}  {:14.2} dB  {:11.2}",
            pair[0].file_name().unwrap_or_default().to_string_lossy(),
            m.kbit_per_second,
            m.bits_per_pixel,
            m.psnr,
            m.ssim,
            m.flicker,
            m.worst_psnr,
            m.ssimulacra2
        );
        rows.push(eval::to_rgb(&pictures.luma, &pictures.chroma)?);
    }
    if let Some(png) = &arguments.png {
        write_montage(png, &rows)?;
        println!("picture: {}", png.display());
    }
    Ok(())
}
