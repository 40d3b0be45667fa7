//! Tests of `spiked fleet init` and of the permissions that it writes.

use std::path::{Path, PathBuf};
use std::process::Command;

use spiked::export::sink::{SinkHandle, Target};

use super::common::running::{Running, endless};
use super::common::{fixture, installed, spiked, wait_for};
use super::servers::{Server, fleet, init, nats_server, sensor};

#[test]
fn init_is_idempotent_and_lists_what_differs() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(server) = Server::alone(folder.path(), "") else { return };
    let text = |output: std::process::Output| (output.status.code(), String::from_utf8(output.stdout).expect("text"));
    let (code, made) = text(init(&server.url(), &[]));
    assert_eq!((code, made.matches(": created").count()), (Some(0), 8), "{made}");
    let (code, again) = text(init(&server.url(), &[]));
    assert_eq!((code, again.matches(": ok").count()), (Some(0), 8), "{again}");
    let other = ["init", "--server", &server.url(), "--events-mib", "256", "--results-mib", "512"];
    let (code, different) = text(fleet(&other));
    assert_eq!(code, Some(1));
    assert!(different.contains("SPIKED_EVENTS: size in bytes is 536870912, not 268435456"), "{different}");
    let (code, updated) = text(fleet(&[&other[..], &["--update"]].concat()));
    assert_eq!((code, updated.matches("SPIKED_EVENTS: updated: size").count()), (Some(0), 1), "{updated}");
    assert_eq!(text(fleet(&other)).0, Some(0));
}

#[test]
fn a_server_that_does_not_answer_is_an_error() {
    let output = fleet(&["init", "--server", "nats://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nats://127.0.0.1:1"), "{output:?}");
}

/// Passwords of the clients, from the settings that the program wrote.
fn password<'a>(settings: &'a str, name: &str) -> &'a str {
    let (_, rest) = settings.split_once(&format!("user: {name:?}, password: \"")).expect("a user");
    rest.split('"').next().expect("a password")
}

/// A server with the users that `spiked fleet server-config` writes for these roles, and the settings that it wrote.
pub fn server_with_users(folder: &Path, roles: &[&str]) -> Option<(Server, String)> {
    let written = folder.join("users.conf");
    let output = spiked().args(["fleet", "server-config"]).args(roles).arg("--out").arg(&written).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let settings = std::fs::read_to_string(&written).expect("written");
    let users = settings.split_once("authorization").map(|(_, users)| format!("authorization{users}")).expect("users");
    Some((Server::alone(folder, &users)?, settings))
}

/// Address of a server with the name and password of a user.
pub fn url_of(server: &Server, settings: &str, name: &str) -> String {
    format!("nats://{name}:{}@127.0.0.1:{}", password(settings, name), server.port)
}

#[test]
fn a_forbidden_publish_is_reported_as_a_permission() {
    let folder = tempfile::tempdir().expect("a folder");
    let roles = ["--sensor", "north", "--sensor", "south", "--reader", "soc"];
    let Some((server, settings)) = server_with_users(folder.path(), &roles) else { return };
    let url = |name: &str| url_of(&server, &settings, name);
    assert!(init(&url("operator"), &[]).status.success());

    let publish = |config| {
        let sink = SinkHandle::start("nats", &Target::Nats(Box::new(config)), 1024).expect("started");
        sink.offer(&super::events::line(0));
        wait_for("an acknowledgement or an error", || Some(sink.status()).filter(|s| s.written > 0 || s.last_error.is_some()))
    };
    let allowed = publish(sensor("north", &[url("north")], folder.path()));
    assert_eq!((allowed.written, &allowed.last_error), (1, &None), "{allowed:?}");
    let check = |name: &str, sensor: &str| {
        let text = format!(
            "[replay]\ncaptures = [{:?}]\n[fleet]\nservers = [{:?}]\nsensor = {sensor:?}\n",
            fixture("captures/mixed.pcapng"),
            url(name)
        );
        let settings = folder.path().join("spiked.toml");
        std::fs::write(&settings, text).expect("written");
        spiked().args(["check", "--config"]).arg(settings).output().expect("it runs")
    };
    let output = check("north", "north");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("fleet: ok"), "{output:?}");
    let output = check("north", "south");
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("ermission"), "{output:?}");
    // As another sensor than the permissions are for.
    let error = publish(sensor("south", &[url("north")], folder.path())).last_error.expect("an error");
    assert!(error.contains("permission denied by the server"), "{error}");
    let tail = |name: &str| fleet(&["tail", "--once", "--server", &url(name), "--name", name]);
    let read = tail("soc");
    assert_eq!((read.status.code(), read.stdout.iter().filter(|b| **b == b'\n').count()), (Some(0), 1), "{read:?}");
    let refused = tail("north");
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("ermission"), "{refused:?}");
    let refused = fleet(&["init", "--server", &url("soc"), "--name", "soc", "--update"]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
}

