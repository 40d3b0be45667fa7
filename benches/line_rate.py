#!/usr/bin/env python3
"""Cost of classifying every stream of a large capture, compared with other programs. One machine, one run, one table.

usage: line_rate.py SPIKED DATA [--packets 2000000] [--work DIR] [--peers all|none] [--rounds 3] [--against BINARY | --vxlan]

Builds one capture from the nDPI captures in DATA, repeated with changed addresses so that streams stay distinct, and the same cut to 96
bytes. Compares CPU and wall seconds and peak memory (the minimum of each over interleaved rounds) with: a plain scan of the mapped file
that touches each packet's first 128 bytes, libpcap's bare read loop, tcpdump, softflowd, p0f, ndpiReader, tshark, Suricata. Peers that are not
installed are skipped and reported. With --against, only compares SPIKED with another of its builds: each runs once a round, in turns, and
the ratio is that of one round, so that what else the machine does falls on both alike. With --vxlan, only compares the capture with the same
wrapped in VXLAN, likewise. On Debian: apt-get install gcc libpcap-dev tcpdump softflowd p0f libndpi-bin tshark suricata
"""
import argparse, glob, os, shutil, statistics, struct, subprocess, sys, tempfile, time, zlib

SCAN = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
int main(int argc, char **argv) {
  int fd = open(argv[1], O_RDONLY); struct stat st; fstat(fd, &st);
  const unsigned char *p = mmap(0, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  uint64_t at = 24, n = 0, sum = 0;
  while (at + 16 <= (uint64_t)st.st_size) {
    uint32_t len = *(const uint32_t *)(p + at + 8);
    const unsigned char *f = p + at + 16;
    uint32_t most = len < 128 ? len : 128;
    for (uint32_t i = 0; i + 8 <= most; i += 8) sum += *(const uint64_t *)(f + i);
    at += 16 + len; n++;
  }
  printf("%lu packets %lu\n", n, sum); return 0;
}
"""
LOOP = r"""
#include <pcap.h>
#include <stdio.h>
int main(int argc, char **argv) {
  char e[PCAP_ERRBUF_SIZE]; pcap_t *h = pcap_open_offline(argv[1], e);
  struct pcap_pkthdr *hd; const u_char *d; unsigned long n = 0, s = 0;
  while (pcap_next_ex(h, &hd, &d) == 1) { n++; s += d[0]; }
  printf("%lu packets %lu\n", n, s); return 0;
}
"""


def frames_of(data):
    for path in sorted(glob.glob(f"{data}/ndpi/pcap/*.pcap*")):
        run = subprocess.run(["tcpdump", "-r", path, "-w", "-"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        raw = run.stdout
        if len(raw) < 24 or raw[:4] != b"\xd4\xc3\xb2\xa1" or struct.unpack("<I", raw[20:24])[0] != 1:
            continue
        at, taken = 24, 0
        while at + 16 <= len(raw) and taken < 2000:
            second, micro, length, wire = struct.unpack("<IIII", raw[at:at + 16])
            yield second, micro, wire, bytearray(raw[at + 16:at + 16 + length])
            at += 16 + length
            taken += 1


def turned(frame, low, high):
    """Changes both addresses of an IP packet in place; doing it twice changes nothing."""
    kind = bytes(frame[12:14])
    places = (27, 31) if kind == b"\x08\x00" and len(frame) >= 34 else (26, 42) if kind == b"\x86\xdd" and len(frame) >= 54 else ()
    for at in places:
        frame[at] ^= low
        frame[at + 1] ^= high


def make(data, packets, path, cut):
    frames = list(frames_of(data))
    written = bytes = 0
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    with open(path, "wb", 1 << 20) as whole, open(cut, "wb", 1 << 20) as short:
        whole.write(head), short.write(head)
        turn = 0
        while written < packets:
            turn += 1
            high, low = turn >> 8 & 255, turn & 255
            for second, micro, wire, frame in frames:
                turned(frame, low, high)
                whole.write(struct.pack("<IIII", second, micro, len(frame), wire) + frame)
                part = frame[:96]
                short.write(struct.pack("<IIII", second, micro, len(part), wire) + part)
                turned(frame, low, high)
                written += 1
                bytes += len(frame)
    return written, bytes / written


def wrapped(whole, path):
    """Writes a capture with each frame in VXLAN (RFC 7348), between two tunnel ends, by a source port of the inner addresses and ports."""
    raw, at = open(whole, "rb").read(), 24
    with open(path, "wb", 1 << 20) as out:
        out.write(raw[:at])
        while at < len(raw):
            second, micro, length, wire = struct.unpack("<IIII", raw[at:at + 16])
            frame = raw[at + 16:at + 16 + length]
            port = 49152 | zlib.crc32(frame[23:24] + frame[26:38]) & 0x3FFF
            outer = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x08\0"
            outer += struct.pack(">BBHIBBH8B", 0x45, 0, (wire + 36) & 0xFFFF, 0, 64, 17, 0, 192, 0, 2, 1, 192, 0, 2, 2)
            outer += struct.pack(">HHHHII", port, 4789, (wire + 16) & 0xFFFF, 0, 0x08000000, 42 << 8)
            out.write(struct.pack("<IIII", second, micro, length + len(outer), wire + len(outer)) + outer + frame)
            at += 16 + length


def measure(call):
    """CPU seconds, wall seconds, peak MiB; None where the program failed."""
    start = time.monotonic()
    child = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        return None
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024




EVENTS = ["--format", "jsonl", "--quiet"]
BOTH = ["--model", "protocols", "--model", "behaviours"]


def compare(spiked, other, whole, cut, rounds):
    """Prints CPU and wall seconds of one build relative to another, setting by setting: minimum, median and maximum of the rounds' ratios."""
    reads = {
        "protocols": [whole],
        "one worker": ["--workers", "1", whole],
        "every packet scored": ["--every-packet", whole],
        "96 bytes": [cut],
    }
    calls = {(name, build): [build, "read", *EVENTS, *args] for name, args in reads.items() for build in (spiked, other)}
    # The other build may have no model of behaviours, so that both models are set beside its one.
    calls["protocols and behaviours", spiked] = [spiked, "read", *EVENTS, *BOTH, whole]
    found = {key: [] for key in calls}
    for turn in range(rounds):
        for key in sorted(calls, reverse=turn % 2 == 1):
            found[key].append(measure(calls[key]))
    print(f"{'':<60} {'CPU s':>13} {'CPU ratio':>18} {'wall ratio':>18}")
    pairs = [(name, spiked, name, other) for name in reads]
    pairs += [("protocols and behaviours", spiked, "protocols", build) for build in (other, spiked)]
    for name, build, against, base in pairs:
        title = f"{name}, against {'the other build' if base == other else 'this build'}{'' if name == against else ', protocols'}"
        ours, theirs = found[name, build], found[against, base]
        if None in ours or None in theirs:
            print(f"{title:<60} failed")
            continue
        ratios = [sorted(a[i] / b[i] for a, b in zip(ours, theirs)) for i in (0, 1)]
        cells = [f"{r[0]:.2f} {statistics.median(r):.2f} {r[-1]:.2f}" for r in ratios]
        seconds = f"{min(a[0] for a in ours):.2f} / {min(b[0] for b in theirs):.2f}"
        print(f"{title:<60} {seconds:>13} {cells[0]:>18} {cells[1]:>18}", flush=True)


def compare_vxlan(spiked, whole, path, rounds):
    """Prints CPU and wall seconds of the capture in VXLAN relative to those of the capture: minimum, median and maximum of the rounds' ratios."""
    wrapped(whole, path)
    found = {capture: [] for capture in (path, whole)}
    for turn in range(rounds):
        for capture in sorted(found, reverse=turn % 2 == 1):
            found[capture].append(measure([spiked, "read", *EVENTS, "--workers", "1", capture]))
    for i, kind in enumerate(("CPU", "wall")):
        ratios = sorted(a[i] / b[i] for a, b in zip(found[path], found[whole]))
        least = [min(run[i] for run in runs) for runs in found.values()]
        print(f"{kind} s in VXLAN / as it is, one worker: {least[0]:.2f} / {least[1]:.2f}; ratio {ratios[0]:.2f} {statistics.median(ratios):.2f} {ratios[-1]:.2f}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("spiked"), p.add_argument("data")
    p.add_argument("--packets", type=int, default=2_000_000)
    p.add_argument("--work")
    p.add_argument("--peers", choices=["all", "none"], default="all")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--against", metavar="BINARY", help="another build, to compare SPIKED with it and nothing else")
    p.add_argument("--vxlan", action="store_true", help="only compares the capture with the same in VXLAN")
    o = p.parse_args()
    work = o.work or tempfile.mkdtemp()
    os.makedirs(work, exist_ok=True)
    whole, cut = f"{work}/whole.pcap", f"{work}/cut.pcap"
    packets, mean = make(o.data, o.packets, whole, cut)
    if o.against or o.vxlan:
        print(f"{packets} packets, {mean:.0f} bytes on average; {o.rounds} interleaved rounds: minimum, median, maximum")
        if o.vxlan:
            compare_vxlan(os.path.abspath(o.spiked), whole, f"{work}/vxlan.pcap", o.rounds)
        else:
            compare(os.path.abspath(o.spiked), os.path.abspath(o.against), whole, cut, o.rounds)
        if not o.work:
            shutil.rmtree(work)
        return 0
    for name, source in (("scan", SCAN), ("loop", LOOP)):
        with open(f"{work}/{name}.c", "w") as f:
            f.write(source)
        subprocess.run(["cc", "-O2", "-o", f"{work}/{name}", f"{work}/{name}.c"] + (["-lpcap"] if name == "loop" else []), check=True)
    calls = [
        ("spiked read", [o.spiked, "read", *EVENTS, whole]),
        ("spiked read, one worker", [o.spiked, "read", *EVENTS, "--workers", "1", whole]),
        ("spiked read, every packet scored", [o.spiked, "read", *EVENTS, "--every-packet", whole]),
        ("spiked read, 96 bytes", [o.spiked, "read", *EVENTS, cut]),
        ("spiked read, 96 bytes, every packet", [o.spiked, "read", *EVENTS, "--every-packet", "--workers", "1", cut]),
        ("mapped scan, 128 bytes per packet", [f"{work}/scan", whole]),
        ("libpcap read loop", [f"{work}/loop", whole]),
    ]
    if o.peers == "all":
        calls += [
            ("tcpdump -n", ["tcpdump", "-n", "-r", whole]),
            ("softflowd", ["softflowd", "-d", "-r", whole, "-n", "127.0.0.1:9"]),
            ("p0f", ["p0f", "-r", whole, "-o", f"{work}/p0f.log"]),
            ("ndpiReader", ["ndpiReader", "-i", whole, "-q"]),
            ("tshark -z io,phs", ["tshark", "-n", "-q", "-z", "io,phs", "-r", cut]),
            ("suricata", ["suricata", "-r", whole, "-l", work, "-k", "none", "--runmode", "single"]),
        ]
    print(f"{packets} packets, {mean:.0f} bytes on average; minimum of {o.rounds} interleaved rounds")
    print(f"{'':<38} {'CPU s':>8} {'wall s':>8} {'ns CPU/pkt':>10} {'M pkt/s':>8} {'MiB':>7} {'CPU / spiked':>13}")
    found = {name: [] for name, _ in calls}
    # Round by round, so that what else the machine does falls on all alike; what takes many times as long as the rest runs once.
    slow = ("tshark -z io,phs", "suricata", "ndpiReader", "p0f")
    for turn in range(o.rounds):
        for name, call in calls:
            if shutil.which(call[0]) and not (turn and name in slow):
                found[name].append(measure(call))
    base = None
    for name, call in calls:
        if not shutil.which(call[0]):
            print(f"{name:<38} not installed")
            continue
        if None in found[name]:
            print(f"{name:<38} failed")
            continue
        cpu, wall, memory = (min(column) for column in zip(*found[name]))
        base = base or cpu
        ns, rate = cpu * 1e9 / packets, packets / wall / 1e6
        print(f"{name:<38} {cpu:>8.2f} {wall:>8.2f} {ns:>10.0f} {rate:>8.2f} {memory:>7.0f} {cpu / base:>13.2f}", flush=True)
    if not o.work:
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
