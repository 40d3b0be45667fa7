//! Export of a model to other simulators as a NIR graph in an HDF5 file: Input -> Affine -> LIF -> Output, readable with the `nir` package.
//!
//! The weights are dequantised (weight times scale, one row per neuron), the bias is zero, `v_threshold` is theta. `tau` is the default step of
//! NIR's readers, 0.1 ms, and `r` is one: a forward Euler step of `tau v' = (v_leak - v) + r I` over that time from the resting potential yields
//! v = I, the sum of the active weights, as [`crate::snn`] computes. There are no later steps: each volley starts from the resting potential.
//! NIR neurons spike if v > v_threshold, those of this program if v >= theta: they differ if a potential equals its threshold.

use std::path::Path;

use hdf5_pure::FileBuilder;

use super::{Model, ModelError};
use crate::atomic_write::replace;
use crate::snn::NeuronId;

/// Step and time constant in seconds.
const STEP: f64 = 1e-4;

impl Model {
    /// The bytes of an HDF5 file with the model's network as a NIR graph.
    ///
    /// # Errors
    /// If the HDF5 library cannot write the graph.
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
        // Contiguous, because libhdf5 rejects the chunks of rows that hdf5-pure 0.47 writes.
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

    /// Writes the file of [`Model::to_nir`] atomically, as [`Model::save`] does.
    ///
    /// # Errors
    /// If the folder cannot be written to; the old file is then unchanged.
    pub fn save_nir(&self, path: &Path) -> Result<(), ModelError> {
        let broken = |source| ModelError::Write { path: path.into(), source };
        let bytes = self.to_nir().map_err(|e| broken(std::io::Error::other(e)))?;
        replace(path, 0o644, &bytes).map_err(broken)
    }
}
