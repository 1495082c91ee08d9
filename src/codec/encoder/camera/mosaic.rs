// SPDX-License-Identifier: MPL-2.0
//! What is known of the world: the frames of a unit laid over what earlier ones have shown.

use crate::bitstream::{Position, Window, POSITIONS_PER_SAMPLE};
use crate::codec::halves::in_halves;
use crate::codec::interpolation::cut;
use crate::codec::Frame;
use crate::entropy::Camera;

/// Quarters of a luma sample to a sample of chroma.
const CHROMA: i32 = 2 * POSITIONS_PER_SAMPLE;

/// The world as far as a window goes.
#[derive(Debug)]
pub struct Mosaic {
    window: Window,
    picture: Frame,
}

/// A frame at its place in a window: whole samples of it and of chroma.
struct Placed {
    part: Frame,
    /// Column and row of luma where it begins, even numbers.
    corner: (usize, usize),
}

impl Mosaic {
    /// Of a key frame.
    pub fn new(window: Window, frame: &Frame) -> Mosaic {
        Mosaic {
            window,
            picture: frame.clone(),
        }
    }

    /// Goes on in another window; what was seen last of each of its places.
    pub fn seen(&mut self, window: Window) -> &Frame {
        if self.window != window {
            self.picture = self.picture.seen(&self.window, &window);
            self.window = window;
        }
        &self.picture
    }

    /// Takes the frames of a unit and gives the pictures of its window, none where those are the frames themselves. What a frame does not
    /// show is taken from the last that did, those after it in the unit too: so that it stands still from the first picture on.
    pub fn push(&mut self, camera: &Camera, frames: &[&Frame]) -> Vec<Frame> {
        let window = camera.window;
        if camera.is_picture() {
            if let Some(last) = frames.last() {
                *self = Mosaic::new(window, last);
            }
            return vec![];
        }
        self.seen(window);
        let offsets = camera
            .positions
            .iter()
            .map(|&position| window.offset(position).unwrap_or_default());
        let frames: Vec<(&Frame, Position)> = frames.iter().copied().zip(offsets).collect();
        let placed = place(&frames, window.size());
        placed.iter().for_each(|placed| placed.lay(&mut self.picture));
        let picture = |(placed, (frame, _)): (&Placed, &(&Frame, Position))| {
            let mut picture = Frame {
                pts: frame.pts,
                ..self.picture.clone()
            };
            placed.lay(&mut picture);
            picture
        };
        placed.iter().zip(&frames).map(picture).collect()
    }
}

/// Frames at their offsets in a window of a size.
fn place(frames: &[(&Frame, Position)], size: (usize, usize)) -> Vec<Placed> {
    in_halves(frames, |frames| {
        let placed = frames.iter().map(|(frame, offset)| Placed::new(frame, *offset, size));
        placed.collect()
    })
}

impl Placed {
    fn new(frame: &Frame, offset: Position, (width, height): (usize, usize)) -> Placed {
        // Outwards to whole samples of chroma, as far as the window goes.
        let range = |offset: i32, size: usize, window: usize| {
            let from = 2 * offset.div_euclid(CHROMA);
            let end = offset + POSITIONS_PER_SAMPLE * size as i32;
            let to = (-2 * (-end).div_euclid(CHROMA)).min(window as i32);
            (from, (to - from) as usize)
        };
        let (left, columns) = range(offset.0, frame.width, width);
        let (top, rows) = range(offset.1, frame.height, height);
        let start = (
            POSITIONS_PER_SAMPLE * left - offset.0,
            POSITIONS_PER_SAMPLE * top - offset.1,
        );
        Placed {
            part: cut(frame, start, (columns, rows)),
            corner: (left as usize, top as usize),
        }
    }

    fn lay(&self, picture: &mut Frame) {
        for plane in 0..3 {
            let (width, _) = Frame::plane_size(picture.width, picture.height, plane);
            let (columns, _) = Frame::plane_size(self.part.width, self.part.height, plane);
            let (left, top) = match plane {
                0 => self.corner,
                _ => (self.corner.0 / 2, self.corner.1 / 2),
            };
            let rows = self.part.planes[plane].chunks_exact(columns);
            for (row, samples) in rows.enumerate() {
                picture.planes[plane][(top + row) * width + left..][..columns].copy_from_slice(samples);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::{Grid, SequenceHeader};

    /// Columns of a world, each with a value of its own, from one on.
    fn columns(from: usize, width: usize) -> Frame {
        let plane = |number: usize| {
            let (w, h) = Frame::plane_size(width, 32, number);
            let scale = if number == 0 { 1 } else { 2 };
            (0..w * h).map(|at| (from + at % w * scale) as u8).collect()
        };
        Frame {
            width,
            height: 32,
            planes: [plane(0), plane(1), plane(2)],
            pts: None,
        }
    }

    #[test]
    fn frames_fill_the_window_and_what_was_seen_stays() {
        let grid = Grid::new(&SequenceHeader::new(64, 32, (25, 1)), 16, 2, true);
        let mut mosaic = Mosaic::new(Window::picture(grid), &columns(100, 64));
        // Eight and sixteen samples to the right.
        let (first, second) = (columns(108, 64), columns(116, 64));
        let pictures = mosaic.push(&Camera::at(grid, vec![(32, 0), (64, 0)]).unwrap(), &[&first, &second]);
        // All of the world from 100 to 179 has been seen by then, in both pictures.
        let world = columns(100, 80);
        assert_eq!(pictures[0], world);
        assert_eq!(pictures[1], world);
        assert_eq!(pictures[0].planes[0][79], 179);
    }

    #[test]
    fn pictures_that_do_not_move_are_the_frames_and_the_last_one_is_the_world() {
        let grid = Grid::new(&SequenceHeader::new(64, 32, (25, 1)), 16, 1, true);
        let mut mosaic = Mosaic::new(Window::picture(grid), &columns(100, 64));
        let next = columns(30, 64);
        assert!(mosaic.push(&Camera::key(grid), &[&next]).is_empty());
        assert_eq!(mosaic.picture, next);
    }

    #[test]
    fn frames_between_samples_reach_to_the_window_edges() {
        let grid = Grid::new(&SequenceHeader::new(64, 32, (25, 1)), 16, 1, true);
        for (position, size) in [
            ((1, 3), (80, 48)),
            ((-1, 0), (80, 32)),
            ((61, -47), (80, 48)),
            ((64, 64), (64, 32)),
        ] {
            let mut mosaic = Mosaic::new(Window::picture(grid), &columns(100, 64));
            let camera = Camera::at(grid, vec![position]).unwrap();
            let picture = mosaic.push(&camera, &[&columns(100, 64)]).remove(0);
            assert_eq!((picture.width, picture.height), size);
            assert!(picture.is_whole());
        }
    }
}
