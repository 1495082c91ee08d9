// SPDX-License-Identifier: MPL-2.0
//! Rate control: how many bits a unit may have, and which quantizer keeps to that.

use super::ladder::MAX_QUANTIZER;
use super::CodecError;

/// What has been spent too much is made up for over this many seconds.
const HORIZON: f64 = 2.0;
/// What has been spent too little goes to the units of this many seconds, that is to the next one mostly: quantizers are steps,
/// and the finest one that fits always leaves something. Between a unit that holds its latents and one that codes them
/// lies half of the bits: with less credit at once, content that hardly moves would never get the dearer one.
const CREDIT_HORIZON: f64 = 0.25;
/// Seconds of the rate that are kept in reserve.
const RESERVE: f64 = 0.04;
/// Seconds of the rate that may be saved up where the content cannot use them.
const MAX_CREDIT: f64 = 0.14;
/// Seconds of the rate that a key unit may take. The balance moves between what this leaves and the largest credit: that
/// bounds the error over ten seconds.
const KEY_SECONDS: f64 = 0.44;
/// How far the quantizer goes down or up from one delta unit to the next while the budget allows.
const MAX_FINER: u32 = 8;
const MAX_COARSER: u32 = 8;

/// Keeps a stream at its rate.
#[derive(Debug, Default)]
pub struct RateControl {
    /// Bits that are left over, or were borrowed where negative.
    balance: f64,
    /// Quantizer of the previous unit, unless that was a key unit: what suits one says little of the units after it.
    last: Option<u32>,
    /// Presentation time in ns at which the budget of the units so far ends.
    paid_until: Option<f64>,
}

/// A unit that keeps to its budget, or comes nearest to it.
#[derive(Debug)]
pub struct Chosen<T> {
    pub unit: T,
    pub bits: usize,
    pub quantizer: u32,
}

impl RateControl {
    /// The bits for a unit that begins at `start` ns, where known, and lasts `seconds`, at `rate` bits per second, which
    /// the balance gets for it.
    pub fn budget(&mut self, rate: f64, start: Option<u64>, seconds: f64, is_key: bool) -> f64 {
        if let (Some(start), Some(paid)) = (start, self.paid_until) {
            // Frames came later or earlier than the units before were paid for.
            self.balance += (start as f64 - paid) / 1e9 * rate;
        }
        self.balance = self.balance.min(MAX_CREDIT * rate);
        self.paid_until = start.map(|start| start as f64 + seconds * 1e9);
        let share = rate * seconds;
        let missing = self.balance - RESERVE * rate;
        self.balance += share;
        if is_key {
            return (KEY_SECONDS * rate + missing.min(0.0)).max(share);
        }
        let horizon = if missing > 0.0 { CREDIT_HORIZON } else { HORIZON };
        (share + missing * (seconds / horizon).min(1.0)).max(0.0)
    }

    /// The finest quantizer whose unit keeps to the budget, and that unit; the coarsest where none does. Key units
    /// may be of any quality, others not too far from the one before. `code` gives a unit and its size in bits.
    pub fn choose<T>(
        &self,
        budget: f64,
        is_key: bool,
        mut code: impl FnMut(u32) -> Result<(T, usize), CodecError>,
    ) -> Result<Chosen<T>, CodecError> {
        let nearby = self.last.filter(|_| !is_key).map(|last| {
            let coarsest = (last + MAX_COARSER).min(MAX_QUANTIZER);
            (last.saturating_sub(MAX_FINER), coarsest)
        });
        let chosen = bisect(budget, nearby.unwrap_or((0, MAX_QUANTIZER)), &mut code)?;
        if chosen.bits as f64 <= budget || chosen.quantizer == MAX_QUANTIZER {
            return Ok(chosen);
        }
        bisect(budget, (chosen.quantizer + 1, MAX_QUANTIZER), &mut code)
    }

