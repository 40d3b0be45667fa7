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
//!
//! A file is not read into memory: the weights of many classes take twice as much there as the network that is made of them. They are read row
//! by row, each time they are needed, and each time the checksum is compared, because somebody may write to the file meanwhile.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, Metadata, View};
use serde::{Deserialize, Serialize};

use super::{MAX_CLASSES, Model, Provenance, is_class_name};
use crate::atomic_write::{self, replace};
use crate::encode::Layout;
use crate::episode::EpisodeRule;
use crate::packet::KeyKind;
use crate::snn::{EachRow, Network, NeuronId};
use crate::stream::{Decision, FEATURES};

/// Files with a higher version are rejected. Models with one neuron per class have version 1.
const VERSION: u32 = 3;
/// Value of the metadata entry `format`.
const FORMAT: &str = "spiked-model";
/// Larger files are rejected before they are read: 2^20 coincidence inputs for 4,000 classes.
const MAX_FILE: u64 = 4 << 30;
/// Larger headers are rejected before they are read, as by the safetensors package.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes of a tensor that are read at once.
const CHUNK: usize = 1 << 16;
/// Largest number of neurons of a model, because the file stores their numbers in 16 bits.
const MAX_NEURONS: usize = 1 << 16;
/// Largest number of synapses of a model: 1 GiB of weights.
const MAX_SYNAPSES: usize = 1 << 30;

/// The models that are built into the program, by name, as `build.rs` has compressed them (Zstandard); the first is the default.
const BUILT_IN: [(&str, &[u8]); 3] = [
    ("protocols", include_bytes!(concat!(env!("OUT_DIR"), "/protocols.zst"))),
    ("devices", include_bytes!(concat!(env!("OUT_DIR"), "/devices.zst"))),
    ("behaviours", include_bytes!(concat!(env!("OUT_DIR"), "/behaviours.zst"))),
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
    /// There is neither a file nor a built-in model of this name.
    #[error("{path}: no such model file; the built-in models are {}", Model::built_in_names().collect::<Vec<_>>().join(", "))]
    NotFound { path: PathBuf },
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

/// The bytes of the tensors, little-endian, to write.
struct TensorBytes {
    start: Vec<u8>,
    neuron: Vec<u8>,
    weight: Vec<u8>,
    gain: Vec<u8>,
}

/// A file's bytes.
trait ReadAt {
    /// Fills the beginning of `to` with the bytes from position `at` on. Returns their number, 0 at the end.
    ///
    /// # Errors
    /// Of the system.
    fn read_at(&self, at: u64, to: &mut [u8]) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, at: u64, to: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(self, to, at)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, at: u64, to: &mut [u8]) -> io::Result<usize> {
        self.get(at as usize..).unwrap_or_default().read(to)
    }
}

/// A part of a file, read from its beginning to its end.
struct Part<'a, F: ?Sized> {
    file: &'a F,
    at: u64,
    end: u64,
    /// Checksum of what was read.
    checksum: crc32fast::Hasher,
}

impl<'a, F: ?Sized> Part<'a, F> {
    fn new(file: &'a F, at: u64, end: u64) -> Self {
        Self { file, at, end, checksum: crc32fast::Hasher::new() }
    }
}

impl<F: ReadAt + ?Sized> Read for Part<'_, F> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let most = to.len().min((self.end - self.at) as usize);
        let read = self.file.read_at(self.at, &mut to[..most])?;
        self.checksum.update(&to[..read]);
        self.at += read as u64;
        Ok(read)
    }
}

/// A model file whose header was read.
struct ModelFile<'a, F: ?Sized> {
    bytes: &'a F,
    path: &'a Path,
    header: Metadata,
    /// Position of the first tensor.
    tensors_at: u64,
}

