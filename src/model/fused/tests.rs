// SPDX-License-Identifier: MPL-2.0
use super::*;

fn random(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

/// Weights of layers with `[c, hidden, c_out]` channels.
struct Weights {
    norm: (Tensor, Tensor),
    conv: (Tensor, Tensor),
    product: (Tensor, Tensor),
}

impl Weights {
    fn new([c, hidden, c_out]: [i64; 3]) -> Weights {
        Weights {
            norm: (random(&[c]), random(&[c])),
            conv: (
                random(&[hidden, c, 3, 3]) / (3.0 * (c as f64).sqrt()),
                random(&[hidden]),
            ),
            product: (
                random(&[c_out, hidden, 1, 1]) / (hidden as f64).sqrt(),
                random(&[c_out]),
            ),
        }
    }

    fn layers(&self, silu_before: bool, product: bool, residual: bool) -> Layers<'_> {
        Layers {
            norm: (&self.norm.0, &self.norm.1),
            silu_before,
            conv: (&self.conv.0, &self.conv.1),
            silu_after: !silu_before,
            product: product.then_some((&self.product.0, &self.product.1)),
            residual,
        }
    }
}

/// Layer norm over the channels of `xs: [n, c, h, w]`.
fn normal((weight, bias): (&Tensor, &Tensor), xs: &Tensor) -> Tensor {
    let last = xs.permute([0, 2, 3, 1]);
    let normal = last.layer_norm(weight.size(), Some(weight), Some(bias), 1e-5, true);
    normal.permute([0, 3, 1, 2])
}

/// What libtorch makes of the layers.
fn reference(layers: &Layers, xs: &Tensor) -> Tensor {
    let mut ys = normal(layers.norm, xs);
    if layers.silu_before {
        ys = ys.silu();
    }
    ys = ys.conv2d(layers.conv.0, Some(layers.conv.1), [1, 1], [1, 1], [1, 1], 1);
    if layers.silu_after {
        ys = ys.silu();
    }
    if let Some((weight, bias)) = layers.product {
        ys = ys.conv2d(weight, Some(bias), [1, 1], [0, 0], [1, 1], 1);
    }
    match layers.residual {
        true => ys + xs,
        false => ys,
    }
}

fn error(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    f64::try_from((a - b).abs().max()).unwrap()
}

#[test]
fn fused_layers_give_what_libtorch_gives() {
    let sizes = [(1, 1, 1), (1, 3, 5), (2, 4, 4), (3, 9, 14), (1, 45, 80), (2, 23, 170)];
    for [c, hidden, c_out] in [[16, 16, 16], [96, 48, 96], [160, 128, 160], [32, 112, 48]] {
        for (n, h, w) in sizes {
            let weights = Weights::new([c, hidden, c_out]);
            let xs = random(&[n, c, h, w]);
            for (silu_before, product, residual) in
                [(false, true, c == c_out), (true, true, false), (true, false, false)]
            {
                let layers = weights.layers(silu_before, product, residual);
                let fused = FusedConv::with(&layers, Arch::new()).unwrap();
                let off = error(&fused.forward(xs.copy()).unwrap(), &reference(&layers, &xs));
                assert!(off < 2e-4, "{c}, {hidden}, {c_out} channels of {n}x{h}x{w}: {off}");
            }
        }
    }
}

#[test]
fn what_a_picture_gets_depends_neither_on_threads_nor_on_other_pictures() {
    let weights = Weights::new([32, 48, 32]);
    let fused = FusedConv::with(&weights.layers(false, true, true), Arch::new()).unwrap();
    let xs = random(&[3, 37, 41, 32]);
    let values = values(&xs).unwrap();
    let run = |xs: &[f32], n: usize, threads: usize| {
        let (mut inside, mut xs, mut out) = (xs.to_vec(), xs.to_vec(), vec![0.0; xs.len()]);
        fused.run(&mut inside, (n, 37, 41), None, threads);
        fused.run(&mut xs, (n, 37, 41), Some(&mut out), threads);
        (inside, out)
    };
    let all = run(&values, 3, 1);
    assert!(all.0 != all.1, "the input is added to what is in its place alone");
    for threads in [2, 3, 7, 100] {
        assert!(run(&values, 3, threads) == all, "{threads} threads");
    }
    let picture = 37 * 41 * 32;
    let alone = run(&values[picture..2 * picture], 1, 1);
    assert!(alone.0 == all.0[picture..2 * picture] && alone.1 == all.1[picture..2 * picture]);
}

