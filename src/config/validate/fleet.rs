//! Validation of the settings of the fleet.

use std::path::PathBuf;

use toml::Spanned;

use super::super::raw::{RawFleet, RawSink, SinkType};
use super::super::{FleetConfig, is_token};
use super::{Check, host_name, path};

/// Explains how to get a program that has the feature.
const LACKING: &str = "this program was built without the fleet; the Debian package and the container image have it, \
    or build it with `cargo build --release --features fleet`";

impl Check {
    /// The settings of the fleet, which the sinks of type "nats" need.
    pub(super) fn fleet(&mut self, typed: RawFleet, sinks: &[Spanned<RawSink>]) -> Option<FleetConfig> {
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
        Some(FleetConfig {
            servers: servers.into_inner().into_iter().map(|server| self.server(server)).collect(),
            sensor: self.sensor_name(typed.sensor, at),
            group: match typed.group {
                Some(group) => self.token("fleet.group", group),
                None => "default".into(),
            },
            credentials: self.text("fleet.credentials", typed.credentials).map(PathBuf::from),
            ca_certificate: self.text("fleet.ca_certificate", typed.ca_certificate).map(PathBuf::from),
            client_certificate: self.client_certificate(typed.certificate, typed.key),
            spool: path(typed.spool),
            spool_mib: self.number("fleet.spool_mib", &typed.spool_mib, 256, 1..=1 << 20, "MiB"),
            trusted_keys: self.trusted_keys(typed.trusted_keys),
        })
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
            return self.token("fleet.sensor", name);
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

    /// A name that is one token of a subject.
    fn token(&mut self, key: &str, typed: Spanned<String>) -> String {
        if !is_token(typed.get_ref()) {
            self.wrong(
                typed.span().start,
                format!("{key} = '{typed}' is not a valid name; give up to 64 letters, digits, - and _"),
            );
        }
        typed.into_inner()
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

    fn trusted_keys(&mut self, typed: Option<Spanned<Vec<Spanned<String>>>>) -> Vec<String> {
        let mut keys = Vec::new();
        for key in typed.map(Spanned::into_inner).unwrap_or_default() {
            if !is_public_key(key.get_ref()) {
                let wrong =
                    format!("'{key}' is not a public key of minisign; give the second line of a .pub file, which begins with RW");
                self.wrong(key.span().start, wrong);
            }
            keys.push(key.into_inner());
        }
        keys
    }
}

/// Whether a text is a public key of minisign.
#[cfg(feature = "fleet")]
fn is_public_key(text: &str) -> bool {
    minisign_verify::PublicKey::from_base64(text).is_ok()
}

/// Without the feature, the settings of the fleet are rejected as a whole.
#[cfg(not(feature = "fleet"))]
fn is_public_key(_: &str) -> bool {
    true
}

/// Place of a sink's type if it is "nats".
fn nats_sink(sink: &Spanned<RawSink>) -> Option<usize> {
    sink.get_ref().r#type.as_ref().filter(|kind| *kind.get_ref() == SinkType::Nats).map(|kind| kind.span().start)
}

/// Place of a key that has no effect without servers.
fn any_key(typed: &RawFleet) -> Option<usize> {
    let texts =
        [&typed.sensor, &typed.group, &typed.credentials, &typed.ca_certificate, &typed.certificate, &typed.key, &typed.spool];
    let texts = texts.into_iter().flatten().map(|key| key.span().start);
    let others = [typed.spool_mib.as_ref().map(|key| key.span().start), typed.trusted_keys.as_ref().map(|key| key.span().start)];
    texts.chain(others.into_iter().flatten()).min()
}
