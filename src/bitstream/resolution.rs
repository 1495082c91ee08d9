// SPDX-License-Identifier: MPL-2.0

use super::limits::MAX_SIZE;

/// How much larger or smaller pictures are coded than they are shown: tokens are of one size, so a larger picture has finer
/// ones, and a smaller one fewer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CodingScale {
    /// Half as wide and as high.
    Half,
    /// Two thirds as wide and as high.
    TwoThirds,
    /// As large as they are shown.
    #[default]
    Single,
    /// One and a half times as wide and as high.
    OneAndAHalf,
    /// Twice as wide and as high.
    Double,
}

impl CodingScale {
    /// All of them, the smallest first.
    pub const ALL: [CodingScale; 5] = [
        CodingScale::Half,
        CodingScale::TwoThirds,
        CodingScale::Single,
        CodingScale::OneAndAHalf,
        CodingScale::Double,
    ];

    /// The next one down, if there is one.
    pub fn smaller(self) -> Option<CodingScale> {
        CodingScale::ALL.into_iter().rev().find(|other| *other < self)
    }

    /// The number in the bitstream.
    pub(super) fn code(self) -> u8 {
        match self {
            CodingScale::Single => 0,
            CodingScale::OneAndAHalf => 1,
            CodingScale::Double => 2,
            CodingScale::TwoThirds => 3,
            CodingScale::Half => 4,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<CodingScale> {
        CodingScale::ALL.into_iter().find(|scale| scale.code() == code)
    }

    /// Coded samples per six shown ones in a row.
    fn sixths(self) -> u32 {
        match self {
            CodingScale::Half => 3,
            CodingScale::TwoThirds => 4,
            CodingScale::Single => 6,
            CodingScale::OneAndAHalf => 9,
            CodingScale::Double => 12,
        }
    }

    /// The coded width or height of pictures `shown` samples wide or high: rounded up.
    pub fn coded(self, shown: u32) -> u32 {
        (shown * self.sixths()).div_ceil(6)
    }

    /// Shown samples in a row that are coded as so many; `None` where they are no whole number.
    pub(super) fn shown(self, coded: u32) -> Option<u32> {
        let sixths = coded * 6;
        sixths.is_multiple_of(self.sixths()).then_some(sixths / self.sixths())
    }

    /// Whether the bitstream has room for pictures of a shown width and height at this scale.
    pub fn fits(self, width: u32, height: u32) -> bool {
        self.coded(width.max(height)) <= MAX_SIZE
    }
}

impl std::str::FromStr for CodingScale {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<CodingScale, Self::Err> {
        match text {
            "0.5" => Ok(CodingScale::Half),
            "0.67" => Ok(CodingScale::TwoThirds),
            "1" => Ok(CodingScale::Single),
            "1.5" => Ok(CodingScale::OneAndAHalf),
            "2" => Ok(CodingScale::Double),
            _ => Err("legal are 0.5, 0.67, 1, 1.5 and 2"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coded_sides_are_rounded_up() {
        let coded = |shown| CodingScale::ALL.map(|scale| scale.coded(shown));
        assert_eq!(coded(320), [160, 214, 320, 480, 640]);
        assert_eq!(coded(17), [9, 12, 17, 26, 34]);
    }

    #[test]
    fn codes_are_those_of_the_specification() {
        for scale in CodingScale::ALL {
            assert_eq!(CodingScale::from_code(scale.code()), Some(scale));
        }
        assert_eq!(CodingScale::from_code(5), None);
    }
}
