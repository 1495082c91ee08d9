// SPDX-License-Identifier: MPL-2.0
//! Where the networks run, and in which kind of number.

use std::path::PathBuf;
use std::sync::{LazyLock, Once};
use std::time::Instant;

use tch::{Cuda, Device, Kind, TchError, Tensor};

use super::layers::to_channels_last;
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
    static FASTEST: LazyLock<Kind> = LazyLock::new(|| match has_bf16() && bf16_pays() {
        true => Kind::BFloat16,
        false => Kind::Float,
    });
    match device {
        Device::Cuda(_) => Kind::BFloat16,
        _ => *FASTEST,
    }
}

/// Whether a convolution like those of the networks is faster in bf16. Processors that have the instructions differ by a factor of eight:
/// with AMX bf16 is several times as fast as f32, without it up to twice as fast or, on some virtual machines, half as fast. An error
/// leaves f32, which always works.
fn bf16_pays() -> bool {
    match (convolution_seconds(Kind::BFloat16), convolution_seconds(Kind::Float)) {
        (Ok(bf16), Ok(f32)) => bf16 < f32,
        _ => false,
    }
}

/// The shortest time of a few 3x3 convolutions, 64 to 64 channels of 48x64, in seconds.
fn convolution_seconds(kind: Kind) -> Result<f64, TchError> {
    const REPETITIONS: usize = 4;
    let _no_grad = tch::no_grad_guard();
    let xs = to_channels_last(&Tensor::f_ones([1, 64, 48, 64], (kind, Device::Cpu))?, kind)?;
    let weight = Tensor::f_ones([64, 64, 3, 3], (kind, Device::Cpu))?;
    let mut least = f64::INFINITY;
    for _ in 0..REPETITIONS {
        let start = Instant::now();
        let _done = xs.f_conv2d(&weight, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least)
}

#[cfg(target_arch = "x86_64")]
fn has_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_bf16() -> bool {
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
