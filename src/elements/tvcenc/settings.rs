// SPDX-License-Identifier: MPL-2.0
//! The encoder's properties.

use gst::glib;
use gst::prelude::*;

use crate::bitstream::CodingScale;
use crate::codec::{
    EncoderSettings, ErrorResilience, Link, RateMode, DEFAULT_BUFFER_SECONDS, DEFAULT_QUANTIZER, MAX_QUANTIZER,
};
use crate::elements::runtime::RuntimeSettings;

const DEFAULT_BITRATE: u32 = 0;
const MAX_BITRATE: u32 = 100_000;
const DEFAULT_VBV_BUF_CAPACITY: u32 = (DEFAULT_BUFFER_SECONDS * 1000.0) as u32;
/// In ms. Smaller ones than the first have no room for single units.
const VBV_BUF_CAPACITIES: std::ops::RangeInclusive<u32> = 100..=60_000;
const DEFAULT_MASK_RATIO: f64 = -1.0;
const MAX_MASK_RATIO: f64 = 0.9;
const DEFAULT_DETAIL: bool = true;
const DEFAULT_KEY_INT_MAX: u32 = 0;
const MAX_KEY_INT_MAX: u32 = 1 << 24;
/// A packet of 1200 bytes without the headers of RTP and of its payload.
const DEFAULT_SLICE_SIZE: u32 = 1180;
const SLICE_SIZES: std::ops::RangeInclusive<u32> = 100..=65_000;

/// How much larger pictures are coded than they are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstTvcCodingScale")]
pub enum Scale {
    #[default]
    #[enum_value(name = "As bitrate or quantizer ask for, up to 640x360 coded samples", nick = "auto")]
    Auto,
    #[enum_value(name = "Half as wide and as high", nick = "0.5x")]
    Half,
    #[enum_value(name = "Two thirds as wide and as high", nick = "0.67x")]
    TwoThirds,
    #[enum_value(name = "As large as they are shown", nick = "1x")]
    Single,
    #[enum_value(name = "One and a half times as wide and as high", nick = "1.5x")]
    OneAndAHalf,
    #[enum_value(name = "Twice as wide and as high", nick = "2x")]
    Double,
}

impl Scale {
    fn coding_scale(self) -> Option<CodingScale> {
        match self {
            Scale::Auto => None,
            Scale::Half => Some(CodingScale::Half),
            Scale::TwoThirds => Some(CodingScale::TwoThirds),
            Scale::Single => Some(CodingScale::Single),
            Scale::OneAndAHalf => Some(CodingScale::OneAndAHalf),
            Scale::Double => Some(CodingScale::Double),
        }
    }
}

/// What of a stream may be lost without the rest being lost with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstTvcErrorResilience")]
pub enum Resilience {
    #[default]
    #[enum_value(name = "Nothing: each unit needs all units since the key unit", nick = "none")]
    None,
    #[enum_value(
        name = "Units: each needs the key unit alone, or one that the receiver has",
        nick = "units"
    )]
    Units,
    #[enum_value(name = "Slices: each needs that part of the key unit alone", nick = "slices")]
    Slices,
}

#[derive(Clone, Debug)]
pub struct Settings {
    bitrate: u32,
    vbv_buf_capacity: u32,
    mask_ratio: f64,
    quantizer: u32,
    coding_scale: Scale,
    residual: bool,
    key_int_max: u32,
    error_resilience: Resilience,
    slice_size: u32,
    pub runtime: RuntimeSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            bitrate: DEFAULT_BITRATE,
            vbv_buf_capacity: DEFAULT_VBV_BUF_CAPACITY,
            mask_ratio: DEFAULT_MASK_RATIO,
            quantizer: DEFAULT_QUANTIZER,
            coding_scale: Scale::default(),
            residual: DEFAULT_DETAIL,
            key_int_max: DEFAULT_KEY_INT_MAX,
            error_resilience: Resilience::default(),
            slice_size: DEFAULT_SLICE_SIZE,
            runtime: RuntimeSettings::default(),
        }
    }
}

impl Settings {
    /// What they mean for the codec.
    pub fn encoder(&self) -> EncoderSettings {
        EncoderSettings {
            rate_mode: self.rate_mode(),
            mask_ratio: (self.mask_ratio >= 0.0).then_some(self.mask_ratio),
            scale: self.coding_scale.coding_scale(),
            residual: self.residual,
            key_int_max: self.key_int_max,
            error_resilience: match self.error_resilience {
                Resilience::None => ErrorResilience::None,
                Resilience::Units => ErrorResilience::Units,
                Resilience::Slices => ErrorResilience::Slices {
                    size: self.slice_size as usize,
                },
            },
            ..EncoderSettings::default()
        }
    }

