//! Model files in the safetensors format: int8 weights and their scales as tensors, everything else as JSON in the metadata.
//!
//! Python reads them with the safetensors package alone. Most weights are zero, so they are stored as compressed sparse rows:
//!
//! - `start`, U32, inputs and one more: the start of each input's row in the next two tensors, and the end of the last;
//! - `neuron`, U16, and `weight`, I8: the neuron and the weight of each synapse;
//! - `gain`, F32: the value of one unit of each neuron's weights in units of potential ([`Network::scale`]).
//!
//! Metadata: `format`, `version`, `model` (JSON, a [`Description`]) and `checksum` (CRC-32 of the bytes of `start`, `neuron`, `weight`, `gain`
//! and `model`, in this order).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use serde::{Deserialize, Serialize};

use super::{MAX_CLASSES, Model, Provenance, is_class_name};
use crate::atomic_write::replace;
use crate::encode::Layout;
use crate::episode::EpisodeRule;
use crate::packet::KeyKind;
use crate::snn::Network;
use crate::stream::{Decision, FEATURES};

/// Files with a higher version are rejected. Models with one neuron per class have version 1.
const VERSION: u32 = 3;
/// Value of the metadata entry `format`.
const FORMAT: &str = "spiked-model";
/// Larger files are rejected before they are read: 2^20 coincidence inputs for 4,000 classes.
const MAX_FILE: u64 = 4 << 30;
/// Largest number of neurons of a model, because the file stores their numbers in 16 bits.
const MAX_NEURONS: usize = 1 << 16;
/// Largest number of synapses of a model: 1 GiB of weights.
const MAX_SYNAPSES: usize = 1 << 30;

/// The models that are built into the program, by name; the first is the default.
const BUILT_IN: [(&str, &[u8]); 3] = [
    ("protocols", include_bytes!("../../config/models/protocols.safetensors")),
    ("devices", include_bytes!("../../config/models/devices.safetensors")),
    ("behaviours", include_bytes!("../../config/models/behaviours.safetensors")),
];

/// The part of a model file that is not tensors.
#[derive(Serialize, Deserialize)]
pub struct Description {
    key: KeyKind,
    classes: Vec<String>,
    layout: Layout,
    decision: Decision,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    episodes: Vec<EpisodeRule>,
    provenance: Provenance,
}

/// Why a model file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "`path` is the file; the messages say the rest")]
pub enum ModelError {
    /// The file cannot be read.
    #[error("{path}: can't read the model: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    /// The file is not in the safetensors format, or its content was changed.
    #[error("{path}: not a safetensors file, or a damaged one ({what}); copy it again or retrain the model")]
    Damaged { path: PathBuf, what: String },
    /// Another program's safetensors file.
    #[error("{path}: a safetensors file, but not a model of spiked (metadata 'format' is not '{FORMAT}')")]
    Foreign { path: PathBuf },
    /// A later version of this program wrote the file.
    #[error("{path}: model version {version} is newer than this program knows ({VERSION}); upgrade spiked")]
    Newer { path: PathBuf, version: String },
    /// Parts of the file do not match each other, or exceed a limit.
    #[error("{path}: the model contradicts itself: {what}")]
    Inconsistent { path: PathBuf, what: String },
    /// The file cannot be written.
    #[error("{path}: can't write the model: {source}")]
    Write { path: PathBuf, source: std::io::Error },
}

/// A tensor to write.
struct Tensor<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    data: &'a [u8],
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        self.data.into()
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}

/// The bytes of the tensors, little-endian.
struct TensorBytes {
    start: Vec<u8>,
    neuron: Vec<u8>,
    weight: Vec<u8>,
    gain: Vec<u8>,
}

impl TensorBytes {
    fn checksum(&self, description: &str) -> String {
        checksum(&[&self.start, &self.neuron, &self.weight, &self.gain, description.as_bytes()])
    }
}

/// The tensors of a file.
struct TensorViews<'a> {
    start: TensorView<'a>,
    neuron: TensorView<'a>,
    weight: TensorView<'a>,
    gain: TensorView<'a>,
}

