// SPDX-License-Identifier: MPL-2.0
//! How far the camera moves from one frame to another: the translation that most of the picture follows. First the nearest match of small
//! pictures, then Gauss-Newton steps on larger and larger ones (Lucas and Kanade, "An Iterative Image Registration Technique", 1981), in which
//! samples that do not follow count less and less (Geman and McClure's function).

/// The smallest pictures are at least as large as this.
const LEAST_SIDE: usize = 20;
/// So many samples around nothing are searched in them.
const REACH: i32 = 4;
/// Every so many rows and columns of them are looked at then.
const SEARCH_STRIDE: usize = 2;
/// Samples that are looked at in a picture, at most about.
const SAMPLES: usize = 3000;
/// Pictures of more samples than this are not looked at themselves.
const LARGEST: usize = 20_000;
/// Steps for each size.
const STEPS: usize = 3;
/// An error of so many times the mean absolute one counts a quarter.
const ROBUSTNESS: f32 = 1.5;
/// A difference, of samples from 0 to 255, that counts half.
const JUST_OFF: f32 = 6.0;
/// The least share of the samples that two pictures must have in common.
const LEAST_OVERLAP: f32 = 0.35;

/// A displacement in samples of the frame: columns and rows.
pub type Displacement = (f32, f32);

/// Luma of a frame in sizes that halve, the largest first.
#[derive(Clone, Debug)]
pub struct Pyramid {
    levels: Vec<Level>,
}

#[derive(Clone, Debug)]
struct Level {
    width: usize,
    height: usize,
    samples: Vec<f32>,
    /// Frame samples along a side of a sample.
    scale: f32,
}

impl Pyramid {
    /// Of a plane of samples.
    pub fn new(luma: &[u8], width: usize, height: usize) -> Pyramid {
        let mut levels = vec![];
        let mut level = Level::of(luma, width, height);
        loop {
            let smaller = level.halved();
            if smaller.width.min(smaller.height) < LEAST_SIDE {
                levels.push(level);
                break;
            }
            if level.samples.len() <= LARGEST {
                levels.push(level);
            }
            level = smaller;
        }
        Pyramid { levels }
    }

    /// How far this frame lies from a reference: what is at a place here is there that much further to the right and below. `guess`: where
    /// to look for it. `None` where hardly anything is in both.
    pub fn displacement(&self, reference: &Pyramid, guess: Displacement) -> Option<Displacement> {
        let smallest = self.levels.last()?;
        let found = smallest.search(reference.levels.last()?, guess);
        let pairs = self.levels.iter().zip(&reference.levels).rev();
        let found = pairs.fold(found, |found, (level, other)| level.refined(other, found, STEPS));
        let (x, y) = found;
        let shared = (1.0 - x.abs() / (smallest.width as f32 * smallest.scale)).max(0.0)
            * (1.0 - y.abs() / (smallest.height as f32 * smallest.scale)).max(0.0);
        (shared >= LEAST_OVERLAP && x.is_finite() && y.is_finite()).then_some(found)
    }

    /// A displacement that is nearly known, more exactly.
    pub fn refined(&self, reference: &Pyramid, near: Displacement) -> Displacement {
        let (level, other) = (&self.levels[0], &reference.levels[0]);
        level.refined(other, near, STEPS)
    }

    /// How much of the frame differs from a reference at a displacement, 0 to 1. Samples that are far off count little more than those that
    /// are just off: what moves by itself differs anyway.
    pub fn mismatch(&self, reference: &Pyramid, at: Displacement) -> f32 {
        let (level, other) = (&self.levels[0], &reference.levels[0]);
        let differs = |off: f32| off * off / (off * off + JUST_OFF * JUST_OFF);
        level.mean(other, level.in_samples(at), level.stride(), differs)
    }
}

/// Sums of the normal equations.
#[derive(Default)]
struct Normal {
    xx: f32,
    xy: f32,
    yy: f32,
    x: f32,
    y: f32,
    /// Absolute errors, and how many.
    error: f32,
    count: f32,
}

impl Level {
    /// The largest that is needed of a plane of samples.
    fn of(luma: &[u8], width: usize, height: usize) -> Level {
        match luma.len() > LARGEST {
            true => halved(luma, (width, height), 2.0),
            false => Level {
                width,
                height,
                samples: luma.iter().map(|&sample| sample.into()).collect(),
                scale: 1.0,
            },
        }
    }

    fn halved(&self) -> Level {
        halved(&self.samples, (self.width, self.height), 2.0 * self.scale)
    }

    /// A displacement in samples of this size.
    fn in_samples(&self, (x, y): Displacement) -> Displacement {
        (x / self.scale, y / self.scale)
    }

