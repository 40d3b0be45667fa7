//! Teacher-gated STDP, the rule that learns the weights.
//!
//! Each presentation shows one volley to every neuron. Where the teacher forces a neuron and its potential is below
//! `theta + margin`, every active synapse is potentiated, w += (eta/n)(1 - w); where the teacher is silent and the potential is
//! above `theta - margin`, every active synapse is depressed, w -= (eta/n)(1 + w); n is the number of active synapses. A neuron
//! that stands for a part of its class learns nothing from the others of the class. No neuron looks at another, so threads own
//! blocks of neurons and the result does not depend on how many threads there are.

use super::ClassId;

/// Constants of the rule.
#[derive(Clone, Copy, Debug)]
pub struct Stdp {
    /// Firing threshold while learning.
    pub theta: f32,
    /// Half-width of the band around `theta` in which learning goes on.
    pub margin: f32,
    /// Learning rate of the first pass; it falls linearly to a tenth in the last.
    pub eta: f32,
    /// Times every presentation is shown.
    pub passes: u32,
}

impl Default for Stdp {
    fn default() -> Self {
        Self { theta: 1.0, margin: 1.0, eta: 0.5, passes: 6 }
    }
}

/// What the teacher forces a neuron with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeuronSpec {
    pub class: ClassId,
    /// The part of the class's presentations; `None`: all of them.
    pub part: Option<u8>,
}

impl NeuronSpec {
    /// One neuron for each of so many classes.
    pub fn one_each(classes: usize) -> Vec<Self> {
        ClassId::first(classes).map(|class| Self { class, part: None }).collect()
    }
}

/// A presentation's kind: how many inputs are active, which class the teacher forces, and which part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presentation {
    pub active: usize,
    pub class: ClassId,
    pub part: u8,
}

/// What is shown, in which order. Implementations are deterministic.
pub trait Presentations: Sync {
    /// The order of one pass.
    fn order(&self, pass: u32) -> Vec<u32>;
    /// Writes the active inputs of presentation `index`.
    fn present(&self, index: u32, active: &mut [u32; crate::encode::MAX_ACTIVE]) -> Presentation;
    /// How strongly class `class` learns from its own presentations and from the others'.
    fn class_weights(&self, class: ClassId) -> (f32, f32);
}

