// SPDX-License-Identifier: MPL-2.0
//! Batches of augmented samples from clips.

use std::sync::mpsc::sync_channel;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tch::{Device, Tensor};

use super::alignment::{followed, path, squares};
use crate::bitstream::{Position, POSITIONS_PER_SAMPLE};
use crate::media::Clip;
use crate::model::picture;

/// A sample shows a window of the clip that is this many times its size: enlarged pictures are blurred, and what is to be coded
/// is mostly made smaller from something larger.
const WINDOW_SCALES: [f64; 2] = [1.0, 2.2];

/// Share of the samples that follow the camera where the clip has room, of those that are neither frozen nor panned: an encoder does not follow
/// everywhere.
const FOLLOWED: f64 = 0.8;

/// Batches that wait for a GPU.
const BATCHES_AHEAD: usize = 2;

/// Shape of the samples of a batch.
#[derive(Clone, Copy, Debug)]
pub struct SampleShape {
    pub batch: i64,
    /// Frames of a sample.
    pub frames: i64,
    /// Width and height of a sample, a multiple of 16.
    pub size: i64,
}

/// Draws augmented samples: little footage must not be learnt by heart, and still pictures must be seen.
pub struct Sampler {
    sources: Vec<Source>,
    device: Device,
    rng: StdRng,
}

/// A clip, and where the camera was in each of its frames.
struct Source {
    clip: Clip,
    path: Vec<Position>,
}

impl Source {
    fn new(clip: &Clip, device: Device) -> Source {
        Source {
            path: path(clip),
            clip: clip.to_device(device),
        }
    }
}

