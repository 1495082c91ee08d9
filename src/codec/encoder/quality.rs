// SPDX-License-Identifier: MPL-2.0
//! The encoder where a quantizer decides: every unit at its point, or coarser where the bitstream cannot carry it.

use super::rate::{fit, Room, Sized, UnitKind};
use super::unit::{Gop, TrialUnit, Unit};
use super::{AccessUnit, Encoder};
use crate::codec::{CodecError, Frame};

impl Encoder {
    /// A frame as a key unit: smaller than its quantizer stands for where nothing else fits into the bitstream.
    pub(super) fn open_at_quality(&mut self, quantizer: u32, frame: &Frame) -> Result<AccessUnit, CodecError> {
        let mut scale = self.scale_at(quantizer);
        let (gop, trial) = loop {
            let mut gop = self.new_gop(frame, scale);
            let unit = gop.analyse(&self.model, &self.settings, &[frame])?;
            let trial = self.code_at_quality(UnitKind::Key, (&gop, &unit), quantizer, 0)?;
            let is_too_long = trial.coded.length() > self.max_payload && !self.model.tokenizer.config.is_cosmos();
            match scale.smaller().filter(|_| is_too_long) {
                Some(smaller) => scale = smaller,
                None => break (gop, trial),
            }
        };
        let paints = trial.has_residual;
        self.enter(gop, trial, frame, paints)
    }

    /// A unit at a quantizer, or at a coarser one where its payload would be too long. `before`: bytes that stand in front of it there.
    pub(super) fn code_at_quality(
        &self,
        kind: UnitKind,
        (gop, unit): (&Gop, &Unit),
        quantizer: u32,
        before: usize,
    ) -> Result<TrialUnit, CodecError> {
        let most = self.most_bits();
        let (coded, _) = fit(kind, quantizer.into(), Room { usual: most, most }, |quality| {
            let unit = gop.trial(&self.model, &self.settings, unit, quality)?;
            Ok::<_, CodecError>(Sized {
                bits: 8.0 * (before + unit.coded.length()) as f64,
                residual_bits: unit.coded.residual_bits as f64,
                unit,
            })
        })?;
        Ok(coded.unit)
    }

    /// Bits of the longest payload.
    pub(super) fn most_bits(&self) -> f64 {
        8.0 * self.max_payload as f64
    }
}