impl<'a> TensorViews<'a> {
    /// # Errors
    /// What is wrong, if a tensor is missing or of another type.
    fn new(tensors: &SafeTensors<'a>) -> Result<Self, String> {
        let tensor = |name: &str, dtype| match tensors.tensor(name) {
            Ok(t) if t.dtype() == dtype => Ok(t),
            _ => Err(format!("tensor '{name}' is missing or of another type")),
        };
        Ok(Self {
            start: tensor("start", Dtype::U32)?,
            neuron: tensor("neuron", Dtype::U16)?,
            weight: tensor("weight", Dtype::I8)?,
            gain: tensor("gain", Dtype::F32)?,
        })
    }

    fn checksum(&self, description: &str) -> String {
        let [start, neuron] = [self.start.data(), self.neuron.data()];
        checksum(&[start, neuron, self.weight.data(), self.gain.data(), description.as_bytes()])
    }

    fn scale(&self) -> Vec<f32> {
        self.gain.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }

    /// The network, with `scale` from [`TensorViews::scale`]; `None` if the tensors contradict each other.
    fn network(&self, scale: Vec<f32>) -> Option<Network> {
        let start: Vec<u32> = self.start.data().as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
        let (neuron, weight) = (self.neuron.data().as_chunks().0, self.weight.data());
        if neuron.len() != weight.len() {
            return None;
        }
        let synapse = |at: usize| (u16::from_le_bytes(neuron[at]), (weight[at] as i8).max(-127));
        Network::from_sparse(&start, weight.len(), synapse, scale)
    }
}

impl Description {
    /// Compares the description with the shapes of the tensors `start` and `gain` and with the limits of this program.
    ///
    /// # Errors
    /// What is inconsistent.
    fn check(&self, start: &[usize], gain: &[usize]) -> Result<(), String> {
        let (classes, inputs, decision) = (self.classes.len(), self.layout.input_count(), &self.decision);
        if classes == 0 || classes > MAX_CLASSES {
            return Err(format!("it has {classes} classes; 1 to {MAX_CLASSES} are allowed"));
        }
        if let Some(class) = self.classes.iter().find(|c| !is_class_name(c)) {
            return Err(format!("the class name {class:?} contains control characters"));
        }
        let neurons = classes + decision.assignments.extra().len();
        if start != [inputs + 1] || gain != [neurons] {
            return Err(format!(
                "its layout requires {inputs} inputs x {neurons} neurons; it has starts {start:?}, gains {gain:?}"
            ));
        }
        if neurons > MAX_NEURONS || inputs * neurons > MAX_SYNAPSES {
            return Err(format!(
                "{inputs} inputs x {neurons} neurons; at most {MAX_NEURONS} neurons and {MAX_SYNAPSES} synapses are allowed"
            ));
        }
        if decision.theta.len() != neurons || decision.accept.len() != classes {
            return Err("its thresholds do not match its classes".into());
        }
        if decision.confidence.len() > FEATURES {
            let (weights, version) = (decision.confidence.len(), &self.provenance.trained_with);
            return Err(format!(
                "its confidence has {weights} weights, more than this program's {FEATURES}; spiked {version} wrote it: update this program or retrain the model"
            ));
        }
        let numbers = decision.theta.iter().chain(&decision.accept).chain(&decision.confidence);
        if numbers.clone().any(|x| !x.is_finite()) {
            return Err("a threshold is not a finite number".into());
        }
        let (low, high) = decision.clip;
        if !(low <= high && low.is_finite() && high.is_finite() && (0.0..=1.0).contains(&decision.slope)) {
            return Err("the bounds of one packet's margin are out of order".into());
        }
        if let Some(rule) = self.episodes.iter().find(|rule| !rule.is_valid(classes)) {
            return Err(format!("the rule of episodes of class {} is not valid", rule.class));
        }
        let mut roles = HashSet::new();
        if let Some(rule) = self.episodes.iter().find(|rule| !roles.insert((rule.class, rule.role))) {
            return Err(format!("it has two rules of episodes for the {} of class {}", rule.role.name(), rule.class));
        }
        Ok(())
    }
}

