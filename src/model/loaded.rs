// SPDX-License-Identifier: MPL-2.0
//! A model ready to run: networks on a device, the integer context model, and who made it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use sha2::{Digest, Sha256};
use tch::{nn, Device, Kind, Tensor};

use super::config::NetworkConfig;
use super::{context_tensors, quantized, Fusion, ModelConfig, ModelError, Predictor, TensorFile, Tokenizer};
use super::{device, openmp};
use crate::entropy::{ContextModel, ContextModels, ContextWeights, LatentContextModel, LatentWeights};

const FORMAT: &str = "tvc-model";
/// What is written and read.
const VERSION: &str = "5";
/// Metadata keys of the model card start with this.
const CARD: &str = "card.";

static EMBEDDED: &[u8] = include_bytes!("../../models/tvc-small.safetensors");

/// Where a model comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum ModelSource {
    /// The one inside this library.
    #[default]
    Embedded,
    File(PathBuf),
}

/// A whole model. Several users of the same source and device in one process share one.
#[derive(Debug)]
pub struct Model {
    pub(crate) config: ModelConfig,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) context: ContextModel,
    /// None: masked tokens are taken from the unit before.
    pub(crate) predictor: Option<Predictor>,
    /// None: the model has discrete tokens only, or has not learned to use latents yet.
    pub(crate) continuous: Option<Continuous>,
    /// Identity that streams carry.
    pub(crate) id: u64,
    pub(crate) device: Device,
    /// What the networks compute in.
    pub(crate) kind: Kind,
    /// What is known about the making of the model, for people.
    pub(crate) card: Vec<(String, String)>,
    /// Weights of the networks.
    pub(crate) parameters: usize,
    _variables: nn::VarStore,
}

/// The continuous stream's part of a model.
#[derive(Debug)]
pub struct Continuous {
    pub(crate) fusion: Fusion,
    pub(crate) context: LatentContextModel,
}

// SAFETY: the weights are frozen when a model has been built, nobody outside of this crate reaches them, and libtorch counts references
// atomically.
unsafe impl Sync for Model {}

type Cache = Mutex<Vec<(ModelSource, Device, Weak<Model>)>>;
static CACHE: Cache = Mutex::new(Vec::new());

/// The integers that the entropy coder computes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntegerModel {
    pub context: ContextWeights,
    /// None: no latents are sent.
    pub latent_context: Option<LatentWeights>,
}

impl IntegerModel {
    /// The integers of a model file; sizes are checked by the coders that are made of them.
    pub fn read(file: &TensorFile, config: &ModelConfig) -> Result<IntegerModel, ModelError> {
        let has_one = file.tensors.keys().any(|name| name.starts_with("latent_context."));
        let latent_context = match &config.continuous {
            Some(_) if has_one => Some(context_tensors::read_latent(&file.tensors)?),
            _ => None,
        };
        Ok(IntegerModel {
            context: context_tensors::read(&file.tensors)?,
            latent_context,
        })
    }

    fn write(&self, file: &mut TensorFile) -> Result<(), ModelError> {
        for (name, tensor) in context_tensors::write(&self.context)? {
            file.tensors.insert(format!("context.{name}"), tensor);
        }
        if let Some(weights) = &self.latent_context {
            for (name, tensor) in context_tensors::write_latent(weights)? {
                file.tensors.insert(format!("latent_context.{name}"), tensor);
            }
        }
        Ok(())
    }

