"""Measure drawing with the embedded base, through plain functions without Ray.

    python benchmarks/nano.py --adapter demo-out/adapter [--steps 4 8] [--rows 32 64 128]
                              [--shared-first-step]

Two processes of one thread each draw rasters of the same height, the autoencoder included; any
adapter trained on the embedded base will do. Flows have the named transport, or those of the
adapter's labels, as many flows of each label. Prints a table and writes
benchmarks/out/nano.json: seconds to load and peak memory of a process, and for each number
of denoising steps, height and transport the flows/s of both processes together and the CPU
seconds a flow.
"""

import argparse
import itertools
import json
import multiprocessing
import resource
import time
from dataclasses import replace
from pathlib import Path

OUT = Path(__file__).resolve().parent / "out"
TRANSPORTS = ("tcp", "udp", "labels'")


def draw_alone(
    adapter: str, base: str, dtype: str, steps: list[int], rows: list[int], flows: int,
    shared: bool, barrier,
) -> dict:  # fmt: skip
    """Return the figures of a process: `load_s`, `peak_mb`, and [steps, rows, transport, wall s,
    CPU s] rows."""
    began = time.perf_counter()
    import torch

    from netdiff_ray.config.diffusion import BaseSettings, DrawSettings
    from netdiff_ray.diffusion.adapter import read_adapter
    from netdiff_ray.diffusion.base import load_base
    from netdiff_ray.diffusion.denoise import draw
    from netdiff_ray.diffusion.lora import load_adapter
    from netdiff_ray.labels.flow_plan import PlannedWindow, plan_flow
    from netdiff_ray.labels.stack import UNPLANNED

    torch.set_num_threads(1)
    imported = time.perf_counter()
    loaded = read_adapter(Path(adapter))
    model = load_base(BaseSettings(base=base, dtype=dtype), with_controlnet=False)
    load_adapter(model, loaded)
    load_s = time.perf_counter() - imported
    labels = sorted(loaded.metadata.labels)

    def sample(index: int, height: int, transport: str) -> PlannedWindow:
        label = labels[index % len(labels)]
        planned = plan_flow(loaded.metadata, label, 0, index).samples[0]
        headers = ("ipv4", transport) if transport in ("tcp", "udp") else planned.headers
        stack = planned.stack if headers == planned.headers else UNPLANNED
        return replace(planned, height=height, length=height, headers=headers, stack=stack)

    timings = []
    for count in steps:
        settings = DrawSettings(steps=count, batch_size=8, shared_first_step=shared)
        for height, transport in itertools.product(rows, TRANSPORTS):
            samples = [sample(k, height, transport) for k in range(flows)]
            list(draw(model, loaded, samples if shared else samples[:8], settings))
            barrier.wait()
            wall, cpu = time.perf_counter(), time.process_time()
            list(draw(model, loaded, samples, settings))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            timings.append([count, height, transport, wall, cpu])
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "import_s": imported - began, "load_s": load_s, "peak_mb": peak_mb, "timings": timings,
    }  # fmt: skip


def main() -> None:
    """Run the processes, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapter", default="demo-out/adapter")
    parser.add_argument("--base", default="nano")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--steps", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--rows", nargs="+", type=int, default=[32, 64, 128, 256])
    parser.add_argument("--flows", type=int, default=64, help="flows of each process")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--shared-first-step", action="store_true", help="taken for all alike before the timing"
    )
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(args.processes) as pool:
        barrier = manager.Barrier(args.processes)
        work = (
            args.adapter, args.base, args.dtype, args.steps, args.rows, args.flows,
            args.shared_first_step, barrier,
        )  # fmt: skip
        processes = pool.starmap(draw_alone, [work] * args.processes, chunksize=1)
    figures = {
        "import_s": max(process["import_s"] for process in processes),
        "load_s": max(process["load_s"] for process in processes),
        "peak_mb": max(process["peak_mb"] for process in processes),
        "dtype": args.dtype,
        "shared_first_step": args.shared_first_step,
        "rates": [],
    }
    print(
        f"loading {figures['load_s']:.1f} s after {figures['import_s']:.1f} s of imports, peak "
        f"{figures['peak_mb']:.0f} MB a process, {args.processes} processes, {args.dtype}"
    )
    print("| steps | rows | transport | flows/s | CPU s a flow |\n|---|---|---|---|---|")
    for alike in zip(*(process["timings"] for process in processes), strict=True):
        count, height, transport = alike[0][:3]
        flows = args.flows * args.processes
        rate = flows / max(timing[-2] for timing in alike)
        cpu_s = sum(timing[-1] for timing in alike) / flows
        figures["rates"].append(
            {"steps": count, "rows": height, "transport": transport, "flows_per_s": rate,
             "cpu_s_per_flow": cpu_s}
        )  # fmt: skip
        print(f"| {count} | {height} | {transport} | {rate:.1f} | {cpu_s:.3f} |")
    OUT.mkdir(exist_ok=True)
    (OUT / "nano.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
