// SPDX-License-Identifier: MPL-2.0
//! The residual layer of static regions.

mod coding;
mod map;
mod tables;

pub use coding::code_residual;
pub use map::{
    Levels, Macroblock, ResidualContext, ResidualMap, COEFFICIENTS, LUMA_BLOCKS, MACROBLOCK_BLOCKS, MAX_LEVEL,
    RESIDUAL_STEPS, ZIGZAG,
};