impl Model {
    /// The protocols model that is built into the program.
    ///
    /// # Errors
    /// If the program was built with a damaged model.
    pub fn built_in() -> Result<Self, ModelError> {
        let (name, bytes) = BUILT_IN[0];
        Self::from_bytes(bytes, Path::new(name))
    }

    /// Names of the models that are built into the program.
    pub fn built_in_names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// Reads the model file at `path`. If there is no such file and `path` is the name of a built-in model, that model.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        match BUILT_IN.iter().find(|(name, _)| Path::new(name) == path) {
            Some((_, bytes)) if Self::is_built_in(path) => Self::from_bytes(bytes, path),
            _ => Self::load(path),
        }
    }

    /// Whether [`Model::open`] takes `path` for the name of a built-in model.
    pub fn is_built_in(path: &Path) -> bool {
        Self::built_in_names().any(|name| Path::new(name) == path) && !path.exists()
    }

    /// Reads a model file.
    ///
    /// # Errors
    /// If the file cannot be read or is not a valid model ([`ModelError`]).
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let broken = |source| ModelError::Read { path: path.into(), source };
        let size = std::fs::metadata(path).map_err(broken)?.len();
        if size > MAX_FILE {
            return Err(ModelError::Damaged { path: path.into(), what: format!("{size} bytes are more than any model has") });
        }
        Self::from_bytes(&std::fs::read(path).map_err(broken)?, path)
    }

    /// Reads a model from the bytes of a file. `path` is used in messages and for the name of the model.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, ModelError> {
        let damaged = |what: String| ModelError::Damaged { path: path.into(), what };
        let wrong = |what: String| ModelError::Inconsistent { path: path.into(), what };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(e.to_string()))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| damaged(e.to_string()))?;
        let empty = HashMap::new();
        let metadata = header.metadata().as_ref().unwrap_or(&empty);
        let entry = |name: &str| metadata.get(name).map_or("", String::as_str);
        if entry("format") != FORMAT {
            return Err(ModelError::Foreign { path: path.into() });
        }
        match entry("version").parse::<u32>() {
            Ok(version) if version <= VERSION => {}
            _ => return Err(ModelError::Newer { path: path.into(), version: entry("version").into() }),
        }
        let tensors = TensorViews::new(&tensors).map_err(damaged)?;
        if tensors.checksum(entry("model")) != entry("checksum") {
            return Err(damaged("its checksum is wrong".into()));
        }
        let d: Description = serde_json::from_str(entry("model")).map_err(|e| damaged(format!("its description: {e}")))?;
        d.check(tensors.start.shape(), tensors.gain.shape()).map_err(wrong)?;
        let scale = tensors.scale();
        if scale.iter().any(|x| !x.is_finite()) {
            return Err(wrong("a gain is not a finite number".into()));
        }
        let network = tensors.network(scale).ok_or_else(|| wrong("its weights are out of order".into()))?;
        let name = path.file_stem().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
        let Description { key, classes, layout, decision, episodes, provenance } = d;
        Ok(Self { name, key, classes, layout, network, decision, episodes, provenance })
    }

    /// Everything except the weights.
    pub fn description(&self) -> Description {
        Description {
            key: self.key,
            classes: self.classes.clone(),
            layout: self.layout.clone(),
            decision: self.decision.clone(),
            episodes: self.episodes.clone(),
            provenance: self.provenance.clone(),
        }
    }

    /// The lowest version of the file format that can express the model.
    fn version(&self) -> u32 {
        if self.layout.has_traces() || !self.episodes.is_empty() {
            VERSION
        } else if self.decision.assignments.is_one_each() {
            1
        } else {
            2
        }
    }

    /// The checksum in the model's file, which identifies the model.
    pub fn checksum(&self) -> String {
        let description = serde_json::to_string(&self.description()).expect("a description has only string keys");
        self.tensors().checksum(&description)
    }

    fn tensors(&self) -> TensorBytes {
        let (start, neuron, weight) = self.network.sparse();
        TensorBytes {
            start: start.iter().flat_map(|s| s.to_le_bytes()).collect(),
            neuron: neuron.iter().flat_map(|n| n.to_le_bytes()).collect(),
            weight: weight.iter().map(|&w| w as u8).collect(),
            gain: self.network.scale().iter().flat_map(|g| g.to_le_bytes()).collect(),
        }
    }

    /// The bytes of the model's file, the same for the same model.
    pub fn to_bytes(&self) -> Vec<u8> {
        let tensors = self.tensors();
        let description = serde_json::to_string(&self.description()).expect("a description has only string keys");
        let metadata: HashMap<String, String> = [
            ("format".to_string(), FORMAT.to_string()),
            ("version".into(), self.version().to_string()),
            ("checksum".into(), tensors.checksum(&description)),
            ("model".into(), description),
        ]
        .into();
        let TensorBytes { start, neuron, weight, gain } = &tensors;
        let tensors = [
            ("gain", Tensor { dtype: Dtype::F32, shape: vec![gain.len() / 4], data: gain }),
            ("neuron", Tensor { dtype: Dtype::U16, shape: vec![neuron.len() / 2], data: neuron }),
            ("start", Tensor { dtype: Dtype::U32, shape: vec![start.len() / 4], data: start }),
            ("weight", Tensor { dtype: Dtype::I8, shape: vec![weight.len()], data: weight }),
        ];
        let bytes = safetensors::serialize(tensors, Some(metadata)).expect("the shapes follow from the data");
        sort_header(bytes)
    }

    /// Writes the model's file atomically, readable for everybody.
    ///
    /// # Errors
    /// If the folder cannot be written to; the old file is then unchanged.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        replace(path, 0o644, &self.to_bytes()).map_err(|source| ModelError::Write { path: path.into(), source })
    }
}

