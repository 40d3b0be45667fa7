//! How does a network rest on disk? A safetensors file: int8 weights and gains as tensors, the rest as JSON in its metadata.
//!
//! Readable from Python with the safetensors package alone. Most weights are zero, so they rest as compressed sparse rows: `start`
//! (inputs + 1, U32) says where each input's row begins in `neuron` (U16) and `weight` (I8); `gain` (neurons, F32) is the
//! potential that one unit of a neuron's weights is worth. Metadata: `format`, `version`, `checksum` (CRC-32 of the octets of
//! `start`, `neuron`, `weight`, `gain` and `model`, in this order) and `model` (JSON).

mod classifier;
mod forward;
#[cfg(feature = "nir")]
mod nir;
mod one_shot;
mod parts;

pub use classifier::{Classifier, StreamEvidence};
pub use forward::ForwardPass;
pub use parts::{ClassSources, PartsError};

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use crate::atomic_write::replace;
use crate::encode::Layout;
use crate::packet::KeyKind;
use crate::snn::Network;
use crate::stream::{Decision, FEATURES};

/// A file with a higher version is refused. Models with one neuron a class are of version 1.
const VERSION: u32 = 2;
const FORMAT: &str = "spiked-model";
/// Larger files are refused before they are read: 2^20 coincidence inputs for 4,000 classes.
const MAX_FILE: u64 = 4 << 30;
/// Classes of one model at most.
pub const MAX_CLASSES: usize = 16_384;

/// Neurons of one model at most: as many as its file can number.
const MAX_NEURONS: usize = 1 << 16;

/// Synapses of one model at most: a gigaoctet.
const MAX_SYNAPSES: usize = 1 << 30;

/// The protocols model that ships with the program.
const PROTOCOLS: &[u8] = include_bytes!("../../config/models/protocols.safetensors");

/// Where a model comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of the program that trained it.
    pub trained_with: String,
    pub seed: u64,
    /// Label files, by name.
    pub labels: Vec<String>,
    pub captures: usize,
    /// Streams and packets taught for each class.
    pub streams: Vec<u64>,
    pub packets: Vec<u64>,
    /// Whether packets of classes of few streams were also shown with their ports alone ([`crate::train::TrainSettings`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ports_alone: bool,
    /// Label files of the reference that confidence and acceptance rest on, where it is not what was taught.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reference: Vec<String>,
}

/// A trained classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The file's name without its ending: what events call it.
    pub name: String,
    pub key: KeyKind,
    pub classes: Vec<String>,
    pub layout: Layout,
    pub network: Network,
    pub decision: Decision,
    pub provenance: Provenance,
}

/// What a model file says beside its tensors.
#[derive(Serialize, Deserialize)]
pub struct Description {
    key: KeyKind,
    classes: Vec<String>,
    layout: Layout,
    decision: Decision,
    provenance: Provenance,
}

/// Why a model file is refused or can't be written.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{path}: can't read the model: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: not a safetensors file, or a damaged one ({what}); train it anew or fetch it again")]
    Damaged { path: PathBuf, what: String },
    #[error("{path}: a safetensors file, but not a model of spiked (metadata 'format' is not '{FORMAT}')")]
    Foreign { path: PathBuf },
    #[error("{path}: model version {version} is newer than this program knows ({VERSION}); upgrade spiked")]
    Newer { path: PathBuf, version: String },
    #[error("{path}: the model contradicts itself: {what}")]
    Inconsistent { path: PathBuf, what: String },
    #[error("{path}: can't write the model: {source}")]
    Write { path: PathBuf, source: std::io::Error },
}

struct Tensor<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    data: &'a [u8],
}

/// The tensors as they rest in the file, little-endian.
struct Octets {
    start: Vec<u8>,
    neuron: Vec<u8>,
    weight: Vec<u8>,
    gain: Vec<u8>,
}

