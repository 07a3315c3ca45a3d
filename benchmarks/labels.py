"""Measure how long it takes to join label rows with flows, and the memory of it.

    python benchmarks/labels.py [--rows N] [--flows N]

Rows are written as a CSV with times to the second on a clock three hours off, a quarter of them
with swapped endpoints; a tenth are of the flows, the others of endpoints without a flow. The time
is that of reading the file, telling the clock and matching, in a process of its own, whose
largest memory is printed. Prints a table and writes benchmarks/out/labels.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from netdiff_ray.flow_keys import KEY_WORDS
from netdiff_ray.flow_labels.clock import estimate_clock, spans_of_labels
from netdiff_ray.flow_labels.match import match_flows
from netdiff_ray.flow_labels.read import read_labels
from netdiff_ray.flow_labels.spans import FlowSpans
from netdiff_ray.header_bytes import IPPROTO_TCP

OUT = Path(__file__).resolve().parent / "out"
S_NS = 10**9
BEGIN_S = 1_499_256_000
DAY_S = 86_400
ROWS, FLOWS = 10_000_000, 1_000_000
TARGET_S, TARGET_BYTES = 120, 2 << 30
_HOSTS = 1 << 16
_BATCH = 500_000


def made_flows(count: int) -> dict[str, np.ndarray]:
    """Return the numbers of hosts and ports, and the starts, of flows of a day."""
    draw = np.random.default_rng(1)
    return {
        "client": draw.integers(0, _HOSTS, count), "server": draw.integers(0, 1000, count),
        "sport": draw.integers(1024, 65536, count), "dport": draw.choice([80, 443, 22], count),
        "start_ns": (BEGIN_S + draw.integers(0, DAY_S, count)) * S_NS + draw.integers(0, S_NS),
        "lasts_ns": draw.integers(0, 10 * S_NS, count), "label": draw.integers(0, 12, count),
    }  # fmt: skip


def spans_of(flows: dict[str, np.ndarray]) -> FlowSpans:
    """Return the flows as captures give them."""
    count = len(flows["client"])
    words = np.zeros((count, KEY_WORDS), np.uint64)
    words[:, 1] = (10 << 24) + flows["client"]  # lower than the server's address
    words[:, 3] = (172 << 24) + flows["server"]
    ports = flows["sport"].astype(np.uint64) << np.uint64(16) | flows["dport"].astype(np.uint64)
    words[:, 4] = ports << np.uint64(16) | np.uint64(IPPROTO_TCP << 8 | 4)
    return FlowSpans(
        flow_id=[""] * count, words=words, start_ns=flows["start_ns"],
        end_ns=flows["start_ns"] + flows["lasts_ns"],
    )  # fmt: skip


def write_rows(path: Path, flows: dict[str, np.ndarray], num_rows: int) -> None:
    """Write the label rows of the flows, and others between them, as a CSV."""
    draw = np.random.default_rng(2)
    clients = pa.array([f"10.0.{k >> 8}.{k & 255}" for k in range(_HOSTS)])
    servers = pa.array([f"172.0.{k >> 8}.{k & 255}" for k in range(1000)])
    others = pa.array([f"192.168.{k >> 8}.{k & 255}" for k in range(_HOSTS)])
    labels = pa.array([f"label {k}" for k in range(12)])
    num_flows, writer = len(flows["client"]), None
    for begin in range(0, num_rows, _BATCH):
        count = min(_BATCH, num_rows - begin)
        of_flow = np.arange(begin, begin + count) % max(num_rows // num_flows, 1) == 0
        k = np.arange(begin, begin + count) // max(num_rows // num_flows, 1) % num_flows
        client = np.where(of_flow, flows["client"][k], draw.integers(0, _HOSTS, count))
        src = pa.compute.if_else(of_flow, clients.take(client), others.take(client))
        dst, swap = servers.take(flows["server"][k]), draw.random(count) < 0.25
        sport, dport = flows["sport"][k], flows["dport"][k]
        seconds = flows["start_ns"][k] // S_NS - 3 * 3600
        table = pa.table({
            "Source IP": pa.compute.if_else(swap, dst, src),
            "Source Port": np.where(swap, dport, sport),
            "Destination IP": pa.compute.if_else(swap, src, dst),
            "Destination Port": np.where(swap, sport, dport),
            "Protocol": np.full(count, 6),
            "Timestamp": pa.compute.strftime(
                pa.array(seconds, pa.timestamp("s")), format="%d/%m/%Y %H:%M:%S"
            ),
            "Flow Duration": flows["lasts_ns"][k] // 1000,
            "Label": labels.take(flows["label"][k]),
        })  # fmt: skip
        writer = writer or pacsv.CSVWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def measure(path: Path, num_flows: int) -> dict:
    """Return seconds of each step, the share of flows with the right label, and memory."""
    flows = made_flows(num_flows)
    spans = spans_of(flows)
    times = [time.perf_counter()]
    table = read_labels([str(path)])
    times.append(time.perf_counter())
    choice = estimate_clock(spans, table)
    times.append(time.perf_counter())
    matches = match_flows(spans, spans_of_labels(table, choice.clock))
    times.append(time.perf_counter())
    codes = np.array([int(name.split()[1]) for name in table.labels])
    right = (matches.label >= 0) & (codes[matches.label] == flows["label"])
    read_s, clock_s, match_s = np.diff(times).tolist()
    return {
        "rows": len(table), "flows": num_flows, "read_s": read_s, "clock_s": clock_s,
        "match_s": match_s, "total_s": times[-1] - times[0], "zone": choice.clock.zone,
        "cpu_s": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), "right": float(right.mean()),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--flows", type=int, default=FLOWS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.flows)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.csv"
        write_rows(path, made_flows(options.flows), options.rows)
        command = [sys.executable, __file__, "--flows", str(options.flows), "--measure", str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout) | {"csv_bytes": path.stat().st_size}
    names = ("read_s", "clock_s", "match_s", "total_s", "cpu_s")
    print(f"{result['rows']:,} rows, {result['flows']:,} flows; {result['right']:.4f} right")
    print("  ".join(f"{name} {result[name]:.1f}" for name in names))
    print(f"peak {result['peak_bytes'] / 2**20:,.0f} MiB (of {ROWS:,} rows: {TARGET_S} s, 2 GiB)")
    OUT.mkdir(exist_ok=True)
    (OUT / "labels.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
