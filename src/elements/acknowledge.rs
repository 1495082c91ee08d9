// SPDX-License-Identifier: MPL-2.0
//! The event with which a receiver tells the sender that it has a unit.

use crate::bitstream::GROUPS;

/// Name of the structure. Fields: `group` and `unit` (guint), as the unit's header numbers them.
const NAME: &str = "GstTvcAcknowledge";

/// The event, for a unit of a group of pictures.
pub fn event(group: u8, unit: u8) -> gst::Event {
    let structure = gst::Structure::builder(NAME)
        .field("group", u32::from(group))
        .field("unit", u32::from(unit))
        .build();
    gst::event::CustomUpstream::new(structure)
}

/// Group of pictures and unit, if it is such an event with numbers that headers may have.
pub fn parse(event: &gst::EventRef) -> Option<(u8, u8)> {
    let gst::EventView::CustomUpstream(custom) = event.view() else {
        return None;
    };
    let structure = custom.structure().filter(|structure| structure.has_name(NAME))?;
    let number = |field| {
        structure
            .get::<u32>(field)
            .ok()
            .and_then(|number| u8::try_from(number).ok())
    };
    let group = number("group").filter(|group| *group < GROUPS);
    group.zip(number("unit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_four_bits() {
        gst::init().unwrap();
        assert_eq!(parse(&event(16, 1)), None);
    }

    #[test]
    fn what_is_sent_is_understood_and_nothing_else() {
        gst::init().unwrap();
        assert_eq!(parse(&event(15, 255)), Some((15, 255)));
        let other = |structure| parse(&gst::event::CustomUpstream::new(structure));
        assert_eq!(other(gst::Structure::new_empty("GstOther")), None);
        assert_eq!(other(gst::Structure::new_empty(NAME)), None);
        assert_eq!(
            other(
                gst::Structure::builder(NAME)
                    .field("group", 1u32)
                    .field("unit", 256u32)
                    .build()
            ),
            None
        );
    }
}
