//! A daemon that a test runs on this machine, without privileges and with a port that the system chooses (`metrics.address` with port 0).

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::wait_for;

/// Settings that replay the fixtures repeatedly at many times their speed, followed by `more`.
pub fn endless(folder: &Path, more: &str) -> PathBuf {
    let capture = super::fixture("captures/mixed.pcapng");
    let text = format!(
        "[replay]\ncaptures = [{capture:?}]\nspeed = 200.0\nrepeat = 0\n[process]\nstatus_file = \"{}\"\n{more}",
        folder.join("run/status.json").display()
    );
    // In a folder of its own, so that a hardened daemon may not write to all of `folder`.
    fs::create_dir_all(folder.join("run")).unwrap();
    let file = folder.join("spiked.toml");
    fs::write(&file, text).unwrap();
    file
}

/// The body of the response to a path, requested by HTTP/1.0 to prevent a chunked response.
pub fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut client = TcpStream::connect(address).ok()?;
    client.set_read_timeout(Some(super::PATIENCE)).ok()?;
    client.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_string())
}

/// The JSON of [`get`].
pub fn get_json(address: SocketAddr, path: &str) -> Option<Value> {
    serde_json::from_str(&get(address, path)?).ok()
}

/// A program; killed when dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The daemon; killed when dropped.
pub struct Running {
    pub child: Child,
    log: PathBuf,
    pub address: SocketAddr,
}

impl Running {
    /// Starts it with settings whose log goes to `log` in the same folder, and waits until it serves; `prepare` may change the command.
    pub fn start(settings: &Path, prepare: impl FnOnce(&mut Command)) -> Self {
        let log = settings.with_file_name("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_spiked"));
        command.args(["run", "--set", "metrics.address=127.0.0.1:0", "--config"]).arg(settings);
        for variable in super::skip::VARIABLES {
            command.env_remove(variable);
        }
        command.current_dir(env!("CARGO_MANIFEST_DIR")).stdout(Stdio::null()).stderr(fs::File::create(&log).expect("a file"));
        prepare(&mut command);
        let mut child = command.spawn().expect("spiked");
        let address = wait_for("it is ready", || {
            let log_text = fs::read_to_string(&log).unwrap_or_default();
            assert!(child.try_wait().expect("a child").is_none(), "the daemon ended: {log_text}");
            log_text.split("ready; http://").nth(1)?.split('/').next()?.parse().ok()
        });
        Self { child, log, address }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process number")
    }

    /// The body of the response to a path; `None` without a response.
    pub fn get(&self, path: &str) -> Option<String> {
        get(self.address, path)
    }

    pub fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.get("/status")?).ok()
    }

    /// Waits until the status meets a condition; returns it.
    pub fn wait(&self, what: &str, so: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("{what}; {:?}", self.log), || self.status().filter(|s| so(s)))
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child of ours that has not been waited for.
        unsafe {
            libc::kill(self.pid(), signal);
        }
    }

    /// Sends SIGTERM; returns the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(libc::SIGTERM);
        self.child.wait().expect("a child").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
