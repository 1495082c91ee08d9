// SPDX-License-Identifier: MPL-2.0

use crate::bitstream::SequenceHeader;
use crate::model::picture::Ycbcr;

/// `GST_VIDEO_COLOR_RANGE_0_255`.
const FULL_RANGE: u8 = 1;
/// `GST_VIDEO_COLOR_MATRIX_*`.
const RGB: u8 = 1;
/// Pictures of fewer lines are BT.601 where nothing else is said.
const HD_LINES: u32 = 720;

/// What the samples of a stream mean, as far as its header tells.
pub fn ycbcr(sequence: &SequenceHeader) -> Ycbcr {
    let [range, matrix, ..] = sequence.colorimetry;
    let (kr, kb) = match matrix {
        2 => (0.30, 0.11), // FCC
        3 => (Ycbcr::BT709.kr, Ycbcr::BT709.kb),
        4 => (Ycbcr::BT601.kr, Ycbcr::BT601.kb),
        5 => (0.212, 0.087),   // SMPTE 240M
        6 => (0.2627, 0.0593), // BT.2020
        _ if sequence.height < HD_LINES => (Ycbcr::BT601.kr, Ycbcr::BT601.kb),
        _ => (Ycbcr::BT709.kr, Ycbcr::BT709.kb),
    };
    Ycbcr {
        kr,
        kb,
        // R'G'B' sources are coded in limited range, whatever theirs was.
        full_range: range == FULL_RANGE && matrix != RGB,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_colours_follow_the_size_and_rgb_is_coded_in_limited_range() {
        let sequence = |height, range, matrix| SequenceHeader {
            height,
            colorimetry: [range, matrix, 0, 0, 0],
            ..SequenceHeader::sample()
        };
        assert_eq!(ycbcr(&sequence(576, 0, 0)), Ycbcr::BT601);
        assert_eq!(ycbcr(&sequence(720, 0, 0)), Ycbcr::BT709);
        assert_eq!(ycbcr(&sequence(1080, FULL_RANGE, RGB)), Ycbcr::BT709);
        assert_eq!(ycbcr(&sequence(1080, 2, 4)), Ycbcr::BT601);
        assert!(ycbcr(&sequence(576, FULL_RANGE, 4)).full_range);
    }
}