    /// Every so many rows and columns are looked at.
    fn stride(&self) -> usize {
        let stride = (self.samples.len() as f32 / SAMPLES as f32).sqrt().round() as usize;
        stride.max(1)
    }

    /// The best of whole samples around a guess.
    fn search(&self, reference: &Level, guess: Displacement) -> Displacement {
        let centre = self.in_samples(guess);
        let (x, y) = (centre.0.round(), centre.1.round());
        let around = (-REACH..=REACH).flat_map(|dy| (-REACH..=REACH).map(move |dx| (dx as f32, dy as f32)));
        let tried = around.map(|(dx, dy)| {
            let at = (x + dx, y + dy);
            // Of equal ones the nearest to the guess.
            let error = self.mean(reference, at, SEARCH_STRIDE, f32::abs);
            (error + 0.02 * (dx * dx + dy * dy), at)
        });
        let (_, best) = tried.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, (0.0, 0.0)));
        (best.0 * self.scale, best.1 * self.scale)
    }

    /// The places that are looked at, in rows: the row, its place in the reference and the columns.
    fn rows(
        &self,
        reference: &Level,
        at: Displacement,
        stride: usize,
    ) -> impl Iterator<Item = (usize, f32, std::ops::Range<usize>)> {
        // One sample more on each side for the gradient.
        let range = |size: usize, other: usize, shift: f32| {
            let from = (1.0 - shift).ceil().max(1.0);
            let to = (other as f32 - 2.0 - shift).floor().min(size as f32 - 1.0);
            from as usize..(to.max(from)) as usize
        };
        let columns = range(self.width, reference.width, at.0);
        let rows = range(self.height, reference.height, at.1);
        rows.step_by(stride).map(move |y| (y, y as f32 + at.1, columns.clone()))
    }

    /// Mean absolute difference, samples from 0 to 255.
    fn error(&self, reference: &Level, at: Displacement) -> f32 {
        self.mean(reference, at, self.stride(), f32::abs)
    }

    /// The mean of a function of the differences in every so many rows and columns; infinite where there are none.
    fn mean(&self, reference: &Level, at: Displacement, stride: usize, of: impl Fn(f32) -> f32) -> f32 {
        let (mut sum, mut count) = (0.0, 0);
        for (y, v, columns) in self.rows(reference, at, stride) {
            let between = reference.between(at.0, v);
            for x in columns.step_by(stride) {
                sum += of(self.samples[y * self.width + x] - between.value(reference, x));
                count += 1;
            }
        }
        if count == 0 {
            return f32::INFINITY;
        }
        sum / count as f32
    }

    fn refined(&self, reference: &Level, near: Displacement, steps: usize) -> Displacement {
        let mut at = self.in_samples(near);
        let mut error = self.error(reference, at);
        for _ in 0..steps {
            let sums = self.sums(reference, at, ROBUSTNESS * error + 0.5);
            let Some((x, y)) = sums.solve() else { break };
            error = sums.error / sums.count;
            at = (at.0 + x.clamp(-1.0, 1.0), at.1 + y.clamp(-1.0, 1.0));
            if x.abs().max(y.abs()) < 0.01 {
                break;
            }
        }
        (at.0 * self.scale, at.1 * self.scale)
    }

    /// For a Gauss-Newton step. `scale`: an error that counts a quarter.
    fn sums(&self, reference: &Level, at: Displacement, scale: f32) -> Normal {
        let mut sums = Normal::default();
        let stride = self.stride();
        for (y, v, columns) in self.rows(reference, at, stride) {
            let (above, here, below) = (
                reference.between(at.0, v - 1.0),
                reference.between(at.0, v),
                reference.between(at.0, v + 1.0),
            );
            for x in columns.step_by(stride) {
                let off = self.samples[y * self.width + x] - here.value(reference, x);
                let gx = 0.5 * (here.value(reference, x + 1) - here.value(reference, x - 1));
                let gy = 0.5 * (below.value(reference, x) - above.value(reference, x));
                sums.error += off.abs();
                sums.count += 1.0;
                let relative = off / scale;
                let root = 1.0 / (1.0 + relative * relative);
                let weight = root * root;
                sums.xx += weight * gx * gx;
                sums.xy += weight * gx * gy;
                sums.yy += weight * gy * gy;
                sums.x += weight * gx * off;
                sums.y += weight * gy * off;
            }
        }
        sums
    }

    /// Samples of a row at fractions: `x`, the displacement along it, `v`, the row.
    fn between(&self, x: f32, v: f32) -> Between {
        let (column, row) = (x.floor(), v.floor().clamp(0.0, self.height as f32 - 2.0));
        Between {
            start: row as isize * self.width as isize + column as isize,
            across: x - column,
            down: (v - row).clamp(0.0, 1.0),
        }
    }
}

