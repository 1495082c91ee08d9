// SPDX-License-Identifier: MPL-2.0
//! Seeks and state changes at random, from a seed: nothing hangs, nothing fails, and what is shown is right.
#![cfg(feature = "codec")]

mod common;

use common::*;
use gst::prelude::*;

/// Frames of the clip, with a key unit in every 17.
const FRAMES: u64 = 120;
const ROUNDS: usize = 60;
const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(60);

/// Numbers from a seed (Numerical Recipes' generator).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn clip(folder: &std::path::Path) -> String {
    let path = folder.join("clip.tvc");
    std::fs::write(&path, stream(&encode_with_keys(FRAMES))).unwrap();
    path.display().to_string()
}

/// A pipeline and what goes wrong in it.
struct Player {
    pipeline: gst::Pipeline,
    sink: gst::Element,
    log: Vec<String>,
}

impl Player {
    fn new(file: &str, sink: &str) -> Player {
        let description =
            format!("filesrc location={file} ! tvcparse ! tvcdec ! {sink} name=sink enable-last-sample=true");
        let pipeline = gst::parse::launch(&description).unwrap();
        let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
        let sink = pipeline.by_name("sink").unwrap();
        Player {
            pipeline,
            sink,
            log: vec![],
        }
    }

    fn settle(&mut self) {
        let (result, state, _) = self.pipeline.state(PATIENCE);
        let is_settled = matches!(
            result,
            Ok(gst::StateChangeSuccess::Success | gst::StateChangeSuccess::NoPreroll)
        );
        assert!(is_settled, "{result:?} in {state:?} after {:?}", self.log);
        let error = self.pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]);
        assert!(error.is_none(), "{error:?} after {:?}", self.log);
    }

    fn set_state(&mut self, state: gst::State) {
        self.log.push(format!("{state:?}"));
        self.pipeline.set_state(state).unwrap();
    }

    fn seek(&mut self, random: &mut Random) {
        let (to, rate) = (
            random.below(FRAMES - 1),
            [1.0, 1.0, 2.0, -1.0][random.below(4) as usize],
        );
        let mut flags = gst::SeekFlags::FLUSH;
        match random.below(3) {
            0 => flags |= gst::SeekFlags::ACCURATE,
            1 => flags |= gst::SeekFlags::KEY_UNIT,
            _ => flags |= gst::SeekFlags::TRICKMODE_KEY_UNITS,
        }
        self.log.push(format!("seek to {to} at {rate} with {flags:?}"));
        let position = to * FRAME;
        let (start, stop) = match rate > 0.0 {
            true => (position, FRAMES * FRAME),
            false => (gst::ClockTime::ZERO, position + FRAME),
        };
        let set = gst::SeekType::Set;
        // A pipeline that is on its way down refuses; a hang shows when it settles.
        let _ = self.pipeline.seek(rate, flags, set, start, set, stop);
    }

    fn shown(&self) -> gst::ClockTime {
        let sample = self.sink.property::<gst::Sample>("last-sample");
        sample.buffer().unwrap().pts().unwrap()
    }
}

fn disturb(sink: &str, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let file = clip(folder.path());
    let (mut player, mut random) = (Player::new(&file, sink), Random(seed));
    player.set_state(gst::State::Paused);
    player.settle();
    for _ in 0..ROUNDS {
        match random.below(8) {
            0 => player.set_state(gst::State::Ready),
            1 | 2 => player.set_state(gst::State::Playing),
            3 => player.set_state(gst::State::Paused),
            _ => {
                // Where a seek meets one that is still under way, and where it does not.
                if random.below(2) == 0 {
                    player.settle();
                }
                player.seek(&mut random);
            }
        }
    }
    player.set_state(gst::State::Paused);
    player.settle();
    // It is still a decoder.
    for to in [100, 30, 71] {
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
        let set = gst::SeekType::Set;
        let stop = FRAMES * FRAME;
        player.pipeline.seek(1.0, flags, set, to * FRAME, set, stop).unwrap();
        player.settle();
        assert_eq!(player.shown() / FRAME, to, "after {:?}", player.log);
    }
    player.set_state(gst::State::Playing);
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let end = player.pipeline.bus().unwrap().timed_pop_filtered(PATIENCE, &ends);
    assert!(
        matches!(end.unwrap().view(), gst::MessageView::Eos(_)),
        "{:?}",
        player.log
    );
    player.pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn seeks_and_state_changes_at_random_into_a_sink_that_waits() {
    for seed in 1..4 {
        disturb("fakesink sync=true qos=true", seed);
    }
}

#[test]
fn seeks_and_state_changes_at_random_into_a_sink_that_does_not_wait() {
    for seed in 4..7 {
        disturb("fakesink sync=false", seed);
    }
}
