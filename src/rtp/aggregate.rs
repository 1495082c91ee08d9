// SPDX-License-Identifier: MPL-2.0
//! Several access units in one packet.

use super::Rejection;

/// Longest time between an access unit and the one before it in a packet, in ticks of the RTP clock.
pub const MAX_OFFSET: u32 = u16::MAX as u32;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AggregatedUnit<'a> {
    /// Ticks since the access unit before it in the packet; 0 in the first one.
    pub offset: u16,
    /// The access unit.
    pub bytes: &'a [u8],
}

impl AggregatedUnit<'_> {
    /// Bytes that a unit takes in a packet.
    pub(crate) fn packed_length(length: usize, is_first: bool) -> usize {
        length + if is_first { 2 } else { 4 }
    }
}

/// What follows the payload header.
///
/// # Panics
/// If a unit is empty or longer than 65,535 bytes.
pub fn pack(units: &[AggregatedUnit], out: &mut Vec<u8>) {
    for (n, unit) in units.iter().enumerate() {
        if n > 0 {
            out.extend_from_slice(&unit.offset.to_be_bytes());
        }
        let length = u16::try_from(unit.bytes.len()).ok().filter(|&length| length > 0);
        out.extend_from_slice(&length.expect("1 to 65,535 bytes").to_be_bytes());
        out.extend_from_slice(unit.bytes);
    }
}

/// The units that [`pack`] has packed.
pub fn parse(mut rest: &[u8]) -> Result<Vec<AggregatedUnit<'_>>, Rejection> {
    let mut units = Vec::new();
    while !rest.is_empty() || units.is_empty() {
        let offset = if units.is_empty() { 0 } else { u16_of(&mut rest)? };
        let length = usize::from(u16_of(&mut rest)?);
        let (bytes, behind) = rest.split_at_checked(length).ok_or(Rejection::Aggregate)?;
        if bytes.is_empty() {
            return Err(Rejection::Aggregate);
        }
        units.push(AggregatedUnit { offset, bytes });
        rest = behind;
    }
    Ok(units)
}

fn u16_of(rest: &mut &[u8]) -> Result<u16, Rejection> {
    let (&bytes, behind) = rest.split_first_chunk().ok_or(Rejection::Aggregate)?;
    *rest = behind;
    Ok(u16::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_have_the_documented_bytes() {
        let units = [(0, &[1u8, 2][..]), (24_000, &[3])].map(|(offset, bytes)| AggregatedUnit { offset, bytes });
        let mut packed = Vec::new();
        pack(&units, &mut packed);
        // length 2 | 1 2 | offset 24,000 | length 1 | 3
        assert_eq!(packed, [0, 2, 1, 2, 0x5d, 0xc0, 0, 1, 3]);
        assert_eq!(parse(&packed).unwrap(), units);
    }

    #[test]
    fn what_is_cut_off_or_empty_is_refused() {
        let packed = [0, 2, 1, 2, 0x5d, 0xc0, 0, 1, 3];
        for length in (0..packed.len()).filter(|&length| length != 4) {
            assert_eq!(parse(&packed[..length]), Err(Rejection::Aggregate), "{length} bytes");
        }
        assert_eq!(parse(&[0, 0]), Err(Rejection::Aggregate));
        assert_eq!(parse(&[0, 1, 9, 0, 0, 0, 0]), Err(Rejection::Aggregate));
    }

    proptest! {
        #[test]
        fn units_round_trip(units in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 1..300)), 1..9)) {
            let offset = |n: usize, offset: u16| if n == 0 { 0 } else { offset };
            let units: Vec<_> = units
                .iter()
                .enumerate()
                .map(|(n, unit)| AggregatedUnit { offset: offset(n, unit.0), bytes: &unit.1 })
                .collect();
            let mut packed = Vec::new();
            pack(&units, &mut packed);
            prop_assert_eq!(parse(&packed).unwrap(), units);
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