impl Octets {
    fn checksum(&self, description: &str) -> String {
        checksum(&[&self.start, &self.neuron, &self.weight, &self.gain, description.as_bytes()])
    }
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

impl Model {
    /// The protocols model built into the program.
    ///
    /// # Errors
    /// Where the program was built with a damaged model.
    pub fn built_in() -> Result<Self, ModelError> {
        Self::from_bytes(PROTOCOLS, Path::new("protocols"))
    }

    /// Reads a model file.
    ///
    /// # Errors
    /// A file that can't be read, or is damaged, foreign, newer or inconsistent.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let broken = |source| ModelError::Read { path: path.into(), source };
        let size = std::fs::metadata(path).map_err(broken)?.len();
        if size > MAX_FILE {
            return Err(ModelError::Damaged { path: path.into(), what: format!("{size} octets are more than any model has") });
        }
        Self::from_bytes(&std::fs::read(path).map_err(broken)?, path)
    }

    /// Reads a model from a file's octets; `path` is for messages and gives the model its name.
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
        let tensor = |name: &str, dtype| match tensors.tensor(name) {
            Ok(t) if t.dtype() == dtype => Ok(t),
            _ => Err(damaged(format!("tensor '{name}' is missing or of another type"))),
        };
        let [start, neuron] = [tensor("start", Dtype::U32)?, tensor("neuron", Dtype::U16)?];
        let [weight, gain] = [tensor("weight", Dtype::I8)?, tensor("gain", Dtype::F32)?];
        if checksum(&[start.data(), neuron.data(), weight.data(), gain.data(), entry("model").as_bytes()]) != entry("checksum") {
            return Err(damaged("its checksum is wrong".into()));
        }
        let d: Description = serde_json::from_str(entry("model")).map_err(|e| damaged(format!("its description: {e}")))?;
        let (classes, inputs) = (d.classes.len(), d.layout.input_count());
        if classes == 0 || classes > MAX_CLASSES {
            return Err(wrong(format!("it has {classes} classes; 1 to {MAX_CLASSES} are allowed")));
        }
        if let Some(class) = d.classes.iter().find(|c| !is_class_name(c)) {
            return Err(wrong(format!("the class name {class:?} holds control characters")));
        }
        let neurons = classes + d.decision.assignments.extra().len();
        if start.shape() != [inputs + 1] || gain.shape() != [neurons] {
            let (start, gain) = (start.shape(), gain.shape());
            return Err(wrong(format!(
                "its layout asks for {inputs} inputs x {neurons} neurons; it has starts {start:?}, gains {gain:?}"
            )));
        }
        if neurons > MAX_NEURONS || inputs * neurons > MAX_SYNAPSES {
            return Err(wrong(format!(
                "{inputs} inputs x {neurons} neurons; at most {MAX_NEURONS} neurons and {MAX_SYNAPSES} synapses are allowed"
            )));
        }
        if d.decision.theta.len() != neurons || d.decision.accept.len() != classes {
            return Err(wrong("its thresholds do not match its classes".into()));
        }
        if d.decision.confidence.len() > FEATURES {
            let (weights, version) = (d.decision.confidence.len(), &d.provenance.trained_with);
            return Err(wrong(format!(
                "its confidence has {weights} weights, more than this program's {FEATURES}; spiked {version} made it: update this program or retrain the model"
            )));
        }
        let numbers: Vec<f32> = gain.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let decided = d.decision.theta.iter().chain(&d.decision.accept).chain(&d.decision.confidence);
        if numbers.iter().chain(decided).any(|x| !x.is_finite()) {
            return Err(wrong("a gain or threshold is not a finite number".into()));
        }
        let (low, high) = d.decision.clip;
        if !(low <= high && low.is_finite() && high.is_finite() && (0.0..=1.0).contains(&d.decision.slope)) {
            return Err(wrong("the bounds of one packet's margin are out of order".into()));
        }
        let start: Vec<u32> = start.data().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let neuron: Vec<u16> = neuron.data().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        let weight: Vec<i8> = weight.data().iter().map(|&b| (b as i8).max(-127)).collect();
        let network = Network::from_sparse(&start, &neuron, &weight, numbers)
            .ok_or_else(|| wrong("its weights are out of order".into()))?;
        let name = path.file_stem().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
        Ok(Self {
            name,
            key: d.key,
            classes: d.classes,
            layout: d.layout,
            network,
            decision: d.decision,
            provenance: d.provenance,
        })
    }

    /// All but the weights.
    pub fn description(&self) -> Description {
        Description {
            key: self.key,
            classes: self.classes.clone(),
            layout: self.layout.clone(),
            decision: self.decision.clone(),
            provenance: self.provenance.clone(),
        }
    }

    /// The checksum that the model's file carries: the model's identity.
    pub fn checksum(&self) -> String {
        let description = serde_json::to_string(&self.description()).expect("a description has only string keys");
        self.tensors().checksum(&description)
    }

    fn tensors(&self) -> Octets {
        let (start, neuron, weight) = self.network.sparse();
        Octets {
            start: start.iter().flat_map(|s| s.to_le_bytes()).collect(),
            neuron: neuron.iter().flat_map(|n| n.to_le_bytes()).collect(),
            weight: weight.iter().map(|&w| w as u8).collect(),
            gain: self.network.scale().iter().flat_map(|g| g.to_le_bytes()).collect(),
        }
    }

    /// The octets of the model's file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let tensors = self.tensors();
        let description = serde_json::to_string(&self.description()).expect("a description has only string keys");
        // One metadata entry, so that the file is the same bit for bit: safetensors keeps metadata in a hash map.
        let metadata: HashMap<String, String> = [
            ("format".to_string(), FORMAT.to_string()),
            ("version".into(), if self.decision.assignments.is_one_each() { 1 } else { VERSION }.to_string()),
            ("checksum".into(), tensors.checksum(&description)),
            ("model".into(), description),
        ]
        .into();
        let Octets { start, neuron, weight, gain } = &tensors;
        let tensors = [
            ("gain", Tensor { dtype: Dtype::F32, shape: vec![gain.len() / 4], data: gain }),
            ("neuron", Tensor { dtype: Dtype::U16, shape: vec![neuron.len() / 2], data: neuron }),
            ("start", Tensor { dtype: Dtype::U32, shape: vec![start.len() / 4], data: start }),
            ("weight", Tensor { dtype: Dtype::I8, shape: vec![weight.len()], data: weight }),
        ];
        let bytes = safetensors::serialize(tensors, Some(metadata)).expect("the shapes follow from the data");
        sort_header(bytes)
    }

    /// Writes the model whole or not at all, for all to read.
    ///
    /// # Errors
    /// Where the folder can't be written; the old file is then as it was.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        replace(path, 0o644, &self.to_bytes()).map_err(|source| ModelError::Write { path: path.into(), source })
    }
}

/// Whether a class may be called so: names are shown to people, on terminals too, and hold no control characters.
pub fn is_class_name(name: &str) -> bool {
    !name.chars().any(char::is_control)
}

fn checksum(parts: &[&[u8]]) -> String {
    let mut crc = crc32fast::Hasher::new();
    parts.iter().for_each(|part| crc.update(part));
    format!("{:08x}", crc.finalize())
}

/// Rewrites the JSON header with sorted keys: the serializer's hash map would put them in another order each time.
fn sort_header(bytes: Vec<u8>) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight octets")) as usize;
    let header: std::collections::BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&bytes[8..8 + length]).expect("the serializer writes JSON");
    let sorted: std::collections::BTreeMap<_, _> = header
        .into_iter()
        .map(|(key, value)| match value {
            serde_json::Value::Object(o) => {
                let o: std::collections::BTreeMap<_, _> = o.into_iter().collect();
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

    #[test]
    fn shipped_models_are_written_as_they_were_read() {
        for name in ["devices", "protocols"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/models/{name}.safetensors"));
            let file = std::fs::read(&path).unwrap();
            assert!(Model::from_bytes(&file, &path).unwrap().to_bytes() == file, "{name}");
        }
    }
}
