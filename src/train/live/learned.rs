//! What was learned, and how does it rest on disk? One neuron a class, each with the streams on which later ones may do no worse.
//!
//! Two files a model in one folder, beside the replay buffer (`super::replay_buffer`), each written whole or not at all: `MODEL.safetensors` is a model of the learned classes,
//! `MODEL.anchors.json` has their anchors (slot values by class). What the second says of a class holds for whatever neuron of the
//! class is in the first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::atomic_write::replace;
use crate::encode::SILENT;
use crate::model::{Model, ModelError, PartsError};

use super::{StreamSlots, gate};

/// Own streams of a class on which later neurons may not do worse, but for one in ten of them.
const ANCHORS: usize = 32;

/// What was learned of one class.
#[derive(Clone, Debug)]
struct LearnedNeuron {
    /// The neuron, as a model of one class: made of all that was remembered.
    neuron: Model,
    /// Its twin that was not shown what was held back: later ones are judged beside this one, like with like.
    judged: Model,
    /// Streams held back that a neuron of the class was right about when it was taken over: later ones must be, too. Whoever sends
    /// junk where the teacher listens can add to them, and take nothing away.
    anchors: Vec<StreamSlots>,
}

/// The neurons that were learned.
#[derive(Clone, Debug, Default)]
pub struct LearnedNeurons(BTreeMap<String, LearnedNeuron>);

fn model_file(folder: &Path, model: &str) -> PathBuf {
    folder.join(format!("{model}.safetensors"))
}

fn anchors_file(folder: &Path, model: &str) -> PathBuf {
    folder.join(format!("{model}.anchors.json"))
}

/// Why what was learned can't be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum LearnedError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("{path}: {source}")]
    Beside { path: PathBuf, source: std::io::Error },
}

impl LearnedNeurons {
    /// Reads what [`LearnedNeurons::save`] wrote of the model of that name; `None` where it wrote nothing.
    ///
    /// # Errors
    /// Files that can't be read, or are damaged.
    pub fn load(folder: &Path, model: &str) -> Result<Option<Self>, LearnedError> {
        let file = model_file(folder, model);
        if !file.exists() {
            return Ok(None);
        }
        let part = Model::load(&file)?;
        let path = anchors_file(folder, model);
        let anchors = match std::fs::read(&path) {
            Ok(octets) => serde_json::from_slice(&octets).map_err(std::io::Error::from),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        };
        Ok(Some(Self::of(&part, anchors.map_err(|source| LearnedError::Beside { path, source })?)))
    }

    /// Keeps it, where there is any. The anchors, header octets of streams, are for the program's own user.
    ///
    /// # Errors
    /// Where the folder can't be written; each file is then whole, the old or the new one.
    pub fn save(&self, folder: &Path, model: &str) -> Result<(), LearnedError> {
        let Some(part) = self.part() else { return Ok(()) };
        let path = anchors_file(folder, model);
        let anchors = serde_json::to_vec(&self.anchors()).map_err(std::io::Error::from);
        let written = anchors.and_then(|octets| replace(&path, 0o600, &octets));
        written.map_err(|source| LearnedError::Beside { path, source })?;
        Ok(part.save(&model_file(folder, model))?)
    }

    /// The neurons of a part, with their anchors by class. Of those that don't fit the layout none are used.
    pub fn of(part: &Model, mut anchors: BTreeMap<String, Vec<StreamSlots>>) -> Self {
        let others = |class: &String| part.classes.iter().filter(|c| *c != class).cloned().collect::<Vec<_>>();
        let width = part.layout.slots().len();
        let fits = |s: &StreamSlots| s.len().is_multiple_of(width) && s.iter().all(|&v| v < 256 || v == SILENT);
        let skills = part.classes.iter().filter_map(|class| {
            let mut anchors = anchors.remove(class).unwrap_or_default();
            anchors.retain(fits);
            anchors.truncate(ANCHORS);
            let neuron = part.without_classes(&others(class)).ok()?;
            Some((class.clone(), LearnedNeuron { judged: neuron.clone(), neuron, anchors }))
        });
        Self(skills.collect())
    }

    /// All of them side by side; `None` where there are none.
    pub fn part(&self) -> Option<Model> {
        side_by_side(self.0.values().map(|skill| &skill.neuron))
    }

    /// The streams on which later neurons may not do worse, by class.
    fn anchors(&self) -> BTreeMap<&str, &[StreamSlots]> {
        self.0.iter().map(|(class, skill)| (class.as_str(), skill.anchors.as_slice())).collect()
    }

    /// A model with them.
    ///
    /// # Errors
    /// A model of another key or layout than what was learned.
    pub fn applied(&self, model: &Model) -> Result<Model, PartsError> {
        self.part().map_or_else(|| Ok(model.clone()), |part| model.with_part(&part))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, class: &str) -> bool {
        self.0.contains_key(class)
    }

    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn anchors_of(&self, class: &str) -> &[StreamSlots] {
        self.0.get(class).map_or(&[], |skill| &skill.anchors)
    }

    /// A model with the twins that were not shown what was held back.
    pub(super) fn as_judged(&self, model: &Model) -> Option<Model> {
        let part = side_by_side(self.0.values().map(|skill| &skill.judged));
        part.map_or_else(|| Some(model.clone()), |part| model.with_part(&part).ok())
    }

    /// Takes over a neuron; what `model`, which has its twin, is right about among `held` becomes an anchor while there is room.
    pub(super) fn take_over(&mut self, class: &str, neuron: Model, judged: Model, model: &Model, held: &[StreamSlots]) {
        let mut anchors = self.0.remove(class).map_or_else(Vec::new, |skill| skill.anchors);
        for stream in held {
            if anchors.len() < ANCHORS && !anchors.contains(stream) && gate::named(model, stream) == Some(class) {
                anchors.push(stream.clone());
            }
        }
        self.0.insert(class.into(), LearnedNeuron { neuron, judged, anchors });
    }
}

/// Models of one class each as one; `None` where there are none.
pub(super) fn side_by_side<'a>(mut neurons: impl Iterator<Item = &'a Model>) -> Option<Model> {
    let first = neurons.next()?.clone();
    neurons.try_fold(first, |part, neuron| part.with_part(neuron)).ok()
}
