//! Where does a setting come from, and what is wrong with it? The file, the environment, the command line; mistakes with their places.
//!
//! Each source is parsed with its own range of offsets, so that a place (an octet's offset) tells which source it lies in.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::raw::RawConfig;

/// One mistake in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// `file:line:column`, or the override that it stands in.
    pub place: String,
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// A setting given outside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// How the user gave it: `--set metrics.address` or `SPIKED_METRICS_ADDRESS`.
    pub name: String,
    /// The key, as in the file: `metrics.address`.
    pub key: String,
    pub value: String,
}

/// Variables that container orchestration sets for a service of this name; they are no settings.
fn is_foreign(variable: &str) -> bool {
    variable.starts_with("SPIKED_SERVICE_") || variable == "SPIKED_PORT" || variable.starts_with("SPIKED_PORT_")
}

impl Override {
    /// `key=value` of the command line.
    ///
    /// # Errors
    /// Where there is no `=`.
    pub fn from_argument(argument: &str) -> Result<Self, String> {
        let (key, value) = argument
            .split_once('=')
            .ok_or_else(|| format!("'{argument}' has no '='; give key=value, such as metrics.address=127.0.0.1:9184"))?;
        Ok(Self { name: format!("--set {key}"), key: key.trim().into(), value: value.into() })
    }

    /// The settings among environment variables: `SPIKED_` and the key in capitals, its dots as underscores.
    ///
    /// # Errors
    /// The variables that name no key.
    pub fn from_environment(variables: impl Iterator<Item = (String, String)>) -> Result<Vec<Self>, ConfigError> {
        let keys: Vec<String> = keys();
        let mut overrides = Vec::new();
        let mut mistakes = Vec::new();
        for (name, value) in variables.filter(|(name, _)| name.starts_with("SPIKED_") && !is_foreign(name)) {
            let wanted = name["SPIKED_".len()..].to_ascii_lowercase();
            match keys.iter().find(|key| key.replace('.', "_") == wanted) {
                Some(key) => overrides.push(Self { name, key: key.clone(), value }),
                None => mistakes.push(Mistake {
                    place: name,
                    what: "the variable names no setting; unset it, or name one: SPIKED_METRICS_ADDRESS is metrics.address"
                        .into(),
                }),
            }
        }
        overrides.sort_by(|a, b| a.name.cmp(&b.name));
        if mistakes.is_empty() { Ok(overrides) } else { Err(ConfigError::Mistakes { mistakes }) }
    }
}

/// Every key that can be set from outside the file, such as `metrics.address`.
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

/// What an override's value is parsed behind.
const KEY: &str = "v=";

/// Where the offsets of overrides begin.
fn first_override(text: &str) -> usize {
    text.len() + KEY.len()
}

struct Source {
    name: String,
    start: usize,
    text: String,
    is_file: bool,
}

/// The texts that settings come from.
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

    /// Line and column, from 1, in characters, or the override's name.
    pub(super) fn place(&self, at: usize) -> String {
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

/// What was parsed, what was wrong with it, and the keys that were left out for that.
pub(super) struct Parsed {
    pub typed: RawConfig,
    pub mistakes: Vec<(usize, String)>,
    pub left_out: Vec<String>,
}

/// Parses the file and lays the overrides over it. Every mistake is found: what is wrong is taken out and the rest tried again.
pub(super) fn parse(text: &str, overrides: &[Override]) -> Parsed {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut mistakes: Vec<(usize, String)> =
        errors.iter().map(|e| (e.span().map_or(0, |s| s.start), e.message().to_string())).collect();
    let mut left_out = Vec::new();
    if !mistakes.is_empty() {
        // What a syntax error leaves behind is a guess: only what is certain is told.
        return Parsed { typed: RawConfig::default(), mistakes, left_out };
    }
    let mut root = document.into_inner();
    let mut start = first_override(text);
    // An override's value is parsed as a document of one key, whose offsets blanks move behind the file's.
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
        let value = value.unwrap_or_else(|| word(place.clone(), &one.value));
        if let Err(what) = set(&mut root, &one.key, place.clone(), value) {
            mistakes.push((at, what));
        }
    }
    loop {
        let whole = Spanned::new(0..text.len(), root.clone());
        let error = match serde::Deserialize::deserialize(toml::Deserializer::from(whole)) {
            Ok(typed) => return Parsed { typed, mistakes, left_out },
            Err(error) => error,
        };
        let place: Range<usize> = toml::de::Error::span(&error).unwrap_or(0..0);
        // A word that looks like a number may stand for a text: `SPIKED_SENSOR=12`.
        if let Some(one) = overridden(overrides, first_override(text), place.start)
            && error.message().contains("expected a string")
            && set(&mut root, &one.key, place.clone(), word(place.clone(), &one.value)).is_ok()
        {
            continue;
        }
        let what = error.message().replacen("unknown field", "unknown key", 1).replacen("unknown variant", "unknown value", 1);
        mistakes.push((place.start, what));
        match take_out(&mut root, &place) {
            Some(key) => left_out.push(key),
            None => return Parsed { typed: RawConfig::default(), mistakes, left_out },
        }
    }
}

fn word<'a>(place: Range<usize>, value: &'a str) -> Spanned<DeValue<'a>> {
    Spanned::new(place, DeValue::String(value.into()))
}

fn overridden(overrides: &[Override], mut start: usize, at: usize) -> Option<&Override> {
    overrides.iter().find(|one| {
        let mine = (start..=start + one.value.len()).contains(&at);
        start += one.value.len() + 1;
        mine
    })
}

/// Sets a dotted key.
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
            _ => return Err(format!("'{part}' is no table, so '{key}' can't be set; `config/spiked.toml` has all keys")),
        }
    }
    table.remove(last);
    table.insert(Spanned::new(place, last.to_string().into()), value);
    Ok(())
}

/// Takes the innermost entry that a place names out of the table; returns its key.
fn take_out(table: &mut DeTable<'_>, place: &Range<usize>) -> Option<String> {
    let mut found = None;
    for (key, value) in table.iter_mut() {
        let name = key.get_ref().to_string();
        let inner = match value.get_mut() {
            DeValue::Table(inner) => take_out(inner, place),
            DeValue::Array(items) => {
                let mut taken = None;
                let at = items.iter().position(|item| item.span() == *place);
                if let Some(at) = at {
                    let left: Vec<_> = items.iter().cloned().enumerate().filter(|(i, _)| *i != at).map(|(_, v)| v).collect();
                    *items = left.into_iter().collect();
                    taken = Some(name.clone());
                } else {
                    for item in items.iter_mut() {
                        if let DeValue::Table(inner) = item.get_mut()
                            && let Some(key) = take_out(inner, place)
                        {
                            taken = Some(key);
                            break;
                        }
                    }
                }
                taken
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
