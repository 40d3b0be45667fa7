//! Progress of `spiked read` on standard error: the share that was read, rates, and the time left.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shorter reads show no progress.
const SHOWN_AFTER: Duration = Duration::from_millis(500);

/// Progress over all captures, in bytes of their files.
#[derive(Clone)]
pub struct ReadProgress {
    bar: ProgressBar,
    start: Instant,
    /// Bytes and packets of the captures that were read.
    before: (u64, u64),
    /// Sizes of the captures that are still to be read, in reverse order.
    sizes: Vec<u64>,
}

impl ReadProgress {
    /// Progress of reading `captures`: nothing if one of them is a pipe, if standard error is not a terminal, or if `hidden`.
    pub fn new(captures: &[PathBuf], hidden: bool) -> Self {
        let size = |path: &PathBuf| std::fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| m.len());
        let sizes: Option<Vec<u64>> = captures.iter().rev().map(size).collect();
        let shown = !hidden && io::stderr().is_terminal();
        let sizes = sizes.filter(|_| shown).unwrap_or_default();
        // Drawn from the first update after a moment on.
        let bar = ProgressBar::with_draw_target(Some(sizes.iter().sum()), ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("[{wide_bar}] {percent}% of {decimal_total_bytes}  {msg}  {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        Self { bar, start: Instant::now(), before: (0, 0), sizes }
    }

    /// Shows the packets and bytes that were read of the current capture.
    pub fn update(&self, packets: u64, position: Option<u64>) {
        let (Some(position), false) = (position, self.sizes.is_empty()) else { return };
        let elapsed = self.start.elapsed();
        if elapsed < SHOWN_AFTER {
            return;
        }
        if self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        let (bytes, packets) = (self.before.0 + position, self.before.1 + packets);
        let seconds = elapsed.as_secs_f64();
        let rates = format!("{:.2} M packets/s  {:.0} MB/s", packets as f64 / seconds / 1e6, bytes as f64 / seconds / 1e6);
        self.bar.set_message(rates);
        self.bar.set_position(bytes);
    }

    /// Goes to the next capture, after one of so many packets.
    pub fn next(&mut self, packets: u64) {
        self.before.0 += self.sizes.pop().unwrap_or(0);
        self.before.1 += packets;
    }

    /// Prints a line on standard error, above the progress.
    pub fn message(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Removes the progress from the terminal.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_all_captures_are_counted() {
        let bar = ProgressBar::with_draw_target(Some(3000), ProgressDrawTarget::hidden());
        let start = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let mut progress = ReadProgress { bar, start, before: (0, 0), sizes: vec![2000, 1000] };
        progress.update(500, Some(400));
        assert_eq!(progress.bar.position(), 400);
        progress.next(1_000);
        progress.update(3_000_000, Some(1000));
        assert_eq!((progress.bar.position(), progress.bar.message().as_str()), (2000, "1.50 M packets/s  0 MB/s"));
        progress.next(3_000_000);
        progress.update(1, Some(1));
        assert_eq!(progress.bar.position(), 2000, "no capture is left");
    }

    #[test]
    fn nothing_without_a_terminal() {
        // The tests' standard error is not a terminal, or `hidden` is set.
        let progress = ReadProgress::new(&[PathBuf::from("fixtures/captures/mixed.pcapng")], true);
        assert!(progress.sizes.is_empty() && progress.bar.is_hidden());
    }
}
