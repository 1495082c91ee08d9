// SPDX-License-Identifier: MPL-2.0

use super::fields::{put_leb128, Reader};
use super::limits::{MAX_SIZE, MIN_SIZE};
use super::resilience::Resilience;
use super::resolution::CodingScale;
use super::timing::Timing;
use super::BitstreamError;

/// First byte of every access unit.
pub const SYNC: u8 = 0xd4;
/// Frames of a full delta unit.
pub const DELTA_FRAMES: usize = 8;
/// Longest payload of an access unit in bytes.
pub const MAX_PAYLOAD: usize = (1 << 21) - 1;
/// No header is longer, in bytes.
pub const MAX_HEADER: usize = 76;

const MAGIC: [u8; 3] = *b"TVC";
pub(super) const VERSION: u8 = 9;
const KEY_FLAG: u8 = 0x80;
const FRAMES_SHIFT: u8 = 4;
const TIMING_SHIFT: u8 = 2;
const RESILIENCE_FLAG: u8 = 0x02;
const RESERVED_FLAGS: u8 = 0x01;

/// What every key unit repeats: enough to start decoding here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceHeader {
    /// Width of the shown picture in luma samples, 16 to 8192.
    pub width: u32,
    /// Height of the shown picture in luma samples, 16 to 8192.
    pub height: u32,
    /// Frames per second as a fraction; 0/1 says variable.
    pub frame_rate: (u32, u32),
    /// Width of a sample over its height, both at least 1.
    pub pixel_aspect_ratio: (u32, u32),
    /// Range, matrix, transfer function, primaries and chroma siting, as GStreamer numbers them.
    pub colorimetry: [u8; 5],
    /// How much larger the pictures are coded.
    pub coding_scale: CodingScale,
    /// Identity of the model that the stream was made with.
    pub model_id: u64,
    /// Presentation time of the key unit's frame in ns, where known.
    pub pts: Option<u64>,
}

/// What stands before the payload of an access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitHeader {
    /// The sequence header, in key units.
    pub sequence: Option<SequenceHeader>,
    /// Frames of this unit: 1 in a key unit, 1 to 8 in a delta unit.
    pub frames: usize,
    /// How the payload gives the times of the frames.
    pub timing: Timing,
    /// Bytes after the header.
    pub payload_length: usize,
    /// Check over the decoded symbols.
    pub symbol_check: u16,
    /// `None`: the unit is whole, and needs all units since the key unit.
    pub resilience: Option<Resilience>,
}

pub(super) fn malformed(field: &'static str, value: u64, legal: &'static str) -> BitstreamError {
    BitstreamError::Malformed { field, value, legal }
}

impl SequenceHeader {
    /// A stream with square samples, of unknown colours, without the model's identity and time, which an encoder fills in.
    /// `frame_rate`: frames per second as a fraction.
    pub fn new(width: u32, height: u32, frame_rate: (u32, u32)) -> Self {
        SequenceHeader {
            width,
            height,
            frame_rate,
            pixel_aspect_ratio: (1, 1),
            colorimetry: [0; 5],
            coding_scale: CodingScale::Single,
            model_id: 0,
            pts: None,
        }
    }

    /// Whether every field is in its range, as a parser will see it.
    #[cfg(feature = "codec")]
    pub(crate) fn validate(&self) -> Result<(), BitstreamError> {
        let mut packed = Vec::new();
        self.pack(&mut packed);
        SequenceHeader::parse(&mut Reader::new(&packed)).map(drop)
    }

    /// Width and height of the coded pictures.
    pub fn coded_size(&self) -> (u32, u32) {
        let coded = |shown| self.coding_scale.coded(shown);
        (coded(self.width), coded(self.height))
    }

    /// Whether pictures of `other` are of the same kind for those who are shown them: all but the time and what the
    /// coding takes.
    pub fn shows_like(&self, other: &SequenceHeader) -> bool {
        let coding = SequenceHeader {
            pts: self.pts,
            coding_scale: self.coding_scale,
            ..*other
        };
        *self == coding
    }

