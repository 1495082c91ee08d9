// SPDX-License-Identifier: MPL-2.0
//! What stands between the decoder's three threads: upstream's, which decodes symbols, the painter, and the one that pushes pictures
//! downstream. Each of them waits for the next here, and nowhere holding the base class's stream lock.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Units that may wait to be painted, and that the painter can look ahead to.
const MAX_WAITING: usize = 2;
/// Painted units that may wait to be pushed, beside the one that is pushed. One is enough for the painter never to wait while there is
/// something to do, and pictures take memory.
const MAX_PAINTED: usize = 1;
/// Units without a picture that may wait before them: where pictures are left out, the painter must be able to catch up.
const MAX_EMPTY: usize = 8;

/// How long the first picture waits for the next unit. It may be all that there is for a while.
const LONGEST_HOLD: Duration = Duration::from_millis(500);

type Flow = Result<gst::FlowSuccess, gst::FlowError>;

/// What a unit belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Units of earlier epochs are thrown away: a flush starts the next one.
    epoch: u64,
    /// What downstream says of a segment does not concern the next.
    segment: u64,
}

type Queue<T> = VecDeque<(Ticket, T)>;

/// What a painted unit has to show.
pub trait Pictures {
    /// Whether anything is painted.
    fn are_painted(&self) -> bool;
    /// Whether any of it is in the segment: the first such picture starts a sink's clock.
    fn are_shown(&self) -> bool;
}

#[derive(Debug)]
struct State<U, P> {
    waiting: Queue<U>,
    is_painting: bool,
    painted: Queue<P>,
    is_pushing: bool,
    /// The streaming thread takes painted units itself.
    is_synchronous: bool,
    /// Nothing has been shown since the start or the last flush. A key unit is one picture, and a sink that has it may start its clock,
    /// by which the next unit is due at once: the two go out together.
    is_starting: bool,
    /// No other unit comes before all are pushed.
    is_draining: bool,
    is_flushing: bool,
    is_closed: bool,
    /// A thread has died.
    is_dead: bool,
    /// Of the next unit.
    ticket: Ticket,
    /// What downstream said last in this segment.
    flow: Flow,
}

/// The queues before and behind the painter. `U`: a unit's symbols; `P`: its pictures.
#[derive(Debug)]
pub struct Stages<U, P> {
    state: Mutex<State<U, P>>,
    changed: Condvar,
}

impl<U, P> Default for Stages<U, P> {
    fn default() -> Self {
        Stages {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                is_painting: false,
                painted: VecDeque::new(),
                is_pushing: false,
                is_synchronous: false,
                is_starting: true,
                is_draining: false,
                is_flushing: false,
                is_closed: true,
                is_dead: false,
                ticket: Ticket { epoch: 0, segment: 0 },
                flow: Ok(gst::FlowSuccess::Ok),
            }),
            changed: Condvar::new(),
        }
    }
}

impl<U, P: Pictures> State<U, P> {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.is_painting && self.painted.is_empty() && !self.is_pushing
    }

    /// Whether nobody may wait.
    fn is_over(&self) -> bool {
        self.is_flushing || self.is_closed || self.is_dead
    }

    fn flow(&self) -> Flow {
        match self {
            State { is_dead: true, .. } => Err(gst::FlowError::Error),
            State { is_flushing: true, .. } | State { is_closed: true, .. } => Err(gst::FlowError::Flushing),
            _ => self.flow,
        }
    }

    /// Whether the first picture waits for the next unit.
    fn holds_first(&self) -> bool {
        let is_first = self.is_starting && self.painted.len() == 1 && self.painted[0].1.are_shown();
        is_first && !self.is_draining && !self.is_over()
    }

    fn throw_away(&mut self) {
        self.ticket.epoch += 1;
        self.is_starting = true;
        self.waiting.clear();
        self.painted.clear();
    }
}

impl<U, P: Pictures> Stages<U, P> {
    /// A panic elsewhere must not become one here: the state is only flags and queues, complete at any time.
    fn lock(&self) -> MutexGuard<'_, State<U, P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, blocked: impl Fn(&State<U, P>) -> bool) -> MutexGuard<'_, State<U, P>> {
        let state = self.changed.wait_while(self.lock(), |state| blocked(state));
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State<U, P>) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Starts anew.
    pub fn open(&self) {
        self.change(|state| {
            state.throw_away();
            state.is_painting = false;
            state.is_pushing = false;
            state.is_synchronous = false;
            state.is_draining = false;
            state.is_flushing = false;
            state.is_closed = false;
            state.is_dead = false;
            state.flow = Ok(gst::FlowSuccess::Ok);
        });
    }

    /// Lets all threads go; what is under way is thrown away.
    pub fn close(&self) {
        self.change(|state| {
            state.is_closed = true;
            state.throw_away();
        });
    }

    /// A thread has died: nobody waits for it.
    pub fn die(&self) {
        self.change(|state| {
            state.is_dead = true;
            state.is_painting = false;
            state.is_pushing = false;
            state.throw_away();
        });
    }

    /// Throws away what is under way and lets the streaming thread go.
    pub fn begin_flush(&self) {
        self.change(|state| {
            state.is_flushing = true;
            state.throw_away();
        });
    }

    /// Waits until nothing is pushed any more, as downstream is flushing too.
    pub fn wait_for_push(&self) {
        drop(self.wait_while(|state| state.is_pushing && !state.is_closed && !state.is_dead));
    }

