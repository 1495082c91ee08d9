// SPDX-License-Identifier: MPL-2.0
//! Maps of quantised latents, and those of earlier units that a unit refers to.

use crate::bitstream::{moved, View};

/// The latents of a unit: integers, [`super::LATENT_SCALE`] to 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatentMap {
    pub width: usize,
    pub height: usize,
    pub channels: usize,
    /// Row by row, the channels of a position together.
    pub values: Vec<i32>,
}

impl LatentMap {
    pub fn zero(width: usize, height: usize, channels: usize) -> LatentMap {
        LatentMap {
            width,
            height,
            channels,
            values: vec![0; width * height * channels],
        }
    }

    /// What another window sees of it: beyond its edges they are repeated.
    pub fn seen(&self, view: &View) -> LatentMap {
        let (width, height) = view.size();
        LatentMap {
            width,
            height,
            channels: self.channels,
            values: view.of(&self.values, self.channels),
        }
    }

    pub(super) fn get(&self, x: isize, y: isize) -> Option<&[i32]> {
        self.index(x, y).map(|at| self.position(at))
    }

    /// Where a position is, counted row by row; `None` beyond the map.
    pub fn index(&self, x: isize, y: isize) -> Option<usize> {
        let inside = (0..self.width as isize).contains(&x) && (0..self.height as isize).contains(&y);
        inside.then(|| y as usize * self.width + x as usize)
    }

    /// The channels of a position, counted row by row.
    pub fn position(&self, at: usize) -> &[i32] {
        &self.values[at * self.channels..][..self.channels]
    }
}

/// The latents that a unit may refer to.
#[derive(Clone, Debug, Default)]
pub struct LatentContext {
    /// Of the last unit: zeros where it carried none.
    pub previous: Option<LatentMap>,
    /// Of the one before.
    pub older: Option<LatentMap>,
}

impl LatentContext {
    /// Goes on in another window: what comes in has zeros.
    pub fn look(&mut self, view: &View) {
        for map in [&mut self.previous, &mut self.older].into_iter().flatten() {
            (map.width, map.height) = view.size();
            map.values = view.within(&map.values, map.channels, 0);
        }
    }

    /// Moves with what a unit's window shows: see [`crate::bitstream::MotionField::sources`].
    pub fn follow(&mut self, sources: &[usize]) {
        for map in [&mut self.previous, &mut self.older].into_iter().flatten() {
            map.values = moved(sources, &map.values, map.channels);
        }
    }

    /// Makes `map` the previous unit's.
    pub fn push(&mut self, map: LatentMap) {
        self.older = self.previous.replace(map);
    }
}