    fn pack(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.extend_from_slice(&(self.width as u16).to_be_bytes());
        out.extend_from_slice(&(self.height as u16).to_be_bytes());
        for (num, den) in [self.frame_rate, self.pixel_aspect_ratio] {
            put_leb128(out, u64::from(num));
            put_leb128(out, u64::from(den));
        }
        out.extend_from_slice(&self.colorimetry);
        out.push(self.coding_scale.code());
        out.extend_from_slice(&self.model_id.to_be_bytes());
        put_leb128(out, self.pts.map_or(0, |pts| pts.saturating_add(1)));
    }

    fn parse(reader: &mut Reader) -> Result<Self, BitstreamError> {
        let magic: [u8; 3] = reader.bytes()?;
        if magic != MAGIC {
            let value = u32::from_be_bytes([0, magic[0], magic[1], magic[2]]);
            return Err(malformed("magic", value.into(), "\"TVC\""));
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(BitstreamError::UnsupportedVersion(version));
        }
        let size = |reader: &mut Reader, field| {
            let value = u32::from(reader.u16()?);
            let legal = (MIN_SIZE..=MAX_SIZE).contains(&value);
            legal
                .then_some(value)
                .ok_or_else(|| malformed(field, value.into(), "16 to 8192"))
        };
        let (width, height) = (size(reader, "width")?, size(reader, "height")?);
        let fraction = |reader: &mut Reader, field, least: u64| {
            let num = reader.leb128(field, i32::MAX as u64)?;
            let den = reader.leb128(field, i32::MAX as u64)?;
            if num < least || den == 0 {
                return Err(malformed(field, num, "a fraction of positive numbers"));
            }
            Ok((num as u32, den as u32))
        };
        let frame_rate = fraction(reader, "frame rate", 0)?;
        let pixel_aspect_ratio = fraction(reader, "pixel aspect ratio", 1)?;
        let colorimetry = reader.bytes()?;
        let code = reader.u8()?;
        let coding_scale = CodingScale::from_code(code)
            .filter(|scale| scale.fits(width, height))
            .ok_or_else(|| malformed("coding scale", code.into(), "0 to 4, coded sides up to 8192"))?;
        Ok(SequenceHeader {
            width,
            height,
            frame_rate,
            pixel_aspect_ratio,
            colorimetry,
            coding_scale,
            model_id: reader.u64()?,
            pts: reader.leb128("presentation time", u64::MAX)?.checked_sub(1),
        })
    }
}

#[cfg(test)]
impl SequenceHeader {
    /// A small stream at 25 frames/s, for tests.
    pub(crate) fn sample() -> Self {
        SequenceHeader {
            model_id: 1,
            pts: Some(0),
            ..SequenceHeader::new(64, 48, (25, 1))
        }
    }
}

impl UnitHeader {
    /// Whether it is that of a key unit.
    pub fn is_key(&self) -> bool {
        self.sequence.is_some()
    }

    /// The header's bytes, check value included: at most 8 in a delta unit, 11 with [`UnitHeader::resilience`].
    ///
    /// # Panics
    /// If a field is out of its range.
    pub fn pack(&self) -> Vec<u8> {
        assert!((1..=DELTA_FRAMES).contains(&self.frames) && self.payload_length <= MAX_PAYLOAD);
        let key = if self.is_key() { KEY_FLAG } else { 0 };
        let frames = (self.frames as u8 - 1) << FRAMES_SHIFT;
        let resilience = self.resilience.map_or(0, |_| RESILIENCE_FLAG);
        let mut out = vec![SYNC, key | frames | (self.timing as u8) << TIMING_SHIFT | resilience];
        put_leb128(&mut out, self.payload_length as u64);
        out.extend_from_slice(&self.symbol_check.to_be_bytes());
        if let Some(resilience) = &self.resilience {
            resilience.pack(&mut out);
        }
        if let Some(sequence) = &self.sequence {
            sequence.pack(&mut out);
        }
        let check = crc32fast::hash(&out);
        if self.is_key() {
            out.extend_from_slice(&check.to_be_bytes());
        } else {
            out.push(check as u8);
        }
        out
    }

