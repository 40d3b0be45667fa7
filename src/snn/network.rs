//! Network for scoring: one int8 row of weights per input, one column per output neuron.
//!
//! All spikes of a volley are simultaneous, so one step of a current-based leaky integrate-and-fire neuron from its resting potential yields
//! the sum of the weights of its active synapses: the membrane potential is exactly that sum.

use std::ops::{Deref, DerefMut, Range};

use super::NeuronId;
use super::kernel;
use crate::prefetch::prefetch_span;

/// Bytes of a cache line, at whose start the weights begin.
const LINE: usize = 64;

/// Length of a row of weights: the neurons, padded to whole vectors. Rows of a few neurons share a cache line, so that a small network stays
/// within a nearer cache; none lies across two lines.
fn stride_of(neurons: usize) -> usize {
    match neurons {
        0..=kernel::NARROW => kernel::NARROW,
        17..=32 => 2 * kernel::NARROW,
        _ => neurons.next_multiple_of(kernel::WIDE),
    }
}

/// Weights that begin at a cache line, so that rows of whole lines do too: a vector load across two lines takes half as long again (measured).
#[derive(Debug)]
struct Rows {
    /// The weights with up to a line of padding. Allocated as zeroed memory, whose pages cost nothing until they are written to, so the
    /// allocation itself cannot be aligned.
    room: Vec<i8>,
    /// Position of the first weight.
    start: usize,
}

impl Rows {
    /// A number of weights, all zero.
    fn zero(weights: usize) -> Self {
        let room = vec![0; weights + LINE - 1];
        let start = room.as_ptr().align_offset(LINE).min(LINE - 1);
        ask_for_huge_pages(&room);
        Self { room, start }
    }

    #[inline]
    fn span(&self) -> Range<usize> {
        self.start..self.room.len() + self.start + 1 - LINE
    }
}

