#!/usr/bin/env python3
"""Measures the behaviours model: attacks found as episodes, false episodes, other paces, cost.

    python3 benches/behaviours.py target/release/spiked ../shared/data
    python3 benches/behaviours.py target/release/spiked ../shared/data --parts episodes,benign

Parts:
  episodes  test recordings of fixtures/behaviours: attacks found by class and by family, seconds from the first attack packet to
            the episode, false episodes per hour
  streams   the streams of these recordings, and those of attack-test of ../shared by a model trained on attack-train: named by their class,
            how many of them by an episode
  paces     the same recordings with all times multiplied by 10 and by 0.1
  sensors   the same recordings as other sensors would see them: over IPv6, without ARP, a fifth of the packets lost, one direction only
  load      generated attacks longer than any recording, and servers busier than any: streams by class, and episodes
  learn     each class in turn: MODEL without it, and the class learned from the attacker's flows in its first training recording;
            attacks of the class found in its other training recordings, false episodes in those without attacks
  benign    captures without attacks: wild, devices, ndpi; episodes there are false
  task      the attack task of ../shared, cross-validated by capture: with `spiked eval`, with and without traces, in which classes of a single
            capture are unseen; and with `spiked read`, where the streams of these classes are spread over the folds and the packets of those that
            were trained on are removed from the capture
  cost      CPU of reading with both shipped models against protocols alone, paired, on a capture of benches/line_rate.py

The test recordings were made with tools and options that the model was not trained on. Needs zstd.
"""
import argparse
import collections
import csv
import gzip
import ipaddress
import json
import os
import pathlib
import random
import resource
import statistics
import struct
import subprocess
import tempfile
from datetime import datetime

import line_rate
from content import Spiked, key, load, outcomes, split, write_capture

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORDINGS = ROOT / "fixtures" / "behaviours"
# An episode counts for an attack that ended at most this many seconds before.
GRACE = 60


def events_of(args, kind, capture, model=None):
    """Events of one kind, such as streams, of a capture."""
    command = [args.spiked, "read", "--model", model or args.model, "--format", "jsonl", "--events", kind, "--quiet", str(capture)]
    return map(json.loads, subprocess.run(command, capture_output=True, text=True).stdout.splitlines())


def episodes_of(args, captures, model=None):
    """Episodes that begin in the captures, each read on its own."""
    for capture in captures:
        for event in events_of(args, "episodes", capture, model):
            if event["spiked"]["state"] == "begin":
                yield capture, event


def seconds(text):
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()


def plain(capture, folder):
    """The capture without compression, in folder."""
    out = folder / capture.name.removesuffix(".zst")
    if not out.exists():
        out.write_bytes(subprocess.run(["zstd", "-dcq", str(capture)], check=True, capture_output=True).stdout)
    return out


def records(data):
    """The records of a pcap (little-endian): seconds, parts of a second, length on the wire, frame."""
    at = 24
    while at + 16 <= len(data):
        second, part, length, wire = struct.unpack_from("<IIII", data, at)
        yield second, part, wire, data[at + 16:at + 16 + length]
        at += 16 + length


def stretched(capture, factor, folder):
    """The capture with the time since its first packet multiplied by factor, and the first packet's time."""
    data = plain(capture, folder).read_bytes()
    unit = {0xA1B2C3D4: 10**6, 0xA1B23C4D: 10**9}[struct.unpack_from("<I", data)[0]]
    out, first = folder / f"x{factor}-{capture.name.removesuffix('.zst')}", None
    with open(out, "wb") as file:
        file.write(data[:24])
        for second, part, wire, frame in records(data):
            time = second * unit + part
            first = time if first is None else first
            time = first + round((time - first) * factor)
            file.write(struct.pack("<IIII", *divmod(time, unit), len(frame), wire) + frame)
    return out, first / unit


def attacks(kind="test"):
    rows = list(csv.DictReader(open(RECORDINGS / "episodes.csv")))
    return [row for row in rows if row["capture"].startswith(f"{kind}/")]