    /// The header at the front of `bytes` and its length.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), BitstreamError> {
        let mut reader = Reader::new(bytes);
        let sync = reader.u8()?;
        if sync != SYNC {
            return Err(BitstreamError::NoSync(sync));
        }
        let flags = reader.u8()?;
        let (is_key, frames) = (flags & KEY_FLAG != 0, usize::from(flags >> FRAMES_SHIFT & 7) + 1);
        if flags & RESERVED_FLAGS != 0 {
            return Err(malformed("reserved flags", flags.into(), "0"));
        }
        if is_key && frames != 1 {
            return Err(malformed("frames of a key unit", frames as u64, "1"));
        }
        let timing = Timing::from_code(flags >> TIMING_SHIFT & 3);
        let payload_length = reader.leb128("payload length", MAX_PAYLOAD as u64)? as usize;
        let symbol_check = reader.u16()?;
        let is_resilient = flags & RESILIENCE_FLAG != 0;
        let resilience = is_resilient
            .then(|| Resilience::parse(&mut reader, is_key))
            .transpose()?;
        let sequence = is_key.then(|| SequenceHeader::parse(&mut reader)).transpose()?;
        let expected = crc32fast::hash(&bytes[..reader.position()]);
        let matches = match is_key {
            true => reader.u32()? == expected,
            false => reader.u8()? == expected as u8,
        };
        if !matches {
            return Err(BitstreamError::HeaderCheck);
        }
        let header = UnitHeader {
            sequence,
            frames,
            timing,
            payload_length,
            symbol_check,
            resilience,
        };
        Ok((header, reader.position()))
    }
}

/// Where the first key unit of `bytes` starts: its long check value makes a chance find unlikely.
pub fn find_key_unit(bytes: &[u8]) -> Option<usize> {
    (0..bytes.len())
        .filter(|&i| bytes[i] == SYNC)
        .find(|&i| matches!(UnitHeader::parse(&bytes[i..]), Ok((header, _)) if header.is_key()))
}

