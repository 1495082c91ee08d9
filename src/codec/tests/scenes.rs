// SPDX-License-Identifier: MPL-2.0
//! Landscapes that a camera sees, and their way through the codec with the built-in model.

use super::*;
use crate::model::ModelSource;

pub const WIDTH: usize = 112;
pub const HEIGHT: usize = 80;

pub fn model() -> Arc<Model> {
    Model::load(&ModelSource::Embedded, "cpu").unwrap()
}

/// A landscape as a camera sees it from a place, in samples.
pub fn view((left, top): (f64, f64), number: usize) -> Frame {
    let plane = |plane: usize| {
        let (w, h) = Frame::plane_size(WIDTH, HEIGHT, plane);
        let scale = if plane == 0 { 1.0 } else { 2.0 };
        let sample = |at: usize| {
            let (x, y) = (left + scale * (at % w) as f64, top + scale * (at / w) as f64);
            let waves = [
                (0.21, 0.05, 30.0),
                (0.07, -0.26, 25.0),
                (-0.39, 0.17, 20.0),
                (0.031, 0.043, 25.0),
            ];
            let sum: f64 = waves
                .iter()
                .map(|(a, b, high)| high * (a * x + b * y + high).sin())
                .sum();
            (128.0 + if plane == 0 { sum } else { 0.3 * sum }) as u8
        };
        (0..w * h).map(sample).collect()
    };
    Frame {
        width: WIDTH,
        height: HEIGHT,
        planes: [plane(0), plane(1), plane(2)],
        pts: Some(number as u64 * FRAME_NS),
    }
}

pub fn encode(settings: EncoderSettings, frames: impl Iterator<Item = Frame>) -> Vec<AccessUnit> {
    let sequence = SequenceHeader::new(WIDTH as u32, HEIGHT as u32, (25, 1));
    let mut encoder = Encoder::new(model(), sequence, settings).unwrap();
    let mut units: Vec<_> = frames.flat_map(|frame| encoder.push(frame, false).unwrap()).collect();
    units.extend(encoder.drain().unwrap());
    units
}

pub fn decode<'a>(units: impl IntoIterator<Item = &'a AccessUnit>) -> Vec<Frame> {
    let mut decoder = Decoder::new(model());
    let decode = |unit: &AccessUnit| decoder.decode(&unit.bytes).unwrap().frames;
    units.into_iter().flat_map(decode).collect()
}

/// Mean squared error of luma of frames at their times.
pub fn error(frames: &[Frame], source: impl Fn(usize) -> Frame) -> f64 {
    let of_frame = |frame: &Frame| {
        let source = source((frame.pts.unwrap() / FRAME_NS) as usize);
        let pairs = frame.planes[0].iter().zip(&source.planes[0]);
        pairs.map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum::<f64>() / (WIDTH * HEIGHT) as f64
    };
    frames.iter().map(of_frame).sum::<f64>() / frames.len() as f64
}

pub fn bytes(units: &[AccessUnit]) -> usize {
    units.iter().map(|unit| unit.bytes.len()).sum()
}

/// The frames of units that are painted, as each unit, by number, is wanted.
pub fn painted(units: &[AccessUnit], wanted: fn(usize) -> Wanted) -> Vec<Frame> {
    let mut entropy = EntropyDecoder::new(model());
    let mut painter = Painter::new(model(), DecoderSettings::default());
    let paint = |(at, unit): (usize, &AccessUnit)| {
        let symbols = entropy.decode(&unit.bytes).unwrap();
        painter.run(&symbols, wanted(at)).unwrap()
    };
    units.iter().enumerate().flat_map(paint).flatten().collect()
}