    /// Notes what the unit took, headers included.
    pub fn spend(&mut self, bits: usize, quantizer: u32, is_key: bool) {
        self.balance -= bits as f64;
        self.last = (!is_key).then_some(quantizer);
    }
}

/// The finest of a range of quantizers whose unit keeps to the budget, or else the coarsest. Sizes fall with the quantizer, nearly always.
fn bisect<T>(
    budget: f64,
    (mut finest, mut coarsest): (u32, u32),
    code: &mut impl FnMut(u32) -> Result<(T, usize), CodecError>,
) -> Result<Chosen<T>, CodecError> {
    let mut fitting = None;
    while finest < coarsest {
        let middle = (finest + coarsest) / 2;
        let (unit, bits) = code(middle)?;
        if bits as f64 <= budget {
            fitting = Some(Chosen {
                unit,
                bits,
                quantizer: middle,
            });
            coarsest = middle;
        } else {
            finest = middle + 1;
        }
    }
    // What fitted last is where the search ended; where nothing did, that place has not been tried yet.
    match fitting {
        Some(chosen) => Ok(chosen),
        None => code(coarsest).map(|(unit, bits)| Chosen {
            unit,
            bits,
            quantizer: coarsest,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes a minute of units whose size at quantizer 0 is `complexity` bits and halves every 8 steps.
    fn total(rate: f64, complexity: impl Fn(usize) -> f64) -> (f64, Vec<f64>) {
        let mut control = RateControl::default();
        let seconds = 0.32;
        let mut sizes = vec![];
        for unit in 0..188 {
            let is_key = unit % 31 == 0;
            let start = (unit as f64 * seconds * 1e9) as u64;
            let budget = control.budget(rate, Some(start), seconds, is_key);
            let scale = if is_key { 2.0 } else { 1.0 };
            let size = |q: u32| (scale * complexity(unit) * 0.5f64.powf(f64::from(q) / 8.0)) as usize;
            let chosen = control.choose(budget, is_key, |q| Ok(((), size(q)))).unwrap();
            control.spend(chosen.bits, chosen.quantizer, is_key);
            sizes.push(chosen.bits as f64);
        }
        (sizes.iter().sum::<f64>() / (188.0 * seconds), sizes)
    }

    #[test]
    fn any_ten_seconds_are_within_five_percent_of_the_rate() {
        for rate in [5e3, 20e3, 100e3] {
            // Content whose cost changes ninefold from scene to scene.
            let (_, sizes) = total(rate, |unit| rate * [1.0, 3.0, 9.0][unit / 31 % 3]);
            for window in sizes.windows(31).skip(1) {
                let mean = window.iter().sum::<f64>() / (31.0 * 0.32);
                assert!((mean / rate - 1.0).abs() < 0.05, "{mean} for {rate}");
            }
        }
    }

    #[test]
    fn unused_bits_are_not_saved_up_without_end() {
        let rate = 20e3;
        // Nothing to code for half of the time, then as much as fits.
        let (_, sizes) = total(rate, |unit| if unit < 93 { 0.0 } else { 1e6 });
        let burst = sizes[93..103].iter().sum::<f64>() / 3.2;
        assert!(burst < rate * 1.4, "{burst} after a pause");
    }

    #[test]
    fn what_a_unit_takes_in_the_end_counts() {
        let budget_after = |bits: usize| {
            let mut control = RateControl::default();
            control.budget(20e3, Some(0), 0.32, false);
            control.spend(bits, 40, false);
            control.budget(20e3, Some(320_000_000), 0.32, false)
        };
        assert!(budget_after(6800) < budget_after(6400));
    }

    #[test]
    fn below_the_floor_the_coarsest_is_taken() {
        let control = RateControl::default();
        let chosen = control.choose(10.0, false, |q| Ok(((), 1000 - q as usize))).unwrap();
        assert_eq!(chosen.quantizer, MAX_QUANTIZER);
    }
}
