// SPDX-License-Identifier: MPL-2.0
//! What a unit says so that others can be lost: where it stands, what it refers to, and which part of it this is.

use super::fields::Reader;
use super::header::malformed;
use super::BitstreamError;

/// Groups of pictures are counted modulo this.
pub const GROUPS: u8 = 16;
/// Most units that a unit may look back.
pub const MAX_REFERENCE: u8 = 15;
/// Most slices of a unit.
pub const MAX_SLICES: u8 = 16;

/// A part of a unit that can be decoded alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Which one, from 0.
    pub index: u8,
    /// How many the unit has: 1, or an even number up to 16.
    pub count: u8,
}

/// Where a unit stands and what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resilience {
    /// Key units before this group of pictures, modulo 16.
    pub group: u8,
    /// How many units back the one is that this unit refers to, 1 to 15; 0: the key unit. 0 in a key unit.
    pub reference: u8,
    /// Units since the key unit, 0 in a key unit.
    pub unit: u8,
    /// Which part of the unit this is.
    pub slice: Slice,
}

impl Slice {
    /// A unit in one piece.
    pub const WHOLE: Slice = Slice { index: 0, count: 1 };

    fn is_legal(self) -> bool {
        let is_count = self.count == 1 || self.count.is_multiple_of(2) && (2..=MAX_SLICES).contains(&self.count);
        is_count && self.index < self.count
    }
}

impl Resilience {
    fn is_legal(self) -> bool {
        let looks_back = self.reference <= self.unit.min(MAX_REFERENCE);
        self.group < GROUPS && looks_back && self.slice.is_legal()
    }

    /// # Panics
    /// If a field is out of its range.
    pub(super) fn pack(&self, out: &mut Vec<u8>) {
        assert!(self.is_legal(), "{self:?}");
        out.push(self.group << 4 | self.reference);
        out.push(self.unit);
        out.push(self.slice.index << 4 | (self.slice.count - 1));
    }

    pub(super) fn parse(reader: &mut Reader, is_key: bool) -> Result<Resilience, BitstreamError> {
        let [first, unit, slice] = reader.bytes()?;
        let parsed = Resilience {
            group: first >> 4,
            reference: first & 15,
            unit,
            slice: Slice {
                index: slice >> 4,
                count: (slice & 15) + 1,
            },
        };
        if (unit == 0) != is_key {
            return Err(malformed("unit number", unit.into(), "0 in a key unit alone"));
        }
        if parsed.reference > unit {
            return Err(malformed(
                "reference",
                parsed.reference.into(),
                "at most the unit number",
            ));
        }
        match parsed.is_legal() {
            true => Ok(parsed),
            false => Err(malformed(
                "slice",
                slice.into(),
                "one of 1, or of an even number up to 16",
            )),
        }
    }
}

#[cfg(test)]
impl Resilience {
    /// The same slice of a key unit.
    pub(super) fn of_key_unit(self) -> Resilience {
        Resilience {
            reference: 0,
            unit: 0,
            ..self
        }
    }
}

/// Of delta units.
#[cfg(test)]
pub(super) fn any_resilience() -> impl proptest::strategy::Strategy<Value = Resilience> {
    use proptest::prelude::*;
    let slices = (0..=MAX_SLICES / 2).prop_map(|half| (2 * half).max(1));
    let slice = slices.prop_flat_map(|count| (0..count).prop_map(move |index| Slice { index, count }));
    (0..GROUPS, 0..=MAX_REFERENCE, 1..=u8::MAX, slice).prop_map(|(group, reference, unit, slice)| Resilience {
        group,
        reference: reference.min(unit),
        unit,
        slice,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: [u8; 3], is_key: bool) -> Result<Resilience, BitstreamError> {
        Resilience::parse(&mut Reader::new(&bytes), is_key)
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        assert!(parse([0x00, 0, 0x00], true).is_ok());
        assert!(
            parse([0x00, 0, 0x00], false).is_err(),
            "a delta unit in the place of a key unit"
        );
        assert!(parse([0x00, 1, 0x00], true).is_err(), "a key unit behind a key unit");
        assert!(
            parse([0x02, 1, 0x00], false).is_err(),
            "a reference before the key unit"
        );
        assert!(parse([0x00, 1, 0x02], false).is_err(), "three slices");
        assert!(parse([0x00, 1, 0x21], false).is_err(), "the third of two slices");
        assert!(parse([0x00, 1, 0xff], false).is_ok());
    }
}