#[test]
fn every_set_of_instructions_gives_the_same_picture() {
    let weights = Weights::new([32, 48, 32]);
    let layers = weights.layers(false, true, true);
    let xs = random(&[1, 32, 19, 30]);
    let right = reference(&layers, &xs);
    for arch in instructions() {
        let fused = FusedConv::with(&layers, arch).unwrap();
        let off = error(&fused.forward(xs.copy()).unwrap(), &right);
        assert!(off < 2e-4, "{arch:?}: {off}");
    }
}

/// All that this processor has.
fn instructions() -> Vec<Arch> {
    let mut all = vec![Arch::Scalar, Arch::new()];
    #[cfg(target_arch = "x86_64")]
    all.extend(pulp::x86::V3::try_new().map(Arch::V3));
    all
}

#[test]
fn other_channels_and_kinds_are_left_to_libtorch() {
    for channels in [[15, 16, 16], [16, 24, 16], [16, 16, 8]] {
        let weights = Weights::new(channels);
        assert!(FusedConv::new(&weights.layers(false, true, false)).unwrap().is_none());
    }
    // Nothing to add to.
    for (channels, product) in [([16, 16, 32], true), ([16, 16, 16], false)] {
        let weights = Weights::new(channels);
        assert!(FusedConv::new(&weights.layers(false, product, true)).unwrap().is_none());
    }
    let weights = Weights::new([16, 16, 16]);
    let mut layers = weights.layers(false, true, false);
    let half = weights.conv.0.to_kind(Kind::BFloat16);
    layers.conv.0 = &half;
    assert!(FusedConv::new(&layers).unwrap().is_none());
}

#[test]
fn features_of_other_layers_are_an_error() {
    let weights = Weights::new([16, 16, 16]);
    let fused = FusedConv::with(&weights.layers(false, true, true), Arch::new()).unwrap();
    assert!(fused.forward(random(&[1, 32, 4, 4])).is_err());
    assert!(fused.forward(random(&[1, 16, 4, 4]).to_kind(Kind::BFloat16)).is_err());
    assert_eq!(fused.forward(random(&[0, 16, 4, 4])).unwrap().size(), [0, 16, 4, 4]);
}

/// Blocks in time by the sums that define them.
fn temporal_reference(layers: &TemporalLayers, xs: &Tensor) -> Tensor {
    let norm = normal(layers.norm, xs);
    let first = norm.narrow(0, 0, 1);
    let all = Tensor::cat(&[&first, &first, &norm], 0);
    let t = xs.size()[0];
    let joined = Tensor::cat(&[0, 1, 2].map(|i| all.narrow(0, i, t)), 1);
    let ys = joined.conv2d(layers.conv.0, Some(layers.conv.1), [1, 1], [0, 0], [1, 1], 1);
    xs + ys
        .silu()
        .conv2d(layers.product.0, Some(layers.product.1), [1, 1], [0, 0], [1, 1], 1)
}

