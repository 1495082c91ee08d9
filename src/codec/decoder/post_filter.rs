// SPDX-License-Identifier: MPL-2.0
//! Temporal smoothing of decoded pictures: what changes little from frame to frame, in its neighbourhood too, is noise of the
//! networks rather than motion, above all from one unit to the next.

use crate::bitstream::Window;
use crate::codec::Frame;

/// Width and height of the neighbourhood over which changes are looked at, in luma samples.
const WINDOW: usize = 5;
/// What a sample keeps of its predecessor where nothing changes ...
const SHARE: f32 = 0.8;
/// ... and the mean change, of samples from 0 to 255, at which it keeps a quarter of that.
const RANGE: f32 = 5.0;

/// Pictures so far, each sample a weighted mean of itself and its predecessor.
#[derive(Debug, Default)]
pub struct TemporalFilter {
    /// Y', Cb, Cr of the last frame, not rounded.
    last: Option<[Vec<f32>; 3]>,
}

impl TemporalFilter {
    /// Goes on in another window, `to`.
    pub fn look(&mut self, from: &Window, to: &Window) {
        for (number, plane) in self.last.iter_mut().flatten().enumerate() {
            *plane = to.view_of_samples(from, number > 0).of(plane, 1);
        }
    }

    /// Smooths the next frame of a stream.
    pub fn push(&mut self, frame: &mut Frame) {
        let Some(last) = &mut self.last else {
            let plane = |number: usize| frame.planes[number].iter().map(|&v| f32::from(v)).collect();
            self.last = Some(std::array::from_fn(plane));
            return;
        };
        let keep = kept(&frame.planes[0], &last[0], frame.width);
        blend(&mut frame.planes[0], &mut last[0], &keep);
        let rows = keep.chunks(frame.width).step_by(2);
        let keep: Vec<f32> = rows.flat_map(|row| row.iter().step_by(2).copied()).collect();
        for (samples, last) in frame.planes.iter_mut().zip(last).skip(1) {
            blend(samples, last, &keep);
        }
    }
}

/// Moves a plane and what is remembered of it on to the next frame.
fn blend(samples: &mut [u8], last: &mut [f32], keep: &[f32]) {
    for ((sample, last), keep) in samples.iter_mut().zip(last).zip(keep) {
        let next = f32::from(*sample);
        *last = next + keep * (*last - next);
        *sample = (*last + 0.5) as u8;
    }
}

/// What each luma sample keeps of its predecessor.
fn kept(next: &[u8], last: &[f32], width: usize) -> Vec<f32> {
    let changes: Vec<f32> = next.iter().zip(last).map(|(a, b)| (f32::from(*a) - b).abs()).collect();
    let scale = 1.0 / (RANGE * (WINDOW * WINDOW) as f32);
    let mut sums = window_sums(&changes, width);
    for sum in &mut sums {
        let relative = *sum * scale;
        let falling = 1.0 + relative * relative;
        *sum = SHARE / (falling * falling);
    }
    sums
}

/// Sums over the window around each sample, the edges repeated.
fn window_sums(plane: &[f32], width: usize) -> Vec<f32> {
    let height = plane.len() / width;
    let reach = WINDOW / 2;
    let mut rows = vec![0.0; plane.len()];
    let mut padded = vec![0.0; width + 2 * reach];
    for (row, sums) in plane.chunks(width).zip(rows.chunks_mut(width)) {
        padded[..reach].fill(row[0]);
        padded[reach..][..width].copy_from_slice(row);
        padded[reach + width..].fill(row[width - 1]);
        for offset in 0..WINDOW {
            add(sums, &padded[offset..][..width]);
        }
    }
    let mut sums = vec![0.0; plane.len()];
    for (y, sums) in sums.chunks_mut(width).enumerate() {
        for offset in 0..WINDOW {
            let from = (y + offset).saturating_sub(reach).min(height - 1);
            add(sums, &rows[from * width..][..width]);
        }
    }
    sums
}

fn add(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 32x16, luma of the left half and of the right half.
    fn frame(left: u8, right: u8) -> Frame {
        Frame {
            width: 32,
            height: 16,
            planes: [
                (0..32 * 16).map(|at| if at % 32 < 16 { left } else { right }).collect(),
                vec![128; 16 * 8],
                vec![128; 16 * 8],
            ],
            pts: None,
        }
    }

    fn smoothed(frames: &[(u8, u8)]) -> Vec<(u8, u8)> {
        let mut temporal_filter = TemporalFilter::default();
        let mut push = |&(left, right): &(u8, u8)| {
            let mut frame = frame(left, right);
            temporal_filter.push(&mut frame);
            assert!(frame.planes[1].iter().all(|sample| *sample == 128));
            (frame.planes[0][0], frame.planes[0][31])
        };
        frames.iter().map(&mut push).collect()
    }

    #[test]
    fn flicker_is_smoothed_and_motion_beside_it_is_not() {
        let found = smoothed(&[(100, 20), (102, 220), (100, 20), (102, 220), (100, 20)]);
        let (flicker, motion): (Vec<u8>, Vec<u8>) = found.into_iter().unzip();
        assert_eq!(motion, [20, 220, 20, 220, 20]);
        assert!(
            flicker.windows(2).all(|pair| pair[0].abs_diff(pair[1]) <= 1),
            "{flicker:?}"
        );
    }

    #[test]
    fn a_small_change_that_stays_is_reached() {
        let mut frames = vec![(100, 100)];
        frames.extend([(102, 102); 16]);
        assert_eq!(smoothed(&frames)[16], (102, 102));
    }
}
