// SPDX-License-Identifier: MPL-2.0
//! Measures the codec on clips, by numbers and as pictures to look at.

mod buffer;
mod channel;
mod floor;
mod hashes;
mod parity;
mod repair;
mod run;
mod session;

pub use buffer::BufferUse;
pub use channel::LossModel;
pub use floor::{floor, Floor};
pub use hashes::{hashes, Hashes};
pub use parity::{tolerance, Parity, Tokens};
pub use repair::Repair;
pub use run::{measure, peak_memory_mib, run, to_rgb, Coded, Measured, Perceptual, Pictures};
pub use session::{LossyLink, Sent};
