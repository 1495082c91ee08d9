// SPDX-License-Identifier: MPL-2.0
//! Speed of the whole codec and of its entropy coder on 640x360: one delta unit, 8 frames.

use std::hint::black_box;

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use gsttvc::bitstream::{SequenceHeader, DELTA_FRAMES, FSQ_LEVELS};
use gsttvc::codec::{AccessUnit, Decoder, Encoder, EncoderSettings, Frame};
use gsttvc::entropy::{
    as_wanted, LatentContext, LatentMap, LatentMode, Masking, Region, TokenContext, TokenMap, UnitDecoder, UnitEncoder,
    WantedLatents,
};
use gsttvc::model::{Model, ModelSource};

const WIDTH: usize = 640;
const HEIGHT: usize = 360;

fn frame(t: usize) -> Frame {
    let plane = |number: usize| {
        let (w, h) = Frame::plane_size(WIDTH, HEIGHT, number);
        (0..w * h).map(|i| ((i % w + 3 * t) * (i / w + 7) / 40) as u8).collect()
    };
    Frame {
        width: WIDTH,
        height: HEIGHT,
        planes: [plane(0), plane(1), plane(2)],
        pts: None,
    }
}

fn sequence() -> SequenceHeader {
    SequenceHeader::new(WIDTH as u32, HEIGHT as u32, (25, 1))
}

fn codec(c: &mut Criterion) {
    let model = Model::load(&ModelSource::Embedded, "auto").expect("the built-in model loads");
    let settings = EncoderSettings {
        key_int_max: u32::MAX,
        ..EncoderSettings::default()
    };
    let mut encoder = Encoder::new(model.clone(), sequence(), settings).expect("a legal size");
    let frames: Vec<_> = (0..DELTA_FRAMES).map(frame).collect();
    let key = encoder.push(frame(0), true).expect("a key unit").remove(0);
    let mut group = c.benchmark_group("640x360");
    group
        .sample_size(20)
        .throughput(Throughput::Elements(DELTA_FRAMES as u64));
    let mut code_group = || -> AccessUnit {
        let units = frames
            .iter()
            .flat_map(|f| encoder.push(f.clone(), false).expect("a frame is coded"));
        units.last().expect("eight frames make a unit")
    };
    // Decoding one delta unit again and again would not verify: each is decoded after its key unit, whose
    // single frame is counted in.
    let delta = code_group();
    group.bench_function("encode, frames", |b| b.iter(&mut code_group));
    let mut decoder = Decoder::new(model.clone());
    group.throughput(Throughput::Elements(DELTA_FRAMES as u64 + 1));
    group.bench_function("decode, frames", |b| {
        b.iter(|| {
            black_box(decoder.decode(&key.bytes).expect("the key unit decodes"));
            black_box(decoder.decode(&delta.bytes).expect("the delta unit decodes"));
        });
    });
    group.finish();
    entropy(c, &model);
}

fn entropy(c: &mut Criterion, model: &Model) {
    let map = |seed: usize| {
        let mut map = TokenMap::zero(WIDTH.div_ceil(16), HEIGHT.div_ceil(16));
        for (i, token) in map.tokens.iter_mut().enumerate() {
            *token = std::array::from_fn(|k| ((i * 7 + k * seed) % usize::from(FSQ_LEVELS[k])) as u8);
        }
        map
    };
    let mut history = TokenContext::default();
    history.push(map(3));
    let mut coder = UnitEncoder::new();
    model
        .contexts()
        .tokens
        .code(
            &mut coder,
            &history,
            (Masking::None, &as_wanted),
            Region::WHOLE,
            &mut map(4),
        )
        .expect("the digits are in range");
    let bytes = coder.finish();
    let mut decoded = map(0);
    let mut group = c.benchmark_group("context model, 640x360");
    group.throughput(Throughput::Elements(DELTA_FRAMES as u64));
    group.bench_function("decode tokens, frames", |b| {
        b.iter(|| {
            let mut coder = UnitDecoder::new(&bytes);
            model
                .contexts()
                .tokens
                .code(
                    &mut coder,
                    &history,
                    (Masking::None, &as_wanted),
                    Region::WHOLE,
                    &mut decoded,
                )
                .expect("the bytes decode");
            black_box(&decoded);
        });
    });
    if let Some(context) = model.latent_context() {
        let (tokens, channels) = (map(4), context.weights().channels);
        let mut wanted = LatentMap::zero(tokens.width, tokens.height, channels);
        let values = wanted.values.iter_mut().enumerate();
        // Every eighth value is a step or two away from zero.
        values.for_each(|(i, v)| *v = if i % 8 == 0 { (i % 5) as i32 * 256 - 512 } else { 0 });
        let past = LatentContext::default();
        let mut coder = UnitEncoder::new();
        let wanted = WantedLatents {
            latents: &wanted,
            quantize: &|latent| latent.nearest(),
            skipped: &[],
        };
        context
            .code(
                &mut coder,
                &past,
                (&tokens, &history),
                Region::WHOLE,
                Some((LatentMode::Coded(24), wanted)),
            )
            .expect("latents are in range");
        let bytes = coder.finish();
        group.bench_function("decode latents, frames", |b| {
            b.iter(|| {
                let mut coder = UnitDecoder::new(&bytes);
                black_box(
                    context
                        .code(&mut coder, &past, (&tokens, &history), Region::WHOLE, None)
                        .expect("the bytes decode"),
                );
            });
        });
    }
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
