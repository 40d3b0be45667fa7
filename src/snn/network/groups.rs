//! Groups of similar neurons, for networks of many: most packets concern a few groups, and the others need no sums of their own.
//!
//! Weights are kept as compressed sparse blocks: of each row, the blocks of [`LANES`] neurons that have a weight. So the memory follows the
//! weights that are not zero. A second, small network has one neuron for each group, whose weights are the largest of the group's: its
//! potential is an upper bound of the potential of every neuron of the group.

use super::super::kernel::{self, BlockIndex};
use super::rows::DenseRows;
use super::{EachRow, Network, Synapses};
use crate::encode::MAX_ACTIVE;
use crate::prefetch::prefetch;
use crate::snn::NeuronId;

/// Neurons of a group.
pub const LANES: usize = 16;
/// Length of the sketches by which the similarity of neurons is estimated.
const SKETCH: usize = 128;
/// Cosine of the weights from which neurons are similar. Bounds of neurons less similar are so large that most groups may always lead (measured).
const SIMILAR: f32 = 0.6;
/// Neurons of a group, on average, from which groups are faster than sums of whole rows.
const MIN_MEAN_LANES: usize = 8;
/// Groups after which it is found whether there are so many: not all neurons need to be compared with each other.
const FIRST_GROUPS: usize = 32;
/// Part of a unit of weight that rounding may take from the upper bound of one synapse.
const ROUNDING: f32 = 1e-3;
/// Words of the index in a cache line.
const WORDS_OF_LINE: usize = 64 / size_of::<BlockIndex>();
/// Groups of a word of the index of blocks.
const WORD: usize = BlockIndex::GROUPS;

/// Neurons in groups of similar ones.
#[derive(Clone, Debug, PartialEq)]
pub struct NeuronGroups {
    /// Place of each neuron, `[neuron]`: `group * LANES + lane`.
    places: Vec<u32>,
    /// The blocks of each row, in words of 64 groups, `[input * words + word]`.
    index: Vec<BlockIndex>,
    /// Words of a row of the index.
    words: usize,
    /// Weights of the blocks, by input, then by group.
    blocks: Vec<[i8; LANES]>,
    /// Upper bounds, one neuron for each group.
    bounds: Box<Network>,
}

