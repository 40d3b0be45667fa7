//! Validation of the settings of sinks, metrics, policies and evidence.

use std::collections::BTreeSet;
use std::path::PathBuf;

use toml::Spanned;

use super::super::raw::{self, SinkType};
use super::super::{
    Action, Basis, EventFormat, EventType, EvidenceConfig, MetricsConfig, PolicyConfig, Severity, SinkConfig, SinkKind,
};
use super::{Check, or, path};
use crate::export::evidence;

impl Check {
    pub(super) fn sinks(&mut self, typed: Vec<Spanned<raw::RawSink>>) -> Vec<SinkConfig> {
        let mut names = BTreeSet::new();
        let mut sinks = Vec::new();
        for sink in typed {
            let at = sink.span().start;
            let has_type = sink.get_ref().r#type.is_some();
            let sink = self.sink(sink);
            if has_type && !names.insert(sink.name.clone()) {
                self.wrong(at, format!("two sinks have the name '{}'; rename one of them", sink.name));
            }
            if sink.name == evidence::NAME {
                self.wrong(at, "the metrics of evidence captures have the sink name 'evidence'; rename this sink");
            }
            sinks.push(sink);
        }
        sinks
    }

    fn sink(&mut self, typed: Spanned<raw::RawSink>) -> SinkConfig {
        let at = typed.span().start;
        let typed = typed.into_inner();
        if typed.r#type.is_none() {
            self.missing(
                at,
                "type",
                "the sink has no type; set type = \"file\", \"stdout\", \"unix\", \"syslog\", \"journald\" or \"nats\"",
            );
        }
        let place = typed.r#type.as_ref().map_or(at, |kind| kind.span().start);
        if let (Some(facility), Some(kind)) = (&typed.facility, &typed.r#type)
            && *kind.get_ref() != SinkType::Syslog
        {
            self.wrong(facility.span().start, "facility applies to sinks of type \"syslog\" only; remove it");
        }
        let kind = typed.r#type.map(Spanned::into_inner);
        if let (Some(path), Some(SinkType::Stdout | SinkType::Journald | SinkType::Nats)) = (&typed.path, kind) {
            self.wrong(path.span().start, "a sink of this type has no path; remove it");
        }
        let given = self.text("path", typed.path).map(PathBuf::from);
        let needed = |check: &mut Self, what: &str| {
            given.clone().unwrap_or_else(|| {
                check.missing(place, "path", &format!("the sink has no path; set path, the {what}"));
                PathBuf::new()
            })
        };
        let (default_name, kind) = match kind.unwrap_or(SinkType::Stdout) {
            SinkType::File => ("file", SinkKind::File { path: needed(self, "file to append to") }),
            SinkType::Stdout => ("stdout", SinkKind::Stdout),
            SinkType::Unix => ("unix", SinkKind::Unix { path: needed(self, "socket on which the reader listens") }),
            SinkType::Syslog => {
                let socket = given.unwrap_or_else(|| "/dev/log".into());
                ("syslog", SinkKind::Syslog { socket, facility: or(&typed.facility, raw::Facility::default()) })
            }
            SinkType::Journald => ("journald", SinkKind::Journald),
            SinkType::Nats => ("nats", SinkKind::Nats),
        };
        let events = match typed.events {
            None => vec![EventType::Detection, EventType::Alert, EventType::Episode],
            Some(events) => {
                if events.get_ref().is_empty() {
                    self.wrong(events.span().start, "the sink has no events; give some, or remove the sink");
                }
                let all: BTreeSet<EventType> = events.get_ref().iter().map(|e| *e.get_ref()).collect();
                all.into_iter().collect()
            }
        };
        SinkConfig {
            name: self.text("name", typed.name).unwrap_or_else(|| default_name.into()),
            kind,
            events,
            format: or(&typed.format, EventFormat::default()),
            queue: self.number("queue", &typed.queue, 8192, 16..=1 << 20, "events"),
        }
    }

    pub(super) fn metrics(&mut self, typed: raw::RawMetrics) -> Option<MetricsConfig> {
        let mut metrics = MetricsConfig::default();
        if let Some(address) = typed.address {
            match address.get_ref().parse() {
                Ok(parsed) => metrics.address = parsed,
                Err(_) => self.wrong(
                    address.span().start,
                    format!("metrics.address = '{address}' is not a valid address and port; give, for example, 127.0.0.1:9184 or [::1]:9184"),
                ),
            }
        }
        for name in typed.names.map(Spanned::into_inner).unwrap_or_default() {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if name.get_ref().is_empty() || !name.get_ref().chars().all(fits) {
                let wrong =
                    format!("'{name}' is not a valid host name; give it without a port, for example \"sensor.example.org\"");
                self.wrong(name.span().start, wrong);
            }
            metrics.names.push(name.into_inner());
        }
        or(&typed.enabled, true).then_some(metrics)
    }

    pub(super) fn policy(&mut self, typed: Spanned<raw::RawPolicy>) -> PolicyConfig {
        let at = typed.span().start;
        let typed = typed.into_inner();
        let class = self.text("class", typed.class);
        if class.is_none() {
            self.missing(
                at,
                "class",
                "the policy has no class; set class = \"ssh\", or \"*\" for all (`spiked model show` lists the classes)",
            );
        }
        let action = or(&typed.action, Action::default());
        if let (Some(severity), false) = (&typed.severity, action == Action::Alert) {
            self.missing(severity.span().start, "action", "severity has no effect unless action = \"alert\"");
        }
        let basis = typed.basis.map(|basis| self.basis(basis));
        PolicyConfig {
            basis,
            class: class.unwrap_or_else(|| "*".into()),
            model: self.text("model", typed.model),
            action,
            severity: or(&typed.severity, Severity::default()),
            include_filter: self.filter(typed.include_filter),
            exclude_filter: self.filter(typed.exclude_filter),
        }
    }

    /// The bases that a policy names, each once.
    fn basis(&mut self, typed: Spanned<raw::OneOrMany>) -> Vec<Basis> {
        let at = typed.span().start;
        let names = match typed.into_inner() {
            raw::OneOrMany::One(name) => vec![(at, name)],
            raw::OneOrMany::Many(names) => names.into_iter().map(|name| (name.span().start, name.into_inner())).collect(),
        };
        let allowed = || Basis::ALL.map(Basis::name).join(", ");
        if names.is_empty() {
            self.wrong(at, format!("basis = [] matches no stream; give some of {}, or leave the key out", allowed()));
        }
        let mut all = BTreeSet::new();
        for (at, name) in names {
            match Basis::ALL.into_iter().find(|basis| basis.name() == name) {
                Some(basis) => _ = all.insert(basis),
                None => self.wrong(at, format!("basis = '{name}' is not a valid basis; give one or several of {}", allowed())),
            }
        }
        all.into_iter().collect()
    }

    pub(super) fn evidence(&mut self, typed: raw::RawEvidence) -> Option<EvidenceConfig> {
        let unused = [&typed.packets, &typed.file_mib, &typed.files].into_iter().flatten().map(|v| v.span().start).next();
        if let (None, Some(at)) = (&typed.folder, unused) {
            self.missing(at, "folder", "evidence.folder is not set, so this has no effect; set it or remove this key");
        }
        let evidence = EvidenceConfig {
            packets: self.number("evidence.packets", &typed.packets, 20, 1..=1000, "packets"),
            file_mib: self.number("evidence.file_mib", &typed.file_mib, 64, 1..=65_536, "MiB"),
            files: self.number("evidence.files", &typed.files, 10, 1..=10_000, "files"),
            folder: path(typed.folder)?,
        };
        Some(evidence)
    }
}
