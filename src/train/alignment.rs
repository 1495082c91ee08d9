// SPDX-License-Identifier: MPL-2.0
//! Clips as the encoder aligns them: samples that follow the camera.

use tch::{Kind, Tensor};

use crate::bitstream::{Position, POSITIONS_PER_SAMPLE};
use crate::codec::{camera_path, weights, Frame, BEFORE, ONE, PHASES, TAPS};
use crate::media::Clip;

/// Frames from one key unit to the next: the way is found anew with each.
const GROUP: i64 = 97;

/// Where the encoder puts each frame of a clip, in quarters of a sample. Groups of pictures go on where the one before ends.
pub fn path(clip: &Clip) -> Vec<Position> {
    let mut path: Vec<Position> = Vec::new();
    // A group begins with the last frame of the one before.
    for from in (0..clip.frames()).step_by(GROUP as usize - 1) {
        let frames: Vec<Frame> = (from..clip.frames().min(from + GROUP))
            .map(|at| clip.frame(at).expect("planes are of bytes"))
            .collect();
        let (x, y) = path.pop().unwrap_or_default();
        path.extend(camera_path(&frames).into_iter().map(|(dx, dy)| (x + dx, y + dy)));
    }
    path
}

/// Where a window of samples begins in frames that move along `moved`, so that it goes with them and stays within `room`, all in quarters
/// of a sample; `start` says which of the possible ways, 0 to 1. `None` where there is none.
pub fn followed(moved: &[i32], room: i32, start: f64) -> Option<Vec<i32>> {
    let first = moved.first()?;
    let (low, high) = (moved.iter().min()? - first, moved.iter().max()? - first);
    let free = room - (high - low);
    // A frame that lies further to the right shows the same further to the left.
    let start = high + (f64::from(free) * start) as i32;
    (free >= 0).then(|| moved.iter().map(|at| start - (at - first)).collect())
}

/// Squares cut out of planes `[t, channels, h, w]` u8 -> `[t, channels, side, side]` f32 from 0 to 255, interpolated as the codec does.
/// `corners`: of the square in each of them, in quarters of a luma sample. `is_chroma`: whether they have half the samples.
pub fn squares(planes: &Tensor, corners: &[Position], side: i64, is_chroma: bool) -> Tensor {
    let (frames, channels, height, width) = planes.size4().expect("planes of four dimensions");
    let device = planes.device();
    let eighths = if is_chroma {
        1
    } else {
        PHASES as i32 / POSITIONS_PER_SAMPLE
    };
    let split = |quarters: i32| {
        let at = quarters * eighths;
        (at.div_euclid(PHASES as i32), at.rem_euclid(PHASES as i32) as usize)
    };
    let around = |from: i32, size: i64| {
        let first = i64::from(from) - BEFORE as i64;
        (Tensor::arange(side + TAPS as i64 - 1, (Kind::Int64, device)) + first).clamp(0, size - 1)
    };
    let cut = |(at, corner): (usize, &Position)| {
        let rows = around(split(corner.1).0, height);
        let columns = around(split(corner.0).0, width);
        planes.get(at as i64).index_select(1, &rows).index_select(2, &columns)
    };
    let cut: Vec<Tensor> = corners.iter().enumerate().map(cut).collect();
    let kernels = |along: &dyn Fn(&Position) -> i32, shape: [i64; 4]| {
        let phases = corners
            .iter()
            .flat_map(|corner| vec![split(along(corner)).1; channels as usize]);
        let values: Vec<f32> = phases.flat_map(weights).map(|weight| weight / ONE).collect();
        Tensor::from_slice(&values).view(shape).to_device(device)
    };
    let (maps, taps) = (frames * channels, TAPS as i64);
    let across = kernels(&|corner| corner.0, [maps, 1, 1, taps]);
    let down = kernels(&|corner| corner.1, [maps, 1, taps, 1]);
    let filter = |xs: &Tensor, kernel: &Tensor| xs.conv2d(kernel, None::<&Tensor>, [1, 1], [0, 0], [1, 1], maps);
    let xs = Tensor::stack(&cut, 0).to_kind(Kind::Float).flatten(0, 1).unsqueeze(0);
    let squares = filter(&filter(&xs, &across), &down);
    (squares + 0.5)
        .floor()
        .clamp(0, 255)
        .view([frames, channels, side, side])
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// A clip that pans over noise by one and a half samples a frame.
    fn panned(frames: i64) -> Clip {
        tch::manual_seed(3);
        let world = Tensor::rand([1, 1, 48, 160], (Kind::Float, Device::Cpu)) * 255.0;
        let world = world.upsample_bilinear2d([192, 640], false, None, None);
        let luma: Vec<Tensor> = (0..frames)
            .map(|t| world.slice(3, 3 * t, 3 * t + 256, 2).slice(2, 0, 128, 2).squeeze())
            .collect();
        let luma = Tensor::stack(&luma, 0).round().to_kind(Kind::Uint8);
        let chroma = Tensor::full([frames, 2, 32, 64], 128, (Kind::Uint8, Device::Cpu));
        Clip {
            name: String::new(),
            luma,
            chroma,
            frame_rate: 25.0,
        }
    }

    #[test]
    fn what_follows_the_camera_stands_still() {
        let clip = panned(113);
        let path = path(&clip);
        assert!(
            path.iter()
                .enumerate()
                .all(|(t, at)| (at.0 - 6 * t as i32).abs() <= 1 && at.1.abs() <= 1),
            "{path:?}"
        );
        let moved: Vec<i32> = path[..17].iter().map(|at| at.0).collect();
        // Content moves to the left: so does the window.
        let xs = followed(&moved, 4 * (128 - 64), 0.5).unwrap();
        let corners: Vec<Position> = xs.iter().map(|x| (*x, 0)).collect();
        let still = squares(&clip.luma.narrow(0, 0, 17).unsqueeze(1), &corners, 64, false);
        let change = (still.get(16) - still.get(0))
            .abs()
            .slice(2, 4, 60, 1)
            .mean(Kind::Float);
        assert!(f64::try_from(change).unwrap() < 3.0);
    }

    #[test]
    fn squares_are_what_the_codec_cuts_out() {
        let clip = panned(2);
        let corners = [(5, -3), (4 * 61 + 2, 8)];
        let luma = squares(&clip.luma.unsqueeze(1), &corners, 32, false);
        let chroma = squares(&clip.chroma, &corners, 16, true);
        for (at, corner) in corners.iter().enumerate() {
            let cut = crate::codec::cut(&clip.frame(at as i64).unwrap(), *corner, (32, 32));
            let values = |t: Tensor| Vec::<u8>::try_from(t.to_kind(Kind::Uint8).flatten(0, -1)).unwrap();
            assert_eq!(values(luma.get(at as i64)), cut.planes[0]);
            assert_eq!(values(chroma.get(at as i64).get(1)), cut.planes[2]);
        }
    }

    #[test]
    fn ways_without_room_are_not_followed() {
        assert_eq!(followed(&[0, 4, 10], 9, 0.0), None);
        assert_eq!(followed(&[0, 4, 10], 10, 0.7), Some(vec![10, 6, 0]));
    }
}
