//! Network for scoring: one int8 row of weights per input, one column per output neuron.
//!
//! All spikes of a volley are simultaneous, so one step of a current-based leaky integrate-and-fire neuron from its resting potential yields
//! the sum of the weights of its active synapses: the membrane potential is exactly that sum.
//!
//! A network of many neurons keeps them in [groups](NeuronGroups) of similar ones.

mod groups;
mod rows;

use std::convert::Infallible;

pub use groups::{LANES, NeuronGroups};

use super::NeuronId;
use super::kernel;
use crate::prefetch::prefetch_span;
use rows::{DenseRows, stride_of};

/// Neurons from which a network keeps them in groups, if enough of them are similar. With fewer, sums of whole rows are as fast (measured), and
/// exact.
const GROUPED_NEURONS: usize = 512;

/// Membrane potentials for one volley, `[neuron]`, in units of the weights: multiply by [`Network::scale`] for units of theta.
pub type Potentials = Vec<i16>;

/// The neuron and the weight of a synapse of an input.
pub type Synapse = (NeuronId, i8);

/// What takes the number of an input and its synapses.
pub type EachRow<'a> = dyn FnMut(usize, &[Synapse]) + 'a;

/// Independent output neurons over shared inputs, with int8 weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    neurons: usize,
    inputs: usize,
    synapses: Synapses,
    scale: Vec<f32>,
}

/// The weights of a network.
#[derive(Clone, Debug, PartialEq)]
enum Synapses {
    Dense(DenseRows),
    Grouped(NeuronGroups),
}

/// The largest absolute weight of each neuron, of `weights[input * neurons + neuron]`.
pub fn largest_weights(weights: &[f32], neurons: usize) -> Vec<f32> {
    let mut largest = vec![0f32; neurons];
    for row in weights.chunks_exact(neurons.max(1)) {
        largest.iter_mut().zip(row).for_each(|(largest, weight)| *largest = largest.max(weight.abs()));
    }
    largest
}

impl Network {
    /// A network with trained weights, `weights[input * neurons + neuron]`, quantised to int8 with one scale per neuron.
    pub fn quantise(weights: &[f32], neurons: usize) -> Self {
        let inputs = weights.len() / neurons.max(1);
        let largest = largest_weights(weights, neurons);
        let scale: Vec<f32> = largest.iter().map(|l| if *l > 0.0 { l / 127.0 } else { 1.0 / 127.0 }).collect();
        let mut int8 = Vec::with_capacity(weights.len());
        for row in weights.chunks_exact(neurons.max(1)) {
            int8.extend(row.iter().zip(&scale).map(|(w, g)| (w / g).round().clamp(-127.0, 127.0) as i8));
        }
        Self::from_parts(inputs, neurons, &int8, scale)
    }

    /// A network from int8 weights, `weights[input * neurons + neuron]`, and one scale per neuron.
    ///
    /// # Panics
    /// If the lengths do not match.
    pub fn from_parts(inputs: usize, neurons: usize, weights: &[i8], scale: Vec<f32>) -> Self {
        assert_eq!(weights.len(), inputs * neurons);
        assert_eq!(scale.len(), neurons);
        Self::from_iterators(inputs, scale, |input| {
            NeuronId::first(neurons).zip(weights[input * neurons..][..neurons].iter().copied())
        })
    }

    /// As [`Network::from_rows`], of synapses in memory: `row` yields those of an input.
    fn from_iterators<R: Iterator<Item = Synapse>>(inputs: usize, scale: Vec<f32>, row: impl Fn(usize) -> R) -> Self {
        let mut synapses = Vec::new();
        let Ok(network) = Self::from_rows::<Infallible>(inputs, scale, |each| {
            for input in 0..inputs {
                synapses.clear();
                synapses.extend(row(input));
                each(input, &synapses);
            }
            Ok(())
        });
        network
    }

