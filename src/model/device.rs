// SPDX-License-Identifier: MPL-2.0
//! Where the networks run, and in which kind of number.

use std::path::PathBuf;
use std::sync::Once;

use tch::{Cuda, Device, Kind};

use super::ModelError;

/// The device that a name stands for: auto, cpu, cuda or cuda:N. `auto` is CUDA where there is any.
pub fn select(name: &str) -> Result<Device, ModelError> {
    let unavailable = |why: &str| ModelError::Device(name.into(), why.into());
    let index = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" | "cuda" => 0,
        _ => match name.strip_prefix("cuda:").and_then(|n| n.parse::<usize>().ok()) {
            Some(index) => index,
            None => return Err(unavailable("legal are auto, cpu, cuda and cuda:N")),
        },
    };
    load_cuda();
    let devices = usize::try_from(Cuda::device_count()).unwrap_or(0);
    match name {
        "auto" if devices == 0 => Ok(Device::Cpu),
        _ if index < devices => Ok(Device::Cuda(index)),
        _ => Err(unavailable(&format!("libtorch sees {devices} CUDA devices"))),
    }
}

/// The fastest kind of number that is good enough for pictures. Tokens and pictures of another kind differ
/// slightly; the entropy coder does not see them.
pub fn fast_kind(device: Device) -> Kind {
    match device {
        Device::Cuda(_) => Kind::BFloat16,
        _ if has_fast_bf16() => Kind::BFloat16,
        _ => Kind::Float,
    }
}

#[cfg(target_arch = "x86_64")]
fn has_fast_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_fast_bf16() -> bool {
    false
}

/// libtorch_cuda registers itself when it is loaded. It is not linked, so that one build of this library
/// also runs beside a libtorch without CUDA.
fn load_cuda() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Some(library) = libtorch_directory()
            .map(|d| d.join("libtorch_cuda.so"))
            .filter(|l| l.exists())
        else {
            return;
        };
        // SAFETY: libtorch_cuda's initialisers only register kernels; the library stays loaded for good.
        if let Ok(library) = unsafe { libloading::Library::new(library) } {
            std::mem::forget(library);
        }
    });
}

/// The folder that libtorch_cpu was loaded from.
fn libtorch_directory() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.contains("/libtorch_cpu.so"))?;
    let path = PathBuf::from(&line[line.find('/')?..]);
    Some(path.parent()?.to_path_buf())
}