def captures_of(kind):
    rows = csv.DictReader(open(RECORDINGS / "captures.csv"))
    return {row["capture"]: float(row["seconds"]) for row in rows if row["set"] == kind}


def is_one_host(address):
    """Whether the attacker of a row is one host, and not a network or forged addresses."""
    return address.replace(".", "").replace(":", "").isalnum()


def match(rows, found, factor=1.0, firsts=None):
    """For each attack the first episode of its class, and of its family, in seconds after its start. Also the false episodes."""
    firsts = firsts or {}
    results, true = [], set()
    for row in rows:
        first = firsts.get(row["capture"], float(row["start"]))
        start, end = (first + (float(row[which]) - first) * factor for which in ("start", "end"))
        # Attacks that several hosts make on one are rows of their own: an episode about one of them does not find the others.
        one_attacker = is_one_host(row["attacker"])
        by_class = by_family = None
        for number, (capture, event) in enumerate(found):
            details, time = event["spiked"], seconds(event["timestamp"])
            about = details["host"] in (row["attacker"], row["victim"]) or (not one_attacker and details.get("peer") == row["victim"])
            if capture != row["capture"] or not start - 1 <= time <= end + GRACE or not about:
                continue
            if details["class"] == row["class"]:
                by_class = min(time - start, by_class if by_class is not None else time)
                true.add(number)
            if details["class"].split(".")[0] == row["class"].split(".")[0]:
                by_family = min(time - start, by_family if by_family is not None else time)
                true.add(number)
        results.append((row, by_class, by_family))
    # An episode of another class about the attacker or the victim is a wrong name, not a false alarm.
    wrong, false = [], []
    for number, (capture, event) in enumerate(found):
        if number in true:
            continue
        hosts = {host for row in rows if row["capture"] == capture for host in (row["attacker"], row["victim"])}
        (wrong if event["spiked"]["host"] in hosts else false).append((capture, event))
    return results, wrong, false


def period(row):
    """Seconds between the connections of a beacon, the fourth word of how it was made."""
    return float(row["tool"].split()[3])


def show(results, wrong, false, hours, factor=1.0):
    named = [by_class for _, by_class, _ in results if by_class is not None]
    family = [by_family for _, _, by_family in results if by_family is not None]
    print(f"  attacks {len(results)}; found by class {len(named)} ({len(named) / len(results):.2f}), by family {len(family)} ({len(family) / len(results):.2f})")
    for kind in sorted({row["class"] for row, _, _ in results}):
        of_kind = [result for result in results if result[0]["class"] == kind]
        times = [(row, by_class) for row, by_class, _ in of_kind if by_class is not None]
        median = f"{statistics.median(time for _, time in times):.1f} s" if times else "-"
        if kind == "beacon" and times:
            median += f", {statistics.median(time / (period(row) * factor) for row, time in times):.1f} periods"
        print(f"    {kind:<16} {len(times)} of {len(of_kind)}, family {sum(f is not None for *_, f in of_kind)}; median {median}")
    for row, by_class, by_family in results:
        if by_class is None:
            print(f"    missed: {row['capture']} {row['class']} ({row['tool'][:60]}){' (family found)' if by_family is not None else ''}")
    for capture, event in wrong:
        print(f"    wrong name: {capture}: {event['spiked']['class']} of {event['spiked']['host']}")
    for capture, event in false:
        print(f"    false: {capture}: {event['spiked']['class']} of {event['spiked']['host']}")
    print(f"  false episodes {len(false)} in {hours:.2f} h")


def part_episodes(args):
    captures = captures_of("test")
    found = [(str(c.relative_to(RECORDINGS)), e) for c, e in episodes_of(args, [RECORDINGS / c for c in captures])]
    show(*match(attacks(), found), sum(captures.values()) / 3600)


