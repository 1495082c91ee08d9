// SPDX-License-Identifier: MPL-2.0

use super::{nominal_frame_seconds, ErrorResilience, MaskingStrategy, OperatingPoint, RateMode};
use crate::bitstream::{CodingScale, SequenceHeader};

/// Share of a rate that motion takes at most.
const MOTION_SHARE: f64 = 0.2;

/// What may change while frames flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncoderSettings {
    /// Constant quality, or a rate to keep to.
    pub rate_mode: RateMode,
    /// How much larger pictures are coded, from the next key unit on; None = as quantizer or rate ask for. Pictures that
    /// would be too large for the bitstream are coded as they are.
    pub scale: Option<CodingScale>,
    /// Share of a delta unit's tokens that are not sent, 0 to 0.9; None = as the operating point says.
    pub mask_ratio: Option<f64>,
    /// Whether what stands still gets residual, where the quantizer is fine enough for it.
    pub residual: bool,
    /// What may be lost without the rest, from the next key unit on.
    pub error_resilience: ErrorResilience,
    /// Frames from one key unit to the next at most; 0: at scene cuts and every 250 frames. Never more than the model
    /// was trained for.
    pub key_int_max: u32,
    /// Other than usual, to see what is worth what.
    #[doc(hidden)]
    pub ablation: EncoderAblation,
}

/// Switches with which parts of the encoder are measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncoderAblation {
    /// Taken instead of the quantizer's.
    pub point: Option<OperatingPoint>,
    /// How the masked tokens are chosen.
    pub masking: MaskingStrategy,
    /// Whether windows follow the camera.
    pub camera: bool,
    /// Whether what moves by itself is followed.
    pub motion: bool,
}

impl Default for EncoderAblation {
    fn default() -> Self {
        EncoderAblation {
            point: None,
            masking: MaskingStrategy::default(),
            camera: true,
            motion: true,
        }
    }
}

impl Default for EncoderSettings {
    fn default() -> Self {
        EncoderSettings {
            rate_mode: RateMode::default(),
            scale: None,
            mask_ratio: None,
            residual: true,
            error_resilience: ErrorResilience::None,
            key_int_max: 0,
            ablation: EncoderAblation::default(),
        }
    }
}

impl EncoderSettings {
    /// The usual ones at a quantizer, 0 (best) to 63 (smallest).
    pub fn at_quantizer(quantizer: u32) -> EncoderSettings {
        EncoderSettings {
            rate_mode: RateMode::ConstantQuality { quantizer },
            ..EncoderSettings::default()
        }
    }

    /// At a rate motion takes no more than a part of what a unit of so many frames has: no coarser quality makes it cheaper.
    pub(super) fn most_motion_bits(&self, sequence: &SequenceHeader, frames: usize) -> f64 {
        let seconds = nominal_frame_seconds(sequence) * frames as f64;
        let link = self.rate_mode.link();
        link.map_or(f64::INFINITY, |link| MOTION_SHARE * link.rate * seconds)
    }
}
