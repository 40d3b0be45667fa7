//! Tests of the NIR export: the exported graph, read back as HDF5, has the weights and thresholds of the model.

use std::path::Path;
use std::process::Command;

use crate::common::{skip, spiked};
use spiked::model::Model;
use spiked::snn::NeuronId;

const SHIPPED: &str = "config/models/protocols.safetensors";

#[test]
fn an_exported_graph_has_the_weights_and_thresholds_of_the_model() {
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
            let want = f32::from(model.network.weight(input, NeuronId::from_index(neuron))) * model.network.scale()[neuron];
            assert_eq!(weight[neuron * inputs + input], want, "neuron {neuron}, input {input}");
        }
    }
    assert_eq!(file.dataset("node/nodes/lif/v_threshold").unwrap().read_f32().unwrap(), model.decision.theta);
    let edges = file.dataset("node/edges").unwrap();
    assert_eq!(edges.shape().unwrap(), [3, 2]);
    assert_eq!(edges.read_string().unwrap(), ["input", "affine", "affine", "lif", "lif", "output"]);
}

#[test]
fn libhdf5_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("protocols.h5");
    spiked().args(["model", "export", SHIPPED, "--nir"]).arg(&out).assert().code(0);
    let program = "import sys, h5py\nnodes = h5py.File(sys.argv[1])['node/nodes']\n\
        print(nodes['affine/weight'][:].sum(dtype='f8'), nodes['lif/type'].asstr()[()], sorted(nodes))";
    // Debian's own Python: the package is python3-h5py.
    let output = match Command::new("/usr/bin/python3").args(["-c", program]).arg(&out).output() {
        Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("No module named 'h5py'") => output,
        _ => return skip("/usr/bin/python3 with h5py (Debian package python3-h5py)"),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (sum, rest) = text.split_once(' ').unwrap();
    let model = Model::load(Path::new(SHIPPED)).unwrap();
    let gain = model.network.scale();
    let want: f64 = (0..model.network.inputs())
        .flat_map(|i| (0..gain.len()).map(move |n| (i, n)))
        .map(|(i, n)| f64::from(f32::from(model.network.weight(i, NeuronId::from_index(n))) * gain[n]))
        .sum();
    assert!((sum.parse::<f64>().unwrap() - want).abs() < 1e-6 * want.abs(), "{sum}, {want}");
    assert_eq!(rest.trim_end(), "LIF ['affine', 'input', 'lif', 'output']");
}

#[test]
fn an_export_that_fails_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("old.h5");
    std::fs::create_dir(&out).unwrap();
    spiked().args(["model", "export", SHIPPED, "--nir"]).arg(&out).assert().failure();
    assert!(out.is_dir());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays behind");
}