def show_streams(args, model, folder, rows, without):
    """How many of the labelled streams are named by their class. without: classes that are no attacks, which are counted apart."""
    labels = {}
    for row in rows:
        labels.setdefault(row["capture"], {})[stream_of_row(row)] = row["label"]
    counts = collections.Counter()
    for capture, streams in labels.items():
        counts.update((label in without, "all") for label in streams.values())
        # A stream counts as the event with most of its packets.
        events = {}
        for event in events_of(args, "streams", folder / capture, model):
            source, target = (event.get(f"{end}_ip") or event[f"{end}_mac"] for end in ("src", "dest"))
            stream = key(event["proto"], source, event.get("src_port"), target, event.get("dest_port"))
            if stream in streams and event["spiked"]["packets"] > events.get(stream, {"packets": 0})["packets"]:
                events[stream] = event["spiked"]
        for stream, event in events.items():
            if event["class"] is not None:
                kind, right = streams[stream] in without, event["class"] == streams[stream]
                counts[kind, "right" if right else "wrong"] += 1
                if event.get("basis") == "episode":
                    counts[kind, "right by episode" if right else "wrong by episode"] += 1
    for kind in (False, True):
        total, right, wrong, *by_episode = (counts[kind, which] for which in ("all", "right", "wrong", "right by episode", "wrong by episode"))
        if total:
            alone = [count - by for count, by in zip((right, wrong), by_episode)]
            show = lambda right, wrong: f"named {right / total:.3f} at precision {right / max(1, right + wrong):.3f}"
            print(f"    {'other' if kind else 'attack'} streams {total}: {show(right, wrong)}; without episodes {show(*alone)}")


def part_streams(args):
    rows = list(csv.DictReader(gzip.open(RECORDINGS / "labels.csv.gz", "rt")))
    print("  test recordings")
    show_streams(args, args.model, RECORDINGS, [row for row in rows if row["capture"].startswith("test/")], {"normal"})
    tasks = args.data / "tasks"
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder) / "attack.safetensors"
        command = [args.spiked, "train", "--traces", "--quiet", "--captures", args.data, "--labels", tasks / "attack-train.csv", "--out", model]
        subprocess.run(command, capture_output=True)
        rows = list(csv.DictReader(open(tasks / "attack-test.csv")))
        print("  attack-test, trained on attack-train")
        show_streams(args, model, args.data, rows, {row["label"] for row in rows if row["label"].split(".")[0] in ("benign", "background")})


def part_paces(args):
    captures = captures_of("test")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for factor in (10, 0.1):
            found, firsts = [], {}
            for name in captures:
                capture, firsts[name] = stretched(RECORDINGS / name, factor, folder)
                found += [(name, event) for _, event in episodes_of(args, [capture])]
                capture.unlink()
            print(f"  times x {factor}")
            show(*match(attacks(), found, factor, firsts), sum(captures.values()) * factor / 3600, factor)


# IPv4 addresses become the last four bytes of addresses with this prefix.
PREFIX = ipaddress.ip_address("2001:db8::").packed[:12]


def over_ipv6(frame, *_):
    """An Ethernet frame with the IPv4 packet converted to IPv6, ICMP to ICMPv6. Checksums are not read."""
    if frame[12:14] != b"\x08\0":
        return frame
    header, protocol = (frame[14] & 15) * 4, frame[23]
    body, length = frame[14 + header:], int.from_bytes(frame[16:18], "big") - header
    if protocol == 1:
        kind, code = body[:2]
        # Echo; time exceeded; unreachable: port, others.
        kind, code = {8: (128, 0), 0: (129, 0), 11: (3, code), 3: (1, 4 if code == 3 else 3)}[kind]
        inner = over_ipv6(frame[:14] + body[8:])[14:] if kind < 128 else body[8:]
        protocol, length, body = 58, length + len(inner) - len(body[8:]), bytes([kind, code]) + body[2:8] + inner
    addresses = PREFIX + frame[26:30] + PREFIX + frame[30:34]
    return frame[:12] + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, length, protocol, frame[22]) + addresses + body


