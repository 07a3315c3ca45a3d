"""Speed of repair, from nprints to serialised packets with checksums, on one core.

    python benchmarks/repair.py [--captures DIR] [--packets N]

Windows are real ones of the captures, cut to one length and repeated; made ones where there are
none. The best of several runs after a warm-up counts, in CPU time of one process. Prints
a table and writes benchmarks/out/repair.json.
"""

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from netdiff_ray.flows import assemble_flows
from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.packets import HEADER_ROW, CaptureReader, header_rows
from netdiff_ray.repair import Buffers, RepairContext, repair
from netdiff_ray.repair.batch import gather, read
from netdiff_ray.repair.change_report import account
from netdiff_ray.repair.rules import RULES
from netdiff_ray.repair.serialise import serialise

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
SAMPLES = HERE.parent / "samples" / "train"
TARGET = 500_000
"""Packets a second that the project asks of itself."""
LENGTHS = (16, 64, 1024)


def real_windows(place: Path, num_packets: int, layout) -> list[np.ndarray]:
    """Windows of exactly `num_packets` packets, of the captures under `place`."""
    found = []
    for capture in sorted(p for p in place.rglob("*.pcap*") if p.is_file()):
        chunks = (header_rows(table) for table in CaptureReader(capture))
        for windows in assemble_flows(chunks, b"", height=num_packets):
            for begin, end in pairwise(windows.first):
                rows = windows.rows[begin:end]
                if len(rows) == num_packets and (rows["fragment"] == 0).all():
                    part = slice(begin, end)
                    found.append(
                        encode(
                            rows,
                            layout,
                            direction=windows.direction[part],
                            interarrival_ns=windows.interarrival_ns[part],
                        )
                    )
    return found


def made_window(num_packets: int, layout) -> np.ndarray:
    """A download: full segments and acknowledgements in turn."""
    rows = np.zeros(num_packets, HEADER_ROW)
    direction = np.arange(num_packets, dtype=np.uint8) % 3 > 0
    length = np.where(direction, 1500, 52)
    network, transport = rows["network"], rows["transport"]
    network[:, 0], network[:, 6], network[:, 8], network[:, 9] = 0x45, 0x40, 64, 6
    network[:, 2], network[:, 3] = length >> 8, length & 255
    transport[:, 0], transport[:, 2] = np.where(direction, 1, 0), np.where(direction, 0, 1)
    transport[:, 1], transport[:, 3] = np.where(direction, 187, 0), np.where(direction, 0, 187)
    transport[:, 12], transport[:, 13], transport[:, 14] = 0x80, 16, 8
    transport[:, 20:24] = (1, 1, 8, 10)
    rows["network_len"], rows["transport_len"] = 20, 32
    rows["version"], rows["protocol"] = 4, 6
    gaps_ns = np.full(num_packets, 100_000)
    return encode(rows, layout, direction=direction.astype(np.uint8), interarrival_ns=gaps_ns)


def best(function, times: int = 5) -> float:
    """The shortest CPU time of several runs, in seconds."""
    shortest = float("inf")
    for _ in range(times):
        begin = time.process_time()
        function()
        shortest = min(shortest, time.process_time() - begin)
    return shortest


def steps(nprints, layout, context, seeds, buffers) -> dict[str, float]:
    """Nanoseconds a packet of each step."""
    drawn = gather(nprints, layout)
    taken = {}

    def timed(name, function, *arguments):
        begin = time.process_time()
        result = function(*arguments)
        taken[name] = time.process_time() - begin
        return result

    for _ in range(2):  # the second has its memory warm
        batch, _, _ = timed("read", read, drawn, layout, seeds, seeds)
        for rule in RULES:
            timed(rule.name, rule.apply, batch, context, layout)
        packets = timed("serialise", serialise, batch, context, buffers)
        timed("account", account, batch, layout)
    return {name: seconds / len(packets) * 1e9 for name, seconds in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--captures", type=Path, default=SAMPLES, help="folder of labelled captures"
    )
    parser.add_argument("--packets", type=int, default=200_000, help="packets in one run")
    options = parser.parse_args()
    context = RepairContext()
    results = []
    for name in ("timed", "nprint-1088"):
        layout = layout_named(name)
        for length in LENGTHS:
            windows = real_windows(options.captures, length, layout)
            source = "real" if windows else "made"
            windows = windows or [made_window(length, layout)]
            count = max(options.packets // length, 1)
            nprints = np.stack([windows[k % len(windows)] for k in range(count)])
            seeds, buffers = np.arange(count, dtype=np.uint64), Buffers()
            repair(nprints[:8], layout, context, seeds[:8])
            result = repair(nprints, layout, context, seeds, buffers=buffers)
            seconds = best(lambda: repair(nprints, layout, context, seeds, buffers=buffers))  # noqa: B023
            results.append(
                {
                    "layout": name,
                    "packets_per_flow": length,
                    "windows": source,
                    "flows": count,
                    "bytes_per_packet": len(result.packets.data) / len(result.packets),
                    "packets_per_s": len(result.packets) / seconds,
                    "flows_per_s": count / seconds,
                    "ns_per_packet": steps(nprints, layout, context, seeds, buffers),
                }
            )
    print(f"{'layout':12} {'packets':>8} {'windows':>8} {'bytes':>7} {'packets/s':>11}", end="")
    print(f" {'flows/s':>9} {'target':>7}")
    for row in results:
        met = "met" if row["packets_per_s"] >= TARGET else "missed"
        print(
            f"{row['layout']:12} {row['packets_per_flow']:8,} {row['windows']:>8} "
            f"{row['bytes_per_packet']:7.0f} {row['packets_per_s']:11,.0f} "
            f"{row['flows_per_s']:9,.0f} {met:>7}"
        )
    OUT.mkdir(exist_ok=True)
    (OUT / "repair.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
