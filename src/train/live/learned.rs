//! Learned neurons and their files: one neuron per class, with its anchors, streams by which later neurons of the class
//! are judged.
//!
//! Each model has two files in one folder, beside the replay buffer (`super::replay_buffer`). Each file is replaced atomically:
//! `MODEL.safetensors` is a model of the learned classes, `MODEL.anchors.json` has the anchors (slot values by class). The anchors of a class
//! apply to any neuron of that class, so the two files need not be of the same save.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::atomic_write::replace;
use crate::encode::SILENT;
use crate::model::{Model, ModelError, PartsError};

use super::{StreamSlots, gate};

/// Largest number of anchors of a class. A later neuron is refused if it names fewer than nine in ten of them and fewer than the neuron
/// before.
const ANCHORS: usize = 32;

/// The learned neuron of one class.
#[derive(Clone, Debug)]
struct LearnedNeuron {
    /// The neuron, as a model of one class, trained on the whole replay buffer.
    neuron: Model,
    /// Its twin, trained without the held-back streams. Later neurons, trained likewise, are compared with this one. It is not saved: a neuron
    /// that was loaded is its own twin, which looks better on held-back streams than it is, so that it is replaced later rather than sooner.
    judged: Model,
    /// Held-back streams that a neuron of the class named correctly when it was taken over, the earliest [`ANCHORS`] of them. Junk traffic
    /// that matches a teacher's filter can add anchors while there is room, but not remove any. Removing the two files removes them all.
    anchors: Vec<StreamSlots>,
}

/// The learned neurons of a model, by class.
#[derive(Clone, Debug, Default)]
pub struct LearnedNeurons(BTreeMap<String, LearnedNeuron>);

fn model_file(folder: &Path, model: &str) -> PathBuf {
    folder.join(format!("{model}.safetensors"))
}

fn anchors_file(folder: &Path, model: &str) -> PathBuf {
    folder.join(format!("{model}.anchors.json"))
}

/// Reason why learned neurons or a replay buffer can't be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "fields of the messages")]
pub enum LearnedError {
    /// A model file cannot be read or written.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
}

impl LearnedNeurons {
    /// Reads what [`LearnedNeurons::save`] wrote for the model of that name; `None` if there is no file of neurons. Without a file of anchors
    /// the neurons have none.
    ///
    /// # Errors
    /// A file can't be read or is damaged.
    pub fn load(folder: &Path, model: &str) -> Result<Option<Self>, LearnedError> {
        let file = model_file(folder, model);
        if !file.exists() {
            return Ok(None);
        }
        let part = Model::load(&file)?;
        let path = anchors_file(folder, model);
        let anchors = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(std::io::Error::from),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        };
        Ok(Some(Self::of(&part, anchors.map_err(|source| LearnedError::File { path, source })?)))
    }

    /// Writes both files; does nothing without neurons. The anchors contain header and payload bytes of streams (of addresses those of multicast
    /// groups alone), so that file is readable by its owner only.
    ///
    /// # Errors
    /// The folder can't be written. Each file is then complete, in its old or its new state.
    pub fn save(&self, folder: &Path, model: &str) -> Result<(), LearnedError> {
        let Some(part) = self.part() else { return Ok(()) };
        let path = anchors_file(folder, model);
        let anchors = serde_json::to_vec(&self.anchors()).map_err(std::io::Error::from);
        let written = anchors.and_then(|bytes| replace(&path, 0o600, &bytes));
        written.map_err(|source| LearnedError::File { path, source })?;
        Ok(part.save(&model_file(folder, model))?)
    }

    /// The neurons of a part, with their anchors by class. Anchors that cannot be packets of the part's layout are dropped.
    pub fn of(part: &Model, mut anchors: BTreeMap<String, Vec<StreamSlots>>) -> Self {
        let others = |class: &String| part.classes.iter().filter(|c| *c != class).cloned().collect::<Vec<_>>();
        let width = part.layout.slots().len();
        let fits = |s: &StreamSlots| s.len().is_multiple_of(width) && s.iter().all(|&v| v < 256 || v == SILENT);
        let neurons = part.classes.iter().filter_map(|class| {
            let mut anchors = anchors.remove(class).unwrap_or_default();
            anchors.retain(fits);
            anchors.truncate(ANCHORS);
            let neuron = part.without_classes(&others(class)).ok()?;
            Some((class.clone(), LearnedNeuron { judged: neuron.clone(), neuron, anchors }))
        });
        Self(neurons.collect())
    }

    /// All neurons as one model; `None` without any.
    pub fn part(&self) -> Option<Model> {
        side_by_side(self.0.values().map(|learned| &learned.neuron))
    }

    /// The anchors, by class.
    fn anchors(&self) -> BTreeMap<&str, &[StreamSlots]> {
        self.0.iter().map(|(class, learned)| (class.as_str(), learned.anchors.as_slice())).collect()
    }

    /// The model with the learned neurons, in place of its own neurons of the same classes.
    ///
    /// # Errors
    /// The model has another key or layout than the neurons.
    pub fn applied(&self, model: &Model) -> Result<Model, PartsError> {
        self.part().map_or_else(|| Ok(model.clone()), |part| model.with_part(&part))
    }

    /// Whether there are no neurons.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, class: &str) -> bool {
        self.0.contains_key(class)
    }

    /// The neuron of a class, as a model of that class alone: weights and thresholds, without anchors.
    pub fn neuron(&self, class: &str) -> Option<&Model> {
        self.0.get(class).map(|learned| &learned.neuron)
    }

    /// The classes, sorted by name.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn anchors_of(&self, class: &str) -> &[StreamSlots] {
        self.0.get(class).map_or(&[], |learned| &learned.anchors)
    }

    /// The model with the twins that were trained without the held-back streams; `None` if they do not fit the model.
    pub(super) fn as_judged(&self, model: &Model) -> Option<Model> {
        let part = side_by_side(self.0.values().map(|learned| &learned.judged));
        part.map_or_else(|| Some(model.clone()), |part| model.with_part(&part).ok())
    }

    /// Takes over a neuron and its twin. The streams of `held` that `model`, which contains the twin, names correctly become anchors while
    /// there is room.
    pub(super) fn take_over(&mut self, class: &str, neuron: Model, judged: Model, model: &Model, held: &[StreamSlots]) {
        let mut anchors = self.0.remove(class).map_or_else(Vec::new, |learned| learned.anchors);
        for stream in held {
            if anchors.len() < ANCHORS && !anchors.contains(stream) && gate::named(model, stream) == Some(class) {
                anchors.push(stream.clone());
            }
        }
        self.0.insert(class.into(), LearnedNeuron { neuron, judged, anchors });
    }
}

/// One model of several models of one class each; `None` without any.
pub(super) fn side_by_side<'a>(mut neurons: impl Iterator<Item = &'a Model>) -> Option<Model> {
    let first = neurons.next()?.clone();
    neurons.try_fold(first, |part, neuron| part.with_part(neuron)).ok()
}
