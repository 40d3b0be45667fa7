//! The founding paper's rule: one presentation a pattern, weights added, one homeostatic factor (Davies, Gait, Rowley, Di Nuovo,
//! *Supervised learning of spatial features with STDP and homeostasis using Spiking Neural Networks on SpiNNaker*,
//! Neurocomputing 611 (2025) 128650).
//!
//! Nearest-pair STDP with A- negative has a symmetric window that only potentiates: after one presentation every active
//! synapse holds [`POTENTIATION`]. A bit has two rails; each rail excites through its own line and inhibits through the other, so
//! the effective weight of "bit i is 1" is `w1 - w0`, of "bit i is 0" `w0 - w1`.

use super::Network;

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
    /// Shows each pattern once to a neuron over `inputs` dual-rail inputs: input 2i is bit i being 0, input 2i + 1 being 1. A
    /// pattern is its active inputs.
    pub fn teach(inputs: usize, patterns: &[Vec<u32>]) -> Self {
        let mut shown = vec![0i32; inputs];
        for &input in patterns.iter().flatten() {
            shown[input as usize] += 1;
        }
        let weight = |input: usize| (shown[input] - shown[input ^ 1]).clamp(-127, 127) as i8;
        let weights: Vec<i8> = (0..inputs).map(weight).collect();
        let network = Network::from_parts(inputs, 1, &weights, vec![1.0]);
        let mut neuron = Self { network, theta: None, shown };
        neuron.theta = patterns.iter().map(|p| neuron.potential(p)).filter(|d| *d > 0).min();
        neuron
    }

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

    /// Whether a volley fires the neuron; real arithmetic, a tie fires.
    pub fn fires(&self, active: &[u32]) -> bool {
        self.theta.is_some_and(|theta| self.potential(active) >= theta)
    }

    /// Whether a volley fires the neuron on a machine that rounds the weight of each line, times `factor`, to a 16-bit fixed
    /// point whose scale leaves room for the largest weight, as SpiNNaker's ring buffers do. It decides ties; the scale and the
    /// slack were found from the published decisions.
    pub fn fires_in_fixed_point(&self, active: &[u32], factor: f64) -> bool {
        let unit = POTENTIATION * factor;
        let largest = unit * f64::from(self.shown.iter().copied().max().unwrap_or(0));
        let scale = (SCALE_BITS - largest.log2().ceil()).exp2();
        let rounded = |patterns: i32| (f64::from(patterns) * unit * scale + 0.5).floor() / scale;
        let line = |&input: &u32| rounded(self.shown[input as usize]) - rounded(self.shown[input as usize ^ 1]);
        active.iter().map(line).sum::<f64>() >= firing_weight() - SLACK
    }
}

/// Bits that the fixed point has below the largest weight.
const SCALE_BITS: f64 = 11.0;
/// By how much the machine's threshold, itself rounded, lies below the exact one.
const SLACK: f64 = 0.008;

#[cfg(test)]
mod tests {
    use super::*;

    /// The active inputs of a ten-bit word.
    fn word(x: u32) -> Vec<u32> {
        (0..10).map(|bit| bit * 2 + (x >> bit & 1)).collect()
    }

    #[test]
    fn one_pattern_is_detected_alone_and_two_blur() {
        let one = OneShot::teach(20, &[word(992)]);
        assert_eq!((0..1024).filter(|&x| one.fires(&word(x))).collect::<Vec<_>>(), [992]);
        for distance in 0..=10 {
            let two = OneShot::teach(20, &[word(992), word(992 ^ ((1 << distance) - 1))]);
            let fired = (0..1024).filter(|&x| two.fires(&word(x))).count();
            assert_eq!(fired, if distance == 10 { 0 } else { 1 << distance }, "at Hamming distance {distance}");
        }
    }
}
