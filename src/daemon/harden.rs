//! What may the process still do, once its sockets are open? In this order, each step resting on the one before:
//!
//! 1. become another user, if asked, keeping CAP_NET_RAW where interfaces may have to be opened anew;
//! 2. drop all other capabilities, which are what root can do to files and processes;
//! 3. forbid new privileges, and see only the folders that the settings name (landlock).
//!
//! All of it is a thread's and inherited by those that it starts, so it comes before the first thread.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, path_beneath_rules};
use rustix::process::{Gid, Uid};

use crate::config::{Config, Input, ModelSource, SinkKind};

/// Why the user could not be changed: then it does not run.
#[derive(Debug, thiserror::Error)]
#[error("can't become user '{user}' (process.user): {why}")]
pub struct UserError {
    user: String,
    why: String,
}

/// The folders that may be written, as they were when the process was confined to them: by what they are, not by their names.
#[derive(Debug, Default)]
pub(super) struct Confinement(Vec<(PathBuf, (u64, u64))>);

impl Confinement {
    fn to(folders: &BTreeSet<PathBuf>) -> Self {
        Self(folders.iter().filter_map(|folder| Some((folder.clone(), identity(folder)?))).collect())
    }

    /// Looks at them again.
    ///
    /// # Errors
    /// Where somebody has removed one and made it anew, or put another in its place: the first that is so.
    pub fn check(&self) -> Result<(), FolderReplaced> {
        let another = |(folder, was): &&(PathBuf, (u64, u64))| identity(folder).is_some_and(|is| is != *was);
        self.0.iter().find(another).map_or(Ok(()), |(folder, _)| Err(FolderReplaced(folder.clone())))
    }
}

/// A folder is out of reach now: only a process that is started anew can write there.
#[derive(Debug, thiserror::Error)]
#[error("{}: another folder is there now, which landlock keeps this process from; start it again", .0.display())]
pub struct FolderReplaced(PathBuf);

/// Device and number of a folder; `None` where it is none.
fn identity(folder: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(folder).ok().filter(std::fs::Metadata::is_dir).map(|m| (m.dev(), m.ino()))
}

/// Takes the steps; returns a line on each, and what the process is confined to.
///
/// # Errors
/// Where another user was asked for and can't be had. What the kernel has not got is told, and no error.
pub(super) fn harden(config: &Config, settings_file: &Path) -> Result<(Vec<String>, Confinement), UserError> {
    let keep: &[Capability] = if matches!(config.input, Input::Interfaces(_)) { &[Capability::CAP_NET_RAW] } else { &[] };
    let mut steps = Vec::new();
    if let Some(user) = &config.process.user {
        become_user(user).map_err(|why| UserError { user: user.clone(), why })?;
        steps.push(format!("user: {user}"));
    }
    if !config.process.harden {
        steps.push("off (process.harden = false)".into());
        return Ok((steps, Confinement::default()));
    }
    steps.push(match drop_capabilities(keep) {
        Ok(kept) => format!("capabilities: all dropped but {kept}"),
        Err(error) => format!("capabilities: could not be dropped: {error}"),
    });
    steps.push(match rustix::thread::set_no_new_privs(true) {
        Ok(()) => "no new privileges: set".into(),
        Err(error) => format!("no new privileges: could not be set: {error}"),
    });
    let (read, write) = folders(config, settings_file);
    let mut confined = Confinement::to(&write);
    let status = confine(read, write);
    if !matches!(status, Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced)) {
        confined = Confinement::default();
    }
    steps.push(match status {
        Ok(RulesetStatus::FullyEnforced) => "landlock: only the folders of the settings are seen".into(),
        Ok(RulesetStatus::PartiallyEnforced) => {
            "landlock: only the folders of the settings are seen, as far as this kernel can".into()
        }
        Ok(RulesetStatus::NotEnforced) => "landlock: this kernel has none".into(),
        Err(error) => format!("landlock: not enforced: {error}"),
    });
    Ok((steps, confined))
}

