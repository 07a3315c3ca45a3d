"""Measure the endpoint under load, against the functions it is made of.

    python benchmarks/serve.py --adapter demo-out/adapter [--flows 1 4 16] [--seconds 20]

Starts `netdiff serve` on this machine. For each number of flows a request, as many clients as the
limit of streams send requests in turn; the same requests are then answered by the plain functions
in one process. Then requests arrive at random, at twice the rate that was answered: the times of
accepted requests, the times to a 429, and the memory of the endpoint's processes. Prints a table
and writes benchmarks/out/serve.json.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import numpy as np

from netdiff_ray.config.diffusion import BaseSettings, DrawSettings
from netdiff_ray.diffusion.adapter import read_adapter
from netdiff_ray.generation.flow_repair import repair_flow
from netdiff_ray.generation.stream import CaptureStream, flow_order
from netdiff_ray.labels.flow_plan import plan_flow

HERE = Path(__file__).resolve().parent
STREAMS = 4
WATCH_EVERY_S = 15.0


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Return p50, p95 and p99, in seconds."""
    return {f"p{q}_s": float(np.percentile(seconds, q)) if seconds else 0.0 for q in (50, 95, 99)}


@dataclass
class Answers:
    """Times of the answers that clients got."""

    accepted: list[float] = field(default_factory=list)
    """Seconds to the last byte."""
    first: list[float] = field(default_factory=list)
    """Seconds to the first byte."""
    refused: list[float] = field(default_factory=list)
    """Seconds to the 429."""
    memory_mb: list[float] = field(default_factory=list)

    def result(self, flows: int, seconds: float) -> dict:
        """Return rates and quantiles of answers of `flows` flows each, over `seconds`."""
        rate = len(self.accepted) / seconds
        return {
            "requests_per_s": rate, "flows_per_s": rate * flows, **quantiles(self.accepted),
            "first_byte": quantiles(self.first), "refused": len(self.refused),
            "refusal": quantiles(self.refused), "memory_mb": self.memory_mb,
        }  # fmt: skip


async def ask(session: httpx.AsyncClient, url: str, body: dict, answers: Answers) -> None:
    """Send a request, read its answer, note the times."""
    began = time.monotonic()
    async with session.stream("POST", url, json=body) as answer:
        if answer.status_code == 429:
            answers.refused.append(time.monotonic() - began)
            return
        answer.raise_for_status()
        parts = answer.aiter_raw()
        await anext(parts)
        answers.first.append(time.monotonic() - began)
        async for _ in parts:
            pass
        answers.accepted.append(time.monotonic() - began)


async def load(url: str, body: dict, clients: int, seconds: float) -> dict:
    """Return what clients measure that send requests in turn."""
    answers = Answers()
    began = time.monotonic()

    async def client(number: int, session: httpx.AsyncClient) -> None:
        seed = number << 32
        while time.monotonic() < began + seconds:
            seed += 1
            await ask(session, url, {**body, "seed": seed}, answers)

    async with httpx.AsyncClient(timeout=600) as session:
        await asyncio.gather(*(client(k, session) for k in range(clients)))
    return answers.result(sum(body["labels"].values()), time.monotonic() - began)


async def arrivals(url: str, body: dict, rate: float, seconds: float) -> dict:
    """Return what requests measure that arrive as a Poisson process of `rate` a second."""
    answers = Answers()
    waits = np.random.default_rng(0)
    began = time.monotonic()

    async def watch() -> None:
        while time.monotonic() < began + seconds:
            answers.memory_mb.append(await asyncio.to_thread(memory_mb))
            await asyncio.sleep(WATCH_EVERY_S)

    async with httpx.AsyncClient(timeout=600) as session, asyncio.TaskGroup() as under_way:
        under_way.create_task(watch())
        seed, due = 0, began
        while (due := due + waits.exponential(1 / rate)) < began + seconds:
            await asyncio.sleep(due - time.monotonic())
            seed += 1
            under_way.create_task(ask(session, url, {**body, "seed": seed}, answers))
    return answers.result(sum(body["labels"].values()), time.monotonic() - began)


