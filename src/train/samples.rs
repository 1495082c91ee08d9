// SPDX-License-Identifier: MPL-2.0
//! Batches of augmented samples from clips.

use std::sync::mpsc::sync_channel;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tch::{Device, Kind, Tensor};

use crate::media::Clip;
use crate::model::picture;

/// A sample shows a window of the clip that is this many times its size: enlarged pictures are blurred, and what is to be coded
/// is mostly made smaller from something larger.
const WINDOW_SCALES: [f64; 2] = [1.0, 2.2];

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
    clips: Vec<Clip>,
    device: Device,
    rng: StdRng,
}

impl Sampler {
    pub fn new(clips: Vec<Clip>, device: Device, seed: u64) -> Sampler {
        Sampler {
            clips: clips.iter().map(|c| c.to_device(device)).collect(),
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
        let weight = |clip: &Clip| (clip.frames().min(300) as f64).sqrt();
        let mut at = rng.random::<f64>() * self.clips.iter().map(weight).sum::<f64>();
        let clip = self.clips.iter().find(|c| {
            at -= weight(c);
            at < 0.0
        });
        let clip = clip.unwrap_or(&self.clips[0]);

        let times = frame_indices(rng, clip.frames(), shape.frames);
        let still = times.windows(2).all(|t| t[0] == t[1]);
        let (w, h) = clip.size();
        let [least, most] = WINDOW_SCALES;
        let scale = least * (most / least).powf(rng.random::<f64>());
        let side = ((shape.size as f64 * scale) as i64).min(w).min(h) & !1;
        let pan = still || rng.random_bool(0.1);
        let (xs, ys) = window_path(rng, (w - side, h - side), shape.frames, pan);

        let times = Tensor::from_slice(&times).to_device(self.device);
        let crop = |planes: &Tensor, scale: i64| {
            let planes = planes.index_select(0, &times);
            let moving = xs.windows(2).any(|x| x[0] != x[1]) || ys.windows(2).any(|y| y[0] != y[1]);
            let (dim_y, dim_x) = (planes.dim() as i64 - 2, planes.dim() as i64 - 1);
            let cut = |t: &Tensor, i: usize| {
                t.narrow(dim_y, ys[i] / scale, side / scale)
                    .narrow(dim_x, xs[i] / scale, side / scale)
            };
            if !moving {
                return cut(&planes, 0).to_kind(Kind::Float);
            }
            let frames: Vec<_> = (0..xs.len()).map(|i| cut(&planes.narrow(0, i as i64, 1), i)).collect();
            Tensor::cat(&frames, 0).to_kind(Kind::Float)
        };
        let luma = resize(&crop(&clip.luma, 1).unsqueeze(1), shape.size).squeeze_dim(1);
        let chroma = resize(&crop(&clip.chroma, 2), shape.size / 2);
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

/// Left and top edge of the window in each frame, even numbers; it moves when `pan`.
fn window_path(rng: &mut StdRng, room: (i64, i64), frames: i64, pan: bool) -> (Vec<i64>, Vec<i64>) {
    let moving = pan && rng.random_bool(0.6);
    let mut edge = |room: i64| -> Vec<i64> {
        let start = rng.random_range(0..=room);
        let speed = if moving { rng.random_range(-4.0..4.0) } else { 0.0 };
        (0..frames)
            .map(|i| (start + (speed * i as f64) as i64).clamp(0, room) & !1)
            .collect()
    };
    (edge(room.0), edge(room.1))
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