/// Means of 2x2 samples.
fn halved<T: Copy + Into<f32>>(plane: &[T], (from, rows): (usize, usize), scale: f32) -> Level {
    let (width, height) = (from / 2, rows / 2);
    let mut samples = Vec::with_capacity(width * height);
    for y in 0..height {
        let (upper, lower) = plane[2 * y * from..].split_at(from);
        let pairs = upper.chunks_exact(2).zip(lower.chunks_exact(2)).take(width);
        let sum = |pair: &[T]| pair[0].into() + pair[1].into();
        samples.extend(pairs.map(|(a, b)| 0.25 * (sum(a) + sum(b))));
    }
    Level {
        width,
        height,
        samples,
        scale,
    }
}

/// Where bilinear samples of a row are.
struct Between {
    start: isize,
    across: f32,
    down: f32,
}

impl Between {
    fn value(&self, level: &Level, x: usize) -> f32 {
        let at = (self.start + x as isize).clamp(0, (level.samples.len() - level.width - 2) as isize) as usize;
        let (upper, lower) = (&level.samples[at..at + 2], &level.samples[at + level.width..][..2]);
        let row = |pair: &[f32]| pair[0] + self.across * (pair[1] - pair[0]);
        let upper = row(upper);
        upper + self.down * (row(lower) - upper)
    }
}

impl Normal {
    /// The step; `None` where the picture says nothing of one direction.
    fn solve(&self) -> Option<Displacement> {
        let determinant = self.xx * self.yy - self.xy * self.xy;
        // Of an edge alone, one direction is not known.
        if determinant <= 1e-3 * self.xx * self.yy || determinant <= f32::EPSILON {
            return None;
        }
        let x = (self.yy * self.x - self.xy * self.y) / determinant;
        let y = (self.xx * self.y - self.xy * self.x) / determinant;
        Some((x, y))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Smooth texture without a period, from a place on.
    fn texture(width: usize, height: usize, (left, top): (f32, f32)) -> Vec<u8> {
        let sample = |x: f32, y: f32| {
            let waves = [
                (0.11, 0.05, 40.0),
                (0.07, -0.13, 35.0),
                (-0.19, 0.17, 25.0),
                (0.031, 0.043, 20.0),
            ];
            let sum: f32 = waves
                .iter()
                .map(|(a, b, high)| high * (a * x + b * y + high).sin())
                .sum();
            (128.0 + 0.9 * sum).clamp(0.0, 255.0) as u8
        };
        (0..width * height)
            .map(|at| sample(left + (at % width) as f32, top + (at / width) as f32))
            .collect()
    }

    fn found(width: usize, height: usize, moved: Displacement, spoilt: impl Fn(usize, usize) -> bool) -> Displacement {
        let reference = texture(width, height, (0.0, 0.0));
        let mut frame = texture(width, height, moved);
        for (at, sample) in frame.iter_mut().enumerate() {
            if spoilt(at % width, at / width) {
                *sample = (at * 7 % 251) as u8;
            }
        }
        let (frame, reference) = (
            Pyramid::new(&frame, width, height),
            Pyramid::new(&reference, width, height),
        );
        frame.displacement(&reference, (0.0, 0.0)).unwrap()
    }

    #[test]
    fn translations_are_found_to_an_eighth_of_a_sample() {
        for (size, moved) in [
            ((320, 176), (0.0, 0.0)),
            ((320, 176), (0.3, -0.6)),
            ((320, 176), (-5.25, 2.5)),
            ((320, 176), (17.4, -9.1)),
            ((640, 360), (-31.0, 12.75)),
            ((97, 65), (1.4, 0.9)),
        ] {
            let (x, y) = found(size.0, size.1, moved, |_, _| false);
            assert!(
                (x - moved.0).abs() < 0.125 && (y - moved.1).abs() < 0.125,
                "{x}, {y} instead of {moved:?} at {size:?}"
            );
        }
    }

    #[test]
    fn what_does_not_follow_is_not_followed() {
        let (x, y) = found(320, 176, (2.5, -1.25), |x, y| (100..190).contains(&x) && y > 60);
        assert!((x - 2.5).abs() < 0.15 && (y + 1.25).abs() < 0.15, "{x}, {y}");
    }

    #[test]
    fn pictures_that_say_nothing_do_not_move() {
        let plain = Pyramid::new(&[90; 64 * 48], 64, 48);
        assert_eq!(plain.displacement(&plain, (0.0, 0.0)), Some((0.0, 0.0)));
    }
}
