// SPDX-License-Identifier: MPL-2.0
//! The trainer from clips to a model file that codes, as a user runs it.
#![cfg(feature = "train")]

mod common;

use std::path::Path;

use common::tool;
use common::trainer::{train, write_clip};
use gsttvc::codec::{Decoder, Encoder, EncoderSettings, Frame};
use gsttvc::media::Clip;
use gsttvc::model::{Model, ModelError, ModelSource, TensorFile};

#[test]
fn stages_make_a_model_that_codes_and_later_runs_resume() {
    let folder = tempfile::tempdir().unwrap();
    write_clip(&folder.path().join("clip.y4m"), 30);
    let common = "--checkpoint run.ckpt --clips clip.y4m --validation clip.y4m --device cpu";
    let short = "--steps 2 --batch 2 --frames 9 --size 64";
    let first = train(folder.path(), &format!("tokenizer {common} {short}"));
    assert!(!first.contains("0 tensors start anew"), "{first}");
    let second = train(
        folder.path(),
        &format!("tokenizer {common} {short} --adversarial-weight 0.1 --adversarial-from 0"),
    );
    assert!(
        !second.contains("start anew"),
        "everything was in the checkpoint: {second}"
    );
    let third = train(folder.path(), &format!("fusion {common} {short}"));
    assert!(third.contains("start anew"), "the continuous stream is new: {third}");
    let fourth = train(folder.path(), &format!("fusion {common} {short} --freeze-tokenizer"));
    assert!(!fourth.contains("start anew"), "{fourth}");
    train(folder.path(), &format!("context {common} --steps 3 --batch 1"));
    train(folder.path(), &format!("predictor {common} --steps 3 --batch 2"));
    train(
        folder.path(),
        "export --checkpoint run.ckpt --out model.safetensors --card data=test",
    );

    let source = ModelSource::File(folder.path().join("model.safetensors"));
    let model = Model::load(&source, "cpu").unwrap();
    let card = |key: &str| model.card().iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    assert_eq!(card("data"), Some("test"));
    assert!(
        card("training.tokenizer").unwrap().starts_with("8 steps"),
        "{:?}",
        model.card()
    );
    assert!(model.latent_context().is_some() && model.has_predictor());
    let sequence = gsttvc::bitstream::SequenceHeader::new(32, 32, (25, 1));
    let frame = Frame {
        width: 32,
        height: 32,
        planes: [vec![90; 1024], vec![128; 256], vec![128; 256]],
        pts: None,
    };
    let mut encoder = Encoder::new(model.clone(), sequence, EncoderSettings::default()).unwrap();
    let unit = encoder.push(frame, false).unwrap().remove(0);
    assert_eq!(Decoder::new(model).decode(&unit.bytes).unwrap().frames.len(), 1);
}

#[test]
fn compare_measures_every_clip_and_refuses_one_of_another_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_clip(&path("clip.y4m"), 5);
    write_clip(&path("short.y4m"), 4);
    std::fs::write(path("a.tvc"), [0; 1000]).unwrap();
    std::fs::write(path("b.hevc"), [0; 250]).unwrap();
    let compare = |arguments: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tvc-model"));
        command.current_dir(folder.path()).arg("compare");
        command.args(arguments.split_whitespace()).output().unwrap()
    };
    let output = compare("clip.y4m --coded a.tvc clip.y4m --coded b.hevc clip.y4m --png rows.png");
    let text = String::from_utf8(output.stdout).unwrap();
    let row = |name: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().map(String::from).collect()
    };
    // 5 frames of 96x80 at 25 frames/s: 8000 bits in 0.2 s.
    assert_eq!(row("a.tvc")[1..4], ["1000", "40.00", "0.20833"], "{text}");
    assert_eq!(row("b.hevc")[1..4], ["250", "10.00", "0.05208"], "{text}");
    assert_eq!(
        row("b.hevc")[6..],
        ["1.000", "-", "0.00", "88.13", "dB", "100.00"],
        "{text}"
    );
    let png = std::fs::read(path("rows.png")).unwrap();
    // Three rows of 80 lines and gaps of 4, in the header.
    assert_eq!(png[20..24], (3 * 84u32).to_be_bytes());
    let output = compare("clip.y4m --coded a.tvc short.y4m");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && text.contains("short.y4m") && text.contains("[4, 80, 96]"),
        "{text}"
    );
}

