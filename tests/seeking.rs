// SPDX-License-Identifier: MPL-2.0
//! Seeks in files that can be read at any place.

mod common;

use common::player::*;
use common::*;
use gst::prelude::*;
use gst::{SeekFlags, SeekType};

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn a_plain_seek_starts_at_its_target_with_the_key_unit_before_it() {
    let file = file(&even());
    for flags in [SeekFlags::empty(), SeekFlags::ACCURATE] {
        let player = Player::new(file.path());
        for to in targets() {
            let key = (to as u64 / GROUP * GROUP) as f64;
            assert_eq!(player.seek(flags, to), (to, key, true), "{flags:?}");
        }
    }
}

#[test]
fn a_key_unit_seek_starts_at_the_key_unit_before_its_target() {
    let file = file(&even());
    let player = Player::new(file.path());
    for flags in [SeekFlags::KEY_UNIT, SeekFlags::KEY_UNIT | SeekFlags::SNAP_BEFORE] {
        for to in targets() {
            let key = (to as u64 / GROUP * GROUP) as f64;
            assert_eq!(player.seek(flags, to), (key, key, true), "to {to} with {flags:?}");
        }
    }
}

#[test]
fn a_key_unit_seek_goes_to_the_one_after_or_the_nearest_where_asked_to() {
    let file = file(&even());
    let player = Player::new(file.path());
    let seek = |flags, to| player.seek(SeekFlags::KEY_UNIT | flags, to).1 as u64;
    for (to, after, nearest) in [
        (0., 0, 0),
        (1., 81, 0),
        (40., 81, 0),
        (41., 81, 81),
        (81., 81, 81),
        (99_999., 24_219, 24_219),
    ] {
        assert_eq!(seek(SeekFlags::SNAP_AFTER, to), after, "after {to}");
        assert_eq!(seek(SeekFlags::SNAP_NEAREST, to), nearest, "near {to}");
    }
}

#[test]
fn seeks_find_their_key_unit_however_far_apart_they_are() {
    // 1.2 s, then 96 s, and one at the end that lasts 16 minutes.
    let file = file(&recording([4, 300, 1, 3000]));
    let player = Player::new(file.path());
    let keys = [0, 33, 2434, 2443];
    for to in [10., 32.9, 33., 1500., 2433., 2440., 20_000., 3000., 100., 5.] {
        let key = *keys.iter().rev().find(|&&key| key as f64 <= to).unwrap() as f64;
        assert_eq!(player.seek(SeekFlags::ACCURATE, to), (to, key, true));
        assert_eq!(player.seek(SeekFlags::KEY_UNIT, to), (key, key, true));
    }
}

#[test]
fn the_duration_is_exact_and_known_at_once() {
    for deltas in [vec![10; 300], vec![0], vec![3000]] {
        let frames = deltas.iter().map(|deltas| 1 + 8 * deltas).sum::<u64>();
        let file = file(&recording(deltas));
        assert_eq!(Player::new(file.path()).duration(), Some(frames * FRAME));
    }
}

#[test]
fn a_large_file_is_measured_from_its_end_and_sought_all_the_same() {
    // 40 MB: 200 groups of a second and a bit, with units of some kB.
    let mut bytes = Vec::new();
    for group in 0..200 {
        bytes.extend(unit(Some(group * 33), 100_000));
        (0..4).for_each(|_| bytes.extend(unit(None, 25_000)));
    }
    let file = file(&bytes);
    let player = Player::new(file.path());
    assert_eq!(player.duration(), Some(200 * 33 * FRAME));
    for group in [190, 3, 150, 199] {
        let to = (group * 33 + 20) as f64;
        assert_eq!(player.seek(SeekFlags::KEY_UNIT, to).1, (group * 33) as f64);
    }
}

#[test]
fn files_in_a_row_play_one_after_the_other() {
    let one = recording([2, 2, 1]);
    let file = file(&[one.clone(), one.clone(), one].concat());
    let length = 43;
    let player = Player::new(file.path());
    assert_eq!(player.duration(), Some(3 * length * FRAME));
    for to in [100., 44., 42., 86., 3., 128.] {
        let starts = [0, 17, 34].map(|key| [0, 1, 2].map(|file| (file * length + key) as f64));
        let key = starts.concat().into_iter().filter(|&key| key <= to).fold(0., f64::max);
        assert_eq!(player.seek(SeekFlags::KEY_UNIT, to), (key, key, true), "to {to}");
    }
    player.seek(SeekFlags::ACCURATE, 40.);
    let (_, played) = player.play();
    assert_eq!(
        played,
        [34, 35, 43, 44, 52, 60, 61, 69, 77, 78, 86, 87, 95, 103, 104, 112, 120, 121]
    );
}

#[test]
fn a_segment_ends_where_it_should() {
    let file = file(&even());
    let player = Player::new(file.path());
    player.seek_range(1.0, SeekFlags::ACCURATE | SeekFlags::SEGMENT, 1000, Some(1010));
    let played = vec![972, 973, 981, 989, 997, 1005];
    assert_eq!(player.play(), (gst::MessageType::SegmentDone, played));
}

#[test]
fn key_units_alone_are_played_where_a_fast_rate_asks_for_them() {
    let file = file(&recording([10; 8]));
    let player = Player::new(file.path());
    player.seek_range(4.0, SeekFlags::TRICKMODE | SeekFlags::TRICKMODE_KEY_UNITS, 100, None);
    let (_, played) = player.play();
    assert_eq!(played, [1, 2, 3, 4, 5, 6, 7].map(|n| n * GROUP));
}

#[test]
fn key_units_are_played_backwards_from_the_last_one_on() {
    let file = file(&recording([10; 8]));
    for (stop, last) in [(None, 7), (Some(500), 6), (Some(4 * GROUP), 4)] {
        let player = Player::new(file.path());
        player.seek_range(-4.0, SeekFlags::TRICKMODE | SeekFlags::TRICKMODE_KEY_UNITS, 81, stop);
        let expected: Vec<_> = (1..=last).rev().map(|n| n * GROUP).collect();
        assert_eq!(player.play(), (gst::MessageType::Eos, expected), "from {stop:?}");
    }
}

#[test]
fn playing_backwards_from_the_end_or_beyond_it_starts_at_the_end() {
    let file = file(&recording([1; 8]));
    let end = 72 * FRAME;
    let ways = [
        (SeekType::None, None),
        (SeekType::End, Some(gst::ClockTime::ZERO)),
        (SeekType::Set, Some(gst::ClockTime::from_seconds(60))),
    ];
    for (stop_type, stop) in ways {
        let player = Player::new(file.path());
        let flags = SeekFlags::FLUSH | SeekFlags::ACCURATE;
        let seek = player
            .pipeline
            .seek(-1.0, flags, SeekType::Set, gst::ClockTime::ZERO, stop_type, stop);
        seek.unwrap();
        let (_, played) = player.play();
        assert_eq!(played.first(), Some(&63), "{stop_type:?} {stop:?}");
        assert_eq!(player.segment().stop(), Some(end), "{stop_type:?} {stop:?}");
    }
}

#[test]
fn groups_are_played_backwards_from_the_last_one_on() {
    let file = file(&recording([1; 8]));
    let player = Player::new(file.path());
    player.seek_range(-1.0, SeekFlags::ACCURATE, 20, None);
    let (_, played) = player.play();
    assert_eq!(played, [63, 64, 54, 55, 45, 46, 36, 37, 27, 28, 18, 19]);
}
