//! Validation of the settings of the fleet.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use toml::Spanned;

use super::super::raw::{Maybe, RawFleet, RawSink, RawTeacher, SinkType};
use super::super::{CanaryConfig, FleetConfig, MetricsConfig, is_token};
use super::{Check, host_name, path};

/// Explains how to get a program that has the feature.
const LACKING: &str = "this program was built without the fleet; the Debian package and the container image have it, \
    or build it with `cargo build --release --features fleet`";

impl Check {
    /// The settings of the fleet, which the sinks of type "nats" need.
    pub(super) fn fleet(
        &mut self,
        typed: RawFleet,
        sinks: &[Spanned<RawSink>],
        teachers: &[Spanned<RawTeacher>],
        metrics: Option<&MetricsConfig>,
    ) -> Option<FleetConfig> {
        let nats: Vec<usize> = sinks.iter().filter_map(nats_sink).collect();
        let first = nats.first().copied().or(typed.servers.as_ref().map(|s| s.span().start));
        if let (Some(at), false) = (first, cfg!(feature = "fleet")) {
            self.wrong(at, LACKING);
            return None;
        }
        if let Some(&second) = nats.get(1) {
            self.wrong(second, "there is one spool, so there can be only one sink of type \"nats\"; remove this one");
        }
        let Some(servers) = typed.servers else {
            if let Some(at) = nats.first().copied().or_else(|| any_key(&typed)) {
                self.missing(at, "servers", "fleet.servers is not set; set it, for example to [\"tls://nats.example.org:4222\"]");
            }
            return None;
        };
        let at = servers.span().start;
        if servers.get_ref().is_empty() {
            self.wrong(at, "fleet.servers is empty; give a server, or leave [fleet] out");
        }
        if let (Some(&sink), None) = (nats.first(), &typed.spool) {
            self.missing(
                sink,
                "spool",
                "a sink of type \"nats\" needs a folder for events that no server has acknowledged; set fleet.spool",
            );
        }
        let models = self.fleet_models(typed.models, &typed.model_folder, &typed.trusted_keys);
        Some(FleetConfig {
            servers: servers.into_inner().into_iter().map(|server| self.server(server)).collect(),
            sensor: self.sensor_name(typed.sensor, at),
            credentials: self.text("fleet.credentials", typed.credentials).map(PathBuf::from),
            ca_certificate: self.text("fleet.ca_certificate", typed.ca_certificate).map(PathBuf::from),
            client_certificate: self.client_certificate(typed.certificate, typed.key),
            spool: path(typed.spool),
            spool_mib: self.number("fleet.spool_mib", &typed.spool_mib, 256, 1..=1 << 20, "MiB"),
            group: self.group(typed.group),
            models,
            model_folder: path(typed.model_folder),
            trusted_keys: self.trusted_keys(typed.trusted_keys),
            teaches: self.teaches(typed.teaches, teachers),
            metrics_address: self.metrics_address(typed.metrics_address, metrics),
            canary: self.canary(&typed.canary_max_loss, &typed.canary_min_streams),
        })
    }

    fn canary(&mut self, max_loss: &Maybe<f64>, min_streams: &Maybe<i64>) -> CanaryConfig {
        let default = CanaryConfig::default();
        CanaryConfig {
            max_loss: self.number("fleet.canary_max_loss", max_loss, default.max_loss, 0.0..=1.0, "of the streams"),
            min_streams: self.number("fleet.canary_min_streams", min_streams, default.min_streams, 1..=1000, "streams"),
        }
    }

