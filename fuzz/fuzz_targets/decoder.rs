// SPDX-License-Identifier: MPL-2.0
//! Damaged units are refused or decoded, and do not harm the next whole stream. The damage is done to the bytes of a good
//! stream: random ones would never get past the header's check value.
#![no_main]

use std::sync::{Arc, OnceLock};

use gsttvc::bitstream::SequenceHeader;
use gsttvc::{Decoder, Encoder, EncoderSettings, ErrorResilience, Frame, Model, ModelSource};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const WIDTH: usize = 48;
const HEIGHT: usize = 32;
/// A key unit, a whole delta unit, and one with fewer frames.
const FRAMES: usize = 13;

/// Changes to the units of the stream.
#[derive(Arbitrary, Debug)]
struct Damage {
    /// Which stream: one that must not lose anything, units, or slices.
    stream: u8,
    /// Unit, position, new value.
    bytes: Vec<(u8, u16, u8)>,
    /// Unit and how long it is from then on.
    cut: Option<(u8, u16)>,
    /// A unit that is left out.
    lost: Option<u8>,
}

/// The units of a stream.
type Units = Vec<Vec<u8>>;

/// The model, and streams that were made with it.
fn streams() -> &'static (Arc<Model>, [Units; 3]) {
    static STREAMS: OnceLock<(Arc<Model>, [Units; 3])> = OnceLock::new();
    STREAMS.get_or_init(|| {
        let model = Model::load(&ModelSource::Embedded, "cpu").expect("the embedded model");
        let kinds = [
            ErrorResilience::None,
            ErrorResilience::Units,
            ErrorResilience::Slices { size: 100 },
        ];
        let streams = kinds.map(|kind| encode(&model, kind));
        (model, streams)
    })
}

fn encode(model: &Arc<Model>, error_resilience: ErrorResilience) -> Units {
    let sequence = SequenceHeader::new(WIDTH as u32, HEIGHT as u32, (25, 1));
    let settings = EncoderSettings {
        error_resilience,
        ..EncoderSettings::default()
    };
    let mut encoder = Encoder::new(model.clone(), sequence, settings).expect("an encoder");
    let mut units = Vec::new();
    for t in 0..FRAMES {
        units.extend(encoder.push(frame(t), false).expect("units"));
    }
    units.extend(encoder.drain().expect("units"));
    units.into_iter().map(|unit| unit.bytes).collect()
}

fn frame(t: usize) -> Frame {
    let plane = |number| {
        let (w, h) = Frame::plane_size(WIDTH, HEIGHT, number);
        (0..w * h).map(|i| ((i % w + t) * 5 + i / w * 3) as u8).collect()
    };
    Frame {
        width: WIDTH,
        height: HEIGHT,
        planes: [plane(0), plane(1), plane(2)],
        pts: Some(t as u64 * 40_000_000),
    }
}

fuzz_target!(|damage: Damage| {
    let (model, streams) = streams();
    let good = &streams[usize::from(damage.stream) % streams.len()];
    let mut units = good.clone();
    for (unit, position, value) in damage.bytes {
        let unit = &mut units[usize::from(unit) % good.len()];
        let position = usize::from(position) % unit.len();
        unit[position] = value;
    }
    if let Some((unit, length)) = damage.cut {
        units[usize::from(unit) % good.len()].truncate(length.into());
    }
    if let Some(unit) = damage.lost {
        units.remove(usize::from(unit) % good.len());
    }
    let mut decoder = Decoder::new(model.clone());
    for unit in &units {
        let _ = decoder.decode(unit);
    }
    let frames: usize = (good.iter())
        .map(|unit| decoder.decode(unit).expect("a good stream decodes").frames.len())
        .sum();
    assert_eq!(frames, FRAMES);
});