    /// The first 8 bytes of the SHA-256 of all numbers. Imported networks count, too: until their heads are trained,
    /// all of them have the same numbers.
    pub fn identity(&self, config: &ModelConfig) -> u64 {
        let mut hasher = Sha256::new();
        if let NetworkConfig::Cosmos { cosmos } = &config.tokenizer.networks {
            hasher.update(cosmos.canonical_bytes());
        }
        hasher.update(self.context.bytes());
        if let Some(weights) = &self.latent_context {
            hasher.update(weights.bytes());
        }
        let hash = hasher.finalize();
        u64::from_be_bytes(hash[..8].try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl Model {
    /// Loads a model, or shares the one that is loaded already. `device`: auto, cpu, cuda or cuda:N.
    pub fn load(source: &ModelSource, device: &str) -> Result<Arc<Model>, ModelError> {
        openmp::stop_spinning();
        let device = device::select(device)?;
        let mut cache = CACHE.lock().unwrap_or_else(|e| e.into_inner());
        cache.retain(|(_, _, model)| model.strong_count() > 0);
        let found = cache.iter().find(|(s, d, _)| s == source && *d == device);
        if let Some(model) = found.and_then(|(_, _, model)| model.upgrade()) {
            return Ok(model);
        }
        let model = Arc::new(match source {
            ModelSource::Embedded => Model::from_bytes(EMBEDDED, device)?,
            ModelSource::File(path) => {
                let bytes = std::fs::read(path).map_err(|source| ModelError::Io {
                    path: path.clone(),
                    source,
                })?;
                Model::from_bytes(&bytes, device)?
            }
        });
        cache.push((source.clone(), device, Arc::downgrade(&model)));
        Ok(model)
    }

    /// Identity that streams carry: a decoder needs the model that the encoder had.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the networks are.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What is known about the making of the model, for people: names and values.
    pub fn card(&self) -> &[(String, String)] {
        &self.card
    }

    /// Weights of the networks.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The context model of the latents; `None` where the model has none, or has not learned to use them yet.
    pub fn latent_context(&self) -> Option<&LatentContextModel> {
        self.continuous.as_ref().map(|continuous| &continuous.context)
    }

    /// Whether it predicts masked tokens; else they are taken from the unit before.
    pub fn has_predictor(&self) -> bool {
        self.predictor.is_some()
    }

    /// Frames of a whole delta unit: one token in time.
    pub fn group_frames(&self) -> usize {
        self.config.tokenizer.temporal_factor() as usize
    }

    /// The integer networks that the symbols of units are coded with.
    pub fn contexts(&self) -> ContextModels<'_> {
        ContextModels {
            tokens: &self.context,
            latents: self.latent_context(),
        }
    }

    /// Builds the networks that the file's configuration describes and fills them.
    pub fn from_bytes(bytes: &[u8], device: Device) -> Result<Model, ModelError> {
        let mut file = TensorFile::parse(bytes)?;
        let config = read_config(&file)?;
        let integers = IntegerModel::read(&file, &config)?;
        let id = integers.identity(&config);
        let expected = file.metadata.get("integer-hash").cloned().unwrap_or_default();
        if expected != format!("{id:016x}") {
            return Err(ModelError::Checksum { found: id, expected });
        }
        let not_a_model = |e: crate::entropy::EntropyError| ModelError::NotAModel(e.to_string());
        let context = ContextModel::new(integers.context).map_err(not_a_model)?;
        let kind = device::fast_kind(device);
        let mut variables = nn::VarStore::new(device);
        let mut tokenizer = Tokenizer::new(variables.root() / "tokenizer", &config.tokenizer);
        let mut continuous = match (&config.continuous, integers.latent_context) {
            (Some(continuous), Some(weights)) => {
                if weights.channels as i64 != continuous.channels {
                    let found = weights.channels;
                    return Err(ModelError::NotAModel(format!(
                        "a context model of {found} latent channels"
                    )));
                }
                Some(Continuous {
                    fusion: Fusion::new(variables.root() / "fusion", continuous, &config.tokenizer),
                    context: LatentContextModel::new(weights).map_err(not_a_model)?,
                })
            }
            _ => None,
        };
        let predictor = config.predictor.as_ref().map(|predictor| {
            let channels = continuous.as_ref().map_or(0, |c| c.fusion.config.channels);
            let vs = variables.root() / "predictor";
            Predictor::new(vs, predictor, &config.tokenizer.fsq_levels, channels)
        });
        quantized::dequantize(&mut file.tensors)?;
        fill(&variables, &file.tensors)?;
        variables.freeze();
        variables.set_kind(kind);
        tokenizer.freeze();
        if let Some(continuous) = &mut continuous {
            continuous.fusion.freeze();
        }
        let mut card: Vec<_> = file
            .metadata
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(CARD)?.to_string(), value.clone())))
            .collect();
        card.sort();
        Ok(Model {
            config,
            tokenizer,
            context,
            predictor,
            continuous,
            id,
            device,
            kind,
            card,
            parameters: variables.variables().values().map(Tensor::numel).sum(),
            _variables: variables,
        })
    }
}

