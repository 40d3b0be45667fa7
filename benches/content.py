#!/usr/bin/env python3
"""Classification by content: streams named on their own ports, on odd ports and on another service's ports.

usage: content.py SPIKED [DATA] [--parts NAME ...] [--baselines] [--folds 5] [--seed 1] [--threads 1] [--model FILE] [--devices FILE]

SPIKED is the program. DATA is the folder that holds tasks/ and the captures, `../shared/data` beside the checkout by default;
DATA/../tools/oddports.py rewrites the server ports. Parts without their data are skipped and reported.

protocol     cross-validated by capture on protocol-train and protocol-test; the tests of each fold also on other ports
wild         trained on ndpi, protocol and the recordings of fixtures/protocols, tested on wild, also on other ports
wild-folds   trained on these and four fifths of the sources of wild, tested on the other sources
chance       trained as for wild, calibrated on one half of the sources of wild and tested on the other and the reverse, for five ways to
             split the halves: how far the acceptance threshold depends on chance
unseen       a fifth of the classes left out of training, seeds 1 and 2; twins are classes that share a format or a 5-tuple
probes       MODEL on 40 lone SYNs to well-known ports and 20 streams of random bytes on port 443: streams named
fixtures     MODEL on the fixtures' streams on odd ports, classes that MODEL lacks left out
devices      DEVICES on hosts of wild that send 20 packets or more: hosts given a kind of device

A stream counts as the event with most of its packets; a stream without an event counts as wrong. Streams of classes that training
lacks are left out of all columns but `precision`, in which naming one is an error. `capture`: each capture counts once. `ece` is
the expected calibration error of the confidence over ten bins.

--baselines adds to part protocol a random forest and a linear SVM on the same slots (needs `pip install numpy scipy scikit-learn`), and ndpiReader
if it is installed; of its answers those count that config/models/protocols.names.csv gives a class. Wild has too little payload for it.
"""
import argparse, collections, csv, hashlib, ipaddress, json, pathlib, random, shutil, struct, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent.parent
RECORDINGS = HERE / "fixtures/protocols"
NAMES = HERE / "config/models/protocols.names.csv"
# What the protocols model is trained without.
MASKS = ["--mask", "ip.len", "--mask", "tcp.window"]
TRAINING = ["ndpi", "protocol-train", "protocol-test"]
PORTS = ["as-is", "odd", "swap"]
# nDPI 4.2's names that are not in NAMES, which has those of later versions.
NDPI_NAMES = {"SNMP": "snmp", "SMBv1": "smb", "VNC": "rfb", "DCE_RPC": "dcerpc", "DNP3": "dnp3", "GTP_U": "gtp", "GTP_C": "gtp", "GTP_PRIME": "gtp",
              "COAP": "coap", "GRE": "gre", "IPsec": "ipsec", "Redis": "redis"}
IP_PROTOCOLS = {"1": "ICMP", "2": "IGMP", "6": "TCP", "17": "UDP", "58": "ICMP", "132": "SCTP"}
TWINS = [{"stun", "dtls"}, {"stun", "quic"}, {"netbios", "dns"}]
PROBED = [21, 22, 23, 25, 53, 80, 88, 110, 111, 119, 135, 139, 143, 179, 389, 443, 445, 465, 502, 515, 554, 587, 631, 636, 873, 993, 995,
          1433, 1521, 1723, 1883, 2049, 3306, 3389, 5060, 5222, 5432, 5900, 6379, 8080]
ICMP = {"ICMPV6": "ICMP", "IPV6-ICMP": "ICMP", "ICMP6": "ICMP"}
MIN_PACKETS = 20
COLUMNS = ["part", "ports", "classifier", "streams", "nearest", "macro-F1", "named", "precision", "capture nearest", "capture named", "ece"]


def load(paths):
    """Label rows, without the label Unknown, which is not a class."""
    return [row for path in paths for row in csv.DictReader(open(path)) if row["label"] != "Unknown"]


