//! Hardening of the process once its sockets are open, in this order, as each step depends on the one before:
//!
//! 1. switch to another user, if set, keeping CAP_NET_RAW where interfaces may have to be reopened;
//! 2. drop all other capabilities, among them root's rights over files and processes;
//! 3. set `no_new_privs`, and restrict file access to the folders that the settings name (Landlock).
//!
//! All of it applies to a thread and is inherited by the threads it starts, so it happens before the first thread is started.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, path_beneath_rules};
use rustix::process::{Gid, Uid};

use crate::config::{Config, Input, ModelSource, SinkKind};
use crate::model::Model;

/// Error of switching to another user; the daemon does not start.
#[derive(Debug, thiserror::Error)]
#[error("can't switch to user '{user}' (process.user): {why}")]
pub struct UserError {
    user: String,
    why: String,
}

/// The writable folders of the Landlock rules, with the device and inode numbers that they had when the rules were set: the rules
/// refer to inodes, not to paths.
#[derive(Debug, Default)]
pub(super) struct Confinement(Vec<(PathBuf, (u64, u64))>);

impl Confinement {
    fn to(folders: &BTreeSet<PathBuf>) -> Self {
        Self(folders.iter().filter_map(|folder| Some((folder.clone(), identity(folder)?))).collect())
    }

    /// Checks that the paths still refer to the same folders.
    ///
    /// # Errors
    /// A folder was removed and recreated, or replaced by another: the first one is returned.
    pub fn check(&self) -> Result<(), FolderReplaced> {
        let another = |(folder, was): &&(PathBuf, (u64, u64))| identity(folder).is_some_and(|is| is != *was);
        self.0.iter().find(another).map_or(Ok(()), |(folder, _)| Err(FolderReplaced(folder.clone())))
    }
}

/// A folder was replaced and is out of reach of the Landlock rules until the process is restarted.
#[derive(Debug, thiserror::Error)]
#[error("{}: the folder was replaced, and Landlock denies access to the new one; restart spiked", .0.display())]
pub struct FolderReplaced(PathBuf);

/// Device and inode number of a folder; `None` if it is not a folder.
fn identity(folder: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(folder).ok().filter(std::fs::Metadata::is_dir).map(|m| (m.dev(), m.ino()))
}

/// Takes the steps; returns a line on each for the log, and the writable folders.
///
/// # Errors
/// The process can't switch to the user of the settings. A step that the kernel does not support is reported in its line.
pub(super) fn harden(config: &Config, settings_file: &Path) -> Result<(Vec<String>, Confinement), UserError> {
    let keep: &[Capability] = if matches!(config.input, Input::Interfaces(_)) { &[Capability::CAP_NET_RAW] } else { &[] };
    let mut steps = Vec::new();
    if let Some(user) = &config.process.user {
        switch_user(user).map_err(|why| UserError { user: user.clone(), why })?;
        steps.push(format!("user: {user}"));
    }
    if !config.process.harden {
        steps.push("off (process.harden = false)".into());
        return Ok((steps, Confinement::default()));
    }
    steps.push(match drop_capabilities(keep) {
        Ok(kept) if kept.is_empty() => "capabilities: all dropped".into(),
        Ok(kept) => format!("capabilities: all dropped but {}", kept.join(", ")),
        Err(error) => format!("capabilities: could not be dropped: {error}"),
    });
    steps.push(match rustix::thread::set_no_new_privs(true) {
        Ok(()) => "no_new_privs: set".into(),
        Err(error) => format!("no_new_privs: could not be set: {error}"),
    });
    let (read, write) = folders(config, settings_file);
    let mut confined = Confinement::to(&write);
    let status = confine(read, write);
    if !matches!(status, Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced)) {
        confined = Confinement::default();
    }
    steps.push(match status {
        Ok(RulesetStatus::FullyEnforced) => "landlock: only the folders of the settings are accessible".into(),
        Ok(RulesetStatus::PartiallyEnforced) => {
            "landlock: only the folders of the settings are accessible, as far as this kernel supports it".into()
        }
        Ok(RulesetStatus::NotEnforced) => "landlock: not supported by this kernel".into(),
        Err(error) => format!("landlock: not enforced: {error}"),
    });
    Ok((steps, confined))
}

