//! Sources of settings (file, environment, command line), their parser, and the places of mistakes.
//!
//! Each source is parsed at its own range of byte offsets, so that an offset identifies the source as well as the place in it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::raw::RawConfig;

/// A mistake in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// `file:line:column`, or the name of the override.
    pub place: String,
    /// What is wrong, and what to do.
    pub what: String,
    /// Byte offset of the place in the sources, which orders mistakes.
    pub(crate) at: usize,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// A setting given outside the file, on the command line or in the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Name as the user wrote it: `--set metrics.address` or `SPIKED_METRICS_ADDRESS`.
    pub name: String,
    /// Key as in the file: `metrics.address`.
    pub key: String,
    /// Value, TOML or a bare string.
    pub value: String,
}

/// Keys that were renamed, old and new. A file with an old key is rejected with a message that names the new key.
const RENAMED: [(&str, &str); 7] = [
    ("replay.rounds", "replay.repeat"),
    ("watch.then", "watch.on_success"),
    ("watch.set_aside", "watch.quarantine_folder"),
    ("policies.only", "policies.include_filter"),
    ("policies.unless", "policies.exclude_filter"),
    ("teachers.without", "teachers.mask"),
    ("learning.gate", "learning.min_accuracy"),
];

/// Last part of a dotted key.
fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// New name of the key that the parser does not know. Its message lists the keys of the table, which identifies the table.
fn new_key(message: &str) -> Option<(&'static str, &'static str)> {
    let (unknown, expected) = message.strip_prefix("unknown field `")?.split_once('`')?;
    RENAMED.into_iter().find(|(old, new)| last(old) == unknown && expected.contains(&format!("`{}`", last(new))))
}

/// A message of the parser in the words of the settings: `expected a table` instead of `expected struct RawReplay`.
fn in_words_of_settings(message: &str) -> String {
    if message == "wanted string or table" {
        return "invalid type: expected a string".into();
    }
    let Some((found, expected)) = message.strip_prefix("invalid type: ").and_then(|types| types.rsplit_once(", expected "))
    else {
        return message.replacen("unknown field", "unknown key", 1).replacen("unknown variant", "unknown value", 1);
    };
    let found = match found {
        "map" => "table",
        "sequence" => "list",
        other => other,
    };
    let expected = match expected {
        "a sequence" => "a list",
        "i64" => "an integer",
        "f64" => "a number",
        other if other.starts_with("struct ") => "a table",
        other => other,
    };
    format!("invalid type: {found}, expected {expected}")
}

fn renamed((old, new): (&str, &str)) -> String {
    format!("the key {old} is now {new}; rename it")
}

/// Variables that container orchestrators set for a service named `spiked`; they are not settings.
fn is_orchestrator_variable(variable: &str) -> bool {
    variable.starts_with("SPIKED_SERVICE_") || variable == "SPIKED_PORT" || variable.starts_with("SPIKED_PORT_")
}

impl Override {
    /// Parses `key=value` as given on the command line.
    ///
    /// # Errors
    /// The argument has no `=`.
    pub fn from_argument(argument: &str) -> Result<Self, String> {
        let (key, value) = argument
            .split_once('=')
            .ok_or_else(|| format!("'{argument}' has no '='; give key=value, such as metrics.address=127.0.0.1:9184"))?;
        Ok(Self { name: format!("--set {key}"), key: key.trim().into(), value: value.into() })
    }

