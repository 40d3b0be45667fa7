//! Dense rows of weights: one for each input, one column for each neuron.

use std::ops::{Deref, DerefMut, Range};

use super::EachRow;
use crate::snn::{NeuronId, kernel};

/// Bytes of a cache line, at whose start the weights begin.
const LINE: usize = 64;

/// Length of a row of weights: the neurons, padded to whole vectors. Rows of a few neurons share a cache line, so that a small network stays
/// within a nearer cache; none lies across two lines.
pub(super) fn stride_of(neurons: usize) -> usize {
    match neurons {
        0..=kernel::NARROW => kernel::NARROW,
        17..=32 => 2 * kernel::NARROW,
        _ => neurons.next_multiple_of(kernel::WIDE),
    }
}

/// Weights that begin at a cache line, so that rows of whole lines do too: a vector load across two lines takes half as long again (measured).
#[derive(Debug)]
pub(super) struct Rows {
    /// The weights with up to a line of padding. Allocated as zeroed memory, whose pages cost nothing until they are written to, so the
    /// allocation itself cannot be aligned.
    room: Vec<i8>,
    /// Position of the first weight.
    start: usize,
}

impl Rows {
    /// A number of weights, all zero.
    pub(super) fn zero(weights: usize) -> Self {
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

/// The weights of a network, a row for each input.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DenseRows {
    /// Length of a row: the neurons, padded ([`stride_of`]).
    pub stride: usize,
    /// `[input * stride + neuron]`.
    pub weights: Rows,
}

impl DenseRows {
    /// Rows without any synapse.
    pub fn zero(inputs: usize, neurons: usize) -> Self {
        let stride = stride_of(neurons);
        Self { stride, weights: Rows::zero(inputs * stride) }
    }

    /// Rows of the synapses that `read` hands over, as for [`Network::from_rows`](super::Network::from_rows).
    ///
    /// # Errors
    /// Of `read`.
    pub fn new<E>(inputs: usize, neurons: usize, read: &mut impl FnMut(&mut EachRow<'_>) -> Result<(), E>) -> Result<Self, E> {
        let mut rows = Self::zero(inputs, neurons);
        read(&mut |input, row| {
            let to = rows.row_mut(input);
            row.iter().for_each(|&(neuron, weight)| to[neuron.index()] = weight);
        })?;
        Ok(rows)
    }

    /// Calls `each` with every input and its synapses whose weight is not zero, in the order of the neurons.
    pub fn each_row(&self, inputs: usize, neurons: usize, each: &mut EachRow<'_>) {
        let mut row = Vec::new();
        for input in 0..inputs {
            row.clear();
            row.extend(NeuronId::first(neurons).zip(self.row(input).iter().copied()).filter(|&(_, weight)| weight != 0));
            each(input, &row);
        }
    }

    /// A row, padded.
    #[inline]
    pub fn row(&self, input: usize) -> &[i8] {
        &self.weights[input * self.stride..][..self.stride]
    }

    /// A row, padded, to be changed.
    pub fn row_mut(&mut self, input: usize) -> &mut [i8] {
        &mut self.weights[input * self.stride..][..self.stride]
    }
}
