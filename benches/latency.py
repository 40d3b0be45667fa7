#!/usr/bin/env python3
"""Latencies that a user notices, each with the bound that it should keep on an idle machine.

usage: sudo latency.py SPIKED [--probes 20]

SPIKED is a release build of the program. Runs in a network namespace of its own (`unshare --net`), which ends with it. Measures:

learn        `spiked learn` adds a class to the built-in model from one packet
event        from a DNS query on an interface to its detection in a file sink (batch_millis = 10), largest of the probes
stalled      the same while the reader of a second sink, a Unix socket with a queue of 16 events, does not read
scrape       /metrics while 90 slow clients hold connections: a third send nothing, a third half a request, a third never read
sigterm      from SIGTERM to the exit of the daemon while frames arrive at full speed

Prints a table of value and bound in seconds. Exit code 1 if a value exceeds its bound.
"""
import argparse, json, os, pathlib, signal, socket, struct, subprocess, sys, tempfile, threading, time

HERE = pathlib.Path(__file__).resolve().parent.parent
FIXTURE = HERE / "fixtures/captures/dns-1.pcap"
BOUNDS = {"learn": 10.0, "event": 0.2, "stalled": 1.0, "scrape": 9.0, "sigterm": 5.0}
WAIT = 60


def frames(path):
    """The frames of a little-endian pcap file."""
    data, at = path.read_bytes(), 24
    while at < len(data):
        length = struct.unpack_from("<I", data, at + 8)[0]
        yield data[at + 16 : at + 16 + length]
        at += 16 + length


def dns_stream(spiked):
    """The frames of the first stream of the fixture that is detected as DNS over UDP and IPv4."""
    read = subprocess.run([spiked, "read", "--format", "jsonl", "--events", "detections", FIXTURE], capture_output=True, text=True)
    for event in map(json.loads, read.stdout.splitlines()):
        if event["spiked"]["class"] == "dns" and event["proto"] == "UDP" and ":" not in event["src_ip"]:
            ends = {(socket.inet_aton(event[f"{end}_ip"]), event[f"{end}_port"]) for end in ("src", "dest")}
            key = lambda f: {(f[26:30], struct.unpack_from("!H", f, 34)[0]), (f[30:34], struct.unpack_from("!H", f, 36)[0])}
            return [f for f in frames(FIXTURE) if f[12:14] == b"\x08\x00" and f[23] == 17 and key(f) == ends]
    sys.exit(f"no DNS stream is detected in {FIXTURE}: {read.stderr}")


def renumbered(stream, number):
    """The stream with other addresses, and its client's address."""
    change = lambda f: f[:27] + bytes([number >> 8 & 0xFF, number & 0xFF]) + f[29:31] + bytes([number >> 8 & 0xFF, number & 0xFF]) + f[33:]
    changed = [change(f) for f in stream]
    return changed, socket.inet_ntoa(changed[0][26:30])


class Daemon:
    """A daemon that captures on `b`, the other end of `a`, with a file sink and more settings."""

    def __init__(self, spiked, folder, more=""):
        self.events = folder / "events.json"
        settings = folder / "spiked.toml"
        settings.write_text(f'[[interfaces]]\nname = "b"\n[capture]\nbatch_millis = 10\n[process]\nstatus_file = "{folder}/status.json"\n'
                            f'[[sinks]]\ntype = "file"\npath = "{self.events}"\nevents = ["detection"]\n{more}')
        self.log = open(folder / "log", "w")
        self.process = subprocess.Popen([spiked, "run", "--config", settings, "--set", "metrics.address=127.0.0.1:9184"], stderr=self.log)
        end = time.monotonic() + WAIT
        while b"200 OK" not in request(b"GET /readyz HTTP/1.0\r\n\r\n"):
            if time.monotonic() > end or self.process.poll() is not None:
                sys.exit("the daemon is not ready:\n" + (folder / "log").read_text())
            time.sleep(0.05)

    def stop(self):
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(WAIT)
        if code != 0:
            sys.exit(f"the daemon ended with exit code {code}")
        return time.monotonic() - began


def request(text):
    """The response of the daemon; empty without one."""
    try:
        with socket.create_connection(("127.0.0.1", 9184), WAIT) as client:
            client.sendall(text)
            response = b""
            while part := client.recv(1 << 16):
                response += part
            return response
    except OSError:
        return b""


def sender():
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.bind(("a", 0))
    return out


