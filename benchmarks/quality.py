"""Measure how well the embedded base draws, before and after repair, by label.

    python benchmarks/quality.py [--base nano] [--adapter demo-out/adapter] [--flows 125]
                                 [--steps 3 4] [--shared-first-step] [--shift 2] [--guidance 1]

Draws flows of all labels of `samples/train`: the labels of `--adapter` with it, the labels the
base was pretrained on with the plain base (no LoRA). Against `samples/heldout`: a forest trained
on drawn flows alone (first 8 packets, no addresses, ports, identifiers, checksums, sequence
numbers) beside forests trained on `samples/train` and on as many of its flows as are drawn (at
most 2,000 of all labels together, as in a report), the bit JSD and Kolmogorov-Smirnov distances
of flow lengths and inter-arrival times. `--noise` also repairs planned headers full of random
bits: what repair alone achieves with the label statistics. Prints tables and writes
benchmarks/out/quality.json.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from netdiff_ray.config.diffusion import (
    BaseSettings,
    DrawSettings,
    OptimizationSettings,
    TrainSettings,
)
from netdiff_ray.diffusion.adapter import Adapter, read_adapter
from netdiff_ray.diffusion.base import Base, load_base
from netdiff_ray.diffusion.denoise import draw
from netdiff_ray.diffusion.lora import load_adapter
from netdiff_ray.diffusion.train import train
from netdiff_ray.evaluate.divergence import kolmogorov_smirnov
from netdiff_ray.evaluate.fidelity import measure
from netdiff_ray.evaluate.flow_blocks import make_block
from netdiff_ray.evaluate.flow_statistics import FEATURES
from netdiff_ray.evaluate.flow_view import wide_cells
from netdiff_ray.evaluate.models import balanced_accuracy, confusion, first_packets, fit_and_predict
from netdiff_ray.evaluate.summary import VARIABLES, Summary, summarise
from netdiff_ray.generation.flow_repair import repair_flows
from netdiff_ray.labels.flow_plan import plan_flow
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.nprint.codec import decode
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, Layout, layout_named
from netdiff_ray.pretraining.windows import read_windows

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "out"


FIRST_PACKETS = 8
FLOWS_PER_LABEL = 1000
"""Most flows of a label that are read."""
SEEDS = 3
NEVER_SEEN = ("mqtt", "quic")
COMPARED = ("packets", "bytes", "iat_mean_s")


def plain_adapter(base: Base, windows: LabelledWindows, height: int, folder: Path) -> Adapter:
    """Return an adapter whose LoRA has next to no effect: its second matrices are nearly 0."""
    optimization = OptimizationSettings(steps=1, batch_size=2, learning_rate=1e-12, warmup_steps=1)
    settings = TrainSettings(rank=1, max_height=height, optimization=optimization)
    return read_adapter(train(base, windows, folder, settings, lambda _: None))


def of_labels(windows: LabelledWindows, labels: Sequence[str]) -> LabelledWindows:
    """Return the windows of these labels."""
    return _those(windows, [k for k, label in enumerate(windows.label) if label in labels])


def _those(windows: LabelledWindows, numbers: Sequence[int]) -> LabelledWindows:
    chosen = {
        name: [getattr(windows, name)[k] for k in numbers]
        for name in ("nprint", "label", "service", "flow", "window")
    }
    return LabelledWindows(**chosen, layout=windows.layout)


def some_flows(windows: LabelledWindows, count: int) -> LabelledWindows:
    """Return the windows of `count` flows of each label, from all of its captures."""
    flows: dict[str, dict[str, None]] = {}
    for label, flow in zip(windows.label, windows.flow, strict=True):
        flows.setdefault(label, {})[flow] = None
    chosen = {
        flow for ids in flows.values() for flow in list(ids)[:: max(len(ids) // count, 1)][:count]
    }
    return _those(windows, [k for k, flow in enumerate(windows.flow) if flow in chosen])


def summary(nprints: dict[tuple[str, str], list[np.ndarray]], layout: Layout) -> Summary:
    """Summarise flows, by label and id, of a window or more each."""
    blocks = []
    for (label, flow), windows in nprints.items():
        nprint = np.concatenate(windows)
        _, direction, interarrival_ns = decode(nprint, layout)
        first = np.array([0, len(nprint)])
        cells = wide_cells(nprint, layout, direction, interarrival_ns)
        blocks.append(make_block([label], [flow], cells, first, direction, interarrival_ns))
    return summarise(blocks)


def real_flows(windows: LabelledWindows) -> Summary:
    """Summarise real flows."""
    nprints: dict[tuple[str, str], list[np.ndarray]] = {}
    columns = zip(windows.label, windows.flow, windows.nprint, strict=True)
    for label, flow, nprint in columns:
        nprints.setdefault((label, flow), []).append(nprint)
    return summary(nprints, windows.layout)


def drawn_flows(
    base: Base, adapter: Adapter, flows: int, settings: DrawSettings
) -> dict[tuple[str, str], list[np.ndarray]]:
    """Return the windows of `flows` drawn flows of each label of the adapter, by label and id,
    cut to the planned lengths."""
    samples = [
        sample
        for label in adapter.metadata.labels
        for index in range(flows)
        for sample in plan_flow(adapter.metadata, label, settings.seed, index).samples
    ]
    nprints: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for drawn in draw(base, adapter, samples, settings):
        key = drawn.sample.label, f"{drawn.sample.label} {drawn.sample.index}"
        nprints.setdefault(key, {})[drawn.sample.window] = drawn.nprint[: drawn.sample.length]
    return {key: [windows[k] for k in sorted(windows)] for key, windows in nprints.items()}


def repaired_flows(
    adapter: Adapter, drawn: dict[tuple[str, str], list[np.ndarray]]
) -> dict[tuple[str, str], list[np.ndarray]]:
    """Return the flows of the adapter's labels repaired, each in one window."""
    repaired, layout = {}, layout_named(adapter.metadata.layout)
    for label in adapter.metadata.labels:
        keys = [key for key in drawn if key[0] == label]
        flows = [np.concatenate(drawn[key]) for key in keys]
        groups = repair_flows(adapter.metadata, label, 0, flows, seed=0, payload="dialogue")
        for positions, _, result in groups:
            nprints = np.split(result.nprint(layout), result.batch.flows.starts[1:-1])
            for k, nprint in zip(result.batch.position.tolist(), nprints, strict=True):
                repaired[keys[positions[k]]] = [nprint]
    return repaired


