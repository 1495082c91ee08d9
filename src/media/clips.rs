// SPDX-License-Identifier: MPL-2.0
//! Clips on disk.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{anyhow, bail, ensure, Context, Result};
use tch::{Device, Tensor};

use crate::bitstream::SequenceHeader;
use crate::codec::Frame;
use crate::model::picture;

/// A whole clip in memory, 4:2:0, 8 bits, BT.601 or BT.709 limited range.
pub struct Clip {
    pub name: String,
    /// `[t, h, w]` u8, h and w even.
    pub luma: Tensor,
    /// `[t, 2, h/2, w/2]` u8.
    pub chroma: Tensor,
    /// Frames per second.
    pub frame_rate: f64,
}

impl Clip {
    pub fn frames(&self) -> i64 {
        self.luma.size()[0]
    }

    /// Width and height.
    pub fn size(&self) -> (i64, i64) {
        let size = self.luma.size();
        (size[2], size[1])
    }

    /// What a stream of it says of its pictures.
    pub fn sequence(&self) -> SequenceHeader {
        let (width, height) = self.size();
        let frame_rate = (((self.frame_rate * 1001.0).round() as u32).max(1), 1001);
        SequenceHeader::new(width as u32, height as u32, frame_rate)
    }

    /// One of its frames, at the time that the frame rate gives it. `at` must be within the clip.
    pub fn frame(&self, at: i64) -> Result<Frame> {
        let (width, height) = self.size();
        let bytes = |plane: Tensor| -> Result<Vec<u8>> { Ok(Vec::try_from(plane.contiguous().flatten(0, -1))?) };
        let chroma = self.chroma.get(at);
        Ok(Frame {
            width: width as usize,
            height: height as usize,
            planes: [bytes(self.luma.get(at))?, bytes(chroma.get(0))?, bytes(chroma.get(1))?],
            pts: Some((at as f64 / self.frame_rate.max(1.0) * 1e9) as u64),
        })
    }

    /// Up to `frames` frames from `from` on, 1 + a multiple of 8 of them, cut to whole tokens: quad pictures
    /// `[1, t, 6, h/2, w/2]` f32 in [-1, 1]. `from` must be within the clip.
    pub fn quads(&self, from: i64, frames: i64) -> Result<Tensor> {
        let (width, height) = (self.size().0 & !15, self.size().1 & !15);
        let frames = (self.frames() - from).min(frames).max(1);
        let frames = (frames - 1) / 8 * 8 + 1;
        let cut = |t: &Tensor, scale: i64| {
            t.narrow(0, from, frames)
                .slice(-2, 0, height / scale, 1)
                .slice(-1, 0, width / scale, 1)
        };
        let quads = picture::quad_from_planes(&cut(&self.luma, 1), &cut(&self.chroma, 2))?;
        Ok(quads.unsqueeze(0))
    }

    /// Reads a Y4M file (an odd last row or column is left out), or any file that GStreamer can decode where
    /// `gst-launch-1.0` is installed.
    pub fn read(path: &Path) -> Result<Clip> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let clip = if path.extension().is_some_and(|e| e == "y4m") {
            Clip::from_y4m(name, BufReader::new(std::fs::File::open(path)?))
        } else {
            Clip::through_gstreamer(name, path)
        };
        clip.with_context(|| format!("reading {}", path.display()))
    }

    /// A process of its own, so that the trainer also starts where there is no GStreamer.
    fn through_gstreamer(name: String, path: &Path) -> Result<Clip> {
        let mut child = Command::new("gst-launch-1.0")
            .args(["-q", "filesrc", &format!("location={}", path.display())])
            .args(["!", "decodebin", "!", "videoconvert", "!", "videoscale"])
            // y4menc of GStreamer 1.22 writes the padding of rows too, whatever it is: exchanging the chroma planes
            // twice makes a copy with the usual one, see `without_padding`.
            .args([
                "!",
                "video/x-raw,format=YV12,pixel-aspect-ratio=1/1",
                "!",
                "videoconvert",
            ])
            .args(["!", "video/x-raw,format=I420", "!", "y4menc", "!", "fdsink"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("only Y4M can be read without gst-launch-1.0")?;
        let mut stdout = child.stdout.take().expect("stdout is piped");
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes)?;
        child.wait()?;
        Clip::from_y4m(name, without_padding(bytes).as_slice())
    }

    fn from_y4m(name: String, reader: impl Read) -> Result<Clip> {
        let mut decoder = y4m::decode(reader)?;
        let (w, h) = (decoder.get_width(), decoder.get_height());
        let rate = decoder.get_framerate();
        let is_420 = matches!(
            decoder.get_colorspace(),
            y4m::Colorspace::C420 | y4m::Colorspace::C420jpeg | y4m::Colorspace::C420mpeg2 | y4m::Colorspace::C420paldv
        );
        ensure!(is_420, "{:?} is not 4:2:0 with 8 bits", decoder.get_colorspace());
        let (mut luma, mut chroma, mut frames) = (Vec::new(), Vec::new(), 0i64);
        loop {
            match decoder.read_frame() {
                Ok(frame) => {
                    cut_even(frame.get_y_plane(), w, (w & !1, h & !1), &mut luma);
                    for plane in [frame.get_u_plane(), frame.get_v_plane()] {
                        cut_even(plane, w.div_ceil(2), (w / 2, h / 2), &mut chroma);
                    }
                    frames += 1;
                }
                Err(y4m::Error::EOF) => break,
                Err(e) => return Err(e.into()),
            }
        }
        ensure!(frames > 0, "no frames");
        let (w, h) = (w as i64 & !1, h as i64 & !1);
        Ok(Clip {
            name,
            luma: Tensor::from_slice(&luma).view([frames, h, w]),
            chroma: Tensor::from_slice(&chroma).view([frames, 2, h / 2, w / 2]),
            frame_rate: if rate.den == 0 {
                0.0
            } else {
                rate.num as f64 / rate.den as f64
            },
        })
    }

    /// The same clip on another device.
    pub fn to_device(&self, device: Device) -> Clip {
        Clip {
            name: self.name.clone(),
            luma: self.luma.to_device(device),
            chroma: self.chroma.to_device(device),
            frame_rate: self.frame_rate,
        }
    }
}