    fn rate_mode(&self) -> RateMode {
        match self.bitrate {
            0 => RateMode::ConstantQuality {
                quantizer: self.quantizer,
            },
            kbps => RateMode::Bitrate(Link {
                rate: f64::from(kbps) * 1000.0,
                buffer: f64::from(self.vbv_buf_capacity) / 1000.0,
            }),
        }
    }

    /// All properties of the element.
    pub fn properties() -> Vec<glib::ParamSpec> {
        let mut properties = vec![
            glib::ParamSpecUInt::builder("bitrate")
                .nick("Bitrate")
                .blurb("kbit/s to keep to, whatever the frame rate; 0 = constant quality, see quantizer")
                .maximum(MAX_BITRATE)
                .default_value(DEFAULT_BITRATE)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("vbv-buf-capacity")
                .nick("VBV buffer capacity")
                .blurb("Decoder's buffer in ms of the bitrate: it never runs dry behind a link of that rate. More lets the quality be more even")
                .minimum(*VBV_BUF_CAPACITIES.start())
                .maximum(*VBV_BUF_CAPACITIES.end())
                .default_value(DEFAULT_VBV_BUF_CAPACITY)
                .mutable_playing()
                .build(),
            glib::ParamSpecDouble::builder("mask-ratio")
                .nick("Mask ratio")
                .blurb("Share of the tokens between key units that the decoder has to predict; below 0 = as bitrate or quantizer ask for")
                .minimum(DEFAULT_MASK_RATIO)
                .maximum(MAX_MASK_RATIO)
                .default_value(DEFAULT_MASK_RATIO)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("quantizer")
                .nick("Quantizer")
                .blurb("0 (best picture, most bits) to 63 (fewest bits), used when bitrate is 0")
                .maximum(MAX_QUANTIZER)
                .default_value(DEFAULT_QUANTIZER)
                .mutable_playing()
                .build(),
            glib::ParamSpecEnum::builder_with_default("coding-scale", Scale::default())
                .nick("Coding scale")
                .blurb("How much larger pictures are coded than they are shown, from the next key unit on: finer, slower, more bits")
                .mutable_playing()
                .build(),
            glib::ParamSpecBoolean::builder("detail")
                .nick("Detail")
                .blurb("Send what the networks cannot paint of parts that stand still, where quantizer or bitrate allow it: sharper, slower, from the next key unit on")
                .default_value(DEFAULT_DETAIL)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("key-int-max")
                .nick("Key unit interval")
                .blurb("Most frames from one key unit to the next; 0 = automatic: at scene cuts, at least every 250 frames, and when asked for")
                .maximum(MAX_KEY_INT_MAX)
                .default_value(DEFAULT_KEY_INT_MAX)
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder_with_default("error-resilience", Resilience::default())
                .nick("Error resilience")
                .blurb("What may be lost on the way without the rest being lost with it; without detail, and with more bytes")
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("slice-size")
                .nick("Slice size")
                .blurb("Bytes of a slice at most, used with error-resilience=slices: what a packet carries")
                .minimum(*SLICE_SIZES.start())
                .maximum(*SLICE_SIZES.end())
                .default_value(DEFAULT_SLICE_SIZE)
                .mutable_ready()
                .build(),
        ];
        properties.extend(RuntimeSettings::properties());
        properties
    }

    /// # Panics
    /// Without such a property.
    pub fn set(&mut self, value: &glib::Value, pspec: &glib::ParamSpec) {
        match pspec.name() {
            "bitrate" => self.bitrate = value.get().expect("a number"),
            "vbv-buf-capacity" => self.vbv_buf_capacity = value.get().expect("a number"),
            "mask-ratio" => self.mask_ratio = value.get().expect("a number"),
            "quantizer" => self.quantizer = value.get().expect("a number"),
            "coding-scale" => self.coding_scale = value.get().expect("a scale"),
            "detail" => self.residual = value.get().expect("a boolean"),
            "key-int-max" => self.key_int_max = value.get().expect("a number"),
            "error-resilience" => self.error_resilience = value.get().expect("a kind of resilience"),
            "slice-size" => self.slice_size = value.get().expect("a number"),
            name => assert!(self.runtime.set(value, pspec), "no property {name}"),
        }
    }

    /// # Panics
    /// Without such a property.
    pub fn get(&self, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "bitrate" => self.bitrate.to_value(),
            "vbv-buf-capacity" => self.vbv_buf_capacity.to_value(),
            "mask-ratio" => self.mask_ratio.to_value(),
            "quantizer" => self.quantizer.to_value(),
            "coding-scale" => self.coding_scale.to_value(),
            "detail" => self.residual.to_value(),
            "key-int-max" => self.key_int_max.to_value(),
            "error-resilience" => self.error_resilience.to_value(),
            "slice-size" => self.slice_size.to_value(),
            name => self.runtime.get(pspec).unwrap_or_else(|| panic!("no property {name}")),
        }
    }
}