/// Drops what is not in `keep`; returns what is left, for the log.
fn drop_capabilities(keep: &[Capability]) -> Result<String, caps::errors::CapsError> {
    let have = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = keep.iter().copied().filter(|c| have.contains(c)).collect();
    caps::clear(None, CapSet::Ambient)?;
    // Only where there is something to drop: the unit forbids the call, having given no more than is kept. What may be inherited is
    // nothing without the ambient set, as no program that is started may gain privileges.
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        if !caps::read(None, set)?.is_subset(&kept) {
            caps::set(None, set, &kept)?;
        }
    }
    let names: Vec<String> = kept.iter().map(ToString::to_string).collect();
    Ok(if names.is_empty() { "none".into() } else { names.join(", ") })
}

fn become_user(user: &str) -> Result<(), String> {
    let (uid, gid) = look_up(user).map_err(|e| e.to_string())?.ok_or("there is no such user in /etc/passwd")?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let step = |what: &str, done: rustix::io::Result<()>| done.map_err(|error| format!("{what}: {error}; start it as root"));
    step("keep capabilities", rustix::thread::set_keep_capabilities(true))?;
    // Of one thread each, and there is but one yet.
    step("groups", rustix::thread::set_thread_groups(&[gid]))?;
    step("group", rustix::thread::set_thread_res_gid(gid, gid, gid))?;
    step("user", rustix::thread::set_thread_res_uid(uid, uid, uid))
}

fn look_up(user: &str) -> io::Result<Option<(u32, u32)>> {
    let users = std::fs::read_to_string("/etc/passwd")?;
    let ids = |line: &str| {
        let mut fields = line.split(':');
        let (name, mut ids) = (fields.next()?, fields.skip(1));
        (name == user).then_some((ids.next()?.parse().ok()?, ids.next()?.parse().ok()?))
    };
    Ok(users.lines().find_map(ids))
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).into()
}

/// Folders to read and folders to write.
fn folders(config: &Config, settings_file: &Path) -> (BTreeSet<PathBuf>, BTreeSet<PathBuf>) {
    // libpcap and the process metrics read the kernel's own.
    let mut read: BTreeSet<PathBuf> = ["/proc", "/sys/class/net", "/sys/devices"].iter().map(PathBuf::from).collect();
    let mut write = BTreeSet::new();
    read.insert(folder_of(settings_file));
    for model in &config.models {
        if let ModelSource::File(path) = model {
            read.insert(folder_of(path));
        }
    }
    match &config.input {
        Input::Interfaces(_) => {}
        Input::Replay(replay) => read.extend(replay.captures.iter().cloned()),
        Input::Watch(watch) => {
            write.insert(watch.folder.clone());
            write.insert(folder_of(&watch.quarantine_folder));
            write.extend(watch.move_to.as_deref().map(folder_of));
        }
    }
    for sink in &config.sinks {
        match &sink.kind {
            SinkKind::File { path } | SinkKind::Unix { path } => {
                write.insert(folder_of(path));
            }
            SinkKind::Syslog { socket, .. } => {
                write.insert(socket.clone());
            }
            SinkKind::Stdout | SinkKind::Journald => {}
        }
    }
    write.extend(config.evidence.as_ref().map(|e| e.folder.clone()));
    write.extend(config.learning.folder.clone());
    write.insert(folder_of(&config.process.status_file));
    (read, write)
}

