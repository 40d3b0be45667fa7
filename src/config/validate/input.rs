//! Validation of the settings of models and input.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::super::raw::{self, Maybe};
use super::super::{Disposition, Input, InterfaceSettings, LiveSettings, ModelSource, ReplaySettings, WatchSettings};
use super::{Check, or, path};

impl Check {
    pub(super) fn models(&mut self, typed: Maybe<Vec<Spanned<String>>>) -> Vec<ModelSource> {
        let Some(typed) = typed else { return vec![ModelSource::BuiltIn] };
        let at = typed.span().start;
        let mut names = BTreeSet::new();
        let mut models = Vec::new();
        for model in typed.into_inner() {
            let place = model.span().start;
            let model = match model.into_inner() {
                name if name == "protocols" => ModelSource::BuiltIn,
                path => ModelSource::File(path.into()),
            };
            let name = match &model {
                ModelSource::BuiltIn => "protocols".into(),
                ModelSource::File(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            };
            if !names.insert(name.clone()) {
                self.wrong(place, format!("two models would be called '{name}' in events and metrics; rename one of the files"));
            }
            models.push(model);
        }
        if models.is_empty() {
            self.wrong(at, "no model; give at least one, for example \"protocols\", which is built in");
        }
        models
    }

    pub(super) fn input(
        &mut self,
        interfaces: Vec<Spanned<raw::RawInterface>>,
        replay: raw::RawReplay,
        watch: raw::RawWatch,
    ) -> Input {
        let places = [
            ("interfaces", interfaces.first().map(|i| i.span().start)),
            ("replay", replay.captures.as_ref().map(|c| c.span().start)),
            ("watch", watch.folder.as_ref().map(|f| f.span().start)),
        ];
        let given: Vec<_> = places.iter().filter_map(|(name, at)| at.map(|at| (*name, at))).collect();
        if let [(first, _), (second, at), ..] = given[..] {
            self.wrong(
                at,
                format!("both {first} and {second} are given; a daemon has one kind of input: run a second daemon for the other"),
            );
        }
        self.unused_keys(&replay, &watch);
        if let Some(folder) = watch.folder {
            return Input::Watch(WatchSettings {
                on_success: or(&watch.on_success, Disposition::default()),
                move_to: self.move_to(watch.on_success.as_ref(), watch.move_to),
                quarantine_folder: path(watch.quarantine_folder)
                    .unwrap_or_else(|| Path::new(folder.get_ref()).join("unreadable")),
                folder: folder.into_inner().into(),
                settle: self.seconds("watch.settle_secs", &watch.settle_secs, Duration::from_secs(10), 1),
                filter: self.filter(watch.filter),
            });
        }
        if let Some(captures) = replay.captures {
            if captures.get_ref().is_empty() {
                self.wrong(captures.span().start, "no captures; give files or folders");
            }
            return Input::Replay(ReplaySettings {
                captures: captures.into_inner().into_iter().map(|c| c.into_inner().into()).collect(),
                speed: self.number(
                    "replay.speed",
                    &replay.speed,
                    1.0,
                    0.0..=1e6,
                    "times the original speed; 0: as fast as possible",
                ),
                repeat: self.number("replay.repeat", &replay.repeat, 1, 0..=u64::MAX / 2, "repeats; 0: forever"),
                filter: self.filter(replay.filter),
            });
        }
        if interfaces.is_empty() {
            for key in ["interfaces", "captures", "folder"] {
                if self.places.lacks(key) {
                    return Input::Interfaces(Vec::new());
                }
            }
            self.wrong(
                0,
                "no input; add [[interfaces]] with a name, or [replay], or [watch] (`config/spiked.toml` documents them)",
            );
        }
        let mut names = BTreeSet::new();
        Input::Interfaces(interfaces.into_iter().filter_map(|i| self.interface(i, &mut names)).collect())
    }

    /// Reports keys that have no effect, since the key that enables their table is not set.
    fn unused_keys(&mut self, replay: &raw::RawReplay, watch: &raw::RawWatch) {
        let unused = |given: &str| format!("{given} is not set, so this has no effect; set it or remove this key");
        if replay.captures.is_none()
            && let Some(at) = [
                replay.speed.as_ref().map(|v| v.span().start),
                replay.repeat.as_ref().map(|v| v.span().start),
                replay.filter.as_ref().map(|v| v.span().start),
            ]
            .into_iter()
            .flatten()
            .next()
        {
            self.missing(at, "captures", &unused("replay.captures"));
        }
        if watch.folder.is_none()
            && let Some(at) = [
                watch.on_success.as_ref().map(|v| v.span().start),
                watch.move_to.as_ref().map(|v| v.span().start),
                watch.quarantine_folder.as_ref().map(|v| v.span().start),
                watch.settle_secs.as_ref().map(|v| v.span().start),
                watch.filter.as_ref().map(|v| v.span().start),
            ]
            .into_iter()
            .flatten()
            .next()
        {
            self.missing(at, "folder", &unused("watch.folder"));
        }
    }

    fn move_to(&mut self, on_success: Option<&Spanned<Disposition>>, move_to: Maybe<String>) -> Option<PathBuf> {
        match (on_success.map(|v| (v.span().start, *v.get_ref())), move_to) {
            (Some((at, Disposition::Move)), None) => {
                self.missing(at, "move_to", "watch.on_success = \"move\" needs watch.move_to, the folder to move captures to");
                None
            }
            (Some((_, Disposition::Move)), to) => path(to),
            (_, Some(to)) => {
                self.missing(to.span().start, "on_success", "watch.move_to has no effect unless watch.on_success = \"move\"");
                None
            }
            (_, None) => None,
        }
    }

    fn interface(&mut self, typed: Spanned<raw::RawInterface>, names: &mut BTreeSet<String>) -> Option<InterfaceSettings> {
        let at = typed.span().start;
        let typed = typed.into_inner();
        let default = InterfaceSettings::named("");
        let place = typed.name.as_ref().map_or(at, |n| n.span().start);
        let name = self.text("name", typed.name);
        if name.is_none() {
            self.missing(at, "name", "the interface has no name; give name = \"eth0\" (`ip link` lists them)");
        }
        if let Some(what) = name.as_deref().and_then(impossible_interface) {
            self.wrong(place, what);
        }
        if let Some(name) = &name
            && !names.insert(name.clone())
        {
            self.wrong(place, format!("interface {name} is given twice; set its threads for more capture threads"));
        }
        Some(InterfaceSettings {
            name: name.unwrap_or_default(),
            filter: self.filter(typed.filter),
            promiscuous: or(&typed.promiscuous, default.promiscuous),
            snap_length: self.number("snap_length", &typed.snap_length, default.snap_length, 64..=262_144, "bytes"),
            buffer_mib: self.number("buffer_mib", &typed.buffer_mib, default.buffer_mib, 1..=1024, "MiB"),
            threads: self.number("threads", &typed.threads, default.threads, 1..=64, "threads"),
        })
    }

    pub(super) fn capture(&mut self, typed: &raw::RawCapture) -> LiveSettings {
        let default = LiveSettings::default();
        let millis = u64::try_from(default.batch.as_millis()).unwrap_or(u64::MAX);
        LiveSettings {
            queue: self.number("capture.queue", &typed.queue, default.queue, 8..=65_536, "batches of 256 frames"),
            batch: Duration::from_millis(self.number(
                "capture.batch_millis",
                &typed.batch_millis,
                millis,
                1..=1000,
                "milliseconds",
            )),
            retry_max: self.seconds("capture.retry_max_secs", &typed.retry_max_secs, default.retry_max, 1),
        }
    }
}

/// Longest name of an interface, in bytes (IFNAMSIZ without the final zero).
const MAX_INTERFACE_NAME: usize = 15;

/// Why no interface can have this name; `None` if one can. Names with a colon are left to libpcap, which has pseudo-interfaces.
fn impossible_interface(name: &str) -> Option<String> {
    let shown = name.escape_debug();
    if let Some((bare, _)) = name.split_once('@') {
        return Some(format!(
            "'{shown}' is not a valid interface name: `ip link` shows the interface's peer after @; give '{}'",
            bare.escape_debug()
        ));
    }
    if name.len() > MAX_INTERFACE_NAME && !name.contains(':') {
        return Some(format!(
            "'{shown}' is not a valid interface name: it has {} bytes, at most {MAX_INTERFACE_NAME} are possible",
            name.len()
        ));
    }
    let invalid = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    (matches!(name, "." | "..") || name.contains(invalid)).then(|| format!("'{shown}' is not a valid interface name"))
}
