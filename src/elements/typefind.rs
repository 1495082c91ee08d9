// SPDX-License-Identifier: MPL-2.0
//! Finds TVC streams among files.

use super::caps;
use crate::bitstream::{find_key_unit, UnitHeader, MAX_HEADER};

/// A stream that was cut out of another one may begin within a group, or within a unit: so far a key unit is looked for.
const SEARCHED: u32 = 64 << 10;

/// True if `bytes` start with the whole header of a key unit, check value included.
fn starts_with_key_unit(bytes: &[u8]) -> bool {
    matches!(UnitHeader::parse(bytes), Ok((header, _)) if header.is_key())
}

/// How probable `bytes` without a key unit at their start are the beginning of a stream. A file of another kind may hold one, so this
/// stays below what the finders of containers are sure of.
fn cut_stream(bytes: &[u8]) -> Option<gst::TypeFindProbability> {
    let key = find_key_unit(bytes)?;
    let rest = bytes.get(end_of_unit(bytes, key)?..);
    let goes_on = rest.is_some_and(|rest| UnitHeader::parse(rest).is_ok());
    Some(if is_run_of_units(bytes, key) {
        gst::TypeFindProbability::NearlyCertain
    } else if goes_on {
        gst::TypeFindProbability::Likely
    } else {
        gst::TypeFindProbability::Possible
    })
}

/// Where the unit ends that starts at `at`.
fn end_of_unit(bytes: &[u8], at: usize) -> Option<usize> {
    let (header, start) = UnitHeader::parse(&bytes[at..]).ok()?;
    Some(at + start + header.payload_length)
}

/// True if units follow each other from the first byte up to `end`.
fn is_run_of_units(bytes: &[u8], end: usize) -> bool {
    let mut at = 0;
    while at < end {
        match end_of_unit(bytes, at) {
            Some(next) => at = next,
            None => return false,
        }
    }
    at == end
}

/// How many bytes there are to look at: as many as can be of use, or those of a short file, or those that have come in so far.
fn available(typefind: &mut gst::TypeFind) -> u32 {
    if let Some(length) = typefind.length() {
        return length.min(SEARCHED.into()) as u32;
    }
    let (mut can, mut cannot) = (0, SEARCHED + 1);
    while can + 1 < cannot {
        let size = (can + cannot) / 2;
        match typefind.peek(0, size) {
            Some(_) => can = size,
            None => cannot = size,
        }
    }
    can
}

fn probability(typefind: &mut gst::TypeFind) -> Option<gst::TypeFindProbability> {
    let available = available(typefind);
    let header = typefind.peek(0, available.min(MAX_HEADER as u32))?;
    if starts_with_key_unit(header) {
        return Some(gst::TypeFindProbability::Maximum);
    }
    cut_stream(typefind.peek(0, available)?)
}

pub fn register(plugin: &gst::Plugin) -> Result<(), gst::glib::BoolError> {
    gst::TypeFind::register(
        Some(plugin),
        "tvc_typefind",
        gst::Rank::MARGINAL,
        Some("tvc"),
        Some(&caps::any().build()),
        |typefind| {
            if let Some(probability) = probability(typefind) {
                typefind.suggest(probability, &caps::any().build());
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::samples::slice;
    use crate::bitstream::{SequenceHeader, Timing};

    fn key_unit() -> Vec<u8> {
        let sequence = SequenceHeader::sample();
        let timing = Timing::Grid;
        UnitHeader {
            sequence: Some(sequence),
            frames: 1,
            timing,
            payload_length: 0,
            symbol_check: 0,
            resilience: None,
        }
        .pack()
    }

    #[test]
    fn a_key_unit_is_found_and_its_beginning_is_not() {
        let unit = key_unit();
        assert!(starts_with_key_unit(&unit));
        for length in 0..unit.len() {
            assert!(!starts_with_key_unit(&unit[..length]), "{length} bytes");
        }
    }

    #[test]
    fn streams_of_slices_are_found_wherever_they_begin() {
        let units: Vec<_> = [(3, 4), (4, 0), (4, 1)]
            .into_iter()
            .flat_map(|(group, unit)| (0..4).map(move |index| slice(group, unit, index, 4, 20)))
            .collect();
        for first in 0..8 {
            let bytes = units[first..].concat();
            match first {
                4.. => assert!(starts_with_key_unit(&bytes), "slice {first}"),
                _ => assert_eq!(cut_stream(&bytes), Some(gst::TypeFindProbability::NearlyCertain)),
            }
        }
    }
}
