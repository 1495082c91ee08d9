// SPDX-License-Identifier: MPL-2.0
//! Any bytes are refused as a header, or are packed into bytes that mean the same. Each input is also tried with the right
//! check value after every one of its bytes: few would get past it otherwise.
#![no_main]

use gsttvc::bitstream::{find_key_unit, slices, UnitHeader};
use libfuzzer_sys::fuzz_target;

/// More than the longest header.
const LONGEST: usize = 128;

fn parse(bytes: &[u8]) {
    if let Some(at) = find_key_unit(bytes) {
        assert!(at < bytes.len());
    }
    if let Ok(slices) = slices(bytes) {
        assert_eq!(slices.iter().map(|(_, range)| range.len()).sum::<usize>(), bytes.len());
    }
    if let Ok((header, length)) = UnitHeader::parse(bytes) {
        assert!(length <= bytes.len());
        let packed = header.pack();
        assert_eq!(UnitHeader::parse(&packed), Ok((header, packed.len())));
    }
}

fuzz_target!(|bytes: &[u8]| {
    parse(bytes);
    for end in 0..=bytes.len().min(LONGEST) {
        let check = crc32fast::hash(&bytes[..end]);
        parse(&[&bytes[..end], &check.to_be_bytes()].concat());
        parse(&[&bytes[..end], &[check as u8]].concat());
    }
});
