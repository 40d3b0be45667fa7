//! Teacher-gated STDP: the rule by which networks learn their weights.
//!
//! Each presentation shows one volley to all neurons. If the teacher forces a neuron and its potential is below `theta + margin`, every active
//! synapse is potentiated, w += (eta/n)(1 - w). If the teacher does not force it and its potential is above `theta - margin`, every active
//! synapse is depressed, w -= (eta/n)(1 + w). n is the number of active synapses. A neuron for a part of its class learns nothing from the other
//! parts of the class. Neurons do not depend on each other, so each thread trains a block of them, and the result does not depend on the number
//! of threads.

use super::ClassId;

/// Constants of the rule.
#[derive(Clone, Copy, Debug)]
pub struct Stdp {
    /// Firing threshold while learning.
    pub theta: f32,
    /// Half-width of the band around `theta` within which neurons learn.
    pub margin: f32,
    /// Learning rate of the first pass; it falls linearly to a tenth in the last.
    pub eta: f32,
    /// Number of passes over the presentations.
    pub passes: u32,
}

impl Default for Stdp {
    fn default() -> Self {
        Self { theta: 1.0, margin: 1.0, eta: 0.5, passes: 6 }
    }
}

/// A neuron to train: the presentations for which the teacher forces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeuronSpec {
    /// Its class.
    pub class: ClassId,
    /// The part of the class; `None` for the whole class.
    pub part: Option<u8>,
}

impl NeuronSpec {
    /// One neuron for each class.
    pub fn one_each(classes: usize) -> Vec<Self> {
        ClassId::first(classes).map(|class| Self { class, part: None }).collect()
    }
}

/// What the teacher knows of one presentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presentation {
    /// Number of active inputs.
    pub active: usize,
    /// The class whose neurons the teacher forces; `None` for none.
    pub class: Option<ClassId>,
    /// The part of the class.
    pub part: u8,
}

/// The presentations of a training run and their order. Implementations are deterministic.
pub trait Presentations: Sync {
    /// The presentations of one pass, in order.
    fn order(&self, pass: u32) -> Vec<u32>;
    /// Writes the active inputs of presentation `index`.
    fn present(&self, index: u32, active: &mut [u32; crate::encode::MAX_ACTIVE]) -> Presentation;
    /// Prefetches what [`present`](Presentations::present) will read for presentation `soon`, and what this function will read for `later`.
    fn prefetch(&self, _soon: u32, _later: u32) {}
    /// Weights of a class's learning: for its own presentations, and for those of other classes.
    fn class_weights(&self, class: ClassId) -> (f32, f32);
}

/// Trains neurons over `inputs` inputs with `threads` threads and returns their weights averaged over all presentations,
/// `[input * specs + spec]`. What a neuron learns does not depend on the other neurons. `tick` is called after each pass of each thread.
pub fn train(
    rule: Stdp,
    inputs: usize,
    specs: &[NeuronSpec],
    threads: usize,
    presentations: &dyn Presentations,
    tick: &(dyn Fn() + Sync),
) -> Vec<f32> {
    let neurons = specs.len();
    let threads = threads.clamp(1, neurons.max(1));
    let orders: Vec<Vec<u32>> = (0..rule.passes).map(|pass| presentations.order(pass)).collect();
    let bounds: Vec<usize> = (0..=threads).map(|t| t * neurons / threads).collect();
    let shards: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let handles: Vec<_> = bounds
            .windows(2)
            .map(|w| {
                let (specs, orders) = (&specs[w[0]..w[1]], &orders);
                scope.spawn(move || train_shard(&Shard { rule, inputs, specs, presentations, orders, tick }))
            })
            .collect();
        handles.into_iter().map(|h| h.join().expect("a training thread panicked")).collect()
    });
    let mut weights = vec![0f32; inputs * neurons];
    for (shard, w) in shards.iter().zip(bounds.windows(2)) {
        let width = w[1] - w[0];
        for input in 0..inputs {
            weights[input * neurons + w[0]..input * neurons + w[1]].copy_from_slice(&shard[input * width..][..width]);
        }
    }
    weights
}

/// The work of one thread.
struct Shard<'a> {
    rule: Stdp,
    inputs: usize,
    specs: &'a [NeuronSpec],
    presentations: &'a dyn Presentations,
    orders: &'a [Vec<u32>],
    tick: &'a (dyn Fn() + Sync),
}

