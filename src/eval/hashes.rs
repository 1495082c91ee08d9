// SPDX-License-Identifier: MPL-2.0
//! Hashes of what the codec makes of a synthetic clip: whether a change to the code has changed what it does. Networks in floats differ
//! from processor to processor, so hashes are compared with those of the same machine.

use std::fmt;
use std::sync::Arc;

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::bitstream::{CodingScale, SequenceHeader};
use crate::codec::{Decoder, Encoder, EncoderAblation, EncoderSettings, Frame, Link, MaskingStrategy, RateMode};
use crate::model::Model;

/// Neither whole tokens nor whole macroblocks.
const WIDTH: usize = 150;
const HEIGHT: usize = 86;
/// Five key units and a short last unit at [`SHORT_KEY_DISTANCE`].
const FRAMES: usize = 76;
const SHORT_KEY_DISTANCE: u32 = 17;
const QUANTIZERS: [u32; 11] = [0, 4, 8, 12, 15, 20, 32, 41, 48, 56, 63];
const BITRATES: [f64; 3] = [4_000.0, 15_000.0, 60_000.0];

/// What became of the clip in one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashes {
    pub case: String,
    pub bytes: usize,
    /// Of the access units.
    pub stream: u64,
    /// Of the decoded pictures.
    pub pictures: u64,
}

impl fmt::Display for Hashes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Hashes {
            case,
            bytes,
            stream,
            pictures,
        } = self;
        write!(
            f,
            "{case}: {bytes} bytes, stream {stream:016x}, pictures {pictures:016x}"
        )
    }
}

/// Codes the clip in every way that there is, and calls `each` with what became of it.
pub fn hashes(model: &Arc<Model>, mut each: impl FnMut(Hashes)) -> Result<()> {
    for (case, settings) in cases() {
        each(code(model, case, settings)?);
    }
    Ok(())
}

fn cases() -> Vec<(String, EncoderSettings)> {
    let at = EncoderSettings::at_quantizer;
    let mut cases: Vec<_> = QUANTIZERS.map(|q| (format!("quantizer {q}"), at(q))).into();
    for rate in BITRATES {
        let link = Link::new(rate);
        let settings = EncoderSettings {
            rate_mode: RateMode::Bitrate(link),
            ..EncoderSettings::default()
        };
        cases.push((format!("{rate} bit/s"), settings));
    }
    for scale in CodingScale::ALL {
        let scale = Some(scale);
        cases.push((format!("scale {scale:?}"), EncoderSettings { scale, ..at(30) }));
    }
    for masking in [MaskingStrategy::Adaptive, MaskingStrategy::Pattern] {
        let mask_ratio = Some(0.5);
        let settings = EncoderSettings {
            mask_ratio,
            ablation: EncoderAblation {
                masking,
                ..EncoderAblation::default()
            },
            ..at(30)
        };
        cases.push((format!("masking {masking:?}"), settings));
    }
    let key_int_max = SHORT_KEY_DISTANCE;
    cases.push((
        format!("key-int-max {key_int_max}"),
        EncoderSettings { key_int_max, ..at(10) },
    ));
    cases.push((
        "no residual".into(),
        EncoderSettings {
            residual: false,
            ..at(8)
        },
    ));
    cases
}

fn code(model: &Arc<Model>, case: String, settings: EncoderSettings) -> Result<Hashes> {
    let sequence = SequenceHeader::new(WIDTH as u32, HEIGHT as u32, (25, 1));
    let mut encoder = Encoder::new(model.clone(), sequence, settings)?;
    let mut units = Vec::new();
    for t in 0..FRAMES {
        units.extend(encoder.push(frame(t), false)?);
    }
    units.extend(encoder.drain()?);
    let mut decoder = Decoder::new(model.clone());
    let (mut stream, mut pictures) = (Sha256::new(), Sha256::new());
    for unit in &units {
        stream.update(&unit.bytes);
        for frame in decoder.decode(&unit.bytes)?.frames {
            frame.planes.iter().for_each(|plane| pictures.update(plane));
        }
    }
    Ok(Hashes {
        case,
        bytes: units.iter().map(|unit| unit.bytes.len()).sum(),
        stream: first_bytes(stream),
        pictures: first_bytes(pictures),
    })
}

fn first_bytes(hasher: Sha256) -> u64 {
    let hash = hasher.finalize();
    u64::from_be_bytes(hash[..8].try_into().expect("SHA-256 has 32 bytes"))
}

/// A textured disc that moves over still texture with a little noise; another scene for the last third.
fn frame(t: usize) -> Frame {
    let is_second = t >= FRAMES * 2 / 3;
    let noise = |x: usize, y: usize| (((x * 31 + y * 17 + t * 13) * 2_654_435_761) >> 7) % 3;
    let sample = |plane: usize, x: usize, y: usize| {
        let scale = 1 + usize::from(plane > 0);
        let (x, y) = (x * scale, y * scale);
        let (dx, dy) = (x.abs_diff(20 + t), y.abs_diff(HEIGHT / 2));
        let texture = match (dx * dx + dy * dy < 24 * 24, is_second) {
            (true, _) => 90 + (dx * 7 + dy * 5) % 120,
            (false, false) => 60 + (x * 3 + y * 2) % 90 + (x / 8 + y / 8) % 2 * 30,
            (false, true) => 200 - (x * 2 + y * 3) % 110,
        };
        match plane {
            0 => (texture + noise(x, y)) as u8,
            _ => (100 + texture / 8 + 20 * plane) as u8,
        }
    };
    let plane = |number: usize| {
        let (width, height) = Frame::plane_size(WIDTH, HEIGHT, number);
        (0..width * height)
            .map(|i| sample(number, i % width, i / width))
            .collect()
    };
    Frame {
        width: WIDTH,
        height: HEIGHT,
        planes: [plane(0), plane(1), plane(2)],
        pts: Some(t as u64 * 40_000_000),
    }
}