def save(rows, path):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def split(rows, unit, count):
    """The fold of each unit (a capture or a source): largest first, to the fold with the fewest streams of the unit's main class."""
    classes = collections.defaultdict(collections.Counter)
    for row in rows:
        classes[unit(row)][row["label"]] += 1
    order = sorted(classes, key=lambda u: (-classes[u].total(), hashlib.sha1(u.encode()).digest()))
    held, totals, fold_of = [collections.Counter() for _ in range(count)], [0] * count, {}
    for u in order:
        main = classes[u].most_common(1)[0][0]
        fold_of[u] = min(range(count), key=lambda f: (held[f][main], totals[f]))
        held[fold_of[u]].update(classes[u])
        totals[fold_of[u]] += classes[u].total()
    return fold_of


def address(text):
    """Bytes of an IP address; of a frame that is not IP, its MAC address as text."""
    try:
        return ipaddress.ip_address(text.split("%")[0]).packed
    except ValueError:
        return text.lower().encode()


def key(proto, src, src_port, dst, dst_port):
    proto = ICMP.get(proto.upper(), proto.upper())
    if proto not in ("TCP", "UDP", "SCTP"):
        src_port = dst_port = 0
    return proto, frozenset([(address(src), int(src_port or 0)), (address(dst), int(dst_port or 0))])


