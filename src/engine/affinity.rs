//! CPU affinity of the workers: each on a CPU of its own, where the settings ask for it.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tracing::warn;

/// Pins the calling thread to the `number`th CPU that it may use, starting over where there are fewer. If the system refuses, the
/// thread stays unpinned and a warning is logged.
pub(super) fn pin(number: usize) {
    let pinned = sched_getaffinity(None).and_then(|allowed| {
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
        let mut one = CpuSet::new();
        one.set(cpus[number % cpus.len().max(1)]);
        sched_setaffinity(None, &one)
    });
    if let Err(error) = pinned {
        warn!(worker = number, %error, "worker can't be pinned to a CPU; it runs on any");
    }
}
