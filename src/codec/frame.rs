// SPDX-License-Identifier: MPL-2.0

use std::ops::Range;

use tch::{Kind, Tensor};

use crate::bitstream::Window;
use crate::model::picture;

/// One picture, planar Y'CbCr 4:2:0 with 8 bits, rows without padding; chroma sizes are rounded up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// In luma samples.
    pub width: usize,
    /// In luma samples.
    pub height: usize,
    /// Y', Cb, Cr.
    pub planes: [Vec<u8>; 3],
    /// Presentation time in ns.
    pub pts: Option<u64>,
}

impl Frame {
    /// A grey picture without a time, to be filled.
    pub fn grey(width: usize, height: usize) -> Frame {
        let plane = |number: usize| {
            let (width, height) = Frame::plane_size(width, height, number);
            vec![128; width * height]
        };
        Frame {
            width,
            height,
            planes: [plane(0), plane(1), plane(2)],
            pts: None,
        }
    }

    /// Whether each plane has as many samples as it should.
    pub(super) fn is_whole(&self) -> bool {
        let samples = |plane| {
            let (width, height) = Frame::plane_size(self.width, self.height, plane);
            width.checked_mul(height)
        };
        (0..3).all(|plane| samples(plane) == Some(self.planes[plane].len()))
    }

    /// Width and height of a plane.
    pub fn plane_size(width: usize, height: usize, plane: usize) -> (usize, usize) {
        match plane {
            0 => (width, height),
            _ => (width.div_ceil(2), height.div_ceil(2)),
        }
    }

    /// Some rows, an even number from an even one, of frames of equal size -> quad pictures `[1, t, 6, h/2, w/2]` f32
    /// on the CPU. Edges are repeated to the right up to `width` and below as far as `rows` goes.
    pub(crate) fn to_quads(frames: &[&Frame], width: usize, rows: Range<usize>) -> Result<Tensor, tch::TchError> {
        let mut luma = Vec::with_capacity(frames.len() * width * rows.len());
        let mut chroma = Vec::with_capacity(frames.len() * width * rows.len() / 2);
        for frame in frames {
            let size = |plane| Frame::plane_size(frame.width, frame.height, plane);
            pad(&frame.planes[0], size(0), width, rows.clone(), &mut luma);
            for plane in 1..3 {
                let rows = rows.start / 2..rows.end / 2;
                pad(&frame.planes[plane], size(plane), width / 2, rows, &mut chroma);
            }
        }
        let (t, w, h) = (frames.len() as i64, width as i64, rows.len() as i64);
        let luma = Tensor::f_from_slice(&luma)?.f_view([t, h, w])?;
        let chroma = Tensor::f_from_slice(&chroma)?.f_view([t, 2, h / 2, w / 2])?;
        picture::quad_from_planes(&luma, &chroma)?.f_unsqueeze(0)
    }

    /// The same of the frames in another size, without a detour over bytes.
    pub(crate) fn to_resized_quads(
        frames: &[&Frame],
        (width, height): (usize, usize),
        padded_width: usize,
        rows: Range<usize>,
    ) -> Result<Tensor, tch::TchError> {
        let resized = |number: usize, rows: Range<usize>, padded_width: usize| -> Result<Tensor, tch::TchError> {
            let (from_w, from_h) = Frame::plane_size(frames[0].width, frames[0].height, number);
            let (w, h) = Frame::plane_size(width, height, number);
            let samples: Vec<u8> = frames.iter().flat_map(|frame| &frame.planes[number]).copied().collect();
            let size = [frames.len() as i64, 1, from_h as i64, from_w as i64];
            let planes = Tensor::f_from_slice(&samples)?.f_view(size)?.f_to_kind(Kind::Float)?;
            let planes = picture::resize(&planes, [h as i64, w as i64])?;
            let (right, below) = (padded_width - w, rows.end.saturating_sub(h));
            planes
                .f_round()?
                .f_clamp(0.0, 255.0)?
                .f_replication_pad2d([0, right as i64, 0, below as i64])?
                .f_narrow(2, rows.start as i64, rows.len() as i64)
        };
        let luma = resized(0, rows.clone(), padded_width)?.f_squeeze_dim(1)?;
        let chroma = [1, 2].map(|number| resized(number, rows.start / 2..rows.end / 2, padded_width / 2));
        let [cb, cr] = chroma;
        picture::quad_from_planes(&luma, &Tensor::f_cat(&[cb?, cr?], 1)?)?.f_unsqueeze(0)
    }

    /// Inverse of [`Self::to_quads`]: cuts `quads: [1, t, 6, h/2, w/2]` to `width` x `height`.
    pub(crate) fn from_quads(quads: &Tensor, width: usize, height: usize) -> Result<Vec<Frame>, tch::TchError> {
        let (luma, chroma) = picture::planes_from_quad(&quads.f_squeeze_dim(0)?)?;
        let (luma, chroma) = (picture::to_u8(&luma)?, picture::to_u8(&chroma)?);
        let cut = |plane: Tensor, number: usize| -> Result<Vec<u8>, tch::TchError> {
            let (w, h) = Frame::plane_size(width, height, number);
            samples(&plane.f_narrow(0, 0, h as i64)?.f_narrow(1, 0, w as i64)?)
        };
        let frame = |t: i64| -> Result<Frame, tch::TchError> {
            let chroma = chroma.f_select(0, t)?;
            let planes = [
                cut(luma.f_select(0, t)?, 0)?,
                cut(chroma.f_select(0, 0)?, 1)?,
                cut(chroma.f_select(0, 1)?, 2)?,
            ];
            Ok(Frame {
                width,
                height,
                planes,
                pts: None,
            })
        };
        (0..luma.size()[0]).map(frame).collect()
    }

