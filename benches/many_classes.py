#!/usr/bin/env python3
"""Cost of a packet by the number of classes: CPU seconds and peak memory of reading a capture with every packet scored.

usage: many_classes.py SPIKED DATA [--packets 500000] [--copies 1,4,16] [--varied] [--rounds 3] [--against BINARY]

Makes models of several copies of each class of the shipped protocols model, whose copies have raised thresholds, and reads the capture of
line_rate.py with each in one worker. The time of a model is also given relative to that of one copy, round by round. With --varied, copies lack
30 % of the synapses, each others, and their weights differ by a fifth (one standard deviation). With --against, also counts the events, scored as
usual, that differ between the two builds, and those with another class.
"""
import argparse, json, multiprocessing, pathlib, random, statistics, struct, subprocess, sys, tempfile, zlib

import line_rate

MODEL = pathlib.Path(__file__).resolve().parent.parent / "config/models/protocols.safetensors"
DTYPES = {"start": ("I", "U32"), "neuron": ("H", "U16"), "weight": ("b", "I8"), "gain": ("f", "F32")}
# Added to the thresholds of copies, so that the first of a class leads.
RAISED = 0.5


def load(path):
    """Tensors by name, and the metadata."""
    raw = path.read_bytes()
    end = 8 + struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:end])
    metadata = head.pop("__metadata__")
    tensors = {}
    for name, entry in head.items():
        start, stop = entry["data_offsets"]
        tensors[name] = memoryview(raw[end + start:end + stop]).cast(DTYPES[name][0])
    return tensors, metadata


# What --varied removes from each copy, and by how much it changes the rest.
REMOVED, CHANGED = 0.3, 0.2


def varied(row, chance):
    """The weights of a copy's synapses; 0 if removed."""
    kept = ((chance.random() >= REMOVED) * weight * chance.gauss(1, CHANGED) for weight in row)
    return bytes(max(-127, min(127, round(weight))) & 255 for weight in kept)


