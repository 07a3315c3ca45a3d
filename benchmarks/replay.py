"""Measure how exactly `netdiff replay` keeps the times of packets.

    python benchmarks/replay.py [--packets N] [--speed X] [CAPTURE]

A capture (unless given, packets of 60 to 1,514 bytes with exponential gaps of 1 ms on average) is
replayed into a veth pair between two network namespaces, through a packet socket and through
tcpreplay, and taken by tcpdump at the other end with the kernel's times. The error of a packet is
how far its arrival, counted from the first packet's, is from its due time. Needs root. Prints a
table and writes benchmarks/out/replay.json.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import numpy as np

from netdiff_ray.config.replay import Sender
from netdiff_ray.packets import CaptureReader
from netdiff_ray.packets.writer import pcap_header, pcap_records

OUT = Path(__file__).resolve().parent / "out"
SEND, TAKE = "netdiff-bench-send", "netdiff-bench-take"
TARGET_MS = 1.0
_MEAN_GAP_NS = 1e6
_LEAST_BYTES, _MOST_BYTES = 60, 1514


def write_capture(path: Path, num_packets: int) -> None:
    """Write frames of UDP port 9 with exponential gaps."""
    draw = np.random.default_rng(1)
    caplen = draw.integers(_LEAST_BYTES, _MOST_BYTES + 1, num_packets)
    start = np.cumsum(caplen) - caplen
    data = draw.integers(0, 256, int(caplen.sum()), dtype=np.uint8)
    head = bytes.fromhex("0200000000020200000000010800" "45000000000040004011" "0000"
                         "0a0000010a000002" "00090009")  # fmt: skip
    for k, begin in enumerate(start):
        frame = data[begin : begin + caplen[k]]
        frame[: len(head)] = np.frombuffer(head, np.uint8)
        frame[16:18] = divmod(int(caplen[k]) - 14, 256)
    ts_ns = 10**18 + np.cumsum(draw.exponential(_MEAN_GAP_NS, num_packets)).astype(np.int64)
    records = pcap_records(data, start, caplen, caplen, ts_ns)
    path.write_bytes(pcap_header() + records.tobytes())


def content(path: Path) -> tuple[list[bytes], np.ndarray]:
    """Return the packets of a capture and their (P,) times in nanoseconds."""
    packets, times = [], []
    for table in CaptureReader(path):
        packets += [table.packet(k) for k in range(len(table))]
        times.append(table.ts_ns.copy())
    return packets, np.concatenate(times)


def measure(capture: Path, speed: float, folder: Path, sender: str) -> dict:
    """Replay a capture through a sender; return packets and errors."""
    taken = folder / "taken.pcap"
    listener = subprocess.Popen(
        ["ip", "netns", "exec", TAKE, "tcpdump", "-i", "v1", "-Q", "in", "-s", "0", "--nano", "-U",
         "-B", "262144", "-w", taken],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while "listening on" not in listener.stderr.readline():
        if listener.poll() is not None:
            raise SystemExit("tcpdump did not start")
    command = [sys.executable, "-m", "netdiff_ray.cli", "replay", capture, "--interface", "v0"]
    subprocess.run(
        ["ip", "netns", "exec", SEND, *command, "--speed", str(speed), "--sender", sender],
        check=True,
    )
    sent, due_ns = content(capture)
    time.sleep(1)  # for tcpdump to write what has arrived
    listener.send_signal(signal.SIGINT)
    listener.wait(30)
    listener.stderr.close()
    arrived, taken_ns = content(taken)
    result = {"packets": len(sent), "arrived": len(arrived), "same": arrived == sent}
    if len(sent) == len(arrived):
        due_ms = (due_ns - due_ns[0]) / speed / 1e6
        late_ms = (taken_ns - taken_ns[0]) / 1e6 - due_ms
        gaps_ms = np.abs(np.diff(late_ms))
        for name, values in (("error", np.abs(late_ms)), ("gap_error", gaps_ms)):
            for percent in (50, 99, 100):
                result[f"{name}_p{percent}_ms"] = float(np.percentile(values, percent))
        result["seconds"] = float(due_ms[-1] / 1e3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("capture", nargs="?", type=Path)
    parser.add_argument("--packets", type=int, default=20_000)
    parser.add_argument("--speed", type=float, default=1.0)
    options = parser.parse_args()
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tcpdump"))):
        print("replay.py needs root, ip and tcpdump: left out")
        return
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        capture = options.capture or folder / "made.pcap"
        if options.capture is None:
            write_capture(capture, options.packets)
        senders = [s for s in get_args(Sender) if s == "socket" or shutil.which(s)]
        try:
            for namespace in (SEND, TAKE):
                _run("ip", "netns", "add", namespace)
                setting = "net.ipv6.conf.default.disable_ipv6=1"
                _run("ip", "netns", "exec", namespace, "sysctl", "-qw", setting)
            _run("ip", "link", "add", "v0", "netns", SEND, "type", "veth", "peer", "v1", "netns",
                 TAKE)  # fmt: skip
            for namespace, device in ((SEND, "v0"), (TAKE, "v1")):
                _run("ip", "-n", namespace, "link", "set", device, "mtu", "65535", "arp", "off",
                     "up")  # fmt: skip
            for sender in senders:
                results[sender] = measure(capture, options.speed, folder, sender)
                print(sender, json.dumps(results[sender]))
        finally:
            for namespace in (SEND, TAKE):
                subprocess.run(["ip", "netns", "del", namespace], check=False)
    print(f"target: the same packets, error_p99_ms below {TARGET_MS}")
    OUT.mkdir(exist_ok=True)
    (OUT / "replay.json").write_text(json.dumps(results, indent=1))


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