#[test]
fn clips_of_every_width_are_read_through_gstreamer() {
    let scratch = tempfile::tempdir().unwrap();
    // 454x256 is 16:9 in a height of 256.
    for (width, height, frames) in [(64, 48, 2), (454, 256, 2), (54, 38, 1), (33, 25, 3)] {
        let (tight, muxed) = (scratch.path().join("clip.y4m"), scratch.path().join("clip.mkv"));
        let mut bytes = format!("YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420\n").into_bytes();
        for t in 0..frames {
            bytes.extend_from_slice(b"FRAME\n");
            for (w, h) in [
                (width, height),
                ((width + 1) / 2, (height + 1) / 2),
                ((width + 1) / 2, (height + 1) / 2),
            ] {
                bytes.extend((0..w * h).map(|at| 16 + ((at % w) * 3 + (at / w) * 5 + t * 7) as u8 % 200));
            }
        }
        std::fs::write(&tight, bytes).unwrap();
        let pipeline = format!(
            "-q filesrc location={} ! y4mdec ! videoconvert ! video/x-raw,format=I420 ! matroskamux ! filesink location={}",
            tight.display(),
            muxed.display()
        );
        let launched = tool("gst-launch-1.0", scratch.path())
            .args(pipeline.split(' '))
            .status()
            .unwrap();
        assert!(launched.success());
        let (expected, found) = (Clip::read(&tight).unwrap(), Clip::read(&muxed).unwrap());
        assert_eq!(found.frames(), frames as i64, "{width}x{height}");
        assert_eq!(found.luma, expected.luma, "{width}x{height}");
        assert_eq!(found.chroma, expected.chroma, "{width}x{height}");
    }
}

#[test]
fn a_new_checkpoint_can_start_from_a_model_file() {
    let folder = tempfile::tempdir().unwrap();
    write_clip(&folder.path().join("clip.y4m"), 10);
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tvc-small.safetensors");
    let common = "--clips clip.y4m --validation clip.y4m --device cpu --steps 1 --batch 2 --frames 9 --size 64 --lr 0";
    let trained = train(
        folder.path(),
        &format!("tokenizer {common} --checkpoint a.ckpt --model {model}"),
    );
    assert!(!trained.contains("start anew"), "{trained}");
    let checkpoint = TensorFile::read(&folder.path().join("a.ckpt")).unwrap();
    let name = "tokenizer.decoder.conv_out.weight";
    let started = &checkpoint.tensors[&format!("tokenizer/weight.{name}")];
    let mut original = TensorFile::read(Path::new(model)).unwrap().tensors;
    gsttvc::model::dequantize(&mut original).unwrap();
    assert_eq!(*started, original[name], "with a learning rate of 0 the weights stay");
}

#[test]
fn a_frozen_encoder_stays_and_the_decoder_learns() {
    frozen_encoder_stays("--discrete-share 0");
}

#[test]
fn a_decoder_learns_from_what_is_sent() {
    frozen_encoder_stays("--sent-share 1");
}