/// Y4M of 4:2:0 with 8 bits as the format wants it. GStreamer 1.22 writes rows of four whole samples, and an even number of rows, as
/// it has them in memory: a file whose second frame is not where it should be.
fn without_padding(bytes: Vec<u8>) -> Vec<u8> {
    const FRAME: &[u8] = b"FRAME\n";
    let Some(start) = bytes.iter().position(|&byte| byte == b'\n').map(|end| end + 1) else {
        return bytes;
    };
    let field = |name: u8| -> Option<usize> {
        let fields = bytes[..start - 1].split(|&byte| byte == b' ');
        let text = fields.filter_map(|field| field.strip_prefix(&[name])).next()?;
        std::str::from_utf8(text).ok()?.parse().ok()
    };
    let (Some(width), Some(height)) = (field(b'W'), field(b'H')) else {
        return bytes;
    };
    let chroma = (width.div_ceil(2), height.div_ceil(2));
    let frame = FRAME.len() + width * height + 2 * chroma.0 * chroma.1;
    let next = bytes.get(start + frame..).unwrap_or_default();
    if bytes.len() < start + frame || next.is_empty() || next.starts_with(FRAME) {
        return bytes;
    }
    let mut tight = bytes[..start].to_vec();
    let mut rest = &bytes[start..];
    while let Some(mut planes) = rest.strip_prefix(FRAME) {
        tight.extend_from_slice(FRAME);
        for (width, height, rows) in [
            (width, height, 2 * chroma.1),
            (chroma.0, chroma.1, chroma.1),
            (chroma.0, chroma.1, chroma.1),
        ] {
            let stride = width.next_multiple_of(4);
            let Some((plane, others)) = planes.split_at_checked(stride * rows) else {
                return tight;
            };
            cut_even(plane, stride, (width, height), &mut tight);
            planes = others;
        }
        rest = planes;
    }
    tight
}

/// Appends the first `width` x `height` samples of a plane with rows of `stride`.
fn cut_even(plane: &[u8], stride: usize, (width, height): (usize, usize), out: &mut Vec<u8>) {
    for row in plane.chunks(stride).take(height) {
        out.extend_from_slice(&row[..width]);
    }
}

/// Reads files, as many at a time as there are cores.
pub fn read_all(files: &[PathBuf]) -> Result<Vec<Clip>> {
    let next = AtomicUsize::new(0);
    let read_some = || -> Result<Vec<(usize, Clip)>> {
        let mut clips = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(at) else { return Ok(clips) };
            clips.push((at, Clip::read(file)?));
        }
    };
    let mut clips = std::thread::scope(|scope| -> Result<Vec<(usize, Clip)>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let readers: Vec<_> = (0..cores).map(|_| scope.spawn(read_some)).collect();
        let mut all = Vec::new();
        for reader in readers {
            all.extend(
                reader
                    .join()
                    .map_err(|_| anyhow!("a thread that reads clips has died"))??,
            );
        }
        Ok(all)
    })?;
    clips.sort_by_key(|(at, _)| *at);
    Ok(clips.into_iter().map(|(_, clip)| clip).collect())
}

/// Every file under `paths`, folders searched to the bottom, in the order of their names.
pub fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries: Vec<_> = std::fs::read_dir(path)?
                .map(|e| e.map(|e| e.path()))
                .collect::<Result<_, _>>()?;
            files.extend(find(&entries)?);
        } else if path.exists() {
            files.push(path.clone());
        } else {
            bail!("{} does not exist", path.display());
        }
    }
    files.sort();
    Ok(files)
}