class Spiked:
    """The program under test."""

    def __init__(self, options, scratch):
        self.program, self.seed, self.threads, self.scratch = options.spiked, options.seed, options.threads, scratch
        self.models = 0

    def run(self, *call):
        """Standard output of the program. Exit code 1 means a cut capture or a missing stream, which some of these have."""
        done = subprocess.run([self.program, *map(str, call)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode not in (0, 1):
            sys.exit(f"{self.program} {call[0]}: {done.stderr.strip()}")
        return done.stdout

    def train(self, rows, data, *more):
        self.models += 1
        labels, out = self.scratch / f"labels-{self.models}.csv", self.scratch / f"{self.models}.safetensors"
        self.run("train", "--quiet", "--captures", data, "--labels", save(rows, labels), "--seed", self.seed, "--threads", self.threads,
                 "--out", out, *more)
        return out

    def classes(self, model):
        return set(json.loads(self.run("model", "show", "--json", model))["classes"])

    def events(self, model, captures):
        files = [c for c in captures if c.exists()]
        if not files:
            return []
        lines = self.run("read", "--quiet", "--each-file", "--model", model, "--events", "streams", "--format", "jsonl", *files).splitlines()
        return [e for e in map(json.loads, lines) if e.get("event_type") == "stream"]


def outcomes(spiked, model, root, rows):
    """(capture, label, nearest, named, confidence) of each labelled stream."""
    root = pathlib.Path(root)
    truth = {(r["capture"], key(r["proto"], r["src_ip"], r["src_port"], r["dst_ip"], r["dst_port"])): r["label"] for r in rows}
    found = {}
    for event in spiked.events(model, sorted({root / r["capture"] for r in rows})):
        name = pathlib.Path(event["pcap_filename"]).relative_to(root).as_posix()
        ends = [event.get(f"{end}_ip", event.get(f"{end}_mac", "")) for end in ("src", "dest")]
        at = name, key(event["proto"], ends[0], event.get("src_port"), ends[1], event.get("dest_port"))
        if at in truth and (at not in found or event["spiked"]["packets"] > found[at]["packets"]):
            found[at] = event["spiked"]
    nothing = {"best": None, "class": None, "confidence": None}
    answers = ((at, label, found.get(at, nothing)) for at, label in truth.items())
    return [(at[0], label, a["best"], a["class"], a["confidence"]) for at, label, a in answers]


def ndpi_outcomes(root, rows, scratch):
    """The same by ndpiReader, which has no nearest class besides the named one and no confidence."""
    root = pathlib.Path(root)
    classes = {row["label"]: row["class"] for row in csv.DictReader(open(NAMES)) if row["class"]} | NDPI_NAMES
    truth = collections.defaultdict(dict)
    for r in rows:
        truth[r["capture"]][key(r["proto"], r["src_ip"], r["src_port"], r["dst_ip"], r["dst_port"])] = r["label"]
    found = []
    for capture, streams in truth.items():
        flows = scratch / "flows.csv"
        flows.unlink(missing_ok=True)
        subprocess.run(["ndpiReader", "-q", "-I", "-i", root / capture, "-C", flows], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        answers = {}
        for flow in csv.DictReader(open(flows, errors="replace")) if flows.exists() else []:
            at = key(IP_PROTOCOLS.get(flow["protocol"], flow["protocol"]), flow["src_ip"], flow["src_port"], flow["dst_ip"], flow["dst_port"])
            names = [classes[name] for name in flow["ndpi_proto"].split(".") if name in classes]
            # TLS.DoH_DoT and the like are right if either part is.
            answers.setdefault(at, streams.get(at) if streams.get(at) in names else names[0] if names else None)
        found += [(capture, label, answers.get(at), answers.get(at), None) for at, label in streams.items()]
    return found


def calibration_error(known):
    bins = collections.defaultdict(lambda: [0, 0.0, 0])
    for _, label, nearest, _, confidence in known:
        if confidence is not None:
            of_bin = bins[min(9, int(confidence * 10))]
            for i, value in enumerate((1, confidence, nearest == label)):
                of_bin[i] += value
    return sum(abs(b[1] - b[2]) for b in bins.values()) / max(1, sum(b[0] for b in bins.values()))


def macro_f1(known):
    hit, miss, false = collections.Counter(), collections.Counter(), collections.Counter()
    for _, label, nearest, _, _ in known:
        if nearest == label:
            hit[label] += 1
        else:
            miss[label] += 1
            false[nearest] += 1
    classes = {label for _, label, *_ in known}
    return sum(2 * hit[c] / (2 * hit[c] + miss[c] + false[c]) for c in classes) / max(1, len(classes))


def figures(answers):
    """Figures of (outcome, whether training had its class) pairs."""
    known = [o for o, known in answers if known]
    named = [o for o, _ in answers if o[3] is not None]
    right, rightly = [o[1] == o[2] for o in known], [o[1] == o[3] for o in known]
    captures = collections.defaultdict(list)
    for o, *hits in zip(known, right, rightly):
        captures[o[0]].append(hits)
    of_capture = lambda i: sum(sum(h[i] for h in c) / len(c) for c in captures.values()) / max(1, len(captures))
    share = lambda hits, of: sum(hits) / max(1, len(of))
    precision = sum(rightly) / len(named) if named else float("nan")
    return [len(known), share(right, known), macro_f1(known), share(rightly, known), precision, of_capture(0), of_capture(1),
            calibration_error(known)]


def show(part, ports, classifier, values):
    cells = [part, ports, classifier, *(f"{v:.4f}" if isinstance(v, float) else str(v) for v in values)]
    print("  ".join(c.ljust(w) for c, w in zip(cells, WIDTHS)).rstrip(), flush=True)


WIDTHS = [max(len(c), 10) for c in COLUMNS]


def other_ports(options, data, labels, scratch, name):
    """(root, rows) of the labelled streams on each kind of ports."""
    sets = {"as-is": (data, load(labels))}
    merged = save(sets["as-is"][1], scratch / f"{name}.csv")
    for mode in PORTS[1:]:
        out = scratch / f"{name}-{mode}"
        subprocess.run([sys.executable, options.tools / "oddports.py", data, merged, out, mode], check=True)
        sets[mode] = out / "captures", load([out / "labels.csv"])
    return sets


def protocol(options, spiked, scratch):
    data, labels = options.data, [options.data / f"tasks/{name}.csv" for name in TRAINING[1:]]
    sets = other_ports(options, data, labels, scratch, "protocol")
    fold_of = split(sets["as-is"][1], lambda r: r["capture"], options.folds)
    answers = collections.defaultdict(list)
    for fold in range(options.folds):
        part = lambda rows, held: [r for r in rows if (fold_of[r["capture"]] == fold) == held]
        training = part(sets["as-is"][1], False)
        known = {r["label"] for r in training}
        model = spiked.train(training, data, *MASKS)
        tests = {ports: (root, part(rows, True)) for ports, (root, rows) in sets.items()}
        for ports, test in tests.items():
            answers[ports, "spiked"] += [(o, o[1] in known) for o in outcomes(spiked, model, *test)]
        if options.baselines:
            for at, found in baselines(spiked, scratch, (data, training), tests).items():
                answers[at] += [(o, o[1] in known) for o in found]
    for (ports, classifier), found in answers.items():
        values = figures(found)
        # `features` does not say which capture a packet is from, and the other classifiers have no confidence.
        show("protocol", ports, classifier, values if classifier == "spiked" else [*values[:5], "-", "-", "-"])
    if options.baselines and shutil.which("ndpiReader"):
        labels = {row["label"] for row in sets["as-is"][1]}
        for ports, (root, rows) in sets.items():
            values = figures([(o, o[1] in labels) for o in ndpi_outcomes(root, rows, scratch)])
            show("protocol", ports, "ndpiReader", [values[0], "-", "-", *values[3:5], "-", values[6], "-"])


def baselines(spiked, scratch, training, tests):
    """Outcomes of other classifiers, by (ports, classifier). They name every stream, without a confidence."""
    import numpy as np
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.svm import LinearSVC
    sys.path.insert(0, str(HERE / "benches"))
    from baselines import one_hot, vote

    def slots(root, rows):
        lines = spiked.run("features", "--quiet", "--captures", root, "--labels", save(rows, scratch / "features.csv")).splitlines()[1:]
        cells = [line.split(",") for line in lines]
        values = np.array([[int(c) if c else -1 for c in row[3:]] for row in cells], dtype=np.int16)
        return [int(row[0]) for row in cells], np.array([row[1] for row in cells]), values

    _, labels, values = slots(*training)
    forest = RandomForestClassifier(60, n_jobs=spiked.threads, random_state=1).fit(values, labels)
    svm = LinearSVC(C=0.1, random_state=1).fit(one_hot(values), labels)
    found = {}
    for ports, test in tests.items():
        streams, labels, values = slots(*test)
        truth = dict(zip(streams, labels))
        votes = {"forest": vote(streams, forest.classes_, forest.predict_proba(values)),
                 "SVM": vote(streams, svm.classes_, svm.decision_function(one_hot(values)))}
        for name, answer in votes.items():
            found[ports, name] = [("", truth[s], c, c, None) for s, c in answer.items()]
    return found


def protocols_model(options, spiked, extra):
    """The shipped protocols' recipe, with `extra` label rows."""
    captures = spiked.scratch / "captures"
    if not captures.exists():
        captures.mkdir()
        for entry in [*options.data.iterdir(), RECORDINGS]:
            (captures / entry.name).symlink_to(entry)
    recorded = load([RECORDINGS / "labels.csv"])
    for row in recorded:
        row["capture"] = f"{RECORDINGS.name}/{row['capture']}"
    rows = load([options.data / f"tasks/{name}.csv" for name in TRAINING]) + recorded + extra
    return spiked.train(rows, captures, "--rename", NAMES, "--min-streams", 5, *MASKS)


def wild(options, spiked, scratch):
    model = protocols_model(options, spiked, [])
    known = spiked.classes(model)
    sets = other_ports(options, options.data, [options.data / "tasks/wild.csv"], scratch, "wild")
    for ports, (root, rows) in sets.items():
        show("wild", ports, "spiked", figures([(o, o[1] in known) for o in outcomes(spiked, model, root, rows)]))


def wild_folds(options, spiked, scratch):
    sets = other_ports(options, options.data, [options.data / "tasks/wild.csv"], scratch, "wild-folds")
    source = {r["capture"]: r["source"] for r in csv.DictReader(open(options.data / "wild/source_of.csv"))}
    fold_of = split(sets["as-is"][1], lambda r: source[r["capture"]], options.folds)
    held_out = lambda row, fold: fold_of[source[row["capture"]]] == fold
    answers = collections.defaultdict(list)
    for fold in range(options.folds):
        model = protocols_model(options, spiked, [r for r in sets["as-is"][1] if not held_out(r, fold)])
        known = spiked.classes(model)
        for ports, (root, rows) in sets.items():
            found = outcomes(spiked, model, root, [r for r in rows if held_out(r, fold)])
            answers[ports] += [(o, o[1] in known) for o in found]
            show(f"  fold {fold}", ports, "spiked", figures([(o, o[1] in known) for o in found]))
    for ports, found in answers.items():
        show("wild-folds", ports, "spiked", figures(found))


def chance(options, spiked, scratch):
    model = protocols_model(options, spiked, [])
    rows = load([options.data / "tasks/wild.csv"])
    source = {r["capture"]: r["source"] for r in csv.DictReader(open(options.data / "wild/source_of.csv"))}
    named = []
    for seed in range(5):
        order = sorted(set(source.values()), key=lambda s: hashlib.sha1(f"{seed} {s}".encode()).digest())
        half_of = {s: place % 2 for place, s in enumerate(order)}
        answers = []
        for half in range(2):
            part = lambda held: [r for r in rows if (half_of[source[r["capture"]]] == half) == held]
            calibrated = scratch / "calibrated.safetensors"
            spiked.run("model", "calibrate", "--quiet", "--captures", options.data, "--labels", save(part(False), scratch / "half.csv"),
                       "--out", calibrated, model)
            known = spiked.classes(model)
            answers += [(o, o[1] in known) for o in outcomes(spiked, calibrated, options.data, part(True))]
        values = figures(answers)
        named.append((values[3], values[6]))
        show("chance", f"split {seed}", "spiked", values)
    spread = [max(column) - min(column) for column in zip(*named)]
    print(f"chance      named differs by {spread[0]:.4f} by stream, {spread[1]:.4f} by capture", flush=True)


def unseen(options, spiked, scratch):
    labels = [options.data / f"tasks/{name}.csv" for name in TRAINING[1:]]
    for seed in (1, 2):
        report = json.loads(spiked.run("eval", "--quiet", "--json", "--cross-validate", options.folds, "--unseen-classes", "--seed", seed,
                                       "--threads", spiked.threads, "--captures", options.data, "--labels", *labels))
        streams = report["unseen"]
        named = round(report["false_alarms"] * streams)
        twins = sum(count for truth, answer, count in report["alarms"] if {truth, answer} in TWINS)
        print(f"unseen      seed {seed}: {named} of {streams} streams of unseen classes named ({report['false_alarms']:.4f}), "
              f"{named - twins} without twins ({(named - twins) / max(1, streams):.4f})", flush=True)


def segment(src, dst, sport, dport, sequence, acknowledged, flags, payload=b"", options=b""):
    length = 20 + len(options)
    tcp = struct.pack(">HHIIBBHHH", sport, dport, sequence, acknowledged, length << 2, flags, 64240, 0, 0) + options + payload
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, 6, 0, address(src), address(dst))
    return b"\x02\0\0\0\0\2\x02\0\0\0\0\1\x08\0" + ip + tcp


def write_capture(path, frames):
    """Writes Ethernet frames, each with its time in microseconds from the first on."""
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
        for time, frame in frames:
            file.write(struct.pack("<IIII", 1_700_000_000 + time // 10**6, time % 10**6, len(frame), len(frame)) + frame)
    return path


# MSS 1460, SACK permitted, timestamps, window scale 7: the options of a Linux host.
SYN_OPTIONS = bytes.fromhex("020405b40402080a0000000100000000") + bytes.fromhex("01030307")


def random_stream(source, generator):
    """A connection to port 443 on which both ends send random bytes."""
    client, server, port = "10.9.0.1", "10.9.1.1", 40_000 + source
    yield segment(client, server, port, 443, 1, 0, 0x02, options=SYN_OPTIONS)
    yield segment(server, client, 443, port, 1, 2, 0x12, options=SYN_OPTIONS)
    yield segment(client, server, port, 443, 2, 2, 0x10)
    for turn in range(4):
        there, sequence = turn % 2 == 0, 2 + 200 * (turn // 2)
        ends = (client, server, port, 443) if there else (server, client, 443, port)
        yield segment(*ends, sequence, 2, 0x18, generator.randbytes(200))


def probes(options, spiked, scratch):
    generator = random.Random(options.seed)
    syns = [segment(f"10.9.0.{i + 1}", "10.9.1.1", 40_000 + i, port, 1, 0, 0x02, options=SYN_OPTIONS) for i, port in enumerate(PROBED)]
    noise = [frame for source in range(20) for frame in random_stream(source, generator)]
    for name, frames in (("lone SYNs", syns), ("random bytes on 443", noise)):
        # A frame each millisecond.
        timed = ((number * 1000, frame) for number, frame in enumerate(frames))
        events = spiked.events(options.model, [write_capture(scratch / f"{name}.pcap", timed)])
        named = collections.Counter(e["spiked"]["class"] for e in events if e["spiked"]["class"] is not None)
        print(f"probes      {name}: {named.total()} of {len(events)} named {dict(named.most_common(5)) or ''}", flush=True)


def fixtures(options, spiked, scratch):
    known = spiked.classes(options.model)
    rows = [r for r in load([HERE / "fixtures/labels.csv"]) if "oddport" in r["capture"] and r["label"] in known]
    found = outcomes(spiked, options.model, HERE / "fixtures", rows)
    classes = sorted({r["label"] for r in rows})
    of_class = lambda c: f"{c} {sum(o[1] == o[3] == c for o in found)}/{sum(o[1] == c for o in found)}"
    print(f"fixtures    odd ports: {sum(o[1] == o[3] for o in found)} of {len(found)} named correctly, "
          f"{sum(o[1] == o[2] for o in found)} nearest right ({', '.join(map(of_class, classes))})", flush=True)


def devices(options, spiked, scratch):
    events = spiked.events(options.devices, sorted({options.data / r["capture"] for r in load([options.data / "tasks/wild.csv"])}))
    hosts = [e["spiked"] for e in events if e["spiked"]["packets"] >= MIN_PACKETS]
    named = collections.Counter(h["class"] for h in hosts if h["class"] is not None)
    print(f"devices     {named.total()} of {len(hosts)} hosts of wild with {MIN_PACKETS} packets or more given a kind "
          f"({named.total() / max(1, len(hosts)):.4f}) {dict(named.most_common(5)) or ''}", flush=True)


# Each part, and what it needs beside the program.
PARTS = {
    "protocol": (protocol, ["tasks/protocol-train.csv", "protos", "../tools/oddports.py"]),
    "wild": (wild, ["tasks/wild.csv", "wild", "ndpi", "protos", "../tools/oddports.py"]),
    "wild-folds": (wild_folds, ["tasks/wild.csv", "wild/source_of.csv", "ndpi", "protos", "../tools/oddports.py"]),
    "chance": (chance, ["tasks/wild.csv", "wild/source_of.csv", "ndpi", "protos"]),
    "unseen": (unseen, ["tasks/protocol-train.csv", "protos"]),
    "probes": (probes, []),
    "fixtures": (fixtures, []),
    "devices": (devices, ["tasks/wild.csv", "wild"]),
}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("spiked")
    p.add_argument("data", nargs="?", type=pathlib.Path, default=HERE.parent / "shared/data")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    p.add_argument("--baselines", action="store_true")
    p.add_argument("--folds", type=int, default=5)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--model", type=pathlib.Path, default=HERE / "config/models/protocols.safetensors")
    p.add_argument("--devices", type=pathlib.Path, default=HERE / "config/models/devices.safetensors")
    options = p.parse_args()
    options.data = options.data.resolve()
    options.tools = options.data.parent / "tools"
    if {"protocol", "wild", "wild-folds", "chance"} & set(options.parts):
        print("  ".join(c.ljust(w) for c, w in zip(COLUMNS, WIDTHS)).rstrip(), flush=True)
    for name in options.parts:
        part, needs = PARTS[name]
        missing = next((need for need in needs if not (options.data / need).exists()), None)
        if missing:
            print(f"skipped: {name}: {missing} is absent from {options.data}", flush=True)
            continue
        with tempfile.TemporaryDirectory() as scratch:
            part(options, Spiked(options, pathlib.Path(scratch)), pathlib.Path(scratch))
    return 0


if __name__ == "__main__":
    sys.exit(main())
