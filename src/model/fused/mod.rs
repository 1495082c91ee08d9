// SPDX-License-Identifier: MPL-2.0
//! Residual blocks in one pass over memory, for f32 on a processor. A strip of the picture goes through norm, convolution, activation and
//! 1x1 convolution before the next one is touched, so that everything but input and output stays in the cache. 3x3 convolutions are
//! Winograd's F(4x4, 3x3), a quarter of the multiplications, which libtorch does not have on processors of today.
//!
//! What a position gets depends neither on the number of threads nor on the other pictures and streams of a call.

mod elementwise;
mod matrix;
mod scratch;
mod spatial;
mod temporal;
#[cfg(test)]
mod tests;
mod upsample;
mod winograd;

use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

use pulp::{Arch, Simd, WithSimd};
use tch::{Device, Kind, Tensor};

use super::layers::values;
use matrix::PackedMatrix;
pub use spatial::{FusedConv, Layers};
pub use temporal::{FusedTemporal, TemporalLayers};
pub use upsample::{FusedUpsample, UpsampleLayers};

type Result<T> = std::result::Result<T, tch::TchError>;

/// Channels come in multiples of this: two of AVX2's registers or one of AVX-512's.
const CHANNELS: i64 = 16;
/// Beyond this the transformed weights, four times as many, fit into no cache.
const MOST_CHANNELS: i64 = 1024;
/// Multiplications below which a thread of its own does not pay.
const WORTH_A_THREAD: usize = 1 << 22;

/// The instructions to use; `None` where there are no vectors worth the trouble. `ATEN_CPU_CAPABILITY` limits them as it limits libtorch.
static INSTRUCTIONS: LazyLock<Option<Arch>> = LazyLock::new(|| {
    let limit = std::env::var("ATEN_CPU_CAPABILITY").unwrap_or_default();
    match (limit.as_str(), Arch::new()) {
        ("default", _) | (_, Arch::Scalar) => None,
        #[cfg(target_arch = "x86_64")]
        ("avx2", _) => pulp::x86::V3::try_new().map(Arch::V3),
        (_, arch) => Some(arch),
    }
});

/// The instructions to use for layers with such weights and channels; `None` where they run as they are.
fn instructions_for(weight: &Tensor, channels: &[i64]) -> Option<Arch> {
    let fits = channels.iter().all(|n| n % CHANNELS == 0 && *n <= MOST_CHANNELS);
    let here = weight.kind() == Kind::Float && weight.device() == Device::Cpu;
    INSTRUCTIONS.filter(|_| fits && here)
}

/// The fused form of layers whose weights are final, made when they first run: a decoder does not pay for an encoder.
#[derive(Debug)]
pub struct Fused<T>(Option<OnceLock<Option<T>>>);

impl<T> Default for Fused<T> {
    fn default() -> Self {
        Fused(None)
    }
}

impl<T> Fused<T> {
    /// The weights are final.
    pub fn allow(&mut self) {
        self.0 = Some(OnceLock::new());
    }

    /// `None`: the layers run as they are, which is what becomes of an error, too.
    pub fn get(&self, make: impl FnOnce() -> Result<Option<T>>) -> Option<&T> {
        let fused = self.0.as_ref()?;
        fused.get_or_init(|| make().ok().flatten()).as_ref()
    }
}

/// The weight `[c_out, c, 1, 1]` of a 1x1 convolution as the matrix `[c, c_out]` that inputs are multiplied with.
fn pointwise(weight: &Tensor, arch: Arch) -> Result<PackedMatrix> {
    let (c_out, c, _, _) = weight.size4()?;
    let rows = values(weight)?;
    let size = (c as usize, c_out as usize);
    Ok(PackedMatrix::new(size, arch.dispatch(Lanes), |i, o| {
        rows[o * size.0 + i]
    }))
}

/// The values of `xs: [n, c, h, w]` in the order of channels-last memory, as a tensor `[n, h, w, c]`; an error where they are not f32 on the CPU.
fn channels_last(xs: &Tensor, channels: usize) -> Result<Tensor> {
    let xs = xs.f_detach()?.f_permute([0, 2, 3, 1])?.f_contiguous()?;
    let (_, _, _, c) = xs.size4()?;
    if xs.kind() != Kind::Float || xs.device() != Device::Cpu || c as usize != channels {
        return Err(tch::TchError::Shape(format!(
            "{c} channels of {:?} for layers of {channels} in f32 on the CPU",
            xs.kind()
        )));
    }
    Ok(xs)
}

/// The values of a tensor that [`channels_last`] gave, or that was made like that.
fn as_slice(xs: &Tensor) -> &[f32] {
    assert!(xs.is_contiguous() && xs.kind() == Kind::Float && xs.device() == Device::Cpu);
    // libtorch has no memory for nothing.
    if xs.numel() == 0 {
        return &[];
    }
    // SAFETY: contiguous f32 in this process's memory, which lives as long as the tensor.
    unsafe { std::slice::from_raw_parts(xs.data_ptr() as *const f32, xs.numel()) }
}

/// The same, to be written to.
///
/// # Safety
/// Nobody else looks at the tensor's memory while the slice lives.
unsafe fn as_mut_slice(xs: &mut Tensor) -> &mut [f32] {
    assert!(xs.is_contiguous() && xs.kind() == Kind::Float && xs.device() == Device::Cpu);
    if xs.numel() == 0 {
        return &mut [];
    }
    // SAFETY: contiguous f32 in this process's memory, which lives as long as the tensor and is the caller's alone.
    unsafe { std::slice::from_raw_parts_mut(xs.data_ptr() as *mut f32, xs.numel()) }
}

/// As many of libtorch's threads as so many multiplications are worth.
fn threads_for(multiplications: usize) -> usize {
    (tch::get_num_threads().max(1) as usize).min(multiplications / WORTH_A_THREAD + 1)
}

/// Runs all jobs, each in a thread of its own as far as there are threads, the last ones in this.
fn run_all<J: WithSimd + Send>(arch: Arch, jobs: Vec<J>) {
    let helpers = jobs.len().saturating_sub(1);
    let jobs = Mutex::new(jobs);
    let work = || loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match job {
            Some(job) => drop(arch.dispatch(job)),
            None => break,
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..helpers {
            // Where there is no thread to be had, the others do its work.
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
}

/// The width of a register in f32.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}
