// SPDX-License-Identifier: MPL-2.0
//! Keeps the waiting threads of OpenMP from burning the cores of other programs.
//!
//! libgomp lets a thread that waits for work turn in a loop for milliseconds before it sleeps. `OMP_WAIT_POLICY=passive` would stop that, but
//! is read when libgomp is loaded, which is before any code of a plugin runs, and the environment is not a plugin's to change. But libgomp
//! turns 300 times less where it runs more threads than there are processors (`do_spin` in its wait.h), and it counts threads that sleep.
//! So one thread gets a team of that many once, which sleeps from then on.

use std::ffi::c_void;
use std::sync::Once;

use libloading::os::unix::{Library, RTLD_LAZY};

/// Of glibc's dlfcn.h: only what is loaded already.
const RTLD_NOLOAD: i32 = 4;

/// Names under which libtorch may have loaded OpenMP.
const LIBRARIES: [&str; 3] = ["libgomp.so.1", "libiomp5.so", "libomp.so"];

type GompParallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, u32, u32);
type NumProcs = unsafe extern "C" fn() -> i32;
type SetBlocktime = unsafe extern "C" fn(i32);

extern "C" fn nothing(_: *mut c_void) {}

/// Makes waiting threads sleep soon, in this process and from now on. Does nothing where OpenMP is of another kind.
pub fn stop_spinning() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for name in LIBRARIES {
            // SAFETY: a library that is loaded already runs no initialisers.
            let Ok(library) = (unsafe { Library::open(Some(name), RTLD_LAZY | RTLD_NOLOAD) }) else {
                continue;
            };
            calm(&library);
            // It stays loaded: the team lives in it.
            std::mem::forget(library);
        }
    });
}

fn calm(library: &Library) {
    // SAFETY: the names and signatures are those of the OpenMP runtimes' public interfaces.
    unsafe {
        if let Ok(set_blocktime) = library.get::<SetBlocktime>(b"kmp_set_blocktime\0") {
            set_blocktime(0);
            return;
        }
        let (Ok(parallel), Ok(processors)) = (
            library.get::<GompParallel>(b"GOMP_parallel\0"),
            library.get::<NumProcs>(b"omp_get_num_procs\0"),
        ) else {
            return;
        };
        let (parallel, threads) = (*parallel, processors().max(1) as u32 + 1);
        let sleeper = std::thread::Builder::new().name("tvc-openmp".into()).spawn(move || {
            parallel(nothing, std::ptr::null_mut(), threads, 0);
            // The team ends with the thread that it belongs to.
            loop {
                std::thread::park();
            }
        });
        // Without it, threads spin as they always did.
        drop(sleeper);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn more_threads_than_processors_are_known_to_openmp() {
        // libgomp says what it knows in `GOMP_parallel` only: the team's threads are there.
        let product = || {
            Tensor::ones([256, 256], (Kind::Float, Device::Cpu))
                .mm(&Tensor::ones([256, 256], (Kind::Float, Device::Cpu)))
        };
        assert_eq!(product().double_value(&[0, 0]), 256.0);
        stop_spinning();
        let threads = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while threads() <= processors && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(threads() > processors, "{} threads", threads());
        assert_eq!(product().double_value(&[255, 255]), 256.0);
    }
}
