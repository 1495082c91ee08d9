// SPDX-License-Identifier: MPL-2.0
//! How far a run has come, and what that means for the learning rate.

use std::time::Instant;

/// A run ends after a number of steps or of minutes, whichever comes first.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Budget {
    /// Steps to train for.
    #[arg(long, default_value_t = 1_000_000)]
    pub steps: i64,
    /// Minutes to train for.
    #[arg(long, default_value_t = 60.0)]
    pub minutes: f64,
    /// Highest learning rate.
    #[arg(long, default_value_t = 6e-4)]
    pub lr: f64,
    /// Share of the learning rate that is left at the end.
    #[arg(long, default_value_t = 0.03)]
    pub final_lr: f64,
    /// Steps over which the learning rate rises: 1 where a run goes on right after another.
    #[arg(long, default_value_t = 200)]
    pub warm_up: i64,
}

/// The clock of a run.
pub struct Schedule {
    budget: Budget,
    started: Instant,
    step: i64,
}

impl Schedule {
    pub fn new(budget: Budget) -> Schedule {
        Schedule {
            budget,
            started: Instant::now(),
            step: 0,
        }
    }

    /// Counts a step; returns its number from 1.
    pub fn advance(&mut self) -> i64 {
        self.step += 1;
        self.step
    }

    pub fn steps(&self) -> i64 {
        self.step
    }

    pub fn minutes(&self) -> f64 {
        self.started.elapsed().as_secs_f64() / 60.0
    }

    /// 0 at the start of this run, 1 at its end.
    pub fn progress(&self) -> f64 {
        let by_steps = self.step as f64 / self.budget.steps as f64;
        by_steps.max(self.minutes() / self.budget.minutes).min(1.0)
    }

    pub fn is_over(&self) -> bool {
        self.progress() >= 1.0
    }

    /// Linear warm-up, then half a cosine.
    pub fn lr(&self) -> f64 {
        let warm_up = ((self.step + 1) as f64 / self.budget.warm_up.max(1) as f64).min(1.0);
        let cosine = 0.5 + 0.5 * (std::f64::consts::PI * self.progress()).cos();
        self.budget.lr * warm_up * (self.budget.final_lr + (1.0 - self.budget.final_lr) * cosine)
    }
}
