//! Who learns while it runs? A thread beside the hot path hears sampled streams, asks the teachers of the settings whose they are,
//! and publishes models with better neurons, whole, in the place of those that run ([`thread`]).
//!
//! What was learned is part of the models that run, of every model that a reload brings, and of a file for each model
//! (`learning.folder`), which is written whole or not at all and read at the start.

mod streams;
mod thread;

use std::collections::BTreeMap;
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

impl Teaching {
    /// What was learned before, of the models that run.
    pub fn restore(config: &config::Learning, models: &Models) -> Self {
        let teaching = Self::default();
        let Some(folder) = &config.folder else { return teaching };
        for model in models {
            match Learned::load(folder, &model.name) {
                Ok(None) => {}
                Ok(Some(learned)) => {
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
