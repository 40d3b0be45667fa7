//! Recognition of doubles by the ids of events.
//!
//! A publisher sends the events of one start in order and has at most 1,024 on their way, or a segment of the spool after a restart. A
//! number far behind the highest of its start was therefore seen; for those near it, one bit each is kept.

use std::collections::HashMap;

/// Numbers behind the highest of a start for which a bit is kept.
const WINDOW: u64 = 1 << 16;
/// Starts that are remembered; the one that was not seen for longest is forgotten.
const STARTS: usize = 4096;

/// Numbers of one start that were seen.
struct SeenNumbers {
    highest: u64,
    bits: Vec<u64>,
    used: u64,
}

impl SeenNumbers {
    fn new(highest: u64) -> Self {
        Self { highest, bits: vec![0; (WINDOW / 64) as usize], used: 0 }
    }

    fn bit(&mut self, number: u64) -> (&mut u64, u64) {
        let at = number % WINDOW;
        (&mut self.bits[(at / 64) as usize], 1 << (at % 64))
    }

    /// Marks a number; returns whether it is new.
    fn insert(&mut self, number: u64) -> bool {
        if number + WINDOW <= self.highest {
            return false;
        }
        let skipped = number.saturating_sub(self.highest);
        for ahead in 1..=skipped.min(WINDOW) {
            let (word, bit) = self.bit(number - skipped.min(WINDOW) + ahead);
            *word &= !bit;
        }
        self.highest = self.highest.max(number);
        let (word, bit) = self.bit(number);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

/// Ids that were seen.
#[derive(Default)]
pub struct SeenIds {
    starts: HashMap<String, SeenNumbers>,
    clock: u64,
}

impl SeenIds {
    /// Marks an id, `SENSOR-START-NUMBER`; returns whether it is new. An id of another form is always new.
    pub fn insert(&mut self, id: &str) -> bool {
        let Some((start, number)) = id.rsplit_once('-') else { return true };
        let Ok(number) = number.parse::<u64>() else { return true };
        self.clock += 1;
        if !self.starts.contains_key(start) {
            if self.starts.len() >= STARTS
                && let Some(oldest) = self.starts.iter().min_by_key(|(_, seen)| seen.used).map(|(start, _)| start.clone())
            {
                self.starts.remove(&oldest);
            }
            self.starts.insert(start.into(), SeenNumbers::new(number));
        }
        self.starts.get_mut(start).is_none_or(|seen| {
            seen.used = self.clock;
            seen.insert(number)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_is_new_once() {
        let mut seen = SeenIds::default();
        assert!((0..200_000).all(|number| seen.insert(&format!("a-1f-{number}"))));
        assert!((190_000..200_000).all(|number| !seen.insert(&format!("a-1f-{number}"))));
        assert!(!seen.insert("a-1f-5"), "far behind");
        assert!(seen.insert("a-2f-5") && seen.insert("b-1f-5"), "other starts and sensors");
    }

    #[test]
    fn numbers_may_be_skipped_and_come_later() {
        let mut seen = SeenIds::default();
        assert!(seen.insert("a-1-10") && seen.insert("a-1-500000") && seen.insert("a-1-499000"));
        assert!(!seen.insert("a-1-499000") && !seen.insert("a-1-500000"));
        assert!(seen.insert("a-1-499001"));
    }

    #[test]
    fn old_starts_are_forgotten() {
        let mut seen = SeenIds::default();
        assert!((0..=STARTS).all(|start| seen.insert(&format!("a-{start}-0"))));
        assert_eq!(seen.starts.len(), STARTS);
        assert!(seen.insert("a-0-0"));
    }
}
