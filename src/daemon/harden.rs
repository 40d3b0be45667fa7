//! What may the process still do, once its sockets are open? In this order, each step resting on the one before:
//!
//! 1. become another user, if asked, keeping CAP_NET_RAW where interfaces may have to be opened anew;
//! 2. drop all other capabilities, which are what root can do to files and processes;
//! 3. forbid new privileges, and see only the folders that the settings name (landlock).
//!
//! All of it is a thread's and inherited by those that it starts, so it comes before the first thread.

use std::collections::BTreeSet;
use std::io;
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

/// Takes the steps; returns a line on each.
///
/// # Errors
/// Where another user was asked for and can't be had. What the kernel has not got is told, and no error.
pub(super) fn harden(config: &Config, settings_file: &Path) -> Result<Vec<String>, UserError> {
    let keep: &[Capability] = if matches!(config.input, Input::Interfaces(_)) { &[Capability::CAP_NET_RAW] } else { &[] };
    let mut steps = Vec::new();
    if let Some(user) = &config.process.user {
        become_user(user).map_err(|why| UserError { user: user.clone(), why })?;
        steps.push(format!("user: {user}"));
    }
    if !config.process.harden {
        steps.push("off (process.harden = false)".into());
        return Ok(steps);
    }
    steps.push(match drop_capabilities(keep) {
        Ok(kept) => format!("capabilities: all dropped but {kept}"),
        Err(error) => format!("capabilities: could not be dropped: {error}"),
    });
    steps.push(match rustix::thread::set_no_new_privs(true) {
        Ok(()) => "no new privileges: set".into(),
        Err(error) => format!("no new privileges: could not be set: {error}"),
    });
    steps.push(match confine(config, settings_file) {
        Ok(RulesetStatus::FullyEnforced) => "landlock: only the folders of the settings are seen".into(),
        Ok(RulesetStatus::PartiallyEnforced) => {
            "landlock: only the folders of the settings are seen, as far as this kernel can".into()
        }
        Ok(RulesetStatus::NotEnforced) => "landlock: this kernel has none".into(),
        Err(error) => format!("landlock: not enforced: {error}"),
    });
    Ok(steps)
}

/// Drops what is not in `keep`; returns what is left, for the log.
fn drop_capabilities(keep: &[Capability]) -> Result<String, caps::errors::CapsError> {
    let have = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = keep.iter().copied().filter(|c| have.contains(c)).collect();
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set)?;
    }
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
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
            write.insert(folder_of(&watch.set_aside));
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

fn confine(config: &Config, settings_file: &Path) -> Result<RulesetStatus, landlock::RulesetError> {
    let abi = ABI::V4;
    let (read, write) = folders(config, settings_file);
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(read, AccessFs::from_read(abi)))?
        .add_rules(path_beneath_rules(write, AccessFs::from_all(abi)))?
        .restrict_self()?;
    Ok(status.ruleset)
}
