//! Choice of classes that get one neuron per direction of their streams instead of one neuron.
//!
//! Requests and responses of one protocol often differ more than two protocols do, and a single neuron has to fire for both. Cross-fitting
//! shows where two neurons are better: a class gets two if the streams that are right only with two outnumber those that are right only
//! with one by more than chance (McNemar, *Note on the sampling error of the difference between correlated proportions*,
//! Psychometrika 12, 1947; here two standard deviations).

use crate::snn::{ClassId, NeuronSpec};
use crate::stream::{Assignments, Decision};

use super::held_out::HeldOutPotentials;
use super::variant::Variant;

/// Number of standard deviations by which the streams won must outnumber the streams lost.
const DEVIATIONS: f64 = 2.0;

/// The neurons of a class: one for all its packets, or one for each direction of its streams.
pub(super) fn specs_of(class: ClassId, split: bool) -> Vec<NeuronSpec> {
    if split { [0, 1].map(|part| NeuronSpec { class, part: Some(part) }).into() } else { vec![NeuronSpec { class, part: None }] }
}

/// The neurons of all classes: the first neuron of each class, then the second neuron of each class in `split`.
pub(super) fn specs(classes: usize, split: &[ClassId]) -> Vec<NeuronSpec> {
    let all: Vec<Vec<NeuronSpec>> = ClassId::first(classes).map(|class| specs_of(class, split.contains(&class))).collect();
    let seconds = split.iter().map(|&class| all[class.index()][1]);
    all.iter().map(|of| of[0]).chain(seconds).collect()
}

/// The classes of the neurons that [`specs`] returns.
pub(super) fn assignments(classes: usize, specs: &[NeuronSpec]) -> Assignments {
    Assignments::new(classes, specs[classes..].iter().map(|spec| spec.class)).expect("specs are of these classes")
}

/// The result of cross-fitting with a set of neurons: potentials of held-out streams, and the decision for them.
pub(super) struct CrossFit {
    pub held_out: Vec<HeldOutPotentials>,
    pub decision: Decision,
}

/// The classes that may be better with two neurons. A second neuron can only correct streams that are wrong with the neurons of `one` and that belong to
/// its class or are taken for it; classes with too few such streams for a difference beyond chance are left out.
pub(super) fn candidates(classes: usize, one: &CrossFit) -> Vec<ClassId> {
    let mut wrong = vec![0u32; classes];
    for held_out in one.held_out.iter().filter(|h| h.known && h.variant == Variant::AsIs) {
        let leader = one.decision.leader(&held_out.evidence(&one.decision, classes), 1);
        let Some(leader) = leader.filter(|leader| leader.class != held_out.truth) else { continue };
        wrong[leader.class.index()] += 1;
        wrong[held_out.truth.index()] += 1;
    }
    // If n streams become right and none wrong, `n >= DEVIATIONS * sqrt(n)` holds from the square of DEVIATIONS on.
    ClassId::first(classes).filter(|class| f64::from(wrong[class.index()]) >= DEVIATIONS * DEVIATIONS).collect()
}

/// Those of the classes `candidates` that are better with two neurons. `one` has one neuron for each class, `two` has two.
pub(super) fn better_split(classes: usize, candidates: &[ClassId], one: &CrossFit, two: &CrossFit) -> Vec<ClassId> {
    // For each stream its class, and the final evidence of all classes: with the neurons chosen so far, and with two neurons each.
    let mut ends: Vec<(ClassId, Vec<f32>, Vec<f32>)> = (one.held_out.iter().zip(&two.held_out))
        .filter(|(held_out, _)| held_out.known && held_out.variant == Variant::AsIs)
        .map(|(a, b)| (a.truth, a.evidence(&one.decision, classes), b.evidence(&two.decision, classes)))
        .collect();
    let right = |truth: ClassId, evidence: &[f32]| one.decision.leader(evidence, 1).is_some_and(|l| l.class == truth);
    let mut better = Vec::new();
    for class in candidates.iter().map(|class| class.index()) {
        let (mut won, mut lost) = (0u32, 0u32);
        for (truth, now, two) in &mut ends {
            let before = right(*truth, now);
            let was = std::mem::replace(&mut now[class], two[class]);
            let after = right(*truth, now);
            now[class] = was;
            won += u32::from(after && !before);
            lost += u32::from(before && !after);
        }
        let (won, lost) = (f64::from(won), f64::from(lost));
        if won > lost && won - lost >= DEVIATIONS * (won + lost).sqrt() {
            better.push(ClassId::from_index(class));
            ends.iter_mut().for_each(|(_, now, two)| now[class] = two[class]);
        }
    }
    better
}

/// The cross-fit with two neurons for the classes in `split` and one for the others.
pub(super) fn merged(one: CrossFit, two: &CrossFit, split: Vec<ClassId>) -> CrossFit {
    let CrossFit { mut held_out, mut decision } = one;
    let classes = decision.theta.len();
    let mix = |one: &[f32], two: &[f32]| -> Vec<f32> {
        let first = ClassId::first(classes).zip(one).map(|(c, &x)| if split.contains(&c) { two[c.index()] } else { x });
        first.chain(split.iter().map(|&c| two[classes + c.index()])).collect()
    };
    decision.theta = mix(&decision.theta, &two.decision.theta);
    for (one, two) in held_out.iter_mut().zip(&two.held_out) {
        let packets = one.potentials.chunks_exact(one.width).zip(two.potentials.chunks_exact(two.width));
        one.potentials = packets.flat_map(|(one, two)| mix(one, two)).collect();
        one.width = decision.theta.len();
    }
    decision.assignments = Assignments::new(classes, split).expect("these classes are among all");
    CrossFit { held_out, decision }
}

