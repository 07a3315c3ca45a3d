"""Measure what Ray costs: against a bare process, at a hundred times the flows, and at drawing.

    python benchmarks/pipeline.py [--sizes N ...] [--rounds K] [--adapter DIR] [--folder DIR]

1. Encoding, and repairing and writing, of `--compared` flows: through Ray on two workers, and
   by the same functions in a bare process, in turn; the wall times and their ratio. Ray is
   started, and both have run once, before the clock starts.
2. The same two through Ray for each of `--sizes`: seconds a flow, and the driver's memory.
3. With `--adapter`: `netdiff generate` with it; the share of the time from its first batch to its
   last in which a denoiser draws.

The flows are those of `samples/train`, whose captures are copied until there are enough.
Drawing is replaced, but for 3., by stored drawings: windows of the samples, 2 % of whose cells
are changed, read from the disk in rotation. Prints tables and writes
benchmarks/out/pipeline.json.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import ray.data
from dataset import FLOWS_PER_SHARD, LAYOUT, drawn, memory_mb, windows_of

from netdiff_ray.config import EncodeConfig, GenerateConfig
from netdiff_ray.config.diffusion import DrawSettings
from netdiff_ray.distributed.encode import encode
from netdiff_ray.distributed.generate import generate
from netdiff_ray.encoding.collection import list_captures
from netdiff_ray.encoding.encode import EncodeSettings, encode_part, plan_parts
from netdiff_ray.generation.flow_repair import RepairedGroup
from netdiff_ray.generation.shard_builder import build_shard
from netdiff_ray.generation.shard_plan import pack_cells, unpack_cells
from netdiff_ray.local.inspect import captures_in
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT
from netdiff_ray.repair import RepairContext, repair
from netdiff_ray.storage.shards import write_shard
from netdiff_ray.storage.store import Store, open_store

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
SAMPLES = HERE.parent / "samples" / "train"
PART_MEGABYTES = 8
STORED = 8
"""Distinct shards of stored drawings."""
WORKERS = 2
SHARDS_A_TASK = 2


def encode_config(collection: Path, target: Path) -> EncodeConfig:
    """Return the configuration of an encoding with parts small enough for all workers."""
    return EncodeConfig(
        source=str(collection), target=str(target), part_megabytes=PART_MEGABYTES, height=64
    )


def make_collection(folder: Path, copies: int) -> Path:
    """Copy each capture of the samples `copies` times below `folder`; return it."""
    captures, _ = captures_in((SAMPLES,))
    for capture in captures:
        label = folder / capture.parent.name
        label.mkdir(parents=True, exist_ok=True)
        for k in range(copies):
            shutil.copy(capture, label / f"{k}-{capture.name}")
    return folder


def encode_bare(collection: Path, target: Path) -> None:
    """Encode the parts of `netdiff encode` in turn in this process."""
    source, captures, _ = list_captures(str(collection))
    settings = EncodeSettings(layout=DEFAULT_LAYOUT, height=64, idle_timeout_s=60.0)
    for number, part in enumerate(plan_parts(captures, PART_MEGABYTES << 20)):
        encode_part(source, part, open_store(target), number, settings, {})


def store_drawings(folder: Path) -> None:
    """Write STORED shards of drawings, two bits a cell, and their flows' heights."""
    folder.mkdir(parents=True)
    captures, _ = captures_in((SAMPLES,))
    windows = [w[:64] for w in windows_of(captures, 5000)]
    for number in range(STORED):
        matrices = drawn(windows, number)
        (folder / f"{number}.cells").write_bytes(pack_cells(matrices))
        np.save(folder / f"{number}.npy", [len(m) for m in matrices])


@dataclass(frozen=True)
class Writer:
    """Repairs the stored drawings of a shard and writes them."""

    stored: Path
    target: Store

    def write(self, row: dict) -> dict:
        number = row["id"]
        heights = np.load(self.stored / f"{number % STORED}.npy")
        packed = (self.stored / f"{number % STORED}.cells").read_bytes()
        cells = unpack_cells(packed, LAYOUT.width)
        matrices = np.split(cells, np.cumsum(heights)[:-1])
        ids = np.arange(len(matrices), dtype=np.uint64) + np.uint64(number * FLOWS_PER_SHARD)
        repaired = repair(matrices, LAYOUT, RepairContext(label="mixed"), ids, ids)
        group = RepairedGroup(tuple(range(len(matrices))), "", repaired)
        shard = build_shard(
            [group], number=number, label="mixed", flow_ids=[f"{n:016x}" for n in ids.tolist()]
        )
        write_shard(self.target, shard, {})
        return {"flows": len(matrices)}


def write_bare(writer: Writer, num_shards: int) -> None:
    for number in range(num_shards):
        writer.write({"id": number})


