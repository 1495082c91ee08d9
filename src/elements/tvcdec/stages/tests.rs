// SPDX-License-Identifier: MPL-2.0

use super::*;
use std::sync::mpsc;
use std::sync::Arc;

impl Pictures for u32 {
    fn are_painted(&self) -> bool {
        *self < 100
    }

    fn are_shown(&self) -> bool {
        *self != 50 && self.are_painted()
    }
}

fn open() -> Arc<Stages<u32, u32>> {
    let stages = Stages::default();
    stages.open();
    stages.start_at_once();
    Arc::new(stages)
}

/// Paints what comes; numbers come through as they are.
fn painter(stages: &Arc<Stages<u32, u32>>) -> std::thread::JoinHandle<()> {
    let stages = stages.clone();
    std::thread::spawn(move || {
        while let Some((ticket, unit, _)) = stages.next_waiting(|_, _| ()) {
            stages.push_painted(ticket, unit);
        }
    })
}

#[test]
fn painting_goes_on_while_a_unit_is_pushed_and_stops_when_the_queue_is_full() {
    let stages = open();
    let (sender, painted) = mpsc::channel();
    let painter = std::thread::spawn({
        let stages = stages.clone();
        move || {
            while let Some((ticket, unit, _)) = stages.next_waiting(|_, _| ()) {
                sender.send(unit).unwrap();
                stages.push_painted(ticket, unit);
            }
        }
    });
    (0..2).for_each(|unit| stages.push(unit));
    let (pushing, _) = stages.next_painted().unwrap();
    (2..4).for_each(|unit| stages.push(unit));
    // Unit 0 is being pushed, 1 waits to be, 2 is painted and held.
    assert_eq!((0..3).map(|_| painted.recv().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(painted.try_recv().is_err(), "the fourth unit waits");
    stages.pushed(pushing, Ok(gst::FlowSuccess::Ok));
    assert_eq!(stages.next_painted().unwrap().1, 1);
    assert_eq!(painted.recv().unwrap(), 3);
    stages.close();
    painter.join().unwrap();
}

#[test]
fn units_without_pictures_do_not_wait_for_those_with() {
    let stages = open();
    let painter = painter(&stages);
    for unit in [1, 100, 101, 102] {
        stages.wait_for_room();
        stages.push(unit);
    }
    let units: Vec<u32> = (0..4)
        .map(|_| {
            let (ticket, unit) = stages.next_painted().unwrap();
            stages.pushed(ticket, Ok(gst::FlowSuccess::Ok));
            unit
        })
        .collect();
    assert_eq!(units, [1, 100, 101, 102]);
    stages.close();
    painter.join().unwrap();
}

#[test]
fn the_streaming_thread_gets_pictures_itself_where_it_asks_for_them() {
    let stages = open();
    let painter = painter(&stages);
    for unit in 0..3 {
        stages.wait_until_idle();
        stages.push(unit);
        assert_eq!(stages.take_painted().unwrap().1, unit);
    }
    stages.close();
    painter.join().unwrap();
}

#[test]
fn the_first_picture_goes_out_with_the_next_unit() {
    let stages = Arc::new(Stages::default());
    stages.open();
    let painter = painter(&stages);
    let pushed = |unit: (Ticket, u32)| {
        stages.pushed(unit.0, Ok(gst::FlowSuccess::Ok));
        unit.1
    };
    // Not shown: neither held nor the first.
    stages.push(50);
    assert_eq!(pushed(stages.next_painted().unwrap()), 50);
    let first = std::thread::spawn({
        let stages = stages.clone();
        move || stages.next_painted().map(|unit| (unit, stages.is_starting()))
    });
    stages.push(1);
    stages.push(2);
    let (unit, is_starting) = first.join().unwrap().unwrap();
    assert_eq!((pushed(unit), is_starting), (1, false));
    assert_eq!(pushed(stages.next_painted().unwrap()), 2);
    // After a flush anew, but not where nothing more comes.
    stages.begin_flush();
    stages.end_flush();
    stages.push(3);
    let end = std::thread::spawn({
        let stages = stages.clone();
        move || stages.wait_until_idle()
    });
    assert_eq!(pushed(stages.next_painted().unwrap()), 3);
    end.join().unwrap();
    stages.close();
    painter.join().unwrap();
}

#[test]
fn a_flush_throws_away_and_lets_go() {
    let stages = open();
    stages.push(0);
    stages.push(1);
    let (ticket, unit, _) = stages.next_waiting(|_, _| ()).unwrap();
    let waiting = std::thread::spawn({
        let stages = stages.clone();
        move || stages.wait_until_idle()
    });
    stages.begin_flush();
    waiting.join().unwrap();
    assert_eq!(stages.flow(), Err(gst::FlowError::Flushing));
    stages.end_flush();
    stages.start_at_once();
    stages.push_painted(ticket, unit);
    stages.push(7);
    let (ticket, unit, next) = stages.next_waiting(|_, next| next.copied()).unwrap();
    assert_eq!((unit, next), (7, None));
    stages.push_painted(ticket, unit);
    stages.wait_for_room();
    assert_eq!(stages.next_painted().unwrap().1, 7, "nothing of before the flush");
}

#[test]
fn what_downstream_said_of_a_segment_does_not_concern_the_next() {
    let stages = open();
    let painter = painter(&stages);
    stages.push(0);
    let (unit, _) = stages.next_painted().unwrap();
    stages.new_segment();
    stages.push(1);
    stages.pushed(unit, Err(gst::FlowError::Eos));
    assert_eq!(stages.flow(), Ok(gst::FlowSuccess::Ok));
    let (unit, _) = stages.next_painted().unwrap();
    stages.pushed(unit, Err(gst::FlowError::Eos));
    assert_eq!(stages.flow(), Err(gst::FlowError::Eos));
    stages.close();
    painter.join().unwrap();
}

#[test]
fn a_dead_thread_lets_everybody_go() {
    let stages = open();
    stages.push(0);
    let waiting = std::thread::spawn({
        let stages = stages.clone();
        move || {
            stages.wait_until_idle();
            stages.flow()
        }
    });
    stages.die();
    assert_eq!(waiting.join().unwrap(), Err(gst::FlowError::Error));
    assert!(stages.next_painted().is_none() && stages.next_waiting(|_, _| ()).is_none());
}

#[test]
fn a_first_picture_that_is_held_does_not_become_one_that_the_streaming_thread_waits_for() {
    let stages = open();
    let painter = painter(&stages);
    let output = std::thread::spawn({
        let stages = stages.clone();
        move || {
            while let Some((ticket, _)) = stages.next_painted() {
                stages.pushed(ticket, Ok(gst::FlowSuccess::Ok));
            }
        }
    });
    for _ in 0..300 {
        stages.wait_for_room();
        stages.push(1);
        stages.begin_flush();
        stages.end_flush();
        stages.wait_until_idle();
        stages.push(2);
        assert_eq!(stages.take_painted().map(|unit| unit.1), Some(2));
    }
    stages.close();
    painter.join().unwrap();
    output.join().unwrap();
}