impl<'a, F: ReadAt + ?Sized> ModelFile<'a, F> {
    /// Reads the header of a file of `size` bytes.
    ///
    /// # Errors
    /// If it cannot be read, is not a safetensors header, or describes a file of another size.
    fn open(bytes: &'a F, size: u64, path: &'a Path) -> Result<Self, ModelError> {
        let damaged = |e: SafeTensorError| damaged(path, e.to_string());
        let room = size.checked_sub(8).ok_or_else(|| damaged(SafeTensorError::HeaderTooSmall))?;
        let mut length = [0; 8];
        Part::new(bytes, 0, 8).read_exact(&mut length).map_err(|e| unreadable(path, e))?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER {
            return Err(damaged(SafeTensorError::HeaderTooLarge));
        }
        let room = room.checked_sub(length).ok_or_else(|| damaged(SafeTensorError::InvalidHeaderLength))?;
        let tensors_at = 8 + length;
        let mut text = vec![0; length as usize];
        Part::new(bytes, 8, tensors_at).read_exact(&mut text).map_err(|e| unreadable(path, e))?;
        let text = str::from_utf8(&text).map_err(|e| damaged(SafeTensorError::InvalidHeader(e)))?;
        let header: Metadata = serde_json::from_str(text).map_err(|e| self::damaged(path, format!("its header: {e}")))?;
        if header.data_len() as u64 != room {
            return Err(damaged(SafeTensorError::MetadataIncompleteBuffer));
        }
        Ok(Self { bytes, path, header, tensors_at })
    }

    /// An entry of the metadata, empty if there is none.
    fn entry(&self, name: &str) -> &str {
        self.header.metadata().as_ref().and_then(|metadata| metadata.get(name)).map_or("", String::as_str)
    }

    /// The shape of a tensor, and its bytes.
    ///
    /// # Errors
    /// If it is missing or of another type.
    fn tensor(&self, name: &str, dtype: Dtype) -> Result<(&[usize], Part<'a, F>), ModelError> {
        match self.header.info(name) {
            Some(info) if info.dtype == dtype => {
                let [at, end] = <[usize; 2]>::from(info.data_offsets).map(|offset| self.tensors_at + offset as u64);
                Ok((&info.shape, Part::new(self.bytes, at, end)))
            }
            _ => Err(damaged(self.path, format!("tensor '{name}' is missing or of another type"))),
        }
    }

    /// # Errors
    /// If the description cannot be read or is inconsistent with the shapes of the tensors `start` and `gain`.
    fn description(&self, start: &[usize], gain: &[usize]) -> Result<Description, ModelError> {
        let description: Description =
            serde_json::from_str(self.entry("model")).map_err(|e| damaged(self.path, format!("its description: {e}")))?;
        description.check(start, gain).map_err(|what| inconsistent(self.path, what))?;
        Ok(description)
    }

    /// The model.
    ///
    /// # Errors
    /// As [`Model::load`].
    fn model(&self) -> Result<Model, ModelError> {
        if self.entry("format") != FORMAT {
            return Err(ModelError::Foreign { path: self.path.into() });
        }
        match self.entry("version").parse::<u32>() {
            Ok(version) if version <= VERSION => {}
            _ => return Err(ModelError::Newer { path: self.path.into(), version: self.entry("version").into() }),
        }
        let synapses = Synapses::open(self)?;
        let description = self.description(synapses.start_shape, synapses.gain_shape);
        // Whatever else is wrong with a file that was changed, it is called damaged.
        let d = description.or_else(|error| synapses.read(&mut |_, _| ()).and(Err(error)))?;
        let network = Network::from_rows(d.layout.input_count(), synapses.gain.clone(), |each| synapses.read(each))?;
        let name = self.path.file_stem().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
        let Description { key, classes, layout, decision, episodes, provenance } = d;
        Ok(Model { name, key, classes, layout, network, decision, episodes, provenance })
    }
}

/// The tensors of a model file. Those of inputs and neurons are in memory, those of synapses are not.
struct Synapses<'a, F: ?Sized> {
    file: &'a ModelFile<'a, F>,
    start_shape: &'a [usize],
    start: Vec<u32>,
    gain_shape: &'a [usize],
    gain: Vec<f32>,
    /// Checksums of `start` and `gain`.
    checksums: [crc32fast::Hasher; 2],
}

