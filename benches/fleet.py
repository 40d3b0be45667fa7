#!/usr/bin/env python3
"""Rates of a fleet with one nats-server, all on one machine. One run, one table.

usage: fleet.py SPIKED NATS_SERVER DATA [--captures 16] [--packets 125000] [--rounds 3] [--work DIR]

SPIKED is a release build with `--features fleet`. An archive of captures is made from the nDPI captures in DATA, repeated with changed
addresses. `spiked read --each-file --workers 2` reads it with events as JSON lines, and so do workers of `spiked fleet work`, two processes or
one with two jobs, which publish events and tables to the server. Times are wall clock; of workers from their start until the queue is
empty and all results are acknowledged. Rounds are interleaved; a ratio is that of one round. CPU seconds of workers are without those of the
server.
"""
import argparse, os, socket, statistics, struct, subprocess, sys, tempfile, time

from line_rate import frames_of, turned


def make(data, folder, captures, packets):
    frames = list(frames_of(data))
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    turn = 0
    for number in range(captures):
        with open(f"{folder}/{number:03}.pcap", "wb", 1 << 20) as file:
            file.write(head)
            written = 0
            while written < packets:
                turn += 1
                high, low = turn >> 8 & 255, turn & 255
                for second, micro, wire, frame in frames[:packets - written]:
                    turned(frame, low, high)
                    file.write(struct.pack("<IIII", second, micro, len(frame), wire) + frame)
                    turned(frame, low, high)
                    written += 1


class Server:
    """A nats-server in a folder of its own."""

    def __init__(self, program, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        call = [program, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", folder]
        self.process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.05)
        sys.exit("nats-server does not start")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def measure(calls):
    """Wall seconds until all processes have ended, and their CPU seconds."""
    start = time.monotonic()
    children = [subprocess.Popen(call, stdout=subprocess.DEVNULL) for call in calls]
    cpu = 0
    for child in children:
        _, status, usage = os.wait4(child.pid, 0)
        # 3: the other worker was faster and took all captures.
        if os.waitstatus_to_exitcode(status) not in (0, 3):
            sys.exit(f"{child.args} failed")
        cpu += usage.ru_utime + usage.ru_stime
    return time.monotonic() - start, cpu


def archive(args, folder):
    captures = f"{folder}/archive"
    os.makedirs(captures, exist_ok=True)
    make(args.data, captures, args.captures, args.packets)
    total = args.captures * args.packets
    server = Server(args.nats_server, f"{folder}/store")
    try:
        fleet = lambda *words: [args.spiked, "fleet", words[0], "--server", server.url, *words[1:]]
        subprocess.run(fleet("init", "--events-mib", "256", "--results-mib", "2048"), check=True, stdout=subprocess.DEVNULL)
        work = fleet("work", "--until-empty")
        ways = {
            "spiked read --workers 2": [[args.spiked, "read", "--each-file", "--workers", "2", "--format", "jsonl", "--quiet", captures]],
            "two workers, one process each": [work + ["--name", "a"], work + ["--name", "b"]],
            "one process, --jobs 2": [work + ["--jobs", "2"]],
        }
        found = {way: [] for way in ways}
        for turn in range(args.rounds):
            for way in sorted(ways, reverse=turn % 2 == 1):
                if way.startswith("spiked read"):
                    # Both read from the page cache.
                    found[way].append(measure(ways[way]))
                    continue
                subprocess.run(fleet("enqueue", "--again", captures), check=True, stdout=subprocess.DEVNULL)
                found[way].append(measure(ways[way]))
    finally:
        server.stop()
    base = found["spiked read --workers 2"]
    print(f"archive: {args.captures} captures of {args.packets:,} packets, {args.rounds} rounds, {os.cpu_count()} CPUs")
    print(f"{'':<34} {'wall s':>8} {'CPU s':>8} {'M packets/s':>12} {'rate relative to read':>24}")
    for way, rounds in found.items():
        ratios = sorted(b[0] / a[0] for a, b in zip(rounds, base))
        wall, cpu = (min(r[i] for r in rounds) for i in (0, 1))
        shares = f"{ratios[0]:.2f} {statistics.median(ratios):.2f} {ratios[-1]:.2f}"
        print(f"{way:<34} {wall:>8.2f} {cpu:>8.2f} {total / wall / 1e6:>12.2f} {shares:>24}", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("spiked"), p.add_argument("nats_server"), p.add_argument("data")
    p.add_argument("--captures", type=int, default=16)
    p.add_argument("--packets", type=int, default=125_000)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--work")
    args = p.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        archive(args, folder)


if __name__ == "__main__":
    main()
