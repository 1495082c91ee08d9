// SPDX-License-Identifier: MPL-2.0
//! Maps of networks that move: with the window, by whole positions, or with what it shows, by parts of them.

use tch::{Device, Kind, TchError, Tensor};

use crate::bitstream::{MotionField, View, Window};

type Result<T> = std::result::Result<T, TchError>;

/// Where the positions of maps of one size that have moved are taken from.
pub(super) struct Moved {
    /// Which ones, counted row by row: `[n]` i64.
    positions: Tensor,
    /// The four positions around where they are taken from, and what these weigh: `[n]` i64, `[n, 1]` f32.
    sources: [(Tensor, Tensor); 4],
}

impl Moved {
    /// `each`: positions along a side of a token.
    pub(super) fn new(field: &MotionField, window: &Window, each: usize, device: Device) -> Result<Moved> {
        let (columns, rows) = window.tokens();
        let (columns, rows) = ((columns * each) as i32, (rows * each) as i32);
        let origins = field.origins(window, each);
        let source = |corner: i32| -> Result<(Tensor, Tensor)> {
            let of = |&(at, (x, y)): &(usize, (i32, i32))| {
                let (x, y) = (at as i32 % columns * 256 + x, at as i32 / columns * 256 + y);
                let part = |place: i32, is_second: bool| match is_second {
                    true => place & 255,
                    false => 256 - (place & 255),
                };
                let (right, below) = (corner & 1, corner >> 1);
                let column = ((x >> 8) + right).clamp(0, columns - 1);
                let row = ((y >> 8) + below).clamp(0, rows - 1);
                let weight = part(x, right == 1) * part(y, below == 1);
                (i64::from(row * columns + column), weight as f32 / 65536.0)
            };
            let (places, weights): (Vec<i64>, Vec<f32>) = origins.iter().map(of).unzip();
            Ok((
                Tensor::f_from_slice(&places)?.f_to_device(device)?,
                Tensor::f_from_slice(&weights)?.f_unsqueeze(1)?.f_to_device(device)?,
            ))
        };
        let positions: Vec<i64> = origins.iter().map(|(at, _)| *at as i64).collect();
        Ok(Moved {
            positions: Tensor::f_from_slice(&positions)?.f_to_device(device)?,
            sources: [source(0)?, source(1)?, source(2)?, source(3)?],
        })
    }

    /// `xs`: its rows are the dimension `rows`, its columns and channels the last two.
    pub(super) fn of(&self, xs: &Tensor, rows: i64) -> Result<Tensor> {
        let flat = xs.f_flatten(rows, rows + 1)?;
        let mut sum = None;
        for (places, weights) in &self.sources {
            let part = flat
                .f_index_select(rows, places)?
                .f_to_kind(Kind::Float)?
                .f_mul(weights)?;
            sum = Some(match sum {
                Some(sum) => part.f_add(&sum)?,
                None => part,
            });
        }
        let Some(sum) = sum else { return Ok(xs.shallow_clone()) };
        flat.f_index_copy(rows, &self.positions, &sum.f_to_kind(xs.kind())?)?
            .f_view(xs.size().as_slice())
    }
}

/// What a window sees of a map whose rows are the dimension `rows` of `xs` and whose columns are the next one: beyond its edges they are
/// repeated.
pub fn seen(xs: &Tensor, rows: i64, view: &View) -> Result<Tensor> {
    let places = |places: Vec<i64>| Tensor::f_from_slice(&places)?.f_to_device(xs.device());
    let lines = places(view.rows().map(|y| y as i64).collect())?;
    let columns = places(view.columns().map(|x| x as i64).collect())?;
    xs.f_index_select(rows, &lines)?.f_index_select(rows + 1, &columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::{Grid, SequenceHeader, PARTS};

    fn window() -> Window {
        Window::picture(Grid::new(&SequenceHeader::new(128, 96, (25, 1)), 16, 8, true))
    }

    /// Columns of a map with two positions along a side of a token, after all of its middle has moved to the right.
    fn moved(samples: i32) -> Tensor {
        let wanted = [(samples * PARTS, 0); 48];
        let field = MotionField::new(&window(), &wanted);
        let columns = Tensor::arange(16, (Kind::Float, Device::Cpu)).view([1, 1, 16, 1]);
        let map = columns.expand([1, 12, 16, 1], false);
        Moved::new(&field, &window(), 2, Device::Cpu)
            .unwrap()
            .of(&map, 1)
            .unwrap()
    }

    #[test]
    fn positions_take_what_was_there_and_between() {
        // A position has eight samples.
        for (samples, from) in [(8, 7.0), (4, 7.5), (2, 7.75)] {
            assert_eq!(moved(samples).double_value(&[0, 6, 8, 0]), from, "{samples} samples");
        }
    }

    #[test]
    fn what_has_not_moved_stays() {
        assert_eq!(moved(0).double_value(&[0, 6, 8, 0]), 8.0);
    }
}
