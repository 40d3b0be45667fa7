//! Tests of the files in `deploy/`: the settings of the cluster pass `spiked check`, all files use the same port, and the unit passes
//! `systemd-analyze` with the documented exposure.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{skip, spiked};

/// The default of `metrics.address`, as `config/spiked.toml` documents it.
const PORT: &str = "9184";

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

fn text(file: &str) -> String {
    std::fs::read_to_string(deploy(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Runs a program that not every machine has; reports a skip if it is missing.
fn optional(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip(&format!("the program {program}"));
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// The block below `spiked.toml: |`, without its indentation.
fn cluster_settings() -> String {
    let text = text("kubernetes/configmap.yaml");
    let (_, block) = text.split_once("  spiked.toml: |\n").expect("the ConfigMap holds spiked.toml");
    block.lines().map(|line| line.strip_prefix("    ").unwrap_or(line)).fold(String::new(), |all, line| all + line + "\n")
}

#[test]
fn the_clusters_settings_pass_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spiked.toml");
    std::fs::write(&file, cluster_settings()).unwrap();
    spiked().args(["check", "--config"]).arg(&file).env("SPIKED_SENSOR", "node-1").assert().success();
    // The check is effective: an unknown key in the same place is rejected.
    std::fs::write(&file, cluster_settings().replace("[engine]", "[engine]\nthreads = 2")).unwrap();
    spiked().args(["check", "--config"]).arg(&file).assert().code(2);
}

#[test]
fn all_files_use_the_same_port() {
    let settings = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/spiked.toml")).unwrap();
    for (name, text, wanted) in [
        ("config/spiked.toml", settings, format!("#address = \"127.0.0.1:{PORT}\"")),
        ("configmap.yaml", text("kubernetes/configmap.yaml"), format!("address = \"0.0.0.0:{PORT}\"")),
        ("daemonset.yaml", text("kubernetes/daemonset.yaml"), format!("containerPort: {PORT}")),
        ("servicemonitor.yaml", text("kubernetes/servicemonitor.yaml"), format!("port: {PORT}")),
        ("prometheus.yml", text("prometheus/prometheus.yml"), format!("127.0.0.1:{PORT}")),
        ("spiked.service", text("systemd/spiked.service"), format!("SocketBindAllow=tcp:{PORT}")),
        ("Dockerfile", text("Dockerfile"), format!("EXPOSE {PORT}")),
    ] {
        assert!(text.contains(&wanted), "{name} has no '{wanted}'");
    }
    let daemonset = text("kubernetes/daemonset.yaml");
    assert!(daemonset.contains("name: metrics"), "probes and ServiceMonitor go to the port by its name");
    assert_eq!(daemonset.matches("port: metrics").count(), 3, "three probes");
    assert!(text("kubernetes/servicemonitor.yaml").contains("targetPort: metrics"));
}

#[test]
fn yaml_files_parse() {
    // 0: all files parse and have the expected kinds; 3: no parser.
    let script = r#"
import sys
try:
    import yaml
except ImportError:
    sys.exit(3)
for file, kinds in (arg.split("=") for arg in sys.argv[1:]):
    found = [document.get("kind", "") for document in yaml.safe_load_all(open(file, encoding="utf-8"))]
    assert found == kinds.split(","), (file, found)
"#;
    let wanted = [
        ("kubernetes/configmap.yaml", "ConfigMap"),
        ("kubernetes/daemonset.yaml", "DaemonSet"),
        ("kubernetes/servicemonitor.yaml", "Service,ServiceMonitor"),
        ("prometheus/prometheus.yml", ""),
        ("prometheus/fleet.prometheus.yml", ""),
        ("compose/compose.yaml", ""),
        ("compose/prometheus.yml", ""),
        ("compose/grafana/datasource.yml", ""),
        ("compose/grafana/dashboards.yml", ""),
        ("kubernetes/fleet/kustomization.yaml", "Kustomization"),
        ("kubernetes/fleet/nats.yaml", "Service,NetworkPolicy,PodDisruptionBudget,StatefulSet"),
        ("kubernetes/fleet/init.yaml", "Job"),
        ("kubernetes/fleet/exporter.yaml", "Service,Deployment"),
        ("kubernetes/sensors/kustomization.yaml", "Kustomization"),
        ("kubernetes/sensors/daemonset.yaml", "DaemonSet"),
        ("kubernetes/sensors-eth1/kustomization.yaml", "Kustomization"),
        ("kubernetes/workers/kustomization.yaml", "Kustomization"),
        ("kubernetes/workers/job.yaml", "Job"),
    ]
    .map(|(file, kinds)| format!("{}={kinds}", deploy(file).display()));
    let arguments: Vec<&str> = ["-c", script].into_iter().chain(wanted.iter().map(String::as_str)).collect();
    let Some(output) = optional("python3", &arguments) else { return };
    if output.status.code() == Some(3) {
        skip("python3 with yaml (Debian package python3-yaml)");
        return;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Continuous integration has no kubectl: without it, only the test above checks these files.
#[test]
fn kustomize_accepts_the_folders_of_the_fleet() {
    for folder in ["fleet", "sensors", "sensors-eth1", "workers"] {
        let path = deploy(&format!("kubernetes/{folder}"));
        match Command::new("kubectl").arg("kustomize").arg(&path).output() {
            Ok(output) => assert!(output.status.success(), "{folder}: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "kubectl: {error}"),
        }
    }
}

/// The program's file has the capability as permitted only, so that it starts where the capability is withheld.
#[test]
fn only_sensors_have_the_capability_to_capture() {
    assert!(text("Dockerfile").contains("setcap cap_net_raw+p /usr/bin/spiked"));
    for (file, sensors) in [
        ("compose/compose.yaml", 1),
        ("kubernetes/daemonset.yaml", 1),
        ("kubernetes/sensors/daemonset.yaml", 1),
        ("kubernetes/fleet/init.yaml", 0),
        ("kubernetes/fleet/exporter.yaml", 0),
        ("kubernetes/workers/job.yaml", 0),
    ] {
        let text = text(file).replace('"', "");
        assert!(text.contains("drop: [ALL]"), "{file}");
        assert_eq!(text.matches("add: [NET_RAW]").count(), sensors, "{file}");
    }
}

#[test]
fn compose_scrapes_what_the_shipped_example_does() {
    let shipped = text("prometheus/fleet.prometheus.yml").replace("127.0.0.1:9185", "exporter:9185");
    assert_eq!(text("compose/prometheus.yml"), shipped);
}

#[test]
fn the_unit_is_valid_and_hardened() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("spiked.service");
    // systemd-analyze looks up the program, which is not installed where it is only tested.
    std::fs::write(&unit, text("systemd/spiked.service").replace("/usr/bin/spiked", "/bin/true")).unwrap();
    let unit = unit.to_str().unwrap();
    let Some(verified) = optional("systemd-analyze", &["verify", "--man=no", unit]) else { return };
    let report = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !report.contains("spiked"), "systemd-analyze verify: {report}");
    // In tenths, rounded up; systemd 252 and 257 compute the same value.
    let measured = optional("systemd-analyze", &["security", "--offline=true", "--threshold=15", unit]).expect("it was there");
    let report = String::from_utf8_lossy(&measured.stdout);
    let exposure = report.lines().rev().find(|line| line.contains("exposure")).unwrap_or("nothing").to_owned();
    assert!(measured.status.success(), "{exposure}; {}", String::from_utf8_lossy(&measured.stderr));
}

/// `vector validate` and the like would need the programs; that they read the file of the shipped settings is checked here.
#[test]
fn the_collectors_read_the_file_that_is_written() {
    let shipped = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/spiked.toml")).unwrap();
    assert!(shipped.contains("path = \"/var/log/spiked/eve.json\""));
    for name in ["vector.yaml", "filebeat.yml", "fluent-bit.yaml"] {
        assert!(text(&format!("collectors/{name}")).contains("/var/log/spiked/eve.json"), "{name}");
    }
}
