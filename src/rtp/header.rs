// SPDX-License-Identifier: MPL-2.0

use super::Rejection;

/// Access units, or aggregation packets, are numbered modulo this.
pub const NUMBERS: u8 = 16;

const START: u8 = 0x80;
const END: u8 = 0x40;
const AGGREGATE: u8 = 0x20;
const KEY: u8 = 0x10;
const NUMBER: u8 = 0x0f;

/// The byte in front of each RTP payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadHeader {
    /// S: the first byte that follows is the first one of a slice, or of a unit that has none.
    pub start: bool,
    /// E: the last byte is its last one.
    pub end: bool,
    /// A: whole access units with lengths and times follow.
    pub aggregate: bool,
    /// K: it belongs to a key unit.
    pub key: bool,
    /// N: number of the access unit, or of the aggregation packet, modulo 16.
    pub number: u8,
}

impl PayloadHeader {
    /// The byte.
    ///
    /// # Panics
    /// If the number is not below [`NUMBERS`].
    pub fn pack(&self) -> u8 {
        assert!(self.number < NUMBERS);
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        flag(self.start, START)
            | flag(self.end, END)
            | flag(self.aggregate, AGGREGATE)
            | flag(self.key, KEY)
            | self.number
    }

    /// The header of a payload, and what follows it.
    pub fn parse(payload: &[u8]) -> Result<(Self, &[u8]), Rejection> {
        let (&byte, rest) = payload.split_first().ok_or(Rejection::Empty)?;
        let header = PayloadHeader {
            start: byte & START != 0,
            end: byte & END != 0,
            aggregate: byte & AGGREGATE != 0,
            key: byte & KEY != 0,
            number: byte & NUMBER,
        };
        if header.aggregate && !(header.start && header.end) {
            return Err(Rejection::Aggregate);
        }
        Ok((header, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_the_documented_bits() {
        let header = PayloadHeader {
            start: true,
            end: false,
            aggregate: false,
            key: true,
            number: 5,
        };
        // S | E | A | K | N
        assert_eq!(header.pack(), 0b1001_0101);
        let aggregate = PayloadHeader {
            start: true,
            end: true,
            aggregate: true,
            key: false,
            number: 15,
        };
        assert_eq!(aggregate.pack(), 0b1110_1111);
    }

    #[test]
    fn every_byte_is_a_header_or_reserved() {
        for byte in 0..=u8::MAX {
            let is_reserved = byte & AGGREGATE != 0 && byte & (START | END) != START | END;
            match PayloadHeader::parse(&[byte, 7]) {
                Ok((header, rest)) => assert_eq!((header.pack(), rest, is_reserved), (byte, &[7][..], false)),
                Err(rejection) => assert_eq!((rejection, is_reserved), (Rejection::Aggregate, true)),
            }
        }
        assert_eq!(PayloadHeader::parse(&[]), Err(Rejection::Empty));
    }

    #[test]
    #[should_panic]
    fn a_number_out_of_range_is_not_packed() {
        let (start, end, aggregate, key) = (true, true, false, false);
        PayloadHeader {
            start,
            end,
            aggregate,
            key,
            number: 16,
        }
        .pack();
    }
}