def with_noise(
    drawn: dict[tuple[str, str], list[np.ndarray]],
) -> dict[tuple[str, str], list[np.ndarray]]:
    """Return the flows with random bits in all cells that are not vacant."""
    rng = np.random.default_rng(0)
    return {
        key: [np.where(w < 0, w, rng.integers(0, 2, w.shape, np.int8)) for w in windows]
        for key, windows in drawn.items()
    }


def judged(trained_on: Summary, heldout: Summary) -> dict:
    """Return balanced accuracy and recall by label of forests trained on one side, tested on the
    other."""
    labels = sorted(trained_on.labels)
    trained = np.isin(heldout.sample.label, labels)
    tested = heldout.sample.take(np.flatnonzero(trained))
    y, y_tested = (np.searchsorted(labels, side.label) for side in (trained_on.sample, tested))
    total = np.zeros((len(labels), len(labels)), np.int64)
    for seed in range(SEEDS):
        predicted, _ = fit_and_predict(
            "forest", first_packets(trained_on.sample, FIRST_PACKETS), y,
            first_packets(tested, FIRST_PACKETS), seed,
        )  # fmt: skip
        total += confusion(y_tested, predicted, len(labels))
    recall = np.diag(total) / total.sum(1)
    taken = total / total.sum(1, keepdims=True) - np.diag(recall)
    most = [[labels[i], labels[j], taken[i, j]] for i, j in np.argwhere(taken > 0.1)]
    return {
        "forest": balanced_accuracy(total), "recall": dict(zip(labels, recall, strict=True)),
        "taken_for": sorted(most, key=lambda row: -row[2]),
    }  # fmt: skip


def compared(side: Summary, heldout: Summary) -> dict:
    """Return a side's distances from the held-out flows: bit JSD, mean and by label, and KS."""
    labels = sorted(side.labels)
    jsd = measure(heldout, side, labels)["jsd"][0][:, VARIABLES.of_kind("bit")].mean(1)
    ks = {}
    for label in labels:
        a, b = (s.sample.features[s.sample.label == label] for s in (heldout, side))
        ks[label] = {
            name: kolmogorov_smirnov(a[:, FEATURES.index(name)], b[:, FEATURES.index(name)])
            for name in COMPARED
        }
    return {"jsd": jsd.mean(), "jsd_by_label": dict(zip(labels, jsd, strict=True)), "ks": ks}