impl NeuronGroups {
    /// Groups the neurons of a network; `None` if too few are similar, or a scale is not positive, which has no bound. `read` is as for
    /// [`Network::from_rows`], `scale` is of each neuron.
    ///
    /// # Errors
    /// Of `read`.
    pub(super) fn new<E>(
        inputs: usize,
        scale: &[f32],
        read: &mut impl FnMut(&mut EachRow<'_>) -> Result<(), E>,
    ) -> Result<Option<Self>, E> {
        if scale.iter().any(|&scale| scale <= 0.0) {
            return Ok(None);
        }
        let Some((places, groups)) = places_of_similar(scale.len(), read)? else { return Ok(None) };
        let words = groups.div_ceil(WORD);
        let mut largest_scale = vec![0f32; groups];
        let mut lanes = vec![0; groups];
        for (&place, &scale) in places.iter().zip(scale) {
            let group = place as usize / LANES;
            largest_scale[group] = largest_scale[group].max(scale);
            lanes[group] += 1;
        }
        // A neuron's unit of weight in units of its group, `[place]`.
        let mut units = vec![0f32; groups * LANES];
        for (&place, &scale) in places.iter().zip(scale) {
            units[place as usize] = scale / largest_scale[place as usize / LANES];
        }

        let mut index = vec![BlockIndex::default(); inputs * words];
        let mut blocks: Vec<[i8; LANES]> = Vec::new();
        let mut bounds = DenseRows::zero(inputs, groups);
        let (mut dense, mut used) = (vec![[0i8; LANES]; groups], Vec::new());
        read(&mut |input, row| {
            for &(neuron, weight) in row.iter().filter(|(_, weight)| *weight != 0) {
                let (group, lane) = place_of(places[neuron.index()]);
                let entry = &mut index[input * words + group / WORD];
                if entry.groups & 1 << (group % WORD) == 0 {
                    entry.groups |= 1 << (group % WORD);
                    used.push(group);
                }
                dense[group][lane] = weight;
            }
            used.sort_unstable();
            let mut first = blocks.len() as u32;
            for word in &mut index[input * words..][..words] {
                word.first = first;
                first += word.groups.count_ones();
            }
            for group in used.drain(..) {
                let block = std::mem::take(&mut dense[group]);
                let in_units = |lane: usize| f32::from(block[lane]) * units[group * LANES + lane];
                let most = (0..lanes[group]).map(in_units).fold(f32::NEG_INFINITY, f32::max);
                bounds.row_mut(input)[group] = (most - ROUNDING).ceil().min(127.0) as i8;
                blocks.push(block);
            }
        })?;
        blocks.shrink_to_fit();
        let bounds = Box::new(Network { neurons: groups, inputs, synapses: Synapses::Dense(bounds), scale: largest_scale });
        Ok(Some(Self { places, index, words, blocks, bounds }))
    }

    /// Number of groups.
    pub fn count(&self) -> usize {
        self.bounds.neurons()
    }

    /// The group of a neuron, and its lane in the group.
    #[inline]
    pub fn place(&self, neuron: NeuronId) -> (usize, usize) {
        place_of(self.places[neuron.index()])
    }

    /// The place of each neuron.
    pub(super) fn places(&self) -> &[u32] {
        &self.places
    }

    /// The network of the upper bounds, one neuron for each group. A bound may be too small by [`NeuronGroups::slack`].
    pub fn bounds(&self) -> &Network {
        &self.bounds
    }

    /// The most by which the potential of a neuron may exceed the bound of its group, in units of potential.
    pub fn slack(&self, group: usize) -> f32 {
        MAX_ACTIVE as f32 * 2.0 * ROUNDING * self.bounds.scale[group]
    }

    /// The potentials of the neurons of a group, `[lane]`, in units of their weights. At most 256 inputs may be active.
    #[inline]
    pub fn potentials(&self, active: &[u32], group: usize) -> [i16; LANES] {
        let mut numbers = [0; MAX_ACTIVE];
        let numbers = kernel::find_blocks(&self.index[group / WORD..], self.words, active, group % WORD, &mut numbers);
        // All addresses are known before the first block is needed.
        numbers.iter().filter_map(|&number| self.blocks.get(number as usize)).for_each(prefetch);
        let mut sums = [0; LANES];
        kernel::sum_rows(self.blocks.as_flattened(), LANES, numbers, &mut sums);
        sums
    }

    /// Prefetches the index of the active inputs, and the rows of their bounds.
    #[inline]
    pub(super) fn prefetch(&self, active: &[u32]) {
        for &input in active {
            let index = self.index.get(input as usize * self.words..).and_then(|index| index.get(..self.words));
            index.into_iter().flat_map(|index| index.chunks(WORDS_OF_LINE)).for_each(|line| prefetch(&line[0]));
        }
        self.bounds.prefetch(active);
    }

    #[inline(always)]
    fn block(&self, input: usize, group: usize) -> Option<&[i8; LANES]> {
        let block = self.index[input * self.words + group / WORD].block(group % WORD)?;
        Some(&self.blocks[block])
    }

    pub(super) fn weight(&self, input: usize, neuron: NeuronId) -> i8 {
        let (group, lane) = self.place(neuron);
        self.block(input, group).map_or(0, |block| block[lane])
    }

    /// The groups that have a block of weights in a row, and the blocks.
    fn blocks_of(&self, input: usize) -> impl Iterator<Item = (usize, &[i8; LANES])> {
        self.index[input * self.words..][..self.words].iter().enumerate().flat_map(move |(word, entry)| {
            let groups = (0..WORD).filter(|group| entry.groups >> group & 1 == 1);
            groups.map(move |group| word * WORD + group).zip(&self.blocks[entry.first as usize..])
        })
    }

    /// Calls `each` with every input and its synapses whose weight is not zero, in the order of the neurons.
    pub(super) fn each_row(&self, inputs: usize, each: &mut EachRow<'_>) {
        let mut neurons = vec![NeuronId::default(); self.count() * LANES];
        NeuronId::first(self.places.len()).zip(&self.places).for_each(|(neuron, &place)| neurons[place as usize] = neuron);
        let mut row = Vec::new();
        for input in 0..inputs {
            row.clear();
            for (group, block) in self.blocks_of(input) {
                let neurons = &neurons[group * LANES..];
                row.extend(neurons.iter().copied().zip(block.iter().copied()).filter(|&(_, weight)| weight != 0));
            }
            row.sort_unstable_by_key(|(neuron, _)| *neuron);
            each(input, &row);
        }
    }

    /// The sums of the rows `active`, `[neuron]`.
    pub(super) fn sum_rows(&self, active: &[u32], out: &mut [i16]) {
        let mut sums = vec![[0i16; LANES]; self.count()];
        for &input in active {
            for (group, block) in self.blocks_of(input as usize) {
                sums[group].iter_mut().zip(block).for_each(|(sum, &weight)| *sum += i16::from(weight));
            }
        }
        let sums = sums.as_flattened();
        out.iter_mut().zip(&self.places).for_each(|(out, &place)| *out = sums[place as usize]);
    }
}

fn place_of(place: u32) -> (usize, usize) {
    (place as usize / LANES, place as usize % LANES)
}

/// The place of each neuron, so that similar ones share a group, and the number of groups. A group is the first neuron that has none yet and
/// those most similar to it. `None` if groups turn out to be small.
///
/// Similarity is the cosine of count sketches of the weights (Charikar, Chen, Farach-Colton 2002): random projections to a few numbers.
fn places_of_similar<E>(
    neurons: usize,
    read: &mut impl FnMut(&mut EachRow<'_>) -> Result<(), E>,
) -> Result<Option<(Vec<u32>, usize)>, E> {
    let mut sketches = vec![[0f32; SKETCH]; neurons];
    read(&mut |input, row| {
        // A multiplicative hash: its lowest bits choose the number, the next one the sign.
        let hash = ((input as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize;
        let sign = if hash / SKETCH % 2 == 1 { 1.0 } else { -1.0 };
        row.iter().for_each(|&(neuron, weight)| sketches[neuron.index()][hash % SKETCH] += sign * f32::from(weight));
    })?;
    for sketch in &mut sketches {
        let length = sketch.iter().map(|x| x * x).sum::<f32>().sqrt();
        sketch.iter_mut().for_each(|x| *x /= length.max(f32::MIN_POSITIVE));
    }
    let mut places = vec![0; neurons];
    let mut left: Vec<usize> = (0..neurons).collect();
    let mut groups = 0;
    while let Some(&seed) = left.first() {
        let cosine = |neuron: usize| sketches[seed].iter().zip(&sketches[neuron]).map(|(a, b)| a * b).sum::<f32>();
        let similar = left[1..].iter().map(|&neuron| (cosine(neuron), neuron)).filter(|(cosine, _)| *cosine >= SIMILAR);
        let mut members: Vec<(f32, usize)> = similar.collect();
        members.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        members.truncate(LANES - 1);
        members.push((1.0, seed));
        members.sort_unstable_by_key(|(_, neuron)| *neuron);
        for (lane, &(_, neuron)) in members.iter().enumerate() {
            places[neuron] = (groups * LANES + lane) as u32;
        }
        left.retain(|neuron| members.binary_search_by_key(neuron, |member| member.1).is_err());
        groups += 1;
        let grouped = neurons - left.len();
        if (groups >= FIRST_GROUPS || left.is_empty()) && groups * MIN_MEAN_LANES > grouped {
            return Ok(None);
        }
    }
    Ok(Some((places, groups)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snn::Network;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn groups_have_the_weights_and_potentials_of_their_neurons_and_bound_them(
            kinds in prop::collection::vec(prop::collection::vec(-127i8..=127, 30), 20),
            noise in prop::collection::vec(-9i8..=9, 37),
            active in prop::collection::vec(0u32..30, 0..60),
        ) {
            let neurons = 600;
            let weight = |input: usize, neuron: usize| {
                let weight = kinds[neuron % kinds.len()][input];
                if weight % 3 == 0 { 0 } else { weight.saturating_add(noise[(input + neuron * 7) % noise.len()]).max(-127) }
            };
            let weights: Vec<i8> = (0..30 * neurons).map(|at| weight(at / neurons, at % neurons)).collect();
            let scale: Vec<f32> = (0..neurons).map(|neuron| 0.01 + neuron as f32 * 1e-6).collect();
            let network = Network::from_parts(30, neurons, &weights, scale);
            let groups = network.groups().expect("many neurons are similar");
            let mut all = network.buffer();
            network.potentials(&active, &mut all);
            let mut bounds = groups.bounds().buffer();
            groups.bounds().potentials(&active, &mut bounds);
            let mut places = std::collections::HashSet::new();
            for neuron in NeuronId::first(neurons) {
                let want: i32 = active.iter().map(|&input| i32::from(weight(input as usize, neuron.index()))).sum();
                let (group, lane) = groups.place(neuron);
                prop_assert!(places.insert((group, lane)));
                prop_assert_eq!(i32::from(all[neuron.index()]), want);
                prop_assert_eq!(i32::from(groups.potentials(&active, group)[lane]), want);
                let bound = f32::from(bounds[group]) * groups.bounds().scale()[group] + groups.slack(group);
                prop_assert!(want as f32 * network.scale()[neuron.index()] <= bound);
            }
            let Ok(again) = Network::from_rows::<std::convert::Infallible>(30, network.scale().to_vec(), |each| {
                network.each_row(each);
                Ok(())
            });
            prop_assert_eq!(&again, &network);
        }
    }

    #[test]
    fn a_network_of_neurons_that_are_not_similar_has_no_groups() {
        let weights: Vec<i8> = (0..600 * 600).map(|at| if at / 600 == at % 600 { 100 } else { 0 }).collect();
        assert!(Network::from_parts(600, 600, &weights, vec![0.01; 600]).groups().is_none());
    }

    #[test]
    fn a_network_with_a_scale_that_has_no_bound_has_no_groups() {
        let mut scale = vec![0.01; 600];
        assert!(Network::from_parts(2, 600, &[1; 1200], scale.clone()).groups().is_some());
        scale[7] = -0.01;
        assert!(Network::from_parts(2, 600, &[1; 1200], scale).groups().is_none());
    }
}
