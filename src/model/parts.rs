//! Models as parts: neurons are independent, so they can be taken out of a model or put side by side.

use super::{MAX_CLASSES, Model};
use crate::snn::{ClassId, Network, NeuronId};
use crate::stream::Assignments;

/// Why models can't be taken apart or joined.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    #[error("{model} has no class '{class}'; `spiked model show` lists its classes")]
    NoSuchClass { model: String, class: String },
    #[error("{model} would have no class left")]
    NothingLeft { model: String },
    #[error("{a} and {b} can't be joined: {why}")]
    Unlike { a: String, b: String, why: &'static str },
    #[error("{a} and {b} both have the class '{class}'; remove it from one first")]
    Twice { a: String, b: String, class: String },
    #[error("{model} already has the class '{class}'; take it out first with `spiked model remove`")]
    Known { model: String, class: String },
    #[error("{model} has {MAX_CLASSES} classes, which is the most")]
    Full { model: String },
    #[error("no factor makes the neuron fire for what it was shown: the packets have too little in common; show fewer")]
    Mute,
}

/// What a neuron was taught from.
pub struct ClassSources {
    pub streams: u64,
    pub packets: u64,
    /// Label files, by name.
    pub labels: Vec<String>,
    pub captures: usize,
}

impl Model {
    /// This model without some classes. The neurons that stay say what they said.
    ///
    /// # Errors
    /// A class that it does not have, or none left.
    pub fn without_classes(&self, classes: &[String]) -> Result<Self, PartsError> {
        classes.iter().try_for_each(|class| self.place(class).map(drop))?;
        let kept = self.classes_where(|class| !classes.contains(class));
        if kept.is_empty() {
            return Err(PartsError::NothingLeft { model: self.name.clone() });
        }
        Ok(self.composed(&kept, None))
    }

    /// The classes whose name `chosen` admits, in their order.
    fn classes_where(&self, chosen: impl Fn(&String) -> bool) -> Vec<ClassId> {
        ClassId::first(self.classes.len()).filter(|class| chosen(&self.classes[class.index()])).collect()
    }

