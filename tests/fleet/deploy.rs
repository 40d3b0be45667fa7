//! Tests of the files in `deploy/` that are about a fleet: their permissions are those that the program writes, their settings pass
//! `spiked check`, and a sensor works through a leaf server as the files set it up.

use std::fs;
use std::path::Path;

use super::common::running::{Running, endless};
use super::common::{fixture, spiked, wait_until};
use super::servers::{Server, events, fleet, free_port, init};
use super::setup::{server_with_users, url_of};

/// Clients of the shipped settings of nats-server.
const CLIENTS: [&str; 10] =
    ["--any-sensor", "sensors", "--reader", "viewer", "--curator", "curator", "--worker", "workers", "--admin", "operator"];

fn deploy(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)).expect("a file of deploy/")
}

/// The settings that the program writes for [`CLIENTS`].
fn written(folder: &Path) -> String {
    let out = folder.join("clients.conf");
    let mut command = spiked();
    command.args(["fleet", "server-config", "--password-variables"]).args(CLIENTS).arg("--out").arg(&out);
    command.assert().success();
    fs::read_to_string(out).expect("written")
}

#[test]
fn the_shipped_permissions_are_those_that_the_program_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let written = written(folder.path());
    for file in ["compose/nats-server.conf", "kubernetes/fleet/permissions.conf"] {
        let remake = format!("spiked fleet server-config --password-variables {} --out deploy/{file}", CLIENTS.join(" "));
        assert!(deploy(file) == written, "deploy/{file} is not what this writes: {remake}");
    }
    let passwords = deploy("compose/passwords.sh");
    for name in ["OPERATOR", "SENSORS", "VIEWER", "CURATOR", "WORKERS"] {
        assert!(passwords.contains(name) && written.contains(&format!("${name}_PASSWORD")), "{name}");
        assert!(deploy("compose/compose.yaml").contains(&format!("{name}_PASSWORD: ${{{name}_PASSWORD:?")), "{name}");
    }
}

#[test]
fn the_shipped_settings_of_sensors_pass_the_check_with_the_shipped_permissions() {
    let folder = tempfile::tempdir().expect("a folder");
    let users = written(folder.path());
    let (_, users) = users.split_once("authorization").expect("users");
    // nats-server would take them from its environment.
    let users = users.replace(": $", ": \"").replace("_PASSWORD,", "_PASSWORD\",");
    let Some(server) = Server::alone(folder.path(), &format!("authorization{users}")) else { return };
    let url = |user: &str, password: &str| format!("nats://{user}:{password}_PASSWORD@127.0.0.1:{}", server.port);
    assert!(init(&url("operator", "OPERATOR"), &[]).status.success());
    for file in ["compose/sensor.toml", "kubernetes/sensors/sensor.toml"] {
        let input = format!("[replay]\ncaptures = [{:?}]\n", fixture("captures/mixed.pcapng"));
        let text = deploy(file);
        assert!(text.contains("[[interfaces]]\nname = \"INTERFACE\"\n"), "{file}");
        let text = text.replace("[[interfaces]]\nname = \"INTERFACE\"\n", &input);
        let text = text.replace("/var/lib/spiked", &folder.path().display().to_string());
        for name in ["spool", "fleet"] {
            fs::create_dir_all(folder.path().join(name)).expect("a folder");
        }
        let settings = folder.path().join("spiked.toml");
        fs::write(&settings, text).expect("written");
        let mut check = spiked();
        check.args(["check", "--config"]).arg(&settings);
        check.env("SPIKED_FLEET_SERVERS", format!("[{:?}]", url("sensors", "SENSORS")));
        check.env("SPIKED_FLEET_SENSOR", "node-1").env("SPIKED_FLEET_METRICS_ADDRESS", "192.0.2.1:9184");
        let output = check.output().expect("it runs");
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("fleet: ok"), "{output:?}");
    }
}

#[test]
fn a_sensor_works_through_a_leaf_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let roles = ["--sensor", "north", "--reader", "soc"];
    let Some((hub, users)) = server_with_users(folder.path(), &roles) else { return };
    drop(hub);
    let port = free_port();
    let (_, list) = users.split_once("authorization").expect("users");
    let more = format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}\nauthorization{list}");
    let hub = Server::alone(folder.path(), &more).expect("it was there");
    assert!(init(&url_of(&hub, &users, "operator"), &[]).status.success());

    let shipped = deploy("leaf/nats-leaf.conf");
    let remote = url_of(&hub, &users, "north").replace(&hub.port.to_string(), &port.to_string());
    let settings = shipped.replace("tls://north:PASSWORD@nats.example.org:7422", &remote);
    assert_ne!(shipped, settings);
    let leaf = Server::with_settings(folder.path(), "leaf", free_port(), |port| {
        settings.replace("127.0.0.1:4222", &format!("127.0.0.1:{port}"))
    })
    .expect("it was there");
    let spool = folder.path().join("spool");
    fs::create_dir_all(&spool).expect("a folder");
    let more = format!(
        "[[sinks]]\ntype = \"nats\"\n[fleet]\nservers = [{:?}]\nsensor = \"north\"\nspool = {spool:?}\n",
        format!("nats://127.0.0.1:{}", leaf.port)
    );
    let north = Running::start(&endless(&folder.path().join("north"), &more), |_| {});
    north.wait("events are acknowledged", |status| status["sinks"][0]["written"].as_u64() > Some(100));
    let reader = url_of(&hub, &users, "soc");
    assert!(events(&reader, &["--name", "soc"]).len() > 100);
    wait_until("its report is there", || {
        let output = fleet(&["status", "--server", &reader, "--name", "soc"]);
        String::from_utf8_lossy(&output.stdout).contains("sensor north")
    });
}
