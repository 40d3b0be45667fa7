//! Are the settings sensible? From what was typed to what runs, all mistakes collected.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use crate::capture::Filter;

use super::text::{self, Sources};
use super::typed::{self, Maybe, SinkType, Typed};
use super::{
    Afterwards, Alerts, Capture, Config, ConfigError, Engine, EventType, Evidence, Input, Interface, Log, METRICS, Mistake,
    ModelSource, Override, Policy, Process, Replay, Sink, SinkKind, Teacher, Watch,
};

/// A day, the longest time that any setting may ask for.
const DAY: u64 = 86_400;

pub(super) fn config(path: &Path, text: &str, overrides: &[Override]) -> Result<Config, ConfigError> {
    let sources = Sources::new(path, text, overrides);
    let text::Parsed { typed, mistakes, left_out } = text::parse(text, overrides);
    // Where the text itself is no TOML, nothing can be said of what is in it.
    let readable = mistakes.is_empty() || !left_out.is_empty();
    let mut check = Check { mistakes, left_out };
    let config = if readable { Some(check.config(typed)) } else { None };
    check.mistakes.sort();
    match config {
        Some(config) if check.mistakes.is_empty() => Ok(config),
        _ => {
            let mistake = |(at, what): (usize, String)| Mistake { place: sources.place(at), what };
            Err(ConfigError::Mistakes { mistakes: check.mistakes.into_iter().map(mistake).collect() })
        }
    }
}

struct Check {
    mistakes: Vec<(usize, String)>,
    /// Keys that were given, but so that they could not be read: they are not missing.
    left_out: Vec<String>,
}

fn or<T: Copy>(typed: &Maybe<T>, default: T) -> T {
    typed.as_ref().map_or(default, |v| *v.get_ref())
}

fn path(typed: Maybe<String>) -> Option<PathBuf> {
    typed.map(|v| PathBuf::from(v.into_inner()))
}

impl Check {
    fn wrong(&mut self, at: usize, what: impl Into<String>) {
        self.mistakes.push((at, what.into()));
    }

    fn missing(&mut self, at: usize, key: &str, what: &str) {
        if !self.left_out.iter().any(|k| k == key) {
            self.wrong(at, what);
        }
    }

