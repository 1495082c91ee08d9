// SPDX-License-Identifier: MPL-2.0
//! Symbols to pictures as they are shown: the reconstruction loop, and behind it what nothing refers to.

use std::sync::Arc;

use super::post_filter::TemporalFilter;
use super::symbols::ParsedUnit;
use super::DecoderSettings;
use crate::bitstream::{FrameTimes, SequenceHeader, Window};
use crate::codec::interpolation::cut;
use crate::codec::recon::{Reconstruction, Wanted};
use crate::codec::{CodecError, Frame};
use crate::entropy::{Camera, EntropyError};
use crate::model::Model;

/// Paints a stream's units, one after the other.
pub struct Painter {
    model: Arc<Model>,
    settings: DecoderSettings,
    stream: Option<Stream>,
}

/// What lasts from a key unit to the next.
struct Stream {
    reconstruction: Reconstruction,
    temporal_filter: TemporalFilter,
    /// Of the last unit.
    window: Window,
}

impl Painter {
    /// Before the first unit.
    pub fn new(model: Arc<Model>, settings: DecoderSettings) -> Painter {
        Painter {
            model,
            settings,
            stream: None,
        }
    }

    /// Paints the next unit: its frames, `None` where they were not wanted. Key units are painted all the same. After an error nothing can
    /// be painted until the next key unit.
    pub fn run(&mut self, unit: &ParsedUnit, wanted: Wanted) -> Result<Vec<Option<Frame>>, CodecError> {
        let stream = self.stream.take();
        let started = unit.is_key.then(|| Stream {
            reconstruction: Reconstruction::new(&self.model, unit.sequence, self.settings.reconstruction),
            temporal_filter: TemporalFilter::default(),
            window: unit.symbols.camera.window,
        });
        let mut stream = started.or(stream).ok_or(CodecError::NoKeyUnit)?;
        let wanted = if unit.is_key { Wanted::All } else { wanted };
        let mut frames =
            stream
                .reconstruction
                .push(&self.model, (&unit.symbols, &unit.lost_positions), wanted, |_| ())?;
        let group = if unit.is_key { 1 } else { self.model.group_frames() };
        // A short unit is a whole one for the networks.
        let unpainted = group.saturating_sub(frames.len());
        frames.truncate(unit.times.len().saturating_sub(unpainted));
        stream.look(unit.symbols.camera.window);
        if self.settings.post_filter {
            frames.iter_mut().for_each(|frame| stream.temporal_filter.push(frame));
        }
        let frames = shown(frames, unpainted, (&unit.symbols.camera, &unit.sequence))?;
        self.stream = Some(stream);
        Ok(timed(frames, unpainted, &unit.times))
    }
}

impl Stream {
    /// Goes on in another window.
    fn look(&mut self, window: Window) {
        let from = std::mem::replace(&mut self.window, window);
        if from != window {
            self.temporal_filter.look(&from, &window);
        }
    }
}

/// The frames of a unit out of pictures as large as its window, of which so many first ones were not painted.
fn shown(
    pictures: Vec<Frame>,
    unpainted: usize,
    (camera, sequence): (&Camera, &SequenceHeader),
) -> Result<Vec<Frame>, CodecError> {
    if camera.is_picture() {
        return Ok(pictures);
    }
    let size = (sequence.width as usize, sequence.height as usize);
    let offsets = camera.offsets().ok_or(EntropyError::Damaged)?;
    let pictures = pictures.iter().zip(offsets.into_iter().skip(unpainted));
    Ok(pictures.map(|(picture, offset)| cut(picture, offset, size)).collect())
}

