//! Who learns while it runs? A thread beside the hot path hears sampled streams, asks the teachers of the settings whose they are,
//! and publishes models with better neurons, whole, in the place of those that run ([`thread`]).
//!
//! What was learned is part of the models that run, of every model that a reload brings, and of a file for each model
//! (`learning.folder`), which is written whole or not at all and read at the start.

mod streams;
mod thread;

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_utils::atomic::AtomicCell;
use parking_lot::{Mutex, MutexGuard};
use tracing::{info, warn};

use crate::config;
use crate::engine::Models;
use crate::export::status::{self, LoadedModel};
use crate::model::Model;
use crate::train::live::LearnedNeurons;

pub(super) use thread::{LearningContext, start};

/// What the teaching thread and others share.
#[derive(Default)]
pub(super) struct SharedLearning {
    /// By the model's name.
    learned: Mutex<BTreeMap<String, LearnedNeurons>>,
    /// Teachers of a reload that the learning thread has not taken yet.
    pub new_teachers: AtomicCell<Option<Box<Vec<config::TeacherConfig>>>>,
    status: Mutex<status::LearningStatus>,
}

impl SharedLearning {
    /// What was learned before, of the models that run.
    pub fn restore(config: &config::LearningConfig, models: &Models) -> Self {
        let teaching = Self::default();
        let Some(folder) = &config.folder else { return teaching };
        for model in models {
            match LearnedNeurons::load(folder, &model.name) {
                Ok(None) => {}
                Ok(Some(learned)) => {
                    info!(model = model.name, classes = learned.classes().count(), "learned before");
                    teaching.learned.lock().insert(model.name.clone(), learned);
                }
                Err(error) => warn!("what was learned before is lost: {error}"),
            }
        }
        teaching
    }

    /// What was learned, held so that nobody publishes meanwhile.
    pub fn hold(&self) -> LearnedGuard<'_> {
        LearnedGuard(self.learned.lock())
    }

    pub fn status(&self) -> status::LearningStatus {
        self.status.lock().clone()
    }
}

/// What was learned, by the model's name.
pub(super) struct LearnedGuard<'a>(MutexGuard<'a, BTreeMap<String, LearnedNeurons>>);

impl LearnedGuard<'_> {
    /// Makes what was learned part of the models; what is told of each, its checksum being that of the file it was read from.
    pub fn apply(&self, models: &mut Models) -> Vec<LoadedModel> {
        let one = |model: &mut Arc<Model>| {
            let loaded = LoadedModel::now(Arc::clone(model));
            if let Some(learned) = self.0.get(&model.name).filter(|learned| !learned.is_empty()) {
                match learned.applied(model) {
                    Ok(with) => *model = Arc::new(with),
                    Err(error) => warn!("what was learned does not fit the model: {error}"),
                }
            }
            LoadedModel { model: Arc::clone(model), ..loaded }
        };
        models.iter_mut().map(one).collect()
    }
}
