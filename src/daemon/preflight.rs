//! Preflight check: loads and checks what the settings refer to (models, folders, interfaces, policies), for the start, each reload
//! and `spiked check`.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::capture;
use crate::config::{Config, ConfigError, Disposition, Input, Mistake, ModelSource, Places, ProcessConfig, SinkKind};
use crate::engine::Models;
use crate::model::Model;

use super::ConfigSource;
use super::harden::{find_user, folder_of};
use super::policy::{Policies, unknown_targets};

/// What the settings refer to, loaded and checked.
pub struct Preflight {
    /// Loaded models, in the order of the settings.
    pub models: Models,
    /// Compiled policies.
    pub policies: Policies,
    /// Problems that do not prevent the start, for example an interface that does not exist yet.
    pub warnings: Vec<Mistake>,
}

/// Mistakes in what the settings refer to.
struct Found<'a> {
    places: &'a Places,
    wrong: Vec<Mistake>,
    warnings: Vec<Mistake>,
}

impl Found<'_> {
    /// Reports a mistake in the setting `key`, such as `policies.0.class`.
    fn wrong(&mut self, key: &str, what: String) {
        self.wrong.push(self.places.mistake(key, what));
    }

    fn warning(&mut self, key: &str, what: String) {
        self.warnings.push(self.places.mistake(key, what));
    }

    fn folder(&mut self, key: &str, path: &Path) {
        if let Some(what) = folder_problem(key, path) {
            self.wrong(key, what);
        }
    }
}

/// Why `path`, which the setting `key` gives or which holds a file that it gives, is not a folder; `None` if it is one.
fn folder_problem(key: &str, path: &Path) -> Option<String> {
    // The setting without its index: sinks.path.
    let setting: Vec<&str> = key.split('.').filter(|part| part.parse::<usize>().is_err()).collect();
    let shown = format!("{}: {}", setting.join("."), path.display());
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => None,
        Ok(_) => Some(format!("{shown} is not a folder; give a folder")),
        Err(error) => Some(format!("{shown}: {error}; create it, writable for the user that spiked runs as")),
    }
}

/// Reads the settings and checks what they refer to, as far as possible if some of them are wrong.
///
/// # Errors
/// The file can't be read, or there are mistakes: all of them are returned.
pub fn check(source: &ConfigSource) -> Result<(Config, Preflight), ConfigError> {
    let (mut mistakes, rest) = match source.load() {
        Ok(config) => {
            let preflight = preflight(&config, true)?;
            return Ok((config, preflight));
        }
        Err(ConfigError::Mistakes { mistakes, rest: Some(rest) }) => (mistakes, rest),
        Err(error) => return Err(error),
    };
    if let Err(ConfigError::Mistakes { mistakes: mut more, .. }) = preflight(&rest, true) {
        more.retain(|mistake| mistakes.iter().all(|known| known.at != mistake.at));
        mistakes.append(&mut more);
        mistakes.sort_by_key(|mistake| mistake.at);
    }
    Err(ConfigError::Mistakes { mistakes, rest: None })
}

/// Loads and checks what the settings refer to. `starting`: also what the start alone uses, out of reach of a hardened daemon.
///
/// # Errors
/// All mistakes.
pub fn preflight(config: &Config, starting: bool) -> Result<Preflight, ConfigError> {
    let mut found = Found { places: &config.places, wrong: Vec::new(), warnings: Vec::new() };
    let models = load_models(config, &mut found);
    // Names can't be looked up if some are missing because of a mistake.
    let complete =
        models.len() == config.models.len() && !["models", "teachers", "class"].iter().any(|key| config.places.lacks(key));
    #[cfg(feature = "fleet")]
    let models = match &config.fleet {
        Some(fleet) => {
            let mut warnings = Vec::new();
            let models = super::fleet::with_good_copies(fleet, models, &mut warnings);
            warnings.into_iter().for_each(|what| found.warning("fleet.models", what));
            models
        }
        None => models,
    };
    let policies = Policies::new(&config.policies).unwrap_or_else(|error| {
        found.wrong("policies", error.to_string());
        Policies::default()
    });
    if complete {
        for (key, what) in unknown_targets(&config.policies, &config.teachers, &models) {
            found.wrong(&key, what);
        }
        check_teachers(config, &models, &mut found);
    }
    check_input(&config.input, &mut found);
    for (index, sink) in config.sinks.iter().enumerate() {
        if let SinkKind::File { path } = &sink.kind {
            found.folder(&format!("sinks.{index}.path"), &folder_of(path));
        }
    }
    let fleet = config.fleet.as_ref();
    for (key, path) in [
        ("learning.folder", config.learning.folder.as_ref()),
        ("fleet.spool", fleet.and_then(|fleet| fleet.spool.as_ref())),
        ("fleet.model_folder", fleet.and_then(|fleet| fleet.model_folder.as_ref())),
        ("evidence.folder", config.evidence.as_ref().map(|evidence| &evidence.folder)),
    ] {
        path.into_iter().for_each(|path| found.folder(key, path));
    }
    // A daemon without a status file runs. systemd creates the folder of the default one.
    let status_file = &config.process.status_file;
    if *status_file != ProcessConfig::default().status_file
        && let Some(what) = folder_problem("process.status_file", &folder_of(status_file))
    {
        found.warning("process.status_file", what);
    }
    if let (true, Some(user)) = (starting, &config.process.user)
        && let Err(error) = find_user(user)
    {
        found.wrong("process.user", format!("process.user = '{user}': {error}; create the user or correct the name"));
    }
    let Found { mut wrong, warnings, .. } = found;
    wrong.sort_by_key(|mistake| mistake.at);
    if wrong.is_empty() {
        Ok(Preflight { models, policies, warnings })
    } else {
        Err(ConfigError::Mistakes { mistakes: wrong, rest: None })
    }
}

