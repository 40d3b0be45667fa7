//! Removing classes from models and joining models, which is possible because neurons do not depend on each other.

use super::{MAX_CLASSES, Model};
use crate::episode::EpisodeRule;
use crate::snn::{ClassId, Network, NeuronId};
use crate::stream::Assignments;

/// Why classes cannot be removed or models cannot be joined.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "names of models and classes for the messages")]
pub enum PartsError {
    /// The model does not have the class.
    #[error("{model} has no class '{class}'; `spiked model show` lists its classes")]
    NoSuchClass { model: String, class: String },
    /// No class would remain.
    #[error("{model} would have no class left")]
    NothingLeft { model: String },
    /// The keys or layouts differ, or there are too many classes.
    #[error("{a} and {b} can't be joined: {why}")]
    Incompatible { a: String, b: String, why: &'static str },
    /// Both models have the class.
    #[error("{a} and {b} both have the class '{class}'; remove it from one first")]
    InBoth { a: String, b: String, class: String },
    /// The model already has the class.
    #[error("{model} already has the class '{class}'; remove it first with `spiked model remove`")]
    ClassExists { model: String, class: String },
    /// The model has [`MAX_CLASSES`] classes.
    #[error("{model} already has {MAX_CLASSES} classes, the largest number")]
    Full { model: String },
    /// No packet fires the neuron.
    #[error("no factor makes the neuron fire for its packets: they have too little in common; give fewer packets")]
    NeverFires,
}

/// What the neurons of a class were trained on.
pub struct ClassSources {
    /// Number of streams.
    pub streams: u64,
    /// Number of packets.
    pub packets: u64,
    /// Names of the label files.
    pub labels: Vec<String>,
    /// Number of captures.
    pub captures: usize,
}

impl Model {
    /// This model without some classes. The potentials of the other neurons are unchanged.
    ///
    /// # Errors
    /// If the model does not have one of the classes, or no class remains.
    pub fn without_classes(&self, classes: &[String]) -> Result<Self, PartsError> {
        classes.iter().try_for_each(|class| self.place(class).map(drop))?;
        let kept = self.classes_where(|class| !classes.contains(class));
        if kept.is_empty() {
            return Err(PartsError::NothingLeft { model: self.name.clone() });
        }
        Ok(self.composed(&kept, None))
    }

    /// The classes whose names `chosen` accepts, in order.
    fn classes_where(&self, chosen: impl Fn(&String) -> bool) -> Vec<ClassId> {
        ClassId::first(self.classes.len()).filter(|class| chosen(&self.classes[class.index()])).collect()
    }

    /// A model of the classes `kept` of this one and then all classes of `other`, with their neurons, whose potentials are unchanged.
    fn composed(&self, kept: &[ClassId], other: Option<&Self>) -> Self {
        fn both<T: Clone, I: Copy + Into<usize>>(mine: &[T], kept: &[I], theirs: Option<&Vec<T>>) -> Vec<T> {
            let mine = kept.iter().map(|&i| mine[i.into()].clone());
            mine.chain(theirs.into_iter().flatten().cloned()).collect()
        }
        let mut model = self.clone();
        let own = &self.decision;
        let place = |class: ClassId| kept.iter().position(|&k| k == class).map(ClassId::from_index);
        let assigned = own.assignments.classes_of_neurons();
        let extra = NeuronId::first(assigned.len()).zip(assigned).skip(own.assignments.classes());
        let (extra_neurons, mut extra): (Vec<NeuronId>, Vec<ClassId>) =
            extra.filter_map(|(neuron, &class)| Some((neuron, place(class)?))).unzip();
        let neurons: Vec<NeuronId> = kept.iter().map(|class| NeuronId::from_index(class.index())).chain(extra_neurons).collect();
        model.network = self.network.joined(&neurons, other.map(|o| &o.network));
        model.decision.theta = both(&own.theta, &neurons, other.map(|o| &o.decision.theta));
        let mut classes = kept.len();
        if let Some(other) = other {
            // The first neurons of all classes come before the extra neurons of any.
            let (first, all, theirs) = (kept.len(), neurons.len(), neurons.len() + other.classes.len());
            if first < all {
                let order = [0..first, all..theirs, first..all, theirs..all + other.network.neurons()];
                let order: Vec<NeuronId> = order.into_iter().flatten().map(NeuronId::from_index).collect();
                model.network = model.network.joined(&order, None);
                model.decision.theta = both(&model.decision.theta, &order, None);
            }
            classes += other.classes.len();
            extra.extend(other.decision.assignments.extra().iter().map(|class| ClassId::from_index(first + class.index())));
        }
        model.decision.assignments = Assignments::new(classes, extra).expect("both models' neurons have classes");
        model.classes = both(&self.classes, kept, other.map(|o| &o.classes));
        model.decision.accept = both(&own.accept, kept, other.map(|o| &o.decision.accept));
        let own = self.episodes.iter().filter_map(|rule| Some(EpisodeRule { class: place(rule.class)?, ..rule.clone() }));
        let others = other.into_iter().flat_map(|o| &o.episodes);
        let theirs =
            others.map(|rule| EpisodeRule { class: ClassId::from_index(kept.len() + rule.class.index()), ..rule.clone() });
        model.episodes = own.chain(theirs).collect();
        let (provenance, from) = (&mut model.provenance, other.map(|o| &o.provenance));
        provenance.streams = both(&self.provenance.streams, kept, from.map(|p| &p.streams));
        provenance.packets = both(&self.provenance.packets, kept, from.map(|p| &p.packets));
        model
    }