def of_ipv4(address):
    """The IPv4 address that an address was converted from."""
    packed = ipaddress.ip_address(address).packed
    return str(ipaddress.ip_address(packed[12:])) if packed.startswith(PREFIX) else address


def without_arp(frame, *_):
    return None if frame[12:14] == b"\x08\x06" else frame


def with_loss(frame, rng, _):
    return None if rng.random() < 0.2 else frame


def ends_of(frame):
    """IP protocol, and address and port of source and destination, of an Ethernet frame with an IPv4 packet; None for other frames."""
    if frame[12:14] != b"\x08\0":
        return None
    protocol, at = frame[23], 14 + (frame[14] & 15) * 4
    ports = struct.unpack_from(">HH", frame, at) if protocol in (6, 17) and len(frame) >= at + 4 else (0, 0)
    return protocol, (frame[26:30], ports[0]), (frame[30:34], ports[1])


def one_direction(frame, _, begun):
    """Nothing but what the side sends that sent first."""
    ends = ends_of(frame)
    if ends is None:
        return frame
    protocol, source, destination = ends
    return frame if begun.setdefault((protocol, frozenset([source, destination])), source) == source else None


def rewrite(data, change, out):
    """Writes the capture (a pcap) with each frame as change gives it; frames for which it gives None are left out."""
    with open(out, "wb") as file:
        file.write(data[:24])
        for second, part, wire, frame in records(data):
            changed = change(frame)
            if changed is not None:
                file.write(struct.pack("<IIII", second, part, len(changed), wire + len(changed) - len(frame)) + changed)


def as_seen(capture, sensor, folder):
    """The capture as another sensor sees it."""
    rng, begun = random.Random(1), {}
    out = folder / f"{sensor.__name__}-{capture.name.removesuffix('.zst')}"
    rewrite(plain(capture, folder).read_bytes(), lambda frame: sensor(frame, rng, begun), out)
    return out


def part_sensors(args):
    captures = captures_of("test")
    with tempfile.TemporaryDirectory() as folder:
        for sensor in (over_ipv6, without_arp, with_loss, one_direction):
            found = []
            for name in captures:
                capture = as_seen(RECORDINGS / name, sensor, pathlib.Path(folder))
                for _, event in episodes_of(args, [capture]):
                    event["spiked"] |= {end: of_ipv4(event["spiked"][end]) for end in ("host", "peer") if event["spiked"].get(end)}
                    found.append((name, event))
                capture.unlink()
            results, wrong, false = match(attacks(), found)
            missed = collections.Counter(row["class"] for row, by_class, _ in results if by_class is None)
            print(f"  {sensor.__name__}: found by class {len(results) - missed.total()} of {len(results)}, {len(wrong)} wrong names, "
                  f"{len(false)} false episodes; missed {dict(missed)}", flush=True)


def ip(source, destination, protocol, payload, ttl=64):
    """An Ethernet frame with an IPv4 packet. Checksums are zero: they are not read."""
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, ttl, protocol, 0)
    return bytes(11) + b"\1" + b"\x08\0" + header + bytes(source) + bytes(destination) + payload


