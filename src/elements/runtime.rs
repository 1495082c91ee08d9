// SPDX-License-Identifier: MPL-2.0
//! What encoder and decoder share: where the networks come from and where they run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gst::glib;
use gst::prelude::*;

use crate::model::{Model, ModelError, ModelSource};

const DEFAULT_DEVICE: &str = "auto";
const MAX_THREADS: u32 = 256;

/// The properties `model-file`, `device` and `threads`.
#[derive(Clone, Debug)]
pub struct RuntimeSettings {
    pub model_file: Option<PathBuf>,
    pub device: String,
    pub threads: u32,
}

impl Default for RuntimeSettings {
    fn default() -> Self {
        RuntimeSettings {
            model_file: None,
            device: DEFAULT_DEVICE.into(),
            threads: 0,
        }
    }
}

impl RuntimeSettings {
    pub fn properties() -> Vec<glib::ParamSpec> {
        vec![
            glib::ParamSpecString::builder("model-file")
                .nick("Model file")
                .blurb(
                    "Path of the model (safetensors); sender and receiver need the same one. NULL = the built-in model",
                )
                .mutable_ready()
                .build(),
            glib::ParamSpecString::builder("device")
                .nick("Device")
                .blurb("Where the networks run: cpu, cuda, cuda:N, or auto = CUDA if there is any, else the CPU")
                .default_value(Some(DEFAULT_DEVICE))
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("threads")
                .nick("Threads")
                .blurb("CPU threads of the networks, shared by the whole process; 0 = one per core")
                .maximum(MAX_THREADS)
                .mutable_ready()
                .build(),
        ]
    }

    /// Takes a property of this group; false if it is none.
    pub fn set(&mut self, value: &glib::Value, pspec: &glib::ParamSpec) -> bool {
        match pspec.name() {
            "model-file" => self.model_file = value.get::<Option<String>>().expect("a string").map(Into::into),
            "device" => {
                let device = value.get::<Option<String>>().expect("a string");
                self.device = device.unwrap_or_else(|| DEFAULT_DEVICE.into());
            }
            "threads" => self.threads = value.get().expect("a number"),
            _ => return false,
        }
        true
    }

    /// The value of a property of this group.
    pub fn get(&self, pspec: &glib::ParamSpec) -> Option<glib::Value> {
        Some(match pspec.name() {
            "model-file" => self
                .model_file
                .as_ref()
                .map(|p| p.to_string_lossy().into_owned())
                .to_value(),
            "device" => self.device.to_value(),
            "threads" => self.threads.to_value(),
            _ => return None,
        })
    }

    /// Loads the model for an element that starts.
    pub fn load(&self) -> Result<Arc<Model>, gst::ErrorMessage> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if self.threads == 0 {
            cores
        } else {
            self.threads as usize
        };
        tch::set_num_threads(threads as i32);
        let source = match &self.model_file {
            None => ModelSource::Embedded,
            Some(path) => ModelSource::File(path.clone()),
        };
        Model::load(&source, &self.device).map_err(|error| message(&error, self.model_file.as_deref()))
    }
}

fn message(error: &ModelError, file: Option<&Path>) -> gst::ErrorMessage {
    let file = file.map_or(String::new(), |file| format!("{}: ", file.display()));
    match error {
        ModelError::Io { .. } => gst::error_msg!(
            gst::ResourceError::NotFound,
            ["{error}; set model-file to a TVC model, or to NULL for the built-in one"]
        ),
        ModelError::Device(..) => gst::error_msg!(gst::ResourceError::NotFound, ["{error}; device=cpu always works"]),
        _ => gst::error_msg!(gst::LibraryError::Init, ["{file}{error}"]),
    }
}