/// CRC-32 of all parts, as hexadecimal digits.
fn checksum(parts: &[&[u8]]) -> String {
    let mut crc = crc32fast::Hasher::new();
    parts.iter().for_each(|part| crc.update(part));
    format!("{:08x}", crc.finalize())
}

/// Rewrites the JSON header with sorted keys. The serializer takes the metadata from a hash map, in a different order each time.
fn sort_header(bytes: Vec<u8>) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&bytes[8..8 + length]).expect("the serializer writes JSON");
    let sorted: BTreeMap<_, _> = header
        .into_iter()
        .map(|(key, value)| match value {
            serde_json::Value::Object(o) => {
                let o: BTreeMap<_, _> = o.into_iter().collect();
                (key, serde_json::to_value(o).expect("string keys"))
            }
            other => (key, other),
        })
        .collect();
    let mut text = serde_json::to_vec(&sorted).expect("string keys");
    text.resize(text.len().div_ceil(8) * 8, b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text);
    out.extend(&bytes[8 + length..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::episode::Role;

    #[test]
    fn shipped_models_are_written_as_they_were_read() {
        for name in Model::built_in_names() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/models/{name}.safetensors"));
            let file = std::fs::read(&path).unwrap();
            assert!(Model::from_bytes(&file, &path).unwrap().to_bytes() == file, "{name}");
            let built_in = Model::open(Path::new(name)).unwrap();
            assert!(built_in.name == name && built_in.to_bytes() == file, "{name}");
        }
    }

    #[test]
    fn a_class_has_one_rule_of_episodes_for_each_role_at_most() {
        let path = Path::new("behaviours");
        let mut model = Model::open(path).unwrap();
        let first = model.episodes[0].clone();
        model.episodes.retain(|rule| rule.class != first.class);
        let with = |model: &Model, roles: &[Role]| {
            let rules = roles.iter().map(|&role| EpisodeRule { role, ..first.clone() });
            let model = Model { episodes: model.episodes.iter().cloned().chain(rules).collect(), ..model.clone() };
            Model::from_bytes(&model.to_bytes(), path)
        };
        assert!(with(&model, &[Role::Source]).is_ok() && with(&model, &[Role::Target, Role::Source]).is_ok());
        let error = with(&model, &[Role::Target, Role::Target]).unwrap_err().to_string();
        assert!(error.ends_with(&format!("two rules of episodes for the target of class {}", first.class)), "{error}");
    }
}
