// SPDX-License-Identifier: MPL-2.0
//! Residual blocks of the painter at 640x360, one thread: fused, and as libtorch runs their layers one by one. An element is a multiplication
//! and addition of the layers as they are defined.

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use gsttvc::model::layers::Level;
use gsttvc::model::{LevelConfig, StreamState};
use tch::{nn, Device, Kind, Tensor};

/// Width, hidden width, time steps, lines and columns.
const BLOCKS: [[i64; 5]; 4] = [
    [96, 96, 2, 90, 160],
    [160, 160, 2, 45, 80],
    [160, 128, 2, 45, 80],
    [256, 128, 1, 23, 40],
];

fn blocks(c: &mut Criterion) {
    let _guard = tch::no_grad_guard();
    tch::set_num_threads(1);
    let mut group = c.benchmark_group("blocks");
    group.sample_size(20);
    for [width, hidden, t, h, w] in BLOCKS {
        let xs = Tensor::randn([t, h, w, width], (Kind::Float, Device::Cpu)).permute([0, 3, 1, 2]);
        for (name, temporal_blocks) in [("space", 0), ("space and time", 1)] {
            let config = LevelConfig {
                width,
                hidden,
                blocks: 1,
                temporal_blocks,
                halve_time: false,
                halve_space: false,
            };
            let macs = t * h * w * width * hidden * (10 + 4 * temporal_blocks);
            group.throughput(Throughput::Elements(macs as u64));
            for (how, fused) in [("libtorch", false), ("fused", true)] {
                let vs = nn::VarStore::new(Device::Cpu);
                let mut level = Level::new(vs.root(), &config);
                if fused {
                    level.freeze();
                }
                let id = format!("{name} {width}-{hidden} {t}x{h}x{w} {how}");
                group.bench_function(id, |b| {
                    b.iter(|| {
                        let mut state = StreamState::default();
                        level.forward(xs.copy(), 1, &mut state).expect("channels fit")
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, blocks);
criterion_main!(benches);
