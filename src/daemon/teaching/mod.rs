//! Live learning: a thread ([`thread`]) receives sampled streams from the engine, labels them with the teachers of the settings, trains
//! neurons on them, and replaces the running models with models that contain the better neurons.
//!
//! Learned neurons are added to every model that a reload loads, and saved to one file per model (`learning.folder`), which is written
//! atomically and loaded at the start.

mod streams;
mod thread;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tracing::{info, warn};

use crate::config;
use crate::engine::Models;
use crate::export::status::{self, LoadedModel};
use crate::model::Model;
use crate::train::live::LearnedNeurons;

use super::PendingUpdate;

#[cfg_attr(not(feature = "fleet"), expect(unused_imports, reason = "parts are published to a fleet only"))]
pub(super) use thread::{LearningContext, OnAccepted, start};

/// State shared by the learning thread and the rest of the daemon.
#[derive(Default)]
pub(super) struct SharedLearning {
    /// Learned neurons by model name.
    learned: Mutex<BTreeMap<String, LearnedNeurons>>,
    /// Teachers of a reload that the learning thread has not taken yet.
    pub new_teachers: PendingUpdate<Vec<config::TeacherConfig>>,
    status: Mutex<status::LearningStatus>,
}

impl SharedLearning {
    /// Loads the learned neurons of the models from `learning.folder`.
    pub fn restore(config: &config::LearningConfig, models: &Models) -> Self {
        let shared = Self::default();
        let Some(folder) = &config.folder else { return shared };
        for model in models {
            match LearnedNeurons::load(folder, &model.name) {
                Ok(None) => {}
                Ok(Some(learned)) => {
                    info!(model = model.name, classes = learned.classes().count(), "learned neurons loaded");
                    shared.learned.lock().insert(model.name.clone(), learned);
                }
                Err(error) => warn!("can't load the learned neurons, starting without them: {error}"),
            }
        }
        shared
    }

    /// Locks the learned neurons, so that no model is published meanwhile.
    pub fn hold(&self) -> LearnedGuard<'_> {
        LearnedGuard(self.learned.lock())
    }

    /// The model with the neurons that were learned for it.
    #[cfg(feature = "fleet")]
    pub fn with_learned(&self, model: &Model) -> Option<Model> {
        let learned = self.learned.lock();
        learned.get(&model.name).map_or_else(|| Some(model.clone()), |learned| learned.applied(model).ok())
    }

    pub fn status(&self) -> status::LearningStatus {
        self.status.lock().clone()
    }
}

/// Locked learned neurons, by model name.
pub(super) struct LearnedGuard<'a>(MutexGuard<'a, BTreeMap<String, LearnedNeurons>>);

impl LearnedGuard<'_> {
    /// Adds the learned neurons to the models. Returns the status entry of each, with the checksum of the model's file.
    pub fn apply(&self, models: &mut Models) -> Vec<LoadedModel> {
        let one = |model: &mut Arc<Model>| {
            let loaded = LoadedModel::now(Arc::clone(model));
            if let Some(learned) = self.0.get(&model.name).filter(|learned| !learned.is_empty()) {
                match learned.applied(model) {
                    Ok(with) => *model = Arc::new(with),
                    Err(error) => warn!("the learned neurons do not fit the model: {error}"),
                }
            }
            LoadedModel { model: Arc::clone(model), ..loaded }
        };
        models.iter_mut().map(one).collect()
    }
}
