//! What is systemd told? READY, RELOADING, STOPPING, STATUS and WATCHDOG, where it asks for them.

use std::time::Duration;

use sd_notify::NotifyState;

/// Nothing can be done where systemd does not listen.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

pub(super) fn watchdog() {
    tell(&[NotifyState::Watchdog]);
}

/// How often the watchdog wants to be told; `None`: there is none.
pub(super) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}