impl<'a, F: ReadAt + ?Sized> Synapses<'a, F> {
    /// # Errors
    /// If a tensor is missing, of another type, or cannot be read.
    fn open(file: &'a ModelFile<'a, F>) -> Result<Self, ModelError> {
        let numbers = |name, dtype| {
            let (shape, mut part) = file.tensor(name, dtype)?;
            let mut bytes = vec![0; (part.end - part.at) as usize];
            part.read_exact(&mut bytes).map_err(|e| unreadable(file.path, e))?;
            Ok((shape, bytes, part.checksum))
        };
        let (start_shape, start, start_checksum) = numbers("start", Dtype::U32)?;
        let (gain_shape, gain, gain_checksum) = numbers("gain", Dtype::F32)?;
        Ok(Self {
            file,
            start_shape,
            start: start.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect(),
            gain_shape,
            gain: gain.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            checksums: [start_checksum, gain_checksum],
        })
    }

    /// Reads the synapses from the file, as [`Network::from_rows`] wants them.
    ///
    /// # Errors
    /// If they cannot be read, their checksum is wrong, or they contradict the other tensors.
    fn read(&self, each: &mut EachRow<'_>) -> Result<(), ModelError> {
        let path = self.file.path;
        let (_, neuron) = self.file.tensor("neuron", Dtype::U16)?;
        let (_, weight) = self.file.tensor("weight", Dtype::I8)?;
        let (start, neurons) = (&self.start, self.gain.len());
        let count = weight.end - weight.at;
        let mut in_order = neuron.end - neuron.at == 2 * count
            && start.first() == Some(&0)
            && start.last().is_some_and(|&end| u64::from(end) == count)
            && start.is_sorted_by(|a, b| a <= b && (b - a) as usize <= neurons);
        let [mut neuron, mut weight] = [neuron, weight].map(|part| BufReader::with_capacity(CHUNK, part));
        let (mut numbers, mut weights, mut row) = (Vec::new(), Vec::new(), Vec::new());
        for (input, span) in start.windows(2).enumerate() {
            if !in_order {
                break;
            }
            let length = (span[1] - span[0]) as usize;
            numbers.resize(length, [0; 2]);
            weights.resize(length, 0);
            neuron.read_exact(numbers.as_flattened_mut()).map_err(|e| unreadable(path, e))?;
            weight.read_exact(&mut weights).map_err(|e| unreadable(path, e))?;
            row.clear();
            // Without -128, the weights of 256 active inputs do not overflow an i16.
            let weights = weights.iter().map(|&weight| (weight as i8).max(-127));
            row.extend(numbers.iter().map(|&number| NeuronId::new(u16::from_le_bytes(number).into())).zip(weights));
            in_order = row.iter().all(|(neuron, _)| neuron.index() < neurons);
            if in_order {
                each(input, &row);
            }
        }
        // The rest, if it is not in order, for the checksum.
        for part in [&mut neuron, &mut weight] {
            io::copy(part, &mut io::sink()).map_err(|e| unreadable(path, e))?;
        }
        let [start, gain] = self.checksums.clone();
        let tensors = [start, neuron.into_inner().checksum, weight.into_inner().checksum, gain];
        if checksum(tensors, self.file.entry("model")) != self.file.entry("checksum") {
            return Err(damaged(path, "its checksum is wrong".into()));
        }
        if self.gain.iter().any(|gain| !gain.is_finite()) {
            return Err(inconsistent(path, "a gain is not a finite number".into()));
        }
        if !in_order {
            return Err(inconsistent(path, "its weights are out of order".into()));
        }
        Ok(())
    }
}

fn damaged(path: &Path, what: String) -> ModelError {
    ModelError::Damaged { path: path.into(), what }
}

fn inconsistent(path: &Path, what: String) -> ModelError {
    ModelError::Inconsistent { path: path.into(), what }
}

