// SPDX-License-Identifier: MPL-2.0

use std::sync::Arc;

use anyhow::{ensure, Result};
use tch::{Kind, Tensor};

use super::buffer::BufferUse;
use super::session::{self, LossyLink, Sent};
use crate::codec::{AccessUnit, DecoderSettings, EncoderSettings, Frame, Link};
use crate::media::Clip;
use crate::metrics::{flicker, lowest_tenth, mean, psnr, ssim, ssimulacra2, Lpips};
use crate::model::{picture, Model};

/// What came back of a clip: planes like those of [`Clip`].
pub struct Pictures {
    pub luma: Tensor,
    pub chroma: Tensor,
}

/// A clip after a round trip.
pub struct Coded {
    pub pictures: Pictures,
    pub bytes: usize,
    /// `None` at constant quality.
    pub buffer: Option<BufferUse>,
    /// Frames per second of this machine.
    pub encode_rate: f64,
    pub decode_rate: f64,
    /// Frames at whose time nothing was shown: the last picture stands in for them.
    pub not_shown: usize,
    /// Share of each frame's positions that were lost and concealed, 0 to 1; 1 where nothing was shown.
    pub lost: Vec<f32>,
    /// What the link carried.
    pub sent: Sent,
}

/// How LPIPS and SSIMULACRA2 are taken.
pub struct Perceptual {
    /// `None`: no weights, no LPIPS.
    pub lpips: Option<Lpips>,
    /// Of every n-th frame, from the first one on.
    pub every: usize,
}

/// What [`Pictures`] look like beside their source.
#[derive(Clone, Debug)]
pub struct Measured {
    pub bits_per_pixel: f64,
    pub kbit_per_second: f64,
    pub psnr: f64,
    /// Mean PSNR of the worst tenth of the frames.
    pub worst_psnr: f64,
    /// PSNR of each frame.
    pub frame_psnr: Vec<f64>,
    pub ssim: f64,
    /// NaN without weights.
    pub lpips: f64,
    pub ssimulacra2: f64,
    pub flicker: f64,
}

/// Sends a clip through encoder, link and decoder, and measures the result. `link`: `None` loses nothing.
pub fn run(
    model: &Arc<Model>,
    clip: &Clip,
    settings: (EncoderSettings, DecoderSettings),
    link: Option<LossyLink>,
    perceptual: &Perceptual,
) -> Result<(Coded, Measured)> {
    let coded = round_trip(model, clip, settings, link)?;
    let measured = measure(clip, &coded.pictures, coded.bytes as u64, perceptual)?;
    Ok((coded, measured))
}

/// Measures what came back of a clip that was coded in some bytes. An error where it has another size or number of frames.
pub fn measure(clip: &Clip, pictures: &Pictures, bytes: u64, perceptual: &Perceptual) -> Result<Measured> {
    let (found, expected) = (pictures.luma.size(), clip.luma.size());
    ensure!(
        found == expected,
        "frames, height and width {expected:?} became {found:?}"
    );
    let (width, height) = clip.size();
    let bits = 8.0 * bytes as f64;
    let frames = clip.frames() as f64;
    let frame_psnr = psnr(&clip.luma, &pictures.luma);
    let (lpips, ssimulacra2) = measure_perceptual(perceptual, clip, pictures)?;
    Ok(Measured {
        bits_per_pixel: bits / (frames * (width * height) as f64),
        kbit_per_second: bits / 1000.0 * clip.frame_rate / frames,
        psnr: mean(&frame_psnr),
        worst_psnr: lowest_tenth(&frame_psnr),
        frame_psnr,
        ssim: ssim(&clip.luma, &pictures.luma),
        lpips,
        ssimulacra2,
        flicker: flicker(&clip.luma, &pictures.luma),
    })
}

fn round_trip(
    model: &Arc<Model>,
    clip: &Clip,
    settings: (EncoderSettings, DecoderSettings),
    lossy: Option<LossyLink>,
) -> Result<Coded> {
    let frames = (0..clip.frames()).map(|t| clip.frame(t)).collect::<Result<Vec<_>>>()?;
    let (width, height) = clip.size();
    let link = settings.0.rate_mode.link();
    let received = session::run(model, clip.sequence(), settings, lossy, frames)?;
    let not_shown = received.frames.iter().filter(|frame| frame.is_none()).count();
    let decoded = complete(received.frames, (width as usize, height as usize));

    let stack = |planes: &[usize], h: i64, w: i64| -> Tensor {
        let bytes: Vec<u8> = decoded
            .iter()
            .flat_map(|f| planes.iter().flat_map(|&p| f.planes[p].iter().copied()))
            .collect();
        Tensor::from_slice(&bytes).view([decoded.len() as i64, planes.len() as i64, h, w])
    };
    Ok(Coded {
        pictures: Pictures {
            luma: stack(&[0], height, width).squeeze_dim(1),
            chroma: stack(&[1, 2], height / 2, width / 2),
        },
        bytes: received.units.iter().map(|u| u.bytes.len()).sum(),
        buffer: link.map(|link| buffer_use(link, &received.units, clip.frame_rate)),
        encode_rate: decoded.len() as f64 / received.encoding.as_secs_f64(),
        decode_rate: decoded.len() as f64 / received.decoding.as_secs_f64(),
        not_shown,
        lost: received.lost,
        sent: received.sent,
    })
}

/// Frames as a viewer sees them: where there is none, the last one stays, and before the first one it is grey.
fn complete(frames: Vec<Option<Frame>>, (width, height): (usize, usize)) -> Vec<Frame> {
    let mut last = Frame::grey(width, height);
    let shown = frames.into_iter().map(|frame| {
        if let Some(frame) = frame {
            last = frame;
        }
        last.clone()
    });
    shown.collect()
}

/// What the units of a clip do in the buffer of a link.
fn buffer_use(link: Link, units: &[AccessUnit], frame_rate: f64) -> BufferUse {
    let mut frames = 0;
    let timed = units.iter().map(|unit| {
        let due = frames as f64 / frame_rate;
        frames += unit.frames;
        (due, unit.bytes.len())
    });
    BufferUse::of(link, timed)
}

/// Pictures in R'G'B', `[t, 3, h, w]`.
pub fn to_rgb(luma: &Tensor, chroma: &Tensor) -> Result<Tensor> {
    Ok(picture::Ycbcr::BT601.to_rgb(luma, chroma)?.clamp(0.0, 1.0))
}

/// Means of LPIPS and SSIMULACRA2.
fn measure_perceptual(perceptual: &Perceptual, clip: &Clip, coded: &Pictures) -> Result<(f64, f64)> {
    let _no_grad = tch::no_grad_guard();
    let (mut distances, mut scores) = (vec![], vec![]);
    // One frame at a time keeps the memory small.
    for t in (0..clip.frames()).step_by(perceptual.every.max(1)) {
        let rgb = |luma: &Tensor, chroma: &Tensor| to_rgb(&luma.narrow(0, t, 1), &chroma.narrow(0, t, 1));
        let (ours, source) = (rgb(&coded.luma, &coded.chroma)?, rgb(&clip.luma, &clip.chroma)?);
        scores.push(ssimulacra2(&source.squeeze_dim(0), &ours.squeeze_dim(0))?);
        if let Some(lpips) = &perceptual.lpips {
            let distance = lpips.distance(&ours, &source)?;
            distances.push(f64::try_from(distance.mean(Kind::Float))?);
        }
    }
    Ok((mean(&distances), mean(&scores)))
}

/// Most memory that this process has held so far, in MiB; NaN where /proc does not tell.
pub fn peak_memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").trim().parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}
