//! Does an exported model say what the model says? Written as NIR by the command, read back as HDF5.
#![cfg(feature = "nir")]

mod common;

use std::path::Path;

use common::spiked;
use spiked::model::Model;

const SHIPPED: &str = "config/models/protocols.safetensors";

#[test]
fn an_exported_graph_holds_the_models_weights_and_thresholds() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("protocols.h5");
    spiked().args(["model", "export", SHIPPED, "--nir"]).arg(&out).assert().code(0);
    let model = Model::load(Path::new(SHIPPED)).unwrap();
    let (neurons, inputs) = (model.network.neurons(), model.network.inputs());
    let file = hdf5_pure::File::open(&out).unwrap();
    let weight = file.dataset("node/nodes/affine/weight").unwrap();
    assert_eq!(weight.shape().unwrap(), [neurons as u64, inputs as u64]);
    let weight = weight.read_f32().unwrap();
    for neuron in 0..neurons {
        for input in 0..inputs {
            let want = f32::from(model.network.weight(input, neuron)) * model.network.gain()[neuron];
            assert_eq!(weight[neuron * inputs + input], want, "neuron {neuron}, input {input}");
        }
    }
    assert_eq!(file.dataset("node/nodes/lif/v_threshold").unwrap().read_f32().unwrap(), model.decision.theta);
    let edges = file.dataset("node/edges").unwrap();
    assert_eq!(edges.shape().unwrap(), [3, 2]);
    assert_eq!(edges.read_string().unwrap(), ["input", "affine", "affine", "lif", "lif", "output"]);
}
