// SPDX-License-Identifier: MPL-2.0
//! Where the networks run, and in which kind of number.

use std::path::PathBuf;
use std::sync::{LazyLock, Once};
use std::time::Instant;

use tch::{nn, Cuda, Device, Kind, TchError, Tensor};

use super::config::LevelConfig;
use super::layers::{to_channels_last, Level, StreamState};
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
/// slightly; the entropy coder does not see them. `TVC_NUMBERS`, `f32` or `bf16`, chooses another one, to measure it.
pub fn fast_kind(device: Device) -> Kind {
    match std::env::var("TVC_NUMBERS").as_deref() {
        Ok("f32") => return Kind::Float,
        Ok("bf16") => return Kind::BFloat16,
        _ => {}
    }
    static FASTEST: LazyLock<Kind> = LazyLock::new(|| match has_bf16() && bf16_pays() {
        true => Kind::BFloat16,
        false => Kind::Float,
    });
    match device {
        Device::Cuda(_) => Kind::BFloat16,
        _ => *FASTEST,
    }
}

/// Whether blocks like those of the networks are faster in bf16 than in f32, where they run fused. Processors that have the instructions
/// differ by a factor of eight. An error leaves f32, which always works.
fn bf16_pays() -> bool {
    match (block_seconds(Kind::BFloat16), block_seconds(Kind::Float)) {
        (Ok(bf16), Ok(f32)) => bf16 < f32,
        _ => false,
    }
}

/// The shortest time of a few runs of a block in space and one in time, 128 channels of 48x64, in seconds.
fn block_seconds(kind: Kind) -> Result<f64, TchError> {
    const REPETITIONS: usize = 4;
    const CHANNELS: i64 = 128;
    let config = LevelConfig {
        width: CHANNELS,
        hidden: CHANNELS,
        blocks: 1,
        temporal_blocks: 1,
        halve_time: false,
        halve_space: false,
    };
    let _no_grad = tch::no_grad_guard();
    let mut variables = nn::VarStore::new(Device::Cpu);
    let mut level = Level::new(variables.root(), &config);
    variables.set_kind(kind);
    level.freeze();
    let xs = to_channels_last(&Tensor::f_ones([1, CHANNELS, 48, 64], (kind, Device::Cpu))?, kind)?;
    let mut state = StreamState::default();
    let mut least = f64::INFINITY;
    for _ in 0..REPETITIONS {
        let xs = xs.copy();
        let start = Instant::now();
        state.begin_step();
        let _done = level.forward(xs, 1, &mut state)?;
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
