// SPDX-License-Identifier: MPL-2.0
//! Numbers that the whole format is built on.

/// Smallest width and height of a picture in luma samples.
pub const MIN_SIZE: u32 = 16;
/// Largest width and height of a picture in luma samples.
pub const MAX_SIZE: u32 = 8192;
/// Number of values of each of the six digits of a token: 64,000 tokens.
pub const FSQ_LEVELS: [u8; 6] = [8, 8, 8, 5, 5, 5];
