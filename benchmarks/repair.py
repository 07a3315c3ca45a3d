"""Measure repair, from nprints to serialised packets with checksums, on one core.

    python benchmarks/repair.py [--captures DIR] [--packets N]

Windows are those of the captures, cut to the same length and repeated, or synthetic where the
captures have none; dialogues are measured with made downloads. The best of several runs after a
warm-up counts, in CPU time of one process. Prints a table and writes benchmarks/out/repair.json.
"""

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from netdiff_ray.flows import assemble_flows
from netdiff_ray.header_bytes import (
    ACK,
    DPORT,
    IPPROTO_TCP,
    IPV4_FLAGS,
    IPV4_HEADER_BYTES,
    IPV4_PROTO,
    IPV4_TL,
    IPV4_TTL,
    IPV4_VER,
    SPORT,
    TCP_ACKN,
    TCP_DOFF,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    TCP_OPT,
    TCP_OPTION_NOP,
    TCP_OPTION_TIMESTAMPS,
    TCP_SEQ,
    TCP_WSIZE,
)
from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT
from netdiff_ray.packets import HEADER_ROW, CaptureReader, header_rows
from netdiff_ray.repair import Buffers, RepairContext, repair
from netdiff_ray.repair.batch import gather, read
from netdiff_ray.repair.change_report import change_report
from netdiff_ray.repair.plans import no_plans
from netdiff_ray.repair.rules import RULES
from netdiff_ray.repair.serialise import serialise

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
SAMPLES = HERE.parent / "samples" / "train"
DIALOGUE_PACKETS, DIALOGUE_TARGET = 64, 2_000
"""Packets of a flow with a dialogue, and flows per second, the project's target."""
TARGET = 500_000
"""Packets per second, the project's target."""
LENGTHS = (16, 64, 1024)


def real_windows(folder: Path, num_packets: int, layout) -> list[np.ndarray]:
    """Return the windows of exactly `num_packets` packets in the captures under `folder`."""
    nprints = []
    for capture in sorted(p for p in folder.rglob("*.pcap*") if p.is_file()):
        chunks = (header_rows(table) for table in CaptureReader(capture))
        for windows in assemble_flows(chunks, b"", height=num_packets):
            for begin, end in pairwise(windows.first):
                rows = windows.rows[begin:end]
                if len(rows) == num_packets and (rows["fragment"] == 0).all():
                    part = slice(begin, end)
                    nprints.append(
                        encode(
                            rows,
                            layout,
                            direction=windows.direction[part],
                            interarrival_ns=windows.interarrival_ns[part],
                            state=windows.state[part],
                        )
                    )
    return nprints


def made_window(num_packets: int, layout, port: int = 443, client_bytes: int = 52) -> np.ndarray:
    """Return a download: two full segments after each packet of the client's, acknowledgements
    unless these have more bytes."""
    rows = np.zeros(num_packets, HEADER_ROW)
    direction = np.arange(num_packets, dtype=np.uint8) % 3 > 0
    length = np.where(direction, 1500, client_bytes)
    network, transport = rows["network"], rows["transport"]
    network[:, IPV4_VER], network[:, IPV4_FLAGS] = 0x45, 0x40
    network[:, IPV4_TTL], network[:, IPV4_PROTO] = 64, IPPROTO_TCP
    network[:, IPV4_TL], network[:, IPV4_TL + 1] = length >> 8, length & 255
    for offset, ports in (
        (SPORT, np.where(direction, port, 0)),
        (DPORT, np.where(direction, 0, port)),
    ):
        transport[:, offset], transport[:, offset + 1] = ports >> 8, ports & 255
    transport[:, TCP_SEQ : TCP_ACKN + 4] = numbers(direction.astype(np.int64), length)
    transport[:, TCP_DOFF], transport[:, TCP_FLAGS], transport[:, TCP_WSIZE] = 0x80, ACK, 8
    transport[:, TCP_OPT : TCP_OPT + 4] = (
        TCP_OPTION_NOP,
        TCP_OPTION_NOP,
        TCP_OPTION_TIMESTAMPS,
        10,
    )
    rows["network_len"], rows["transport_len"] = IPV4_HEADER_BYTES, TCP_HEADER_BYTES + 12
    rows["version"], rows["protocol"] = 4, IPPROTO_TCP
    gaps_ns = np.full(num_packets, 100_000)
    return encode(rows, layout, direction=direction.astype(np.uint8), interarrival_ns=gaps_ns)


def numbers(side: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return the bytes of sequence and ACK numbers, (P, 8) uint8, of packets with options of 12
    bytes between hosts that lose nothing and acknowledge all at once.

    Args:
        side: (P,) int64 that sends, 0 or 1.
        length: (P,) int64 bytes of the IPv4 packets.
    """
    payload_bytes = length - IPV4_HEADER_BYTES - TCP_HEADER_BYTES - 12
    sent = np.cumsum(np.where(side == [[0], [1]], payload_bytes, 0), axis=1)
    each = np.arange(len(side))
    both = np.stack([sent[side, each] - payload_bytes, sent[1 - side, each]], axis=1)
    return both.astype(">u4").view(np.uint8)


def dialogue_rates() -> dict[str, float]:
    """Return flows per second with dialogues of HTTP and TLS."""
    layout, rates = layout_named(DEFAULT_LAYOUT), {}
    for name, port in (("http", 80), ("tls", 443)):
        nprints = np.stack([made_window(DIALOGUE_PACKETS, layout, port, client_bytes=452)] * 500)
        seeds, buffers = np.arange(len(nprints), dtype=np.uint64), Buffers()
        result = repair(nprints, layout, RepairContext(), seeds, buffers=buffers)
        assert result.batch.flows.has_dialogue.all()
        seconds = best(lambda: repair(nprints, layout, RepairContext(), seeds, buffers=buffers))  # noqa: B023
        rates[name] = len(nprints) / seconds
    return rates


def best(function, times: int = 5) -> float:
    """Return the shortest CPU time of several runs, in seconds."""
    shortest = float("inf")
    for _ in range(times):
        begin = time.process_time()
        function()
        shortest = min(shortest, time.process_time() - begin)
    return shortest


def steps(nprints, layout, context, seeds, buffers) -> dict[str, float]:
    """Return nanoseconds a packet of each step."""
    drawn = gather(nprints, layout)
    taken = {}

    def timed(name, function, *arguments):
        begin = time.process_time()
        result = function(*arguments)
        taken[name] = time.process_time() - begin
        return result

    for _ in range(2):  # the second has its memory warm
        batch, _, _ = timed("read", read, drawn, layout, seeds, seeds, no_plans(len(seeds)))
        for rule in RULES:
            timed(rule.name, rule.apply, batch, context, layout)
        packets = timed("serialise", serialise, batch, context, buffers)
        timed("change_report", change_report, batch, layout)
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
    for name in (DEFAULT_LAYOUT, "nprint-1088"):
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
    rates = dialogue_rates()
    for name, rate in rates.items():
        met = "met" if rate >= DIALOGUE_TARGET else "missed"
        print(f"dialogues of {name}, {DIALOGUE_PACKETS} packets: {rate:,.0f} flows/s, {met}")
    OUT.mkdir(exist_ok=True)
    report = {"windows": results, "dialogue_flows_per_s": rates}
    (OUT / "repair.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
