//! Neuron in the arithmetic of SpiNNaker, the machine of Davies et al. 2025, with ties and overflow, and its search for the homeostatic factor.
//!
//! The neuron (sPyNNaker's `IF_curr_delta`) has two ring buffers, one for the excitatory and one for the inhibitory lines. Their weights are
//! 16-bit integers with a scale that leaves room for the sum of all lines; the difference of the buffers, in signed 16.15 fixed point, is the
//! input. Potentials are 16.15 too and wrap around on overflow: a neuron that is inhibited too strongly fires. The search is the one
//! published with the paper's data (`homeostasis.py`): tenfold steps, then bisection, then steps of 0.00001.

use super::{OneShot, POTENTIATION};

/// One in 16.15 fixed point.
const ONE: i64 = 1 << 15;
/// exp(-1/20): decay of a potential in a step of 1 ms, in 16.15 fixed point.
const DECAY: i64 = 31_170;
/// Membrane resistance: 20 ms over 1 nF.
const RESISTANCE: i64 = 20;
/// Resting potential, mV.
const REST: i64 = -65;
/// Threshold, mV.
const THRESHOLD: i64 = -50;

/// First factor of the search.
const FIRST: f64 = 100.0;
/// Smallest factor of the bisection, and the interval at which it stops.
const LEAST: f64 = 1e-4;
/// Step of the search after the bisection.
const STEP: f64 = 1e-5;

/// A one-shot neuron in the arithmetic of SpiNNaker.
pub struct SpinnakerNeuron<'a> {
    neuron: &'a OneShot,
    /// Bound of the summed weight of all excitatory lines in patterns, as the machine computes it: for each rail the number of lines times the
    /// largest of their weights. The inhibitory lines have the same weights with the rails exchanged.
    weight_bound: i32,
}

impl<'a> SpinnakerNeuron<'a> {
    /// `neuron` must have been trained over a layout with dual-rail coding.
    pub fn new(neuron: &'a OneShot) -> Self {
        let rail = |rail: usize| {
            let lines = neuron.pattern_counts().iter().skip(rail).step_by(2).filter(|n| **n > 0);
            lines.clone().count() as i32 * lines.max().copied().unwrap_or(0)
        };
        Self { neuron, weight_bound: rail(0) + rail(1) }
    }

    /// Whether a volley fires the neuron if all weights are multiplied by `factor`.
    pub fn fires(&self, active: &[u32], factor: f64) -> bool {
        let sum = f64::from(self.weight_bound) * POTENTIATION * factor;
        let bits = sum.log2().ceil().max(0.0);
        // A sum that is exactly a power of two needs one more bit.
        let bits = if bits.exp2() == sum { bits + 1.0 } else { bits };
        let scale = (15.0 - bits).exp2();
        let weight = |input: u32| {
            (f64::from(self.neuron.pattern_counts()[input as usize]) * POTENTIATION * factor * scale).round_ties_even()
        };
        let summed: f64 = active.iter().map(|&input| weight(input) - weight(input ^ 1)).sum();
        // An integer, because the scale has at most 15 binary places.
        let input = (summed * (ONE as f64 / scale)) as i64;
        let wrapped = |x: i64| i64::from(x as i32);
        let target = wrapped(input.wrapping_mul(RESISTANCE).wrapping_add(REST * ONE));
        let away = wrapped(target - REST * ONE);
        wrapped(target - wrapped((DECAY * away) >> 15)) >= THRESHOLD * ONE
    }

    /// The smallest factor that makes a pattern fire, as the paper's search finds it; `None` if no factor up to `most` does.
    pub fn factor_of(&self, pattern: &[u32], most: f64) -> Option<f64> {
        let fires = |factor: f64| self.fires(pattern, factor);
        let mut high = FIRST;
        while !fires(high) {
            high *= 10.0;
            if high > most {
                return None;
            }
        }
        let mut low = LEAST;
        while high - low > LEAST {
            let middle = (high + low) / 2.0;
            if fires(middle) { high = middle } else { low = middle }
        }
        let places = |x: f64| (x * 1e5).round() / 1e5;
        let (from, to) = (places(low) - STEP, places(high) + STEP);
        // Computed as in numpy's arange: the last binary place matters for a weight half-way between two integers.
        let step = (from + STEP) - from;
        let steps = ((to - from) / STEP).round() as u32 + 1;
        (0..steps).map(|i| from + f64::from(i) * step).find(|&factor| fires(factor))
    }

    /// The homeostatic factor: the largest factor of the patterns, without those that no factor up to `most` makes fire.
    pub fn factor(&self, patterns: &[Vec<u32>], most: f64) -> Option<f64> {
        patterns.iter().filter_map(|p| self.factor_of(p, most)).max_by(f64::total_cmp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Layout;

    fn word(x: u16) -> Vec<u32> {
        Layout::paper_word(10).word(x)
    }

    fn trained(words: &[u16]) -> (OneShot, Vec<Vec<u32>>) {
        let patterns: Vec<_> = words.iter().map(|&w| word(w)).collect();
        (OneShot::train(&Layout::paper_word(10), &patterns), patterns)
    }

    #[test]
    fn factors_are_the_published_ones_to_five_decimals() {
        // From the data published with the paper (Davies et al., CC BY 4.0).
        let runs: [(&[u16], f64, f64); 5] = [
            (&[992], 1e2, 4.18817),
            (&[992, 1023], 1e2, 4.18751),
            (&[0, 3, 252], 1e2, 21.0),
            (&[0, 0, 1023], 1e5, 892.25532),
            (&[0, 0, 511], 1e5, 28268.93618),
        ];
        for (words, most, published) in runs {
            let (neuron, patterns) = trained(words);
            let found = SpinnakerNeuron::new(&neuron).factor(&patterns, most).unwrap();
            assert!((found - published).abs() < 5e-6, "{words:?}: {found}, published {published}");
        }
    }

    #[test]
    fn away_from_the_threshold_it_decides_as_exact_arithmetic() {
        for words in [&[992, 1008][..], &[0, 3, 5], &[7, 7, 448]] {
            let (neuron, _) = trained(words);
            let (machine, factor, theta) = (SpinnakerNeuron::new(&neuron), neuron.factor().unwrap(), neuron.theta().unwrap());
            for x in 0..1024 {
                let active = word(x);
                if neuron.potential(&active) != theta {
                    assert_eq!(machine.fires(&active, factor), neuron.fires(&active), "{words:?}, word {x}");
                }
            }
        }
        let (neuron, patterns) = trained(&[992]);
        for factor in [0.0, -1.0, f64::MAX, f64::INFINITY, f64::NAN] {
            SpinnakerNeuron::new(&neuron).fires(&patterns[0], factor);
        }
    }
}
