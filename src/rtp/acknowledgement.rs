// SPDX-License-Identifier: MPL-2.0
//! How a receiver tells in RTCP which unit it has: Reference Picture Selection Indication, RFC 4585 section 6.3.3.

use super::Rejection;
use crate::bitstream::GROUPS;

/// Packet type of payload-specific feedback.
pub const PAYLOAD_FEEDBACK: u8 = 206;
/// Feedback message type of a Reference Picture Selection Indication.
pub const REFERENCE_PICTURE: u8 = 3;

/// Version 2, no padding.
const VERSION: u8 = 0x80;
/// 32-bit words of the packet after the first one.
const LENGTH: u16 = 3;
const PAYLOAD_TYPE: u8 = 0x7f;

/// What the receiver has: a unit, and all that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// RTP payload type of the stream, 7 bits.
    pub payload_type: u8,
    /// Group of pictures as the unit's header numbers it, 4 bits.
    pub group: u8,
    /// Units since the key unit.
    pub unit: u8,
}

impl Acknowledgement {
    /// Feedback Control Information.
    ///
    /// # Panics
    /// If a field is out of its range.
    pub fn pack(&self) -> [u8; 4] {
        assert!(self.payload_type <= PAYLOAD_TYPE && self.group < GROUPS, "{self:?}");
        [0, self.payload_type, self.group << 4, self.unit]
    }

    /// Of Feedback Control Information.
    pub fn parse(information: &[u8]) -> Result<Self, Rejection> {
        match *information {
            [0, payload_type @ 0..=PAYLOAD_TYPE, group, unit] if group & 15 == 0 => Ok(Acknowledgement {
                payload_type,
                group: group >> 4,
                unit,
            }),
            _ => Err(Rejection::Acknowledgement),
        }
    }

    /// An RTCP packet, from a receiver to the sender of the stream.
    ///
    /// # Panics
    /// If a field is out of its range.
    pub fn packet(&self, receiver: u32, sender: u32) -> [u8; 16] {
        let mut packet = [0; 16];
        packet[0] = VERSION | REFERENCE_PICTURE;
        packet[1] = PAYLOAD_FEEDBACK;
        packet[2..4].copy_from_slice(&LENGTH.to_be_bytes());
        packet[4..8].copy_from_slice(&receiver.to_be_bytes());
        packet[8..12].copy_from_slice(&sender.to_be_bytes());
        packet[12..].copy_from_slice(&self.pack());
        packet
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SOME: Acknowledgement = Acknowledgement {
        payload_type: 96,
        group: 5,
        unit: 7,
    };

    proptest! {
        #[test]
        fn what_is_packed_is_parsed(payload_type in 0..=PAYLOAD_TYPE, group in 0..GROUPS, unit: u8) {
            let acknowledgement = Acknowledgement { payload_type, group, unit };
            prop_assert_eq!(Acknowledgement::parse(&acknowledgement.pack()), Ok(acknowledgement));
        }

        #[test]
        fn what_is_parsed_is_packed_to_the_same(information in prop::collection::vec(any::<u8>(), 0..6)) {
            if let Ok(acknowledgement) = Acknowledgement::parse(&information) {
                prop_assert_eq!(&acknowledgement.pack()[..], &information[..]);
            }
        }
    }

    #[test]
    fn packets_have_the_documented_bytes() {
        let expected = [
            // V = 2, P = 0, FMT = 3 | PT = 206 | length = 3
            0x83, 0xce, 0x00, 0x03, //
            // SSRC of packet sender
            0x01, 0x02, 0x03, 0x04, //
            // SSRC of media source
            0xa1, 0xa2, 0xa3, 0xa4, //
            // PB = 0 | 0, payload type | group, 0 | unit
            0x00, 0x60, 0x50, 0x07,
        ];
        assert_eq!(SOME.packet(0x0102_0304, 0xa1a2_a3a4), expected);
    }

    #[test]
    fn information_of_another_form_is_refused() {
        assert_eq!(Acknowledgement::parse(&[0, 0x60, 0x50, 7]), Ok(SOME));
        for other in [
            &[0, 0x60, 0x50][..],
            &[0, 0x60, 0x50, 7, 0],
            // Eight bits of padding, and no unit.
            &[8, 0x60, 0x50, 0],
            &[0, 0xe0, 0x50, 7],
            &[0, 0x60, 0x51, 7],
        ] {
            assert_eq!(Acknowledgement::parse(other), Err(Rejection::Acknowledgement));
        }
    }

    #[test]
    #[should_panic]
    fn a_group_out_of_range_is_not_packed() {
        Acknowledgement { group: GROUPS, ..SOME }.pack();
    }

    #[test]
    #[should_panic]
    fn a_payload_type_out_of_range_is_not_packed() {
        let payload_type = PAYLOAD_TYPE + 1;
        Acknowledgement { payload_type, ..SOME }.pack();
    }
}
