//! One-shot learning rule: one presentation per pattern, weights added, one homeostatic factor (Davies, Gait, Rowley, Di Nuovo,
//! *Supervised learning of spatial features with STDP and homeostasis using Spiking Neural Networks on SpiNNaker*,
//! Neurocomputing 611 (2025) 128650).
//!
//! Nearest-pair STDP with negative A- has a symmetric window that only potentiates: after one presentation every active synapse has the weight
//! [`POTENTIATION`]. A bit has two rails; each rail excites through its own line and inhibits through the other, so the effective weight of
//! "bit i is 1" is `w1 - w0` and that of "bit i is 0" is `w0 - w1`. A one-hot slot is the same with 256 rails: a value excites as often as it
//! was presented, and inhibits as often as other values of its slot were.

use super::Network;
use crate::encode::Layout;

/// Weight that one presentation adds to an active synapse: exp(-1) in the 16-bit fixed-point format of SpiNNaker.
pub const POTENTIATION: f64 = 47.0 / 128.0;

/// Summed weight at which the paper's neuron fires: 15 mV above the resting potential, tau_m 20 ms, a step of 1 ms.
pub fn firing_weight() -> f64 {
    15.0 / (20.0 * (1.0 - (-1.0f64 / 20.0).exp()))
}

/// A neuron that was trained with one presentation of each of its patterns.
#[derive(Clone, Debug)]
pub struct OneShot {
    network: Network,
    /// Smallest potential, in patterns, of those trained patterns that some factor makes fire; `None` if there is none.
    theta: Option<i16>,
    /// Number of patterns that activate each input, `[input]`: the weight of its excitatory line in units of [`POTENTIATION`].
    counts: Vec<i32>,
}

impl OneShot {
    /// Trains a neuron over the inputs of `layout` with one presentation of each pattern, given as its active inputs. Patterns beyond the
    /// first [`OneShot::MOST`] are ignored.
    pub fn train(layout: &Layout, patterns: &[Vec<u32>]) -> Self {
        let patterns = &patterns[..patterns.len().min(Self::MOST)];
        let mut counts = vec![0i32; layout.input_count()];
        for &input in patterns.iter().flatten() {
            counts[input as usize] += 1;
        }
        let mut weights: Vec<i8> = counts.iter().map(|&n| n.min(127) as i8).collect();
        for rails in layout.rails() {
            let all: i32 = counts[rails.clone()].iter().sum();
            weights[rails.clone()].iter_mut().zip(&counts[rails]).for_each(|(w, n)| *w = (2 * n - all) as i8);
        }
        let network = Network::from_parts(weights.len(), 1, &weights, vec![1.0]);
        let mut neuron = Self { network, theta: None, counts };
        neuron.theta = patterns.iter().map(|p| neuron.potential(p)).filter(|d| *d > 0).min();
        neuron
    }

    /// Largest number of patterns of one neuron, so that every weight fits in an i8.
    pub const MOST: usize = 60;

    /// The potential of a volley in patterns: D(x) in the paper.
    pub fn potential(&self, active: &[u32]) -> i16 {
        let mut out = self.network.buffer();
        self.network.potentials(active, &mut out);
        out[0]
    }

    /// Smallest potential that fires, in patterns; `None` if nothing fires the neuron.
    pub fn theta(&self) -> Option<i16> {
        self.theta
    }

    /// The homeostatic factor: the smallest one with which all patterns fire that any factor makes fire.
    pub fn factor(&self) -> Option<f64> {
        self.theta.map(|theta| firing_weight() / (POTENTIATION * f64::from(theta)))
    }

    /// The smallest potential that fires if the factor is `tolerance` (at least 1) times [`OneShot::factor`].
    pub fn lowest(&self, tolerance: f32) -> Option<i16> {
        self.theta.map(|theta| (f32::from(theta) / tolerance.max(1.0)).ceil() as i16)
    }

    /// The network of this one neuron, with weights in patterns.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Whether a volley fires the neuron, in exact arithmetic: it does if its potential equals the threshold.
    pub fn fires(&self, active: &[u32]) -> bool {
        self.theta.is_some_and(|theta| self.potential(active) >= theta)
    }

    /// Number of patterns that activate each input, `[input]`.
    pub(super) fn pattern_counts(&self) -> &[i32] {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::LayoutOptions;

    /// The active inputs of a ten-bit word.
    fn word(x: u16) -> Vec<u32> {
        Layout::paper_word(10).word(x)
    }

    #[test]
    fn one_pattern_is_detected_alone_and_two_blur() {
        let one = OneShot::train(&Layout::paper_word(10), &[word(992)]);
        assert_eq!((0..1024).filter(|&x| one.fires(&word(x))).collect::<Vec<_>>(), [992]);
        for distance in 0..=10 {
            let two = OneShot::train(&Layout::paper_word(10), &[word(992), word(992 ^ ((1 << distance) - 1))]);
            let fired = (0..1024).filter(|&x| two.fires(&word(x))).count();
            assert_eq!(fired, if distance == 10 { 0 } else { 1 << distance }, "at Hamming distance {distance}");
        }
    }

    #[test]
    fn a_value_excites_and_every_other_value_of_its_slot_inhibits() {
        let layout = Layout::headers(&LayoutOptions { coincidence_bits: 0, ..LayoutOptions::default() });
        let values = |of: &[u32]| of.iter().enumerate().map(|(slot, v)| slot as u32 * 256 + v).collect::<Vec<u32>>();
        let one = OneShot::train(&layout, &[values(&[8, 0, 1, 200])]);
        let potentials = [&[8, 0, 1, 200][..], &[8, 0, 1, 201], &[8, 0, 1], &[9, 9, 9, 9]].map(|v| one.potential(&values(v)));
        assert_eq!((one.theta(), potentials), (Some(4), [4, 2, 3, -4]));
        assert_eq!([1.0, 1.5, 2.0, 4.0].map(|tolerance| one.lowest(tolerance)), [4, 3, 2, 1].map(Some));
    }
}
