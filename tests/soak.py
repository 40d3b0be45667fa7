#!/usr/bin/env python3
"""Soak: the daemon under mixed load and random faults for as long as told, its invariants checked after each fault.

    sudo python3 tests/soak.py target/release/spiked --seconds 1200 --seed 1

Needs root and `ip`. It makes a network namespace with a veth pair and a mount namespace of its own and leaves nothing behind. The load goes out through
a packet socket that counts what the kernel took: fixtures with changed addresses, SYN floods of distinct tuples, frames of random bytes.

Invariants, each checked at rest after every fault:
  frames    every frame sent is counted by the daemon as received or dropped, exactly; so, too, over each life of the daemon
  events    the sink's lines are whole JSON, and as many as the daemon says that it wrote; what it could not write is counted
  healthz   answers 200 within two seconds
  memory    resident memory stays below a bound; of runs of three rounds and more, the median of the last third of the time is no higher than
            that of the second
  files     open descriptors do not grow

Exit code 0: all held. 1: one did not, or a fault was not recovered from. 77: this machine gives no namespaces (skipped).
"""

import argparse
import collections
import ctypes
import glob
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
PORT = 9184
STREAMS = 20_000
# The kernel's ring (64 MiB, mapped), 256 batches of 256 frames, the table, the sinks' queues.
MOST_KB = 192 << 10
# A daemon that was told something has done it by then.
PATIENCE = 30


class Failed(Exception):
    """An invariant did not hold."""