    /// Finds the settings among environment variables: `SPIKED_` and the key in capitals, with underscores for dots.
    ///
    /// # Errors
    /// Some variables start with `SPIKED_` and are not the name of a key: all of them are returned.
    pub fn from_environment(variables: impl Iterator<Item = (String, String)>) -> Result<Vec<Self>, ConfigError> {
        let keys: Vec<String> = keys();
        let mut overrides = Vec::new();
        let mut mistakes = Vec::new();
        for (name, value) in variables.filter(|(name, _)| name.starts_with("SPIKED_") && !is_orchestrator_variable(name)) {
            let wanted = name["SPIKED_".len()..].to_ascii_lowercase();
            match keys.iter().find(|key| key.replace('.', "_") == wanted) {
                Some(key) => overrides.push(Self { name, key: key.clone(), value }),
                None => {
                    let what = RENAMED.into_iter().find(|(old, _)| old.replace('.', "_") == wanted).map_or_else(
                        || "not the name of a setting; unset it, or correct it: SPIKED_METRICS_ADDRESS is metrics.address".into(),
                        renamed,
                    );
                    mistakes.push(Mistake { place: name, what, at: 0 });
                }
            }
        }
        overrides.sort_by(|a, b| a.name.cmp(&b.name));
        if mistakes.is_empty() { Ok(overrides) } else { Err(ConfigError::Mistakes { mistakes, rest: None }) }
    }
}

/// Keys that overrides can set, such as `metrics.address`.
pub fn keys() -> Vec<String> {
    let all = serde_json::to_value(RawConfig::default()).expect("settings have only string keys");
    let mut keys = Vec::new();
    for (name, value) in all.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(table) => keys.extend(table.keys().map(|key| format!("{name}.{key}"))),
            None => keys.push(name.clone()),
        }
    }
    keys
}

/// The value of an override is parsed after this prefix, as a document of one key.
const KEY: &str = "v=";

/// Offset at which the values of overrides start.
fn first_override(text: &str) -> usize {
    text.len() + KEY.len()
}

#[derive(Clone, Debug)]
struct Source {
    name: String,
    start: usize,
    text: String,
    is_file: bool,
}

/// The texts of all sources, for the places of mistakes.
#[derive(Clone, Debug)]
pub(super) struct Sources(Vec<Source>);

impl Sources {
    pub(super) fn new(path: &Path, text: &str, overrides: &[Override]) -> Self {
        let mut all = vec![Source { name: path.display().to_string(), start: 0, text: text.into(), is_file: true }];
        let mut start = first_override(text);
        for one in overrides {
            all.push(Source { name: one.name.clone(), start, text: one.value.clone(), is_file: false });
            start += one.value.len() + 1;
        }
        Self(all)
    }

    pub(super) fn mistake(&self, at: usize, what: String) -> Mistake {
        Mistake { place: self.place(at), what, at }
    }

    /// Place of a byte offset: file, line and column (from 1, in characters), or the name of the override.
    fn place(&self, at: usize) -> String {
        let source = self.0.iter().rev().find(|s| s.start <= at).unwrap_or(&self.0[0]);
        if !source.is_file {
            return source.name.clone();
        }
        let before = source.text.get(..at.min(source.text.len())).unwrap_or(&source.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{}:{line}:{column}", source.name)
    }
}

/// Places of all settings that are given.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(super) sources: Sources,
    /// Byte offset of each value; a key is the path of names and indices, each after a dot: `.policies.0.class`.
    pub(super) offsets: BTreeMap<String, usize>,
    /// Keys that were removed because of a mistake.
    pub(super) left_out: Vec<String>,
}

/// All places are equal: settings are the same wherever they are given.
impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Places {
    /// A mistake in the setting `key`, such as `policies.0.class`; its place is that of the table if the key is not given.
    pub fn mistake(&self, key: &str, what: String) -> Mistake {
        let mut key = format!(".{key}");
        let at = loop {
            match (self.offsets.get(&key), key.rfind('.')) {
                (Some(at), _) => break *at,
                (None, Some(dot)) => key.truncate(dot),
                (None, None) => break 0,
            }
        };
        self.sources.mistake(at, what)
    }

    /// Whether a key of this name was removed because of a mistake.
    pub fn lacks(&self, name: &str) -> bool {
        self.left_out.iter().any(|key| key == name)
    }
}

