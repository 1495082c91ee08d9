// SPDX-License-Identifier: MPL-2.0
//! Seeks in files that upstream pushes from wherever it is asked to.

mod common;

use std::sync::{Arc, Mutex};

use common::player::*;
use common::*;
use gst::prelude::*;
use gst::SeekFlags;

/// A source that pushes bytes from wherever it is asked to, and cannot be read at any place: as one of HTTP. Counts how often it is asked.
fn pushing_source(bytes: Vec<u8>) -> (gst::Element, Arc<Mutex<u32>>) {
    init();
    let source = gst_app::AppSrc::builder()
        .format(gst::Format::Bytes)
        .stream_type(gst_app::AppStreamType::Seekable)
        .build();
    source.set_size(bytes.len() as i64);
    let asked = Arc::new(Mutex::new(0));
    let (position, count) = (Arc::new(Mutex::new(0)), asked.clone());
    let seek_to = position.clone();
    let callbacks = gst_app::AppSrcCallbacks::builder()
        .seek_data(move |_, offset| {
            *count.lock().unwrap() += 1;
            *seek_to.lock().unwrap() = offset as usize;
            true
        })
        .need_data(move |source, _| {
            let chunk = {
                let mut position = position.lock().unwrap();
                let start = (*position).min(bytes.len());
                *position = (start + 4096).min(bytes.len());
                bytes[start..*position].to_vec()
            };
            let _ = match chunk.is_empty() {
                true => source.end_of_stream(),
                false => source.push_buffer(gst::Buffer::from_mut_slice(chunk)),
            };
        });
    source.set_callbacks(callbacks.build());
    (source.upcast(), asked)
}

#[test]
fn a_seek_in_what_is_pushed_starts_at_its_target_with_a_key_unit_before_it() {
    let (source, asked) = pushing_source(even());
    let player = Player::with_source(source);
    let near = 20 * 25 + GROUP;
    let mut count = 0;
    for flags in [SeekFlags::empty(), SeekFlags::ACCURATE, SeekFlags::KEY_UNIT] {
        for to in targets() {
            let (start, first, is_key) = player.seek(flags, to);
            let is_at_key = flags == SeekFlags::KEY_UNIT && start == first;
            assert!(start == to || is_at_key, "to {to} with {flags:?}: {start}");
            assert!(
                is_key && first <= to && to - first <= near as f64,
                "to {to} with {flags:?}: {first}"
            );
            count += 1;
        }
    }
    let asked = *asked.lock().unwrap();
    assert!(asked < 4 * count, "{asked} requests for {count} seeks");
}

#[test]
fn a_seek_in_what_is_pushed_comes_back_from_where_there_are_no_more_key_units() {
    let mut bytes = recording([10; 40]);
    bytes.extend(unit(Some(40 * GROUP), 100));
    (0..10).for_each(|_| bytes.extend(unit(None, 20_000)));
    let (source, _) = pushing_source(bytes);
    let player = Player::with_source(source);
    let (start, first, is_key) = player.seek(SeekFlags::empty(), 2000.);
    assert!(start == 2000. && is_key && first <= 2000., "{first}");
}

#[test]
fn a_seek_behind_the_end_of_what_is_pushed_comes_to_the_end() {
    let (source, _) = pushing_source(even());
    let player = Player::with_source(source);
    player.seek_range(1.0, SeekFlags::ACCURATE, 100_000, None);
    assert_eq!(player.play().0, gst::MessageType::Eos);
}

#[test]
fn the_duration_of_what_is_pushed_is_unknown_until_its_end_has_come() {
    let (source, _) = pushing_source(even());
    let player = Player::with_source(source);
    assert_eq!(player.duration(), None);
    let (end, played) = player.play();
    assert_eq!((end, played.len()), (gst::MessageType::Eos, 300 * 11));
    assert_eq!(player.duration(), Some(300 * GROUP * FRAME));
}

#[test]
fn key_units_alone_are_played_of_what_is_pushed() {
    let (source, _) = pushing_source(recording([10; 8]));
    let player = Player::with_source(source);
    player.seek_range(4.0, SeekFlags::TRICKMODE | SeekFlags::TRICKMODE_KEY_UNITS, 0, None);
    let (_, played) = player.play();
    assert_eq!(played, [0, 1, 2, 3, 4, 5, 6, 7].map(|n| n * GROUP));
}

#[test]
fn a_segment_of_what_is_pushed_ends_where_it_should_and_another_may_follow() {
    let (source, _) = pushing_source(even());
    let player = Player::with_source(source);
    for start in [1000, 3000] {
        player.seek_range(1.0, SeekFlags::SEGMENT, start, Some(start + 10));
        let (end, played) = player.play();
        assert_eq!(end, gst::MessageType::SegmentDone);
        let last = *played.last().unwrap();
        assert!((start..=start + 10).contains(&last) && played[0] <= start, "{played:?}");
    }
}
