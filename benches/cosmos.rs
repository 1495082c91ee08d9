// SPDX-License-Identifier: MPL-2.0
//! Our Cosmos networks against NVIDIA's own code, the TorchScript of a checkpoint, with the same weights in the same
//! process: `COSMOS_CHECKPOINT=DIR cargo bench --bench cosmos`, DIR with encoder.jit and decoder.jit.

use std::hint::black_box;

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use gsttvc::model::cosmos::Checkpoint;
use tch::{Device, Kind, Tensor};

/// A key unit and two delta units of 8 frames.
const FRAMES: i64 = 17;
const SIDE: i64 = 192;

fn cosmos(c: &mut Criterion) {
    let Ok(folder) = std::env::var("COSMOS_CHECKPOINT") else {
        println!("COSMOS_CHECKPOINT names no checkpoint: nothing is measured");
        return;
    };
    let _no_grad = tch::no_grad_guard();
    let checkpoint = Checkpoint::read(folder.as_ref()).expect("a checkpoint");
    let networks = checkpoint.networks(FRAMES).expect("networks that fit");
    let clip = Tensor::rand([1, 3, FRAMES, SIDE, SIDE], (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
    let clip = clip.to_kind(checkpoint.kind);
    let ours = networks.encode(&clip).expect("a latent");
    let latent = checkpoint.latent(&ours).expect("a latent");
    let mut group = c.benchmark_group(format!("Cosmos {FRAMES}x{SIDE}x{SIDE}"));
    group
        .sample_size(10)
        .throughput(Throughput::Elements(FRAMES as u64))
        .bench_function("encode/ours", |b| b.iter(|| networks.encode(black_box(&clip))))
        .bench_function("decode/ours", |b| b.iter(|| networks.decode(black_box(&ours))))
        .bench_function("decode/nvidia", |b| b.iter(|| checkpoint.decode(black_box(&latent))));
    // libtorch cannot run it in bf16 on a CPU.
    if checkpoint.encode(&clip).is_ok() {
        group.bench_function("encode/nvidia", |b| b.iter(|| checkpoint.encode(black_box(&clip))));
    }
    group.finish();
}

criterion_group!(benches, cosmos);
criterion_main!(benches);
