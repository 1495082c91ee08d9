// SPDX-License-Identifier: MPL-2.0
//! Finding a time in a file that upstream pushes from any byte on, but that has not been read there: by trying.

/// A key unit this far before the target is near enough: what is between them is decoded and not shown. The base class does so too where
/// it knows of one. In ns.
pub const NEAR: u64 = 20_000_000_000;
/// A guess aims so far before the target, twice as far with each one that was too late, in ns.
const MARGIN: u64 = 5_000_000_000;
/// Guesses by rate; what follows halves what is left.
const BY_RATE: u32 = 5;
/// The last try goes to what is known.
const MOST: u32 = 16;
/// In fewer bytes than this no other key unit is looked for.
const SMALL: u64 = 2048;

/// A byte and the time of the key unit that is found from there on, in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    pub offset: u64,
    pub time: u64,
}

/// One seek.
#[derive(Clone, Debug)]
pub struct Search {
    /// In ns.
    pub target: u64,
    /// A key unit that is not later.
    lower: Point,
    /// The nearest byte behind which the first key unit is later, or there is none.
    upper: Point,
    /// Whether the upper one is an estimate.
    is_estimated: bool,
    /// Where it is looked for now.
    pub guess: u64,
    tries: u32,
    /// Guesses that were too late.
    late: u32,
}

impl Search {
    /// `lower`, `upper`: what is known, or estimated, before and after the target.
    pub fn new(target: u64, lower: Point, upper: Point, is_estimated: bool) -> Search {
        let search = Search {
            target,
            lower,
            upper,
            is_estimated,
            guess: lower.offset,
            tries: 0,
            late: 0,
        };
        search.with_guess()
    }

    /// What is to be tried after `found`, the first key unit behind the guess, if there is one; `None` if this one will do.
    pub fn next(mut self, found: Option<Point>) -> Option<Search> {
        let is_last = self.guess == self.lower.offset;
        match found {
            Some(found) if found.time <= self.target => {
                if is_last || self.target - found.time <= NEAR || self.tries >= MOST {
                    return None;
                }
                self.raise_lower(found);
            }
            _ if is_last => return None,
            found => {
                let time = found.map_or(self.target.saturating_add(1), |found| found.time);
                self.upper = Point {
                    offset: self.guess,
                    time,
                };
                self.is_estimated = false;
                self.late += 1;
            }
        }
        self.tries += 1;
        Some(self.with_guess())
    }

    /// A key unit nearer to the target. Its distance from the last one tells more of an upper end that is only estimated.
    fn raise_lower(&mut self, found: Point) {
        let bytes = u128::from(found.offset.saturating_sub(self.lower.offset));
        let span = u128::from(found.time.saturating_sub(self.lower.time));
        if self.is_estimated && bytes > 0 {
            let rest = u128::from(self.upper.offset.saturating_sub(found.offset)) * span / bytes;
            let time = u64::try_from(u128::from(found.time) + rest).unwrap_or(u64::MAX);
            self.upper.time = time.max(self.target.saturating_add(1));
        }
        self.lower = found;
    }

    fn with_guess(mut self) -> Search {
        let bytes = self.upper.offset.saturating_sub(self.lower.offset);
        let span = self.upper.time.saturating_sub(self.lower.time).max(1);
        let since = self.target - self.lower.time;
        let margin = (MARGIN << self.late.min(8)).min(since / 2);
        let since = (since - margin).min(span);
        let ahead = match self.tries {
            _ if bytes < SMALL => 0,
            MOST.. => 0,
            BY_RATE.. => bytes / 2,
            _ => (u128::from(bytes) * u128::from(since) / u128::from(span)) as u64,
        };
        self.guess = self.lower.offset + ahead;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    /// Offsets and times of key units; how many tries it takes to find a target, and what is found.
    fn find(keys: &[Point], size: u64, estimated: u64, target: u64) -> (u32, Point) {
        let upper = Point {
            offset: size,
            time: estimated.max(target + 1),
        };
        let mut search = Search::new(target, keys[0], upper, true);
        for tries in 1..100 {
            let found = keys.iter().find(|key| key.offset >= search.guess).copied();
            match search.clone().next(found) {
                Some(next) => search = next,
                None => return (tries, found.expect("a key unit")),
            }
        }
        panic!("the search goes on and on: {search:?}");
    }

    proptest! {
        #[test]
        fn a_key_unit_at_or_before_the_target_is_found(
            groups in prop::collection::vec((300u64..50_000, 1u64..100), 1..200),
            estimated in 1u64..10_000,
            share in 0.0f64..1.2,
        ) {
            let mut at = Point { offset: 0, time: 0 };
            let mut keys = Vec::new();
            for (bytes, seconds) in groups {
                keys.push(at);
                at = Point { offset: at.offset + bytes, time: at.time + seconds * SECOND };
            }
            let target = (at.time as f64 * share) as u64;
            let (tries, found) = find(&keys, at.offset, estimated * SECOND, target);
            prop_assert!(found.time <= target, "{found:?}");
            prop_assert!(tries <= MOST + 2);
        }
    }

    #[test]
    fn an_even_rate_takes_one_try() {
        let keys: Vec<_> = (0..1000)
            .map(|n| Point {
                offset: n * 4000,
                time: n * 3 * SECOND,
            })
            .collect();
        for target in [100, 1500, 2950] {
            let (tries, found) = find(&keys, 4_000_000, 3000 * SECOND, target * SECOND);
            assert_eq!(tries, 1);
            assert!(target * SECOND - found.time < 10 * SECOND);
        }
    }

    #[test]
    fn an_uneven_rate_takes_few() {
        let offset = |n: u64| if n < 500 { n * 500 } else { 250_000 + (n - 500) * 10_000 };
        let keys: Vec<_> = (0..1000)
            .map(|n| Point {
                offset: offset(n),
                time: n * 3 * SECOND,
            })
            .collect();
        for target in [100, 1400, 1600, 2950] {
            let (tries, found) = find(&keys, offset(1000), 30_000 * SECOND, target * SECOND);
            assert!(tries <= 10, "{tries} for {target}");
            assert!(target * SECOND - found.time <= NEAR);
        }
    }
}