def learn(spiked, folder):
    began = time.monotonic()
    done = subprocess.run([spiked, "learn", "--from", FIXTURE, "--packet", "1", "--class", "private", "--model",
                           HERE / "config/models/protocols.safetensors", "--out", folder / "m.safetensors"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return time.monotonic() - began


def events(daemon, stream, numbers):
    """The largest time from the first frame of a stream to its detection in the file."""
    out, longest = sender(), 0.0
    with open(daemon.events) as lines:
        for number in numbers:
            sent, client = renumbered(stream, number)
            began = time.monotonic()
            for frame in sent:
                out.send(frame)
            while not any(f'"{client}"' in line for line in lines):
                if time.monotonic() - began > WAIT:
                    sys.exit(f"no detection of {client} within {WAIT} s")
                time.sleep(0.001)
            longest = max(longest, time.monotonic() - began)
    return longest


def event(spiked, folder, stream, probes):
    daemon = Daemon(spiked, folder)
    longest = events(daemon, stream, range(1, probes + 1))
    daemon.stop()
    return longest


def stalled(spiked, folder, stream, probes):
    path = folder / "reader"
    reader = socket.socket(socket.AF_UNIX)
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.bind(str(path))
    reader.listen()
    daemon = Daemon(spiked, folder, f'[[sinks]]\ntype = "unix"\npath = "{path}"\nevents = ["detection", "stream"]\nqueue = 16\n')
    # Fills the connection's buffer, then the queue.
    out = sender()
    for number in range(10_000, 13_000):
        for frame in renumbered(stream, number)[0]:
            out.send(frame)
        time.sleep(0.0005)
    longest = events(daemon, stream, range(1, probes + 1))
    status = json.loads(request(b"GET /status HTTP/1.0\r\n\r\n").split(b"\r\n\r\n", 1)[1])
    dropped = sum(sum(sink["dropped"].values()) for sink in status["sinks"] if sink["name"] == "unix")
    if dropped == 0:
        sys.exit("the stalled reader has not filled its queue: the measurement shows nothing")
    daemon.process.kill()
    daemon.process.wait()
    return longest


def scrape(spiked, folder):
    daemon = Daemon(spiked, folder)
    clients = [socket.create_connection(("127.0.0.1", 9184)) for _ in range(90)]
    for number, client in enumerate(clients):
        client.sendall([b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"][number % 3])
    began = time.monotonic()
    while b"spiked_frames_total" not in request(b"GET /metrics HTTP/1.0\r\n\r\n"):
        if time.monotonic() - began > WAIT:
            sys.exit("no scrape was answered")
    took = time.monotonic() - began
    for client in clients:
        client.close()
    daemon.stop()
    return took


def sigterm(spiked, folder, stream):
    daemon = Daemon(spiked, folder)
    ended, out = threading.Event(), sender()

    def load():
        number = 0
        while not ended.is_set():
            number += 1
            for frame in renumbered(stream, number)[0]:
                out.send(frame)

    thread = threading.Thread(target=load)
    thread.start()
    time.sleep(3)
    took = daemon.stop()
    ended.set()
    thread.join()
    return took


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("spiked")
    p.add_argument("--probes", type=int, default=20)
    options = p.parse_args()
    if "SPIKED_LATENCY_NAMESPACE" not in os.environ:
        os.environ["SPIKED_LATENCY_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    # The program reads variables of this prefix as settings.
    del os.environ["SPIKED_LATENCY_NAMESPACE"]
    for command in ("link set lo up", "link add name a type veth peer name b", "link set dev a up", "link set dev b up"):
        subprocess.run(["ip", *command.split()], check=True)
    stream = dns_stream(options.spiked)
    measures = {
        "learn": lambda folder: learn(options.spiked, folder),
        "event": lambda folder: event(options.spiked, folder, stream, options.probes),
        "stalled": lambda folder: stalled(options.spiked, folder, stream, options.probes),
        "scrape": lambda folder: scrape(options.spiked, folder),
        "sigterm": lambda folder: sigterm(options.spiked, folder, stream),
    }
    print(f"{'':<10}{'seconds':>10}{'bound':>10}")
    over = 0
    for name, measure in measures.items():
        with tempfile.TemporaryDirectory() as folder:
            value = measure(pathlib.Path(folder))
        over += value > BOUNDS[name]
        print(f"{name:<10}{value:>10.3f}{BOUNDS[name]:>10.1f}{'  exceeded' if value > BOUNDS[name] else ''}", flush=True)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