/// The error of a file that cannot be read, or ends before the end that it had when it was opened.
fn unreadable(path: &Path, source: io::Error) -> ModelError {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => damaged(path, SafeTensorError::MetadataIncompleteBuffer.to_string()),
        _ => ModelError::Read { path: path.into(), source },
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
        let (name, compressed) = BUILT_IN[0];
        Self::decompress(compressed, Path::new(name))
    }

    fn decompress(model: &[u8], path: &Path) -> Result<Self, ModelError> {
        let unreadable = |source| ModelError::Read { path: path.into(), source };
        let size = zstd::zstd_safe::get_frame_content_size(model).ok().flatten().unwrap_or(0);
        // Not from the allocator, whose later allocations would be placed otherwise: a million streams would take 10 MiB more.
        let mut bytes = memmap2::MmapMut::map_anon(size as usize).map_err(unreadable)?;
        zstd::bulk::decompress_to_buffer(model, &mut bytes).map_err(unreadable)?;
        Self::from_bytes(&bytes, path)
    }

    /// Names of the models that are built into the program.
    pub fn built_in_names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// Reads the model file at `path`. If there is no such file and `path` is the name of a built-in model, that model.
    ///
    /// # Errors
    /// As [`Model::load`]; [`ModelError::NotFound`] if there is neither.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        match BUILT_IN.iter().find(|(name, _)| Path::new(name) == path) {
            Some((_, compressed)) if Self::is_built_in(path) => Self::decompress(compressed, path),
            _ => Self::load(path).map_err(|error| match error {
                ModelError::Read { path, source } if source.kind() == io::ErrorKind::NotFound => ModelError::NotFound { path },
                error => error,
            }),
        }
    }

    /// Whether [`Model::open`] takes `path` for the name of a built-in model.
    pub fn is_built_in(path: &Path) -> bool {
        Self::built_in_names().any(|name| Path::new(name) == path) && (path.is_dir() || !path.exists())
    }

    /// Reads a model file.
    ///
    /// # Errors
    /// If the file cannot be read or is not a valid model ([`ModelError`]).
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let broken = |source| ModelError::Read { path: path.into(), source };
        let mut file = File::open(path).map_err(broken)?;
        let metadata = file.metadata().map_err(broken)?;
        if metadata.len() > MAX_FILE {
            return Err(damaged(path, format!("{} bytes are more than any model has", metadata.len())));
        }
        if metadata.is_file() {
            return ModelFile::open(&file, metadata.len(), path)?.model();
        }
        // A pipe, which can be read once only.
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(broken)?;
        Self::from_bytes(&bytes, path)
    }

    /// Reads a model from the bytes of a file. `path` is used in messages and for the name of the model.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, ModelError> {
        ModelFile::open(bytes, bytes.len() as u64, path)?.model()
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
        let [mut start, mut neuron, mut weight, mut gain] = [(); 4].map(|()| crc32fast::Hasher::new());
        let mut end = 0u32;
        start.update(&end.to_le_bytes());
        // Row by row: the tensors of many classes would take much memory for a moment.
        self.each_encoded_row(|neurons, weights| {
            neuron.update(neurons);
            weight.update(weights);
            end += weights.len() as u32;
            start.update(&end.to_le_bytes());
        });
        self.network.scale().iter().for_each(|scale| gain.update(&scale.to_le_bytes()));
        checksum([start, neuron, weight, gain], &self.description_text())
    }

    fn description_text(&self) -> String {
        serde_json::to_string(&self.description()).expect("a description has only string keys")
    }

    /// Calls `each` with the bytes of each row in the tensors `neuron` and `weight`.
    fn each_encoded_row(&self, mut each: impl FnMut(&[u8], &[u8])) {
        let (mut neurons, mut weights) = (Vec::new(), Vec::new());
        self.network.each_row(&mut |_, row| {
            neurons.clear();
            neurons.extend(row.iter().flat_map(|(neuron, _)| (neuron.index() as u16).to_le_bytes()));
            weights.clear();
            weights.extend(row.iter().map(|&(_, weight)| weight as u8));
            each(&neurons, &weights);
        });
    }

    fn tensors(&self) -> TensorBytes {
        let mut tensors = TensorBytes { start: vec![0; 4], neuron: Vec::new(), weight: Vec::new(), gain: Vec::new() };
        self.each_encoded_row(|neurons, weights| {
            tensors.neuron.extend_from_slice(neurons);
            tensors.weight.extend_from_slice(weights);
            tensors.start.extend((tensors.weight.len() as u32).to_le_bytes());
        });
        tensors.gain = self.network.scale().iter().flat_map(|gain| gain.to_le_bytes()).collect();
        tensors
    }

    /// The bytes of the model's file, the same for the same model.
    pub fn to_bytes(&self) -> Vec<u8> {
        let tensors = self.tensors();
        let metadata: HashMap<String, String> = [
            ("format".to_string(), FORMAT.to_string()),
            ("version".into(), self.version().to_string()),
            ("checksum".into(), self.checksum()),
            ("model".into(), self.description_text()),
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

    /// Checks that [`Model::save`] can write to `path`, for commands that would learn it after their work.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn check_writable(path: &Path) -> Result<(), ModelError> {
        atomic_write::check(path).map_err(|source| ModelError::Write { path: path.into(), source })
    }

    /// Writes the model's file atomically, readable for everybody.
    ///
    /// # Errors
    /// If the folder cannot be written to; the old file is then unchanged.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        replace(path, 0o644, &self.to_bytes()).map_err(|source| ModelError::Write { path: path.into(), source })
    }
}