def tcp(source, destination, ports, sequence, flags, payload=b"", options=b"", window=502):
    header = struct.pack(">HHIIBBHHH", *ports, sequence, 0, (20 + len(options)) // 4 << 4, flags, window, 0, 0)
    return ip(source, destination, 6, header + options + payload)


def udp(source, destination, ports, payload):
    return ip(source, destination, 17, struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload)


VICTIM, SCANNER = (10, 3, 4, 5), (192, 168, 7, 9)


def syn_flood(rng, number):
    source = [rng.randrange(1, 224), *(rng.randrange(1, 255) for _ in range(3))]
    yield 0, tcp(source, VICTIM, (rng.randrange(1024, 65536), 443), rng.randrange(2**32), 2, window=512)


def sweep(rng, number):
    host = (10, number // 62500 % 250, number // 250 % 250, 1 + number % 250)
    yield 0, tcp(SCANNER, host, (51234, 445), rng.randrange(2**32), 2, options=b"\2\4\5\xb4", window=1024)


def client(rng):
    return (10, 10 + rng.randrange(4), rng.randrange(256), rng.randrange(1, 255)), rng.randrange(32768, 61000)


def connection(rng, port, exchanges):
    """A connection of a client to a port of VICTIM. exchanges: what the client sends, and what the server answers."""
    (host, own_port), stamps = client(rng), b"\1\1\x08\x0a" + bytes(8)
    first = b"\2\4\5\xb4\4\2\x08\x0a" + bytes(8) + b"\1\3\3\7"
    # Microseconds after the first segment, whether the server sends it, flags, payload.
    segments, after = [(0, 0, 2, b""), (500, 1, 18, b""), (900, 0, 16, b"")], 1000
    for request, answer in exchanges:
        segments += [(after, 0, 24, request), (after + 600, 1, 16, b""), (after + 2000, 1, 24, answer), (after + 2500, 0, 16, b"")]
        after += 3000
    segments += [(after + 5000, 0, 17, b""), (after + 5500, 1, 17, b""), (after + 5900, 0, 16, b"")]
    own, other = rng.randrange(2**31), rng.randrange(2**31)
    for after, back, flags, payload in segments:
        options = first if flags & 2 else stamps
        window = 64240 if flags & 2 else 502
        ends = ((VICTIM, host, (port, own_port), other) if back else (host, VICTIM, (own_port, port), own))
        yield after, tcp(*ends, flags, payload, options, window)
        own, other = (own, other + len(payload) + (flags & 3 > 0)) if back else (own + len(payload) + (flags & 3 > 0), other)


def web_request(rng, number):
    request = b"GET /%08x HTTP/1.1\r\nHost: www.company.com\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n\r\n" % rng.randrange(2**32)
    answer = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Type: text/html\r\nContent-Length: 900\r\n\r\n" + b"<html>" * 150
    yield from connection(rng, 80, [(request, answer)])


def tls_request(rng, number):
    hello = b"\x16\3\1\2\0\1\0\1\xfc\3\3" + rng.randbytes(506)
    server_hello = b"\x16\3\3\0\x7a\2\0\0\x76\3\3" + rng.randbytes(1200)
    request, answer = (b"\x17\3\3" + struct.pack(">H", length) + rng.randbytes(length) for length in (120, 900))
    yield from connection(rng, 443, [(hello, server_hello), (request, answer)])


def ssh_session(rng, number):
    version, keys, secret = b"SSH-2.0-OpenSSH_9.2p1\r\n", b"\0\0\5\xdc\x0a\x14" + rng.randbytes(1000), b"\0\0\0\x2c\6\x1e" + rng.randbytes(42)
    yield from connection(rng, 22, [(version, version), (keys, keys), (secret, secret), (rng.randbytes(60), rng.randbytes(60))])


def dns_query(rng, number):
    host, port = client(rng)
    labels = [rng.choice((b"www", b"mail", b"api", b"img")) + b"%d" % rng.randrange(50), b"company%d" % rng.randrange(300), b"com"]
    question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + struct.pack(">HH", rng.choice((1, 1, 1, 28)), 1)
    identifier = rng.randrange(65536)
    yield 0, udp(host, VICTIM, (port, 53), struct.pack(">HHHHHH", identifier, 0x0100, 1, 0, 0, 0) + question)
    answer = question + b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 300, 4) + bytes(rng.randrange(256) for _ in range(4))
    yield 400, udp(VICTIM, host, (53, port), struct.pack(">HHHHHH", identifier, 0x8180, 1, 1, 0, 0) + answer)


# What is generated, flows a second, and how many of them.
LOADS = [(syn_flood, 300, 90_000), (sweep, 400, 120_000), (web_request, 400, 20_000),
         (tls_request, 20, 3_000), (tls_request, 300, 9_000), (ssh_session, 5, 300), (ssh_session, 50, 1_500), (dns_query, 100, 12_000), (dns_query, 1_000, 60_000)]


def part_load(args):
    with tempfile.TemporaryDirectory() as folder:
        capture = pathlib.Path(folder) / "load.pcap"
        for flow, rate, count in LOADS:
            rng = random.Random(1)
            frames = [(number * 10**6 // rate + after, frame) for number in range(count) for after, frame in flow(rng, number)]
            write_capture(capture, sorted(frames, key=lambda timed: timed[0]))
            streams = [event["spiked"] for event in events_of(args, "streams", capture)]
            classes = collections.Counter(stream["class"] or f"unknown, near {stream['best']}" for stream in streams)
            begun = collections.Counter(event["spiked"]["class"] for _, event in episodes_of(args, [capture]))
            shares = ", ".join(f"{name} {number / len(streams):.3f}" for name, number in classes.most_common(4))
            print(f"  {flow.__name__}, {rate} a second for {count / rate:.0f} s: {shares}; episodes: {dict(begun) or 'none'}")


def part_learn(args):
    benign = [RECORDINGS / c for c in captures_of("train") if c.startswith("train/normal-")]
    rows = attacks("train")
    totals = [0, 0, 0]
    with tempfile.TemporaryDirectory() as folder:
        without, learned = (pathlib.Path(folder) / f"{name}.safetensors" for name in ("without", "learned"))
        for kind in sorted({row["class"] for row in rows}):
            shown, *others = [row for row in rows if row["class"] == kind]
            others = [row for row in others if row["capture"] != shown["capture"]]
            # Of many attackers at once, their common victim is known.
            packets = f"host {shown['attacker'] if is_one_host(shown['attacker']) else shown['victim']}"
            learned.unlink(missing_ok=True)
            subprocess.run([args.spiked, "model", "remove", args.model, kind, "--out", without], check=True, capture_output=True)
            command = [args.spiked, "learn", "--model", without, "--from", RECORDINGS / shown["capture"], "--filter", packets,
                       "--class", kind, "--out", learned]
            done = subprocess.run(command, capture_output=True, text=True)
            found, false = 0, 0
            if learned.exists():
                of_class = lambda captures: [(str(c.relative_to(RECORDINGS)), e) for c, e in episodes_of(args, captures, learned)
                                             if e["spiked"]["class"] == kind]
                results, _, _ = match(others, of_class(sorted({RECORDINGS / row["capture"] for row in others})))
                found, false = sum(by_class is not None for _, by_class, _ in results), len(of_class(benign))
            refused = "" if learned.exists() else f"; refused: {done.stderr.strip()[-160:]}"
            print(f"    {kind:<16} {found} of {len(others)}, {false} false in {len(benign)} recordings without attacks{refused}")
            totals = [total + value for total, value in zip(totals, (found, len(others), false))]
    print(f"  found {totals[0]} of {totals[1]}, {totals[2]} false")


def part_benign(args):
    for folder in ("wild", "devices", "ndpi", "protos"):
        captures = [p for p in sorted((args.data / folder).rglob("*")) if p.is_file() and ".pcap" in p.name or p.suffix == ".cap"]
        found = list(episodes_of(args, captures))
        print(f"  {folder}: {len(captures)} captures, {len(found)} episodes")
        for capture, event in found:
            details = event["spiked"]
            print(f"    {capture.relative_to(args.data)}: {details['class']} of {details['host']} ({details['flows']} flows)")


def part_task(args):
    labels = [str(args.data / "tasks" / f"attack-{kind}.csv") for kind in ("train", "test")]
    for traces in ([], ["--traces"]):
        command = [args.spiked, "eval", "--cross-validate", "5", *traces, "--labels", *labels, "--captures", str(args.data), "--quiet"]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
        figures = json.loads(done.stdout)
        keys = ("accuracy", "macro_recall", "recall", "precision")
        print(f"  {'with' if traces else 'without'} traces:", ", ".join(f"{key} {figures[key]:.3f}" for key in keys if key in figures))
    answers = read_task(args, load(labels))
    known = [answer for answer in answers if answer[3]]
    of_class = collections.defaultdict(list)
    for label, nearest, *_ in known:
        of_class[label].append(nearest == label)
    accuracy = statistics.mean(nearest == label for label, nearest, *_ in known)
    macro_recall = statistics.mean(map(statistics.mean, of_class.values()))
    named = sum(name is not None for _, _, name, _ in answers)
    right = sum(name == label for label, _, name, _ in known)
    print(f"  read as captures: accuracy {accuracy:.3f}, macro_recall {macro_recall:.3f}, recall {right / len(known):.3f}, precision {right / named:.3f}")


def read_task(args, rows, folds=5):
    """Label, nearest class, name, and whether training has the label, of each stream of the attack task."""
    fold_of, captures, single = split(rows, lambda row: row["capture"], folds), collections.defaultdict(set), collections.Counter()
    for row in rows:
        captures[row["label"]].add(row["capture"])
    held = []
    for row in rows:
        if len(captures[row["label"]]) == 1:
            held.append(single[row["label"]] % folds)
            single[row["label"]] += 1
        else:
            held.append(fold_of[row["capture"]])
    answers = []
    for fold in range(folds):
        trained, tested = ([row for row, f in zip(rows, held) if (f == fold) == test] for test in (False, True))
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            spiked = Spiked(argparse.Namespace(spiked=args.spiked, seed=args.seed, threads=os.cpu_count()), folder)
            model = spiked.train(trained, args.data, "--traces")
            for capture in {row["capture"] for row in tested}:
                seen = {stream_of_row(row) for row in trained if row["capture"] == capture}
                (folder / capture).parent.mkdir(parents=True, exist_ok=True)
                if seen:
                    write_without(args.data / capture, seen, folder / capture)
                else:
                    (folder / capture).symlink_to((args.data / capture).resolve())
            known = {row["label"] for row in trained}
            answers += [(label, nearest, name, label in known) for _, label, nearest, name, _ in outcomes(spiked, model, folder, tested)]
    return answers


def stream_of_row(row):
    return key(row["proto"], row["src_ip"], row["src_port"], row["dst_ip"], row["dst_port"])


def write_without(capture, streams, out):
    """Writes the capture without the packets of some streams over IPv4."""
    data = subprocess.run(["tcpdump", "-r", str(capture), "-w", "-"], check=True, capture_output=True).stdout
    rewrite(data, lambda frame: None if stream_of(frame) in streams else frame, out)


def stream_of(frame):
    """The stream of an Ethernet frame, as `key` gives it; None if it is not over IPv4."""
    ends = ends_of(frame)
    return ends and ({1: "ICMP", 6: "TCP", 17: "UDP"}.get(ends[0]), frozenset(ends[1:]))


def part_cost(args):
    with tempfile.TemporaryDirectory() as folder:
        capture = pathlib.Path(folder) / "large.pcap"
        line_rate.make(str(args.data), args.packets, capture, pathlib.Path(folder) / "cut.pcap")
        ratios = []
        for _ in range(args.rounds):
            cpu = []
            for models in (["protocols"], ["protocols", "behaviours"]):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                command = [args.spiked, "read", *[word for model in models for word in ("--model", model)], "--quiet", str(capture)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            ratios.append(cpu[1] / cpu[0])
        print(f"  CPU, both models / protocols alone: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spiked")
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--model", default="behaviours")
    parser.add_argument("--parts", default="episodes,streams,paces,sensors,benign,load,learn,task,cost")
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1, help="of the models that part task trains to read captures")
    args = parser.parse_args()
    args.spiked = os.path.abspath(args.spiked)
    for part in args.parts.split(","):
        print(part, flush=True)
        globals()[f"part_{part}"](args)


if __name__ == "__main__":
    main()
