//! The founding paper's rule: one presentation a pattern, weights added, one homeostatic factor (Davies, Gait, Rowley, Di Nuovo,
//! *Supervised learning of spatial features with STDP and homeostasis using Spiking Neural Networks on SpiNNaker*,
//! Neurocomputing 611 (2025) 128650).
//!
//! Nearest-pair STDP with A- negative has a symmetric window that only potentiates: after one presentation every active
//! synapse holds [`POTENTIATION`]. A bit has two rails; each rail excites through its own line and inhibits through the other, so
//! the effective weight of "bit i is 1" is `w1 - w0`, of "bit i is 0" `w0 - w1`. A slot of one rail a value is the same with more
//! rails: a value excites as often as it was shown and inhibits as often as another one of its slot was.

use super::Network;
use crate::encode::Layout;

/// What one presentation adds to an active synapse: exp(-1) as the machine's 16-bit fixed point holds it.
pub const POTENTIATION: f64 = 47.0 / 128.0;

/// Summed weight at which the paper's neuron fires: 15 mV from rest, tau_m 20 ms, a step of 1 ms.
pub fn firing_weight() -> f64 {
    15.0 / (20.0 * (1.0 - (-1.0f64 / 20.0).exp()))
}

/// One neuron that was shown each of its patterns once.
#[derive(Clone, Debug)]
pub struct OneShot {
    network: Network,
    /// Smallest potential, in patterns, of the trained patterns that can fire at all; `None`: no factor makes one fire.
    theta: Option<i16>,
    /// For each input the patterns that activate it: the summed weight of its excitatory line in units of [`POTENTIATION`].
    shown: Vec<i32>,
}

impl OneShot {
    /// Shows each pattern once to a neuron over the inputs of `layout`. A pattern is its active inputs. At most
    /// [`OneShot::MOST`] patterns count.
    pub fn train(layout: &Layout, patterns: &[Vec<u32>]) -> Self {
        let patterns = &patterns[..patterns.len().min(Self::MOST)];
        let mut shown = vec![0i32; layout.input_count()];
        for &input in patterns.iter().flatten() {
            shown[input as usize] += 1;
        }
        let mut weights: Vec<i8> = shown.iter().map(|&n| n.min(127) as i8).collect();
        for rails in layout.rails() {
            let all: i32 = shown[rails.clone()].iter().sum();
            weights[rails.clone()].iter_mut().zip(&shown[rails]).for_each(|(w, n)| *w = (2 * n - all) as i8);
        }
        let network = Network::from_parts(weights.len(), 1, &weights, vec![1.0]);
        let mut neuron = Self { network, theta: None, shown };
        neuron.theta = patterns.iter().map(|p| neuron.potential(p)).filter(|d| *d > 0).min();
        neuron
    }

    /// Patterns that one neuron may hold: every weight then lies within an i8.
    pub const MOST: usize = 60;

    /// The potential of a volley, in patterns: the paper's D(x).
    pub fn potential(&self, active: &[u32]) -> i16 {
        let mut out = self.network.buffer();
        self.network.potentials(active, &mut out);
        out[0]
    }

    /// Smallest potential that fires.
    pub fn theta(&self) -> Option<i16> {
        self.theta
    }

    /// The homeostatic factor: the smallest that makes every pattern fire which any factor makes fire.
    pub fn factor(&self) -> Option<f64> {
        self.theta.map(|theta| firing_weight() / (POTENTIATION * f64::from(theta)))
    }

    /// The smallest potential that fires where the factor is `tolerance` times [`OneShot::factor`].
    pub fn lowest(&self, tolerance: f32) -> Option<i16> {
        self.theta.map(|theta| (f32::from(theta) / tolerance.max(1.0)).ceil() as i16)
    }

    /// The neuron: weights in patterns.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Whether a volley fires the neuron; real arithmetic, a tie fires.
    pub fn fires(&self, active: &[u32]) -> bool {
        self.theta.is_some_and(|theta| self.potential(active) >= theta)
    }

    /// For each input the patterns that activate it.
    pub(super) fn shown(&self) -> &[i32] {
        &self.shown
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