    /// This model with as many other neurons for a class, with their thresholds, and with another `accept` of the class. The potentials of the
    /// other neurons are unchanged.
    ///
    /// # Errors
    /// If the model does not have the class.
    pub fn with_neurons(
        &self,
        class: &str,
        neurons: &Network,
        (theta, accept): (&[f32], f32),
        sources: ClassSources,
    ) -> Result<Self, PartsError> {
        let at = self.place(class)?;
        let mut model = self.clone();
        let places: Vec<NeuronId> = self.decision.assignments.neurons_of(at).collect();
        model.network = self.network.replaced(&places, neurons);
        places.iter().zip(theta).for_each(|(&place, &theta)| model.decision.theta[place.index()] = theta);
        let at = at.index();
        model.decision.accept[at] = accept;
        let p = &mut model.provenance;
        (p.streams[at], p.packets[at]) = (sources.streams, sources.packets);
        let new: Vec<String> = sources.labels.into_iter().filter(|l| !p.labels.contains(l)).collect();
        if !new.is_empty() {
            p.captures += sources.captures;
            p.labels.extend(new);
        }
        Ok(model)
    }

    /// The class with a name.
    ///
    /// # Errors
    /// If the model does not have the class.
    pub fn place(&self, class: &str) -> Result<ClassId, PartsError> {
        let missing = || PartsError::NoSuchClass { model: self.name.clone(), class: class.into() };
        self.classes.iter().position(|c| c == class).map(ClassId::from_index).ok_or_else(missing)
    }

    fn incompatible(&self, other: &Self, why: &'static str) -> PartsError {
        PartsError::Incompatible { a: self.name.clone(), b: other.name.clone(), why }
    }

    /// # Errors
    /// If the neurons of `other` cannot be joined with those of `kept` classes of this model.
    fn check_compatible(&self, other: &Self, kept: usize) -> Result<(), PartsError> {
        if self.key != other.key {
            return Err(self.incompatible(other, "one knows flows, the other hosts"));
        }
        if self.layout != other.layout {
            return Err(self.incompatible(other, "their layouts differ (--payload when training)"));
        }
        if kept + other.classes.len() > MAX_CLASSES {
            return Err(self.incompatible(other, "together they have too many classes"));
        }
        Ok(())
    }

