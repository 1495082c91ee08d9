// SPDX-License-Identifier: MPL-2.0
//! Finds TVC streams among files.

use super::caps;
use crate::bitstream::{UnitHeader, MAX_HEADER};

/// Header sizes to try: a short file has fewer bytes than the longest header.
const MIN_HEADER: u32 = 35;

/// True if `bytes` start with the whole header of a key unit, check value included.
fn starts_with_key_unit(bytes: &[u8]) -> bool {
    matches!(UnitHeader::parse(bytes), Ok((header, _)) if header.is_key())
}

pub fn register(plugin: &gst::Plugin) -> Result<(), gst::glib::BoolError> {
    gst::TypeFind::register(
        Some(plugin),
        "tvc_typefind",
        gst::Rank::MARGINAL,
        Some("tvc"),
        Some(&caps::any().build()),
        |typefind| {
            let length = typefind
                .length()
                .map_or(MAX_HEADER as u32, |l| l.min(MAX_HEADER as u64) as u32);
            let found = [length, MIN_HEADER + 8, MIN_HEADER]
                .into_iter()
                .any(|size| typefind.peek(0, size).is_some_and(starts_with_key_unit));
            if found {
                typefind.suggest(gst::TypeFindProbability::Maximum, &caps::any().build());
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
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
}
