// SPDX-License-Identifier: MPL-2.0
//! Coded units as bytes: a header in front of each payload.

use super::AccessUnit;
use crate::bitstream::{SequenceHeader, Slice, Timing, UnitHeader, MAX_PAYLOAD};
use crate::codec::CodecError;
use crate::entropy::CodedUnit;

use super::resilience::Links;

/// What the headers of a unit's slices have in common.
#[derive(Clone, Copy)]
pub(super) struct Package<'a> {
    /// In a key unit.
    pub sequence: Option<SequenceHeader>,
    pub frames: usize,
    pub timing: Timing,
    /// Where units may be lost.
    pub links: Option<&'a Links>,
}

impl Package<'_> {
    /// The bytes of a unit. `times`: what each payload begins with. An error where one has more than `most` bytes.
    pub fn access_unit(self, coded: &CodedUnit, times: &[u8], most: usize) -> Result<AccessUnit, CodecError> {
        let mut bytes = Vec::new();
        for (index, slice) in coded.slices.iter().enumerate() {
            let found = times.len() + slice.payload.len();
            if found > most {
                return Err(CodecError::UnitTooLong { found, most });
            }
            let header = UnitHeader {
                payload_length: found,
                symbol_check: slice.check,
                ..self.header(index, coded.slices.len())
            };
            bytes.extend(header.pack());
            bytes.extend_from_slice(times);
            bytes.extend_from_slice(&slice.payload);
        }
        Ok(AccessUnit {
            bytes,
            is_key: self.sequence.is_some(),
            frames: self.frames,
        })
    }

    /// Bits of a whole unit, whose times take so many bytes. Of a trial, whose payload may be longer than a header can say.
    pub fn bits(self, coded: &CodedUnit, time_bytes: usize) -> f64 {
        let slices = coded.slices.iter().enumerate();
        let bytes = slices.map(|(index, slice)| {
            let payload = time_bytes + slice.payload.len();
            self.header_length(index, coded.slices.len(), payload) + payload
        });
        8.0 * bytes.sum::<usize>() as f64
    }

    /// Bytes of the header of a slice.
    pub fn header_length(self, index: usize, count: usize, payload: usize) -> usize {
        let header = UnitHeader {
            payload_length: payload.min(MAX_PAYLOAD),
            ..self.header(index, count)
        };
        header.pack().len()
    }

    fn header(self, index: usize, count: usize) -> UnitHeader {
        let slice = Slice {
            index: index as u8,
            count: count as u8,
        };
        UnitHeader {
            sequence: self.sequence,
            frames: self.frames,
            timing: self.timing,
            payload_length: 0,
            symbol_check: 0,
            resilience: self.links.map(|links| links.resilience(slice)),
        }
    }
}
