// SPDX-License-Identifier: MPL-2.0

use std::path::Path;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

/// Columns of a montage.
const COLUMNS: i64 = 4;
const GAP: i64 = 4;

/// Writes a PNG with a row per clip (`[t, 3, h, w]` R'G'B' f32 in [0, 1], equal shapes) and a column for each
/// of four frames, evenly spread.
pub fn write_montage(path: &Path, rows: &[Tensor]) -> Result<()> {
    let frames = rows[0].size()[0];
    let pick = |row: &Tensor| {
        let columns = (0..COLUMNS).map(|i| row.select(0, (2 * i + 1) * frames / (2 * COLUMNS)));
        let columns: Vec<_> = columns.map(|c| c.constant_pad_nd([0, GAP, 0, GAP])).collect();
        Tensor::cat(&columns, 2)
    };
    let picked: Vec<_> = rows.iter().map(pick).collect();
    let picture = (Tensor::cat(&picked, 1).clamp(0.0, 1.0) * 255.0)
        .round()
        .to_kind(Kind::Uint8);
    let (_, height, width) = picture.size3()?;
    let bytes = Vec::<u8>::try_from(picture.permute([1, 2, 0]).contiguous().flatten(0, -1))?;
    let file = std::fs::File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut encoder = png::Encoder::new(std::io::BufWriter::new(file), width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    Ok(encoder.write_header()?.write_image_data(&bytes)?)
}