/// The checksum of a model, as hexadecimal digits, from those of the tensors `start`, `neuron`, `weight` and `gain`.
fn checksum(tensors: [crc32fast::Hasher; 4], description: &str) -> String {
    let mut checksum = crc32fast::Hasher::new();
    tensors.iter().for_each(|tensor| checksum.combine(tensor));
    checksum.update(description.as_bytes());
    format!("{:08x}", checksum.finalize())
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

    /// The file of a model of two classes, the JSON of its header, and where its tensors begin.
    fn small() -> (Vec<u8>, serde_json::Value, usize) {
        let whole = Model::built_in().unwrap();
        let file = whole.without_classes(&whole.classes[2..]).unwrap().to_bytes();
        let end = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&file[8..end]).unwrap();
        (file, header, end)
    }

    fn with_header(header: &serde_json::Value, tensors: &[u8]) -> Vec<u8> {
        let text = header.to_string();
        [&(text.len() as u64).to_le_bytes(), text.as_bytes(), tensors].concat()
    }

    fn error_of(bytes: &[u8]) -> String {
        Model::from_bytes(bytes, Path::new("small")).map(drop).unwrap_err().to_string()
    }

    /// The file with the checksum of what it holds.
    fn sealed(mut header: serde_json::Value, tensors: &[u8]) -> Vec<u8> {
        let checksums = ["start", "neuron", "weight", "gain"].map(|name| {
            let [at, end] = [0, 1].map(|i| header[name]["data_offsets"][i].as_u64().unwrap() as usize);
            let mut crc = crc32fast::Hasher::new();
            crc.update(&tensors[at..end]);
            crc
        });
        let metadata = &mut header["__metadata__"];
        metadata["checksum"] = checksum(checksums, metadata["model"].as_str().unwrap()).into();
        with_header(&header, tensors)
    }

    #[test]
    fn a_file_that_ends_early_or_late_is_damaged() {
        let (file, _, tensors_at) = small();
        // All places in the header and after it, and some in the tensors.
        for length in (0..tensors_at + 64).chain((tensors_at..file.len()).step_by(4999)).chain(file.len() - 64..file.len()) {
            let error = error_of(&file[..length]);
            assert!(error.starts_with("small: not a safetensors file, or a damaged one"), "{length}: {error}");
            // The same if it becomes shorter while it is read.
            let shrinking = ModelFile::open(&file[..length], file.len() as u64, Path::new("small")).and_then(|file| file.model());
            assert!(matches!(shrinking, Err(ModelError::Damaged { .. })), "{length}");
        }
        assert!(error_of(&[&file[..], b"\0"].concat()).contains("not fully covered"));
    }

    #[test]
    fn a_header_that_does_not_describe_the_file_is_damaged() {
        let (file, header, tensors_at) = small();
        let tensors = &file[tensors_at..];
        assert!(Model::from_bytes(&with_header(&header, tensors), Path::new("small")).is_ok());
        let offsets = |name: &str, i: usize| header[name]["data_offsets"][i].as_u64().unwrap();
        let lie = |name: &str, key: &str, value: serde_json::Value, why: &str| {
            let mut header = header.clone();
            header[name][key] = value;
            let error = error_of(&with_header(&header, tensors));
            assert!(error.contains("damaged one") && error.contains(why), "{name} {key}: {error}");
        };
        let (at, end) = (offsets("weight", 0), offsets("weight", 1));
        for [at, end] in [[at - 1, end], [at + 1, end], [end, at], [at, end + (1 << 40)], [0, end], [at, u64::MAX]] {
            lie("weight", "data_offsets", [at, end].into(), "offset");
        }
        lie("weight", "shape", [end - at + 1].into(), "invalid shape");
        lie("weight", "shape", [1u64 << 40, 1 << 40].into(), "overflow");
        lie("weight", "shape", [-1].into(), "its header");
        lie("weight", "dtype", "U8".into(), "tensor 'weight' is missing or of another type");
        lie("__metadata__", "model", "{}".into(), "checksum");
        // A tensor that ends where another one begins, and lies about both.
        let mut longer = header.clone();
        longer["weight"] = serde_json::json!({"dtype": "I8", "shape": [end - at + 8], "data_offsets": [at, end + 8]});
        assert!(error_of(&with_header(&longer, tensors)).contains("not fully covered"));
        for length in [u64::MAX, u64::MAX - 7, 1 << 40, MAX_HEADER, file.len() as u64 - 7] {
            let error = error_of(&[&length.to_le_bytes(), &file[8..]].concat());
            assert!(error.contains("header too large") || error.contains("invalid header length"), "{length}: {error}");
        }
    }

    #[test]
    fn tensors_that_contradict_each_other_are_named() {
        let (file, header, tensors_at) = small();
        let offsets = |name: &str| [0, 1].map(|i| header[name]["data_offsets"][i].as_u64().unwrap() as usize);
        let changed = |name: &str, at: usize, bytes: &[u8]| {
            let mut tensors = file[tensors_at..].to_vec();
            let at = offsets(name)[0] + at;
            tensors[at..at + bytes.len()].copy_from_slice(bytes);
            assert!(error_of(&with_header(&header, &tensors)).contains("its checksum is wrong"));
            error_of(&sealed(header.clone(), &tensors))
        };
        let order = "small: the model contradicts itself: its weights are out of order";
        assert_eq!(changed("start", 0, &1u32.to_le_bytes()), order);
        assert_eq!(changed("start", 4, &u32::MAX.to_le_bytes()), order);
        // An input with more synapses than there are neurons.
        let [at, end] = offsets("start");
        let most = u32::from_le_bytes(file[tensors_at + end - 4..][..4].try_into().unwrap());
        assert_eq!(changed("start", 4, &most.to_le_bytes().repeat((end - at) / 4 - 1)), order);
        assert_eq!(changed("neuron", 0, &9u16.to_le_bytes()), order);
        assert!(changed("gain", 0, &f32::NAN.to_le_bytes()).ends_with("a gain is not a finite number"));
    }

    /// A file whose last byte changes after it was read a number of times.
    struct Changing(Vec<u8>, std::cell::Cell<u32>);

    impl ReadAt for Changing {
        fn read_at(&self, at: u64, to: &mut [u8]) -> io::Result<usize> {
            let read = self.0.as_slice().read_at(at, to)?;
            if read > 0 && at as usize + read == self.0.len() {
                match self.1.get() {
                    0 => to[read - 1] ^= 1,
                    left => self.1.set(left - 1),
                }
            }
            Ok(read)
        }
    }

    #[test]
    fn weights_that_change_between_two_readings_are_noticed() {
        let mut model = Model::built_in().unwrap();
        let (inputs, classes) = (model.layout.input_count(), 600);
        let row: Vec<_> = NeuronId::first(classes).map(|neuron| (neuron, 7)).collect();
        let read = |each: &mut EachRow<'_>| {
            (0..inputs).for_each(|input| each(input, if input < 9 { &row } else { &[] }));
            Ok(())
        };
        model.network = Network::from_rows::<io::Error>(inputs, vec![0.01; classes], read).unwrap();
        assert!(model.network.groups().is_some());
        model.classes = (0..classes).map(|class| class.to_string()).collect();
        model.decision.assignments = crate::stream::Assignments::one_each(classes);
        model.decision.theta = vec![0.5; classes];
        model.decision.accept = vec![0.5; classes];
        let file = model.to_bytes();
        let read = |times: u32| {
            let bytes = Changing(file.clone(), times.into());
            let file = ModelFile::open(&bytes, file.len() as u64, Path::new("protocols"))?;
            file.model()
        };
        assert!(read(2).unwrap() == model);
        for times in [0, 1] {
            assert!(read(times).unwrap_err().to_string().contains("its checksum is wrong"), "{times}");
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
