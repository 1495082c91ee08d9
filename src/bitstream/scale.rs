// SPDX-License-Identifier: MPL-2.0

use super::header::MAX_SIZE;

/// How much larger pictures are coded than they are shown: tokens are of one size, so a larger picture has finer ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CodingScale {
    /// As large as they are shown.
    #[default]
    Single = 0,
    /// One and a half times as wide and as high.
    OneAndAHalf = 1,
    /// Twice as wide and as high.
    Double = 2,
}

impl CodingScale {
    /// All of them, the smallest first.
    pub const ALL: [CodingScale; 3] = [CodingScale::Single, CodingScale::OneAndAHalf, CodingScale::Double];

    pub(super) fn from_code(code: u8) -> Option<CodingScale> {
        CodingScale::ALL.get(usize::from(code)).copied()
    }

    /// The coded width or height of pictures `shown` samples wide or high: rounded up.
    pub fn coded(self, shown: u32) -> u32 {
        let halves = 2 + self as u32;
        (shown * halves).div_ceil(2)
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
            "1" => Ok(CodingScale::Single),
            "1.5" => Ok(CodingScale::OneAndAHalf),
            "2" => Ok(CodingScale::Double),
            _ => Err("legal are 1, 1.5 and 2"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coded_sides_are_rounded_up() {
        let coded = |shown| CodingScale::ALL.map(|scale| scale.coded(shown));
        assert_eq!(coded(320), [320, 480, 640]);
        assert_eq!(coded(17), [17, 26, 34]);
    }

    #[test]
    fn codes_are_those_of_the_specification() {
        for scale in CodingScale::ALL {
            assert_eq!(CodingScale::from_code(scale as u8), Some(scale));
        }
        assert_eq!(CodingScale::from_code(3), None);
    }
}
