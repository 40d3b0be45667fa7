#!/usr/bin/env python3
"""Comparison of the teacher-gated rule with its equations in Brian2: every presentation is shown to both, and the weights are compared.

    cargo bench --bench rule -- rule.json
    pip install brian2==2.9.0 'numpy<2.3'
    python3 benches/brian2_rule.py rule.json

A presentation is a step: its inputs spike at once, the excite pathway sums the membrane potentials, then the learn pathway changes the
synapses of the inputs that spiked, as the teacher selects. Prints the largest difference between Brian2's weights (float64) and spiked's
(float32); exit 1 if it is above TOLERANCE, in a potential that fires at 1.
"""

import json
import sys

import brian2 as b
import numpy as np

TOLERANCE = 1e-5


def learned(task):
    """The weights that Brian2 learns, averaged over the presentations, inputs x neurons."""
    shown = task["presentations"]
    inputs, neurons = len(task["weights"]), len(task["gains"])
    b.prefs.codegen.target = "numpy"
    step = b.defaultclock.dt = 1 * b.ms
    at = lambda values: b.TimedArray(np.array(values, float), dt=step)
    forced_class, eta = at([p["class"] for p in shown]), at([p["eta"] for p in shown])
    active, when = at([len(p["inputs"]) for p in shown]), at(np.arange(1, len(shown) + 1) / len(shown))
    source = b.SpikeGeneratorGroup(
        inputs, np.concatenate([p["inputs"] for p in shown]),
        np.repeat(np.arange(len(shown)), [len(p["inputs"]) for p in shown]) * step)
    layer = b.NeuronGroup(neurons, """v : 1
                                      forced = int(forced_class(t) == i) : 1
                                      own : 1
                                      other : 1""")
    layer.own, layer.other = np.array(task["gains"]).T
    layer.run_regularly("v = 0", when="end")
    synapses = b.Synapses(source, layer, """w : 1
                                            moment : 1""",
                          on_pre={"excite": "v_post += w", "learn": """
        up = forced_post * int(v_post < theta + margin) * own_post * (1 - w)
        down = (1 - forced_post) * int(v_post > theta - margin) * other_post * (1 + w)
        change = eta(t) / active(t) * (up - down)
        w += change
        moment += when(t) * change"""})
    synapses.connect()
    synapses.learn.order = synapses.excite.order + 1
    network = b.Network(source, layer, synapses)
    network.run(len(shown) * step, namespace=dict(
        forced_class=forced_class, eta=eta, active=active, when=when, theta=task["theta"], margin=task["margin"]))
    weights = np.zeros((inputs, neurons))
    weights[np.asarray(synapses.i), np.asarray(synapses.j)] = np.asarray(synapses.w) - np.asarray(synapses.moment)
    return weights


def main():
    with open(sys.argv[1]) as file:
        task = json.load(file)
    ours, theirs = np.array(task["weights"]), learned(task)
    largest = float(np.abs(ours - theirs).max())
    print(f"{len(task['presentations'])} presentations, {ours.size} synapses, {int((np.abs(ours) > 1e-3).sum())} of them not silent")
    print(f"weights from {ours.min():.3f} to {ours.max():.3f}; largest difference {largest:.2e}")
    return 1 if largest > TOLERANCE else 0


if __name__ == "__main__":
    sys.exit(main())