/// Drops all capabilities not in `keep`; returns the remaining ones, for the log.
fn drop_capabilities(keep: &[Capability]) -> Result<Vec<String>, caps::errors::CapsError> {
    let have = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = keep.iter().copied().filter(|c| have.contains(c)).collect();
    caps::clear(None, CapSet::Ambient)?;
    // Only if there is something to drop: the systemd unit grants no more than is kept, and blocks the system call.
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        if !caps::read(None, set)?.is_subset(&kept) {
            caps::set(None, set, &kept)?;
        }
    }
    Ok(kept.iter().map(ToString::to_string).collect())
}

/// Finds a user through NSS, so that users of LDAP or systemd-userdbd are found too.
pub(super) fn find_user(name: &str) -> Result<nix::unistd::User, String> {
    nix::unistd::User::from_name(name).map_err(|e| e.to_string())?.ok_or_else(|| "no such user".into())
}

fn switch_user(user: &str) -> Result<(), String> {
    let user = find_user(user)?;
    let (uid, gid) = (Uid::from_raw(user.uid.as_raw()), Gid::from_raw(user.gid.as_raw()));
    let step = |what: &str, done: rustix::io::Result<()>| done.map_err(|error| format!("{what}: {error}; start it as root"));
    step("keep capabilities", rustix::thread::set_keep_capabilities(true))?;
    // These calls affect one thread, and there is only one yet.
    step("groups", rustix::thread::set_thread_groups(&[gid]))?;
    step("group", rustix::thread::set_thread_res_gid(gid, gid, gid))?;
    step("user", rustix::thread::set_thread_res_uid(uid, uid, uid))
}

/// The folder that holds a file.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).into()
}

/// Folders to read and folders to write.
fn folders(config: &Config, settings_file: &Path) -> (BTreeSet<PathBuf>, BTreeSet<PathBuf>) {
    // libpcap and the process metrics read these.
    let mut read: BTreeSet<PathBuf> = ["/proc", "/sys/class/net", "/sys/devices"].iter().map(PathBuf::from).collect();
    let mut write = BTreeSet::new();
    read.insert(folder_of(settings_file));
    for model in &config.models {
        if let ModelSource::File(path) = model
            && !Model::is_built_in(path)
        {
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
            SinkKind::Stdout | SinkKind::Journald | SinkKind::Nats => {}
        }
    }
    if let Some(fleet) = &config.fleet {
        // Names of servers are resolved, and certificates of the system read, at each new connection.
        let resolver =
            ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/run/systemd/resolve"];
        let authorities = ["/etc/ssl", "/etc/pki", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates"];
        read.extend(resolver.into_iter().chain(authorities).map(PathBuf::from));
        let files = [&fleet.credentials, &fleet.ca_certificate].into_iter().flatten();
        let pair = fleet.client_certificate.iter().flat_map(|(certificate, key)| [certificate, key]);
        read.extend(files.chain(pair).map(|path| folder_of(path)));
        write.extend(fleet.spool.clone());
        write.extend(fleet.model_folder.clone());
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
    use crate::skip::{KernelFeature, skip, skip_without};
    use std::fs;
    use std::io;
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

    /// Hardens a new thread, since hardening applies to a thread, and runs `attempt` on it.
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
                return skip_without(KernelFeature::Landlock, &format!("{steps:?}"));
            }
            let denied = |done: io::Result<()>| assert_eq!(done.map_err(|e| e.kind()), Err(PermissionDenied));
            let read = |name: &str| fs::read(root.join(name)).map(|_| ());
            let write = |name: &str| fs::write(root.join(name), "x");
            read("settings/spiked.toml").expect("a reload reads the settings");
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
            return skip("root, to have capabilities to drop");
        }
        assert!(may_sniff());
        for (input, sniffs) in [("[[interfaces]]\nname = \"lo\"\n", true), ("[replay]\ncaptures = [\"a.pcap\"]\n", false)] {
            hardened(input, |root, steps| {
                let expected = if sniffs { "capabilities: all dropped but CAP_NET_RAW" } else { "capabilities: all dropped" };
                assert!(steps.iter().any(|step| step == expected), "{steps:?}");
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
