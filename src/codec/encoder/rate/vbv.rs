// SPDX-License-Identifier: MPL-2.0
//! The video buffering verifier: a leaky bucket between encoder and decoder.

/// Usual length of the buffer, in seconds of the rate.
pub const DEFAULT_BUFFER_SECONDS: f64 = 2.5;

/// What carries a stream: a constant rate, and a decoder that buffers some seconds of it before it shows the first picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Bits per second.
    pub rate: f64,
    /// Capacity of the decoder's buffer, in seconds of the rate.
    pub buffer: f64,
}

impl Link {
    /// A link of a rate in bits per second with the usual buffer.
    pub fn new(rate: f64) -> Link {
        Link {
            rate,
            buffer: DEFAULT_BUFFER_SECONDS,
        }
    }

    /// Capacity of the buffer in bits.
    pub fn capacity(self) -> f64 {
        self.rate * self.buffer
    }
}

/// The bits that the link still has to carry. A decoder that waits for the length of the buffer before its first picture never
/// waits again, as long as no unit makes them more than the buffer holds at the time at which the unit's first frame is due.
#[derive(Clone, Debug, Default)]
pub struct Vbv {
    /// Bits.
    backlog: f64,
    /// Due time of the last unit in seconds.
    due: Option<f64>,
}

impl Vbv {
    /// Goes on to the time in seconds at which the next unit's first frame is due. Time that goes back counts as none.
    pub fn advance(&mut self, due: f64, link: Link) {
        if let Some(last) = self.due {
            self.backlog = (self.backlog - link.rate * (due - last).max(0.0)).max(0.0);
        }
        self.due = Some(due);
    }

    /// Due time of the last unit.
    pub fn due(&self) -> Option<f64> {
        self.due
    }

    /// Bits that the link has not carried yet.
    pub fn backlog(&self) -> f64 {
        self.backlog
    }

    /// The largest unit that the buffer has room for, in bits; negative after the rate has fallen, until the backlog is gone.
    pub fn room(&self, link: Link) -> f64 {
        link.capacity() - self.backlog
    }

    /// Puts a unit into the bucket.
    pub fn push(&mut self, bits: f64) {
        self.backlog += bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link {
        rate: 1000.0,
        buffer: 2.0,
    };

    #[test]
    fn what_the_link_carries_meanwhile_makes_room() {
        let mut vbv = Vbv::default();
        vbv.advance(5.0, LINK);
        assert_eq!(vbv.room(LINK), 2000.0, "the first unit may take all of it");
        vbv.push(1500.0);
        vbv.advance(6.0, LINK);
        assert_eq!((vbv.backlog(), vbv.room(LINK)), (500.0, 1500.0));
        vbv.advance(9.0, LINK);
        assert_eq!(vbv.room(LINK), 2000.0, "an idle link saves nothing up");
    }

    #[test]
    fn time_that_goes_back_makes_no_room() {
        let mut vbv = Vbv::default();
        vbv.advance(5.0, LINK);
        vbv.push(1500.0);
        vbv.advance(1.0, LINK);
        assert_eq!(vbv.room(LINK), 500.0);
        vbv.advance(1.5, LINK);
        assert_eq!(vbv.room(LINK), 1000.0);
    }

    #[test]
    fn a_rate_that_falls_leaves_less_than_no_room() {
        let mut vbv = Vbv::default();
        vbv.advance(0.0, LINK);
        vbv.push(1500.0);
        let slow = Link { rate: 500.0, ..LINK };
        assert_eq!(vbv.room(slow), -500.0);
        vbv.advance(1.0, slow);
        assert_eq!(vbv.room(slow), 0.0);
    }
}