    /// A network of the synapses that `read` hands over, one row at a time, so that they need not be in memory: it calls its argument with every
    /// input in order and the input's synapses, at most one for each neuron. Weights may be zero. `scale` is of each neuron.
    ///
    /// `read` is called twice if the neurons may be grouped, and must hand over the same.
    ///
    /// # Errors
    /// Of `read`.
    ///
    /// # Panics
    /// If there are not so many inputs or neurons.
    pub fn from_rows<E>(
        inputs: usize,
        scale: Vec<f32>,
        mut read: impl FnMut(&mut EachRow<'_>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let neurons = scale.len();
        let groups = if neurons < GROUPED_NEURONS { None } else { NeuronGroups::new(inputs, &scale, &mut read)? };
        let synapses = match groups {
            Some(groups) => Synapses::Grouped(groups),
            None => Synapses::Dense(DenseRows::new(inputs, neurons, &mut read)?),
        };
        Ok(Self { neurons, inputs, synapses, scale })
    }

    /// Number of neurons.
    pub fn neurons(&self) -> usize {
        self.neurons
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Value of one unit of a neuron's weights in units of potential, `[neuron]`.
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// This network with one scale for all its neurons.
    #[must_use]
    pub fn with_scale(mut self, scale: f32) -> Self {
        self.scale.fill(scale);
        self
    }

    /// The groups of the neurons, if there are many and they are similar.
    pub fn groups(&self) -> Option<&NeuronGroups> {
        match &self.synapses {
            Synapses::Dense(_) => None,
            Synapses::Grouped(groups) => Some(groups),
        }
    }

    /// Whether the neurons are in the same places of the same groups as those of another network, or both networks have no groups.
    pub fn has_places_of(&self, other: &Self) -> bool {
        self.groups().map(NeuronGroups::places) == other.groups().map(NeuronGroups::places)
    }

    /// The weight of one synapse, in units of [`Network::scale`].
    pub fn weight(&self, input: usize, neuron: NeuronId) -> i8 {
        match &self.synapses {
            Synapses::Dense(rows) => rows.row(input)[neuron.index()],
            Synapses::Grouped(groups) => groups.weight(input, neuron),
        }
    }

    /// The sum of a neuron's weights over some inputs, in units of potential.
    pub fn weight_sum(&self, inputs: &[u32], neuron: NeuronId) -> f32 {
        let sum: i32 = match &self.synapses {
            Synapses::Dense(rows) => inputs.iter().map(|&input| i32::from(rows.row(input as usize)[neuron.index()])).sum(),
            Synapses::Grouped(groups) => {
                let (group, lane) = groups.place(neuron);
                i32::from(groups.potentials(inputs, group)[lane])
            }
        };
        sum as f32 * self.scale[neuron.index()]
    }

    /// A network of the neurons `kept` of this one and then all neurons of `other`, which has the same inputs. Neurons do not depend on each
    /// other, so their potentials are unchanged.
    pub fn joined(&self, kept: &[NeuronId], other: Option<&Self>) -> Self {
        let all: Vec<NeuronId> = other.map_or(Vec::new(), |o| NeuronId::first(o.neurons).collect());
        let own = kept.iter().map(|&neuron| (self, neuron));
        let neurons: Vec<(&Self, NeuronId)> =
            own.chain(other.into_iter().flat_map(|o| all.iter().map(move |&n| (o, n)))).collect();
        Self::of_neurons(self.inputs, &neurons)
    }

    /// This network with the neurons at `places` replaced by those of `other`, in order.
    pub fn replaced(&self, places: &[NeuronId], other: &Self) -> Self {
        let mut neurons: Vec<(&Self, NeuronId)> = NeuronId::first(self.neurons).map(|neuron| (self, neuron)).collect();
        for (from, to) in NeuronId::first(places.len()).zip(places) {
            neurons[to.index()] = (other, from);
        }
        Self::of_neurons(self.inputs, &neurons)
    }

    /// A network of neurons of one or several networks, which have the same inputs.
    fn of_neurons(inputs: usize, neurons: &[(&Self, NeuronId)]) -> Self {
        let scale = neurons.iter().map(|(of, neuron)| of.scale[neuron.index()]).collect();
        Self::from_iterators(inputs, scale, |input| {
            NeuronId::first(neurons.len()).zip(neurons.iter().map(move |(of, neuron)| of.weight(input, *neuron)))
        })
    }

    /// Calls `each` with every input and its synapses whose weight is not zero, in the order of the neurons.
    pub fn each_row(&self, each: &mut EachRow<'_>) {
        match &self.synapses {
            Synapses::Dense(rows) => rows.each_row(self.inputs, self.neurons, each),
            Synapses::Grouped(groups) => groups.each_row(self.inputs, each),
        }
    }

    /// The non-zero weights as compressed sparse rows: the start of each input's row (and the end of the last), `[input]`, then the neuron and
    /// the weight of each synapse.
    pub fn sparse(&self) -> (Vec<u32>, Vec<u16>, Vec<i8>) {
        let (mut start, mut neuron, mut weight) = (vec![0], Vec::new(), Vec::new());
        self.each_row(&mut |_, row| {
            neuron.extend(row.iter().map(|(neuron, _)| neuron.index() as u16));
            weight.extend(row.iter().map(|(_, weight)| weight));
            start.push(weight.len() as u32);
        });
        (start, neuron, weight)
    }

    /// A buffer for [`Network::potentials`]: the number of neurons, padded to 16, 32 or a multiple of 64.
    pub fn buffer(&self) -> Potentials {
        vec![0; stride_of(self.neurons)]
    }

    /// Prefetches the rows of the active inputs.
    #[inline]
    pub fn prefetch(&self, active: &[u32]) {
        match &self.synapses {
            Synapses::Dense(DenseRows { stride, weights }) => {
                for &input in active {
                    if let Some(row) = weights.get(input as usize * stride..).and_then(|rows| rows.get(..*stride)) {
                        prefetch_span(row);
                    }
                }
            }
            Synapses::Grouped(groups) => groups.prefetch(active),
        }
    }

    /// Writes the potentials of a volley, the sums of the rows of its active inputs, to a [buffer](Network::buffer). At most 256 inputs may be
    /// active, so that no sum overflows an i16.
    ///
    /// # Panics
    /// If an input is outside the network. Layout and network are compared when a model is loaded.
    #[inline]
    pub fn potentials(&self, active: &[u32], out: &mut [i16]) {
        debug_assert!(active.len() <= 256);
        match &self.synapses {
            Synapses::Dense(rows) => kernel::sum_rows(&rows.weights, rows.stride, active, out),
            Synapses::Grouped(groups) => groups.sum_rows(active, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dense(network: &Network) -> &DenseRows {
        match &network.synapses {
            Synapses::Dense(rows) => rows,
            Synapses::Grouped(_) => panic!("few neurons have no groups"),
        }
    }

    #[test]
    fn rows_begin_at_cache_lines_in_copies_too() {
        let network = Network::from_parts(3, 70, &[1; 210], vec![1.0; 70]);
        for network in [network.clone(), network.joined(&[1, 2].map(NeuronId::new), None), network] {
            let rows = dense(&network);
            assert_eq!((rows.weights.len(), rows.weights.as_ptr().align_offset(64)), (3 * rows.stride, 0));
        }
    }

    proptest! {
        #[test]
        fn every_kernel_equals_the_plain_loop(neurons in 1usize..200, seed: u64, active in prop::collection::vec(0u32..50, 0..256)) {
            let mut x = seed;
            let weights: Vec<i8> = (0..50 * neurons).map(|_| {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((x >> 56) as i8).max(-127)
            }).collect();
            let network = Network::from_parts(50, neurons, &weights, vec![1.0; neurons]);
            let mut got = network.buffer();
            network.potentials(&active, &mut got);
            for neuron in 0..neurons {
                let want: i32 = active.iter().map(|&i| i32::from(weights[i as usize * neurons + neuron])).sum();
                prop_assert_eq!(i32::from(got[neuron]), want);
            }
            {
                let sum = kernel::sum_rows_portable as fn(&[i8], usize, &[u32], &mut [i16]);
                let mut again = network.buffer();
                let rows = dense(&network);
                sum(&rows.weights, rows.stride, &active, &mut again);
                prop_assert_eq!(&again, &got);
            }
        }
    }
}