/// Asks the kernel to back memory that has not been written to with huge pages. A model has thousands of small pages, each a page fault: with
/// huge pages it loads in two thirds of the time (measured). The kernel may ignore the hint.
#[cfg_attr(target_os = "linux", expect(unsafe_code, reason = "calls madvise on the pages of a buffer"))]
fn ask_for_huge_pages(room: &[i8]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let skip = room.as_ptr().align_offset(PAGE).min(room.len());
        let whole = (room.len() - skip) / PAGE * PAGE;
        // SAFETY: the range is within `room`, and the advice does not change its content.
        unsafe { libc::madvise(room[skip..].as_ptr().cast_mut().cast(), whole, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = room;
}

impl Deref for Rows {
    type Target = [i8];

    #[inline]
    fn deref(&self) -> &[i8] {
        &self.room[self.span()]
    }
}

impl DerefMut for Rows {
    fn deref_mut(&mut self) -> &mut [i8] {
        let span = self.span();
        &mut self.room[span]
    }
}

impl Clone for Rows {
    fn clone(&self) -> Self {
        let mut rows = Self::zero(self.len());
        rows.copy_from_slice(self);
        rows
    }
}

impl PartialEq for Rows {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

/// Membrane potentials for one volley, `[neuron]`, in units of the weights: multiply by [`Network::scale`] for units of theta.
pub type Potentials = Vec<i16>;

/// Independent output neurons over shared inputs, with int8 weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    neurons: usize,
    inputs: usize,
    /// Length of a row: the neurons, padded ([`stride_of`]).
    stride: usize,
    /// `[input * stride + neuron]`.
    weights: Rows,
    scale: Vec<f32>,
}

impl Network {
    /// A network with trained weights, `weights[input * neurons + neuron]`, quantised to int8 with one scale per neuron.
    pub fn quantise(weights: &[f32], neurons: usize) -> Self {
        let inputs = weights.len() / neurons.max(1);
        let mut largest = vec![0f32; neurons];
        for row in weights.chunks_exact(neurons.max(1)) {
            for (l, w) in largest.iter_mut().zip(row) {
                *l = l.max(w.abs());
            }
        }
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
        let stride = stride_of(neurons);
        let mut padded = Rows::zero(inputs * stride);
        for (to, from) in padded.chunks_exact_mut(stride).zip(weights.chunks_exact(neurons.max(1))) {
            to[..neurons].copy_from_slice(from);
        }
        Self { neurons, inputs, stride, weights: padded, scale }
    }

    /// Number of neurons.
    pub fn neurons(&self) -> usize {
        self.neurons
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Length of a buffer of potentials: the number of neurons, padded to 16, 32 or a multiple of 64.
    pub fn stride(&self) -> usize {
        self.stride
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

    /// The weight of one synapse, in units of [`Network::scale`].
    pub fn weight(&self, input: usize, neuron: NeuronId) -> i8 {
        self.weights[input * self.stride + neuron.index()]
    }

    /// The sum of a neuron's weights over some inputs, in units of potential.
    pub fn weight_sum(&self, inputs: &[u32], neuron: NeuronId) -> f32 {
        let sum: i32 = inputs.iter().map(|&input| i32::from(self.weight(input as usize, neuron))).sum();
        sum as f32 * self.scale[neuron.index()]
    }

    /// A network of the neurons `kept` of this one and then all neurons of `other`, which has the same inputs. Neurons do not depend on each
    /// other, so their potentials are unchanged.
    pub fn joined(&self, kept: &[NeuronId], other: Option<&Self>) -> Self {
        let scales = |n: &Self, which: &[NeuronId]| which.iter().map(|i| n.scale[i.index()]).collect::<Vec<_>>();
        let all: Vec<NeuronId> = other.map_or(Vec::new(), |o| NeuronId::first(o.neurons).collect());
        let mut weights = Vec::with_capacity(self.inputs * (kept.len() + all.len()));
        for input in 0..self.inputs {
            weights.extend(kept.iter().map(|&neuron| self.weight(input, neuron)));
            weights.extend(other.into_iter().flat_map(|o| all.iter().map(move |&neuron| o.weight(input, neuron))));
        }
        let scale = [scales(self, kept), other.map_or(Vec::new(), |o| scales(o, &all))].concat();
        Self::from_parts(self.inputs, scale.len(), &weights, scale)
    }

    /// This network with the neurons at `places` replaced by those of `other`, in order.
    pub fn replaced(&self, places: &[NeuronId], other: &Self) -> Self {
        let mut network = self.clone();
        for (from, to) in NeuronId::first(places.len()).zip(places.iter().map(|place| place.index())) {
            for input in 0..self.inputs {
                network.weights[input * self.stride + to] = other.weight(input, from);
            }
            network.scale[to] = other.scale[from.index()];
        }
        network
    }

    /// The non-zero weights as compressed sparse rows: the start of each input's row (and the end of the last), `[input]`, then the neuron and
    /// the weight of each synapse.
    pub fn sparse(&self) -> (Vec<u32>, Vec<u16>, Vec<i8>) {
        let (mut start, mut neuron, mut weight) = (vec![0], Vec::new(), Vec::new());
        for row in self.weights.chunks_exact(self.stride) {
            for (n, &w) in (0u16..).zip(&row[..self.neurons]).filter(|(_, w)| **w != 0) {
                neuron.push(n);
                weight.push(w);
            }
            start.push(weight.len() as u32);
        }
        (start, neuron, weight)
    }

    /// A network from the result of [`Network::sparse`] and one scale per neuron; `None` if the parts contradict each other.
    pub fn from_sparse(start: &[u32], neuron: &[u16], weight: &[i8], scale: Vec<f32>) -> Option<Self> {
        let neurons = scale.len();
        let inputs = start.len().checked_sub(1)?;
        let stride = stride_of(neurons);
        let whole = start[0] == 0 && start[inputs] as usize == weight.len() && neuron.len() == weight.len();
        let mut weights = Rows::zero(inputs * stride);
        if !whole || !start.is_sorted() {
            return None;
        }
        for (row, span) in weights.chunks_exact_mut(stride).zip(start.windows(2)) {
            let span = span[0] as usize..span[1] as usize;
            for (&n, &w) in neuron[span.clone()].iter().zip(&weight[span]) {
                *row[..neurons].get_mut(n as usize)? = w;
            }
        }
        Some(Self { neurons, inputs, stride, weights, scale })
    }

    /// A buffer for [`Network::potentials`].
    pub fn buffer(&self) -> Potentials {
        vec![0; self.stride]
    }

    /// Prefetches the rows of the active inputs.
    #[inline]
    pub fn prefetch(&self, active: &[u32]) {
        let weights: &[i8] = &self.weights;
        for &input in active {
            if let Some(row) = weights.get(input as usize * self.stride..).and_then(|rows| rows.get(..self.stride)) {
                prefetch_span(row);
            }
        }
    }

    /// Writes the potentials of a volley, the sums of the rows of its active inputs, to `out[..stride]`. At most 256 inputs may be active,
    /// so that no sum overflows an i16.
    ///
    /// # Panics
    /// If an input is outside the network. Layout and network are compared when a model is loaded.
    #[inline]
    pub fn potentials(&self, active: &[u32], out: &mut [i16]) {
        debug_assert!(active.len() <= 256);
        kernel::sum_rows(&self.weights, self.stride, active, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rows_begin_at_cache_lines_in_copies_too() {
        let network = Network::from_parts(3, 70, &[1; 210], vec![1.0; 70]);
        for network in [network.clone(), network.joined(&[1, 2].map(NeuronId::new), None), network] {
            assert_eq!((network.weights.len(), network.weights.as_ptr().align_offset(64)), (3 * network.stride, 0));
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
                sum(&network.weights, network.stride, &active, &mut again);
                prop_assert_eq!(&again, &got);
            }
        }
    }
}
