//! How do other simulators run a model? As a NIR graph (HDF5): Input -> Affine -> LIF -> Output, readable with the `nir` package.
//!
//! The weights are dequantised (weight times gain, one row a neuron), the bias is zero, `v_threshold` is theta. `tau` is the step that
//! NIR's readers take by default, 0.1 ms, and `r` is one: a forward Euler step of `tau v' = (v_leak - v) + r I` over that time from
//! rest gives v = I, the sum of the active weights, which is what [`crate::snn`] scores. Later steps don't occur: each volley starts
//! from rest. NIR spikes where v > v_threshold, we where v >= theta: they differ where a potential meets its threshold exactly.

use std::path::Path;

use hdf5_pure::FileBuilder;

use super::{Model, ModelError};
use crate::atomic_write::replace;
use crate::snn::NeuronId;

/// Seconds of a step, and the time constant.
const STEP: f64 = 1e-4;

impl Model {
    /// The model's network as a NIR graph, a whole HDF5 file.
    ///
    /// # Errors
    /// Where the graph can't be made into a file.
    pub fn to_nir(&self) -> Result<Vec<u8>, hdf5_pure::Error> {
        let (neurons, inputs) = (self.network.neurons(), self.network.inputs());
        let weight: Vec<f32> = NeuronId::first(neurons)
            .flat_map(|n| (0..inputs).map(move |i| f32::from(self.network.weight(i, n)) * self.network.scale()[n.index()]))
            .collect();
        let (ones, zeros) = (vec![1f32; neurons], vec![0f32; neurons]);
        let (wide, high) = ([inputs as i64], [neurons as i64]);

        let mut file = FileBuilder::new();
        file.create_dataset("version").with_vlen_strings(&["1.0"]).with_shape(&[]);
        let mut node = file.create_group("node");
        node.create_dataset("type").with_vlen_strings(&["NIRGraph"]).with_shape(&[]);
        let edges = ["input", "affine", "affine", "lif", "lif", "output"];
        node.create_dataset("edges").with_vlen_strings(&edges).with_shape(&[3, 2]);
        let mut nodes = node.create_group("nodes");
        for (name, kind, shape) in [("input", "Input", &wide), ("output", "Output", &high)] {
            let mut end = nodes.create_group(name);
            end.create_dataset("type").with_vlen_strings(&[kind]).with_shape(&[]);
            end.create_dataset("shape").with_i64_data(shape);
            nodes.add_group(end.finish());
        }
        let mut affine = nodes.create_group("affine");
        affine.create_dataset("type").with_vlen_strings(&["Affine"]).with_shape(&[]);
        let shape = [neurons as u64, inputs as u64];
        // Contiguous: libhdf5 refuses the chunks of rows that hdf5-pure 0.47 writes.
        affine.create_dataset("weight").with_f32_data(&weight).with_shape(&shape);
        affine.create_dataset("bias").with_f32_data(&zeros);
        nodes.add_group(affine.finish());
        let mut lif = nodes.create_group("lif");
        lif.create_dataset("type").with_vlen_strings(&["LIF"]).with_shape(&[]);
        lif.create_dataset("tau").with_f64_data(&vec![STEP; neurons]);
        let theta = self.decision.theta.as_slice();
        for (name, values) in [("r", &*ones), ("v_leak", &zeros), ("v_reset", &zeros), ("v_threshold", theta)] {
            lif.create_dataset(name).with_f32_data(values);
        }
        nodes.add_group(lif.finish());
        node.add_group(nodes.finish());
        file.add_group(node.finish());
        file.finish()
    }

    /// Writes [`Model::to_nir`], whole or not at all, as [`Model::save`] does.
    ///
    /// # Errors
    /// Where the folder can't be written; the old file is then as it was.
    pub fn save_nir(&self, path: &Path) -> Result<(), ModelError> {
        let broken = |source| ModelError::Write { path: path.into(), source };
        let bytes = self.to_nir().map_err(|e| broken(std::io::Error::other(e)))?;
        replace(path, 0o644, &bytes).map_err(broken)
    }
}