/// Trains neurons over `inputs` inputs with `threads` threads. What a neuron learns does not depend on which others there are.
///
/// Returns the weights averaged over all presentations, `[input * specs + spec]`.
pub fn train(
    rule: Stdp,
    inputs: usize,
    specs: &[NeuronSpec],
    threads: usize,
    shown: &dyn Presentations,
    tick: &(dyn Fn() + Sync),
) -> Vec<f32> {
    let neurons = specs.len();
    let threads = threads.clamp(1, neurons.max(1));
    let orders: Vec<Vec<u32>> = (0..rule.passes).map(|pass| shown.order(pass)).collect();
    let bounds: Vec<usize> = (0..=threads).map(|t| t * neurons / threads).collect();
    let shards: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let handles: Vec<_> = bounds
            .windows(2)
            .map(|w| {
                let (specs, orders) = (&specs[w[0]..w[1]], &orders);
                scope.spawn(move || train_shard(&Shard { rule, inputs, specs, shown, orders, tick }))
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

/// What one thread trains.
struct Shard<'a> {
    rule: Stdp,
    inputs: usize,
    specs: &'a [NeuronSpec],
    shown: &'a dyn Presentations,
    orders: &'a [Vec<u32>],
    tick: &'a (dyn Fn() + Sync),
}

/// Trains a shard with the widest vectors that the CPU has. Sums are made neuron by neuron in the order of the inputs and never
/// fused, so the weights are the same whatever the width.
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "calls of functions that are compiled for what the CPU was found to have")
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
    train_shard_with(shard)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn train_shard_avx512(shard: &Shard<'_>) -> Vec<f32> {
    train_shard_with(shard)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn train_shard_avx2(shard: &Shard<'_>) -> Vec<f32> {
    train_shard_with(shard)
}

/// Neurons whose weights lie side by side: one AVX-512 vector.
const LANE: usize = 16;

/// The class of a lane that has no neuron.
const NOBODY: ClassId = ClassId::new(u16::MAX);

/// Returns `[input * specs + spec]`.
#[inline(always)]
fn train_shard_with(shard: &Shard<'_>) -> Vec<f32> {
    let &Shard { rule, inputs, specs, shown, orders, tick } = shard;
    let width = specs.len();
    let blocks = width.div_ceil(LANE);
    let mut weights = vec![[0f32; LANE]; inputs * blocks];
    // The average over presentations is w - moment, with moment the sum of time times change (Daumé's lazy averaging).
    let mut moments = vec![[0f32; LANE]; inputs * blocks];
    let class_weights: Vec<(f32, f32)> = specs.iter().map(|p| shown.class_weights(p.class)).collect();
    let mut class_of = vec![[NOBODY; LANE]; blocks];
    specs.iter().zip(class_of.as_flattened_mut()).for_each(|(spec, class)| *class = spec.class);
    let total: usize = orders.iter().map(Vec::len).sum();
    let mut time = 0usize;
    // One presentation is prepared, and its weights fetched, while the one before it is learned.
    let (mut active, mut ahead) = ([0u32; crate::encode::MAX_ACTIVE], [0u32; crate::encode::MAX_ACTIVE]);
    for (pass, order) in orders.iter().enumerate() {
        let progress = pass as f32 / (rule.passes.max(2) - 1) as f32;
        let eta = rule.eta * (1.0 - 0.9 * progress);
        let Some(&first) = order.first() else { continue };
        let mut coming = shown.present(first, &mut ahead);
        for place in 0..order.len() {
            std::mem::swap(&mut active, &mut ahead);
            let Presentation { active: n, class, part } = coming;
            if let Some(&next) = order.get(place + 1) {
                coming = shown.present(next, &mut ahead);
                for &input in &ahead[..coming.active] {
                    weights[input as usize * blocks..][..blocks].iter().for_each(crate::prefetch::prefetch);
                }
            }
            time += 1;
            if n == 0 {
                continue;
            }
            let when = time as f32 / total as f32;
            let (low, high) = (rule.theta - rule.margin, rule.theta + rule.margin);
            for block in 0..blocks {
                let mut potential = [0f32; LANE];
                for &input in &active[..n] {
                    let row = &weights[input as usize * blocks + block];
                    for lane in 0..LANE {
                        potential[lane] += row[lane];
                    }
                }
                let own = class_of[block].iter().fold(false, |any, &c| any | (c == class));
                // Most blocks have nothing to learn: one test for all their neurons.
                if !own && !potential.iter().fold(false, |any, &u| any | (u > low)) {
                    continue;
                }
                for (lane, spec) in specs[block * LANE..].iter().enumerate().take(LANE) {
                    let forced = spec.class == class;
                    if forced && spec.part.is_some_and(|own| own != part) {
                        continue;
                    }
                    let u = potential[lane];
                    let weights_of_class = class_weights[block * LANE + lane];
                    let (step, target) = if forced && u < high {
                        (eta / n as f32 * weights_of_class.0, 1.0)
                    } else if !forced && u > low {
                        (eta / n as f32 * weights_of_class.1, -1.0)
                    } else {
                        continue;
                    };
                    for &input in &active[..n] {
                        let at = input as usize * blocks + block;
                        let change = step * (target - weights[at][lane]);
                        weights[at][lane] += change;
                        moments[at][lane] += when * change;
                    }
                }
            }
        }
        tick();
    }
    let mut out = Vec::with_capacity(inputs * width);
    for (row, moved) in weights.chunks_exact(blocks).zip(moments.chunks_exact(blocks)) {
        out.extend(row.as_flattened().iter().zip(moved.as_flattened()).take(width).map(|(w, m)| w - m));
    }
    out
}
