// SPDX-License-Identifier: MPL-2.0
//! Clips and pictures on disk.

mod clips;
mod montage;

pub use clips::{find, read_all, Clip};
pub use montage::write_montage;
