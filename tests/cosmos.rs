// SPDX-License-Identifier: MPL-2.0
//! Cosmos networks with numbers for weights that no library makes up: parity, streaming, whole models.
#![cfg(feature = "train")]

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::*;
use gsttvc::bitstream::SequenceHeader;
use gsttvc::codec::{Decoder, Encoder, EncoderSettings, Frame};
use gsttvc::eval::Parity;
use gsttvc::model::cosmos::{assemble, import, Autoencoder, CosmosConfig, Imported};
use gsttvc::model::fsq::Fsq;
use gsttvc::model::{ContinuousConfig, Fusion, Model, ModelError, StreamState, TensorFile, Tokenizer, TokenizerConfig};
use tch::{nn, Device, Kind, Tensor};

/// Every published kind: discrete or continuous, frames and samples per latent.
const KINDS: [(bool, i64, i64); 6] = [
    (true, 4, 8),
    (true, 8, 8),
    (true, 8, 16),
    (false, 4, 8),
    (false, 8, 8),
    (false, 8, 16),
];
const DIGITS: i64 = 6;
const LATENT_CHANNELS: i64 = 16;

/// Numbers in [-1, 1) that are the same everywhere, by a linear congruential generator.
fn numbers(seed: u64, shape: &[i64]) -> Tensor {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product::<i64>()).map(|_| next()).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Moves every variable of a store to a number of its own; biases and norms, too.
fn renumber(variables: HashMap<String, Tensor>) {
    let mut names: Vec<_> = variables.keys().collect();
    names.sort();
    for (seed, name) in names.into_iter().enumerate() {
        let mut variable = variables[name].shallow_clone();
        let size = variable.size();
        let fan_in: i64 = size[1..].iter().product();
        let scale = if size.len() == 1 {
            0.2
        } else {
            1.4 / (fan_in as f64).sqrt()
        };
        let offset = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        tch::no_grad(|| variable.copy_(&(numbers(seed as u64, &size) * scale + offset)));
    }
}

/// The weights of a kind, under NVIDIA's names.
fn weights(discrete: bool, temporal: i64, spatial: i64, channels: i64) -> HashMap<String, Tensor> {
    let config = CosmosConfig::new(channels, temporal, spatial, !discrete);
    let vs = nn::VarStore::new(Device::Cpu);
    let embedding = if discrete { DIGITS } else { LATENT_CHANNELS };
    let _networks = (
        gsttvc::model::cosmos::Encoder::new(vs.root(), &config, embedding),
        gsttvc::model::cosmos::Decoder::new(vs.root(), &config, embedding),
    );
    renumber(vs.variables());
    vs.variables()
}

/// A vector file as NVIDIA's code would leave it, from our networks, changed by `change`.
fn vectors(folder: &Path, kind: (bool, i64, i64), change: impl Fn(&mut TensorFile)) -> PathBuf {
    let _no_grad = tch::no_grad_guard();
    let (discrete, temporal, spatial) = kind;
    let weights = weights(discrete, temporal, spatial, 2);
    let networks = Autoencoder::new(&weights, (temporal, spatial), 9, Device::Cpu).unwrap();
    let input = numbers(77, &[1, 3, 9, 32, 48]);
    let encoded = networks.encode(&input).unwrap();
    let batch = |t: &Tensor| t.transpose(0, 1).unsqueeze(0).contiguous();
    let mut file = TensorFile::default();
    let codes = if discrete {
        let digits = Fsq::cosmos().digits(&encoded).unwrap();
        let indices = Fsq::cosmos().indices(&digits).unwrap().to_kind(Kind::Int);
        file.tensors.insert("indices".into(), indices.unsqueeze(0));
        file.tensors.insert("prequant".into(), batch(&encoded));
        Fsq::cosmos().codes(&digits).unwrap()
    } else {
        file.tensors.insert("latent".into(), batch(&encoded));
        encoded
    };
    file.tensors.insert("codes".into(), batch(&codes));
    file.tensors
        .insert("reconstruction".into(), networks.decode(&codes).unwrap());
    file.tensors.insert("input".into(), input);
    for (name, tensor) in weights {
        file.tensors.insert(format!("weights.{name}"), tensor);
    }
    for (key, value) in [
        ("kind", if discrete { "DV" } else { "CV" }.to_string()),
        ("temporal_compression", temporal.to_string()),
        ("spatial_compression", spatial.to_string()),
    ] {
        file.metadata.insert(key.into(), value);
    }
    change(&mut file);
    let path = folder.join("vectors.safetensors");
    file.write(&path).unwrap();
    path
}

