// SPDX-License-Identifier: MPL-2.0
//! Finds cuts: a picture after a cut is cheaper and better as a key unit.

use crate::codec::Frame;

/// Luma is compared by the means of this many cells along each side.
const CELLS: usize = 16;
/// A cut changes the cells by more than this on average (0 to 255) ...
const MIN_CHANGE: f32 = 18.0;
/// ... and by this much more than the pictures before did.
const OVER_USUAL: f32 = 4.0;
/// How fast the usual change follows.
const FOLLOW: f32 = 0.2;

/// Remembers the last picture in thumbnail form.
#[derive(Debug, Default)]
pub struct SceneDetector {
    last: Option<Vec<f32>>,
    usual_change: f32,
}

impl SceneDetector {
    /// Takes the next picture; true if it starts a new scene.
    pub fn is_cut(&mut self, frame: &Frame) -> bool {
        let cells = thumbnail(frame);
        let change = self.last.as_ref().map(|last| {
            let sum: f32 = last.iter().zip(&cells).map(|(a, b)| (a - b).abs()).sum();
            sum / cells.len() as f32
        });
        self.last = Some(cells);
        let Some(change) = change else { return false };
        let is_cut = change > MIN_CHANGE && change > OVER_USUAL * self.usual_change;
        if !is_cut {
            self.usual_change += FOLLOW * (change - self.usual_change);
        }
        is_cut
    }
}

/// Mean luma of each cell; at most every fourth sample of a large picture is read.
fn thumbnail(frame: &Frame) -> Vec<f32> {
    let (width, height) = (frame.width, frame.height);
    let step = if width * height > 320 * 240 { 2 } else { 1 };
    let mut cells = Vec::with_capacity(CELLS * CELLS);
    for cy in 0..CELLS {
        for cx in 0..CELLS {
            let rows = cy * height / CELLS..(cy + 1) * height / CELLS;
            let columns = cx * width / CELLS..(cx + 1) * width / CELLS;
            let (mut sum, mut count) = (0u32, 0u32);
            for y in rows.step_by(step) {
                for x in columns.clone().step_by(step) {
                    sum += u32::from(frame.planes[0][y * width + x]);
                    count += 1;
                }
            }
            cells.push(sum as f32 / count.max(1) as f32);
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(value: impl Fn(usize, usize) -> u8) -> Frame {
        let luma = (0..64 * 48).map(|i| value(i % 64, i / 64)).collect();
        Frame {
            width: 64,
            height: 48,
            planes: [luma, vec![128; 32 * 24], vec![128; 32 * 24]],
            pts: None,
        }
    }

    #[test]
    fn a_new_scene_is_a_cut_and_the_next_picture_of_it_is_not() {
        let mut detector = SceneDetector::default();
        let (a, b) = (picture(|x, _| x as u8 * 4), picture(|x, _| 255 - x as u8 * 4));
        assert_eq!(
            [&a, &a, &b, &b].map(|f| detector.is_cut(f)),
            [false, false, true, false]
        );
    }

    #[test]
    fn a_pan_is_no_cut() {
        let mut detector = SceneDetector::default();
        let cut = |t: usize| picture(move |x, y| ((x + 2 * t) * 3 + y * 2) as u8);
        assert!((0..20).all(|t| !detector.is_cut(&cut(t)) || t == 0));
    }
}