/// Frames at their times, after so many that were not painted.
fn timed(frames: Vec<Frame>, unpainted: usize, times: &FrameTimes) -> Vec<Option<Frame>> {
    let mut all = vec![None; unpainted.min(times.len())];
    all.extend(frames.into_iter().map(Some));
    for (frame, time) in all.iter_mut().zip(times) {
        if let Some(frame) = frame {
            frame.pts = *time;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Decoder, Encoder, EncoderSettings, EntropyDecoder};
    use crate::model::ModelSource;

    const WIDTH: usize = 64;
    const HEIGHT: usize = 48;

    /// A bright bar that moves to and fro over a still pattern.
    fn frame(t: usize) -> Frame {
        let at = (WIDTH - 1).abs_diff(t % (2 * WIDTH));
        let luma = |i: usize| match (i % WIDTH).abs_diff(at) {
            0..6 => 200,
            _ => 60 + ((i % WIDTH) * 5 + (i / WIDTH) * 3) as u8 % 80,
        };
        Frame {
            width: WIDTH,
            height: HEIGHT,
            planes: [
                (0..WIDTH * HEIGHT).map(luma).collect(),
                vec![120; WIDTH * HEIGHT / 4],
                vec![130; WIDTH * HEIGHT / 4],
            ],
            pts: Some(t as u64 * 40_000_000),
        }
    }

    /// Access units of 97 frames, with residual or without.
    fn units(model: &Arc<Model>, quantizer: u32) -> Vec<Vec<u8>> {
        let settings = EncoderSettings::at_quantizer(quantizer);
        let sequence = SequenceHeader::new(WIDTH as u32, HEIGHT as u32, (25, 1));
        let mut encoder = Encoder::new(model.clone(), sequence, settings).unwrap();
        let mut units = vec![];
        (0..97).for_each(|t| units.extend(encoder.push(frame(t), false).unwrap()));
        units.extend(encoder.drain().unwrap());
        units.into_iter().map(|unit| unit.bytes).collect()
    }

    /// Frames of each unit, which are wanted by number.
    fn run(model: &Arc<Model>, units: &[Vec<u8>], wanted: impl Fn(usize) -> Wanted) -> Vec<Vec<Option<Frame>>> {
        let mut entropy = EntropyDecoder::new(model.clone());
        let mut painter = Painter::new(model.clone(), DecoderSettings::default());
        let paint = |(number, unit): (usize, &Vec<u8>)| {
            let symbols = entropy.decode(unit).unwrap();
            painter.run(&symbols, wanted(number)).unwrap()
        };
        units.iter().enumerate().map(paint).collect()
    }

    /// Mean difference of luma samples.
    fn off(a: &Frame, b: &Frame) -> f64 {
        let pairs = a.planes[0].iter().zip(&b.planes[0]);
        pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.planes[0].len() as f64
    }

    fn model() -> Arc<Model> {
        Model::load(&ModelSource::Embedded, "cpu").unwrap()
    }

    #[test]
    fn both_halves_give_what_the_decoder_gives() {
        let model = model();
        let units = units(&model, 20);
        let mut decoder = Decoder::new(model.clone());
        for (unit, frames) in units.iter().zip(run(&model, &units, |_| Wanted::All)) {
            let frames: Vec<Frame> = frames.into_iter().flatten().collect();
            assert_eq!(decoder.decode(unit).unwrap().frames, frames);
        }
    }

    #[test]
    fn what_is_left_out_leaves_the_background_reference_as_it_is() {
        let model = model();
        let units = units(&model, 8);
        let all = run(&model, &units, |_| Wanted::All);
        let some = run(&model, &units, |number| match number {
            3 | 6 | 7 => Wanted::Last,
            _ => Wanted::All,
        });
        assert_eq!(
            some[3].iter().map(Option::is_some).collect::<Vec<_>>(),
            [[false; 4], [true; 4]].concat()
        );
        let pairs = all.iter().flatten().zip(some.iter().flatten());
        for (a, b) in pairs.filter_map(|(a, b)| a.as_ref().zip(b.as_ref())) {
            // But for rounding, and for what the post-filter has seen.
            assert!(off(a, b) < 1.5 && a.pts == b.pts, "{} at {:?}", off(a, b), a.pts);
        }
        let last = |units: &[Vec<Option<Frame>>]| units[12][7].clone().unwrap();
        assert!(off(&last(&all), &last(&some)) < 0.2);
    }

    #[test]
    fn two_units_after_one_that_was_left_out_pictures_are_what_they_would_have_been() {
        let model = model();
        let units = units(&model, 24);
        let all = run(&model, &units, |_| Wanted::All);
        // A key unit is painted whatever is wanted.
        let some = run(&model, &units, |number| match number {
            0 | 4 | 5 => Wanted::None,
            _ => Wanted::All,
        });
        let counts: Vec<usize> = some.iter().map(|frames| frames.iter().flatten().count()).collect();
        assert_eq!(counts, [1, 8, 8, 8, 0, 0, 8, 8, 8, 8, 8, 8, 8]);
        assert_eq!(some[4].len(), 8);
        for unit in 8..13 {
            let pairs = all[unit].iter().zip(&some[unit]);
            for (a, b) in pairs.filter_map(|(a, b)| a.as_ref().zip(b.as_ref())) {
                assert!(off(a, b) < 0.5, "{} in unit {unit}", off(a, b));
            }
        }
    }

    #[test]
    fn nothing_is_painted_before_a_key_unit() {
        let model = model();
        let units = units(&model, 40);
        let mut entropy = EntropyDecoder::new(model.clone());
        let symbols: Vec<_> = units[..2].iter().map(|unit| entropy.decode(unit).unwrap()).collect();
        let mut painter = Painter::new(model, DecoderSettings::default());
        let result = painter.run(&symbols[1], Wanted::All);
        assert!(matches!(result, Err(CodecError::NoKeyUnit)));
        assert!(painter.run(&symbols[0], Wanted::All).is_ok());
    }
}
