#!/usr/bin/env python3
"""Scores packets with a spiked model, in numpy alone.

usage: spiked features --packets 64 --labels LABELS.csv --captures DIR | score.py MODEL.safetensors > nearest.csv

Input: a model file, and on standard input the slot values that `spiked features` writes, one row per packet. Output: a row per stream: its
number, its label, the nearest class, the confidence in it, and the class that spiked gives it (empty: unknown).

A model file is a safetensors file: eight bytes with the length of a JSON header, the header, the tensors' bytes one after the other. Reading
it takes json and numpy, as below; `safetensors.numpy.load_file(path)` returns the same tensors.

  start   U32 [inputs + 1]   where the synapses of each input begin in the next two
  neuron  U16 [synapses]     the neuron of each synapse
  weight  I8  [synapses]     its weight
  gain    F32 [neurons]      the value of one unit of weight, in units of potential

The metadata entry "model" is JSON: classes, the layout of the slots, and the decision. `features` must write the layout of the model, which is
the default one for the built-in model `protocols`; a model of another has been trained with --payload or --traces.
"""
import csv, itertools, json, struct, sys

import numpy as np

TYPES = {"U32": "<u4", "U16": "<u2", "I8": "i1", "F32": "<f4"}
MIN_MARGIN = np.float32(-4)
ONE = np.float32(1)