    /// Some of this model's classes, then all of `other`'s, with their neurons: each says what it said.
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
            // The first neurons of all classes come before the second ones of any.
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
        let (provenance, from) = (&mut model.provenance, other.map(|o| &o.provenance));
        provenance.streams = both(&self.provenance.streams, kept, from.map(|p| &p.streams));
        provenance.packets = both(&self.provenance.packets, kept, from.map(|p| &p.packets));
        model
    }

    /// This model with other neurons for a class, as many as it had, their thresholds, and its acceptance. The other neurons say what
    /// they said.
    ///
    /// # Errors
    /// A class that it does not have.
    pub fn with_neurons(
        &self,
        class: &str,
        neurons: &Network,
        (theta, accept): (&[f32], f32),
        taught: ClassSources,
    ) -> Result<Self, PartsError> {
        let at = self.place(class)?;
        let mut model = self.clone();
        let places: Vec<NeuronId> = self.decision.assignments.neurons_of(at).collect();
        model.network = self.network.replaced(&places, neurons);
        places.iter().zip(theta).for_each(|(&place, &theta)| model.decision.theta[place.index()] = theta);
        let at = at.index();
        model.decision.accept[at] = accept;
        let p = &mut model.provenance;
        (p.streams[at], p.packets[at]) = (taught.streams, taught.packets);
        let new: Vec<String> = taught.labels.into_iter().filter(|l| !p.labels.contains(l)).collect();
        if !new.is_empty() {
            p.captures += taught.captures;
            p.labels.extend(new);
        }
        Ok(model)
    }

    /// The number of a class.
    ///
    /// # Errors
    /// A class that it does not have.
    pub fn place(&self, class: &str) -> Result<ClassId, PartsError> {
        let missing = || PartsError::NoSuchClass { model: self.name.clone(), class: class.into() };
        self.classes.iter().position(|c| c == class).map(ClassId::from_index).ok_or_else(missing)
    }

    fn unlike(&self, other: &Self, why: &'static str) -> PartsError {
        PartsError::Unlike { a: self.name.clone(), b: other.name.clone(), why }
    }

    /// Whether the neurons of `other` can stand beside `kept` of this model's.
    fn fits(&self, other: &Self, kept: usize) -> Result<(), PartsError> {
        if self.key != other.key {
            return Err(self.unlike(other, "one knows flows, the other hosts"));
        }
        if self.layout != other.layout {
            return Err(self.unlike(other, "their layouts differ (--payload when training)"));
        }
        if kept + other.classes.len() > MAX_CLASSES {
            return Err(self.unlike(other, "together they have too many classes"));
        }
        Ok(())
    }

    /// The neurons of both models side by side. Thresholds stay as they are; the weights that make evidence into confidence are
    /// averaged, each model counting as many times as it has classes. The bounds of one packet's evidence are those of the model that
    /// has more classes.
    ///
    /// # Errors
    /// Models of another key or layout, or with a class in common.
    pub fn join(&self, other: &Self) -> Result<Self, PartsError> {
        self.fits(other, self.classes.len())?;
        if let Some(class) = self.classes.iter().find(|c| other.classes.contains(c)) {
            return Err(PartsError::Twice { a: self.name.clone(), b: other.name.clone(), class: class.clone() });
        }
        let all = self.classes_where(|_| true);
        let mut model = self.composed(&all, Some(other));
        let (decision, from) = (&mut model.decision, &other.decision);
        if let Some((holds, _)) = self.other_bounds(other) {
            (decision.clip, decision.slope) = (holds.decision.clip, holds.decision.slope);
        }
        let (a, b) = (self.classes.len() as f32, other.classes.len() as f32);
        // A weight that a model does not have is zero.
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

    /// Where they bound the evidence of one packet differently: the model whose bounds hold when they are joined, and the other.
    pub fn other_bounds<'a>(&'a self, other: &'a Self) -> Option<(&'a Self, &'a Self)> {
        let alike = (self.decision.clip, self.decision.slope) == (other.decision.clip, other.decision.slope);
        let larger = if other.classes.len() > self.classes.len() { (other, self) } else { (self, other) };
        (!alike).then_some(larger)
    }

    /// This model with the neurons of `part`, each in the place of the one for its class where there is one. All else is as it was:
    /// the other neurons say what they said, and confidence is made as before. The classes of `part` come last, in its order.
    ///
    /// # Errors
    /// A part of another key or layout, or too many classes.
    pub fn with_part(&self, part: &Self) -> Result<Self, PartsError> {
        let kept = self.classes_where(|class| !part.classes.contains(class));
        self.fits(part, kept.len())?;
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
        assert!(small.other_bounds(&large).is_some() && large.other_bounds(&whole).is_none());
    }

    #[test]
    fn parts_put_together_again_are_the_whole() {
        let whole = Model::built_in().unwrap();
        let (first, second) = whole.classes.split_at(40);
        let (a, b) = (whole.without_classes(second).unwrap(), whole.without_classes(first).unwrap());
        assert_eq!(a.classes, first);
        let joined = a.join(&b).unwrap();
        assert_eq!((&joined.network, &joined.classes), (&whole.network, &whole.classes));
        assert_eq!((&joined.decision.theta, &joined.decision.accept), (&whole.decision.theta, &whole.decision.accept));
        let differ = joined.decision.confidence.iter().zip(&whole.decision.confidence).map(|(a, b)| (a - b).abs());
        assert!(differ.fold(0.0, f32::max) < 1e-4);
        assert!(matches!(a.join(&whole), Err(PartsError::Twice { .. })));
        assert!(matches!(whole.without_classes(&["nonsense".into()]), Err(PartsError::NoSuchClass { .. })));
        assert!(matches!(whole.without_classes(&whole.classes), Err(PartsError::NothingLeft { .. })));
    }
}
