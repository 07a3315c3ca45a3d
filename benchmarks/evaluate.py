"""The cost of an evaluation: about 2,000 against 2,000 flows of 12 labels, and a large source.

    python benchmarks/evaluate.py [--flows N]

First the whole report on Ray, half of `samples/train` against the other half, with
`samples/heldout` as training flows: CPU seconds of all processes, and the wall time. Then
the summary of an encoded dataset of N flows (those of the samples under new ids), part by
part: CPU seconds, and the memory after each tenth. Prints a table and writes
benchmarks/out/evaluate.json.
"""

import argparse
import json
import re
import shutil
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from netdiff_ray.config import EvaluateConfig
from netdiff_ray.distributed.evaluate import evaluate
from netdiff_ray.encoding.collection import list_captures
from netdiff_ray.encoding.encode import EncodeSettings, encode_part, encoded_part_name
from netdiff_ray.evaluate import merge, open_source, source_blocks, summarise
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT
from netdiff_ray.storage.store import open_store

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
SAMPLES = HERE.parent / "samples"
LABELS = "[!lnpq]*"
"""A glob for twelve of the samples' 16 labels."""


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and all below it, Ray's among them."""
    this = psutil.Process()
    return sum(
        times.user + times.system
        for times in (p.cpu_times() for p in (this, *this.children(recursive=True)))
    )


def whole_report() -> dict:
    """Measure CPU and wall seconds of a report, with the start of Ray."""
    config = EvaluateConfig(
        real=f"{SAMPLES}/train/{LABELS}/host-[0-3].pcap.gz",
        synthetic=f"{SAMPLES}/train/{LABELS}/host-[4-7].pcap.gz",
        train=f"{SAMPLES}/heldout", out=str(OUT / "report"),
    )  # fmt: skip
    shutil.rmtree(OUT / "report", ignore_errors=True)
    begin, cpu = time.perf_counter(), cpu_seconds()
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    started = cpu_seconds()
    report = evaluate(config)
    result = {
        "flows": [report.sources[name]["flows"] for name in ("real", "synthetic", "train")],
        "labels": len(report.sources["synthetic"]["labels"]),
        "wall_s": time.perf_counter() - begin,
        "cpu_s": cpu_seconds() - cpu,
        "of_it_starting_ray_s": started - cpu,
        "headlines": {name: s["headline"] for name, s in report.sections.items()},
    }
    ray.shutdown()
    return result


def memory_mb(field: str) -> float:
    """Return a memory figure of this process, in MB: VmRSS now, VmHWM at its highest."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", status)[1]) / 1000


def large_source(folder: Path, num_flows: int) -> dict:
    """Measure CPU seconds and memory of summing up a source of so many flows."""
    store, captures, _ = list_captures(str(SAMPLES))
    settings = EncodeSettings(layout=DEFAULT_LAYOUT, height=1024, idle_timeout_s=60.0)
    encode_part(store, captures, open_store(folder), 0, settings, {})
    first = folder / encoded_part_name(0)
    table = pq.read_table(first)
    sample_flows = len(set(table["flow_id"].to_pylist()))
    for number in range(1, max(1, round(num_flows / sample_flows))):
        ids = pa.array([f"{number}-{i}" for i in table["flow_id"].to_pylist()])
        pq.write_table(
            table.set_column(0, "flow_id", ids), folder / encoded_part_name(number),
            compression="zstd",
        )  # fmt: skip
    source = open_source(folder)
    marks, total = [], summarise([])
    cpu = time.process_time()
    for number, unit in enumerate(source.units, 1):
        total = merge(total, summarise(source_blocks(source, [unit])))
        if number * 10 // len(source.units) > (number - 1) * 10 // len(source.units):
            marks.append({"flows": total.total_flows, "rss_mb": memory_mb("VmRSS")})
    return {
        "flows": total.total_flows,
        "packets": total.num_packets,
        "cpu_s": time.process_time() - cpu,
        "memory": marks,
        "peak_mb": memory_mb("VmHWM"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flows", type=int, default=20_000, help="flows of the large source")
    options = parser.parse_args()
    folder = OUT / "evaluate"
    shutil.rmtree(folder, ignore_errors=True)
    large = large_source(folder, options.flows)
    shutil.rmtree(folder)
    print(
        f"a source of {large['flows']:,} flows, {large['packets']:,} packets summed up: "
        f"{large['cpu_s']:.1f} CPU s"
    )
    for mark in large["memory"]:
        print(f"{mark['flows']:10,} flows  RSS {mark['rss_mb']:6.0f} MB")
    report = whole_report()
    flows = " / ".join(f"{n:,}" for n in report["flows"])
    print(
        f"report on {flows} flows (real / synthetic / train) of {report['labels']} labels: "
        f"{report['wall_s']:.1f} s (target: under 120), {report['cpu_s']:.1f} CPU s, "
        f"{report['of_it_starting_ray_s']:.1f} of them to start Ray"
    )
    for name, headline in report["headlines"].items():
        print(f"{name:15} " + ", ".join(f"{k} {v}" for k, v in headline.items()))
    OUT.mkdir(exist_ok=True)
    (OUT / "evaluate.json").write_text(json.dumps({"report": report, "large": large}, indent=1))


if __name__ == "__main__":
    main()