/// Trains a shard with the widest vectors of the CPU. Each neuron's sums are computed in the order of the inputs and never fused, so the weights
/// are the same with every width.
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "calls functions compiled for features that the CPU was found to have")
)]
fn train_shard(shard: &Shard<'_>) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F.
            return unsafe { train_shard_avx512(shard) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            return unsafe { train_shard_avx2(shard) };
        }
    }
    train_shard_with(shard, integrate)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn train_shard_avx512(shard: &Shard<'_>) -> Vec<f32> {
    train_shard_with(shard, |weights, active, sums| integrate_avx512(weights, active, sums))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn train_shard_avx2(shard: &Shard<'_>) -> Vec<f32> {
    train_shard_with(shard, integrate)
}

/// Writes the potential of each neuron, `[block][lane]`: the sum of the rows `active` of `weights`, `[input * blocks + block][lane]`.
#[inline(always)]
fn integrate(weights: &[[f32; LANE]], active: &[u32], sums: &mut [[f32; LANE]]) {
    let blocks = sums.len();
    for (block, sums) in sums.iter_mut().enumerate() {
        let mut sum = [0f32; LANE];
        for &input in active {
            let row = &weights[input as usize * blocks + block];
            for lane in 0..LANE {
                sum[lane] += row[lane];
            }
        }
        *sums = sum;
    }
}

/// [`integrate`] with the sums of several blocks in registers, where they do not wait for each other. Training of 124 classes takes 0.7 of
/// the time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn integrate_avx512(weights: &[[f32; LANE]], active: &[u32], sums: &mut [[f32; LANE]]) {
    let (blocks, mut block) = (sums.len(), 0);
    while block < blocks {
        let rest = &mut sums[block..];
        block += match rest.len() {
            8.. => integrate_blocks_avx512::<8>(&weights[block..], blocks, active, rest),
            4.. => integrate_blocks_avx512::<4>(&weights[block..], blocks, active, rest),
            2.. => integrate_blocks_avx512::<2>(&weights[block..], blocks, active, rest),
            _ => integrate_blocks_avx512::<1>(&weights[block..], blocks, active, rest),
        };
    }
}

/// Sums of `N` blocks, the first of each row of `weights`; a row has `blocks`. Returns `N`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
#[expect(unsafe_code, reason = "the intrinsics take pointers")]
fn integrate_blocks_avx512<const N: usize>(
    weights: &[[f32; LANE]],
    blocks: usize,
    active: &[u32],
    out: &mut [[f32; LANE]],
) -> usize {
    use std::arch::x86_64::{_mm512_add_ps, _mm512_loadu_ps, _mm512_setzero_ps, _mm512_storeu_ps};
    let mut sums = [_mm512_setzero_ps(); N];
    for &input in active {
        let rows = weights[input as usize * blocks..].first_chunk::<N>().expect("a row has all blocks");
        for part in 0..N {
            // SAFETY: a row of a block has sixteen weights.
            sums[part] = _mm512_add_ps(sums[part], unsafe { _mm512_loadu_ps(rows[part].as_ptr()) });
        }
    }
    for part in 0..N {
        // SAFETY: there is room for sixteen sums.
        unsafe { _mm512_storeu_ps(out[part].as_mut_ptr(), sums[part]) };
    }
    N
}

/// Neurons in one block of weights: one AVX-512 vector.
const LANE: usize = 16;

/// Presentations from the prefetch of one to its turn: memory answers within two or three.
const PREFETCH: usize = 6;

/// The class of a lane that has no neuron.
const NO_CLASS: ClassId = ClassId::new(u16::MAX);
/// The class that is forced where the teacher forces none.
const UNFORCED: ClassId = ClassId::new(u16::MAX - 1);

/// The learning weights of a shard, in blocks of [`LANE`] neurons.
struct ShardWeights<'a> {
    rule: Stdp,
    specs: &'a [NeuronSpec],
    /// Blocks per input.
    blocks: usize,
    /// `[input * blocks + block][lane]`.
    weights: Vec<[f32; LANE]>,
    /// Sum of time times change, as `weights`: the average over presentations is weight - moment (Daumé's lazy averaging).
    moments: Vec<[f32; LANE]>,
    /// Potentials at the presentation, `[block][lane]`.
    potentials: Vec<[f32; LANE]>,
    /// [`Presentations::class_weights`] of each neuron's class, `[neuron]`.
    class_weights: Vec<(f32, f32)>,
    /// Class of each neuron, `[block][lane]`.
    class_of: Vec<[ClassId; LANE]>,
}

/// One presentation, with the time-dependent factors of the rule.
struct Step<'a> {
    active: &'a [u32],
    class: ClassId,
    part: u8,
    /// Learning rate per active synapse.
    rate: f32,
    /// Time from 0 to 1.
    time: f32,
}

impl<'a> ShardWeights<'a> {
    fn new(shard: &Shard<'a>) -> Self {
        let &Shard { rule, inputs, specs, presentations, .. } = shard;
        let blocks = specs.len().div_ceil(LANE);
        let mut class_of = vec![[NO_CLASS; LANE]; blocks];
        specs.iter().zip(class_of.as_flattened_mut()).for_each(|(spec, class)| *class = spec.class);
        Self {
            rule,
            specs,
            blocks,
            weights: vec![[0f32; LANE]; inputs * blocks],
            moments: vec![[0f32; LANE]; inputs * blocks],
            potentials: vec![[0f32; LANE]; blocks],
            class_weights: specs.iter().map(|spec| presentations.class_weights(spec.class)).collect(),
            class_of,
        }
    }

