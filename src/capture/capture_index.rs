//! Index from packet numbers to captures, for sources that read one capture after another.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

/// Most captures remembered: far more than have packets in streams that last.
const MAX_CAPTURES: usize = 4096;

/// The last captures, each with the number of its first packet in the source. The source writes it; readers look packets up later.
#[derive(Debug, Default)]
pub struct CaptureIndex(Mutex<VecDeque<(u64, Arc<str>)>>);

impl CaptureIndex {
    /// Notes that packets from number `first` on come from `capture`.
    pub(super) fn begin(&self, first: u64, capture: &str) {
        let mut captures = self.0.lock();
        if captures.back().is_some_and(|(_, last)| **last == *capture) {
            return;
        }
        // The capture before had no packet.
        if captures.back().is_some_and(|(begun, _)| *begun == first) {
            captures.pop_back();
        }
        captures.push_back((first, capture.into()));
        if captures.len() > MAX_CAPTURES {
            captures.pop_front();
        }
    }

    /// The capture of packet number `packet`. `None` if the packet is not from a capture, or from one that is no longer remembered.
    pub fn of(&self, packet: u64) -> Option<Arc<str>> {
        let captures = self.0.lock();
        let after = captures.partition_point(|(first, _)| *first <= packet);
        captures.get(after.checked_sub(1)?).map(|(_, capture)| Arc::clone(capture))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_has_its_capture_and_the_oldest_are_forgotten() {
        let capture_index = CaptureIndex::default();
        assert_eq!(capture_index.of(0), None);
        capture_index.begin(0, "empty");
        capture_index.begin(0, "a");
        capture_index.begin(3, "b");
        capture_index.begin(5, "c");
        let of = |packet| capture_index.of(packet).expect("a capture").to_string();
        assert_eq!([9, 5, 4, 3, 2, 0, u64::MAX].map(of), ["c", "c", "b", "b", "a", "a", "c"]);
        (10..20_000).for_each(|first| capture_index.begin(first, &first.to_string()));
        assert_eq!(capture_index.0.lock().len(), MAX_CAPTURES);
    }
}