    /// Host and port at which others reach the metrics: as set, or the address of `[metrics]` with the name of the host if that is any
    /// address. A loopback address is one of its own machine only.
    fn metrics_address(&mut self, typed: Option<Spanned<String>>, metrics: Option<&MetricsConfig>) -> Option<String> {
        let Some(typed) = typed else {
            let address = metrics?.address;
            return match address.ip() {
                ip if ip.is_loopback() || address.port() == 0 => None,
                ip if ip.is_unspecified() => Some(format!("{}:{}", host_name(), address.port())),
                _ => Some(address.to_string()),
            };
        };
        let parts = typed.get_ref().rsplit_once(':');
        let is_valid = |(host, port): (&str, &str)| {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '[' | ']');
            !host.is_empty() && host.chars().all(fits) && port.parse::<u16>().is_ok_and(|port| port > 0)
        };
        if !parts.is_some_and(is_valid) {
            let wrong = format!(
                "fleet.metrics_address = '{typed}' is not a valid host and port; give, for example, sensor-1.example.org:9184"
            );
            self.wrong(typed.span().start, wrong);
        }
        Some(typed.into_inner())
    }

    fn server(&mut self, server: Spanned<String>) -> String {
        let schemes = ["nats://", "tls://"];
        let host = schemes.iter().find_map(|scheme| server.get_ref().strip_prefix(scheme));
        if host.is_none_or(|host| host.is_empty() || host.contains(char::is_whitespace)) {
            let wrong = format!("'{server}' is not a valid server; give nats://HOST:PORT or tls://HOST:PORT");
            self.wrong(server.span().start, wrong);
        }
        server.into_inner()
    }

    /// The sensor's name in subjects; by default the name of the host.
    fn sensor_name(&mut self, typed: Option<Spanned<String>>, at: usize) -> String {
        if let Some(name) = typed {
            if !is_token(name.get_ref()) {
                let wrong = format!("fleet.sensor = '{name}' is not a valid name; give up to 64 letters, digits, - and _");
                self.wrong(name.span().start, wrong);
            }
            return name.into_inner();
        }
        let name = host_name();
        if !is_token(&name) {
            let wrong = format!(
                "the name of this host, '{name}', can't be part of a subject; set fleet.sensor (letters, digits, - and _)"
            );
            self.missing(at, "sensor", &wrong);
        }
        name
    }

    fn group(&mut self, typed: Option<Spanned<String>>) -> String {
        let Some(group) = typed else { return "default".into() };
        if !is_token(group.get_ref()) {
            let wrong = format!("fleet.group = '{group}' is not a valid group; give up to 64 letters, digits, - and _");
            self.wrong(group.span().start, wrong);
        }
        group.into_inner()
    }

    /// Names of the models, which need a folder and a key.
    fn fleet_models(
        &mut self,
        typed: Option<Spanned<Vec<Spanned<String>>>>,
        folder: &Option<Spanned<String>>,
        keys: &Option<Spanned<Vec<Spanned<String>>>>,
    ) -> Vec<String> {
        let Some(models) = typed else { return Vec::new() };
        let at = models.span().start;
        for name in models.get_ref().iter().filter(|name| !is_token(name.get_ref())) {
            let wrong = format!("'{name}' is not a valid name of a fleet's model; give up to 64 letters, digits, - and _");
            self.wrong(name.span().start, wrong);
        }
        if !models.get_ref().is_empty() && folder.is_none() {
            self.missing(at, "model_folder", "fleet.models needs a folder for the last good copies; set fleet.model_folder");
        }
        if !models.get_ref().is_empty() && keys.as_ref().is_none_or(|keys| keys.get_ref().is_empty()) {
            self.missing(at, "trusted_keys", "fleet.models needs the public keys that sign models; set fleet.trusted_keys");
        }
        models.into_inner().into_iter().map(Spanned::into_inner).collect()
    }

    /// Public keys of minisign, in base64: 42 bytes.
    fn trusted_keys(&mut self, typed: Option<Spanned<Vec<Spanned<String>>>>) -> Vec<String> {
        let keys = typed.map_or_else(Vec::new, Spanned::into_inner);
        for key in &keys {
            let bytes = STANDARD.decode(key.get_ref()).unwrap_or_default();
            if bytes.len() != 42 || !bytes.starts_with(b"Ed") {
                let wrong = format!("'{key}' is not a valid key; give the second line of the file minisign.pub");
                self.wrong(key.span().start, wrong);
            }
        }
        keys.into_iter().map(Spanned::into_inner).collect()
    }

    /// Classes whose neurons are published: each is a part of a subject, and has a teacher.
    fn teaches(&mut self, typed: Option<Spanned<Vec<Spanned<String>>>>, teachers: &[Spanned<RawTeacher>]) -> Vec<String> {
        let classes = typed.map_or_else(Vec::new, Spanned::into_inner);
        let has_teacher = |class: &str| {
            teachers.iter().filter_map(|teacher| teacher.get_ref().class.as_ref()).any(|taught| taught.get_ref() == class)
        };
        for class in &classes {
            if !is_token(class.get_ref()) {
                let wrong = format!("'{class}' can't be part of a subject; give up to 64 letters, digits, - and _");
                self.wrong(class.span().start, wrong);
            } else if !has_teacher(class.get_ref()) {
                let wrong =
                    format!("no [[teachers]] entry has the class '{class}' of fleet.teaches; add one or remove the class");
                self.missing(class.span().start, "class", &wrong);
            }
        }
        classes.into_iter().map(Spanned::into_inner).collect()
    }

    fn client_certificate(
        &mut self,
        certificate: Option<Spanned<String>>,
        key: Option<Spanned<String>>,
    ) -> Option<(PathBuf, PathBuf)> {
        match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate.into_inner().into(), key.into_inner().into())),
            (Some(one), None) | (None, Some(one)) => {
                self.wrong(one.span().start, "fleet.certificate and fleet.key belong together; set both or neither");
                None
            }
            (None, None) => None,
        }
    }
}

/// Place of a sink's type if it is "nats".
fn nats_sink(sink: &Spanned<RawSink>) -> Option<usize> {
    sink.get_ref().r#type.as_ref().filter(|kind| *kind.get_ref() == SinkType::Nats).map(|kind| kind.span().start)
}

/// Place of a key that has no effect without servers.
fn any_key(typed: &RawFleet) -> Option<usize> {
    let texts = [
        &typed.sensor,
        &typed.credentials,
        &typed.ca_certificate,
        &typed.certificate,
        &typed.key,
        &typed.spool,
        &typed.group,
        &typed.model_folder,
        &typed.metrics_address,
    ];
    let lists = [&typed.models, &typed.trusted_keys, &typed.teaches].into_iter().flatten().map(|list| list.span().start);
    let texts = texts.into_iter().flatten().map(|key| key.span().start);
    let spool = typed.spool_mib.as_ref().map(|key| key.span().start);
    let max_loss = typed.canary_max_loss.as_ref().map(|key| key.span().start);
    let min_streams = typed.canary_min_streams.as_ref().map(|key| key.span().start);
    texts.chain(lists).chain([spool, max_loss, min_streams].into_iter().flatten()).min()
}
