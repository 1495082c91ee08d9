// SPDX-License-Identifier: MPL-2.0
//! Numbers that the whole format is built on.

/// Smallest width and height of a picture in luma samples.
pub const MIN_SIZE: u32 = 16;
/// Largest width and height of a picture in luma samples.
pub const MAX_SIZE: u32 = 8192;
/// Number of values of each of the six digits of a token: 64,000 tokens.
pub const FSQ_LEVELS: [u8; 6] = [8, 8, 8, 5, 5, 5];

/// Side of a macroblock of the residual in shown luma samples.
pub const MACROBLOCK_SIDE: u32 = 16;

/// Tokens of a window that moves, at most: 4 million coded samples.
pub const MAX_WINDOW_TOKENS: usize = 1 << 14;
