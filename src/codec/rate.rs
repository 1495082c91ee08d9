// SPDX-License-Identifier: MPL-2.0
//! Rate control: how many bits a unit may have, and which quantizer keeps to that.

use super::ladder::{Quality, MAX_QUANTIZER};
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
const MAX_CREDIT: f64 = 0.17;
/// The same where a key unit is worth it but still too dear: see [`RateControl::save_up`].
const MAX_SAVINGS: f64 = 0.45;
/// Seconds of the rate that a key unit may take. The balance moves between what this leaves and the largest credit: that
/// bounds the error over ten seconds.
const KEY_SECONDS: f64 = 0.4;
/// How far the quantizer goes down or up from one delta unit to the next while the budget allows.
const MAX_FINER: u32 = 8;
const MAX_COARSER: u32 = 8;
/// Share of its budget that a unit should take where there is something left to be finer.
const FILLED: f64 = 0.85;
/// By how much changes are made dearer to hold more of a unit that is a quantizer too fine. Where nothing moves, all places
/// would become finer with the same quantizer: too much at once, and until then nothing.
const HOLD_FACTORS: [f64; 7] = [1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5];

/// Keeps a stream at its rate.
#[derive(Clone, Debug, Default)]
pub struct RateControl {
    /// Bits that are left over, or were borrowed where negative.
    balance: f64,
    /// Quantizer of the previous unit, unless that was a key unit: what suits one says little of the units after it.
    last: Option<u32>,
    /// Whether more may be saved up than usual.
    is_saving: bool,
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
        let most = if self.is_saving { MAX_SAVINGS } else { MAX_CREDIT };
        self.balance = self.balance.min(most * rate);
        self.paid_until = start.map(|start| start as f64 + seconds * 1e9);
        let share = rate * seconds;
        let missing = self.balance - RESERVE * rate;
        self.balance += share;
        if is_key {
            return (KEY_SECONDS * rate + missing).max(share);
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
        mut code: impl FnMut(Quality) -> Result<(T, usize), CodecError>,
    ) -> Result<Chosen<T>, CodecError> {
        let nearby = self.last.filter(|_| !is_key).map(|last| {
            let coarsest = (last + MAX_COARSER).min(MAX_QUANTIZER);
            (last.saturating_sub(MAX_FINER), coarsest)
        });
        let mut finest = |range| bisect(budget, range, |quantizer| code(quantizer.into()));
        let chosen = finest(nearby.unwrap_or((0, MAX_QUANTIZER)))?;
        if chosen.bits as f64 <= budget {
            let is_wanting = !is_key && chosen.quantizer > 0 && (chosen.bits as f64) < FILLED * budget;
            return match is_wanting {
                true => fill(budget, chosen, code),
                false => Ok(chosen),
            };
        }
        if chosen.quantizer == MAX_QUANTIZER {
            return Ok(chosen);
        }
        finest((chosen.quantizer + 1, MAX_QUANTIZER))
    }

    /// Keeps more than usual of what is left over, for a key unit, until that is coded or units can use it.
    pub fn save_up(&mut self) {
        self.is_saving = true;
    }

    /// Notes what the unit took, headers included.
    pub fn spend(&mut self, bits: usize, quantizer: u32, is_key: bool) {
        self.balance -= bits as f64;
        // Nothing is left over where a unit could have been finer.
        self.is_saving &= !is_key && quantizer == 0;
        self.last = (!is_key).then_some(quantizer);
    }
}

/// A unit that leaves much of its budget, or one that is a quantizer finer in some places and holds more of the others.
fn fill<T>(
    budget: f64,
    chosen: Chosen<T>,
    mut code: impl FnMut(Quality) -> Result<(T, usize), CodecError>,
) -> Result<Chosen<T>, CodecError> {
    let quantizer = chosen.quantizer - 1;
    let filled = bisect(budget, (0, HOLD_FACTORS.len() as u32 - 1), |at| {
        let holding = HOLD_FACTORS[at as usize];
        code(Quality {
            holding,
            ..quantizer.into()
        })
    })?;
    let is_better = filled.bits as f64 <= budget && filled.bits > chosen.bits;
    Ok(match is_better {
        true => Chosen { quantizer, ..filled },
        false => chosen,
    })
}

/// The first of a range of qualities whose unit keeps to the budget, or else the last. Sizes fall from one to the next, nearly always.
fn bisect<T>(
    budget: f64,
    (mut finest, mut coarsest): (u32, u32),
    mut code: impl FnMut(u32) -> Result<(T, usize), CodecError>,
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
            let chosen = control
                .choose(budget, is_key, |quality| Ok(((), size(quality.quantizer))))
                .unwrap();
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
    fn a_quantizer_that_is_too_fine_everywhere_is_taken_in_some_places() {
        let mut control = RateControl::default();
        control.spend(0, 20, false);
        // Below 18 all of a hundred places change, fewer of them the dearer that is; from there on none does.
        let size = |quality: Quality| match quality.quantizer < 18 {
            true => (1000.0 * (2.0 - quality.holding).clamp(0.0, 1.0)) as usize,
            false => 10,
        };
        let chosen = control
            .choose(500.0, false, |quality| Ok((quality, size(quality))))
            .unwrap();
        assert_eq!(chosen.quantizer, 17);
        assert!((200..=500).contains(&chosen.bits), "{chosen:?}");
    }

    #[test]
    fn what_is_saved_up_pays_for_a_key_unit_and_for_nothing_else() {
        let key_budget_after = |quantizers: [u32; 3]| {
            let mut control = RateControl::default();
            control.save_up();
            for (unit, quantizer) in quantizers.into_iter().enumerate() {
                control.budget(20e3, Some(unit as u64 * 320_000_000), 0.32, false);
                control.spend(2000, quantizer, false);
            }
            control.budget(20e3, Some(960_000_000), 0.04, true)
        };
        assert!(key_budget_after([0, 0, 0]) > 1.3 * key_budget_after([0, 0, 1]));
    }

    #[test]
    fn below_the_floor_the_coarsest_is_taken() {
        let control = RateControl::default();
        let chosen = control
            .choose(10.0, false, |quality| Ok(((), 1000 - quality.quantizer as usize)))
            .unwrap();
        assert_eq!(chosen.quantizer, MAX_QUANTIZER);
    }
}