/// How many bytes there are, at least one, from what is no unit to the next key unit: the only place to go on after a loss of sync. Without one
/// all but what may be the beginning of a header, or all if nothing follows `bytes`.
pub(crate) fn bytes_to_key_unit(bytes: &[u8], is_end: bool) -> usize {
    let keep = if is_end { 0 } else { MAX_HEADER };
    let found = bytes.get(1..).and_then(find_key_unit);
    found.map_or(bytes.len().saturating_sub(keep).max(1), |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::super::resilience::{any_resilience, Slice};
    use super::*;
    use proptest::prelude::*;

    fn any_sequence() -> impl Strategy<Value = SequenceHeader> {
        let fraction = |least: u32| (least..=i32::MAX as u32, 1..=i32::MAX as u32);
        (
            (MIN_SIZE..=MAX_SIZE, MIN_SIZE..=MAX_SIZE),
            fraction(0),
            fraction(1),
            (any::<[u8; 5]>(), any::<prop::sample::Index>()),
            any::<u64>(),
            prop::option::of(0..u64::MAX),
        )
            .prop_map(
                |((width, height), frame_rate, par, (colorimetry, scale), model_id, pts)| {
                    let count = CodingScale::ALL
                        .iter()
                        .filter(|scale| scale.fits(width, height))
                        .count();
                    SequenceHeader {
                        width,
                        height,
                        frame_rate,
                        pixel_aspect_ratio: par,
                        colorimetry,
                        coding_scale: CodingScale::ALL[scale.index(count)],
                        model_id,
                        pts,
                    }
                },
            )
    }

    fn any_header() -> impl Strategy<Value = UnitHeader> {
        (
            prop::option::of(any_sequence()),
            1..=DELTA_FRAMES,
            0u8..4,
            0..=MAX_PAYLOAD,
            any::<u16>(),
            prop::option::of(any_resilience()),
        )
            .prop_map(
                |(sequence, frames, timing, payload_length, symbol_check, resilience)| UnitHeader {
                    sequence,
                    frames: if sequence.is_some() { 1 } else { frames },
                    timing: Timing::from_code(timing),
                    payload_length,
                    symbol_check,
                    resilience: resilience.map(|resilience| match sequence {
                        Some(_) => resilience.of_key_unit(),
                        None => resilience,
                    }),
                },
            )
    }

    proptest! {
        #[test]
        fn header_round_trips(header in any_header(), tail: Vec<u8>) {
            let mut bytes = header.pack();
            let length = bytes.len();
            let longest = if header.resilience.is_some() { 11 } else { 8 };
            prop_assert!(header.is_key() || length <= longest, "a delta header of {} bytes", length);
            bytes.extend(tail);
            prop_assert_eq!(UnitHeader::parse(&bytes), Ok((header, length)));
        }

        #[test]
        fn every_proper_prefix_is_incomplete(header in any_header(), cut in 0.0..1.0f64) {
            let bytes = header.pack();
            let cut = (bytes.len() as f64 * cut) as usize;
            prop_assert_eq!(UnitHeader::parse(&bytes[..cut]), Err(BitstreamError::Incomplete));
        }

        #[test]
        fn one_flipped_bit_of_a_key_header_is_noticed(sequence in any_sequence(), bit: prop::sample::Index) {
            let header = UnitHeader {
                sequence: Some(sequence), frames: 1, timing: Timing::Grid, payload_length: 9, symbol_check: 7,
                resilience: None,
            };
            let mut bytes = header.pack();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!matches!(UnitHeader::parse(&bytes), Ok((parsed, _)) if parsed.is_key()));
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = UnitHeader::parse(&bytes);
        }
    }

    #[test]
    fn delta_header_has_the_documented_bytes() {
        let header = UnitHeader {
            sequence: None,
            frames: 8,
            timing: Timing::Milliseconds,
            payload_length: 300,
            symbol_check: 0xbeef,
            resilience: None,
        };
        // sync | key 0, frames 7 (3 bits), timing 1 (2 bits), resilience 0, reserved 0 | LEB128 of 300 | check
        let mut bytes = vec![0xd4, 0b0111_0100, 0xac, 0x02, 0xbe, 0xef];
        bytes.push(crc32fast::hash(&bytes) as u8);
        assert_eq!(header.pack(), bytes);
    }

    #[test]
    fn a_slice_of_a_resilient_unit_has_the_documented_bytes() {
        let header = UnitHeader {
            sequence: None,
            frames: 8,
            timing: Timing::Grid,
            payload_length: 5,
            symbol_check: 0xbeef,
            resilience: Some(Resilience {
                group: 3,
                reference: 2,
                unit: 9,
                slice: Slice { index: 1, count: 4 },
            }),
        };
        // sync | key 0, frames 7, timing 0, resilience 1, reserved 0 | length | check | group, reference | unit | slice, count - 1
        let mut bytes = vec![0xd4, 0b0111_0010, 5, 0xbe, 0xef, 0x32, 9, 0x13];
        bytes.push(crc32fast::hash(&bytes) as u8);
        assert_eq!(header.pack(), bytes);
    }

    #[test]
    fn sizes_out_of_range_and_foreign_versions_are_named() {
        let sequence = SequenceHeader::sample();
        let pack = |sequence| {
            let timing = Timing::Grid;
            UnitHeader {
                sequence: Some(sequence),
                frames: 1,
                timing,
                payload_length: 0,
                symbol_check: 0,
                resilience: None,
            }
            .pack()
        };
        let error = UnitHeader::parse(&pack(SequenceHeader { width: 8, ..sequence })).unwrap_err();
        assert_eq!(error.to_string(), "malformed width: 8, legal is 16 to 8192");
        let mut bytes = pack(sequence);
        bytes[8] = VERSION + 1;
        assert_eq!(
            UnitHeader::parse(&bytes),
            Err(BitstreamError::UnsupportedVersion(VERSION + 1))
        );
    }

    #[test]
    fn key_unit_is_found_behind_rubbish() {
        let sequence = SequenceHeader::sample();
        let timing = Timing::Grid;
        let header = UnitHeader {
            sequence: Some(sequence),
            frames: 1,
            timing,
            payload_length: 0,
            symbol_check: 0,
            resilience: None,
        };
        let mut bytes = vec![SYNC, SYNC, 0x80, 1, 2, 3];
        bytes.extend(header.pack());
        assert_eq!(find_key_unit(&bytes), Some(6));
        assert_eq!(find_key_unit(&bytes[..20]), None);
    }
}