fn load_models(config: &Config, found: &mut Found<'_>) -> Models {
    let mut models = Models::new();
    for (index, source) in config.models.iter().enumerate() {
        let model = match source {
            ModelSource::BuiltIn => Model::built_in(),
            ModelSource::File(path) => Model::open(path),
        };
        match model {
            Ok(model) => models.push(Arc::new(model)),
            Err(error) => found.wrong(&format!("models.{index}"), format!("models: {error}")),
        }
    }
    models
}

fn check_teachers(config: &Config, models: &Models, found: &mut Found<'_>) {
    for (index, teacher) in config.teachers.iter().enumerate() {
        let class = &teacher.class;
        let first = config.teachers[..index].iter().find(|t| t.class == *class && t.model == teacher.model);
        if first.is_some_and(|first| {
            (&first.mask, first.learning_rate, first.freeze) != (&teacher.mask, teacher.learning_rate, teacher.freeze)
        }) {
            let what = format!("the teachers of '{class}' differ in mask, learning_rate or freeze; those of the first apply");
            found.warning(&format!("teachers.{index}"), what);
        }
        let Some(model) = models.iter().find(|m| teacher.model.as_ref().is_none_or(|name| m.name == *name)) else {
            let name = teacher.model.as_deref().unwrap_or_default();
            let what =
                format!("the teacher of '{class}' names model '{name}', which is not among `models`; add it or correct the name");
            found.wrong(&format!("teachers.{index}.model"), what);
            continue;
        };
        let mut layout = model.layout.clone();
        for (slot, name) in teacher.mask.iter().enumerate() {
            if let Err(error) = layout.mask(name) {
                let what = format!("the teacher of '{class}', mask: {error}");
                found.wrong(&format!("teachers.{index}.mask.{slot}"), what);
            }
        }
    }
}

fn check_input(input: &Input, found: &mut Found<'_>) {
    match input {
        Input::Interfaces(interfaces) => {
            let exists = |name: &str| name == "any" || Path::new("/sys/class/net").join(name).exists();
            for (index, missing) in interfaces.iter().enumerate().filter(|(_, i)| !exists(&i.name)) {
                let what = format!("interface {} does not exist; it will be opened when it appears", missing.name);
                found.warning(&format!("interfaces.{index}.name"), what);
            }
        }
        Input::Replay(replay) => {
            for (index, missing) in replay.captures.iter().enumerate().filter(|(_, c)| !c.exists()) {
                let what = format!("replay.captures: {}: no such file or folder; correct or remove it", missing.display());
                found.wrong(&format!("replay.captures.{index}"), what);
            }
            if replay.captures.iter().all(|capture| capture.exists())
                && let Err(error) = capture::expand(&replay.captures)
            {
                found.wrong("replay.captures", format!("replay.captures: {error}"));
            }
        }
        Input::Watch(watch) => {
            found.folder("watch.folder", &watch.folder);
            if let (Disposition::Move, Some(to)) = (watch.on_success, &watch.move_to) {
                found.folder("watch.move_to", &folder_of(to));
            }
        }
    }
}
