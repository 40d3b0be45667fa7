//! Tests of the files in `deploy/` that are about a fleet: their permissions are those that the program writes, and their settings pass
//! `spiked check`.

use std::fs;
use std::path::Path;

use super::common::{deploy, fixture, spiked};
use super::servers::{Server, init};

/// Clients of the shipped settings of nats-server.
const CLIENTS: [&str; 10] =
    ["--any-sensor", "sensors", "--reader", "viewer", "--curator", "curator", "--worker", "workers", "--admin", "operator"];

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
