// SPDX-License-Identifier: MPL-2.0
//! Where groups of pictures begin: key units, and the scale that each starts with.

use super::rate::{largest_scale, scale_of};
use super::resilience::Links;
use super::Encoder;
use crate::bitstream::CodingScale;
use crate::codec::Frame;

/// Automatic key units: at cuts, and at least once in this many frames so that seeking works.
const AUTOMATIC_KEY_DISTANCE: u32 = 250;
/// Automatic key units are at least this many frames apart.
const AUTOMATIC_KEY_MIN_DISTANCE: u32 = 8;

/// What becomes of a frame.
pub(super) enum Role {
    /// It is a key unit. `is_new`: nothing is known of its scene.
    Key { is_new: bool },
    /// It is a key unit because another scale, or residuals, are worth one.
    Restart,
    /// It belongs to the next delta unit.
    Delta,
}

impl Encoder {
    /// What becomes of the next frame. `force_key`: a key unit whatever it shows.
    pub(super) fn role(&mut self, frame: &Frame, force_key: bool) -> Role {
        let is_cut = self.scenes.is_cut(frame) || self.late_cut;
        let wants_key = self.wants_key(is_cut);
        let has_room = self.has_key_room();
        self.late_cut = wants_key && is_cut && !force_key && !has_room;
        if force_key || wants_key && has_room || self.are_full() {
            let is_new = is_cut || !self.is_running();
            return Role::Key { is_new };
        }
        match self.pending.is_empty() && self.waiting_key.is_none() && self.wants_restart() {
            true => Role::Restart,
            false => Role::Delta,
        }
    }

    fn is_running(&self) -> bool {
        self.gop.is_some() || self.waiting_key.is_some()
    }

    /// Frames from the last key unit on, coded or pending.
    fn frames(&self) -> u32 {
        let coded = self.gop.as_ref().map_or(1, |gop| gop.frames);
        coded + self.pending.len() as u32
    }

    fn wants_key(&self, is_cut: bool) -> bool {
        if !self.is_running() {
            return true;
        }
        let frames = self.frames();
        frames >= self.key_distance()
            || self.are_full()
            || is_cut && frames >= AUTOMATIC_KEY_MIN_DISTANCE && self.settings.key_int_max == 0
    }

    /// Whether there is no number for a further unit.
    fn are_full(&self) -> bool {
        let links = self.gop.as_ref().and_then(|gop| gop.links.as_ref());
        links.is_some_and(Links::are_full)
    }

    /// Whether a key unit would fit into the buffer, after the one that waits. One that nobody has asked for waits for that.
    fn has_key_room(&self) -> bool {
        let Some(link) = self.settings.rate_mode.link().filter(|_| self.is_running()) else {
            return true;
        };
        let trained = self.model.tokenizer.config.max_frames();
        let keys = 1 + usize::from(self.waiting_key.is_some());
        trained.is_some_and(|trained| self.frames() >= trained) || self.rate.has_key_room(link, keys)
    }

    /// Frames from one key unit to the next at most.
    pub(super) fn key_distance(&self) -> u32 {
        let asked = match self.settings.key_int_max {
            0 => AUTOMATIC_KEY_DISTANCE,
            max => max,
        };
        let trained = self.model.tokenizer.config.max_frames();
        trained.map_or(asked, |trained| asked.min(trained))
    }

    /// Whether the scale is the encoder's choice. What Cosmos' networks make of other sizes was never measured.
    pub(super) fn chooses_scale(&self) -> bool {
        self.settings.scale.is_none() && !self.model.tokenizer.config.is_cosmos()
    }

    /// The largest scale that is chosen without being asked for.
    pub(super) fn largest_scale(&self) -> CodingScale {
        largest_scale((self.sequence.width, self.sequence.height))
    }

    /// The scale of a key unit at a quantizer.
    pub(super) fn scale_at(&self, quantizer: u32) -> CodingScale {
        if self.chooses_scale() {
            return scale_of(quantizer).min(self.largest_scale());
        }
        let scale = self.settings.scale.unwrap_or_default();
        let fits = scale.fits(self.sequence.width, self.sequence.height);
        if fits {
            scale
        } else {
            CodingScale::Single
        }
    }
}