    /// The frame in another width and height, each plane about its centre.
    pub(crate) fn resized(&self, (width, height): (usize, usize)) -> Result<Frame, tch::TchError> {
        let resize = |number: usize| -> Result<Vec<u8>, tch::TchError> {
            let (from_w, from_h) = Frame::plane_size(self.width, self.height, number);
            let (w, h) = Frame::plane_size(width, height, number);
            let plane = Tensor::f_from_slice(&self.planes[number])?.f_view([1, 1, from_h as i64, from_w as i64])?;
            let resized = picture::resize(&plane.f_to_kind(Kind::Float)?, [h as i64, w as i64])?;
            samples(&picture::to_u8(&resized)?)
        };
        Ok(Frame {
            width,
            height,
            planes: [resize(0)?, resize(1)?, resize(2)?],
            pts: self.pts,
        })
    }

    /// What a window sees of a picture of another one.
    pub(crate) fn seen(&self, from: &Window, to: &Window) -> Frame {
        let (width, height) = to.size();
        let plane = |number: usize| to.view_of_samples(from, number > 0).of(&self.planes[number], 1);
        Frame {
            width,
            height,
            planes: [plane(0), plane(1), plane(2)],
            pts: self.pts,
        }
    }

    /// Puts a frame of the same width below this one, whose height is even.
    pub fn append(&mut self, below: Frame) {
        self.height += below.height;
        for (plane, rows) in self.planes.iter_mut().zip(below.planes) {
            plane.extend(rows);
        }
    }
}

/// The samples of a u8 plane, row by row.
fn samples(plane: &Tensor) -> Result<Vec<u8>, tch::TchError> {
    let plane = plane.f_contiguous()?.f_to_device(tch::Device::Cpu)?;
    let mut samples = vec![0; plane.numel()];
    plane.f_copy_data(&mut samples, plane.numel())?;
    Ok(samples)
}

/// Appends rows of a plane, its last column and row repeated.
fn pad(plane: &[u8], (width, height): (usize, usize), to_width: usize, rows: Range<usize>, out: &mut Vec<u8>) {
    for y in rows {
        let row = &plane[y.min(height - 1) * width..][..width];
        out.extend_from_slice(row);
        out.extend(std::iter::repeat_n(row[width - 1], to_width - width));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: usize, height: usize) -> Frame {
        let plane = |number: usize| {
            let (w, h) = Frame::plane_size(width, height, number);
            (0..w * h).map(|i| (i * 7 + number * 50) as u8).collect()
        };
        Frame {
            width,
            height,
            planes: [plane(0), plane(1), plane(2)],
            pts: None,
        }
    }

    #[test]
    fn odd_sizes_survive_padding_and_cutting() {
        let frame = gradient(17, 19);
        let quads = Frame::to_quads(&[&frame, &frame], 32, 0..32).unwrap();
        assert_eq!(quads.size(), [1, 2, 6, 16, 16]);
        assert_eq!(Frame::from_quads(&quads, 17, 19).unwrap(), [frame.clone(), frame]);
    }

    #[test]
    fn frames_resized_on_the_way_are_those_resized_before() {
        let frame = gradient(35, 27);
        for (size, rows) in [((52, 40), 0..48), ((52, 40), 16..48), ((24, 18), 0..32)] {
            let resized = frame.resized(size).unwrap();
            let before = Frame::to_quads(&[&resized, &resized], 64, rows.clone()).unwrap();
            let on_the_way = Frame::to_resized_quads(&[&frame, &frame], size, 64, rows).unwrap();
            assert_eq!(before, on_the_way);
        }
    }

    #[test]
    fn parts_of_a_frame_make_the_whole() {
        let frame = gradient(17, 19);
        let part = |rows: Range<usize>, height| {
            let quads = Frame::to_quads(&[&frame], 32, rows).unwrap();
            Frame::from_quads(&quads, 17, height).unwrap().remove(0)
        };
        let mut whole = part(0..16, 16);
        whole.append(part(16..32, 3));
        assert_eq!(whole, frame);
    }

    #[test]
    fn a_smooth_frame_survives_twice_the_size() {
        let plane = |number: usize| {
            let (w, h) = Frame::plane_size(33, 25, number);
            (0..w * h).map(|i| (40 + 3 * (i % w) + 2 * (i / w)) as u8).collect()
        };
        let frame = Frame {
            width: 33,
            height: 25,
            planes: [plane(0), plane(1), plane(2)],
            pts: Some(5),
        };
        let large = frame.resized((66, 50)).unwrap();
        assert_eq!((large.planes[0].len(), large.planes[1].len()), (66 * 50, 33 * 25));
        let back = large.resized((33, 25)).unwrap();
        assert_eq!((back.width, back.height, back.pts), (33, 25, Some(5)));
        for (a, b) in frame.planes.iter().flatten().zip(back.planes.iter().flatten()) {
            assert!(a.abs_diff(*b) <= 2, "{a} became {b}");
        }
    }

    #[test]
    fn padding_repeats_the_edge() {
        let mut out = Vec::new();
        pad(&[1, 2, 3, 4], (2, 2), 3, 0..3, &mut out);
        assert_eq!(out, [1, 2, 2, 3, 4, 4, 3, 4, 4]);
    }
}
