//! Tests of `spiked top` in a terminal that tmux emulates.

use std::process::Command;

use crate::common::{fixture, installed, spiked, wait_for};
use predicates::str::contains;

/// A tmux server with one session, which ends with it.
struct Tmux {
    folder: tempfile::TempDir,
}

impl Tmux {
    /// A terminal of 80 by 24; `None` after reporting a skip if tmux is not installed.
    fn start() -> Option<Self> {
        // tmux -V prints its version, tmux --version a usage message; either shows that it can be started.
        installed("tmux", "tmux").then(|| {
            let tmux = Self { folder: tempfile::tempdir().unwrap() };
            tmux.run(&["new-session", "-d", "-x", "80", "-y", "24", "-s", "top", "env PS1='> ' LC_ALL=C.UTF-8 sh -i"]);
            tmux
        })
    }

    fn run(&self, args: &[&str]) -> String {
        let socket = self.folder.path().join("socket");
        let output = Command::new("tmux").args(["-f", "/dev/null", "-S"]).arg(socket).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn screen(&self) -> String {
        self.run(&["capture-pane", "-p", "-t", "top"])
    }

    fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys", "-t", "top"], keys].concat());
    }

    /// Waits until the screen shows a text; returns the screen.
    fn wait(&self, text: &str) -> String {
        wait_for(text, || Some(self.screen()).filter(|screen| screen.contains(text)))
    }

    /// Runs the program with arguments; the shell prints its exit code behind "code ". Returns the number of its process.
    fn spiked(&self, args: &str) -> u32 {
        let (program, pid) = (assert_cmd::cargo::cargo_bin("spiked"), self.folder.path().join("pid"));
        let script = self.folder.path().join("run.sh");
        let text = format!("echo $$ > {0}.new; mv {0}.new {0}; exec {1} {args}\n", pid.display(), program.display());
        std::fs::write(&script, text).unwrap();
        self.press(&[&format!("clear; sh {}; echo code $?", script.display()), "Enter"]);
        wait_for("the process", || std::fs::read_to_string(&pid).ok()?.trim().parse().ok())
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(self.folder.path().join("socket")).arg("kill-server").output();
    }
}

#[test]
fn a_capture_is_shown_explained_taught_and_left() {
    let Some(tmux) = Tmux::start() else { return };
    let out = tmux.folder.path().join("m.st");
    tmux.spiked(&format!("top {}", fixture("captures/mixed.pcapng").display()));
    let screen = tmux.wait("read to the end");
    for shown in ["spiked top", "91 streams named   216 unknown", "dns", "unknown, by server", "10.12.2.1:4730 TCP", "q quit"] {
        assert!(screen.contains(shown), "{shown}\n{screen}");
    }
    tmux.press(&["Enter"]);
    let screen = tmux.wait("potential       lead");
    assert!(screen.contains("nearest class"), "{screen}");
    tmux.press(&["Escape"]);
    tmux.wait("q quit");
    tmux.press(&["Tab", "t"]);
    tmux.wait("teach from");
    tmux.press(&["gearman", "Tab", "C-u"]);
    tmux.press(&["-l", out.to_str().unwrap()]);
    tmux.press(&["Enter"]);
    let screen = tmux.wait("read again with the new model");
    assert!(screen.contains("built-in reference: claims 0 of") && screen.contains("16 streams are named gearman"), "{screen}");
    tmux.press(&["Escape"]);
    tmux.wait("107 streams named   200 unknown");
    tmux.press(&["q"]);
    let screen = tmux.wait("code 0");
    assert!(!screen.contains("streams named"), "the screen is restored\n{screen}");
    spiked().args(["model", "show"]).arg(out).assert().code(0).stdout(contains("gearman"));
}

#[test]
fn signals_and_resizing_leave_a_whole_screen() {
    let Some(tmux) = Tmux::start() else { return };
    let capture = fixture("captures/dns-1.pcap");
    let pid = tmux.spiked(&format!("top --color never {}", capture.display()));
    tmux.wait("read to the end");
    tmux.run(&["resize-window", "-t", "top", "-x", "60", "-y", "16"]);
    let screen = wait_for("the smaller screen", || {
        Some(tmux.screen()).filter(|screen| screen.contains("q quit") && screen.lines().count() <= 16)
    });
    assert!(screen.contains("detections"), "{screen}");
    // SAFETY: kill only sends a signal, to the program that this test has started.
    assert_eq!(unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) }, 0);
    tmux.wait("code 0");
    // The shell echoes what is typed again, so the terminal is no longer in raw mode.
    tmux.press(&["echo typed again", "Enter"]);
    tmux.wait("typed again");
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let capture = fixture("captures/dns-1.pcap");
    spiked().arg("top").arg(capture).assert().code(2).stderr(contains("spiked read"));
}
