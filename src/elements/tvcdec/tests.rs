// SPDX-License-Identifier: MPL-2.0
//! What only the inside can bring about.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use gst::prelude::*;
use gst::subclass::prelude::*;

use crate::bitstream::SequenceHeader;
use crate::codec::{Encoder, EncoderSettings, Frame};
use crate::elements::caps;
use crate::model::{Model, ModelSource};

/// The access units of some grey pictures, and their caps.
fn units(frames: u64) -> (Vec<gst::Buffer>, gst::Caps) {
    let model: Arc<Model> = Model::load(&ModelSource::Embedded, "cpu").unwrap();
    let sequence = SequenceHeader::new(32, 32, (25, 1));
    let mut encoder = Encoder::new(model, sequence, EncoderSettings::default()).unwrap();
    let mut units = vec![];
    for t in 0..frames {
        let frame = Frame {
            width: 32,
            height: 32,
            planes: [vec![100; 32 * 32], vec![128; 16 * 16], vec![128; 16 * 16]],
            pts: Some(t * 40_000_000),
        };
        units.extend(encoder.push(frame, false).unwrap());
    }
    units.extend(encoder.drain().unwrap());
    let buffers = units.into_iter().map(|unit| gst::Buffer::from_mut_slice(unit.bytes));
    (buffers.collect(), caps::from_sequence(&sequence))
}

#[test]
fn a_painter_that_dies_is_an_error_and_nobody_waits_for_it() {
    gst::init().unwrap();
    let (units, caps) = units(25);
    let element = gst::glib::Object::new::<super::TvcDec>();
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    let mut harness = gst_check::Harness::with_element(&element, Some("sink"), Some("src"));
    harness.set_src_caps(caps);
    harness.play();
    harness.push(units[0].clone()).unwrap();
    assert!(harness.pull().is_ok(), "the picture of the key unit");
    element.imp().painter_dies.store(true, Ordering::Relaxed);
    let flows: Vec<_> = units[1..].iter().map(|unit| harness.push(unit.clone())).collect();
    let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Error]);
    let Some(gst::MessageView::Error(error)) = message.as_ref().map(|message| message.view()) else {
        panic!("no error, pushed with {flows:?}");
    };
    assert!(
        error.error().message().contains("a test lets the painter die"),
        "{error:?}"
    );
    assert_eq!(harness.push(units[0].clone()), Err(gst::FlowError::Error));
    harness.push_event(gst::event::Eos::new());
    element.set_state(gst::State::Null).unwrap();
    // Started anew it works.
    element.set_bus(None);
    element.imp().painter_dies.store(false, Ordering::Relaxed);
    element.set_state(gst::State::Playing).unwrap();
    element.set_state(gst::State::Null).unwrap();
}