#[cfg(test)]
mod tests {
    use crate::encode::{Layout, LayoutOptions, SILENT};
    use crate::model::Model;
    use crate::packet::KeyKind;
    use crate::snn::{ClassId, NeuronId};
    use crate::train::{Corpus, TrainSettings, fit, retrain};

    const STREAMS: usize = 24;

    /// "here" sends 1 and receives 2, "there" sends 2 and receives 1, "else" sends and receives 3: no weighted sum over the packets of
    /// a stream separates the first two.
    fn crossed() -> Corpus {
        let layout = Layout::headers(&LayoutOptions { coincidence_bits: 0, ..LayoutOptions::default() });
        let slot = |name: &str| layout.slots().iter().position(|s| s.name == name).unwrap();
        let (value_slot, direction) = (slot("icmp.type"), slot("stream.direction"));
        let classes = ["else", "here", "there"].map(String::from).to_vec();
        let mut corpus = Corpus::new(KeyKind::Flow, layout, classes);
        let width = corpus.layout.slots().len();
        for (class, values) in [(0, [3, 3]), (1, [1, 2]), (2, [2, 1])].repeat(STREAMS) {
            let mut slots = vec![SILENT; 2 * width];
            for (way, value) in values.into_iter().enumerate() {
                (slots[way * width + value_slot], slots[way * width + direction]) = (value, way as u16);
            }
            corpus.push(ClassId::new(class), &slots);
        }
        corpus
    }

    fn right(model: &Model, corpus: &Corpus) -> usize {
        let leader_of = |s: &crate::train::LabelledStream| model.classifier().classify(corpus.volleys_of(s));
        let own = |class: ClassId| model.classes.iter().position(|c| *c == corpus.classes[class.index()]);
        corpus.streams.iter().filter(|s| leader_of(s).map(|l| l.class.index()) == own(s.class)).count()
    }

    #[test]
    fn classes_that_one_neuron_can_not_separate_get_one_per_direction_and_keep_them_in_joined_models() {
        let mut corpus = crossed();
        let settings = TrainSettings { threads: 2, ..TrainSettings::new(KeyKind::Flow, 1) };
        let model = fit(&corpus, &settings, &|_| true, &|| ()).into_model("crossed", &corpus);
        let extra = model.decision.assignments.extra();
        assert!(!extra.is_empty() && !extra.contains(&ClassId::new(0)), "{extra:?}");
        assert_eq!(right(&model, &corpus), corpus.streams.len());

        let file = Model::from_bytes(&model.to_bytes(), std::path::Path::new("crossed.safetensors")).unwrap();
        assert_eq!(file, model);

        // Split into parts and joined in another order, each neuron keeps its weights and threshold.
        let part = |others: &[&str]| model.without_classes(&others.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        let joined = part(&["else", "there"]).join(&part(&["here"])).unwrap();
        assert_eq!(joined.classes, ["here", "else", "there"]);
        assert_eq!(joined.decision.assignments.extra().len(), extra.len());
        assert_eq!(right(&joined, &corpus), corpus.streams.len());
        for neuron in NeuronId::first(joined.network.neurons()) {
            let class = &joined.classes[joined.decision.assignments.class_of(neuron).index()];
            let place = joined.decision.assignments.neurons_of(joined.place(class).unwrap()).position(|n| n == neuron).unwrap();
            let was = model.decision.assignments.neurons_of(model.place(class).unwrap()).nth(place).unwrap();
            assert_eq!(joined.decision.theta[neuron.index()], model.decision.theta[was.index()]);
            assert!((0..model.network.inputs()).all(|i| joined.network.weight(i, neuron) == model.network.weight(i, was)));
        }

        let class = extra[0];
        let (neurons, (theta, _)) = retrain(&model, &mut corpus, class, &settings, &|| ());
        let places: Vec<NeuronId> = model.decision.assignments.neurons_of(class).collect();
        assert_eq!(neurons.neurons(), 2);
        assert_eq!(model.network.replaced(&places, &neurons), model.network, "retrained neurons are the same");
        assert_eq!(theta, places.iter().map(|p| model.decision.theta[p.index()]).collect::<Vec<_>>());
    }

    #[test]
    fn classes_of_one_stream_can_not_be_calibrated_and_all_streams_are_named() {
        let mut corpus = crossed();
        corpus.streams.truncate(3);
        let fitted = fit(&corpus, &TrainSettings { threads: 1, ..TrainSettings::new(KeyKind::Flow, 1) }, &|_| true, &|| ());
        assert_eq!(fitted.decision.accept, [0.5; 3]);
        let model = fitted.into_model("few", &corpus);
        let of = |s: &crate::train::LabelledStream| model.classifier().classify(corpus.volleys_of(s));
        assert!(corpus.streams.iter().all(|s| of(s).is_some_and(|leader| model.decision.class(&leader).is_some())));
    }

    #[test]
    fn classes_of_one_kind_of_packet_keep_one_neuron() {
        let mut corpus = crossed();
        corpus.streams.retain(|s| s.class < ClassId::new(2));
        corpus.keep_classes(1);
        let fitted = fit(&corpus, &TrainSettings { threads: 2, ..TrainSettings::new(KeyKind::Flow, 1) }, &|_| true, &|| ());
        assert!(fitted.decision.assignments.is_one_each());
        assert_eq!(fitted.network.neurons(), 2);
    }
}