fn parity(path: &Path) -> anyhow::Result<Parity> {
    Parity::of(path, Device::Cpu, Kind::Float)
}

#[test]
fn vectors_of_every_kind_agree_with_themselves() {
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let parity = parity(&vectors(folder.path(), kind, |_| ())).unwrap();
        assert!(parity.holds(1e-6), "{kind:?}: {parity:?}");
        assert_eq!(parity.tokens.is_some(), kind.0);
    }
}

/// Numbers that these networks gave when they agreed with NVIDIA's code on vectors of it (relative error below 1e-6).
#[test]
fn the_networks_give_what_they_gave_when_they_agreed_with_nvidias_code() {
    let _no_grad = tch::no_grad_guard();
    for (kind, golden) in KINDS.into_iter().zip(GOLDEN) {
        let (discrete, temporal, spatial) = kind;
        let weights = weights(discrete, temporal, spatial, 2);
        let networks = Autoencoder::new(&weights, (temporal, spatial), 9, Device::Cpu).unwrap();
        let encoded = networks.encode(&numbers(77, &[1, 3, 9, 32, 48])).unwrap();
        let decoded = networks.decode(&encoded).unwrap();
        let at = |t: &Tensor, share: f64| {
            let flat = t.contiguous().view([-1]);
            flat.double_value(&[(flat.numel() as f64 * share) as i64])
        };
        let found = [
            at(&encoded, 0.1),
            at(&encoded, 0.9),
            at(&decoded, 0.3),
            at(&decoded, 0.8),
        ];
        let error = found.iter().zip(golden).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(error < 2e-4, "{kind:?} gives {found:?}, expected {golden:?}");
    }
}

const GOLDEN: [[f64; 4]; 6] = [
    [-0.29260, -0.20023, -1.05424, -3.00099],
    [-0.41701, -0.13707, 4.62259, 0.22377],
    [-0.33612, -0.16585, -2.03770, -6.20390],
    [0.18064, 0.01121, -0.07477, 0.38875],
    [-0.18439, -0.18956, 3.34560, -0.50922],
    [0.25947, -0.14265, -1.80082, -6.11425],
];

#[test]
fn a_changed_weight_is_told_from_nvidias() {
    let folder = tempfile::tempdir().unwrap();
    let path = vectors(folder.path(), (true, 8, 16), |file| {
        let weight = &file.tensors["weights.decoder.up.1.upsample.conv1.conv3d.weight"];
        let _ = weight.shallow_clone().g_mul_scalar_(1.05);
    });
    let parity = parity(&path).unwrap();
    assert!(!parity.holds(1e-4), "{parity:?}");
    assert!(parity.prequant.unwrap() < 1e-6, "the encoder is as it was: {parity:?}");
}

#[test]
fn a_token_that_differs_needs_an_excuse() {
    let folder = tempfile::tempdir().unwrap();
    let path = vectors(folder.path(), (true, 8, 8), |file| {
        let _ = file.tensors["indices"].flatten(0, -1).get(3).g_add_scalar_(1);
    });
    let tokens = parity(&path).unwrap().tokens.unwrap();
    assert_eq!((tokens.differing, tokens.excused), (1, 0));
}