#[test]
fn what_is_sent_needs_a_frozen_encoder_and_its_model() {
    let folder = tempfile::tempdir().unwrap();
    write_clip(&folder.path().join("clip.y4m"), 10);
    let refused = |options: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tvc-train"));
        command.current_dir(folder.path());
        let common = "fusion --clips clip.y4m --device cpu --steps 1 --checkpoint a.ckpt --sent-share 1";
        let output = command
            .args(common.split(' ').chain(options.split_whitespace()))
            .output();
        let output = output.unwrap();
        assert!(!output.status.success(), "{options}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused("").contains("--sent-share needs --freeze-encoder"));
    assert!(refused("--freeze-encoder").contains("--sent-share needs --model"));
}

fn frozen_encoder_stays(options: &str) {
    let folder = tempfile::tempdir().unwrap();
    write_clip(&folder.path().join("clip.y4m"), 10);
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tvc-small.safetensors");
    let common =
        "--clips clip.y4m --validation clip.y4m --device cpu --steps 1 --batch 2 --frames 9 --size 64 --lr 1e-2";
    train(
        folder.path(),
        &format!("fusion {common} --checkpoint a.ckpt --model {model} --freeze-encoder {options}"),
    );
    let checkpoint = TensorFile::read(&folder.path().join("a.ckpt")).unwrap();
    let mut original = TensorFile::read(Path::new(model)).unwrap().tensors;
    gsttvc::model::dequantize(&mut original).unwrap();
    let stays = |name: &str| {
        let part = |kind: &str| checkpoint.tensors[&format!("tokenizer/{kind}.{name}")] == original[name];
        assert_eq!(part("weight"), part("average"), "{name}");
        part("weight")
    };
    assert!(stays("tokenizer.encoder.conv_in.weight") && stays("fusion.encoder.conv_out.weight"));
    assert!(!stays("tokenizer.decoder.conv_out.weight") && !stays("fusion.control.conv_in.weight"));
    // Streams stay what they are: the context models of the model fit, and its identity stays.
    train(
        folder.path(),
        &format!("export --checkpoint a.ckpt --out new.safetensors --model {model}"),
    );
    let load = |source| Model::load(&source, "cpu").unwrap().id();
    let new = ModelSource::File(folder.path().join("new.safetensors"));
    assert_eq!(load(new), load(ModelSource::Embedded));
    let card = |file: &Path| TensorFile::read(file).unwrap().metadata["card.training.tokenizer"].clone();
    let steps = |line: String| -> u32 { line.split(' ').next().unwrap().parse().unwrap() };
    let new = card(&folder.path().join("new.safetensors"));
    assert_eq!(
        steps(new),
        steps(card(Path::new(model))) + 1,
        "totals go on from the model's"
    );
}

/// The built-in model's file after `change`.
fn changed_model(change: impl Fn(&mut TensorFile)) -> ModelError {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut file = TensorFile::read(Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/models/tvc-small.safetensors"
    )))
    .unwrap();
    change(&mut file);
    file.write(&path).unwrap();
    Model::load(&ModelSource::File(path), "cpu").unwrap_err()
}

#[test]
fn a_changed_integer_does_not_pass_for_the_same_model() {
    let error = changed_model(|file| {
        let bias = file.tensors.get_mut("context.table_bias").unwrap();
        let _ = bias.get(0).g_add_scalar_(1);
    });
    assert!(matches!(error, ModelError::Checksum { .. }), "{error}");
}

#[test]
fn a_model_of_another_version_is_refused_by_name() {
    let error = changed_model(|file| drop(file.metadata.insert("version".into(), "7".into())));
    assert_eq!(
        error.to_string(),
        "model file of format version 7, this build reads version 5"
    );
}

#[test]
fn a_model_that_lacks_a_tensor_says_which() {
    let error = changed_model(|file| drop(file.tensors.remove("tokenizer.decoder.conv_out.bias")));
    assert!(
        error.to_string().contains("tokenizer.decoder.conv_out.bias is missing"),
        "{error}"
    );
}

#[test]
fn a_configuration_out_of_range_is_refused() {
    let error = changed_model(|file| {
        let config = file.metadata["config"].replace("\"width\":256", "\"width\":99999999");
        file.metadata.insert("config".into(), config);
    });
    assert!(matches!(error, ModelError::Config(_)), "{error}");
}

#[test]
fn the_context_stage_goes_on_from_the_integers_of_a_model() {
    let folder = tempfile::tempdir().unwrap();
    write_clip(&folder.path().join("clip.y4m"), 30);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tvc-small.safetensors");
    let common = "--checkpoint run.ckpt --clips clip.y4m --validation clip.y4m --device cpu --batch 1";
    let start = format!("--model {} --steps 1 --lr 0", path.display());
    train(folder.path(), &format!("context {common} {start}"));
    train(folder.path(), "export --checkpoint run.ckpt --out model.safetensors");
    let [before, after] = [path, folder.path().join("model.safetensors")].map(|path| TensorFile::read(&path).unwrap());
    for name in [
        "context.tables",
        "context.trunk.weights",
        "latent_context.earlier.weights",
    ] {
        assert_eq!(after.tensors[name], before.tensors[name], "{name}");
    }
}