fn confine(read: BTreeSet<PathBuf>, write: BTreeSet<PathBuf>) -> Result<RulesetStatus, landlock::RulesetError> {
    let abi = ABI::V4;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(read, AccessFs::from_read(abi)))?
        .add_rules(path_beneath_rules(write, AccessFs::from_all(abi)))?
        .restrict_self()?;
    Ok(status.ruleset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::ErrorKind::PermissionDenied;

    /// Whether a raw packet socket can be had, as one who may sniff can.
    #[expect(unsafe_code, reason = "opens a raw socket")]
    fn may_sniff() -> bool {
        // SAFETY: a socket of our own, closed at once.
        unsafe {
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
            socket >= 0 && libc::close(socket) == 0
        }
    }

    /// Hardens a thread of its own, since all of it is a thread's, and tries what is said there.
    fn hardened(input: &str, attempt: impl FnOnce(&Path, &[String]) + Send) {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["settings", "events", "run", "elsewhere"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        fs::write(folder.path().join("elsewhere/secret"), "secret").expect("written");
        let file = folder.path().join("settings/spiked.toml");
        let root = folder.path().display();
        let text = format!(
            "{input}[[sinks]]\ntype = \"file\"\npath = \"{root}/events/eve.json\"\n[process]\nstatus_file = \"{root}/run/status\"\n"
        );
        fs::write(&file, &text).expect("written");
        let config = Config::from_text(&file, &text, &[]).expect("sensible settings");
        let root = folder.path();
        std::thread::scope(|scope| {
            let hardened = scope.spawn(move || attempt(root, &harden(&config, &file).expect("no user was asked for").0));
            hardened.join().expect("what was tried is as it should be");
        });
        // Other threads are as they were.
        assert_eq!(fs::read_to_string(folder.path().join("elsewhere/secret")).expect("readable"), "secret");
    }

    #[test]
    fn only_the_folders_of_the_settings_can_be_reached() {
        hardened("[[interfaces]]\nname = \"lo\"\n", |root, steps| {
            if !steps.iter().any(|s| s.starts_with("landlock: only")) {
                eprintln!("skipped: {steps:?}");
                return;
            }
            let denied = |done: io::Result<()>| assert_eq!(done.map_err(|e| e.kind()), Err(PermissionDenied));
            let read = |name: &str| fs::read(root.join(name)).map(|_| ());
            let write = |name: &str| fs::write(root.join(name), "x");
            read("settings/spiked.toml").expect("settings are read anew at a reload");
            write("events/eve.json").expect("events are written");
            fs::rename(root.join("events/eve.json"), root.join("events/eve.json.1")).expect("and rotated");
            write("run/status").expect("so is the status file");
            fs::read("/proc/self/status").expect("the process metrics read it");
            denied(read("elsewhere/secret"));
            denied(write("elsewhere/new"));
            denied(write("settings/spiked.toml"));
            denied(fs::remove_file(root.join("elsewhere/secret")));
            denied(fs::read_dir("/").map(|_| ()));
            denied(fs::read("/etc/passwd").map(|_| ()));
            // Landlock says of this that it crosses devices.
            assert!(fs::hard_link(root.join("elsewhere/secret"), root.join("events/stolen")).is_err());
            denied(std::process::Command::new("/bin/true").status().map(|_| ()));
            // What was taken can't be taken back: one who tries again gets less, not more.
            assert!(Ruleset::default().handle_access(AccessFs::from_all(ABI::V4)).is_ok());
            denied(read("elsewhere/secret"));
        });
    }

    #[test]
    #[expect(unsafe_code, reason = "asks for the user's number")]
    fn capabilities_are_gone_for_good() {
        // SAFETY: geteuid only reads the process's own number.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: only root has capabilities to drop");
            return;
        }
        assert!(may_sniff());
        for (input, sniffs) in [("[[interfaces]]\nname = \"lo\"\n", true), ("[replay]\ncaptures = [\"a.pcap\"]\n", false)] {
            hardened(input, |root, steps| {
                assert!(steps.iter().any(|s| s.starts_with("capabilities: all dropped but")), "{steps:?}");
                assert_eq!(may_sniff(), sniffs, "{input}");
                for capability in caps::all().into_iter().filter(|c| !(sniffs && *c == Capability::CAP_NET_RAW)) {
                    assert!(caps::raise(None, CapSet::Effective, capability).is_err(), "{capability} is still to be had");
                    assert!(caps::raise(None, CapSet::Permitted, capability).is_err(), "{capability} is still to be had");
                }
                assert!(rustix::thread::no_new_privs().expect("it can be asked"), "programs could give them back");
                // What root may and others may not, in a folder that landlock leaves.
                let given = std::os::unix::fs::chown(root.join("events"), Some(65534), None);
                assert_eq!(given.map_err(|e| e.kind()), Err(PermissionDenied));
            });
        }
    }
}