    #[inline(always)]
    fn prefetch(&self, active: &[u32]) {
        for &input in active {
            self.weights[input as usize * self.blocks..][..self.blocks].iter().for_each(crate::prefetch::prefetch);
        }
    }

    /// Shows one presentation to a block of neurons, whose potentials were computed.
    #[inline(always)]
    fn learn(&mut self, block: usize, step: &Step<'_>) {
        let (low, high) = (self.rule.theta - self.rule.margin, self.rule.theta + self.rule.margin);
        let potential = self.potentials[block];
        let forces_any = self.class_of[block].iter().fold(false, |any, &class| any | (class == step.class));
        // Most blocks have nothing to learn: one test for all their neurons.
        if !forces_any && !potential.iter().fold(false, |any, &u| any | (u > low)) {
            return;
        }
        for (lane, spec) in self.specs[block * LANE..].iter().enumerate().take(LANE) {
            let forced = spec.class == step.class;
            if forced && spec.part.is_some_and(|part| part != step.part) {
                continue;
            }
            let u = potential[lane];
            let (own_weight, other_weight) = self.class_weights[block * LANE + lane];
            let (rate, target) = if forced && u < high {
                (step.rate * own_weight, 1.0)
            } else if !forced && u > low {
                (step.rate * other_weight, -1.0)
            } else {
                continue;
            };
            for &input in step.active {
                let at = input as usize * self.blocks + block;
                let change = rate * (target - self.weights[at][lane]);
                self.weights[at][lane] += change;
                self.moments[at][lane] += step.time * change;
            }
        }
    }

    /// The weights averaged over all presentations, `[input * specs + spec]`.
    fn averaged(&self) -> Vec<f32> {
        let width = self.specs.len();
        let mut out = Vec::with_capacity(self.weights.len() / self.blocks.max(1) * width);
        for (row, moved) in self.weights.chunks_exact(self.blocks).zip(self.moments.chunks_exact(self.blocks)) {
            out.extend(row.as_flattened().iter().zip(moved.as_flattened()).take(width).map(|(w, m)| w - m));
        }
        out
    }
}

/// Returns `[input * specs + spec]`.
#[inline(always)]
fn train_shard_with(shard: &Shard<'_>, integrate: impl Fn(&[[f32; LANE]], &[u32], &mut [[f32; LANE]])) -> Vec<f32> {
    let &Shard { rule, presentations, orders, tick, .. } = shard;
    let mut shard = ShardWeights::new(shard);
    let total: usize = orders.iter().map(Vec::len).sum();
    let mut time = 0usize;
    // One presentation is prepared, and its weights prefetched, while the one before it is learned.
    let (mut one, mut other) = ([0u32; crate::encode::MAX_ACTIVE], [0u32; crate::encode::MAX_ACTIVE]);
    let (mut active, mut next_active) = (&mut one, &mut other);
    for (pass, order) in orders.iter().enumerate() {
        let progress = pass as f32 / (rule.passes.max(2) - 1) as f32;
        let eta = rule.eta * (1.0 - 0.9 * progress);
        let Some(&first) = order.first() else { continue };
        let mut next = presentations.present(first, next_active);
        for place in 0..order.len() {
            std::mem::swap(&mut active, &mut next_active);
            let Presentation { active: n, class, part } = next;
            if let [soon, .., later] = order[place..].get(PREFETCH..=2 * PREFETCH).unwrap_or_default() {
                presentations.prefetch(*soon, *later);
            }
            if let Some(&index) = order.get(place + 1) {
                next = presentations.present(index, next_active);
                shard.prefetch(&next_active[..next.active]);
            }
            time += 1;
            if n == 0 {
                continue;
            }
            let class = class.unwrap_or(UNFORCED);
            let step = Step { active: &active[..n], class, part, rate: eta / n as f32, time: time as f32 / total as f32 };
            integrate(&shard.weights, step.active, &mut shard.potentials);
            for block in 0..shard.blocks {
                shard.learn(block, &step);
            }
        }
        tick();
    }
    shard.averaged()
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn wide_sums_equal_the_portable_ones(
            blocks in 1usize..18,
            values in prop::collection::vec(-2f32..2f32, 20 * 17 * LANE),
            active in prop::collection::vec(0u32..20, 0..80),
        ) {
            let weights = &values.as_chunks::<LANE>().0[..20 * blocks];
            let mut want = vec![[1.0; LANE]; blocks];
            integrate(weights, &active, &mut want);
            if std::arch::is_x86_feature_detected!("avx512f") {
                let mut got = vec![[2.0; LANE]; blocks];
                // SAFETY: the CPU has the feature.
                #[expect(unsafe_code, reason = "the test calls code for a feature that the CPU was found to have")]
                unsafe { integrate_avx512(weights, &active, &mut got) };
                prop_assert_eq!(got, want);
            }
        }
    }
}