#[test]
fn every_name_that_does_not_fit_is_in_one_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = vectors(folder.path(), (false, 8, 16), |file| {
        file.tensors.remove("weights.encoder.mid.attn_1.1.q.conv3d.bias");
        file.tensors.insert(
            "weights.decoder.extra".into(),
            Tensor::zeros([3], (Kind::Float, Device::Cpu)),
        );
        file.tensors.insert(
            "weights.quant_conv.conv3d.bias".into(),
            Tensor::zeros([3], (Kind::Float, Device::Cpu)),
        );
    });
    let error = format!("{:#}", parity(&path).unwrap_err());
    for part in [
        "encoder.mid.attn_1.1.q.conv3d.bias is missing",
        "decoder.extra is unknown",
        "quant_conv.conv3d.bias is [3], expected [16]",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_folder_without_a_checkpoint_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = import(folder.path(), None, 49).unwrap_err();
    assert!(
        error.to_string().contains("encoder.jit: there is no such file"),
        "{error}"
    );
    std::fs::write(folder.path().join("encoder.jit"), b"no archive").unwrap();
    let error = import(folder.path(), None, 49).unwrap_err();
    assert!(matches!(error, ModelError::Checkpoint { .. }), "{error}");
}

/// Tokens, latents, what the control branch adds, and pictures of a clip that comes in pieces.
fn stream(tokenizer: &Tokenizer, fusion: &Fusion, xs: &Tensor, plan: &[i64]) -> [Tensor; 4] {
    let mut states: [StreamState; 4] = Default::default();
    let [encoder, continuous, control, decoder] = &mut states;
    let mut parts: [Vec<Tensor>; 4] = Default::default();
    let mut at = 0;
    for &frames in plan {
        let piece = xs.narrow(1, at, frames);
        let (zs, features) = tokenizer.encode_with_features(&piece, Kind::Float, encoder).unwrap();
        let latents = fusion.encode(&features, 1, continuous).unwrap();
        let codes = tokenizer.fsq.codes(&tokenizer.fsq.digits(&zs).unwrap()).unwrap();
        let joined = fusion.control(&codes, &latents, 1, Kind::Float, control).unwrap();
        let pictures = tokenizer
            .decode_controlled(&codes, &joined, 1, Kind::Float, decoder)
            .unwrap();
        let results = [zs, latents, joined[0].shallow_clone(), pictures.squeeze_dim(0)];
        parts
            .iter_mut()
            .zip(results)
            .for_each(|(part, result)| part.push(result));
        at += frames;
    }
    parts.map(|part| Tensor::cat(&part, 0))
}

#[test]
fn chunk_plans_give_what_one_pass_gives() {
    let _no_grad = tch::no_grad_guard();
    for (temporal, spatial) in [(4, 8), (8, 8), (8, 16)] {
        let vs = nn::VarStore::new(Device::Cpu);
        let config = TokenizerConfig::cosmos(CosmosConfig::new(2, temporal, spatial, false));
        let continuous = ContinuousConfig::cosmos(CosmosConfig::new(2, temporal, spatial, true), LATENT_CHANNELS);
        let tokenizer = Tokenizer::new(vs.root() / "tokenizer", &config);
        let fusion = Fusion::new(vs.root() / "fusion", &continuous, &config);
        renumber(vs.variables());
        let (k, frames) = (temporal, 1 + 4 * temporal);
        let xs = numbers(5, &[1, frames, 3, 32, 48]);
        let whole = stream(&tokenizer, &fusion, &xs, &[frames]);
        assert_eq!(whole[0].size(), [5, DIGITS, 32 / spatial, 48 / spatial]);
        assert_eq!(whole[3].size(), [frames, 3, 32, 48]);
        for plan in [&[1, k, k, k, k][..], &[1, 2 * k, 2 * k], &[1 + k, 3 * k]] {
            let parts = stream(&tokenizer, &fusion, &xs, plan);
            for (what, (part, whole)) in ["tokens", "latents", "control", "pictures"]
                .iter()
                .zip(parts.iter().zip(&whole))
            {
                let error = f64::try_from((part - whole).abs().max()).unwrap();
                assert!(
                    error < 2e-4,
                    "{what} of plan {plan:?} at {temporal}x{spatial} differ by {error}"
                );
            }
        }
    }
}