def direct(
    adapter: Path,
    base_name: str | None,
    label: str,
    draw: DrawSettings,
    counts: list[int],
    seconds: float,
) -> dict[int, dict]:
    """Return {flows a request: figures} of the plain functions, a request at a time."""
    import torch

    from netdiff_ray.diffusion.base import load_base
    from netdiff_ray.diffusion.denoise import draw as drawn_by
    from netdiff_ray.diffusion.lora import load_adapter

    torch.set_num_threads(1)
    loaded = read_adapter(adapter)
    settings = BaseSettings(
        base=base_name or loaded.metadata.base, revision=loaded.metadata.revision
    )
    base = load_base(settings, with_controlnet=False)
    load_adapter(base, loaded)

    def answer(count: int, seed: int) -> bytes:
        flows = flow_order({label: count}, "sequential", seed)
        samples = [
            s for flow in flows for s in plan_flow(loaded.metadata, flow[0], seed, flow[1]).samples
        ]
        windows = {
            (drawn.sample.index, drawn.sample.window): drawn.nprint
            for drawn in drawn_by(base, loaded, samples, replace(draw, seed=seed))
        }
        stream = CaptureStream("pcap", order="sequential", flows_per_second=10.0, seed=seed)
        parts = []
        for _, index in flows:
            nprints = [windows[s.index, s.window] for s in samples if s.index == index]
            nprint = np.concatenate(nprints)
            flow = repair_flow(loaded.metadata, label, index, nprint, seed=seed, payload="dialogue")
            parts.append(stream.add(flow))
        return b"".join([*parts, stream.end()])

    answer(1, 0)  # compiles
    results = {}
    for count in counts:
        taken, began = [], time.monotonic()
        while time.monotonic() - began < seconds:
            start = time.monotonic()
            answer(count, len(taken))
            taken.append(time.monotonic() - start)
        rate = len(taken) / sum(taken)
        results[count] = {
            "requests_per_s": rate, "flows_per_s": rate * count, **quantiles(taken),
        }  # fmt: skip
    return results


def memory_mb() -> float:
    """Return the resident memory of the endpoint's replicas on this machine, in MB."""
    listed = subprocess.run(["ps", "-eo", "rss,args"], capture_output=True, text=True, check=True)
    rows = [line.split(None, 1) for line in listed.stdout.splitlines()[1:]]
    return sum(int(rss) for rss, args in rows if "ServeReplica:netdiff" in args) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--adapter", type=Path, default=Path("demo-out/adapter"))
    parser.add_argument("--base", help="instead of the base the adapter was trained on")
    parser.add_argument("--label", help="the adapter's first unless given")
    parser.add_argument("--flows", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--port", type=int, default=23_900)
    options = parser.parse_args()
    label = options.label or next(iter(read_adapter(options.adapter).metadata.labels))
    url = f"http://127.0.0.1:{options.port}"
    draw = DrawSettings(steps=options.steps, batch_size=options.batch_size)
    # A background shell ignores SIGINT, which children inherit; SIGINT ends the endpoint here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    server = subprocess.Popen(
        [sys.executable, "-m", "netdiff_ray.cli", "serve", str(options.adapter),
         "--port", str(options.port), "--limits.streams", str(STREAMS),
         "--steps", str(options.steps), "--batch-size", str(options.batch_size),
         *(("--base", options.base) if options.base else ())],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    result = {"label": label, "streams": STREAMS, "steps": options.steps, "endpoint": {}}
    try:
        for line in server.stdout:
            print(line, end="", flush=True)
            if line.rstrip().endswith(" ok"):
                break
        body = {"labels": {label: 1}}
        httpx.post(f"{url}/v1/flows", json=body, timeout=600).raise_for_status()  # loads
        print(f"{'':24}{'flows':>6}{'requests/s':>12}{'flows/s':>9}{'p50':>8}{'p95':>8}{'p99':>8}")
        for count in options.flows:
            body = {"labels": {label: count}}
            figures = asyncio.run(load(f"{url}/v1/flows", body, STREAMS, options.seconds))
            result["endpoint"][count] = figures
            show(f"endpoint, {STREAMS} clients", count, figures)
        count = options.flows[len(options.flows) // 2]
        body = {"labels": {label: count}}
        rate = 2 * result["endpoint"][count]["requests_per_s"]
        figures = asyncio.run(arrivals(f"{url}/v1/flows", body, rate, options.overload_seconds))
        result["overload"] = {count: figures}
        show(f"{rate:.2f} come a second", count, figures)
        tenths = np.array_split(figures["memory_mb"], min(10, len(figures["memory_mb"])))
        print(
            f"{figures['refused']} refused, after "
            + ", ".join(f"{q[:-2]} {1000 * s:.0f} ms" for q, s in figures["refusal"].items())
            + f"; memory in MB, at most in each tenth: "
            f"{', '.join(f'{max(part):.0f}' for part in tenths)}"
        )
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
    result["direct"] = direct(
        options.adapter, options.base, label, draw, options.flows, options.seconds
    )
    for count, figures in result["direct"].items():
        show("functions", count, figures)
    (HERE / "out").mkdir(exist_ok=True)
    (HERE / "out" / "serve.json").write_text(json.dumps(result, indent=1))


def show(what: str, count: int, figures: dict) -> None:
    """Print a row of the table."""
    print(
        f"{what:24}{count:6}{figures['requests_per_s']:12.2f}{figures['flows_per_s']:9.1f}"
        f"{figures['p50_s']:7.2f}s{figures['p95_s']:7.2f}s{figures['p99_s']:7.2f}s",
        flush=True,
    )


if __name__ == "__main__":
    main()
