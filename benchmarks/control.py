"""Measure what the ControlNet is worth: the same flows drawn with and without it.

    python benchmarks/control.py --adapter demo-out/adapter [--flows 60] [--steps 4] [--seeds 0 1]

Draws flows of the adapter's labels with a `control_scale` of 0 and 1, from the same noise and
under the same plans, and judges them against `samples/heldout`: a forest trained on drawn flows
alone, before and after repair, as a share of one trained on `samples/train`. Beside it stand the
share of planned cells that the first step gets right by itself, from pure noise and before
anything is held, the loss on windows of `samples/heldout`, and CPU seconds a flow. Prints a table
and writes benchmarks/out/control.json.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from quality import OUT, ROOT, drawn_flows, judged, of_labels, real_flows, repaired_flows, summary

from netdiff_ray.config.diffusion import (
    BaseSettings,
    DrawSettings,
    EvidenceSettings,
    FlowMatchingSettings,
    TrainSettings,
)
from netdiff_ray.diffusion.adapter import Adapter, read_adapter
from netdiff_ray.diffusion.base import Base, decode_latents, load_base, velocity
from netdiff_ray.diffusion.denoise import batches, condition_of, noise_generator
from netdiff_ray.diffusion.lora import load_adapter
from netdiff_ray.diffusion.plan_constraints import constraints_of
from netdiff_ray.diffusion.token_pruning import replace_columns, select_columns
from netdiff_ray.diffusion.train import heldout_batches, heldout_loss
from netdiff_ray.diffusion.training_set import make_training_set
from netdiff_ray.labels.flow_plan import PlannedWindow, plan_flow
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.planned_cells import OPEN, planned_values
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.pretraining.windows import read_windows
from netdiff_ray.raster import from_rgb

FLOWS_PER_LABEL = 1000
"""Most real flows of a label."""


@torch.no_grad()
def estimated(
    base: Base, adapter: Adapter, samples: Sequence[PlannedWindow], settings: DrawSettings
) -> np.ndarray:
    """Return the nprints (N, H, W) that a step from pure noise arrives at, nothing held."""
    width = layout_named(adapter.metadata.layout).width
    condition = condition_of(base, adapter, samples, settings)
    shape = base.latent_shape(samples[0].height, width)
    noise = torch.stack(
        [torch.randn(shape, generator=noise_generator(settings.seed, s)) for s in samples]
    )
    noise = select_columns(noise, condition.columns)
    latents = noise - velocity(base, noise, torch.ones(len(samples)), condition)
    if condition.columns is not None:
        vacant = constraints_of(base, samples, width, condition.columns).vacant_raster
        latents = replace_columns(vacant, latents, condition.columns)
    return np.stack([from_rgb(rgb)[0] for rgb in decode_latents(base, latents)])


def planned_right(base: Base, adapter: Adapter, flows: int, settings: DrawSettings) -> float:
    """Return the share of cells with planned values that a step from pure noise gets right."""
    layout = layout_named(adapter.metadata.layout)
    samples = [
        plan_flow(adapter.metadata, label, settings.seed, index).samples[0]
        for label in adapter.metadata.labels
        for index in range(flows)
    ]
    right = planned = 0
    for batch in batches(samples, settings.batch_size):
        values = np.stack([planned_values(sample, layout) for sample in batch])
        known = values != OPEN
        right += int((estimated(base, adapter, batch, settings) == values)[known].sum())
        planned += int(known.sum())
    return right / planned


def losses(base: Base, windows: LabelledWindows, height: int) -> dict[int, float]:
    """Return the loss on windows by `control_scale`, 0 and 1."""
    settings = TrainSettings(
        max_height=height, objective=FlowMatchingSettings(control_scale=1.0),
        evidence=EvidenceSettings(heldout_share=0.5, heldout_windows=512),
    )  # fmt: skip
    training_set = make_training_set(base, [windows], settings)
    measured = heldout_batches(training_set, settings.optimization.batch_size)
    without = dataclasses.replace(training_set, plans=None)
    return {
        scale: heldout_loss(base, chosen, settings, measured)
        for scale, chosen in ((0, without), (1, training_set))
    }


def main() -> None:
    """Draw, judge, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapter", type=Path, default=Path("demo-out/adapter"))
    parser.add_argument("--base", default="nano")
    parser.add_argument("--data", type=Path, default=ROOT / "samples" / "train")
    parser.add_argument("--heldout", type=Path, default=ROOT / "samples" / "heldout")
    parser.add_argument("--flows", type=int, default=60, help="of each label, for each seed")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    adapter = read_adapter(args.adapter)
    base = load_base(BaseSettings(base=args.base, dtype="float32"))
    load_adapter(base, adapter)
    layout, height = layout_named(adapter.metadata.layout), adapter.metadata.max_height
    train, heldout = (
        of_labels(
            read_windows(folder, layout, height, per_label=FLOWS_PER_LABEL),
            list(adapter.metadata.labels),
        )
        for folder in (args.data, args.heldout)
    )
    loss = losses(base, heldout, height)
    heldout = real_flows(heldout)
    real = judged(real_flows(train), heldout)["forest"]
    print("| seed | control | forest, drawn | repaired | planned right | loss | CPU s a flow |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for seed in args.seeds:
        for scale in (0, 1):
            settings = DrawSettings(seed=seed, steps=args.steps, control_scale=scale)
            began = time.process_time()
            drawn = drawn_flows(base, adapter, args.flows, settings)
            cpu_s = (time.process_time() - began) / len(drawn)
            repaired = repaired_flows(adapter, drawn)
            ratios = [
                judged(summary(side, layout), heldout)["forest"] / real
                for side in (drawn, repaired)
            ]
            right = planned_right(base, adapter, args.flows, settings)
            rows.append([seed, scale, *ratios, right, loss[scale], cpu_s])
            shown = " | ".join(f"{value:.3f}" for value in rows[-1][2:])
            print(f"| {seed} | {scale} | {shown} |", flush=True)
    OUT.mkdir(exist_ok=True)
    names = ("seed", "control_scale", "drawn", "repaired", "planned_right", "loss", "cpu_s")
    figures = {
        "real_forest": real, "rows": [dict(zip(names, row, strict=True)) for row in rows],
    }  # fmt: skip
    (OUT / "control.json").write_text(json.dumps(figures, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