    /// A number within bounds; `what` is its unit, for the message.
    fn number<T, U>(&mut self, key: &str, typed: &Maybe<T>, default: U, range: RangeInclusive<U>, what: &str) -> U
    where
        T: Copy + Display,
        U: TryFrom<T> + PartialOrd + Display,
    {
        let Some(value) = typed else { return default };
        match U::try_from(*value.get_ref()) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let (low, high) = (range.start(), range.end());
                self.wrong(value.span().start, format!("{key} = {value} can't be; give {low} to {high} {what}"));
                default
            }
        }
    }

    fn seconds(&mut self, key: &str, typed: &Maybe<i64>, default: Duration, least: u64) -> Duration {
        Duration::from_secs(self.number(key, typed, default.as_secs(), least..=DAY, "seconds"))
    }

    fn filter(&mut self, typed: Maybe<String>) -> Option<String> {
        let typed = typed?;
        if let Err(error) = Filter::new(typed.get_ref()) {
            self.wrong(typed.span().start, error.to_string());
        }
        Some(typed.into_inner())
    }

    /// A text that must not be empty.
    fn text(&mut self, key: &str, typed: Maybe<String>) -> Option<String> {
        let typed = typed?;
        if typed.get_ref().trim().is_empty() {
            self.wrong(typed.span().start, format!("{key} is empty; give it a value or leave the key out"));
        }
        Some(typed.into_inner())
    }

    fn config(&mut self, typed: Typed) -> Config {
        let metrics = match (or(&typed.metrics.enabled, true), typed.metrics.address) {
            (false, _) => None,
            (true, None) => Some(METRICS),
            (true, Some(address)) => Some(address.get_ref().parse().unwrap_or_else(|_| {
                self.wrong(
                    address.span().start,
                    format!("metrics.address = '{address}' is no address and port; give such as 127.0.0.1:9184 or [::1]:9184"),
                );
                METRICS
            })),
        };
        Config {
            sensor: self.text("sensor", typed.sensor).unwrap_or_else(host_name),
            models: self.models(typed.models),
            input: self.input(typed.interfaces, typed.replay, typed.watch),
            capture: self.capture(&typed.capture),
            engine: self.engine(&typed.engine),
            sinks: self.sinks(typed.sinks),
            metrics,
            policies: typed.policies.into_iter().filter_map(|p| self.policy(p)).collect(),
            alerts: {
                let default = Alerts::default();
                Alerts {
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
            teachers: typed.teachers.into_iter().filter_map(|t| self.teacher(t)).collect(),
            log: Log { format: or(&typed.log.format, Log::default().format), level: or(&typed.log.level, Log::default().level) },
            process: {
                let default = Process::default();
                Process {
                    user: self.text("process.user", typed.process.user),
                    harden: or(&typed.process.harden, default.harden),
                    status_file: self
                        .text("process.status_file", typed.process.status_file)
                        .map_or(default.status_file, PathBuf::from),
                }
            },
        }
    }

    fn models(&mut self, typed: Maybe<Vec<Spanned<String>>>) -> Vec<ModelSource> {
        let Some(typed) = typed else { return vec![ModelSource::BuiltIn] };
        let at = typed.span().start;
        let mut names = BTreeSet::new();
        let mut models = Vec::new();
        for model in typed.into_inner() {
            let place = model.span().start;
            let model = match model.into_inner() {
                name if name == "protocols" => ModelSource::BuiltIn,
                path => ModelSource::File(path.into()),
            };
            let name = match &model {
                ModelSource::BuiltIn => "protocols".into(),
                ModelSource::File(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            };
            if !names.insert(name.clone()) {
                self.wrong(place, format!("two models would be called '{name}' in events and metrics; rename one of the files"));
            }
            models.push(model);
        }
        if models.is_empty() {
            self.wrong(at, "no model; give at least one, such as \"protocols\", which is built in");
        }
        models
    }

    fn input(&mut self, interfaces: Vec<Spanned<typed::Interface>>, replay: typed::Replay, watch: typed::Watch) -> Input {
        let places = [
            ("interfaces", interfaces.first().map(|i| i.span().start)),
            ("replay", replay.captures.as_ref().map(|c| c.span().start)),
            ("watch", watch.folder.as_ref().map(|f| f.span().start)),
        ];
        let given: Vec<_> = places.iter().filter_map(|(name, at)| at.map(|at| (*name, at))).collect();
        if let [(first, _), (second, at), ..] = given[..] {
            self.wrong(
                at,
                format!("both {first} and {second} are given; one daemon has one kind of input: run another for the other"),
            );
        }
        let unused = |given: &str| format!("{given} is not given, so this has no effect; give it or leave this out");
        if replay.captures.is_none()
            && let Some(at) = [
                replay.speed.as_ref().map(|v| v.span().start),
                replay.rounds.as_ref().map(|v| v.span().start),
                replay.filter.as_ref().map(|v| v.span().start),
            ]
            .into_iter()
            .flatten()
            .next()
        {
            self.missing(at, "captures", &unused("replay.captures"));
        }
        if watch.folder.is_none()
            && let Some(at) = [
                watch.then.as_ref().map(|v| v.span().start),
                watch.move_to.as_ref().map(|v| v.span().start),
                watch.set_aside.as_ref().map(|v| v.span().start),
                watch.settle_secs.as_ref().map(|v| v.span().start),
                watch.filter.as_ref().map(|v| v.span().start),
            ]
            .into_iter()
            .flatten()
            .next()
        {
            self.missing(at, "folder", &unused("watch.folder"));
        }
        if let Some(folder) = watch.folder {
            return Input::Watch(Watch {
                then: or(&watch.then, Afterwards::default()),
                move_to: self.move_to(watch.then.as_ref(), watch.move_to),
                set_aside: path(watch.set_aside).unwrap_or_else(|| Path::new(folder.get_ref()).join("unreadable")),
                folder: folder.into_inner().into(),
                settle: self.seconds("watch.settle_secs", &watch.settle_secs, Duration::from_secs(10), 1),
                filter: self.filter(watch.filter),
            });
        }
        if let Some(captures) = replay.captures {
            if captures.get_ref().is_empty() {
                self.wrong(captures.span().start, "no capture; give files or folders");
            }
            return Input::Replay(Replay {
                captures: captures.into_inner().into_iter().map(|c| c.into_inner().into()).collect(),
                speed: self.number("replay.speed", &replay.speed, 1.0, 0.0..=1e6, "times the captures' own pace (0: flat out)"),
                rounds: self.number("replay.rounds", &replay.rounds, 1, 0..=u64::MAX / 2, "rounds (0: without end)"),
                filter: self.filter(replay.filter),
            });
        }
        if interfaces.is_empty() {
            for key in ["interfaces", "captures", "folder"] {
                if self.left_out.iter().any(|k| k == key) {
                    return Input::Interfaces(Vec::new());
                }
            }
            self.wrong(0, "no input; add [[interfaces]] with a name, or [replay], or [watch] (`config/spiked.toml` shows them)");
        }
        let mut names = BTreeSet::new();
        Input::Interfaces(interfaces.into_iter().filter_map(|i| self.interface(i, &mut names)).collect())
    }

    fn move_to(&mut self, then: Option<&Spanned<Afterwards>>, move_to: Maybe<String>) -> Option<PathBuf> {
        match (then.map(|t| (t.span().start, *t.get_ref())), move_to) {
            (Some((at, Afterwards::Move)), None) => {
                self.missing(at, "move_to", "watch.then = \"move\" needs watch.move_to, the folder to move captures to");
                None
            }
            (Some((_, Afterwards::Move)), to) => path(to),
            (_, Some(to)) => {
                self.wrong(to.span().start, "watch.move_to has no effect unless watch.then = \"move\"");
                None
            }
            (_, None) => None,
        }
    }

    fn interface(&mut self, typed: Spanned<typed::Interface>, names: &mut BTreeSet<String>) -> Option<Interface> {
        let at = typed.span().start;
        let typed = typed.into_inner();
        let default = Interface::named("");
        let place = typed.name.as_ref().map_or(at, |n| n.span().start);
        let name = self.text("name", typed.name);
        if name.is_none() {
            self.missing(at, "name", "the interface has no name; give name = \"eth0\" (`ip link` lists them)");
        }
        if let Some(name) = &name
            && !names.insert(name.clone())
        {
            self.wrong(place, format!("interface {name} is given twice; for more capture threads set its threads"));
        }
        Some(Interface {
            name: name.unwrap_or_default(),
            filter: self.filter(typed.filter),
            promiscuous: or(&typed.promiscuous, default.promiscuous),
            snap_length: self.number("snap_length", &typed.snap_length, default.snap_length, 64..=262_144, "octets"),
            buffer_mib: self.number("buffer_mib", &typed.buffer_mib, default.buffer_mib, 1..=1024, "MiB"),
            threads: self.number("threads", &typed.threads, default.threads, 1..=64, "threads"),
        })
    }

    fn capture(&mut self, typed: &typed::Capture) -> Capture {
        let default = Capture::default();
        let millis = u64::try_from(default.batch.as_millis()).unwrap_or(u64::MAX);
        Capture {
            queue: self.number("capture.queue", &typed.queue, default.queue, 8..=65_536, "batches of 256 frames"),
            batch: Duration::from_millis(self.number(
                "capture.batch_millis",
                &typed.batch_millis,
                millis,
                1..=1000,
                "milliseconds",
            )),
            retry_max: self.seconds("capture.retry_max_secs", &typed.retry_max_secs, default.retry_max, 1),
        }
    }

    fn engine(&mut self, typed: &typed::Engine) -> Engine {
        let default = Engine::default();
        let active = self.seconds("engine.active_secs", &typed.active_secs, Duration::ZERO, 0);
        Engine {
            workers: self.number("engine.workers", &typed.workers, default.workers, 0..=256, "workers (0: one a CPU)"),
            streams: self.number("engine.streams", &typed.streams, default.streams, 64..=1 << 28, "streams"),
            idle: self.seconds("engine.idle_secs", &typed.idle_secs, default.idle, 1),
            active: (!active.is_zero()).then_some(active),
            closed: self.seconds("engine.closed_secs", &typed.closed_secs, default.closed, 1),
            tunnels: or(&typed.tunnels, default.tunnels),
            every_packet: or(&typed.every_packet, default.every_packet),
        }
    }

    fn sinks(&mut self, typed: Vec<Spanned<typed::Sink>>) -> Vec<Sink> {
        let mut names = BTreeSet::new();
        let mut sinks = Vec::new();
        for sink in typed {
            let at = sink.span().start;
            let Some(sink) = self.sink(sink) else { continue };
            if !names.insert(sink.name.clone()) {
                self.wrong(at, format!("two sinks are called '{}'; give one another name", sink.name));
            }
            sinks.push(sink);
        }
        sinks
    }

    fn sink(&mut self, typed: Spanned<typed::Sink>) -> Option<Sink> {
        let at = typed.span().start;
        let typed = typed.into_inner();
        let Some(kind) = typed.r#type else {
            self.missing(
                at,
                "type",
                "the sink has no type; give type = \"file\", \"stdout\", \"unix\", \"syslog\" or \"journald\"",
            );
            return None;
        };
        let place = kind.span().start;
        let kind = *kind.get_ref();
        if let (Some(facility), false) = (&typed.facility, kind == SinkType::Syslog) {
            self.wrong(facility.span().start, "facility is for sinks of type \"syslog\"");
        }
        if let (Some(path), SinkType::Stdout | SinkType::Journald) = (&typed.path, kind) {
            self.wrong(path.span().start, "this type of sink has no path");
        }
        let given = self.text("path", typed.path).map(PathBuf::from);
        let needed = |check: &mut Self, what: &str| {
            given.clone().unwrap_or_else(|| {
                check.missing(place, "path", &format!("the sink has no path; give path, the {what}"));
                PathBuf::new()
            })
        };
        let (default_name, kind) = match kind {
            SinkType::File => ("file", SinkKind::File { path: needed(self, "file that lines are appended to") }),
            SinkType::Stdout => ("stdout", SinkKind::Stdout),
            SinkType::Unix => ("unix", SinkKind::Unix { path: needed(self, "socket that the reader listens on") }),
            SinkType::Syslog => {
                let socket = given.unwrap_or_else(|| "/dev/log".into());
                ("syslog", SinkKind::Syslog { socket, facility: or(&typed.facility, typed::Facility::default()) })
            }
            SinkType::Journald => ("journald", SinkKind::Journald),
        };
        let events = match typed.events {
            None => vec![EventType::Detection, EventType::Alert],
            Some(events) => {
                if events.get_ref().is_empty() {
                    self.wrong(events.span().start, "the sink gets no events; give some, or take the sink out");
                }
                let all: BTreeSet<EventType> = events.get_ref().iter().map(|e| *e.get_ref()).collect();
                all.into_iter().collect()
            }
        };
        Some(Sink {
            name: self.text("name", typed.name).unwrap_or_else(|| default_name.into()),
            kind,
            events,
            queue: self.number("queue", &typed.queue, 8192, 16..=1 << 20, "events"),
        })
    }

    fn policy(&mut self, typed: Spanned<typed::Policy>) -> Option<Policy> {
        let at = typed.span().start;
        let typed = typed.into_inner();
        let class = self.text("class", typed.class);
        if class.is_none() {
            self.missing(
                at,
                "class",
                "the policy has no class; give class = \"ssh\", or \"*\" for all (`spiked model show` lists them)",
            );
        }
        let action = or(&typed.action, super::Action::default());
        if let (Some(severity), false) = (&typed.severity, action == super::Action::Alert) {
            self.wrong(severity.span().start, "severity has no effect unless action = \"alert\"");
        }
        Some(Policy {
            class: class?,
            model: self.text("model", typed.model),
            action,
            severity: or(&typed.severity, super::Severity::default()),
            only: self.filter(typed.only),
            unless: self.filter(typed.unless),
        })
    }

    fn evidence(&mut self, typed: typed::Evidence) -> Option<Evidence> {
        let unused = [&typed.packets, &typed.file_mib, &typed.files].into_iter().flatten().map(|v| v.span().start).next();
        if let (None, Some(at)) = (&typed.folder, unused) {
            self.missing(at, "folder", "evidence.folder is not given, so this has no effect; give it or leave this out");
        }
        let evidence = Evidence {
            packets: self.number("evidence.packets", &typed.packets, 20, 1..=1000, "packets"),
            file_mib: self.number("evidence.file_mib", &typed.file_mib, 64, 1..=65_536, "MiB"),
            files: self.number("evidence.files", &typed.files, 10, 1..=10_000, "files"),
            folder: path(typed.folder)?,
        };
        Some(evidence)
    }

    fn teacher(&mut self, typed: Spanned<typed::Teacher>) -> Option<Teacher> {
        let at = typed.span().start;
        let typed = typed.into_inner();
        if typed.class.is_none() {
            self.missing(at, "class", "the teacher has no class; give class = \"...\", the class that it teaches");
        }
        if typed.filter.is_none() {
            self.missing(at, "filter", "the teacher has no filter; give filter = \"...\", a BPF expression that its streams fit");
        }
        let low = self.number("theta_min", &typed.theta_min, 0.5, 0.01..=1.0, "times the calibrated threshold");
        let high = self.number("theta_max", &typed.theta_max, 2.0, 1.0..=100.0, "times the calibrated threshold");
        let teacher = Teacher {
            model: self.text("model", typed.model),
            rate: self.number("rate", &typed.rate, 100.0, 0.01..=1e6, "packets a second"),
            learning_rate: self.number("learning_rate", &typed.learning_rate, 0.05, 1e-6..=1.0, "(eta)"),
            theta: (low, high),
            freeze: or(&typed.freeze, false),
            class: self.text("class", typed.class).unwrap_or_default(),
            filter: self.filter(typed.filter).unwrap_or_default(),
        };
        Some(teacher)
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "spiked".into() } else { name.trim().into() }
}