class Model:
    def __init__(self, path):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            data = file.read()
        about = json.loads(header.pop("__metadata__")["model"])
        tensor = lambda t: np.frombuffer(data[slice(*t["data_offsets"])], TYPES[t["dtype"]])
        tensors = {name: tensor(t) for name, t in header.items()}
        self.start, self.neuron, self.weight, self.gain = (tensors[name] for name in ("start", "neuron", "weight", "gain"))
        self.classes, self.layout, d = about["classes"], about["layout"], about["decision"]
        if self.layout["coding"] != "one_hot":
            sys.exit(f"{path}: dual-rail coding is not supported here")
        self.names = [slot["name"] for slot in self.layout["slots"]]
        self.pairs = np.array(self.layout["coincidences"], np.int64).reshape(-1, 2)
        self.ports, self.payload = (np.array([slot["group"] == g for slot in self.layout["slots"]]) for g in ("ports", "payload"))
        self.theta, self.accept, self.weights = (np.array(d[key], np.float32) for key in ("theta", "accept", "confidence"))
        self.low, self.high = np.array(d["clip"], np.float32)
        self.slope, self.stop = np.float32(d.get("slope", 0)), d["stop"]
        self.most, self.content_first = d["give_up"], d.get("content_first", False)
        # The class of each neuron: the first of every class, then the extra ones.
        self.extra = d.get("more", [])

    def inputs(self, slots):
        """The active inputs of a packet, and which of them depend on its ports and on its payload. `slots`: values, -1 where a slot is silent."""
        own = np.flatnonzero(slots >= 0)
        a, b = slots[self.pairs].T if len(self.pairs) else np.empty((2, 0), np.int64)
        both = np.flatnonzero((a >= 0) & (b >= 0))
        x = (both << 16 | (a[both] & 255) << 8 | b[both] & 255).astype(np.uint32)
        x = (x ^ np.uint32(0x9E37_79B9)) * np.uint32(0x85EB_CA6B)
        x = (x ^ x >> np.uint32(15)) * np.uint32(0xC2B2_AE35)
        pair = 256 * len(self.names) + (x >> np.uint32(32 - self.layout["coincidence_bits"])).astype(np.int64)
        of = lambda group: np.append(group[own], group[self.pairs[both]].any(1))
        return np.append(own << 8 | slots[own] & 255, pair), of(self.ports), of(self.payload)

    def potentials(self, inputs):
        """The sum of the weights of the active inputs, for each neuron, in units of potential."""
        synapses = np.concatenate([np.arange(self.start[i], self.start[i + 1]) for i in inputs] or [np.empty(0, np.int64)])
        total = np.bincount(self.neuron[synapses], self.weight[synapses], len(self.gain))
        return total.astype(np.float32) * self.gain

    def bounded(self, margin):
        flat = self.low + self.slope * (np.maximum(margin, MIN_MARGIN) - self.low)
        return np.minimum(np.maximum(margin, flat), self.high)

    def margins(self, potentials):
        """What a packet adds to the evidence of each class: the largest bounded margin of its neurons."""
        bounded = self.bounded(potentials - self.theta)
        added = bounded[: len(self.classes)].copy()
        for neuron, of in enumerate(self.extra, len(self.classes)):
            added[of] += max(bounded[neuron] - bounded[of], 0)
        return added

    def confidence(self, evidence, packets, content, ports, payload):
        """Calibrated probability that the class with the most evidence is right: logistic in the features of that class's lead."""
        first = int(np.argmax(evidence))
        lead = max(evidence[first] - np.delete(evidence, first).max(), 0) if len(evidence) > 1 else max(evidence[first], 0)
        mean = evidence[first] / packets
        features = [1, np.log1p(lead), lead / packets, mean, min(mean, 0), np.log(packets), np.log1p(max(evidence[first], 0))]
        features = np.array(features + [max(ports, 0), min(ports, 0)], np.float32)
        # Streams with and without content have weights of their own.
        n = len(features)
        own = self.weights[:n] if content else self.weights[n : 2 * n]
        sum_ = (own * features[: len(own)]).sum()
        if payload is not None:
            extra = self.weights[2 * n :]
            sum_ += (extra * np.array([1, max(payload, 0), min(payload, 0)], np.float32)[: len(extra)]).sum()
        return first, float(ONE / (ONE + np.exp(-sum_)))

    def classify(self, packets):
        """The nearest class of a stream, the confidence in it, and whether that is enough to name the stream."""
        evidence, scored, leader, content_so_far, payload = np.zeros(len(self.classes), np.float32), 0, None, False, None
        # Whether nothing but the ports suggests the class.
        by_ports = False
        at = {name: i for i, name in enumerate(self.names)}
        flags, size = at.get("tcp.flags"), at.get("payload.size")
        for slots in packets:
            # Every packet has content, except a TCP segment without payload.
            content = flags is None or slots[flags] < 0 or (size is not None and slots[size] != 0) or not self.content_first
            if leader and content_so_far and (scored >= self.most or leader[1] >= max(self.stop, self.accept[leader[0]])):
                break
            if not content and (content_so_far or scored >= self.most):
                continue
            if content and not content_so_far:
                # A handshake shows how a stream is carried, not what it carries.
                evidence[:], scored = 0, 0
            inputs, by_port, by_payload = self.inputs(slots)
            potentials = self.potentials(inputs)
            evidence += self.margins(potentials)
            scored, content_so_far = scored + 1, content
            ports, first = 0, int(np.argmax(evidence))
            if leader is None or leader[0] != first:
                payload = None
            if self.content_first:
                # Each is kept in one byte.
                byte = lambda x: np.clip(np.trunc(x * 64 + np.copysign(0.5, x)), -128, 127) / 64
                exact = self.potentials(inputs[by_port])[first]
                ports, by_ports = byte(exact), potentials[first] - exact < self.theta[first]
                # The largest contribution of the payload behind ports since the class leads.
                if by_port.any() and by_payload.any():
                    now = byte(self.potentials(inputs[by_payload])[first])
                    payload = now if payload is None else max(payload, now)
            leader = self.confidence(evidence, scored, content, ports, payload)
        if leader is None:
            return None
        named = leader[1] >= self.accept[leader[0]] and (content_so_far or not by_ports)
        return self.classes[leader[0]], leader[1], bool(named)


def main():
    model = Model(sys.argv[1])
    rows, out = csv.reader(sys.stdin), csv.writer(sys.stdout, lineterminator="\n")
    if next(rows)[3:] != model.names:
        sys.exit(f"{sys.argv[1]}: has other slots than the rows of `spiked features`")
    out.writerow(["stream", "label", "nearest", "confidence", "class"])
    for (stream, label), group in itertools.groupby(rows, lambda row: row[:2]):
        packets = [np.array([int(cell) if cell else -1 for cell in row[3:]], np.int64) for row in group]
        nearest, confidence, named = model.classify(packets)
        out.writerow([stream, label, nearest, f"{confidence:.3f}", nearest if named else ""])


if __name__ == "__main__":
    main()