/// Collects the byte offsets of all values below `key`.
fn offsets(key: &str, value: &DeValue<'_>, found: &mut BTreeMap<String, usize>) {
    let mut add = |name: &dyn fmt::Display, value: &Spanned<DeValue<'_>>| {
        let key = format!("{key}.{name}");
        offsets(&key, value.get_ref(), found);
        found.insert(key, value.span().start);
    };
    match value {
        DeValue::Table(table) => table.iter().for_each(|(name, value)| add(name.get_ref(), value)),
        DeValue::Array(items) => items.iter().enumerate().for_each(|(index, value)| add(&index, value)),
        _ => {}
    }
}

/// Result of parsing.
pub(super) struct Parsed {
    /// The settings without those that are wrong; `None` if they cannot be parsed.
    pub raw: Option<RawConfig>,
    /// Byte offset of each value, as in [`Places`].
    pub offsets: BTreeMap<String, usize>,
    /// Mistakes with their byte offsets.
    pub mistakes: Vec<(usize, String)>,
    /// Keys that were removed because of a mistake.
    pub left_out: Vec<String>,
}

/// Last part of the key of a line of the form `key = value`.
fn key_of(line: &str) -> Option<&str> {
    let key = line.split_once('=')?.0.trim();
    let is_bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    is_bare.then(|| last(key))
}

/// Blanks the lines at the byte offsets `errors`, which keeps the offsets of the others, and returns the keys of these lines; of the header of
/// a table the whole table. `None` unless all are headers or of the form `key = value`.
fn without_lines(text: &str, errors: impl Iterator<Item = usize>) -> Option<(String, Vec<String>)> {
    let (mut rest, mut keys) = (text.to_string(), Vec::new());
    for at in errors {
        let start = text.get(..at)?.rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[start..].lines().next()?;
        let mut wrong = line;
        if let Some(header) = line.trim_start().strip_prefix('[') {
            keys.push(last(header.trim_matches(|c: char| matches!(c, '[' | ']') || c.is_whitespace())).to_string());
            wrong = text[start..].find("\n[").map_or(&text[start..], |next| &text[start..start + next]);
            keys.extend(wrong.lines().filter_map(key_of).map(String::from));
        } else {
            keys.push(key_of(line)?.to_string());
        }
        rest.replace_range(start..start + wrong.len(), &" ".repeat(wrong.len()));
    }
    Some((rest, keys))
}

/// Parses the file and applies the overrides. Finds all mistakes: each wrong entry is removed, and the rest is parsed again.
pub(super) fn parse(text: &str, overrides: &[Override]) -> Parsed {
    let (mut document, errors) = DeTable::parse_recoverable(text);
    let mut mistakes: Vec<(usize, String)> =
        errors.iter().map(|e| (e.span().map_or(0, |s| s.start), e.message().to_string())).collect();
    let (rest, mut left_out) = without_lines(text, mistakes.iter().map(|(at, _)| *at)).unwrap_or_default();
    if !mistakes.is_empty() {
        let (without, errors) = DeTable::parse_recoverable(&rest);
        if left_out.is_empty() || !errors.is_empty() {
            // The rest of the document is a guess: only the syntax errors are reported.
            return Parsed { raw: None, offsets: BTreeMap::new(), mistakes, left_out };
        }
        document = without;
    }
    let mut root = document.into_inner();
    let mut start = first_override(text);
    // Each value is parsed as a document of one key, padded with blanks so that its offsets follow those of the file.
    let padded: Vec<String> = overrides
        .iter()
        .map(|one| {
            let blanks = " ".repeat(start - KEY.len());
            start += one.value.len() + 1;
            blanks + KEY + &one.value
        })
        .collect();
    for (one, text) in overrides.iter().zip(&padded) {
        let at = text.len() - one.value.len();
        let place = at..text.len();
        let mut parsed = DeTable::parse(text).map(Spanned::into_inner).unwrap_or_default();
        let value = parsed.remove(&KEY[..1]).filter(|_| parsed.is_empty());
        let value = value.unwrap_or_else(|| string(place.clone(), &one.value));
        if let Err(what) = set(&mut root, &one.key, place.clone(), value) {
            mistakes.push((at, what));
        }
    }
    loop {
        let whole = Spanned::new(0..text.len(), root.clone());
        let error = match serde::Deserialize::deserialize(toml::Deserializer::from(whole)) {
            Ok(raw) => {
                let mut found = BTreeMap::new();
                offsets("", &DeValue::Table(root), &mut found);
                return Parsed { raw: Some(raw), offsets: found, mistakes, left_out };
            }
            Err(error) => error,
        };
        let place: Range<usize> = toml::de::Error::span(&error).unwrap_or(0..0);
        // A value that looks like a number may be meant as a string: `SPIKED_SENSOR=12`.
        if let Some(one) = overridden(overrides, first_override(text), place.start)
            && error.message().contains("expected a string")
            && !error.message().contains("invalid type: map")
            && set(&mut root, &one.key, place.clone(), string(place.clone(), &one.value)).is_ok()
        {
            continue;
        }
        let keys = new_key(error.message());
        let what = keys.map_or_else(|| in_words_of_settings(error.message()), renamed);
        mistakes.push((place.start, what));
        match remove(&mut root, &place) {
            Some(key) => left_out.push(keys.map_or(key, |(_, new)| last(new).into())),
            None => return Parsed { raw: None, offsets: BTreeMap::new(), mistakes, left_out },
        }
    }
}