fn read_config(file: &TensorFile) -> Result<ModelConfig, ModelError> {
    let get = |key: &str| file.metadata.get(key).map(String::as_str);
    if get("format") != Some(FORMAT) {
        return Err(ModelError::NotAModel("it has no tvc-model metadata".into()));
    }
    let version = get("version").unwrap_or("none");
    if version != VERSION {
        return Err(ModelError::Version {
            found: version.into(),
            expected: VERSION,
        });
    }
    let json = get("config").ok_or_else(|| ModelError::NotAModel("it has no configuration".into()))?;
    let config: ModelConfig = serde_json::from_str(json).map_err(|e| ModelError::Config(e.to_string()))?;
    config.validate()?;
    Ok(config)
}

/// Copies every tensor into the variable of its name; all that are missing or misshapen go into one error.
pub fn fill(variables: &nn::VarStore, tensors: &HashMap<String, Tensor>) -> Result<(), ModelError> {
    misfits(fill_fitting(variables, tensors)?)
}

/// The same, but gives what is missing or misshapen.
pub(super) fn fill_fitting(
    variables: &nn::VarStore,
    tensors: &HashMap<String, Tensor>,
) -> Result<Vec<String>, ModelError> {
    let mut problems = Vec::new();
    for (name, mut variable) in variables.variables() {
        match tensors.get(&name) {
            None => problems.push(format!("{name} is missing")),
            Some(t) if t.size() != variable.size() => {
                problems.push(format!("{name} is {:?}, expected {:?}", t.size(), variable.size()));
            }
            Some(t) => tch::no_grad(|| variable.f_copy_(t))?,
        }
    }
    Ok(problems)
}

/// One error of all tensors that do not fit, if there are any.
pub(super) fn misfits(mut problems: Vec<String>) -> Result<(), ModelError> {
    problems.sort();
    match problems.len() {
        0 => Ok(()),
        n => Err(ModelError::NotAModel(format!(
            "{n} tensors do not fit: {}",
            problems.join(", ")
        ))),
    }
}

/// A model file from its parts; floats are stored in `kind`, with i8 the large weights only and the others in bf16.
pub fn pack(
    config: &ModelConfig,
    floats: HashMap<String, Tensor>,
    kind: Kind,
    integers: &IntegerModel,
    card: &[(String, String)],
) -> Result<TensorFile, ModelError> {
    let mut file = TensorFile::default();
    match kind {
        Kind::Int8 => file.tensors = quantized::quantize(floats, Kind::BFloat16)?,
        kind => {
            for (name, tensor) in floats {
                file.tensors.insert(name, tensor.f_to_kind(kind)?);
            }
        }
    }
    integers.write(&mut file)?;
    let json = serde_json::to_string(config).map_err(|e| ModelError::Config(e.to_string()))?;
    let mut set = |key: &str, value: String| file.metadata.insert(key.into(), value);
    set("format", FORMAT.into());
    set("version", VERSION.into());
    set("config", json);
    set("integer-hash", format!("{:016x}", integers.identity(config)));
    for (key, value) in card {
        set(&format!("{CARD}{key}"), value.clone());
    }
    Ok(file)
}