#[test]
fn fused_layers_in_time_give_what_libtorch_gives_in_one_step_or_in_several() {
    for (c, hidden, h, w) in [(16, 16, 1, 1), (96, 48, 9, 14), (160, 144, 20, 30), (256, 128, 5, 6)] {
        let norm = (random(&[c]), random(&[c]));
        let conv = (
            random(&[hidden, 3 * c, 1, 1]) / (3.0 * c as f64).sqrt(),
            random(&[hidden]),
        );
        let product = (random(&[c, hidden, 1, 1]) / (hidden as f64).sqrt(), random(&[c]));
        let layers = TemporalLayers {
            norm: (&norm.0, &norm.1),
            conv: (&conv.0, &conv.1),
            product: (&product.0, &product.1),
        };
        // Two streams of seven time steps.
        let clips = [random(&[7, c, h, w]), random(&[7, c, h, w])];
        let right = clips.each_ref().map(|xs| temporal_reference(&layers, xs));
        for arch in instructions() {
            let fused = FusedTemporal::with(&layers, arch).unwrap();
            for plan in [&[7][..], &[1, 2, 4], &[2, 1, 1, 3]] {
                let (mut pending, mut at) = (None, 0);
                for &t in plan {
                    let part = |clip: &Tensor| clip.narrow(0, at, t);
                    let xs = Tensor::cat(&clips.each_ref().map(part), 0);
                    let (ys, later) = fused.forward(xs, 2, pending).unwrap();
                    let off = error(&ys, &Tensor::cat(&right.each_ref().map(part), 0));
                    assert!(off < 2e-4, "{arch:?}: {c}, {hidden} channels, {plan:?} at {at}: {off}");
                    pending = Some(later);
                    at += t;
                }
            }
        }
    }
}

#[test]
fn what_a_position_gets_in_time_does_not_depend_on_threads() {
    let weights = Weights::new([32, 48, 32]);
    let conv = random(&[48, 96, 1, 1]);
    let layers = TemporalLayers {
        norm: (&weights.norm.0, &weights.norm.1),
        conv: (&conv, &weights.conv.1),
        product: (&weights.product.0, &weights.product.1),
    };
    let fused = FusedTemporal::with(&layers, Arch::new()).unwrap();
    let (n, t, positions) = (2, 3, 37 * 41);
    let xs = values(&random(&[(n * t * positions) as i64, 32])).unwrap();
    let run = |threads: usize| {
        let (mut xs, mut pending) = (xs.clone(), vec![0.0; n * positions * 96]);
        fused.run((&mut xs, &mut pending), true, (n, t, positions), threads);
        (xs, pending)
    };
    let one = run(1);
    for threads in [2, 3, 50] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn a_finer_resolution_has_each_value_in_its_place() {
    for (c, width, time, space, h, w) in [
        (16, 16, 1, 1, 3, 2),
        (32, 48, 2, 2, 5, 7),
        (64, 16, 2, 1, 30, 40),
        (16, 32, 1, 2, 1, 1),
    ] {
        let wide = time * space * space * width;
        let conv = (random(&[wide, c, 1, 1]), random(&[wide]));
        let layers = UpsampleLayers {
            conv: (&conv.0, &conv.1),
            time,
            space,
            width,
        };
        for (n, t, dropped) in [(1, 1, time - 1), (1, 2, 0), (2, 3, time - 1)] {
            let xs = random(&[n * t, c, h, w]);
            let ys = xs.conv2d(&conv.0, Some(&conv.1), [1, 1], [0, 0], [1, 1], 1);
            let ys = ys.reshape([n, t, time, space, space, width, h, w]);
            let ys = ys.permute([0, 1, 2, 5, 6, 3, 7, 4]);
            let ys = ys.reshape([n, t * time, width, h * space, w * space]);
            let right = ys.narrow(1, dropped, t * time - dropped).flatten(0, 1);
            for arch in instructions() {
                let fused = FusedUpsample::with(&layers, arch).unwrap();
                let off = error(&fused.forward(&xs, n, dropped).unwrap(), &right);
                assert!(off < 1e-3, "{arch:?}: {c} channels, {n} streams of {t}: {off}");
            }
        }
    }
}

#[test]
fn a_finer_resolution_does_not_depend_on_threads() {
    let conv = (random(&[8 * 16, 32, 1, 1]), random(&[8 * 16]));
    let layers = UpsampleLayers {
        conv: (&conv.0, &conv.1),
        time: 2,
        space: 2,
        width: 16,
    };
    let fused = FusedUpsample::with(&layers, Arch::new()).unwrap();
    let xs = values(&random(&[3 * 7 * 5, 32])).unwrap();
    let run = |threads: usize| {
        let mut out = vec![0.0; (3 * 2 - 1) * 14 * 10 * 16];
        fused.run(&xs, [1, 3, 7, 5, 1], &mut out, threads);
        out
    };
    let one = run(1);
    for threads in [2, 3, 100] {
        assert!(run(threads) == one, "{threads} threads");
    }
}
