// SPDX-License-Identifier: MPL-2.0
//! Acknowledgements from the RTP session to the encoder.

use std::sync::Mutex;

use gst::glib;

use crate::elements::rtp::session::{self, Connection};
use crate::rtp::{Acknowledgement, PAYLOAD_FEEDBACK, REFERENCE_PICTURE};

/// Feedback about a stream, from a receiver.
pub struct Feedback {
    pub acknowledgement: Acknowledgement,
    /// SSRC of the stream.
    pub stream: u32,
    /// SSRC of the receiver.
    pub receiver: u32,
}

/// Hears the RTCP packets of the session that the payloader's packets go to.
#[derive(Default)]
pub struct Listener(Mutex<Option<Connection>>);

impl Listener {
    /// Has the acknowledgements that come to the session beyond this pad given to `hear`.
    pub fn listen(&self, src_pad: &gst::Pad, hear: impl Fn(Feedback) + Send + Sync + 'static) {
        let Some(session) = session::find(src_pad) else {
            return;
        };
        let mut connection = self.0.lock().unwrap();
        if connection.as_ref().is_some_and(|connection| connection.is_to(&session)) {
            return;
        }
        *connection = Some(Connection::new(&session, "on-feedback-rtcp", move |values| {
            parse(values).map(&hear);
            None
        }));
    }

    /// Whether it has found a session.
    pub fn hears(&self) -> bool {
        self.0.lock().unwrap().is_some()
    }

    pub fn stop(&self) {
        *self.0.lock().unwrap() = None;
    }
}

/// Values: the session, packet type, feedback message type, SSRCs of receiver and stream, and the Feedback Control Information.
fn parse(values: &[glib::Value]) -> Option<Feedback> {
    let number = |n: usize| values[n].get::<u32>().ok();
    let kind = (number(1)?, number(2)?);
    if kind != (PAYLOAD_FEEDBACK.into(), REFERENCE_PICTURE.into()) {
        return None;
    }
    let information = values[5].get::<Option<gst::Buffer>>().ok()??;
    let acknowledgement = Acknowledgement::parse(&information.map_readable().ok()?).ok()?;
    Some(Feedback {
        acknowledgement,
        stream: number(4)?,
        receiver: number(3)?,
    })
}

/// Who has acknowledged units. With several receivers, what one has the other may lack.
#[derive(Default)]
pub struct Receivers {
    /// Group of pictures and receiver of the last acknowledgement.
    last: Option<(u8, u32)>,
    are_several: bool,
}

impl Receivers {
    /// Whether an acknowledgement counts. Another receiver in the place of the last one begins with a key unit, and so in another group of
    /// pictures; two in one group are there at the same time. From then on none counts: the first one in each further group would come
    /// before the other receiver shows itself again, and acknowledgements only save bytes.
    pub fn accept(&mut self, group: u8, receiver: u32) -> bool {
        let last = self.last.replace((group, receiver));
        self.are_several |= last.is_some_and(|last| last.0 == group && last.1 != receiver);
        !self.are_several
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_receiver_may_follow_another() {
        let mut receivers = Receivers::default();
        assert!(receivers.accept(0, 7) && receivers.accept(0, 7) && receivers.accept(1, 7));
        assert!(receivers.accept(2, 8) && receivers.accept(2, 8));
    }

    #[test]
    fn two_receivers_at_once_are_not_heard_any_more() {
        let mut receivers = Receivers::default();
        assert!(receivers.accept(0, 7));
        assert!(!receivers.accept(0, 8) && !receivers.accept(0, 7) && !receivers.accept(1, 7));
    }
}