def shell(script):
    done = subprocess.run(["sh", "-ec", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise OSError(f"{script}: {done.stderr}")


def frames_of(path):
    """Frames of a classic little-endian capture, which the fixtures are."""
    data = path.read_bytes()
    at, out = 24, []
    while at + 16 <= len(data):
        size = struct.unpack_from("<I", data, at + 8)[0]
        out.append(data[at + 16 : at + 16 + size])
        at += 16 + size
    return out


class Load:
    """What is sent, and how much of it the kernel took."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.real = [f for path in sorted((ROOT / "fixtures/captures").glob("*.pcap")) for f in frames_of(path) if len(f) <= 1500]
        self.sent = 0
        self.kinds = collections.Counter()
        self.flood = self.random.getrandbits(32)
        self.open()

    def open(self):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.socket.bind(("a", 0))

    def send(self, kind, frame):
        while True:
            try:
                self.socket.send(frame)
            except OSError as error:
                if error.errno in (11, 105):  # EAGAIN, ENOBUFS: the queue is full, nothing was taken
                    time.sleep(0.001)
                    continue
                raise
            break
        self.sent += 1
        self.kinds[kind] += 1

    def syn(self):
        self.flood += 1
        n = struct.pack(">Q", self.flood)
        head = bytes([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0])
        return head + bytes([100 + n[5] % 100, n[5], n[6], n[7], 192, 0, 2, 80, n[4], n[7], 0, 80, n[6], n[7], 1, 1, 0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0])

    def noise(self):
        """Random bytes. A VLAN tag with fewer than six bytes from it on is not sent: the kernel gives it to no listener and counts it nowhere."""
        while True:
            frame = self.random.randbytes(self.random.randrange(14, 400))
            if len(frame) >= 20 or frame[12:14] not in (b"\x81\x00", b"\x88\xa8"):
                return frame

    def real_round(self):
        """All fixtures once, as other hosts: an byte of each IPv4 address is changed."""
        byte = self.random.randrange(256)
        for frame in self.real:
            if frame[12:14] == b"\x08\x00" and len(frame) >= 34:
                frame = bytearray(frame)
                frame[28] ^= byte
                frame[32] ^= byte
            self.send("fixtures", bytes(frame))

    def mixed(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            kind = self.random.random()
            if kind < 0.5:
                self.real_round()
            elif kind < 0.8:
                for _ in range(1000):
                    self.send("flood", self.syn())
            else:
                for _ in range(200):
                    self.send("noise", self.noise())
            # Some ten thousand frames a second: what is tested are faults, not speed.
            time.sleep(0.1)


class Reader(threading.Thread):
    """The Unix socket's reader: can stall, go away and come back."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.stalled, self.lines, self.listener = path, False, 0, None
        self.listen()
        self.start()

    def listen(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(1)
        self.listener.settimeout(0.2)

    def close(self):
        listener, self.listener = self.listener, None
        listener.close()

    def run(self):
        connection, rest = None, b""
        while True:
            try:
                if self.listener is None:
                    if connection:
                        connection.close()
                        connection, rest = None, b""
                    time.sleep(0.05)
                elif connection is None:
                    connection, _ = self.listener.accept()
                    connection.settimeout(0.2)
                elif self.stalled:
                    time.sleep(0.05)
                else:
                    data = connection.recv(65536)
                    if not data:
                        connection, rest = None, b""
                        continue
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        json.loads(line)
                        self.lines += 1
            except (TimeoutError, OSError):
                pass


class Daemon:
    """The daemon, over several lives."""

    def __init__(self, binary, folder, load):
        self.binary, self.folder, self.load = binary, pathlib.Path(folder), load
        self.settings = self.folder / "spiked.toml"
        self.events = self.folder / "events"
        self.events.mkdir()
        shell(f"mount -t tmpfs -o size=512m tmpfs {self.events}")
        self.write_settings()
        # Frames that earlier lives accounted for.
        self.earlier = 0
        self.child = None
        self.start()

    def write_settings(self, more=""):
        self.settings.write_text(
            f"""
[[interfaces]]
name = "b"
[engine]
streams = {STREAMS}
idle_secs = 30
[capture]
batch_millis = 20
retry_max_secs = 1
[[sinks]]
type = "file"
path = "{self.events}/eve.json"
events = ["detection", "stream"]
[[sinks]]
type = "unix"
path = "{self.folder}/reader"
queue = 64
[process]
status_file = "{self.folder}/status.json"
{more}
"""
        )

    def start(self):
        log = open(self.folder / "log", "ab")
        self.child = subprocess.Popen([self.binary, "run", "--config", self.settings], stderr=log)
        # Lines of this life.
        self.lines_before = self.lines()
        self.until("it is ready", lambda: self.status()["not_ready"] is None and self.status()["interfaces"][0]["up"])

    def get(self, path, timeout=2):
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=timeout) as answer:
            return answer.read().decode()

    def status(self):
        return json.loads(self.get("/status"))

    def metric(self, name):
        """The sum of a metric's series."""
        return sum(float(l.rsplit(" ", 1)[1]) for l in self.get("/metrics").splitlines() if l.split("{")[0].split(" ")[0] == name)

    def until(self, what, condition, patience=PATIENCE):
        end = time.monotonic() + patience
        error = None
        while time.monotonic() < end:
            if self.child.poll() is not None:
                raise Failed(f"the daemon ended with {self.child.returncode}: {(self.folder / 'log').read_text()[-2000:]}")
            try:
                if condition():
                    return
            except (OSError, ValueError, KeyError) as e:
                error = e
            time.sleep(0.05)
        raise Failed(f"not within {patience} s: {what} ({error})")

    def accounted(self):
        interface = self.status()["interfaces"][0]
        return self.earlier + interface["received"] + sum(interface["dropped"].values())

    def lines(self):
        """Lines of the event files, each whole."""
        count = 0
        for path in glob.glob(f"{self.events}/eve.json*"):
            text = pathlib.Path(path).read_bytes()
            if text and not text.endswith(b"\n"):
                raise Failed(f"{path}: the last line is not whole")
            for line in text.splitlines():
                json.loads(line)
            count += text.count(b"\n")
        return count

    def rest(self):
        """Nothing is under way: what was sent is accounted for, what was taken is written."""
        try:
            self.until("every frame is accounted for", lambda: self.accounted() == self.load.sent)
        except Failed as error:
            counts = {f"{name}/{path.name}": path.read_text().strip() for name in "ab" for path in pathlib.Path(f"/sys/class/net/{name}/statistics").iterdir()}
            counts = {name: count for name, count in counts.items() if count != "0"}
            raise Failed(f"{error}: {self.load.sent} sent, {self.accounted()} accounted for, {self.earlier} by earlier lives; {counts}") from error
        seen = None

        def written():
            nonlocal seen
            sink = next(s for s in self.status()["sinks"] if s["name"] == "file")
            seen = (sink, self.lines() - self.lines_before)
            return sink["queued"] == 0 and seen[1] == sink["written"]

        try:
            self.until("every event is written or counted", written)
        except Failed as error:
            raise Failed(f"{error}: the sink says {seen[0]}, the files have {seen[1]} lines") from error
        if self.get("/healthz").strip() != "ok":
            raise Failed("/healthz")

    def memory(self):
        for line in open(f"/proc/{self.child.pid}/status"):
            if line.startswith("VmRSS:"):
                return int(line.split()[1])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    # Faults: each is made under load, and is over when it returns.

    def reload(self):
        """SIGHUP under load"""
        before = self.metric("spiked_reloads_total")
        self.child.send_signal(signal.SIGHUP)
        self.load.mixed(0.5)
        self.until("reloaded", lambda: self.metric("spiked_reloads_total") == before + 1 and self.metric("spiked_last_reload_successful") == 1)

    def bad_settings(self):
        """settings that are wrong"""
        self.write_settings("nonsense = 1")
        before = self.metric("spiked_reloads_total")
        self.child.send_signal(signal.SIGHUP)
        self.load.mixed(0.5)
        self.until("refused", lambda: self.metric("spiked_reloads_total") == before + 1 and self.metric("spiked_last_reload_successful") == 0)
        self.write_settings()

    def rotate(self):
        """event file rotated"""
        path = self.events / "eve.json"
        os.rename(path, self.events / f"eve.json.{time.monotonic_ns()}")
        self.child.send_signal(signal.SIGHUP)
        self.load.mixed(0.5)
        self.until("a new file", path.exists)

    def prune(self):
        """Rotated files are removed, as logrotate does; their lines are no longer counted."""
        for path in glob.glob(f"{self.events}/eve.json.*"):
            self.lines_before -= pathlib.Path(path).read_bytes().count(b"\n")
            os.unlink(path)

    def disk_full(self):
        """disk full while writing events"""
        ballast = self.events / "ballast"
        with open(ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 20))
            except OSError:
                pass
        self.load.mixed(2)
        os.unlink(ballast)
        self.load.mixed(0.5)

    def stalled_reader(self):
        """socket reader stalls"""
        self.reader.stalled = True
        self.load.mixed(2)
        self.reader.stalled = False

    def lost_reader(self):
        """socket reader gone and back"""
        self.reader.close()
        self.load.mixed(1)
        self.reader.listen()

    def scrapes(self):
        """50 clients, some never reading"""
        mute = []
        for _ in range(10):
            client = socket.create_connection(("127.0.0.1", PORT), timeout=2)
            client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n")
            mute.append(client)
        asking = [threading.Thread(target=lambda: self.quietly_get("/metrics")) for _ in range(40)]
        for thread in asking:
            thread.start()
        self.load.mixed(0.5)
        for thread in asking:
            thread.join()
        for client in mute:
            client.close()

    def quietly_get(self, path):
        try:
            self.get(path, 10)
        except OSError:
            pass  # Turned away: more clients than it serves.

    def interface(self):
        """interface removed and made anew"""
        # What waits in the kernel for an interface that goes is nobody's: nothing is sent meanwhile.
        before = self.status()["interfaces"][0]["reopened"]
        shell("ip link del dev b")
        time.sleep(0.3)
        pair()
        self.load.open()
        up = lambda: self.status()["interfaces"][0]
        self.until("captured again", lambda: up()["up"] and up()["reopened"] > before)

    def stopped(self):
        """stopped for two seconds under load"""
        self.child.send_signal(signal.SIGSTOP)
        self.load.mixed(2)
        self.child.send_signal(signal.SIGCONT)

    def killed(self):
        """kill -9 under load, started again"""
        self.rest()
        before = self.load.sent
        dead = threading.Timer(0.3, self.child.kill)
        dead.start()
        self.load.mixed(0.6)
        self.child.wait()
        self.lines()
        # What was sent to nobody, and what died with it, is nobody's.
        self.load.sent = self.earlier = before
        self.start()

    def term(self):
        """SIGTERM, started again"""
        self.rest()
        begun = time.monotonic()
        self.child.terminate()
        if self.child.wait(10) != 0 or time.monotonic() - begun > 5:
            raise Failed(f"SIGTERM: exit {self.child.returncode} after {time.monotonic() - begun:.1f} s")
        self.earlier = self.load.sent
        self.start()


FAULTS = [
    Daemon.reload, Daemon.bad_settings, Daemon.rotate, Daemon.disk_full, Daemon.stalled_reader, Daemon.lost_reader,
    Daemon.scrapes, Daemon.interface, Daemon.stopped, Daemon.killed, Daemon.term,
]  # fmt: skip


def pair():
    shell("ip link add name a type veth peer name b; ip link set dev a up; ip link set dev b up")


def soak(arguments, folder):
    shell("sysctl -qw net.ipv6.conf.default.disable_ipv6=1 net.ipv6.conf.all.disable_ipv6=1; ip link set lo up")
    pair()
    chance = random.Random(arguments.seed)
    load = Load(arguments.seed)
    reader = Reader(f"{folder}/reader")
    daemon = Daemon(arguments.binary, folder, load)
    daemon.reader = reader
    made, samples, files, total = collections.Counter(), [], [], 0
    begun = time.monotonic()
    deck = []
    dropped = collections.Counter()
    try:
        while (now := time.monotonic() - begun) < arguments.seconds or deck:
            if not deck and now < arguments.seconds:
                deck = chance.sample(FAULTS, len(FAULTS))
            fault = deck.pop()
            load.mixed(chance.uniform(0.2, 1.5))
            daemon.rest()
            fault(daemon)
            daemon.rest()
            daemon.prune()
            made[fault.__doc__] += 1
            samples.append((time.monotonic() - begun, daemon.memory()))
            files.append(daemon.descriptors())
        daemon.rest()
        status = daemon.status()
        daemon.child.terminate()
        if daemon.child.wait(10) != 0:
            raise Failed(f"SIGTERM: exit {daemon.child.returncode}")
    finally:
        daemon.child.kill()
        shutil.copy(f"{folder}/log", arguments.log) if arguments.log else None
        subprocess.run(["umount", "-l", daemon.events], check=False)
    third = len(samples) // 3
    middle, last = (statistics.median(m for _, m in part) / 1024 for part in (samples[third : 2 * third], samples[2 * third :]))
    print(f"{time.monotonic() - begun:.0f} s, seed {arguments.seed}")
    print(f"{'frames':<44}{sum(load.kinds.values()):>12}  " + ", ".join(f"{k} {n}" for k, n in sorted(load.kinds.items())))
    for name, count in sorted(made.items()):
        print(f"{name:<44}{count:>12}  recovered")
    print(f"{'frames neither received nor counted dropped':<44}{0:>12}  checked {2 * sum(made.values())} times")
    print(f"{'event lines cut, or not as many as counted':<44}{0:>12}")
    print(f"{'resident memory, MB':<44}{last:>12.1f}  {middle:.1f} a third before")
    print(f"{'descriptors':<44}{files[-1]:>12}  {max(files)} at most")
    if max(m for _, m in samples) > MOST_KB:
        raise Failed(f"memory: {max(m for _, m in samples)} kB")
    if min(made.values()) >= 3 and last > 1.1 * middle + 2:
        raise Failed(f"memory grows: {middle:.1f} to {last:.1f} MB")
    if statistics.median(files[2 * third :]) > statistics.median(files[:third]) + 2:
        raise Failed(f"descriptors grow: {files}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=os.path.abspath, help="the spiked to run")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", help="keep the daemon's log here")
    arguments = parser.parse_args()
    try:
        # CLONE_NEWNS | CLONE_NEWNET: both end with this process.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x00020000 | 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        shell("mount --make-rprivate / && mount -t sysfs sysfs /sys && ip -V")
    except OSError as error:
        print(f"skipped: the soak: no namespaces here: {error}")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        try:
            soak(arguments, folder)
        except Failed as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
