// SPDX-License-Identifier: MPL-2.0
//! Clips as the encoder sends them, unit by unit: what the context models learn from.

use std::sync::Arc;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::RngExt;

use crate::bitstream::UnitHeader;
use crate::codec::{AccessUnit, Encoder, EncoderSettings, ErrorResilience, SentUnit, MAX_QUANTIZER};
use crate::media::Clip;
use crate::model::Model;

/// Frames of a stream at most: a key unit and ten others.
const FRAMES: i64 = 1 + 8 * 10;

/// Share of the streams whose units may be lost, and of those, of streams in slices.
const RESILIENT_SHARE: f64 = 0.2;
const SLICED_SHARE: f64 = 0.4;
/// Bytes of a slice.
const SLICE_SIZES: std::ops::Range<usize> = 100..1200;
/// Share of the units of such streams that later ones refer to rather than to the key unit.
const ACKNOWLEDGED_SHARE: f64 = 0.4;

/// Share of the streams in which tokens are masked whatever the quantizer is.
const MASKED_SHARE: f64 = 0.1;

/// A part of a clip, mirrored or backwards as chance has it, at a random quantizer; some streams are masked, or for links that lose units.
pub fn draw(model: &Arc<Model>, clip: &Clip, rng: &mut StdRng) -> Result<Vec<SentUnit>> {
    let settings = EncoderSettings {
        error_resilience: draw_resilience(rng),
        mask_ratio: rng.random_bool(MASKED_SHARE).then(|| rng.random_range(0.1..0.9)),
        ..without_residual(rng.random_range(0..=MAX_QUANTIZER))
    };
    let frames = clip.frames().min(FRAMES);
    let part = (rng.random_range(0..=clip.frames() - frames), frames);
    let clip = view(clip, part, (rng.random_bool(0.5), rng.random_bool(0.5)));
    record(model, &clip, settings, || rng.random_bool(ACKNOWLEDGED_SHARE))
}

/// A clip at a quantizer, as it is.
pub fn at_quantizer(model: &Arc<Model>, clip: &Clip, quantizer: u32) -> Result<Vec<SentUnit>> {
    record(model, clip, without_residual(quantizer), || false)
}

/// Residuals have no part in tokens and latents, and take time.
fn without_residual(quantizer: u32) -> EncoderSettings {
    EncoderSettings {
        residual: false,
        ..EncoderSettings::at_quantizer(quantizer)
    }
}

fn draw_resilience(rng: &mut StdRng) -> ErrorResilience {
    match (rng.random_bool(RESILIENT_SHARE), rng.random_bool(SLICED_SHARE)) {
        (false, _) => ErrorResilience::None,
        (true, false) => ErrorResilience::Units,
        (true, true) => ErrorResilience::Slices {
            size: rng.random_range(SLICE_SIZES),
        },
    }
}

/// Some frames from one on, and how they are turned.
fn view(clip: &Clip, (from, frames): (i64, i64), (is_mirrored, is_backwards): (bool, bool)) -> Clip {
    let dims: Vec<i64> = [(is_mirrored, -1), (is_backwards, 0)]
        .into_iter()
        .filter_map(|(is_turned, dim)| is_turned.then_some(dim))
        .collect();
    Clip {
        name: clip.name.clone(),
        luma: clip.luma.narrow(0, from, frames).flip(&dims),
        chroma: clip.chroma.narrow(0, from, frames).flip(&dims),
        frame_rate: clip.frame_rate,
    }
}

/// What is sent of a clip. `acknowledges`: whether the receiver says of a unit that it has come.
pub fn record(
    model: &Arc<Model>,
    clip: &Clip,
    settings: EncoderSettings,
    mut acknowledges: impl FnMut() -> bool,
) -> Result<Vec<SentUnit>> {
    let mut encoder = Encoder::new(model.clone(), clip.sequence(), settings)?;
    encoder.note_sent();
    for at in 0..clip.frames() {
        for unit in encoder.push(clip.frame(at)?, false)? {
            if let Some((group, number)) = group_and_number(&unit).filter(|_| acknowledges()) {
                encoder.acknowledge(group, number);
            }
        }
    }
    encoder.drain()?;
    Ok(encoder.take_sent())
}

/// Of a unit that others may do without.
fn group_and_number(unit: &AccessUnit) -> Option<(u8, u8)> {
    let (header, _) = UnitHeader::parse(&unit.bytes).ok()?;
    header.resilience.map(|resilience| (resilience.group, resilience.unit))
}
