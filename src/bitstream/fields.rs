// SPDX-License-Identifier: MPL-2.0
//! Fields of a header: fixed-width big-endian integers and LEB128.

use super::BitstreamError;

/// Reads fields from the front of a slice.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], BitstreamError> {
        let end = self.at + N;
        let field = self.bytes.get(self.at..end).ok_or(BitstreamError::Incomplete)?;
        self.at = end;
        Ok(field.try_into().expect("the slice has N bytes"))
    }

    pub fn u8(&mut self) -> Result<u8, BitstreamError> {
        Ok(u8::from_be_bytes(self.bytes()?))
    }

    pub fn u16(&mut self) -> Result<u16, BitstreamError> {
        Ok(u16::from_be_bytes(self.bytes()?))
    }

    pub fn u32(&mut self) -> Result<u32, BitstreamError> {
        Ok(u32::from_be_bytes(self.bytes()?))
    }

    pub fn u64(&mut self) -> Result<u64, BitstreamError> {
        Ok(u64::from_be_bytes(self.bytes()?))
    }

    /// Unsigned LEB128 of at most `limit`; longer encodings than the limit needs are malformed.
    pub fn leb128(&mut self, field: &'static str, limit: u64) -> Result<u64, BitstreamError> {
        let malformed = |value| BitstreamError::Malformed {
            field,
            value,
            legal: "LEB128 within the field's range",
        };
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(malformed(u64::MAX));
            }
            value |= bits << shift;
            if value > limit {
                return Err(malformed(value));
            }
            if byte & 0x80 == 0 {
                return Ok(value);
            }
            if shift + 7 < 64 && limit >> (shift + 7) == 0 {
                return Err(malformed(value));
            }
        }
        Err(malformed(value))
    }
}

/// Appends `value` as unsigned LEB128.
pub fn put_leb128(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Small numbers of either sign to small numbers: 0, -1, 1, -2 ... -> 0, 1, 2, 3 ...
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Inverse of [`zigzag`].
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn leb128_round_trips(value: u64) {
            let mut bytes = Vec::new();
            put_leb128(&mut bytes, value);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.leb128("field", u64::MAX), Ok(value));
            prop_assert_eq!(reader.position(), bytes.len());
        }

        #[test]
        fn leb128_over_the_limit_is_malformed(limit in 0u64..u64::MAX, more in 1u64..1000) {
            let mut bytes = Vec::new();
            put_leb128(&mut bytes, limit.saturating_add(more));
            let result = Reader::new(&bytes).leb128("field", limit);
            prop_assert!(matches!(result, Err(BitstreamError::Malformed { .. })), "got {:?}", result);
        }

        #[test]
        fn leb128_of_any_bytes_ends(bytes: Vec<u8>) {
            let _ = Reader::new(&bytes).leb128("field", u64::MAX);
        }

        #[test]
        fn zigzag_round_trips(value: i64) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }

    #[test]
    fn fields_past_the_end_are_incomplete() {
        assert_eq!(Reader::new(&[1, 2, 3]).u32(), Err(BitstreamError::Incomplete));
        assert_eq!(
            Reader::new(&[0x80]).leb128("field", 300),
            Err(BitstreamError::Incomplete)
        );
    }
}