/// A model of two tokenizers, and the file that it is in.
fn model(folder: &Path, temporal: i64, spatial: i64, trained_frames: i64) -> (Arc<Model>, PathBuf) {
    let part = |discrete: bool| Imported {
        config: CosmosConfig {
            trained_frames,
            ..CosmosConfig::new(2, temporal, spatial, !discrete)
        },
        embedding: if discrete { DIGITS } else { LATENT_CHANNELS },
        tensors: weights(discrete, temporal, spatial, 2),
        kind: Kind::BFloat16,
        note: "a test".into(),
    };
    let path = folder.join("cosmos.safetensors");
    assemble(&part(true), Some(&part(false))).unwrap().write(&path).unwrap();
    let file = TensorFile::read(&path).unwrap();
    let bytes = file.to_bytes().unwrap();
    (Arc::new(Model::from_bytes(&bytes, Device::Cpu).unwrap()), path)
}

fn sequence() -> SequenceHeader {
    SequenceHeader::new(50, 36, (25, 1))
}

fn frame(t: usize) -> Frame {
    let plane = |number: usize| {
        let (w, h) = Frame::plane_size(50, 36, number);
        (0..w * h).map(|i| ((i % w + t) * 7 % 200 + number) as u8).collect()
    };
    Frame {
        width: 50,
        height: 36,
        planes: [plane(0), plane(1), plane(2)],
        pts: Some(t as u64 * 40_000_000),
    }
}

#[test]
fn an_imported_model_works_from_end_to_end_before_anything_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    for (temporal, spatial) in [(4, 8), (8, 16)] {
        let (model, _) = model(folder.path(), temporal, spatial, 17);
        assert!(
            model.latent_context().is_none(),
            "latents are not sent before the fusion is trained"
        );
        let mut encoder = Encoder::new(model.clone(), sequence(), EncoderSettings::default()).unwrap();
        let mut units = Vec::new();
        for t in 0..40 {
            units.extend(encoder.push(frame(t), false).unwrap());
        }
        units.extend(encoder.drain().unwrap());
        assert!(units.iter().all(|unit| unit.frames <= temporal as usize));
        let keys = units.iter().filter(|unit| unit.is_key).count();
        assert_eq!(
            keys, 3,
            "40 frames in stretches of at most the 17 that the networks know"
        );
        let mut decoder = Decoder::new(model);
        let frames: Vec<Frame> = units
            .iter()
            .flat_map(|unit| decoder.decode(&unit.bytes).unwrap().frames)
            .collect();
        let times: Vec<_> = frames.iter().map(|f| f.pts.unwrap() / 40_000_000).collect();
        assert_eq!(times, (0..40).collect::<Vec<u64>>());
        assert!(frames.iter().all(|f| (f.width, f.height) == (50, 36)));
    }
}

#[test]
fn a_still_picture_costs_little_even_untrained() {
    let folder = tempfile::tempdir().unwrap();
    let (model, _) = model(folder.path(), 8, 8, 49);
    let mut encoder = Encoder::new(model, sequence(), EncoderSettings::default()).unwrap();
    let still = |t: u64| Frame {
        pts: Some(t * 40_000_000),
        ..frame(0)
    };
    let units: Vec<_> = (0..41).flat_map(|t| encoder.push(still(t), false).unwrap()).collect();
    let (key, last) = (units[0].bytes.len(), units[5].bytes.len());
    assert!(last * 2 < key, "a key unit of {key} bytes, a delta unit of {last}");
}