    /// A model with the neurons of both. Thresholds are unchanged. The weights of the confidence are averaged, each model weighted by its number
    /// of classes. The bounds of one packet's evidence are those of the model with more classes.
    ///
    /// # Errors
    /// If the models have different keys or layouts, or a class in common.
    pub fn join(&self, other: &Self) -> Result<Self, PartsError> {
        self.check_compatible(other, self.classes.len())?;
        if let Some(class) = self.classes.iter().find(|c| other.classes.contains(c)) {
            return Err(PartsError::InBoth { a: self.name.clone(), b: other.name.clone(), class: class.clone() });
        }
        let all = self.classes_where(|_| true);
        let mut model = self.composed(&all, Some(other));
        let (decision, from) = (&mut model.decision, &other.decision);
        if let Some((holds, _)) = self.differing_bounds(other) {
            (decision.clip, decision.slope) = (holds.decision.clip, holds.decision.slope);
        }
        let (a, b) = (self.classes.len() as f32, other.classes.len() as f32);
        // Missing weights are zero.
        let weights = decision.confidence.len().max(from.confidence.len());
        let weight = |of: &[f32], i: usize| of.get(i).copied().unwrap_or(0.0);
        decision.confidence =
            (0..weights).map(|i| (weight(&decision.confidence, i) * a + weight(&from.confidence, i) * b) / (a + b)).collect();
        decision.content_first |= from.content_first;
        decision.stop_confidence = decision.stop_confidence.max(from.stop_confidence);
        decision.max_packets = decision.max_packets.max(from.max_packets);
        let (provenance, from) = (&mut model.provenance, &other.provenance);
        provenance.labels.extend_from_slice(&from.labels);
        provenance.captures += from.captures;
        Ok(model)
    }

    /// If the models have different bounds of one packet's evidence: the model whose bounds the joined model has, and the other.
    pub fn differing_bounds<'a>(&'a self, other: &'a Self) -> Option<(&'a Self, &'a Self)> {
        let alike = (self.decision.clip, self.decision.slope) == (other.decision.clip, other.decision.slope);
        let larger = if other.classes.len() > self.classes.len() { (other, self) } else { (self, other) };
        (!alike).then_some(larger)
    }

    /// This model with the classes of `part`, which replace those of the same names and come last, in the order of `part`. The potentials of the
    /// other neurons and the weights of the confidence are unchanged.
    ///
    /// # Errors
    /// If `part` has another key or layout, or there are too many classes.
    pub fn with_part(&self, part: &Self) -> Result<Self, PartsError> {
        let kept = self.classes_where(|class| !part.classes.contains(class));
        self.check_compatible(part, kept.len())?;
        Ok(self.composed(&kept, Some(part)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_models_have_the_bounds_of_the_one_with_more_classes() {
        let whole = Model::built_in().unwrap();
        let (first, second) = whole.classes.split_at(40);
        let (large, mut small) = (whole.without_classes(first).unwrap(), whole.without_classes(second).unwrap());
        (small.decision.clip, small.decision.slope) = ((-0.7, 1.0), 0.5);
        for joined in [large.join(&small).unwrap(), small.join(&large).unwrap()] {
            assert_eq!((joined.decision.clip, joined.decision.slope), (whole.decision.clip, whole.decision.slope));
        }
        assert!(small.differing_bounds(&large).is_some() && large.differing_bounds(&whole).is_none());
    }

    #[test]
    fn joined_parts_are_the_whole() {
        let whole = Model::built_in().unwrap();
        let (first, second) = whole.classes.split_at(40);
        let (a, b) = (whole.without_classes(second).unwrap(), whole.without_classes(first).unwrap());
        assert_eq!(a.classes, first);
        let joined = a.join(&b).unwrap();
        assert_eq!((&joined.network, &joined.classes), (&whole.network, &whole.classes));
        assert_eq!((&joined.decision.theta, &joined.decision.accept), (&whole.decision.theta, &whole.decision.accept));
        let differ = joined.decision.confidence.iter().zip(&whole.decision.confidence).map(|(a, b)| (a - b).abs());
        assert!(differ.fold(0.0, f32::max) < 1e-4);
        assert!(matches!(a.join(&whole), Err(PartsError::InBoth { .. })));
        assert!(matches!(whole.without_classes(&["nonsense".into()]), Err(PartsError::NoSuchClass { .. })));
        assert!(matches!(whole.without_classes(&whole.classes), Err(PartsError::NothingLeft { .. })));
    }
}
