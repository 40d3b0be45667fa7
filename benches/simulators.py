#!/usr/bin/env python3
"""Patterns per second of the network alone, compared with spiking simulators: 1,024 inputs, 64 neurons, 256 inputs active.

    pip install brian2==2.9.0 'numpy<2.3' nest-simulator snntorch==1.0.0 torch
    cargo bench --bench stages -- network
    python3 benches/simulators.py [--rounds 3] [--only NAME]

spiked's figure is the median that the bench left in target/criterion. Each simulator gets the same work in the form that suits it
best: one time step a pattern, one thread, the state set back after each pattern, no recording; Brian2 as generated C++ (standalone, without
the time to compile), NEST with delta-shaped currents, snnTorch in batches of 256. Simulators that are not installed are skipped and reported.
"""
import argparse
import json
import os
import pathlib
import tempfile
import time

INPUTS, NEURONS, ACTIVE = 1024, 64, 256


def patterns(count):
    import numpy as np
    random = np.random.default_rng(1)
    return np.array([random.permutation(INPUTS)[:ACTIVE] for _ in range(count)])


def weights():
    import numpy as np
    return np.random.default_rng(2).integers(-127, 128, (INPUTS, NEURONS)) / 127.0


def spiked():
    """The median of the criterion bench, in seconds for all its patterns."""
    folder = pathlib.Path(__file__).resolve().parent.parent
    found = sorted(folder.glob("target/criterion/network/*/new"))
    if not found:
        raise ImportError("run `cargo bench --bench stages -- network` first")
    nanoseconds = json.loads((found[-1] / "estimates.json").read_text())["median"]["point_estimate"]
    count = json.loads((found[-1] / "benchmark.json").read_text())["throughput"]["Elements"]
    return count * 1e9 / nanoseconds


def brian2():
    import brian2 as b
    shown = patterns(20_000)
    with tempfile.TemporaryDirectory() as folder:
        b.set_device("cpp_standalone", directory=folder, build_on_run=False)
        b.defaultclock.dt = 1 * b.ms
        times = [i for i in range(len(shown)) for _ in range(ACTIVE)]
        source = b.SpikeGeneratorGroup(INPUTS, shown.flatten(), times * b.ms)
        group = b.NeuronGroup(NEURONS, "v : 1", threshold="v > 20", reset="v = 0")
        group.run_regularly("v = 0", when="before_synapses")
        synapses = b.Synapses(source, group, "w : 1", on_pre="v_post += w")
        synapses.connect()
        synapses.w = weights().flatten()
        b.run(len(shown) * b.ms)
        b.device.build(directory=folder, compile=True, run=True, debug=False)
        return len(shown) / b.device._last_run_time


def nest():
    os.environ.setdefault("PYNEST_QUIET", "1")
    import nest
    shown = patterns(2_000)
    nest.set_verbosity("M_ERROR")
    nest.ResetKernel()
    nest.resolution = 1.0
    times = [[] for _ in range(INPUTS)]
    for step, active in enumerate(shown, 1):
        for i in active:
            times[i].append(float(step))
    sources = nest.Create("spike_generator", INPUTS, [{"spike_times": t} for t in times])
    # A membrane that forgets within the step: each pattern finds it at rest.
    neurons = nest.Create("iaf_psc_delta", NEURONS, {"tau_m": 0.01, "t_ref": 0.0, "E_L": 0.0, "V_reset": 0.0, "V_m": 0.0, "V_th": 20.0})
    nest.Connect(sources, neurons, "all_to_all", {"weight": weights().T, "delay": 1.0})
    nest.Simulate(1.0)
    start = time.perf_counter()
    nest.Simulate(float(len(shown)))
    return len(shown) / (time.perf_counter() - start)


def snntorch():
    import snntorch as snn
    import torch
    torch.set_num_threads(1)
    batch, shown = 256, patterns(256 * 40)
    dense = torch.zeros(len(shown), INPUTS)
    dense.scatter_(1, torch.from_numpy(shown), 1.0)
    layer = torch.nn.Linear(INPUTS, NEURONS, bias=False)
    layer.weight.data = torch.tensor(weights().T, dtype=torch.float32).contiguous()
    leaky = snn.Leaky(beta=0.9, threshold=20.0)
    best = 0
    with torch.no_grad():
        for _ in range(20):
            start = time.perf_counter()
            for at in range(0, len(shown), batch):
                leaky(layer(dense[at:at + batch]), torch.zeros(batch, NEURONS))
            best = max(best, len(shown) / (time.perf_counter() - start))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["brian2", "nest", "snntorch"])
    options = parser.parse_args()
    own = spiked()
    print(f"{'':<28} {'patterns/s':>12} {'speed-up of spiked':>32}")
    print(f"{'spiked, one thread':<28} {own:>12,.0f}")
    for name, run in (("Brian2, C++ standalone", brian2), ("NEST", nest), ("snnTorch, batches of 256", snntorch)):
        if options.only not in (None, run.__name__):
            continue
        # Each round in a process of its own: simulators keep state.
        rates = []
        for _ in range(options.rounds):
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reader)
                quiet = os.open(os.devnull, os.O_WRONLY)
                os.dup2(quiet, 1)
                try:
                    answer = str(run())
                except ImportError as error:
                    answer = f"not installed: {error}"
                os.write(writer, answer.encode())
                os._exit(0)
            os.close(writer)
            with os.fdopen(reader) as pipe:
                rates.append(pipe.read())
            os.waitpid(child, 0)
        wrong = [r for r in rates if not r.replace(".", "", 1).isdigit()]
        if wrong:
            print(f"{name:<28} {wrong[0] or 'failed'}")
            continue
        best = max(map(float, rates))
        print(f"{name:<28} {best:>12,.0f} {own / best:>32,.0f}", flush=True)


if __name__ == "__main__":
    main()
