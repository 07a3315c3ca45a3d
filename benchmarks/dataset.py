"""Measure a large pcap dataset: drawn flows repaired and written, shard by shard.

    python benchmarks/dataset.py [--captures DIR ...] [--flows N] [--out DIR]

The drawn flows are windows of real captures, picked at random so that lengths are those of
the captures, degraded in raster space (2 % of cells replaced at random) with a seed for
each shard. Reports time, rate, bytes, and the memory after each tenth of the run. Prints a
table and writes benchmarks/out/dataset.json. The dataset is verified and removed.
"""

import argparse
import json
import re
import shutil
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from netdiff_ray.flows import assemble_flows
from netdiff_ray.generation.flow_repair import RepairedGroup
from netdiff_ray.generation.shard_builder import build_shard
from netdiff_ray.local.inspect import captures_in
from netdiff_ray.nprint import encode_windows, layout_named
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT
from netdiff_ray.packets import CaptureReader, header_rows
from netdiff_ray.repair import RepairContext, repair
from netdiff_ray.repair.serialise import Buffers
from netdiff_ray.storage.manifest import PCAP_DATASET, commit, missing_parts
from netdiff_ray.storage.shards import Scratch, index_name, write_shard
from netdiff_ray.storage.store import open_store
from netdiff_ray.storage.verify import verify

HERE = Path(__file__).resolve().parent
LAYOUT = layout_named(DEFAULT_LAYOUT)
FLOWS_PER_SHARD = 1000


def windows_of(captures: list[Path], most: int) -> list[np.ndarray]:
    """Return the (P, B) int8 nprints of the first `most` windows of captures."""
    nprints = []
    for capture in captures:
        reader = CaptureReader(capture)
        for w in assemble_flows((header_rows(t) for t in reader), reader.fingerprint):
            nprint = encode_windows(w, LAYOUT)
            nprints += [nprint[begin:end] for begin, end in pairwise(w.first)]
        if len(nprints) >= most:
            break
    return nprints[:most]


def drawn(windows: list[np.ndarray], number: int) -> list[np.ndarray]:
    """Return the degraded windows of a shard."""
    random = np.random.default_rng(number)
    chosen = [windows[k] for k in random.integers(0, len(windows), FLOWS_PER_SHARD)]
    joined = np.concatenate(chosen)
    flat = joined.reshape(-1)
    where = random.integers(0, flat.size, flat.size // 50)
    flat[where] = random.integers(-1, 2, len(where))
    ends = np.cumsum([len(w) for w in chosen])
    return [joined[end - len(w) : end] for w, end in zip(chosen, ends, strict=True)]


def memory_mb(field: str) -> float:
    """Return a memory figure of this process in MB: VmRSS (current) or VmHWM (peak)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", status)[1]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--captures", type=Path, nargs="+", default=[HERE.parent / "samples"])
    parser.add_argument("--flows", type=int, default=20_000)
    parser.add_argument("--windows", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=HERE / "out" / "dataset")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    captures, _ = captures_in(tuple(options.captures))
    windows = windows_of(captures, options.windows)
    num_shards = max(1, options.flows // FLOWS_PER_SHARD)
    config = {"job": "benchmark", "flows": num_shards * FLOWS_PER_SHARD}
    store = open_store(options.out)
    names = [index_name(number) for number in range(num_shards)]
    context, buffers, scratch = RepairContext(label="mixed"), Buffers(), Scratch()
    seconds = {"draw": 0.0, "repair": 0.0, "write": 0.0}
    marks = []
    written = 0
    begin = time.perf_counter()
    for number in missing_parts(store, config, names):
        start = time.process_time()
        matrices = drawn(windows, number)
        now = time.process_time()
        seconds["draw"] += now - start
        numbers = np.arange(FLOWS_PER_SHARD, dtype=np.uint64) + np.uint64(number * FLOWS_PER_SHARD)
        repaired = repair(matrices, LAYOUT, context, numbers, numbers, buffers)
        start = time.process_time()
        seconds["repair"] += start - now
        group = RepairedGroup(tuple(range(FLOWS_PER_SHARD)), "", repaired)
        shard = build_shard(
            [group], number=number, label="mixed", flow_ids=[f"{n:016x}" for n in numbers.tolist()]
        )
        written += write_shard(store, shard, config, scratch=scratch)
        seconds["write"] += time.process_time() - start
        if number == 0:
            begin, seconds = time.perf_counter(), dict.fromkeys(seconds, 0.0)  # compiled now
        if (number + 1) % max(1, num_shards // 10) == 0:
            flows = (number + 1) * FLOWS_PER_SHARD
            marks.append({"flows": flows, "rss_mb": memory_mb("VmRSS")})
            elapsed = time.perf_counter() - begin
            print(f"{flows:10,} flows  {elapsed:7.1f} s  RSS {marks[-1]['rss_mb']:6.0f} MB")
    wall = time.perf_counter() - begin
    counts = commit(store, PCAP_DATASET, config, names).manifest["counts"]
    share = (num_shards - 1) / num_shards
    result = {
        "flows": counts["flows"], "packets": counts["packets"], "bytes": written,
        "repair_distance": counts["repair_distance"],
        "wall_s": wall, "cpu_s": seconds, "memory": marks, "peak_mb": memory_mb("VmHWM"),
        "packets_per_cpu_s": {
            step: counts["packets"] * share / s for step, s in seconds.items() if s
        },
    }  # fmt: skip
    if num_shards > 100:
        sample = "a dataset this large is not read back here"
    else:
        sample = verify(store).problems or "verified: no problems"
    shutil.rmtree(options.out)
    print(
        f"{counts['flows']:,} flows, {counts['packets']:,} packets, {written / 1e9:.2f} GB in "
        f"{wall:.1f} s; peak {result['peak_mb']:.0f} MB; {sample}"
    )
    for step, rate in result["packets_per_cpu_s"].items():
        print(f"{step:8} {seconds[step]:8.1f} CPU s  {rate:12,.0f} packets / CPU s")
    (HERE / "out").mkdir(exist_ok=True)
    (HERE / "out" / "dataset.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
