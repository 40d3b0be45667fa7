//! Who learns while it runs? A thread beside the hot path hears sampled streams, asks the teachers of the settings whose they are,
//! and publishes models with better neurons, whole, in the place of those that run ([`thread`]).
//!
//! What was learned is part of the models that run, of every model that a reload brings, and of a file for each model
//! (`learning.folder`), which is written whole or not at all and read at the start.

mod streams;
mod thread;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use tracing::{info, warn};

use crate::config;
use crate::engine::Models;
use crate::export::status::{self, Loaded};
use crate::model::Model;
use crate::train::live::Learned;

use super::mailbox::Mailbox;
use super::state::lock;

pub(super) use thread::{Desk, start};

/// What the teaching thread and others share.
#[derive(Default)]
pub(super) struct Teaching {
    /// By the model's name.
    learned: Mutex<BTreeMap<String, Learned>>,
    /// The teachers from now on.
    pub teachers: Mailbox<Vec<config::Teacher>>,
    status: Mutex<status::Learning>,
}

/// The neurons that were learned, as a model.
fn file(folder: &Path, model: &str) -> PathBuf {
    folder.join(format!("{model}.safetensors"))
}

/// Streams on which later neurons may not do worse, by class: slot values, as JSON.
fn anchors_file(folder: &Path, model: &str) -> PathBuf {
    folder.join(format!("{model}.anchors.json"))
}

/// Reads what [`keep`] wrote.
fn read(folder: &Path, model: &str) -> Result<Learned, String> {
    let part = Model::load(&file(folder, model)).map_err(|error| error.to_string())?;
    let path = anchors_file(folder, model);
    let anchors = match std::fs::read(&path) {
        Ok(octets) => serde_json::from_slice(&octets).map_err(|error| format!("{}: {error}", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    Ok(Learned::of(&part, anchors))
}

/// Writes each file whole or not at all; what it says of a class holds for other neurons of the class too.
fn keep(folder: &Path, model: &str, learned: &Learned) -> Result<(), String> {
    let Some(part) = learned.part() else { return Ok(()) };
    let path = anchors_file(folder, model);
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer(&mut file, &learned.anchors())?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        std::io::Result::Ok(())
    };
    write().map_err(|error| format!("{}: {error}", path.display()))?;
    part.save(&file(folder, model)).map_err(|error| error.to_string())
}

impl Teaching {
    /// What was learned before, of the models that run.
    pub fn restore(config: &config::Learning, models: &Models) -> Self {
        let teaching = Self::default();
        for model in models {
            let Some(folder) = config.folder.as_ref().filter(|folder| file(folder, &model.name).exists()) else { continue };
            match read(folder, &model.name) {
                Ok(learned) => {
                    info!(model = model.name, classes = learned.classes().count(), "learned before");
                    lock(&teaching.learned).insert(model.name.clone(), learned);
                }
                Err(error) => warn!("what was learned before is lost: {error}"),
            }
        }
        teaching
    }

    /// What was learned, held so that nobody publishes meanwhile.
    pub fn hold(&self) -> Held<'_> {
        Held(lock(&self.learned))
    }

    pub fn status(&self) -> status::Learning {
        lock(&self.status).clone()
    }
}

/// What was learned, by the model's name.
pub(super) struct Held<'a>(MutexGuard<'a, BTreeMap<String, Learned>>);

impl Held<'_> {
    /// Makes what was learned part of the models; what is told of each, its checksum being that of the file it was read from.
    pub fn apply(&self, models: &mut Models) -> Vec<Loaded> {
        let one = |model: &mut Arc<Model>| {
            let loaded = Loaded::now(Arc::clone(model));
            if let Some(learned) = self.0.get(&model.name).filter(|learned| !learned.is_empty()) {
                match learned.applied(model) {
                    Ok(with) => *model = Arc::new(with),
                    Err(error) => warn!("what was learned does not fit the model: {error}"),
                }
            }
            Loaded { model: Arc::clone(model), ..loaded }
        };
        models.iter_mut().map(one).collect()
    }
}
