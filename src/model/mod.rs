//! Trained models: a network with its layout, its decision and the names of its classes.
//!
//! The file format ([`Model::load`], [`Model::save`]) is described in `file.rs`: safetensors with int8 weights as compressed sparse rows.

mod classifier;
mod file;
mod forward;
#[cfg(feature = "nir")]
mod nir;
mod one_shot;
mod parts;

pub use classifier::{Classifier, StreamEvidence};
pub use file::{Description, ModelError};
pub use forward::ForwardPass;
pub use parts::{ClassSources, PartsError};

use serde::{Deserialize, Serialize};

use crate::encode::Layout;
use crate::episode::EpisodeRule;
use crate::packet::KeyKind;
use crate::snn::Network;
use crate::stream::Decision;

/// Largest number of classes of a model.
pub const MAX_CLASSES: usize = 16_384;

/// Origin of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of the program that trained it.
    pub trained_with: String,
    /// Seed of the training.
    pub seed: u64,
    /// Names of the label files.
    pub labels: Vec<String>,
    /// Number of captures.
    pub captures: usize,
    /// Streams that each class was trained on, `[class]`.
    pub streams: Vec<u64>,
    /// Packets that each class was trained on, `[class]`.
    pub packets: Vec<u64>,
    /// Whether packets of classes with few streams were also presented with their ports alone ([`crate::train::TrainSettings`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ports_alone: bool,
    /// Label files of the reference streams that confidence and acceptance were calibrated on; empty if these are the training streams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reference: Vec<String>,
}

/// A trained classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Name of the model in events: the name of its file without the extension.
    pub name: String,
    /// Kind of stream that it classifies.
    pub key: KeyKind,
    /// Names of the classes, `[class]`.
    pub classes: Vec<String>,
    /// The slots and inputs of a packet.
    pub layout: Layout,
    /// The neurons and their weights.
    pub network: Network,
    /// From potentials to a class.
    pub decision: Decision,
    /// Classes whose flows make episodes; empty for most models.
    pub episodes: Vec<EpisodeRule>,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// Whether a class may have this name. Names are shown on terminals, so they must not contain control characters.
pub fn is_class_name(name: &str) -> bool {
    !name.chars().any(char::is_control)
}
