//! Preflight check: loads and checks what the settings refer to (models, folders, interfaces, policies), for the start, each reload
//! and `spiked check`.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::capture;
use crate::config::{Config, Disposition, Input, ModelSource, SinkKind};
use crate::engine::Models;
use crate::model::Model;

use super::policy::{Policies, unknown_targets};

/// What the settings refer to, loaded and checked.
pub struct Preflight {
    /// Loaded models, in the order of the settings.
    pub models: Models,
    /// Compiled policies.
    pub policies: Policies,
    /// Problems that do not prevent the start, for example an interface that does not exist yet.
    pub warnings: Vec<String>,
}

/// Loads and checks what the settings refer to.
///
/// # Errors
/// All mistakes, one message each.
pub fn preflight(config: &Config) -> Result<Preflight, Vec<String>> {
    let (mut wrong, mut warnings) = (Vec::new(), Vec::new());
    let models = load_models(config, &mut wrong);
    let complete = models.len() == config.models.len();
    #[cfg(feature = "fleet")]
    let models = match &config.fleet {
        Some(fleet) => super::fleet::with_good_copies(fleet, models, &mut warnings),
        None => models,
    };
    let policies = Policies::new(&config.policies).unwrap_or_else(|error| {
        wrong.push(format!("policies: {error}"));
        Policies::default()
    });
    if complete {
        wrong.extend(unknown_targets(&config.policies, &config.teachers, &models));
        check_teachers(config, &models, &mut wrong, &mut warnings);
    }
    check_input(&config.input, &mut wrong, &mut warnings);
    for sink in &config.sinks {
        if let SinkKind::File { path } = &sink.kind {
            parent(&format!("sink '{}'", sink.name), path, &mut wrong);
        }
    }
    if let Some(learned) = &config.learning.folder {
        folder("learning.folder", learned, &mut wrong);
    }
    if let Some(spool) = config.fleet.as_ref().and_then(|fleet| fleet.spool.as_ref()) {
        folder("fleet.spool", spool, &mut wrong);
    }
    if let Some(models) = config.fleet.as_ref().and_then(|fleet| fleet.model_folder.as_ref()) {
        folder("fleet.model_folder", models, &mut wrong);
    }
    if let Some(evidence) = &config.evidence {
        folder("evidence.folder", &evidence.folder, &mut wrong);
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(Preflight { models, policies, warnings })
}

fn load_models(config: &Config, wrong: &mut Vec<String>) -> Models {
    let mut models = Models::new();
    for source in &config.models {
        let model = match source {
            ModelSource::BuiltIn => Model::built_in(),
            ModelSource::File(path) => Model::open(path),
        };
        match model {
            Ok(model) => models.push(Arc::new(model)),
            Err(error) => wrong.push(format!("models: {error}")),
        }
    }
    models
}

fn check_teachers(config: &Config, models: &Models, wrong: &mut Vec<String>, warnings: &mut Vec<String>) {
    for (number, teacher) in config.teachers.iter().enumerate() {
        let class = &teacher.class;
        let first = config.teachers[..number].iter().find(|t| t.class == *class && t.model == teacher.model);
        if first.is_some_and(|first| {
            (&first.mask, first.learning_rate, first.freeze) != (&teacher.mask, teacher.learning_rate, teacher.freeze)
        }) {
            warnings.push(format!("the teachers of '{class}' differ in mask, learning_rate or freeze; those of the first apply"));
        }
        let Some(model) = models.iter().find(|m| teacher.model.as_ref().is_none_or(|name| m.name == *name)) else {
            let name = teacher.model.as_deref().unwrap_or_default();
            wrong.push(format!("the teacher of '{class}' names model '{name}', which is not among `models`"));
            continue;
        };
        let mut layout = model.layout.clone();
        let unknown = teacher.mask.iter().filter_map(|name| layout.mask(name).err());
        wrong.extend(unknown.map(|error| format!("the teacher of '{class}', mask: {error}")));
    }
}

fn check_input(input: &Input, wrong: &mut Vec<String>, warnings: &mut Vec<String>) {
    match input {
        Input::Interfaces(interfaces) => {
            let exists = |name: &str| name == "any" || Path::new("/sys/class/net").join(name).exists();
            for missing in interfaces.iter().filter(|i| !exists(&i.name)) {
                warnings.push(format!("interface {} does not exist; it will be opened when it appears", missing.name));
            }
        }
        Input::Replay(replay) => {
            if let Err(error) = capture::expand(&replay.captures) {
                wrong.push(format!("replay.captures: {error}"));
            }
            for missing in replay.captures.iter().filter(|c| !c.exists()) {
                wrong.push(format!("replay.captures: {}: no such file or folder", missing.display()));
            }
        }
        Input::Watch(watch) => {
            folder("watch.folder", &watch.folder, wrong);
            if let (Disposition::Move, Some(to)) = (watch.on_success, &watch.move_to) {
                parent("watch.move_to", to, wrong);
            }
        }
    }
}

fn folder(setting: &str, path: &Path, wrong: &mut Vec<String>) {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => wrong.push(format!("{setting}: {} is not a folder", path.display())),
        Err(error) => {
            wrong.push(format!("{setting}: {}: {error}; create it, writable for the user that spiked runs as", path.display()))
        }
    }
}

fn parent(setting: &str, path: &Path, wrong: &mut Vec<String>) {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder(setting, parent, wrong);
}
