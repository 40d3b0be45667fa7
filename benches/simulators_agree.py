#!/usr/bin/env python3
"""Comparison of spikes with other simulators: one exported model, the same volleys, the decision of every neuron.

    cargo build --release --features nir
    pip install brian2==2.9.0 snntorch==1.0.0 nir==1.0.8 torch 'numpy<2.3'
    target/release/spiked model export MODEL --nir model.h5
    target/release/spiked features --labels CSV --captures DIR --spikes MODEL > volleys.csv
    python3 benches/simulators_agree.py model.h5 volleys.csv

Each volley starts from rest and lasts one step of NIR's 0.1 ms. A neuron whose potential is within TIE of its threshold is counted as
a tie: NIR spikes above the threshold, spiked from it on, and sums of floats round. Exit 1 on any difference that is not a tie, or with
fewer than 10,000 volleys.
"""

import csv
import sys

import nir
import numpy as np

TIE = 1e-4
LEAST = 10_000
BATCH = 1_000


def brian2_spikes(current, lif):
    """One forward Euler step of the graph's LIF equation in Brian2, every neuron of every volley a neuron of its own."""
    import brian2 as b
    b.prefs.codegen.target = "numpy"
    volleys, neurons = current.shape
    step = float(lif.tau[0])
    b.start_scope()
    group = b.NeuronGroup(
        volleys * neurons,
        """dv/dt = ((v_leak - v) + r * current) / tau : 1
           v_leak : 1
           v_reset : 1
           r : 1
           current : 1
           theta : 1
           tau : second""",
        threshold="v > theta", reset="v = v_reset", method="euler", dt=step * b.second)
    group.v = 0
    for name, values in (("v_leak", lif.v_leak), ("v_reset", lif.v_reset), ("r", lif.r), ("theta", lif.v_threshold)):
        setattr(group, name, np.tile(values, volleys))
    group.tau = np.tile(lif.tau, volleys) * b.second
    group.current = current.ravel()
    monitor = b.SpikeMonitor(group, record=True)
    b.Network(group, monitor).run(step * b.second)
    out = np.zeros(volleys * neurons, bool)
    out[np.asarray(monitor.i)] = True
    return out.reshape(volleys, neurons)


def snntorch_spikes(current, lif):
    """snnTorch's Leaky with the graph's decay and thresholds (its own NIR import allows only one threshold for all neurons)."""
    import snntorch
    import torch
    leaky = snntorch.Leaky(beta=torch.tensor(1 - 1e-4 / lif.tau), threshold=torch.tensor(lif.v_threshold.astype("f8")),
                           reset_mechanism="zero")
    spikes, _ = leaky(torch.tensor(current), torch.zeros(current.shape, dtype=torch.float64))
    return spikes.numpy() > 0


def main():
    graph = nir.read(sys.argv[1])
    affine, lif = graph.nodes["affine"], graph.nodes["lif"]
    columns = np.ascontiguousarray(affine.weight.T)
    csv.field_size_limit(1 << 24)
    with open(sys.argv[2], newline="") as file:
        rows = [(np.array(r["inputs"].split(), int), np.array(r["spikes"].split(), int)) for r in csv.DictReader(file)]
    simulators = {"Brian2": brian2_spikes, "snnTorch": snntorch_spikes}
    differences, at_ties, ties, ours_total = dict.fromkeys(simulators, 0), dict.fromkeys(simulators, 0), 0, 0
    for at in range(0, len(rows), BATCH):
        batch = rows[at:at + BATCH]
        current = np.stack([columns[i].sum(0, dtype="f8") + affine.bias for i, _ in batch])
        ours = np.zeros(current.shape, bool)
        for line, (_, spikes) in zip(ours, batch):
            line[spikes] = True
        tie = np.abs(current - lif.v_threshold) < TIE
        ties += int(tie.sum())
        ours_total += int(ours.sum())
        for name, simulate in simulators.items():
            wrong = simulate(current, lif) != ours
            at_ties[name] += int((wrong & tie).sum())
            differences[name] += int((wrong & ~tie).sum())
    print(f"{len(rows)} volleys x {len(lif.r)} neurons = {len(rows) * len(lif.r)} decisions, {ours_total} spikes, {ties} ties")
    for name in simulators:
        print(f"{name:<10} {differences[name]} differences, and {at_ties[name]} at ties")
    return 1 if any(differences.values()) or len(rows) < LEAST else 0


if __name__ == "__main__":
    sys.exit(main())
