//! 95 % confidence intervals: Wilson's for shares, the cluster bootstrap for macro-F1.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::metrics::{ClassCounts, StreamOutcome, macro_f1};
use crate::train::random::below;

/// Lower and upper bound.
pub type Interval = (f64, f64);

/// Two-sided 95 % quantile of the normal distribution.
const Z: f64 = 1.959_963_985;
/// Number of resamples of the bootstrap.
const RESAMPLES: usize = 1000;

/// Wilson's score interval of a share (Wilson, JASA 22 (1927) 209): sound near 0 and 1 and for few trials, which the normal
/// approximation is not. Without trials the interval is 0 to 1.
pub fn wilson(part: usize, whole: usize) -> Interval {
    if whole == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (whole as f64, part as f64 / whole as f64);
    let middle = p + Z * Z / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    // Rounding must not exclude the share itself.
    (((middle - spread) / scale).clamp(0.0, p), ((middle + spread) / scale).clamp(p, 1.0))
}

/// Unit of resampling in [`macro_f1_interval`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResamplingUnit {
    /// Whole captures: streams of one capture resemble each other.
    Captures,
    /// Single streams, if all are of one capture.
    Streams,
}

/// The percentile bootstrap interval of macro-F1 over the nearest classes of known streams; `seed` makes it repeatable.
pub fn macro_f1_interval(outcomes: &[StreamOutcome], seed: u64) -> (Interval, ResamplingUnit) {
    let known: Vec<&StreamOutcome> = outcomes.iter().filter(|o| o.known).collect();
    let mut names: Vec<&str> = known.iter().flat_map(|o| [Some(o.label.as_str()), o.best.as_deref()]).flatten().collect();
    names.sort_unstable();
    names.dedup();
    let place = |name: &str| names.binary_search(&name).unwrap_or(0);
    let (first, many) = (known.first().map(|o| o.capture), |c| known.iter().any(|o| Some(o.capture) != c));
    let resampled = if many(first) { ResamplingUnit::Captures } else { ResamplingUnit::Streams };
    let mut groups: std::collections::BTreeMap<usize, Vec<(usize, Option<usize>)>> = std::collections::BTreeMap::new();
    for (number, outcome) in known.iter().enumerate() {
        let group = if resampled == ResamplingUnit::Captures { outcome.capture as usize } else { number };
        groups.entry(group).or_default().push((place(&outcome.label), outcome.best.as_deref().map(place)));
    }
    let groups: Vec<_> = groups.into_values().collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draws: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut counts = vec![ClassCounts::default(); names.len()];
            for _ in 0..groups.len() {
                for &(truth, best) in &groups[below(groups.len(), &mut random)] {
                    ClassCounts::add(&mut counts, truth, best);
                }
            }
            macro_f1(&counts)
        })
        .collect();
    draws.sort_by(f64::total_cmp);
    let quantile = |q: f64| draws[((RESAMPLES - 1) as f64 * q).round() as usize];
    ((quantile(0.025), quantile(0.975)), resampled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wilson_s_interval_is_the_published_one() {
        // Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3.
        for ((part, whole), (low, high)) in
            [((81, 263), (0.2553, 0.3662)), ((15, 148), (0.0624, 0.1605)), ((0, 20), (0.0, 0.1611)), ((1, 29), (0.0061, 0.1718))]
        {
            let got = wilson(part, whole);
            assert!((got.0 - low).abs() < 5e-5 && (got.1 - high).abs() < 5e-5, "{part} of {whole}: {got:?}");
        }
        assert_eq!(wilson(0, 0), (0.0, 1.0));
    }

    proptest! {
        #[test]
        fn intervals_hold_the_share_and_lie_within_0_and_1(whole in 1usize..5000, part in 0usize..5000) {
            let part = part.min(whole);
            let (low, high) = wilson(part, whole);
            let share = part as f64 / whole as f64;
            prop_assert!(0.0 <= low && low <= share && share <= high && high <= 1.0);
        }
    }

    fn outcome(label: &str, best: &str, capture: u32) -> StreamOutcome {
        let [label, best] = [label, best].map(str::to_string);
        StreamOutcome {
            label,
            known: true,
            class: None,
            best: Some(best),
            confidence: 1.0,
            scored: 1,
            capture,
            basis: None,
            reason: None,
        }
    }

    #[test]
    fn streams_of_one_capture_count_as_one_draw() {
        let capture = |c: u32| {
            let best = if c == 0 { "b" } else { "a" };
            (0..50).map(move |_| outcome("a", best, c)).chain((0..50).map(move |_| outcome("b", "b", c)))
        };
        let clustered: Vec<_> = (0..4).flat_map(capture).collect();
        let ((low, high), by) = macro_f1_interval(&clustered, 1);
        assert_eq!(by, ResamplingUnit::Captures);
        let lone: Vec<_> = clustered.iter().map(|o| StreamOutcome { capture: 0, ..o.clone() }).collect();
        let ((narrow_low, narrow_high), by) = macro_f1_interval(&lone, 1);
        assert_eq!(by, ResamplingUnit::Streams);
        assert!(high - low > 2.0 * (narrow_high - narrow_low), "{low} {high}, {narrow_low} {narrow_high}");
        assert_eq!(macro_f1_interval(&clustered, 1), macro_f1_interval(&clustered, 1));
        assert_eq!(macro_f1_interval(&[outcome("a", "a", 0)], 1).0, (1.0, 1.0));
    }
}
