// SPDX-License-Identifier: MPL-2.0
//! Memory that threads work in.

use std::sync::{Mutex, PoisonError};

/// What is not in use, kept for later: fresh pages cost as much as the arithmetic.
static SPARE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// More than this is given back: only pictures of 4096 samples and more across need it, and rarely so.
const MOST_KEPT: usize = 4 << 20;

/// Memory of one thread, with whatever was left in it.
pub struct Scratch(Vec<f32>, usize);

impl Scratch {
    pub fn take(floats: usize) -> Scratch {
        let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut memory = spare.unwrap_or_default();
        if memory.len() < floats {
            memory = vec![0.0; floats];
        }
        Scratch(memory, floats)
    }

    /// As many as were asked for.
    pub fn floats(&mut self) -> &mut [f32] {
        &mut self.0[..self.1]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.0.len() > MOST_KEPT {
            return;
        }
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        spare.push(std::mem::take(&mut self.0));
    }
}

/// Takes the first `count` values away from `rest`.
pub fn split<'a>(rest: &mut &'a mut [f32], count: usize) -> &'a mut [f32] {
    rest.split_off_mut(..count).expect("the memory has been counted before")
}