def multiplied(copies, vary, path):
    """Writes a model of so many copies of each class. Returns the number of classes."""
    chance = random.Random(1)
    tensors, metadata = load(MODEL)
    model = json.loads(metadata["model"])
    names, decision = model["classes"], model["decision"]
    classes, extra = len(names), decision.get("more", [])
    first = list(range(copies))
    model["classes"] = [name if copy == 0 else f"{name}-{copy}" for copy in first for name in names]
    raised = lambda thetas: [theta + RAISED * (copy > 0) for copy in first for theta in thetas]
    decision["theta"] = raised(decision["theta"][:classes]) + raised(decision["theta"][classes:])
    decision["more"] = [copy * classes + of for copy in first for of in extra]
    decision["accept"] = decision["accept"] * copies
    # Copies of the first neurons come first, then those of the extra ones.
    place = lambda neuron, copy: copy * classes + neuron if neuron < classes else copies * classes + copy * len(extra) + neuron - classes
    start, neuron, weight = struct.Struct("<I"), bytearray(), bytearray()
    starts, n = bytearray(start.pack(0)), 0
    spans = zip(tensors["start"], tensors["start"][1:])
    places = [[place(at, copy) for at in range(len(tensors["gain"]))] for copy in first]
    for begin, end in spans:
        row = tensors["neuron"][begin:end]
        neuron += struct.pack(f"<{len(row) * copies}H", *[of[at] for of in places for at in row])
        own = tensors["weight"][begin:end]
        weight += bytes(own) + (b"".join(varied(own, chance) for _ in first[1:]) if vary else bytes(own) * (copies - 1))
        n += len(row) * copies
        starts += start.pack(n)
    gains = list(tensors["gain"])
    gain = struct.pack(f"<{len(gains) * copies}f", *gains[:classes] * copies, *gains[classes:] * copies)
    text = json.dumps(model, separators=(",", ":"))
    parts = {"start": bytes(starts), "neuron": bytes(neuron), "weight": bytes(weight), "gain": gain}
    checksum = 0
    for part in (*parts.values(), text.encode()):
        checksum = zlib.crc32(part, checksum)
    head, at = {"__metadata__": {**metadata, "model": text, "checksum": f"{checksum:08x}"}}, 0
    for name in ("gain", "start", "neuron", "weight"):
        size = struct.calcsize(DTYPES[name][0])
        head[name] = {"dtype": DTYPES[name][1], "shape": [len(parts[name]) // size], "data_offsets": [at, at + len(parts[name])]}
        at += len(parts[name])
    encoded = json.dumps(head).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"".join(parts[name] for name in ("gain", "start", "neuron", "weight")))
    return len(model["classes"])


def events(binary, model, capture):
    """Detections by flow and time."""
    call = [binary, "read", "--model", str(model), "--format", "jsonl", "--quiet", str(capture)]
    lines = subprocess.run(call, stdout=subprocess.PIPE, check=True).stdout.splitlines()
    return {(event["flow_id"], event["timestamp"]): event for event in map(json.loads, lines) if event["event_type"] == "detection"}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("spiked"), p.add_argument("data")
    p.add_argument("--packets", type=int, default=500_000)
    p.add_argument("--copies", default="1,4,16")
    p.add_argument("--varied", action="store_true")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--against", metavar="BINARY", help="another build, measured in the same rounds")
    o = p.parse_args()
    copies = [int(n) for n in o.copies.split(",")]
    builds = {"this build": o.spiked} | ({"other build": o.against} if o.against else {})
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        capture, empty = folder / "whole.pcap", folder / "one.pcap"
        models = {n: folder / f"m{n}.safetensors" for n in copies}
        # In processes of their own, because a child's peak memory begins with that of its parent.
        with multiprocessing.Pool(1, maxtasksperchild=1) as pool:
            packets, _ = pool.apply(line_rate.make, (o.data, o.packets, capture, folder / "cut.pcap"))
            classes = {n: pool.apply(multiplied, (n, o.varied, path)) for n, path in models.items()}
        # A capture of one packet, whose time is that of loading the model.
        with open(capture, "rb") as whole:
            head = whole.read(24 + 16)
            empty.write_bytes(head + whole.read(struct.unpack("<I", head[32:36])[0]))
        found = {(build, n): [] for build in builds for n in copies}
        for _ in range(o.rounds):
            for build, n in found:
                call = [builds[build], "read", "--model", str(models[n]), "--every-packet", "--workers", "1", "--quiet"]
                loads, reads = line_rate.measure([*call, str(empty)]), line_rate.measure([*call, str(capture)])
                if loads is None or reads is None:
                    sys.exit(f"{builds[build]} failed on a model of {classes[n]} classes")
                found[build, n].append((reads[0] - loads[0], loads[0], reads[2]))
        print(f"{packets} packets, every one scored; minimum of {o.rounds} interleaved rounds")
        print(f"{'':<14} {'classes':>8} {'read s':>8} {'load s':>8} {'MiB':>6} {'relative to ' + str(classes[copies[0]]):>24}")
        for (build, n), rows in found.items():
            ratios = sorted(row[0] / base[0] for row, base in zip(rows, found[build, copies[0]]))
            read, loading, memory = (min(column) for column in zip(*rows))
            relative = f"{ratios[0]:.2f} {statistics.median(ratios):.2f} {ratios[-1]:.2f}"
            print(f"{build:<14} {classes[n]:>8} {read:>8.2f} {loading:>8.2f} {memory:>6.0f} {relative:>24}")
        for n in copies if o.against else []:
            ours, others = (events(binary, models[n], capture) for binary in builds.values())
            both = ours.keys() & others.keys()
            named = sum(ours[key]["app_proto"] != others[key]["app_proto"] for key in both) + len(ours.keys() ^ others.keys())
            other = sum(ours[key] != others[key] for key in both) + len(ours.keys() ^ others.keys())
            print(f"{classes[n]} classes: {len(ours)} events, {other} differ, {named} in their class")
    return 0


if __name__ == "__main__":
    sys.exit(main())