impl Sampler {
    pub fn new(clips: Vec<Clip>, device: Device, seed: u64) -> Sampler {
        Sampler {
            sources: clips.iter().map(|clip| Source::new(clip, device)).collect(),
            device,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Batches without end. For a GPU they are made ahead by a thread of their own: they are many small pieces of work, between which it
    /// would have nothing to do. Ends where that thread fails.
    pub fn batches(mut self, shape: SampleShape) -> Box<dyn Iterator<Item = Tensor>> {
        if self.device == Device::Cpu {
            return Box::new(std::iter::repeat_with(move || self.batch(shape)));
        }
        let (sender, receiver) = sync_channel(BATCHES_AHEAD);
        std::thread::spawn(move || while sender.send(self.batch(shape)).is_ok() {});
        Box::new(receiver.into_iter())
    }

    /// Quad pictures `[batch, frames, 6, size/2, size/2]` f32 in [-1, 1].
    pub fn batch(&mut self, shape: SampleShape) -> Tensor {
        let samples: Vec<Tensor> = (0..shape.batch).map(|_| self.sample(shape)).collect();
        Tensor::stack(&samples, 0)
    }

    fn sample(&mut self, shape: SampleShape) -> Tensor {
        let rng = &mut self.rng;
        // Long clips count more, but not in proportion: scenes matter, not minutes.
        let weight = |source: &Source| (source.clip.frames().min(300) as f64).sqrt();
        let mut at = rng.random::<f64>() * self.sources.iter().map(weight).sum::<f64>();
        let source = self.sources.iter().find(|source| {
            at -= weight(source);
            at < 0.0
        });
        let Source { clip, path } = source.unwrap_or(&self.sources[0]);

        let times = frame_indices(rng, clip.frames(), shape.frames);
        let still = times.windows(2).all(|t| t[0] == t[1]);
        let (w, h) = clip.size();
        let [least, most] = WINDOW_SCALES;
        let scale = least * (most / least).powf(rng.random::<f64>());
        let side = ((shape.size as f64 * scale) as i64).min(w).min(h) & !1;
        let pan = still || rng.random_bool(0.1);
        let moved: Vec<Position> = times.iter().map(|&time| path[time as usize]).collect();
        let moved = (!pan && rng.random_bool(FOLLOWED)).then_some(&moved[..]);
        let corners = window_path(rng, (w - side, h - side), shape.frames, (moved, pan));

        let times = Tensor::from_slice(&times).to_device(self.device);
        let crop = |planes: &Tensor, is_chroma: bool| {
            let planes = planes.index_select(0, &times);
            let side = if is_chroma { side / 2 } else { side };
            squares(&planes, &corners, side, is_chroma)
        };
        let luma = resize(&crop(&clip.luma.unsqueeze(1), false), shape.size).squeeze_dim(1);
        let chroma = resize(&crop(&clip.chroma, true), shape.size / 2);
        let quad = picture::quad_from_planes(&luma, &chroma).expect("planes of equal size");
        augment(rng, quad)
    }
}

/// Which frames a sample takes: a stride, either direction, back and forth where the clip is short, now and
/// then a frozen picture.
fn frame_indices(rng: &mut StdRng, available: i64, wanted: i64) -> Vec<i64> {
    if available == 1 || rng.random_bool(0.08) {
        return vec![rng.random_range(0..available); wanted as usize];
    }
    let stride = [1, 1, 1, 1, 2, 3][rng.random_range(0..6)];
    let stride = if (wanted - 1) * stride < available { stride } else { 1 };
    let start = rng.random_range(0..(available - (wanted - 1) * stride).max(1));
    let period = 2 * (available - 1);
    let mut times: Vec<i64> = (0..wanted)
        .map(|i| {
            let t = (start + i * stride) % period;
            t.min(period - t)
        })
        .collect();
    if rng.random_bool(0.3) {
        times.reverse();
    }
    if rng.random_bool(0.06) {
        // A picture that comes to rest.
        let at = rng.random_range(0..times.len());
        let frozen = times[at];
        times[at..].fill(frozen);
    }
    times
}

/// Where the window's corner is in each frame, in quarters of a sample, with so many samples of room. It goes with a camera that has `moved`
/// as far as there is room for that; with `pan` it may move on its own; otherwise it stays, at even samples.
fn window_path(
    rng: &mut StdRng,
    room: (i64, i64),
    frames: i64,
    (moved, pan): (Option<&[Position]>, bool),
) -> Vec<Position> {
    let moving = pan && rng.random_bool(0.6);
    let quarters = f64::from(POSITIONS_PER_SAMPLE);
    let room = [room.0, room.1].map(|samples| samples as i32 * POSITIONS_PER_SAMPLE);
    let starts: [f64; 2] = [rng.random(), rng.random()];
    let moved = moved.filter(|moved| moved.iter().any(|at| *at != moved[0]));
    let way = |moved: &[Position]| -> Option<Vec<Position>> {
        let axis = |of: fn(&Position) -> i32| moved.iter().map(of).collect::<Vec<i32>>();
        let xs = followed(&axis(|at| at.0), room[0], starts[0])?;
        let ys = followed(&axis(|at| at.1), room[1], starts[1])?;
        Some(xs.into_iter().zip(ys).collect())
    };
    if let Some(way) = moved.and_then(way) {
        return way;
    }
    let mut along = |axis: usize| -> Vec<i32> {
        let room = room[axis];
        let start = (starts[axis] * f64::from(room)) as i32 & !(2 * POSITIONS_PER_SAMPLE - 1);
        let speed = if moving {
            rng.random_range(-4.0..4.0) * quarters
        } else {
            0.0
        };
        let at = |frame: i64| (start + (speed * frame as f64) as i32).clamp(0, room);
        (0..frames).map(at).collect()
    };
    let (xs, ys) = (along(0), along(1));
    xs.into_iter().zip(ys).collect()
}

fn resize(xs: &Tensor, size: i64) -> Tensor {
    if xs.size()[2] == size {
        return xs.shallow_clone();
    }
    xs.internal_upsample_bilinear2d_aa([size, size], false, None, None)
}

/// Mirror image, brightness, contrast and saturation.
fn augment(rng: &mut StdRng, quad: Tensor) -> Tensor {
    let (mut luma, mut chroma) = (quad.narrow(1, 0, 4), quad.narrow(1, 4, 2));
    if rng.random_bool(0.5) {
        luma = luma
            .flip([3])
            .index_select(1, &Tensor::from_slice(&[1i64, 0, 3, 2]).to_device(quad.device()));
        chroma = chroma.flip([3]);
    }
    if rng.random_bool(0.5) {
        luma = luma * rng.random_range(0.8..1.15) + rng.random_range(-0.12..0.12);
        chroma *= rng.random_range(0.7..1.5);
    }
    Tensor::cat(&[luma, chroma], 1).clamp(-1.0, 1.0)
}
