// SPDX-License-Identifier: MPL-2.0
//! Windows of a map, in which positions attend to each other.

use tch::{Device, Kind, Tensor};

type Result<T> = std::result::Result<T, tch::TchError>;

/// How a map is cut into windows.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// Of a window, in positions.
    pub side: i64,
    /// How far the first one begins before the map.
    pub shift: i64,
}

impl Windows {
    /// Padding of a length at its start and end.
    fn padding(self, length: i64) -> (i64, i64) {
        let whole = (length + self.shift + self.side - 1) / self.side * self.side;
        (self.shift, whole - length - self.shift)
    }

    /// `xs: [n, t, h, w, c]` -> `[n * windows, t * side * side, c]`; places outside of the map are zeros.
    pub fn split(self, xs: &Tensor) -> Result<Tensor> {
        let size = xs.size();
        let ((top, bottom), (left, right)) = (self.padding(size[2]), self.padding(size[3]));
        let (h, w, s) = (size[2] + top + bottom, size[3] + left + right, self.side);
        xs.f_constant_pad_nd([0, 0, left, right, top, bottom])?
            .f_view([size[0], size[1], h / s, s, w / s, s, size[4]].as_slice())?
            .f_permute([0, 2, 4, 1, 3, 5, 6])?
            .f_reshape([size[0] * (h / s) * (w / s), size[1] * s * s, size[4]])
    }

    /// Inverse of [`Self::split`]; `size`: that of the map.
    pub fn join(self, xs: &Tensor, size: &[i64]) -> Result<Tensor> {
        let ((top, bottom), (left, right)) = (self.padding(size[2]), self.padding(size[3]));
        let (h, w, s) = (size[2] + top + bottom, size[3] + left + right, self.side);
        xs.f_view([size[0], h / s, w / s, size[1], s, s, size[4]].as_slice())?
            .f_permute([0, 3, 1, 4, 2, 5, 6])?
            .f_reshape([size[0], size[1], h, w, size[4]])?
            .f_narrow(2, top, size[2])?
            .f_narrow(3, left, size[3])
    }

    /// What may be attended to: `[n * windows, 1, t * side * side, t * side * side]`, true for places of the map in
    /// this unit and those before.
    pub fn visible(self, size: &[i64], device: Device) -> Result<Tensor> {
        let ones = Tensor::f_ones([size[0], size[1], size[2], size[3], 1], (Kind::Float, device))?;
        let inside = self.split(&ones)?.f_squeeze_dim(2)?.f_gt(0.5)?;
        let places = self.side * self.side;
        let unit = Tensor::f_arange(size[1] * places, (Kind::Int64, device))?.f_div_scalar_mode(places, "floor")?;
        let causal = unit.f_unsqueeze(1)?.f_ge_tensor(&unit.f_unsqueeze(0)?)?;
        inside.f_unsqueeze(1)?.f_unsqueeze(1)?.f_logical_and(&causal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_split_and_join() {
        let xs = Tensor::rand([2, 3, 5, 9, 2], (Kind::Float, Device::Cpu));
        for shift in [0, 2] {
            let windows = Windows { side: 4, shift };
            let back = windows.join(&windows.split(&xs).unwrap(), &xs.size()).unwrap();
            assert_eq!(back, xs);
        }
    }
}