/// Makes two authorities, `good` and `other`, and certificates of the first for a server, an operator and a sensor.
const CERTIFICATES: &str = r#"set -e
key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
for authority in good other; do
  openssl req -x509 $key -days 2 -subj /CN=$authority -keyout $authority.key -out $authority.pem
done
for name in server operator north; do
  openssl req $key -subj /CN=$name -keyout $name.key -out $name.csr
  printf 'subjectAltName=DNS:%s,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' $name > $name.ext
  openssl x509 -req -in $name.csr -CA good.pem -CAkey good.key -CAcreateserial -days 2 -extfile $name.ext -out $name.pem
done"#;

/// Makes the files of [`CERTIFICATES`] in a folder.
pub fn make_certificates(folder: &Path) {
    let made = Command::new("sh").args(["-c", CERTIFICATES]).current_dir(folder).output().expect("sh");
    assert!(made.status.success(), "{made:?}");
}

/// Settings of a daemon that publishes over TLS and trusts the authority `ca`.
fn tls_settings(folder: &Path, ca: &str, port: u16) -> PathBuf {
    let root = folder.display();
    std::fs::create_dir_all(folder.join(format!("{ca}/spool"))).expect("a folder");
    let more = format!(
        "[[sinks]]\ntype = \"nats\"\n[fleet]\nservers = [\"tls://127.0.0.1:{port}\"]\nsensor = \"north\"\n\
         ca_certificate = \"{root}/{ca}.pem\"\ncertificate = \"{root}/north.pem\"\nkey = \"{root}/north.key\"\n\
         spool = \"{root}/{ca}/spool\"\n"
    );
    endless(&folder.join(ca), &more)
}

#[test]
fn tls_names_the_client_and_a_bad_certificate_shows_in_status_and_metrics() {
    let folder = tempfile::tempdir().expect("a folder");
    if nats_server().is_none() || !installed("openssl", "openssl") {
        return;
    }
    make_certificates(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let written = folder.path().join("users.conf");
    let files = [path("server.pem"), path("server.key"), path("good.pem")];
    let mut command = spiked();
    command.args(["fleet", "server-config", "--sensor", "north", "--out"]).arg(&written).arg("--tls").args(&files);
    assert!(command.output().expect("it runs").status.success());
    let settings = std::fs::read_to_string(&written).expect("written");
    let (_, tls) = settings.split_once("tls {").expect("TLS");
    let Some(server) = Server::alone(folder.path(), &format!("tls {{{tls}")) else { return };
    let url = format!("tls://127.0.0.1:{}", server.port);
    let operator =
        ["--ca-certificate", &path("good.pem"), "--certificate", &path("operator.pem"), "--key", &path("operator.key")];
    let made = init(&url, &operator);
    assert!(made.status.success(), "{made:?}");

    let check = |settings: &Path| spiked().args(["check", "--config"]).arg(settings).output().expect("it runs");
    let good = tls_settings(folder.path(), "good", server.port);
    let output = check(&good);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("fleet: ok: nats-server 2."), "{output:?}");
    let mut daemon = Running::start(&good, |_| {});
    let written = |status: &serde_json::Value| status["sinks"][0]["written"].as_u64().unwrap_or(0);
    daemon.wait("events are acknowledged", |status| written(status) > 100);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let read = fleet(&[&["tail", "--once", "--server", &url][..], &operator].concat());
    assert!(read.stdout.iter().filter(|byte| **byte == b'\n').count() > 100, "{:?}", read.stderr);

    let bad = tls_settings(folder.path(), "other", server.port);
    let daemon = Running::start(&bad, |_| {});
    let trouble = |status: &serde_json::Value| status["sinks"][0]["trouble"].as_str().unwrap_or_default().to_lowercase();
    daemon.wait("the certificate is in the status", |status| trouble(status).contains("certificate"));
    let metrics = daemon.get("/metrics").expect("metrics");
    assert!(metrics.contains("spiked_sink_failing{sink=\"nats\"} 1"), "{metrics}");
}