def show(what: str, figures: dict) -> None:
    """Print a row of the table."""
    print(f"{what:28} forest {figures['forest']:.3f}  JSD {figures['jsd']:.4f}", flush=True)
    print("   ", "  ".join(f"{k} {v:.2f}" for k, v in figures["recall"].items()))
    print("   ", ", ".join(f"{a} as {b} {s:.2f}" for a, b, s in figures["taken_for"][:8]))
    for name in COMPARED:
        print(
            f"    KS {name:10}", "  ".join(f"{k} {v[name]:.2f}" for k, v in figures["ks"].items())
        )


def parse() -> argparse.Namespace:
    """Return the command line's values."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="nano")
    parser.add_argument("--adapter", type=Path, help="for its labels (default: no adapter)")
    parser.add_argument("--data", type=Path, default=ROOT / "samples" / "train")
    parser.add_argument("--heldout", type=Path, default=ROOT / "samples" / "heldout")
    parser.add_argument("--flows", type=int, default=125, help="of each label")
    parser.add_argument("--height", type=int, default=64, help="rows, with the plain base")
    parser.add_argument("--steps", type=int, nargs="+", default=[8])
    parser.add_argument("--shift", type=float, nargs="+", default=[None])
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0])
    parser.add_argument("--shared-first-step", action="store_true")
    parser.add_argument("--noise", action="store_true", help="also repair random bits")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Draw, judge, print the tables and write the JSON."""
    args = parse()
    torch.set_num_threads(args.threads)
    adapter = read_adapter(args.adapter) if args.adapter else None
    height = adapter.metadata.max_height if adapter else args.height
    layout = layout_named(adapter.metadata.layout if adapter else DEFAULT_LAYOUT)
    windows = {
        name: read_windows(folder, layout, height, per_label=FLOWS_PER_LABEL)
        for name, folder in (("train", args.data), ("heldout", args.heldout))
    }
    with tempfile.TemporaryDirectory() as folder:
        sides = []
        if adapter:
            sides.append(adapter)
        adapted = set(sides[0].metadata.labels) if sides else set()
        learnt = sorted(set(windows["train"].label) - set(NEVER_SEEN) - adapted)
        if learnt:
            plain = of_labels(windows["train"], learnt)
            sides.append(plain_adapter(loaded(args.base), plain, height, Path(folder) / "plain"))
        pairs = [(loaded(args.base, adapter), adapter) for adapter in sides]
        labels = sorted({*adapted, *learnt})
        real, heldout = (real_flows(of_labels(windows[k], labels)) for k in ("train", "heldout"))
        result = {"labels": labels, "real": {**judged(real, heldout), **compared(real, heldout)}}
        show("samples/train", result["real"])
        as_many = real_flows(some_flows(of_labels(windows["train"], labels), args.flows))
        result["as many real"] = {**judged(as_many, heldout), **compared(as_many, heldout)}
        show(f"{args.flows} of each label", result["as many real"])
        for steps, shift, guidance in itertools.product(args.steps, args.shift, args.guidance):
            settings = DrawSettings(
                steps=steps, shift=shift, guidance=guidance,
                shared_first_step=args.shared_first_step,
            )  # fmt: skip
            spent = 0.0
            flows_drawn, repaired, noise = {}, {}, {}
            for base, adapter in pairs:
                began = time.process_time()
                drawn = drawn_flows(base, adapter, args.flows, settings)
                spent += time.process_time() - began
                flows_drawn |= drawn
                repaired |= repaired_flows(adapter, drawn)
                if args.noise:
                    noise |= repaired_flows(adapter, with_noise(drawn))
            cpu_s = spent / (args.flows * len(labels))
            name = f"{steps} steps, shift {shift}, x{guidance:g}"
            print(f"{name}: {cpu_s:.3f} CPU s a drawn flow")
            for what, flows in (
                ("", flows_drawn),
                (", repaired", repaired),
                (", noise repaired", noise),
            ):
                if not flows:
                    continue
                side = summary(flows, layout)
                figures = {**judged(side, heldout), **compared(side, heldout)}
                result[name + what] = {**figures, "cpu_s_per_flow": cpu_s}
                show(name + what, figures)
                shares = [
                    f"{figures['forest'] / result[of]['forest']:.3f} of {of}"
                    for of in ("real", "as many real")
                ]
                print(f"    {', '.join(shares)}", flush=True)
    OUT.mkdir(exist_ok=True)
    (OUT / "quality.json").write_text(json.dumps(result, indent=1, default=float) + "\n")


def loaded(name: str, adapter: Adapter | None = None) -> Base:
    """Return the base, with an adapter's LoRA in it."""
    base = load_base(BaseSettings(base=name, dtype="float32"), with_controlnet=False)
    if adapter:
        load_adapter(base, adapter)
    return base


if __name__ == "__main__":
    main()
