#!/usr/bin/env python3
"""Figures of a fleet with real servers, all on one machine. One run, two tables.

usage: fleet.py SPIKED NATS_SERVER DATA [--captures 16] [--packets 125000] [--rounds 3] [--work DIR] [--parts NAME ...]

Part `tests` runs tests of tests/fleet one by one and prints the figures that they measure; it needs cargo and takes some minutes.

Part `archive`:

SPIKED is a release build with `--features fleet`. An archive of captures is made from the nDPI captures in DATA, repeated with changed
addresses. `spiked read --each-file --workers 2` reads it and writes events as JSON lines into a file; workers of `spiked fleet work`, two
processes or one with two jobs, publish events and tables to the server, which writes them into files. Times are wall clock; of workers from their start until the queue is
empty and all results are acknowledged. Rounds are interleaved; a ratio is that of one round. The CPU seconds of the server are a column of
their own; the last ratio is that of all CPU seconds, which other work on the machine changes less than the time that passes.
"""
import argparse, os, socket, statistics, struct, subprocess, sys, tempfile, time

from line_rate import frames_of, turned


def make(data, folder, captures, packets):
    frames = list(frames_of(data))
    if not frames:
        sys.exit(f"{data}: no captures in ndpi/pcap")
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

    def cpu(self):
        """CPU seconds so far."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.terminate()
        self.process.wait()


# Test, what is measured, goal.
TESTS = [
    ("events::the_leader_of_three_servers_is_killed_and_no_event_is_lost", "leader of three killed at 20,000 events/s", "each event once"),
    ("events::a_server_stopped_for_longer_than_its_window_for_doubles_delays_events_and_loses_none", "server stopped beyond its window for doubles", "each event once"),
    ("events::a_server_stopped_for_a_minute_costs_no_frame_and_no_event", "server stopped for 60 s", "0 frames dropped, all events"),
    ("events::acknowledged_events_arrive_once", "events acknowledged a second, one server", ""),
    ("events::acknowledged_events_arrive_once_in_three_copies", "events acknowledged a second, three copies", "20,000/s"),
    ("models::fifty_sensors_have_a_model_within_seconds", "a model on 50 sensors", "2 s"),
    ("models::wrong_files_are_refused_and_the_last_good_copy_serves_without_servers", "corrupt and wrongly signed models", "refused"),
    ("parts::a_class_taught_on_one_sensor_is_named_on_another_after_its_approval", "a class taught on one sensor is named on another", "5 s"),
    ("archives::a_thousand_captures_are_counted_once_although_workers_are_killed", "1,000 captures, workers killed", "each once, equal to read"),
    ("permissions::each_role_may_use_its_subjects_and_no_others", "permission matrix", "each refused"),
]


def tests(args):
    call = ["cargo", "test", "--locked", "--features", "fleet", "--test", "fleet", "--"]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {**os.environ, "SPIKED_NATS_SERVER": os.path.abspath(args.nats_server)}
    print("| measured | goal | result |\n| --- | --- | --- |")
    for test, what, goal in TESTS:
        run = subprocess.run(call + ["--exact", test, "--include-ignored", "--nocapture"], cwd=root, env=environment, capture_output=True, text=True)
        passed = "1 passed" in run.stdout and "skipped" not in run.stderr
        figures = [line for line in run.stdout.splitlines() if line and not line.startswith(("running", "test "))]
        if not passed:
            print(run.stderr, file=sys.stderr)
        print(f"| {what} | {goal} | {'passed' if passed else 'FAILED'}{': ' if figures else ''}{'; '.join(figures)} |", flush=True)


def measure(calls, output=subprocess.DEVNULL):
    """Wall seconds until all processes have ended, and their CPU seconds."""
    start = time.monotonic()
    children = [subprocess.Popen(call, stdout=output) for call in calls]
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
                    with open(f"{folder}/events.jsonl", "wb") as events:
                        found[way].append((*measure(ways[way], events), 0))
                    continue
                subprocess.run(fleet("enqueue", "--again", captures), check=True, stdout=subprocess.DEVNULL)
                before = server.cpu()
                found[way].append((*measure(ways[way]), server.cpu() - before))
    finally:
        server.stop()
    base = found["spiked read --workers 2"]
    print(f"archive: {args.captures} captures of {args.packets:,} packets, {args.rounds} rounds, {os.cpu_count()} CPUs")
    print(f"{'':<34} {'wall s':>8} {'CPU s':>8} {'server':>8} {'M packets/s':>12} {'rate relative to read':>24} {'by CPU':>8}")
    for way, rounds in found.items():
        ratios = sorted(b[0] / a[0] for a, b in zip(rounds, base))
        by_cpu = statistics.median(b[1] / (a[1] + a[2]) for a, b in zip(rounds, base))
        wall, cpu, served = (min(r[i] for r in rounds) for i in (0, 1, 2))
        shares = f"{ratios[0]:.2f} {statistics.median(ratios):.2f} {ratios[-1]:.2f}"
        print(f"{way:<34} {wall:>8.2f} {cpu:>8.2f} {served:>8.2f} {total / wall / 1e6:>12.2f} {shares:>24} {by_cpu:>8.2f}", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("spiked"), p.add_argument("nats_server"), p.add_argument("data")
    p.add_argument("--captures", type=int, default=16)
    p.add_argument("--packets", type=int, default=125_000)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--work")
    p.add_argument("--parts", nargs="*", choices=["tests", "archive"], default=["tests", "archive"])
    args = p.parse_args()
    if "tests" in args.parts:
        tests(args)
    if "archive" not in args.parts:
        return
    if args.work:
        os.makedirs(args.work, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        archive(args, folder)


if __name__ == "__main__":
    main()
