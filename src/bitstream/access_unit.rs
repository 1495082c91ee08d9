// SPDX-License-Identifier: MPL-2.0
//! Access units of several slices.

use std::ops::Range;

use super::header::malformed;
use super::{BitstreamError, Resilience, Slice, UnitHeader};

impl UnitHeader {
    /// Which slice of its access unit this is; the only one without [`UnitHeader::resilience`].
    pub fn slice(&self) -> Slice {
        self.resilience.map_or(Slice::WHOLE, |resilience| resilience.slice)
    }

    /// Whether no slice of the access unit can follow this one.
    pub fn is_last_slice(&self) -> bool {
        let slice = self.slice();
        slice.index + 1 == slice.count
    }

    /// Whether this is a later slice of the access unit that `before` is a slice of. Those between may be missing.
    pub fn continues(&self, before: &UnitHeader) -> bool {
        let (Some(this), Some(that)) = (self.resilience, before.resilience) else {
            return false;
        };
        let place = |resilience: Resilience| {
            (
                resilience.group,
                resilience.unit,
                resilience.reference,
                resilience.slice.count,
            )
        };
        let is_same_unit = place(this) == place(that);
        let is_like = (self.frames, self.timing, self.sequence) == (before.frames, before.timing, before.sequence);
        is_same_unit && is_like && this.slice.index > that.slice.index
    }
}

/// The slices of the access unit at the front of bytes that are there, up to the first thing that is none of it: the header, where its payload
/// begins, and where it ends by its header, which may be beyond the bytes.
#[cfg(feature = "codec")]
pub(crate) fn slices_at_front(bytes: &[u8]) -> impl Iterator<Item = (UnitHeader, Range<usize>)> + '_ {
    let (mut at, mut before) = (0, None::<UnitHeader>);
    std::iter::from_fn(move || {
        let (header, start) = UnitHeader::parse(bytes.get(at..)?).ok()?;
        if before.is_some_and(|before| !header.continues(&before)) {
            return None;
        }
        let payload = at + start..at + start + header.payload_length;
        (at, before) = (payload.end, Some(header));
        Some((header, payload))
    })
}

/// Cuts one access unit into its slices. `bytes` must hold all of it and nothing else; slices may be missing. Gives their headers and
/// where they are.
pub fn slices(bytes: &[u8]) -> Result<Vec<(UnitHeader, Range<usize>)>, BitstreamError> {
    let mut slices: Vec<(UnitHeader, Range<usize>)> = Vec::new();
    let mut at = 0;
    while at < bytes.len() || slices.is_empty() {
        let (header, start) = UnitHeader::parse(&bytes[at..])?;
        let end = at + start + header.payload_length;
        if end > bytes.len() {
            return Err(BitstreamError::Incomplete);
        }
        if slices.last().is_some_and(|(before, _)| !header.continues(before)) {
            let legal = "a later slice of the same access unit";
            return Err(malformed("slice index", header.slice().index.into(), legal));
        }
        slices.push((header, at..end));
        at = end;
    }
    Ok(slices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::samples::{slice, unit};

    #[test]
    fn an_access_unit_is_cut_into_the_slices_that_are_there() {
        let all: Vec<_> = (0..4).map(|index| slice(1, 3, index, 4, 10)).collect();
        for present in [&[0, 1, 2, 3][..], &[0], &[3], &[1, 2], &[0, 3]] {
            let bytes: Vec<u8> = present.iter().flat_map(|&index| all[index].clone()).collect();
            let found = slices(&bytes).unwrap();
            let indices: Vec<_> = found
                .iter()
                .map(|(header, _)| usize::from(header.slice().index))
                .collect();
            assert_eq!(indices, present);
            assert!(found
                .iter()
                .all(|(header, range)| bytes[range.clone()] == all[usize::from(header.slice().index)]));
            assert_eq!(found.last().unwrap().1.end, bytes.len());
        }
    }

    #[cfg(feature = "codec")]
    #[test]
    fn what_follows_the_access_unit_at_the_front_is_none_of_it() {
        let all: Vec<_> = (0..4).map(|index| slice(1, 3, index, 4, 10)).collect();
        let bytes = [all[0].clone(), all[2].clone(), slice(1, 4, 3, 4, 10)].concat();
        let found: Vec<_> = slices_at_front(&bytes).collect();
        assert_eq!(
            found.iter().map(|(header, _)| header.slice().index).collect::<Vec<_>>(),
            [0, 2]
        );
        assert_eq!(found[1].1.end, all[0].len() + all[2].len());
        let cut = slices_at_front(&bytes[..all[0].len() - 1]).last().unwrap();
        assert_eq!(cut.1.end, all[0].len(), "as long as its header says");
        assert_eq!(slices_at_front(b"nothing").count(), 0);
    }

    #[test]
    fn a_unit_without_resilience_stands_alone() {
        let one = unit(None, 20);
        assert_eq!(slices(&one).unwrap().len(), 1);
        assert!(slices(&[one.clone(), one].concat()).is_err());
    }

    #[test]
    fn what_is_not_one_access_unit_is_refused() {
        let (first, second) = (slice(1, 3, 0, 2, 10), slice(1, 3, 1, 2, 10));
        let whole = [first.clone(), second.clone()].concat();
        assert!(slices(&whole).is_ok());
        assert_eq!(slices(&[]), Err(BitstreamError::Incomplete));
        assert_eq!(slices(&whole[..whole.len() - 1]), Err(BitstreamError::Incomplete));
        let others = [
            (second, first.clone(), "falling indices"),
            (first.clone(), first.clone(), "the same slice twice"),
            (first.clone(), slice(1, 4, 1, 2, 10), "another unit"),
            (first.clone(), slice(2, 3, 1, 2, 10), "another group"),
            (first, slice(1, 3, 1, 4, 10), "another number of slices"),
        ];
        for (one, two, what) in others {
            assert!(slices(&[one, two].concat()).is_err(), "{what}");
        }
    }
}
