// SPDX-License-Identifier: MPL-2.0
//! Detail of what stands still. The networks paint every unit anew and never better than they can; a cell that stands still is frozen
//! instead, and what its picture lacks is sent once.

mod canvas;
mod cells;
mod stillness;
mod transform;

pub use canvas::Canvas;
pub use cells::in_cells;
pub use stillness::{Stillness, Watch};

/// The step of an index, of coefficients of samples from 0 to 255: six to the octave.
pub fn step_size(index: usize) -> f32 {
    4.0 * (index as f32 / 6.0).exp2()
}

/// How much coarser chroma is quantised.
const CHROMA_COARSER: f32 = 1.3;

/// The step of a cell's block.
fn block_step(index: usize, block: usize) -> f32 {
    match block {
        0..crate::entropy::LUMA_BLOCKS => step_size(index),
        _ => step_size(index) * CHROMA_COARSER,
    }
}