    pub fn end_flush(&self) {
        self.change(|state| {
            state.is_flushing = false;
            state.flow = Ok(gst::FlowSuccess::Ok);
        });
    }

    /// What downstream said of the segment before is no longer of interest.
    pub fn new_segment(&self) {
        self.change(|state| {
            state.ticket.segment += 1;
            state.flow = Ok(gst::FlowSuccess::Ok);
        });
    }

    /// Whether nothing has been shown yet.
    pub fn is_starting(&self) -> bool {
        self.lock().is_starting
    }

    /// The stream is live: its clock runs already, and the next unit comes much later.
    pub fn start_at_once(&self) {
        self.change(|state| state.is_starting = false);
    }

    /// Streaming thread, between two buffers: waits until there is room for one more unit, and leaves its pictures to the other
    /// threads.
    pub fn wait_for_room(&self) {
        let full = |state: &State<U, P>| state.waiting.len() >= MAX_WAITING && state.flow.is_ok() && !state.is_over();
        let mut state = self.wait_while(full);
        state.is_synchronous = false;
        state.is_draining = false;
        drop(state);
        self.changed.notify_all();
    }

    /// Streaming thread, between two buffers: waits until all pictures are pushed, and takes those of further units itself.
    pub fn wait_until_idle(&self) {
        self.change(|state| state.is_draining = true);
        let mut state = self.wait_while(|state| !state.is_idle() && !state.is_over());
        state.is_synchronous = true;
    }

    /// Streaming thread: the next unit, in what it belongs to.
    pub fn push(&self, unit: U) {
        self.change(|state| {
            if !state.is_over() {
                let ticket = state.ticket;
                state.waiting.push_back((ticket, unit));
            }
        });
    }

    pub fn is_synchronous(&self) -> bool {
        self.lock().is_synchronous
    }

    /// What the next unit is to be answered with.
    pub fn flow(&self) -> Flow {
        self.lock().flow()
    }

    /// Painter: the next unit, or `None` when it is over. `choose` sees it and the one that waits behind it, if there is one.
    pub fn next_waiting<C>(&self, choose: impl FnOnce(&U, Option<&U>) -> C) -> Option<(Ticket, U, C)> {
        let mut state = self.wait_while(|state| state.waiting.is_empty() && !state.is_closed && !state.is_dead);
        let (ticket, unit) = state.waiting.pop_front()?;
        let choice = choose(&unit, state.waiting.front().map(|(_, next)| next));
        state.is_painting = true;
        drop(state);
        self.changed.notify_all();
        Some((ticket, unit, choice))
    }

    /// Painter: hands on what it made of a unit, when there is room.
    pub fn push_painted(&self, ticket: Ticket, unit: P) {
        let max = if unit.are_painted() { MAX_PAINTED } else { MAX_EMPTY };
        let full = |state: &State<U, P>| {
            let ahead = state.painted.iter().filter(|(_, other)| other.are_painted()).count();
            let is_full = ahead >= max + usize::from(state.is_starting) || state.painted.len() >= MAX_EMPTY;
            is_full && state.ticket.epoch == ticket.epoch && !state.is_over()
        };
        let mut state = self.wait_while(full);
        if state.ticket.epoch == ticket.epoch && !state.is_over() {
            state.painted.push_back((ticket, unit));
        }
        state.is_painting = false;
        drop(state);
        self.changed.notify_all();
    }

    /// Output thread: the next unit to push; `None` when it is over.
    pub fn next_painted(&self) -> Option<(Ticket, P)> {
        loop {
            let waits = |state: &State<U, P>| {
                (state.painted.is_empty() || state.is_synchronous) && !state.is_closed && !state.is_dead
            };
            let state = self.wait_while(waits);
            let held = self
                .changed
                .wait_timeout_while(state, LONGEST_HOLD, |state| state.holds_first());
            let (mut state, _) = held.unwrap_or_else(PoisonError::into_inner);
            if state.is_closed || state.is_dead {
                return None;
            }
            // Meanwhile a flush may have come, and the streaming thread may take what comes next itself: it then holds the lock that
            // pushing needs.
            if state.is_synchronous {
                continue;
            }
            let Some((ticket, unit)) = state.painted.pop_front() else {
                continue;
            };
            state.is_pushing = true;
            state.is_starting &= !unit.are_shown();
            drop(state);
            self.changed.notify_all();
            return Some((ticket, unit));
        }
    }

    /// Streaming thread, after [`Self::wait_until_idle`] and [`Self::push`]: what became of the unit; `None` when it is over.
    pub fn take_painted(&self) -> Option<(Ticket, P)> {
        let waits = |state: &State<U, P>| state.painted.is_empty() && !state.is_idle() && !state.is_over();
        let unit = self.wait_while(waits).painted.pop_front();
        self.changed.notify_all();
        unit
    }

    /// Whether a unit is still wanted by those downstream.
    pub fn is_wanted(&self, unit: Ticket) -> bool {
        let state = self.lock();
        state.ticket.epoch == unit.epoch && !state.is_over() && (state.ticket != unit || state.flow.is_ok())
    }

    /// Output thread: a unit is pushed, and this is what downstream said.
    pub fn pushed(&self, unit: Ticket, flow: Flow) {
        self.change(|state| {
            state.is_pushing = false;
            if state.ticket == unit && state.flow.is_ok() {
                state.flow = flow;
            }
        });
    }
}

#[cfg(test)]
mod tests;