#[test]
fn models_of_the_same_shape_and_different_weights_have_different_identities() {
    let part = |checkpoint: &str| Imported {
        config: CosmosConfig {
            checkpoint: checkpoint.into(),
            ..CosmosConfig::new(2, 8, 16, false)
        },
        embedding: DIGITS,
        tensors: weights(true, 8, 16, 2),
        kind: Kind::BFloat16,
        note: String::new(),
    };
    let id = |checkpoint| assemble(&part(checkpoint), None).unwrap().metadata["integer-hash"].clone();
    assert_eq!(id("a"), id("a"));
    assert_ne!(id("a"), id("b"));
}

#[test]
fn tokenizers_of_different_factors_do_not_go_together() {
    let part = |discrete: bool, spatial| Imported {
        config: CosmosConfig::new(2, 8, spatial, !discrete),
        embedding: if discrete { DIGITS } else { LATENT_CHANNELS },
        tensors: weights(discrete, 8, spatial, 2),
        kind: Kind::BFloat16,
        note: String::new(),
    };
    let error = assemble(&part(true, 16), Some(&part(false, 8))).unwrap_err();
    assert!(error.to_string().contains("factors are (8, 8)"), "{error}");
}

#[test]
fn a_pipeline_runs_with_an_imported_model() {
    let folder = tempfile::tempdir().unwrap();
    let (_, path) = model(folder.path(), 8, 16, 17);
    let raw = folder.path().join("raw");
    let description = format!(
        "-q videotestsrc num-buffers=20 ! video/x-raw,format=RGB,width=64,height=48,framerate=25/1 ! tvcenc model-file={m} \
         ! tvcparse ! tvcdec model-file={m} ! video/x-raw,format=I420 ! filesink location={r}",
        m = path.display(),
        r = raw.display()
    );
    let output = tool("gst-launch-1.0", folder.path())
        .args(description.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::metadata(raw).unwrap().len() / (64 * 48 * 3 / 2), 20);
}

#[cfg(feature = "train")]
#[test]
fn the_heads_of_an_imported_model_are_trained_with_the_tokenizers_frozen() {
    let folder = tempfile::tempdir().unwrap();
    let (_, path) = model(folder.path(), 8, 16, 17);
    common::trainer::write_clip(&folder.path().join("clip.y4m"), 30);
    let common = "--clips clip.y4m --validation clip.y4m --device cpu --batch 2";
    let run = |checkpoint: &str, stage: &str| {
        let start = format!("--checkpoint {checkpoint} --model {}", path.display());
        common::trainer::train(folder.path(), &format!("{stage} {common} {start}"))
    };
    let export = |checkpoint: &str| -> (TensorFile, Model) {
        let arguments = format!("export --checkpoint {checkpoint} --out out.safetensors");
        common::trainer::train(folder.path(), &arguments);
        let file = TensorFile::read(&folder.path().join("out.safetensors")).unwrap();
        let model = Model::from_bytes(&file.to_bytes().unwrap(), Device::Cpu).unwrap();
        (file, model)
    };
    run("tokens.ckpt", "context --steps 2");
    let (_, model) = export("tokens.ckpt");
    assert!(
        model.latent_context().is_none(),
        "the control branch has learned nothing yet"
    );

    run("all.ckpt", "fusion --steps 2 --frames 9 --size 64 --freeze-tokenizer");
    run("all.ckpt", "context --steps 2");
    run("all.ckpt", "predictor --steps 2");
    let (file, model) = export("all.ckpt");
    assert!(model.latent_context().is_some() && model.has_predictor());
    let imported = TensorFile::read(&path).unwrap();
    for frozen in [
        "tokenizer.decoder.conv_in.0.conv3d.weight",
        "fusion.encoder.mid.block_1.conv1.0.conv3d.weight",
    ] {
        assert_eq!(file.tensors[frozen], imported.tensors[frozen], "{frozen}");
    }
    let mut encoder = Encoder::new(Arc::new(model), sequence(), EncoderSettings::default()).unwrap();
    assert_eq!(encoder.push(frame(0), false).unwrap().len(), 1);
}
