#!/usr/bin/env python3
"""Accuracy of joined parts, and of calibration on a reference: the tables "From parts" and "On a reference" of the README.

usage: parts.py SPIKED DATA [--halves 6]

Parts: the classes of DATA/tasks/protocol-train.csv divided between two models, joined; confidence averaged, or from a random half of the captures of
protocol-test.csv, without their labels or with them; tested on the other half, for each of some random halves. Reference: a model before and after `spiked model calibrate` on
half of the captures that it was not trained on, tested on the other half. No test data is used for any choice.
"""
import argparse, collections, csv, json, os, random, subprocess, sys, tempfile


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Bench:
    def __init__(self, spiked, data, work):
        self.spiked, self.data, self.work = spiked, data, work

    def run(self, *args):
        done = subprocess.run([self.spiked, *args], capture_output=True, text=True)
        # Exit code 1: some captures are cut short.
        if done.returncode not in (0, 1):
            sys.exit(f"{' '.join(args)}\n{done.stderr}")
        return done.stdout

    def labels(self, name, chosen):
        path = os.path.join(self.work, name + ".csv")
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(chosen[0]))
            writer.writeheader()
            writer.writerows(chosen)
        return ["--labels", path, "--captures", self.data]

    def train(self, name, chosen):
        out = os.path.join(self.work, name + ".safetensors")
        self.run("train", "--quiet", *self.labels(name, chosen), "--out", out)
        return out

    def eval(self, model, chosen):
        return json.loads(self.run("eval", "--json", "--model", model, *self.labels("tested", chosen)))


def halves(items, seed):
    mixed = sorted(items)
    random.Random(seed).shuffle(mixed)
    return mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]


def parts(bench, seeds):
    train, test = (rows(f"{bench.data}/tasks/protocol-{which}.csv") for which in ("train", "test"))
    classes = sorted({row["label"] for row in train})
    few, seen = [], collections.Counter()
    for row in random.Random(1).sample(train, len(train)):
        seen[row["label"]] += 1
        if seen[row["label"]] <= 3:
            few.append(row)
    print("| parts | calibration error: averaged | reference | labelled reference | rightly of those named: averaged | reference | labelled reference | of all: averaged | reference | labelled reference |")
    captures = {row["capture"] for row in test}
    for what, first, training in [("20 + 19 classes", 20, train), ("3 + 36 classes", 3, train), ("20 + 19 classes, 3 streams of each", 20, few)]:
        mixed = random.Random(2).sample(classes, len(classes))
        divided = [mixed[:first], mixed[first:]]
        models = [bench.train(f"part-{n}", [r for r in training if r["label"] in divided[n]]) for n in range(2)]
        joined = os.path.join(bench.work, "joined.safetensors")
        figures = collections.defaultdict(list)
        for seed in seeds:
            half = halves(captures, seed)[0]
            reference, tested = ([row for row in test if (row["capture"] in half) == wanted] for wanted in (True, False))
            unlabelled = ["--reference", *(os.path.join(bench.data, capture) for capture in half)]
            for how, more in [("averaged", []), ("reference", unlabelled), ("labelled", bench.labels("reference", reference))]:
                bench.run("model", "join", *models, "--out", joined, *more)
                got = bench.eval(joined, tested)
                for name in ("calibration_error", "precision", "recall"):
                    figures[name, how].append(got[name])
        mean = lambda name, how: f"{sum(figures[name, how]) / len(seeds):.3f}"
        cells = [mean(name, how) for name in ("calibration_error", "precision", "recall") for how in ("averaged", "reference", "labelled")]
        print("| " + " | ".join([what, *cells]) + " |", flush=True)


def reference(bench):
    def before_and_after(what, model, reference, tested):
        labels = bench.labels("reference", reference)
        after = os.path.join(bench.work, "after.safetensors")
        print(bench.run("model", "calibrate", model, *labels, "--out", after))
        for when, file in [("before", model), ("after", after)]:
            got = bench.eval(file, tested)
            cells = [got["accuracy"], got["macro_f1"], got["precision"], got["recall"], got["false_alarms"], got["calibration_error"]]
            print("| " + " | ".join([what, when, *(f"{cell:.3f}" for cell in cells)]) + " |", flush=True)

    print("| model; reference | | right | macro-F1 | precision | recall | unseen named | calibration error |")
    train = rows(f"{bench.data}/tasks/protocol-train.csv")
    trained, known = {row["capture"] for row in train}, {row["label"] for row in train}
    other = [row for row in rows(f"{bench.data}/tasks/ndpi.csv") if row["capture"] not in trained]
    for row in other:
        row["label"] = row["label"].lower() if row["label"].lower() in known else row["label"]
    first, second = halves({row["capture"] for row in other}, 1)
    model = bench.train("protocol", train)
    before_and_after("protocol-train; ndpi", model, *([row for row in other if row["capture"] in half] for half in (first, second)))
    test = rows(f"{bench.data}/tasks/attack-test.csv")
    model = bench.train("attack", rows(f"{bench.data}/tasks/attack-train.csv"))
    before_and_after("attack-train; attack-test", model, *([test[i] for i in half] for half in halves(range(len(test)), 1)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spiked")
    parser.add_argument("data")
    parser.add_argument("--halves", type=int, default=6)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(given.spiked, given.data, work)
        parts(bench, range(given.halves))
        reference(bench)


if __name__ == "__main__":
    main()
