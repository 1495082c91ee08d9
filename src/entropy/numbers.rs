// SPDX-License-Identifier: MPL-2.0
//! Numbers for golden tests.

use super::integer_net::Layer;
use super::tokens::LOGIT_SCALE;

/// A linear congruential generator: the golden values must not depend on any crate's random numbers.
pub struct Numbers(pub u64);

impl Numbers {
    /// A number from -range to range.
    pub fn next(&mut self, range: i32) -> i32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as i32 % (2 * range + 1) - range
    }

    pub fn many<T: TryFrom<i32>>(&mut self, count: usize, range: i32) -> Vec<T>
    where
        T::Error: std::fmt::Debug,
    {
        (0..count).map(|_| self.next(range).try_into().unwrap()).collect()
    }

    pub fn layer(&mut self, inputs: usize, outputs: usize, multiplier: i32) -> Layer {
        Layer {
            weights: self.many(inputs * outputs, 127),
            biases: self.many(outputs, 4000),
            multipliers: vec![multiplier; outputs],
        }
    }
}

/// The table of powers as model files have it.
pub fn powers() -> Vec<i32> {
    (0..LOGIT_SCALE)
        .map(|i| 2f64.powf(30.0 - f64::from(i) / 1024.0).round() as i32)
        .collect()
}
