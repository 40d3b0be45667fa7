//! Validation of the settings: from [`RawConfig`] to [`Config`], collecting all mistakes.

mod fleet;
mod input;
mod output;
mod teaching;
mod tunnels;

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::capture::Filter;

use super::raw::{self, Maybe, RawConfig};
use super::text::{self, Places, Sources};
use super::{AlertsConfig, Config, ConfigError, EngineConfig, LogConfig, Override, ProcessConfig};

/// Seconds of a day, the upper limit of every duration in the settings.
const DAY: u64 = 86_400;

pub(super) fn config(path: &Path, text: &str, overrides: &[Override]) -> Result<Config, ConfigError> {
    let sources = Sources::new(path, text, overrides);
    let text::Parsed { raw, offsets, mistakes, left_out } = text::parse(text, overrides);
    let mut check = Check { mistakes, places: Places { sources, offsets, left_out } };
    let config = raw.map(|raw| check.config(raw));
    check.mistakes.sort();
    check.mistakes.dedup();
    match config {
        Some(config) if check.mistakes.is_empty() => Ok(config),
        _ => {
            let mistake = |(at, what)| check.places.sources.mistake(at, what);
            Err(ConfigError::Mistakes { mistakes: check.mistakes.into_iter().map(mistake).collect(), rest: config.map(Box::new) })
        }
    }
}

struct Check {
    mistakes: Vec<(usize, String)>,
    /// Keys that were given with a value that could not be parsed are not reported as missing.
    places: Places,
}

fn or<T: Copy>(typed: &Maybe<T>, default: T) -> T {
    typed.as_ref().map_or(default, |v| *v.get_ref())
}

fn path(typed: Maybe<String>) -> Option<PathBuf> {
    typed.map(|v| PathBuf::from(v.into_inner()))
}

impl Check {
    /// Reports a mistake at a byte offset.
    fn wrong(&mut self, at: usize, what: impl Into<String>) {
        self.mistakes.push((at, what.into()));
    }

    /// Reports that `key` is missing, unless it was given with a value that could not be parsed.
    fn missing(&mut self, at: usize, key: &str, what: &str) {
        if !self.places.lacks(key) {
            self.wrong(at, what);
        }
    }

    /// A number within `range`, or the default; `unit` is for the message.
    fn number<T, U>(&mut self, key: &str, typed: &Maybe<T>, default: U, range: RangeInclusive<U>, unit: &str) -> U
    where
        T: Copy + Display,
        U: TryFrom<T> + PartialOrd + Display,
    {
        let Some(value) = typed else { return default };
        match U::try_from(*value.get_ref()) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let (low, high) = (range.start(), range.end());
                self.wrong(value.span().start, format!("{key} = {value} is out of range ({low} to {high} {unit})"));
                default
            }
        }
    }

    fn seconds(&mut self, key: &str, typed: &Maybe<i64>, default: Duration, least: u64) -> Duration {
        Duration::from_secs(self.number(key, typed, default.as_secs(), least..=DAY, "seconds"))
    }

    /// A BPF filter; `None` if it is wrong.
    fn filter(&mut self, typed: Maybe<String>) -> Option<String> {
        let typed = typed?;
        if let Err(error) = Filter::new(typed.get_ref()) {
            self.wrong(typed.span().start, error.to_string());
            return None;
        }
        Some(typed.into_inner())
    }

    /// A string that must not be empty.
    fn text(&mut self, key: &str, typed: Maybe<String>) -> Option<String> {
        let typed = typed?;
        if typed.get_ref().trim().is_empty() {
            self.wrong(typed.span().start, format!("{key} is empty; give it a value or leave the key out"));
        }
        Some(typed.into_inner())
    }

    fn config(&mut self, typed: RawConfig) -> Config {
        let metrics = self.metrics(typed.metrics);
        Config {
            sensor: self.text("sensor", typed.sensor).unwrap_or_else(host_name),
            models: self.models(typed.models),
            input: self.input(typed.interfaces, typed.replay, typed.watch),
            capture: self.capture(&typed.capture),
            engine: self.engine(&typed.engine),
            tunnels: self.tunnels(&typed.tunnels),
            fleet: self.fleet(typed.fleet, &typed.sinks, &typed.teachers, metrics.as_ref()),
            sinks: self.sinks(typed.sinks),
            metrics,
            policies: typed.policies.into_iter().map(|p| self.policy(p)).collect(),
            alerts: {
                let default = AlertsConfig::default();
                AlertsConfig {
                    per_minute: self.number(
                        "alerts.per_minute",
                        &typed.alerts.per_minute,
                        default.per_minute,
                        0..=1_000_000,
                        "alerts",
                    ),
                    hosts: self.number("alerts.hosts", &typed.alerts.hosts, default.hosts, 1..=16_777_216, "pairs"),
                }
            },
            evidence: self.evidence(typed.evidence),
            learning: self.learning(typed.learning),
            teachers: typed.teachers.into_iter().filter_map(|t| self.teacher(t)).collect(),
            log: LogConfig {
                format: or(&typed.log.format, LogConfig::default().format),
                level: or(&typed.log.level, LogConfig::default().level),
            },
            process: {
                let default = ProcessConfig::default();
                ProcessConfig {
                    user: self.text("process.user", typed.process.user),
                    harden: or(&typed.process.harden, default.harden),
                    status_file: self
                        .text("process.status_file", typed.process.status_file)
                        .map_or(default.status_file, PathBuf::from),
                }
            },
            places: self.places.clone(),
        }
    }

    fn engine(&mut self, typed: &raw::RawEngine) -> EngineConfig {
        let default = EngineConfig::default();
        let active = self.seconds("engine.active_secs", &typed.active_secs, Duration::ZERO, 0);
        EngineConfig {
            workers: self.number("engine.workers", &typed.workers, default.workers, 0..=256, "workers; 0: one per CPU"),
            pin: or(&typed.pin, default.pin),
            streams: self.number("engine.streams", &typed.streams, default.streams, 64..=1 << 28, "streams"),
            hosts: self.number("engine.hosts", &typed.hosts, default.hosts, 64..=1 << 24, "hosts"),
            idle: self.seconds("engine.idle_secs", &typed.idle_secs, default.idle, 1),
            active: (!active.is_zero()).then_some(active),
            closed: self.seconds("engine.closed_secs", &typed.closed_secs, default.closed, 1),
            vlan_in_key: or(&typed.vlan_in_key, default.vlan_in_key),
            interface_in_key: or(&typed.interface_in_key, default.interface_in_key),
            drop_duplicates: or(&typed.drop_duplicates, default.drop_duplicates),
            every_packet: or(&typed.every_packet, default.every_packet),
        }
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "spiked".into() } else { name.trim().into() }
}