def write_on_ray(writer: Writer, num_shards: int) -> None:
    num_tasks = max(WORKERS, num_shards // SHARDS_A_TASK)
    rows = ray.data.range(num_shards, override_num_blocks=num_tasks).map(writer.write)
    rows.context.op_resource_reservation_enabled = False  # as of encode's parts
    assert sum(row["flows"] for row in rows.iter_rows()) == num_shards * FLOWS_PER_SHARD


def seconds_of(job: Callable[[], object], target: Path) -> float:
    """Return the wall seconds of a job that writes into a folder; empty it before and after."""
    shutil.rmtree(target, ignore_errors=True)
    begin = time.perf_counter()
    job()
    seconds = time.perf_counter() - begin
    shutil.rmtree(target, ignore_errors=True)
    return seconds


def flows_of_samples(folder: Path) -> int:
    """Compile and start everything; return the flows of a copy of the samples."""
    encode_bare(SAMPLES, folder / "bare")
    counts = encode(encode_config(SAMPLES, folder / "ray")).manifest["counts"]
    write_bare(Writer(folder / "stored", open_store(folder / "bare")), 1)
    write_on_ray(Writer(folder / "stored", open_store(folder / "ray")), WORKERS)
    return counts["flows"]


def compare(folder: Path, collection: Path, num_shards: int, rounds: int) -> dict:
    """Return wall seconds of a bare process and of Ray on two workers, in turn."""
    target = folder / "target"
    writer = Writer(folder / "stored", open_store(target))
    jobs = {
        "encode": (
            lambda: encode_bare(collection, target),
            lambda: encode(encode_config(collection, target)),
        ),
        "repair and write": (
            lambda: write_bare(writer, num_shards),
            lambda: write_on_ray(writer, num_shards),
        ),
    }
    ratios = {}
    for name, (bare, on_ray) in jobs.items():
        pairs = [(seconds_of(bare, target), seconds_of(on_ray, target)) for _ in range(rounds)]
        times = [bare_s / ray_s for bare_s, ray_s in pairs]
        ratios[name] = {"bare_s": [b for b, _ in pairs], "ray_s": [r for _, r in pairs],
                       "times": statistics.median(times)}  # fmt: skip
        print(f"{name:17} bare {pairs[-1][0]:7.1f} s   on {WORKERS} workers {pairs[-1][1]:7.1f} s  "
              f" {ratios[name]['times']:.2f} times (target: 1.6)")  # fmt: skip
    return ratios


def grow(folder: Path, sizes: list[int], flows_a_copy: int) -> list[dict]:
    """Return milliseconds a flow and the driver's memory for each size."""
    rows = []
    target = folder / "target"
    for size in sizes:
        copies = max(1, round(size / flows_a_copy))
        num_shards = max(1, size // FLOWS_PER_SHARD)
        collection = make_collection(folder / f"captures-{size}", copies)
        encode_s = seconds_of(lambda c=collection: encode(encode_config(c, target)), target)
        shutil.rmtree(collection)
        writer = Writer(folder / "stored", open_store(target))
        write_s = seconds_of(lambda w=writer, n=num_shards: write_on_ray(w, n), target)
        rows.append({
            "flows": size, "encode_ms_a_flow": 1e3 * encode_s / (copies * flows_a_copy),
            "write_ms_a_flow": 1e3 * write_s / (num_shards * FLOWS_PER_SHARD),
            "driver_mb": memory_mb("VmRSS"),
        })  # fmt: skip
        print(f"{size:9,} flows   encode {rows[-1]['encode_ms_a_flow']:7.3f} ms a flow   repair "
              f"and write {rows[-1]['write_ms_a_flow']:7.3f} ms a flow   driver "
              f"{rows[-1]['driver_mb']:6.0f} MB")  # fmt: skip
    return rows


def busy_share(adapter: Path, base: str | None, flows: int, steps: int, target: Path) -> float:
    """Return the share of the time between first and last batch in which denoisers draw."""
    shutil.rmtree(target, ignore_errors=True)
    generate(
        GenerateConfig(
            adapter=str(adapter),
            target=str(target),
            flows=flows,
            flows_per_shard=10,
            base=base,
            draw=DrawSettings(steps=steps),
        )
    )
    time.sleep(2)  # the events of the last batches arrive
    spans: dict[str, list[tuple[float, float]]] = {}
    for event in ray.timeline():
        if "_Denoiser" in event["cat"] and event["name"] == "submit":
            span = event["ts"], event["ts"] + event["dur"]
            spans.setdefault(event["tid"], []).append(span)
    shutil.rmtree(target)
    drew = sum(end - begin for batches in spans.values() for begin, end in batches)
    alive = sum(max(end for _, end in batches) - min(batches)[0] for batches in spans.values())
    return drew / alive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compared", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--base")
    parser.add_argument("--drawn-flows", type=int, default=100, help="of each label, for 3.")
    parser.add_argument("--steps", type=int, default=8, help="of drawing, for 3.")
    parser.add_argument(
        "--folder", type=Path, default=OUT / "pipeline",
        help="where everything is written; below /dev/shm no disk is involved",
    )  # fmt: skip
    options = parser.parse_args()
    folder = options.folder
    shutil.rmtree(folder, ignore_errors=True)
    store_drawings(folder / "stored")
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    flows_a_copy = flows_of_samples(folder)
    result: dict = {"flows_of_samples": flows_a_copy}
    if options.compared:
        copies = max(1, round(options.compared / flows_a_copy))
        collection = make_collection(folder / "captures", copies)
        num_shards = max(1, options.compared // FLOWS_PER_SHARD)
        result["compared"] = compare(folder, collection, num_shards, options.rounds)
    result["sizes"] = grow(folder, options.sizes, flows_a_copy)
    if options.adapter:
        result["busy"] = busy_share(
            options.adapter, options.base, options.drawn_flows, options.steps, folder / "dataset"
        )
        print(f"denoisers busy {result['busy']:.1%} of their time (target: 90 %)")
    ray.shutdown()
    shutil.rmtree(folder)
    OUT.mkdir(exist_ok=True)
    (OUT / "pipeline.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
