//! Assignment of neurons to classes.
//!
//! A network has one neuron for each class first, in the order of the classes, so that margins are added to the evidence column by column.
//! Extra neurons of some classes follow.

use crate::snn::{ClassId, NeuronId};

/// The class of each neuron, in the order of the network. Every class has at least one neuron.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignments {
    /// Class of each neuron, `[neuron]`; the first `classes` are 0, 1, 2, ...
    of: Vec<ClassId>,
    /// Number of classes. The first neuron of each has the number of the class.
    classes: usize,
}

/// Why neurons cannot be assigned to classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentError {
    /// More classes than [`ClassId`] can number.
    #[error("{0} classes are more than can be numbered")]
    TooMany(usize),
    /// An extra neuron of a class that does not exist, and the number of classes.
    #[error("a neuron is of class {0}, and there are {1} classes")]
    NoSuchClass(ClassId, usize),
}

impl Assignments {
    /// One neuron for each class, then one for each class in `extra`.
    ///
    /// # Errors
    /// If an extra neuron is of a class that does not exist, or there are more classes than can be numbered.
    pub fn new(classes: usize, extra: impl IntoIterator<Item = ClassId>) -> Result<Self, AssignmentError> {
        if classes > 1 << u16::BITS {
            return Err(AssignmentError::TooMany(classes));
        }
        let of: Vec<ClassId> = ClassId::first(classes).chain(extra).collect();
        match of[classes..].iter().find(|class| class.index() >= classes) {
            Some(&class) => Err(AssignmentError::NoSuchClass(class, classes)),
            None => Ok(Self { of, classes }),
        }
    }

    /// One neuron for each class.
    ///
    /// # Panics
    /// If there are more than 2^16 classes.
    pub fn one_each(classes: usize) -> Self {
        Self { of: ClassId::first(classes).collect(), classes }
    }

    /// These assignments over more classes: each new one has one neuron, placed after the first neurons of the others.
    #[must_use]
    pub fn widened(&self, classes: usize) -> Self {
        let classes = classes.max(self.classes);
        Self { of: ClassId::first(classes).chain(self.extra().iter().copied()).collect(), classes }
    }

    /// The class of a neuron.
    ///
    /// # Panics
    /// If the network does not have the neuron.
    pub fn class_of(&self, neuron: NeuronId) -> ClassId {
        self.of[neuron.index()]
    }

    /// The first neuron of a class.
    pub fn first_of(&self, class: ClassId) -> NeuronId {
        NeuronId::from_index(class.index())
    }

    /// The neurons of a class.
    pub fn neurons_of(&self, class: ClassId) -> impl Iterator<Item = NeuronId> {
        let extra = (self.classes..).zip(self.extra()).filter(move |(_, c)| **c == class);
        std::iter::once(self.first_of(class)).chain(extra.map(|(neuron, _)| NeuronId::from_index(neuron)))
    }

    /// The class of each neuron, in the order of the network.
    pub fn classes_of_neurons(&self) -> &[ClassId] {
        &self.of
    }

    /// The classes of the extra neurons: those after the first of each class.
    #[inline(always)]
    pub fn extra(&self) -> &[ClassId] {
        &self.of[self.classes..]
    }

    /// Whether every class has one neuron.
    pub fn is_one_each(&self) -> bool {
        self.of.len() == self.classes
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Number of neurons.
    pub fn neurons(&self) -> usize {
        self.of.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_neurons_come_in_the_order_of_the_classes_and_extra_ones_after_them() {
        let assignments = Assignments::new(3, [2, 0].map(ClassId::new)).unwrap();
        assert_eq!(assignments.classes_of_neurons(), [0, 1, 2, 2, 0].map(ClassId::new));
        assert_eq!(assignments.neurons_of(ClassId::new(0)).collect::<Vec<_>>(), [0, 4].map(NeuronId::new));
        assert_eq!(assignments.class_of(NeuronId::new(3)), ClassId::new(2));
        let wide = assignments.widened(4);
        assert_eq!(wide.classes_of_neurons(), [0, 1, 2, 3, 2, 0].map(ClassId::new));
        assert_eq!(wide.neurons_of(ClassId::new(0)).collect::<Vec<_>>(), [0, 5].map(NeuronId::new));
    }

    #[test]
    fn a_class_without_a_first_neuron_is_refused() {
        let error = Assignments::new(2, [ClassId::new(2)]).unwrap_err();
        assert_eq!(error, AssignmentError::NoSuchClass(ClassId::new(2), 2));
        assert_eq!(Assignments::new(70_000, []).unwrap_err(), AssignmentError::TooMany(70_000));
    }
}
