// SPDX-License-Identifier: MPL-2.0
//! The exact length of a stream that can be read at any place: found from its end.

use crate::bitstream::{find_key_unit, Clock, SequenceHeader, UnitHeader};

/// The end is looked for a key unit in pieces of this size, then in larger ones.
const FIRST_TAIL: u64 = 64 << 10;
/// A stream with no key unit in its last 64 MiB keeps the base class's estimate.
const LONGEST_TAIL: u64 = 64 << 20;

/// The end of the last frame in ns. `read(offset, length)` gives the bytes of a file of `size` bytes.
pub fn end_of_stream(size: u64, read: impl Fn(u64, u64) -> Option<Vec<u8>>) -> Option<u64> {
    let mut tail = FIRST_TAIL;
    loop {
        let start = size.saturating_sub(tail);
        let bytes = read(start, size - start)?;
        if let Some(end) = end_of_units(&bytes) {
            return Some(end);
        }
        if start == 0 || tail >= LONGEST_TAIL {
            return None;
        }
        tail *= 4;
    }
}

/// The end of the last frame after the first key unit of `bytes`.
fn end_of_units(bytes: &[u8]) -> Option<u64> {
    let mut at = find_key_unit(bytes)?;
    let mut stream: Option<(SequenceHeader, Clock)> = None;
    let mut last = None;
    while let Ok((header, start)) = UnitHeader::parse(&bytes[at..]) {
        let end = at + start + header.payload_length;
        if let Some(sequence) = header.sequence {
            stream = Some((sequence, Clock::new(&sequence)));
            last = sequence.pts.or(last);
        } else {
            let (_, clock) = stream.as_mut()?;
            let Some(payload) = bytes.get(at + start..end) else {
                break;
            };
            let Ok((times, _)) = clock.parse(header.timing, header.frames, payload) else {
                break;
            };
            last = times.last().copied().flatten().or(last);
        }
        at = end;
        if at >= bytes.len() {
            break;
        }
    }
    let (sequence, _) = stream?;
    let frame = crate::elements::caps::duration(&sequence, 1).map_or(0, |d| d.nseconds());
    last?.checked_add(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::Timing;

    fn stream(key_units: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for key in 0..key_units {
            let sequence = SequenceHeader {
                pts: Some(key * 9 * 40_000_000),
                ..SequenceHeader::sample()
            };
            for (sequence, frames) in [(Some(sequence), 1), (None, 8)] {
                let header = UnitHeader {
                    sequence,
                    frames,
                    timing: Timing::Grid,
                    payload_length: 3000,
                    symbol_check: 0,
                };
                bytes.extend(header.pack());
                bytes.extend([0xd4; 3000]);
            }
        }
        bytes
    }

    fn end(bytes: &[u8]) -> Option<u64> {
        end_of_stream(bytes.len() as u64, |at, length| {
            Some(bytes[at as usize..][..length as usize].to_vec())
        })
    }

    #[test]
    fn short_and_long_streams_end_with_their_last_frame() {
        for key_units in [1, 2, 50] {
            assert_eq!(end(&stream(key_units)), Some(key_units * 9 * 40_000_000));
        }
    }

    #[test]
    fn a_torn_end_ends_with_the_last_whole_unit() {
        let bytes = stream(2);
        assert_eq!(end(&bytes[..bytes.len() - 1]), Some(10 * 40_000_000));
    }

    #[test]
    fn rubbish_has_no_end() {
        assert_eq!(end(&[0xd4; 1000]), None);
        assert_eq!(end(&[]), None);
    }
}