fn string<'a>(place: Range<usize>, value: &'a str) -> Spanned<DeValue<'a>> {
    Spanned::new(place, DeValue::String(value.into()))
}

fn overridden(overrides: &[Override], mut start: usize, at: usize) -> Option<&Override> {
    overrides.iter().find(|one| {
        let mine = (start..=start + one.value.len()).contains(&at);
        start += one.value.len() + 1;
        mine
    })
}

/// Sets a dotted key; creates the tables on its path.
fn set<'a>(root: &mut DeTable<'a>, key: &str, place: Range<usize>, value: Spanned<DeValue<'a>>) -> Result<(), String> {
    let mut table = root;
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let name = || Spanned::new(place.clone(), part.to_string().into());
        if !table.contains_key(part) {
            table.insert(name(), Spanned::new(place.clone(), DeValue::Table(DeTable::new())));
        }
        match table.get_mut(part).map(Spanned::get_mut) {
            Some(DeValue::Table(inner)) => table = inner,
            _ => {
                return Err(format!("'{part}' is not a table, so '{key}' can't be set; `config/spiked.toml` documents all keys"));
            }
        }
    }
    table.remove(last);
    table.insert(Spanned::new(place, last.to_string().into()), value);
    Ok(())
}

/// Removes the innermost entry at `place` from the table; returns its key.
fn remove(table: &mut DeTable<'_>, place: &Range<usize>) -> Option<String> {
    let mut found = None;
    for (key, value) in table.iter_mut() {
        let name = key.get_ref().to_string();
        let inner = match value.get_mut() {
            DeValue::Table(inner) => remove(inner, place),
            DeValue::Array(items) => {
                let mut removed = None;
                let at = items.iter().position(|item| item.span() == *place);
                if let Some(at) = at {
                    let left: Vec<_> = items.iter().cloned().enumerate().filter(|(i, _)| *i != at).map(|(_, v)| v).collect();
                    *items = left.into_iter().collect();
                    removed = Some(name.clone());
                } else {
                    for item in items.iter_mut() {
                        if let DeValue::Table(inner) = item.get_mut()
                            && let Some(key) = remove(inner, place)
                        {
                            removed = Some(key);
                            break;
                        }
                    }
                }
                removed
            }
            _ => None,
        };
        if inner.is_some() {
            return inner;
        }
        if key.span() == *place || value.span() == *place {
            found = Some(name);
            break;
        }
    }
    let name = found?;
    table.remove(name.as_str());
    Some(name)
}
