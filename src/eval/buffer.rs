// SPDX-License-Identifier: MPL-2.0
//! What happens in the buffer of a decoder behind a link of constant rate.

use crate::codec::Link;

/// What a decoder's buffer did while a stream came in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BufferUse {
    /// Lowest fill after a unit was taken out, in ms of the rate; negative where it was not there yet.
    pub lowest_ms: f64,
    /// Units that the decoder had to wait for.
    pub dry: usize,
    /// Time for which the link had nothing to carry because the buffer was full, in ms.
    pub idle_ms: f64,
}

impl BufferUse {
    /// Of a stream of units, each with the time in seconds at which its first frame is due, and its bytes. The buffer is full
    /// when the first unit is taken out.
    pub fn of(link: Link, units: impl IntoIterator<Item = (f64, usize)>) -> BufferUse {
        let (capacity, mut fill, mut idle) = (link.capacity(), link.capacity(), 0.0);
        let mut last: Option<f64> = None;
        let mut found = BufferUse {
            lowest_ms: f64::INFINITY,
            dry: 0,
            idle_ms: 0.0,
        };
        for (due, bytes) in units {
            fill += link.rate * last.map_or(0.0, |last| due - last);
            idle += (fill - capacity).max(0.0);
            fill = fill.min(capacity) - 8.0 * bytes as f64;
            found.lowest_ms = found.lowest_ms.min(1000.0 * fill / link.rate);
            found.dry += usize::from(fill < 0.0);
            last = Some(due);
        }
        found.idle_ms = 1000.0 * idle / link.rate;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link {
        rate: 8000.0,
        buffer: 2.0,
    };

    #[test]
    fn units_empty_the_buffer_and_the_link_fills_it() {
        let used = BufferUse::of(LINK, [(0.0, 1500), (0.5, 500), (1.5, 500)]);
        assert_eq!(
            used,
            BufferUse {
                lowest_ms: 500.0,
                dry: 0,
                idle_ms: 0.0
            }
        );
    }

    #[test]
    fn a_unit_that_is_not_there_yet_is_waited_for() {
        let used = BufferUse::of(LINK, [(0.0, 1900), (0.5, 700), (1.0, 400)]);
        assert_eq!((used.lowest_ms, used.dry), (-100.0, 1));
    }

    #[test]
    fn a_full_buffer_takes_no_more() {
        let used = BufferUse::of(LINK, [(0.0, 500), (3.0, 500)]);
        assert_eq!((used.lowest_ms, used.idle_ms), (1500.0, 2500.0));
    }
}
