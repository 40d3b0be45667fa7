//! Similarity of classes, by the excitatory weights of their neurons.
//!
//! Inhibitory weights are left out: training makes a neuron inhibit exactly the inputs by which it differs from a similar one.

use crate::model::Model;
use crate::snn::{ClassId, NeuronId};

/// For each class the most similar other class, and the largest cosine between the excitatory weights of a neuron of each, 0 to 1. `None` if no
/// cosine is above 0.
pub fn nearest_by_weight(model: &Model) -> Vec<Option<(ClassId, f64)>> {
    let neurons = model.network.neurons();
    let (start, neuron, weight) = model.network.sparse();
    let mut products = vec![0f64; neurons * neurons];
    for row in start.windows(2) {
        let row = row[0] as usize..row[1] as usize;
        for i in row.clone() {
            for j in i..row.end {
                products[neuron[i] as usize * neurons + neuron[j] as usize] +=
                    f64::from(i32::from(weight[i]) * i32::from(weight[j]));
            }
        }
    }
    let length = |n: usize| products[n * neurons + n].sqrt();
    let cosine = |a: NeuronId, b: NeuronId| {
        let (a, b) = (a.index(), b.index());
        let lengths = length(a) * length(b);
        if lengths > 0.0 { products[a.min(b) * neurons + a.max(b)] / lengths } else { 0.0 }
    };
    let assignments = &model.decision.assignments;
    ClassId::first(model.classes.len())
        .map(|class| {
            let others = NeuronId::first(neurons).filter(|&b| assignments.class_of(b) != class);
            let pairs = others.flat_map(|b| assignments.neurons_of(class).map(move |a| (a, b)));
            let others = pairs.map(|(a, b)| (assignments.class_of(b), cosine(a, b)));
            others.max_by(|x, y| x.1.total_cmp(&y.1)).filter(|x| x.1 > 0.0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snn::Network;

    #[test]
    fn the_neuron_of_the_same_direction_is_nearest() {
        let mut model = Model::built_in().unwrap();
        model.classes = ["a", "b", "c", "d"].map(String::from).to_vec();
        let weights = [1i8, 2, -1, 0, 2, 3, -2, 0, 0, 1, 100, 0];
        model.network = Network::from_parts(3, 4, &weights, vec![1.0; 4]);
        let nearest = nearest_by_weight(&model);
        let (b, cosine) = nearest[0].unwrap();
        assert!(b == ClassId::new(1) && (cosine - 8.0 / (5f64.sqrt() * 14f64.sqrt())).abs() < 1e-9);
        assert_eq!(nearest[1].unwrap().0, ClassId::new(0));
        assert_eq!(nearest[3], None, "a neuron without weights is similar to none");
    }
}
