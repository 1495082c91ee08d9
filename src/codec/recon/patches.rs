// SPDX-License-Identifier: MPL-2.0
//! The samples of a network's patches, put into the planes of frames in one pass.

use tch::TchError;

use crate::codec::Frame;
use crate::model::config::PatchConfig;
use crate::model::{values, Patches};

/// Channels of a quad picture: the four luma samples of a square, Cb, Cr.
const QUAD: usize = 6;

/// Frames of `width` x `height` from the patches of quad pictures, which may cover more.
pub fn frames_of_patches(
    patches: &Patches,
    config: PatchConfig,
    (width, height): (usize, usize),
) -> Result<Vec<Frame>, TchError> {
    let (groups, channels, rows, columns) = patches.values.size4()?;
    let samples = values(&patches.values.f_permute([0, 2, 3, 1])?)?;
    let (time, space) = (config.time as usize, config.space as usize);
    let places = places(space, width);
    let mut frames = Vec::new();
    for (number, group) in samples.chunks(samples.len() / groups.max(1) as usize).enumerate() {
        let skipped = if number == 0 { patches.skipped as usize } else { 0 };
        let mut group_frames = vec![blank(width, height); time];
        for (at, patch) in group
            .chunks(channels as usize)
            .take((rows * columns) as usize)
            .enumerate()
        {
            let corner = (at % columns as usize * space, at / columns as usize * space);
            for (frame, samples) in group_frames.iter_mut().zip(patch.chunks(places.len())).skip(skipped) {
                put(frame, corner, samples, &places);
            }
        }
        frames.extend(group_frames.drain(skipped..));
    }
    Ok(frames)
}

/// Where a sample of a patch belongs: its plane, its column and row there from the corner of the patch, and how far behind that it is
/// in memory.
struct Place {
    plane: usize,
    x: usize,
    y: usize,
    offset: usize,
}

/// The samples of one frame of a patch, channel by channel, each of `space` x `space`, in frames of a width.
fn places(space: usize, width: usize) -> Vec<Place> {
    let place = |at: usize| {
        let (channel, y, x) = (at / (space * space), at / space % space, at % space);
        let (plane, x, y) = match channel {
            0..4 => (0, 2 * x + channel % 2, 2 * y + channel / 2),
            _ => (channel - 3, x, y),
        };
        let (stride, _) = Frame::plane_size(width, 0, plane);
        Place {
            plane,
            x,
            y,
            offset: y * stride + x,
        }
    };
    (0..QUAD * space * space).map(place).collect()
}

/// Puts the samples of a patch into a frame, as far as that goes. `corner`: of the patch in the chroma planes.
fn put(frame: &mut Frame, corner: (usize, usize), samples: &[f32], places: &[Place]) {
    // From -1 to 1; what lies beyond is clamped by the cast.
    let value = |sample: f32| (sample * 127.5 + 128.0) as u8;
    let sizes: [(usize, usize); 3] = std::array::from_fn(|plane| Frame::plane_size(frame.width, frame.height, plane));
    let corners = [(2 * corner.0, 2 * corner.1), corner, corner];
    let side = places.last().map_or(0, |place| place.x + 1);
    let is_whole = 2 * (corner.0 + side) <= frame.width && 2 * (corner.1 + side) <= frame.height;
    if is_whole {
        let starts: [usize; 3] = std::array::from_fn(|plane| corners[plane].1 * sizes[plane].0 + corners[plane].0);
        for (place, &sample) in places.iter().zip(samples) {
            frame.planes[place.plane][starts[place.plane] + place.offset] = value(sample);
        }
        return;
    }
    for (place, &sample) in places.iter().zip(samples) {
        let (width, height) = sizes[place.plane];
        let (x, y) = (corners[place.plane].0 + place.x, corners[place.plane].1 + place.y);
        if x < width && y < height {
            frame.planes[place.plane][y * width + x] = value(sample);
        }
    }
}

fn blank(width: usize, height: usize) -> Frame {
    let plane = |number| {
        let (w, h) = Frame::plane_size(width, height, number);
        vec![0; w * h]
    };
    Frame {
        width,
        height,
        planes: std::array::from_fn(plane),
        pts: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Transform;
    use crate::model::patch::{patch, unpatch};
    use crate::model::StreamState;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn frames_are_those_of_the_whole_pictures() {
        for space in [2, 4] {
            let config = PatchConfig {
                transform: Transform::Raw,
                time: 4,
                space,
            };
            // The samples of 46x29, odd ones too, go beyond what can be shown.
            let shape = [1, 9, 6, 16, 24];
            let codes = Tensor::randint_low(-12, 268, shape, (Kind::Float, Device::Cpu));
            // Never half way between two codes, where the one is as right as the other.
            let off = Tensor::rand(shape, (Kind::Float, Device::Cpu)) * 0.8 - 0.4;
            let quads = (codes + off - 127.5) / 127.5;
            let values = patch(&config, &quads, &StreamState::default()).unwrap();
            let whole = unpatch(&config, &values, 1, 6, 3).unwrap();
            let frames = frames_of_patches(&Patches { values, skipped: 3 }, config, (46, 29)).unwrap();
            let expected = Frame::from_quads(&whole, 46, 29).unwrap();
            assert_eq!(frames.len(), expected.len());
            for (frame, expected) in frames.iter().zip(&expected) {
                assert!(frame == expected, "space {space}");
            }
        }
    }
}
