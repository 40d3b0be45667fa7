//! Tests of `spiked fleet init` and of the permissions that it writes.

use spiked::export::sink::{SinkHandle, Target};

use super::common::{spiked, wait_for};
use super::servers::{Server, fleet, init, sensor};

#[test]
fn init_is_idempotent_and_lists_what_differs() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(server) = Server::alone(folder.path(), "") else { return };
    let text = |output: std::process::Output| (output.status.code(), String::from_utf8(output.stdout).expect("text"));
    let (code, made) = text(init(&server.url(), &[]));
    assert_eq!((code, made.matches(": created").count()), (Some(0), 4), "{made}");
    let (code, again) = text(init(&server.url(), &[]));
    assert_eq!((code, again.matches(": ok").count()), (Some(0), 4), "{again}");
    let other = ["init", "--server", &server.url(), "--events-mib", "256", "--models-mib", "64"];
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

#[test]
fn a_forbidden_publish_is_reported_as_a_permission() {
    let folder = tempfile::tempdir().expect("a folder");
    let written = folder.path().join("users.conf");
    let arguments = ["server-config", "--sensor", "north", "--sensor", "south", "--reader", "soc", "--out"];
    let output = spiked().arg("fleet").args(arguments).arg(&written).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let settings = std::fs::read_to_string(&written).expect("written");
    let users = settings.split_once("authorization").map(|(_, users)| format!("authorization{users}")).expect("users");
    let Some(server) = Server::alone(folder.path(), &users) else { return };
    let url = |name: &str| format!("nats://{name}:{}@127.0.0.1:{}", password(&settings, name), server.port);
    assert!(init(&url("operator"), &[]).status.success());

    let publish = |config| {
        let sink = SinkHandle::start("nats", &Target::Nats(Box::new(config)), 1024).expect("started");
        sink.offer(&super::events::line(0));
        wait_for("an acknowledgement or an error", || Some(sink.status()).filter(|s| s.written > 0 || s.last_error.is_some()))
    };
    let allowed = publish(sensor("north", &[url("north")], folder.path()));
    assert_eq!((allowed.written, &allowed.last_error), (1, &None), "{allowed:?}");
    // As another sensor than the permissions are for.
    let error = publish(sensor("south", &[url("north")], folder.path())).last_error.expect("an error");
    assert!(error.contains("permission denied by the server"), "{error}");
    let tail = |name: &str| fleet(&["tail", "--once", "--server", &url(name), "--name", name]);
    let read = tail("soc");
    assert_eq!((read.status.code(), read.stdout.iter().filter(|b| **b == b'\n').count()), (Some(0), 1), "{read:?}");
    let refused = tail("north");
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("ermission"), "{refused:?}");
    let refused = fleet(&["init", "--server", &url("soc"), "--name", "soc"]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
}
