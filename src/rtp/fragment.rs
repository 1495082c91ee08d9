// SPDX-License-Identifier: MPL-2.0

use super::Rejection;
use crate::bitstream::{BitstreamError, UnitHeader};

/// A slice that is coming in, in pieces.
#[derive(Clone, Debug, Default)]
pub struct Fragments {
    bytes: Vec<u8>,
    /// Its header and the bytes that it will have, once they are known.
    parsed: Option<(UnitHeader, usize)>,
}

impl Fragments {
    /// Adds a piece. No more bytes are held than the header says, which is in the first few.
    pub fn add(&mut self, piece: &[u8]) -> Result<(), Rejection> {
        self.bytes.extend_from_slice(piece);
        if self.parsed.is_none() {
            self.parsed = match UnitHeader::parse(&self.bytes) {
                Ok((header, start)) => Some((header, start + header.payload_length)),
                Err(BitstreamError::Incomplete) => None,
                Err(error) => return Err(error.into()),
            };
        }
        match self.parsed {
            Some((_, length)) if self.bytes.len() > length => Err(Rejection::TooLong),
            _ => Ok(()),
        }
    }

    /// The slice, if all of it is there.
    pub fn finish(self) -> Result<(UnitHeader, Vec<u8>), Rejection> {
        match self.parsed {
            Some((header, length)) if self.bytes.len() == length => Ok((header, self.bytes)),
            _ => Err(Rejection::TooShort),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::samples::unit;

    #[test]
    fn pieces_of_any_size_become_the_unit() {
        let unit = unit(Some(0), 100);
        for size in 1..=unit.len() {
            let mut fragments = Fragments::default();
            unit.chunks(size).for_each(|piece| fragments.add(piece).unwrap());
            assert_eq!(fragments.finish().unwrap().1, unit);
        }
    }

    #[test]
    fn a_byte_more_or_less_is_refused() {
        let unit = unit(Some(0), 100);
        let mut fragments = Fragments::default();
        fragments.add(&unit[..unit.len() - 1]).unwrap();
        assert_eq!(fragments.clone().finish(), Err(Rejection::TooShort));
        assert_eq!(fragments.add(&[0, 0]), Err(Rejection::TooLong));
    }

    #[test]
    fn what_begins_no_unit_is_refused_at_once() {
        assert!(matches!(Fragments::default().add(&[1]), Err(Rejection::Unit(_))));
    }
}
