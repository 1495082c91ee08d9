// SPDX-License-Identifier: MPL-2.0
//! Damaged units are refused or decoded, and do not harm the next whole stream. The damage is done to the bytes of a good
//! stream: random ones would never get past the header's check value.
#![no_main]

use std::sync::{Arc, OnceLock};

use gsttvc::bitstream::SequenceHeader;
use gsttvc::{Decoder, Encoder, EncoderSettings, Frame, Model, ModelSource};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const WIDTH: usize = 48;
const HEIGHT: usize = 32;
/// A key unit, a whole delta unit, and one with fewer frames.
const FRAMES: usize = 13;

/// Changes to the units of the stream.
#[derive(Arbitrary, Debug)]
struct Damage {
    /// Unit, position, new value.
    bytes: Vec<(u8, u16, u8)>,
    /// Unit and how long it is from then on.
    cut: Option<(u8, u16)>,
    /// A unit that is left out.
    lost: Option<u8>,
}

/// The model, and a stream that was made with it.
fn stream() -> &'static (Arc<Model>, Vec<Vec<u8>>) {
    static STREAM: OnceLock<(Arc<Model>, Vec<Vec<u8>>)> = OnceLock::new();
    STREAM.get_or_init(|| {
        let model = Model::load(&ModelSource::Embedded, "cpu").expect("the embedded model");
        let sequence = SequenceHeader::new(WIDTH as u32, HEIGHT as u32, (25, 1));
        let mut encoder = Encoder::new(model.clone(), sequence, EncoderSettings::default()).expect("an encoder");
        let mut units = Vec::new();
        for t in 0..FRAMES {
            units.extend(encoder.push(frame(t), false).expect("units"));
        }
        units.extend(encoder.drain().expect("units"));
        (model, units.into_iter().map(|unit| unit.bytes).collect())
    })
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
    let (model, good) = stream();
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
