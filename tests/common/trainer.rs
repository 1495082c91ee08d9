// SPDX-License-Identifier: MPL-2.0
//! The trainer as a user runs it.

use std::path::Path;
use std::process::Command;

/// A Y4M clip with a moving gradient.
pub fn write_clip(path: &Path, frames: usize) {
    let (width, height) = (96, 80);
    let mut bytes = format!("YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420jpeg\n").into_bytes();
    for t in 0..frames {
        bytes.extend(b"FRAME\n");
        bytes.extend((0..width * height).map(|i| (i % width * 2 + i / width + 3 * t) as u8));
        bytes.extend(std::iter::repeat_n(120u8, width * height / 4));
        bytes.extend(std::iter::repeat_n(140u8, width * height / 4));
    }
    std::fs::write(path, bytes).unwrap();
}

pub fn train(folder: &Path, arguments: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tvc-train"))
        .current_dir(folder)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tvc-train {arguments}\n{text}");
    text
}
