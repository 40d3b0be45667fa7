#!/usr/bin/env python3
"""CPU of a packet from an interface to its verdict, compared with libpcap's counting loop on the same interface.

usage: live.py SPIKED DATA [--packets 500000] [--rate 100000] [--rounds 3]

In a network namespace of its own, tcpreplay sends a capture (that of line_rate.py, frames of at most 1,500 bytes) through a veth pair at a
rate that both programs keep up with. In turns, a loop of libpcap that only counts and `spiked read -i` listen at the other end. CPU is user
and system time of each program's threads while frames are sent, without start and end; the kernel's own work on the sender's side falls on neither.
A packet is a frame that the interface received; whether a program lost some is not tested (`cargo bench --bench loss` does). Needs root, `ip`, `tcpreplay` and a C compiler with libpcap.
"""
import argparse, os, pathlib, re, signal, statistics, struct, subprocess, sys, tempfile, time

from line_rate import frames_of, turned

LOOP = r"""
#include <pcap/pcap.h>
#include <signal.h>
#include <stdio.h>
static pcap_t *p;
static void stop(int s) { pcap_breakloop(p); }
static void count(u_char *n, const struct pcap_pkthdr *h, const u_char *b) { ++*(unsigned long *)n; }
int main(int c, char **v) {
    char e[PCAP_ERRBUF_SIZE];
    unsigned long n = 0;
    signal(SIGINT, stop);
    p = pcap_create(v[1], e);
    pcap_set_snaplen(p, 65535), pcap_set_promisc(p, 1), pcap_set_timeout(p, 100), pcap_set_buffer_size(p, 64 << 20);
    if (pcap_activate(p) < 0) return 1;
    pcap_loop(p, -1, count, (u_char *)&n);
    printf("%lu packets\n", n);
}
"""


def threads(process):
    """CPU seconds of each thread of a process, by its name and number."""
    found = {}
    for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
        name, rest = re.match(r"\d+ \((.*)\) (.*)", (task / "stat").read_text()).groups()
        # The scheduler's own account is in nanoseconds.
        found[name, task.name] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return found


def write(data, packets, path):
    """Writes a capture of this many frames."""
    frames, turn, written = [f for f in frames_of(data) if len(f[3]) <= 1500], 0, 0
    with open(path, "wb", 1 << 20) as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        while written < packets:
            turn += 1
            for second, micro, _, frame in frames[: packets - written]:
                turned(frame, turn & 255, turn >> 8 & 255)
                out.write(struct.pack("<IIII", second, micro, len(frame), len(frame)) + frame)
                turned(frame, turn & 255, turn >> 8 & 255)
                written += 1


def received(namespace):
    return int(inside(namespace, ["cat", "/sys/class/net/b/statistics/rx_packets"], capture_output=True, text=True).stdout)


def inside(namespace, call, **options):
    return subprocess.run(["ip", "netns", "exec", namespace, *call], check=True, **options)


def measure(namespace, call, capture, rate):
    """CPU seconds by thread while the capture is sent, and frames received."""
    process = subprocess.Popen(["ip", "netns", "exec", namespace, *call], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1.5)
    before, frames = threads(process), received(namespace)
    inside(namespace, ["tcpreplay", "-q", "-i", "a", "--preload-pcap", "--pps", str(rate), capture], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1.0)
    after, frames = threads(process), received(namespace) - frames
    process.send_signal(signal.SIGINT)
    process.wait()
    return {name: cpu - before.get(name, 0) for name, cpu in after.items()}, frames


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("spiked"), p.add_argument("data")
    p.add_argument("--packets", type=int, default=500_000)
    p.add_argument("--rate", type=int, default=100_000)
    p.add_argument("--rounds", type=int, default=3)
    o = p.parse_args()
    namespace = f"spiked-live-{os.getpid()}"
    with tempfile.TemporaryDirectory() as work:
        write(o.data, o.packets, f"{work}/x.pcap")
        pathlib.Path(f"{work}/loop.c").write_text(LOOP)
        subprocess.run(["cc", "-O2", "-o", f"{work}/loop", f"{work}/loop.c", "-lpcap"], check=True)
        subprocess.run(["ip", "netns", "add", namespace], check=True)
        try:
            inside(namespace, ["ip", "link", "add", "name", "a", "type", "veth", "peer", "name", "b"])
            for end in "ab":
                inside(namespace, ["ip", "link", "set", "dev", end, "up"])
            spiked = [os.path.abspath(o.spiked), "read", "-i", "b", "--format", "jsonl", "--quiet"]
            calls = {"libpcap, counting": [f"{work}/loop", "b"], "spiked, protocols": spiked, "spiked, one worker": [*spiked, "--workers", "1"]}
            found = {name: [] for name in calls}
            for turn in range(o.rounds):
                for name in sorted(calls, reverse=turn % 2 == 1):
                    found[name].append(measure(namespace, calls[name], f"{work}/x.pcap", o.rate))
        finally:
            subprocess.run(["ip", "netns", "del", namespace], check=True)
    print(f"{o.packets} packets at {o.rate} a second, {o.rounds} rounds; ratios: least, median, most")
    base = [sum(cpu.values()) / frames for cpu, frames in found["libpcap, counting"]]
    for name, rounds in found.items():
        each = [sum(cpu.values()) / frames for cpu, frames in rounds]
        ratios = sorted(a / b for a, b in zip(each, base))
        print(f"{name:<22} {statistics.median(each) * 1e9:>7.0f} ns a packet  {ratios[0]:.2f} {statistics.median(ratios):.2f} {ratios[-1]:.2f}")
        for (thread, _), cpu in sorted(rounds[-1][0].items(), key=lambda item: -item[1]):
            if cpu > 0.001:
                print(f"    {thread:<18} {cpu / rounds[-1][1] * 1e9:>7.0f} ns a packet, last round")
    return 0


if __name__ == "__main__":
    sys.exit(main())
