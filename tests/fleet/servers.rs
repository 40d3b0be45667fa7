//! nats-server processes that a test runs on loopback ports, and the program's commands against them.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use spiked::config::FleetConfig;

use super::common::{self, skip, wait_for, wait_until};

/// Version of the server that `.ci/run` installs, in the name of its folder.
const INSTALLED: &str = "target/tools/nats-2.15.1/bin/nats-server";

/// Path of nats-server: from the environment, from PATH, or where `.ci/run` installs it; reports a skip without it.
pub fn nats_server() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(skip::NATS_SERVER) {
        return Some(path.into());
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&folders).map(|folder| folder.join("nats-server"));
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(INSTALLED);
    let found = places.find(|path| path.is_file()).or_else(|| installed.is_file().then_some(installed));
    if found.is_none() {
        skip(&format!("nats-server ({}, PATH, or as .ci/run installs it)", skip::NATS_SERVER));
    }
    found
}

/// A port that nothing listens on, each time another one. It is below those that the system gives to connections, which could take it
/// before a server does.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes begin at different ports.
    let begin = std::process::id().wrapping_mul(101);
    wait_for("a free port", || {
        let port = FIRST + (begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT) as u16;
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    })
}

/// A server; killed when dropped.
pub struct Server {
    program: PathBuf,
    settings: PathBuf,
    pub port: u16,
    child: Option<Child>,
}

impl Server {
    /// Starts a server whose settings end with `more`, in a folder of its own.
    pub fn start(folder: &Path, name: &str, port: u16, more: &str) -> Option<Self> {
        let program = nats_server()?;
        let home = folder.join(name);
        fs::create_dir_all(&home).expect("a folder");
        let text = format!(
            "server_name: {name}\nlisten: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {:?} }}\nlog_file: {:?}\n{more}",
            home.join("store"),
            home.join("log")
        );
        let settings = home.join("nats-server.conf");
        fs::write(&settings, text).expect("written");
        let mut server = Self { program, settings, port, child: None };
        server.restart();
        Some(server)
    }

    /// One server.
    pub fn alone(folder: &Path, more: &str) -> Option<Self> {
        Self::start(folder, "alone", free_port(), more)
    }

    /// Three servers of one cluster.
    pub fn three(folder: &Path) -> Option<Vec<Self>> {
        let routes: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let urls: Vec<String> = routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let cluster =
            |port: u16| format!("cluster {{ name: fleet, listen: \"127.0.0.1:{port}\", routes: [{}] }}\n", urls.join(", "));
        (0..3).map(|at| Self::start(folder, &format!("server-{at}"), free_port(), &cluster(routes[at]))).collect()
    }

    /// Starts the process, again if it was killed, and waits until it accepts connections.
    pub fn restart(&mut self) {
        let child = Command::new(&self.program)
            .arg("-c")
            .arg(&self.settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server starts");
        self.child = Some(child);
        let port = self.port;
        wait_until("nats-server accepts connections", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn name(&self) -> String {
        self.settings.parent().and_then(Path::file_name).expect("a folder").to_string_lossy().into_owned()
    }

    pub fn signal(&self, signal: i32) {
        let pid = self.child.as_ref().map_or(0, Child::id);
        // SAFETY: a signal to a child of ours that has not been waited for.
        unsafe {
            libc::kill(i32::try_from(pid).expect("a process number"), signal);
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Settings of a sensor with a spool in `folder`.
pub fn sensor(name: &str, servers: &[String], folder: &Path) -> FleetConfig {
    let spool = folder.join(format!("spool-{name}"));
    fs::create_dir_all(&spool).expect("a folder");
    FleetConfig { servers: servers.to_vec(), sensor: name.into(), spool: Some(spool), spool_mib: 256, ..FleetConfig::default() }
}

/// Runs `spiked fleet` with arguments.
pub fn fleet(arguments: &[&str]) -> Output {
    common::spiked().arg("fleet").args(arguments).output().expect("it runs")
}

/// Runs `spiked fleet init` until the servers have agreed on a leader, then returns its output.
pub fn init(url: &str, more: &[&str]) -> Output {
    let arguments = [&["init", "--server", url, "--events-mib", "512", "--results-mib", "512"], more].concat();
    wait_for("spiked fleet init succeeds", || Some(fleet(&arguments)).filter(|output| output.status.code() != Some(4)))
}

/// The texts of the events that `spiked fleet tail` prints.
pub fn events(url: &str, more: &[&str]) -> Vec<String> {
    let output = fleet(&[&["tail", "--once", "--server", url], more].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").lines().map(String::from).collect()
}
