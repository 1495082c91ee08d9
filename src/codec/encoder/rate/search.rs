// SPDX-License-Identifier: MPL-2.0
//! Trials: a unit that fits into the buffer.

use super::operating_points::{Quality, MAX_QUANTIZER};
use super::size_model::{SizeModel, UnitKind};

/// How often a unit is coded at most before the coarsest quantizer is taken.
const TRIES: usize = 4;
/// Share of the room that a unit which did not fit is to take, and how much coarser it gets at least: sizes are known to a factor only.
const FILLED: f64 = 0.92;
const LEAST_COARSER: f64 = 1.0;
/// By how many octaves units get smaller with a quantizer at least, as two trials tell.
const LEAST_SLOPE: f64 = 0.04;
/// A residual that would be less than this is left out.
const LEAST_RESIDUAL_BITS: f64 = 100.0;

/// A unit as it came out.
#[derive(Clone, Copy, Debug)]
pub struct Sized<T> {
    pub unit: T,
    /// Bits of the whole unit.
    pub bits: f64,
    /// What of these is residual.
    pub residual_bits: f64,
}

impl<T> Sized<T> {
    fn base(&self) -> f64 {
        self.bits - self.residual_bits
    }
}

/// What a unit may take, in bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    /// Up to here it leaves what later units need.
    pub usual: f64,
    /// No decoder has more.
    pub most: f64,
}

/// Codes a unit at a quality, and coarser ones until it fits into the usual room, or at the end of the scale into what there is. The last
/// try of a delta unit is one that repeats what was there before; that, and a key unit at the end of the scale, is returned whatever it
/// takes. Returns the quality as well.
pub fn fit<T, E>(
    kind: UnitKind,
    wanted: Quality,
    room: Room,
    mut code: impl FnMut(Quality) -> Result<Sized<T>, E>,
) -> Result<(Sized<T>, Quality), E> {
    let end = Quality {
        residual_bits: Some(0.0),
        ..f64::from(MAX_QUANTIZER).into()
    };
    let (mut quality, mut before) = (wanted, None);
    for _ in 0..TRIES {
        let coded = code(quality)?;
        if coded.bits <= room.usual {
            return Ok((coded, quality));
        }
        let base = coded.base();
        let next = coarser(kind, quality, &coded, before, room.usual);
        if next.quantizer >= end.quantizer {
            break;
        }
        before = (next.quantizer > quality.quantizer).then_some((quality.quantizer, base));
        quality = next;
    }
    let coded = code(end)?;
    if coded.bits <= room.most || kind == UnitKind::Key {
        return Ok((coded, end));
    }
    let repeats = Quality { repeats: true, ..end };
    let repeated = code(repeats)?;
    // Where most of the tokens are masked, saying that nothing changes may take more.
    Ok(match repeated.bits < coded.bits {
        true => (repeated, repeats),
        false => (coded, end),
    })
}

/// What to try after a quality whose unit did not fit; `before`: quantizer and bits of another that did not either.
fn coarser<T>(kind: UnitKind, quality: Quality, coded: &Sized<T>, before: Option<(f64, f64)>, room: f64) -> Quality {
    let (wanted, base) = (FILLED * room, coded.base());
    if coded.residual_bits > 0.0 && base <= room {
        let asked = quality.residual_bits.unwrap_or(f64::INFINITY).min(coded.residual_bits);
        let less = asked * (wanted - base) / coded.residual_bits;
        let residual_bits = Some(if less < LEAST_RESIDUAL_BITS { 0.0 } else { less });
        return Quality {
            residual_bits,
            ..quality
        };
    }
    let by_model = SizeModel::coarser(kind, quality.quantizer, base, wanted);
    let by_trials = before.map_or(0.0, |(quantizer, bits)| {
        let slope = (bits / base).log2() / (quality.quantizer - quantizer);
        quality.quantizer + (base / wanted.max(1.0)).log2() / slope.max(LEAST_SLOPE)
    });
    let next = by_model.max(by_trials).max(quality.quantizer + LEAST_COARSER);
    Quality {
        residual_bits: Some(0.0),
        ..next.min(f64::from(MAX_QUANTIZER)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(bits: f64, residual_bits: f64) -> Result<Sized<()>, ()> {
        Ok(Sized {
            unit: (),
            bits: bits + residual_bits,
            residual_bits,
        })
    }

    fn room(most: f64) -> Room {
        Room {
            usual: 0.9 * most,
            most,
        }
    }

    #[test]
    fn what_fits_is_coded_once() {
        let mut trials = 0;
        let code = |_| {
            trials += 1;
            sized(900.0, 0.0)
        };
        let (coded, quality) = fit(UnitKind::Delta, 30.0.into(), room(1000.0), code).unwrap();
        assert_eq!((trials, coded.bits, quality), (1, 900.0, 30.0.into()));
    }

    #[test]
    fn what_does_not_fit_gets_coarser_until_it_does() {
        let mut trials = 0;
        let code = |quality: Quality| {
            trials += 1;
            sized(4000.0 * (-quality.quantizer / 10.0).exp2(), 0.0)
        };
        let (coded, quality) = fit(UnitKind::Delta, 10.0.into(), room(1000.0), code).unwrap();
        assert!(
            coded.bits <= 1000.0 && quality.quantizer < 40.0,
            "{coded:?} {quality:?}"
        );
        assert!(trials <= 3, "{trials}");
    }

    #[test]
    fn residual_gives_way_before_the_quantizer_does() {
        let code = |quality: Quality| sized(600.0, 1.5 * quality.residual_bits.unwrap());
        let wanted = Quality {
            residual_bits: Some(400.0),
            ..10.0.into()
        };
        let (coded, quality) = fit(UnitKind::Delta, wanted, room(1000.0), code).unwrap();
        assert_eq!(quality.quantizer, 10.0);
        assert!((800.0..=1000.0).contains(&coded.bits), "{coded:?}");
    }

    #[test]
    fn the_last_try_repeats_what_was_there() {
        let code = |quality: Quality| sized(if quality.repeats { 20.0 } else { 900.0 }, 0.0);
        let (coded, quality) = fit(UnitKind::Delta, 10.0.into(), room(100.0), code).unwrap();
        assert!(quality.repeats && coded.bits == 20.0);
        let (_, quality) = fit(UnitKind::Key, 10.0.into(), room(100.0), |_| sized(900.0, 0.0)).unwrap();
        assert!(!quality.repeats && quality.quantizer == 63.0);
    }
}
