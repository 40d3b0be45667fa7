//! Teacher-gated STDP: how the weights come about.
//!
//! Each presentation shows one volley to every neuron. Where the teacher forces a neuron and its potential is below
//! `theta + margin`, every active synapse is potentiated, w += (eta/n)(1 - w); where the teacher is silent and the potential is
//! above `theta - margin`, every active synapse is depressed, w -= (eta/n)(1 + w); n is the number of active synapses. No
//! neuron looks at another, so threads own blocks of neurons and the result does not depend on how many threads there are.

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

/// What is shown, in which order. Implementations are deterministic.
pub trait Presentations: Sync {
    /// The order of one pass.
    fn order(&self, pass: u32) -> Vec<u32>;
    /// Writes the active inputs of presentation `index`; returns their number and the class that the teacher forces.
    fn present(&self, index: u32, active: &mut [u32; crate::encode::MAX_ACTIVE]) -> (usize, u16);
    /// How strongly class `class` learns from its own presentations and from the others'.
    fn gain(&self, class: u16) -> (f32, f32);
}

/// Trains `classes` neurons over `inputs` inputs with `threads` threads.
///
/// Returns the weights averaged over all presentations, `[input * classes + class]`.
pub fn train(
    rule: Stdp,
    inputs: usize,
    classes: usize,
    threads: usize,
    shown: &dyn Presentations,
    tick: &(dyn Fn() + Sync),
) -> Vec<f32> {
    let threads = threads.clamp(1, classes.max(1));
    let orders: Vec<Vec<u32>> = (0..rule.passes).map(|pass| shown.order(pass)).collect();
    let bounds: Vec<usize> = (0..=threads).map(|t| t * classes / threads).collect();
    let shards: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let handles: Vec<_> = bounds
            .windows(2)
            .map(|w| {
                let (from, to, orders) = (w[0], w[1], &orders);
                scope.spawn(move || train_shard(rule, inputs, from, to, shown, orders, tick))
            })
            .collect();
        handles.into_iter().map(|h| h.join().expect("a training thread panicked")).collect()
    });
    let mut weights = vec![0f32; inputs * classes];
    for (shard, w) in shards.iter().zip(bounds.windows(2)) {
        let width = w[1] - w[0];
        for input in 0..inputs {
            weights[input * classes + w[0]..input * classes + w[1]].copy_from_slice(&shard[input * width..][..width]);
        }
    }
    weights
}

/// Trains the neurons `from..to`; returns `[input * (to - from) + neuron - from]`.
fn train_shard(
    rule: Stdp,
    inputs: usize,
    from: usize,
    to: usize,
    shown: &dyn Presentations,
    orders: &[Vec<u32>],
    tick: &(dyn Fn() + Sync),
) -> Vec<f32> {
    let width = to - from;
    let stride = width.div_ceil(16) * 16;
    let mut weights = vec![0f32; inputs * stride];
    // The average over presentations is w - moment/presentations, with moment the sum of time times change (Daumé's lazy averaging).
    let mut moment = vec![0f32; inputs * stride];
    let mut potential = vec![0f32; stride];
    let mut active = [0u32; crate::encode::MAX_ACTIVE];
    let gains: Vec<(f32, f32)> = (from..to).map(|c| shown.gain(c as u16)).collect();
    let total: usize = orders.iter().map(Vec::len).sum();
    let mut time = 0usize;
    for (pass, order) in orders.iter().enumerate() {
        let progress = pass as f32 / (rule.passes.max(2) - 1) as f32;
        let eta = rule.eta * (1.0 - 0.9 * progress);
        for &index in order {
            let (n, class) = shown.present(index, &mut active);
            time += 1;
            if n == 0 {
                continue;
            }
            potential.fill(0.0);
            for &input in &active[..n] {
                let row = &weights[input as usize * stride..][..stride];
                for (u, w) in potential.iter_mut().zip(row) {
                    *u += w;
                }
            }
            let when = time as f32 / total as f32;
            for neuron in 0..width {
                let forced = from + neuron == class as usize;
                let u = potential[neuron];
                let (step, target) = if forced && u < rule.theta + rule.margin {
                    (eta / n as f32 * gains[neuron].0, 1.0)
                } else if !forced && u > rule.theta - rule.margin {
                    (eta / n as f32 * gains[neuron].1, -1.0)
                } else {
                    continue;
                };
                for &input in &active[..n] {
                    let at = input as usize * stride + neuron;
                    let change = step * (target - weights[at]);
                    weights[at] += change;
                    moment[at] += when * change;
                }
            }
        }
        tick();
    }
    let mut out = Vec::with_capacity(inputs * width);
    for (w, m) in weights.chunks_exact(stride).zip(moment.chunks_exact(stride)) {
        out.extend(w.iter().zip(m).take(width).map(|(w, m)| w - m));
    }
    out
}
