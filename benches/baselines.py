#!/usr/bin/env python3
"""Accuracy of other classifiers on the same slots, cross-validated by capture, compared with spiked.

usage: baselines.py SPIKED DATA [--task protocol|device|ndpi|attack ...] [--folds 5]

SPIKED is the program, DATA the folder that holds tasks/ and the captures. Needs `pip install numpy scipy scikit-learn`.
Random forest, linear SVM and Bernoulli naive Bayes vote per packet over one-hot slots (the forest over slot values) and sum their votes
over a stream; the look-up returns the class that had the lower port of the stream most often. Streams of classes that no other fold has are
left out, as `spiked eval` does.
"""
import argparse, collections, json, subprocess, sys, tempfile

import numpy as np
from scipy import sparse
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import f1_score, recall_score
from sklearn.naive_bayes import BernoulliNB
from sklearn.svm import LinearSVC

TASKS = {"protocol": ["protocol-train", "protocol-test"], "device": ["device-train", "device-test"], "ndpi": ["ndpi"],
         "attack": ["attack-train", "attack-test"]}
OPTIONS = {"device": ["--payload", "32"]}


def volleys(spiked, data, task, folds):
    labels = [f"{data}/tasks/{name}.csv" for name in TASKS[task]]
    with tempfile.NamedTemporaryFile("w+") as out:
        call = [spiked, "features", "--quiet", "--folds", str(folds), "--captures", data, "--labels", *labels, *OPTIONS.get(task, [])]
        subprocess.run(call, stdout=out, stderr=subprocess.DEVNULL, check=True)
        out.seek(0)
        header = out.readline().strip().split(",")
        stream, label, fold, rows = [], [], [], []
        for line in out:
            cells = line.rstrip("\n").split(",")
            stream.append(int(cells[0])), label.append(cells[1]), fold.append(int(cells[2]))
            rows.append(np.array([int(c) if c else -1 for c in cells[3:]], dtype=np.int16))
    return header[3:], np.array(stream), np.array(label), np.array(fold), np.stack(rows)


def one_hot(values):
    row, slot = np.nonzero(values >= 0)
    column = slot * 256 + values[row, slot]
    return sparse.csr_matrix((np.ones(len(row), np.float32), (row, column)), (len(values), values.shape[1] * 256))


def port_of(names, values):
    at = {n: i for i, n in enumerate(names)}
    port = np.full(len(values), 1 << 16)
    for field in ("tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport"):
        high, low = values[:, at[field + "[0]"]].astype(int), values[:, at[field + "[1]"]].astype(int)
        port = np.where((high >= 0) & (low >= 0), np.minimum(port, high * 256 + low), port)
    protocol = np.maximum(values[:, at["ip.proto"]], values[:, at["ipv6.nxt"]])
    return list(zip(port.tolist(), protocol.tolist()))


def vote(streams, classes, scores):
    first = {s: i for i, s in enumerate(dict.fromkeys(streams))}
    total = np.zeros((len(first), len(classes)))
    np.add.at(total, [first[s] for s in streams], scores)
    return {s: classes[total[i].argmax()] for s, i in first.items()}


def look_up(train_keys, train_labels, test_keys, streams):
    by_key, overall = collections.defaultdict(collections.Counter), collections.Counter(train_labels)
    for key, label in zip(train_keys, train_labels):
        by_key[key][label] += 1
    votes = collections.defaultdict(collections.Counter)
    for key, stream in zip(test_keys, streams):
        votes[stream].update(by_key.get(key) or overall)
    return {s: c.most_common(1)[0][0] for s, c in votes.items()}


def figures(pairs):
    truth, predicted = zip(*pairs)
    classes = sorted(set(truth))
    return (np.mean([t == s for t, s in pairs]), f1_score(truth, predicted, labels=classes, average="macro", zero_division=0),
            recall_score(truth, predicted, labels=classes, average="macro", zero_division=0))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("spiked"), p.add_argument("data")
    p.add_argument("--task", nargs="+", choices=TASKS, default=["protocol", "device"])
    p.add_argument("--folds", type=int, default=5)
    o = p.parse_args()
    print(f"{'task':<10} {'classifier':<24} {'right':>8} {'macro-F1':>9} {'recall':>8}")
    for task in o.task:
        names, stream, label, fold, values = volleys(o.spiked, o.data, task, o.folds)
        hot, ports = one_hot(values), port_of(names, values)
        truth = dict(zip(stream, label))
        predicted = collections.defaultdict(list)
        for f in sorted(set(fold)):
            test, train = np.nonzero(fold == f)[0], np.nonzero(fold != f)[0]
            known = set(label[train])
            answers = {"port look-up": look_up([ports[i] for i in train], label[train], [ports[i] for i in test], stream[test])}
            forest = RandomForestClassifier(60, n_jobs=-1, random_state=1).fit(values[train], label[train])
            answers["random forest, 60 trees"] = vote(stream[test], forest.classes_, forest.predict_proba(values[test]))
            svm = LinearSVC(C=0.1, random_state=1).fit(hot[train], label[train])
            answers["linear SVM"] = vote(stream[test], svm.classes_, svm.decision_function(hot[test]))
            bayes = BernoulliNB(alpha=0.01).fit(hot[train], label[train])
            answers["naive Bayes"] = vote(stream[test], bayes.classes_, bayes.predict_log_proba(hot[test]))
            for name, answer in answers.items():
                predicted[name] += [(truth[s], c) for s, c in answer.items() if truth[s] in known]
        for name, pairs in predicted.items():
            right, f1, recall = figures(pairs)
            print(f"{task:<10} {name:<24} {right:>8.4f} {f1:>9.4f} {recall:>8.4f}", flush=True)
        labels = [f"{o.data}/tasks/{name}.csv" for name in TASKS[task]]
        call = [o.spiked, "eval", "--quiet", "--json", "--cross-validate", str(o.folds), "--captures", o.data, "--labels", *labels]
        report = json.loads(subprocess.run(call + OPTIONS.get(task, []), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout)
        print(f"{task:<10} {'spiked':<24} {report['accuracy']:>8.4f} {report['macro_f1']:>9.4f} {report['macro_recall']:>8.4f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
