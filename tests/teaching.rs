//! Live teaching: a BPF filter teaches a class while the daemon runs, and the class is then found on any port.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{json_lines, spiked};

/// Kills the daemon where a test fails.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Settings of a daemon that replays captures and is taught Redis by its port.
fn settings(folder: &Path, captures: &[&str], rounds: u32, more: &str) -> String {
    let captures: Vec<String> = captures.iter().map(|c| format!("\"fixtures/captures/{c}\"")).collect();
    let (captures, folder) = (captures.join(", "), folder.display());
    format!(
        r#"
[replay]
captures = [{captures}]
speed = 10
rounds = {rounds}
[[sinks]]
type = "file"
path = "{folder}/events.json"
[metrics]
enabled = false
[process]
status_file = "{folder}/status"
[learning]
folder = "{folder}/learned"
every_secs = 0.2
[[teachers]]
class = "redis"
filter = "tcp port 6379"
rate = 1e6
{more}"#
    )
}

fn start(folder: &Path) -> Daemon {
    let program = assert_cmd::cargo::cargo_bin("spiked");
    let mut command = Command::new(program);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("run").arg("--config").arg(folder.join("spiked.toml"));
    Daemon(command.spawn().unwrap())
}

/// Waits until something is so.
fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "after a minute there is still no {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_a_port_teaches_is_found_on_another_port_and_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("learned")).unwrap();
    // The shipped model does not know Redis; the port on which it is to be found is none that the filter names.
    let captures = ["redis-1.pcap", "http-1.pcap", "ssh-1.pcap", "dns-1.pcap", "tls-1.pcap", "redis-oddport.pcap"];
    fs::write(folder.join("spiked.toml"), settings(folder, &captures, 0, "")).unwrap();
    let mut daemon = start(folder);
    let found = |port: u64| {
        let lines = fs::read(folder.join("events.json")).unwrap_or_default();
        // The last line may not be whole yet.
        let whole = lines.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        json_lines(&lines[..whole]).iter().any(|e| e["spiked"]["class"] == "redis" && (e["dest_port"] == port) == (port == 6379))
    };
    wait("Redis on another port among the events", || found(0));
    let part = folder.join("learned/protocols.safetensors");
    wait("file of what was learned", || part.exists());
    daemon.0.kill().unwrap();
    daemon.0.wait().unwrap();

    // The file is a model of the taught class, whole after a kill -9; another daemon knows it from its first packet.
    let shown = spiked().arg("model").arg("show").arg(&part).output().unwrap();
    assert!(shown.status.success() && String::from_utf8_lossy(&shown.stdout).contains("redis"));
    fs::remove_file(folder.join("events.json")).unwrap();
    let frozen = settings(folder, &["redis-oddport.pcap"], 1, "freeze = true\n");
    fs::write(folder.join("spiked.toml"), frozen).unwrap();
    spiked().arg("run").arg("--config").arg(folder.join("spiked.toml")).assert().success();
    assert!(found(0), "it does not know what was learned before it started");
}
