//! Network namespaces with veth pairs for tests of the daemon on real interfaces, and the daemon in them. Each test makes its own and
//! removes it. Needs root, `ip` and `tcpreplay`; without them the test reports a skip.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// A namespace with a veth pair `a` and `b`, and a folder; removed when dropped.
pub struct Net {
    name: String,
    pub folder: tempfile::TempDir,
}

impl Net {
    pub fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // SAFETY: getuid only reads.
        if unsafe { libc::getuid() } != 0 {
            super::skip("root, to make network namespaces");
            return None;
        }
        if !(super::installed("ip", "iproute2") && super::installed("tcpreplay", "tcpreplay")) {
            return None;
        }
        let name = format!("spiked-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        if !Command::new("ip").args(["netns", "add", &name]).status().is_ok_and(|s| s.success()) {
            super::skip("network namespaces");
            return None;
        }
        let net = Self { name, folder: tempfile::tempdir().expect("a folder") };
        // Stops packets of the kernel itself, so that only replayed packets are counted.
        net.shell("sysctl -qw net.ipv6.conf.default.disable_ipv6=1 net.ipv6.conf.all.disable_ipv6=1; ip link set lo up");
        net.pair("a", "b");
        Some(net)
    }

    /// Moves the calling thread, with the threads and programs that it starts from now on, into the namespace.
    pub fn enter(&self) {
        let file = fs::File::open(Path::new("/run/netns").join(&self.name)).expect("the namespace");
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(file.as_fd(), kind).expect("root may enter it");
    }

    pub fn pair(&self, a: &str, b: &str) {
        self.shell(&format!(
            "ip link add name {a} mtu 65535 type veth peer name {b} mtu 65535; ip link set dev {a} up; ip link set dev {b} up"
        ));
    }

    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        for variable in super::skip::VARIABLES {
            command.env_remove(variable);
        }
        command
    }

    pub fn shell(&self, script: &str) -> Output {
        let output = self.inside("sh").args(["-ec", script]).output().expect("sh");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Replays a capture into an interface; returns the number of packets sent.
    pub fn replay(&self, interface: &str, capture: &Path, options: &[&str]) -> u64 {
        let output = self.inside("tcpreplay").args(["-i", interface]).args(options).arg(capture).output().expect("tcpreplay");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|l| l.contains("Successful packets")).unwrap_or_else(|| panic!("{output:?}"));
        line.rsplit(' ').find(|w| !w.is_empty()).and_then(|n| n.parse().ok()).expect("a number")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Settings for the interfaces, with `more` after them.
    pub fn settings(&self, interfaces: &[&str], more: &str) -> PathBuf {
        let mut text = String::new();
        for interface in interfaces {
            text += &format!("[[interfaces]]\nname = \"{interface}\"\n");
        }
        let (events, status) = (self.path("eve.json"), self.path("status.json"));
        text += &format!(
            "[[sinks]]\ntype = \"file\"\npath = \"{}\"\nevents = [\"detection\", \"alert\", \"stream\"]\nqueue = 1048576\n\
             [process]\nstatus_file = \"{}\"\n[capture]\nbatch_millis = 20\nretry_max_secs = 1\n{more}\n",
            events.display(),
            status.display()
        );
        let path = self.path("spiked.toml");
        fs::write(&path, text).expect("written");
        path
    }

    pub fn events(&self, kind: &str) -> Vec<Value> {
        let text = fs::read(self.path("eve.json")).unwrap_or_default();
        assert!(text.is_empty() || text.ends_with(b"\n"), "the last line is not whole");
        super::json_lines(&text).into_iter().filter(|e| e["event_type"] == kind).collect()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon<'a> {
    net: &'a Net,
    pub child: Child,
}

impl<'a> Daemon<'a> {
    pub fn start(net: &'a Net, settings: &Path) -> Self {
        let log = fs::File::create(net.path("log")).expect("a file");
        let child =
            net.inside(env!("CARGO_BIN_EXE_spiked")).args(["run", "--config"]).arg(settings).stderr(log).spawn().expect("spiked");
        let daemon = Self { net, child };
        daemon.wait("it has started", |s| s["not_ready"] != "starting");
        daemon
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.net.path("log")).unwrap_or_default()
    }

    pub fn status(&self) -> Option<Value> {
        let script = "exec 3<>/dev/tcp/127.0.0.1/9184; printf 'GET /status HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
        let output = self.net.inside("bash").args(["-c", script]).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }

    pub fn wait(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        super::wait_for(&format!("{what}; the log is {}", self.net.path("log").display()), || self.status().filter(|s| is(s)))
    }

    pub fn pid(&self) -> i32 {
        // `ip netns exec` becomes the program.
        i32::try_from(self.child.id()).expect("a process number")
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

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn counted(interface: &Value) -> (u64, u64) {
    let dropped = interface["dropped"].as_object().expect("by reason").values().filter_map(Value::as_u64).sum();
    (interface["received"].as_u64().expect("a number"), dropped)
}
