//! Homeostasis: the threshold of each neuron, set on calibration streams towards a target rate of false alarms.

use crate::snn::{NeuronId, NeuronSpec};

use super::held_out::HeldOutPotentials;
use super::variant::Variant;
use super::{Corpus, TrainSettings};

/// Largest relative change of the threshold that the neuron was trained with.
const BOUND: f32 = 0.25;

/// The threshold of one neuron, in units of potential.
///
/// It is raised until the packets of other classes' streams make the neuron fire no more often than `settings.false_alarm_rate`. If they
/// make it fire less often, it is lowered while more than half of the packets of its own class leave it silent. Each stream counts once,
/// divided among its packets. The change is bounded; without calibration streams the threshold stays as trained.
pub(super) fn threshold(
    corpus: &Corpus,
    settings: &TrainSettings,
    held_out: &[HeldOutPotentials],
    neuron: NeuronId,
    spec: NeuronSpec,
) -> f32 {
    let learned = settings.rule.theta;
    let (mut positive, mut negative) = (Vec::new(), Vec::new());
    for f in held_out.iter().filter(|f| f.variant == Variant::AsIs) {
        let stream = &corpus.streams[f.stream];
        let mine = stream.class == spec.class;
        let list = if mine { &mut positive } else { &mut negative };
        // Of its own class only the part (direction) that the neuron was trained for.
        let counted = |p: &usize| !mine || spec.part.is_none_or(|part| part == corpus.part(stream.first + p));
        let potentials =
            (0..f.packets).filter(counted).map(|p| f.potentials[p * f.width + neuron.index()]).filter(|u| u.is_finite());
        list.extend(potentials.map(|u| (u, 1.0 / f.packets as f64)));
    }
    let quiet = level(&mut negative, settings.false_alarm_rate).unwrap_or(learned);
    let sensitive = level(&mut positive, 0.5).unwrap_or(learned);
    let theta = if quiet > learned { quiet } else { quiet.max(sensitive).min(learned) };
    theta.clamp(learned * (1.0 - BOUND), learned * (1.0 + BOUND))
}

/// The lowest threshold that at most the share `rate` of the `(potential, weight)` pairs reaches; `None` without any.
fn level(potentials: &mut [(f32, f64)], rate: f64) -> Option<f32> {
    potentials.sort_by(|a, b| b.0.total_cmp(&a.0));
    let most = rate * potentials.iter().map(|p| p.1).sum::<f64>();
    let mut above = 0.0;
    for &(u, weight) in potentials.iter() {
        above += weight;
        if above > most {
            return Some(u.next_up());
        }
    }
    potentials.last().map(|p| p.0)
}

#[cfg(test)]
mod tests {
    use super::level;

    #[test]
    fn a_threshold_is_reached_by_no_more_than_the_rate() {
        let mut potentials: Vec<(f32, f64)> = (0..100).map(|i| (i as f32 / 100.0, 1.0)).collect();
        for rate in [0.0, 0.01, 0.1, 0.5, 0.99] {
            let theta = level(&mut potentials, rate).unwrap();
            let reached = potentials.iter().filter(|p| p.0 >= theta).count();
            assert_eq!(reached, (rate * 100.0) as usize, "{rate}");
        }
        assert_eq!(level(&mut [], 0.5), None);
    }
}
