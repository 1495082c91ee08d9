// SPDX-License-Identifier: MPL-2.0
//! What a run shows and writes down.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

/// A bar of a thousand steps.
pub fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {elapsed} (left {eta})  {msg}");
    ProgressBar::new(1000).with_style(style.expect("a valid template"))
}

/// A CSV file that later runs append to; remarks start with `#`.
pub struct Log(std::io::LineWriter<std::fs::File>);

impl Log {
    /// Opens `path`; a new file starts with the line `columns`.
    pub fn open(path: &Path, columns: &str) -> Result<Log> {
        let is_new = !path.exists();
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let mut log = Log(std::io::LineWriter::new(
            file.with_context(|| format!("opening {}", path.display()))?,
        ));
        if is_new {
            log.line(columns)?;
        }
        Ok(log)
    }

    pub fn line(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.0, "{line}")?)
    }

    pub fn note(&mut self, note: &str) -> Result<()> {
        writeln!(self.0, "# {note}")?;
        Ok(self.0.flush()?)
    }
}
