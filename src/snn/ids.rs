//! Index types of classes and neurons.

use crate::typed_index::typed_index;

typed_index! {
    /// A class, by its position among the classes of a model, a corpus or a label file.
    ClassId(u16)
}

typed_index! {
    /// An output neuron, by its position in its [`Network`](super::Network).
    NeuronId(u32)
}
