"""Pretrain a small base ("nano") on labelled captures: resumable, seeded, on any device.

    python jobs/pretrain.py --data samples/train --heldout samples/heldout --out nano

`--data` and `--heldout` hold a folder of captures for each label. The stages go on from their
last checkpoints in `--work`:

1. `autoencoder`: cross-entropy over the three colours, with noise on the latents, so that it
   reads what a denoiser draws. Reports the accuracy on header bits of held-out captures.
2. `decoder`, only on request: trains the decoder of the autoencoder further; the latents, and so
   the denoiser, stay valid.
3. `denoiser`: transformer and ControlNet, flow matching, prompts of the labels; heights
   from 16 to `--max-height`; the ControlNet takes part in `--control-share` of the steps. Windows
   get random hosts and paths (`netdiff_ray.pretraining.random_stacks`), each time others, so that
   what plans hold is not learnt by heart.
4. `controlnet`, only on request: trains the ControlNet further, every step with control images;
   the transformer stays as it is.
5. `distill`: the transformer learns to do in one step of a short schedule what it did in
   several (progressive distillation). All columns and packets have the same weight, and as many
   steps have control images.

After each stage the base in `--out` is complete. A base that `--out` holds already is where the
first of `--stages` begins. Labels given by `--leave-out` are not trained on, and are left for
fine-tuning.
"""

import copy
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import torch
import tyro

from netdiff_ray.config.content import content_of
from netdiff_ray.config.diffusion import BaseSettings
from netdiff_ray.diffusion.base import Base, load_base, use_exact_gelu
from netdiff_ray.errors import NetdiffError
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.pretraining.batches import PretrainingSet, pretraining_set
from netdiff_ray.pretraining.config import STAGES, PretrainConfig, Stage
from netdiff_ray.pretraining.losses import header_accuracy
from netdiff_ray.pretraining.nano import build
from netdiff_ray.pretraining.stages import (
    ReportStep,
    StageRun,
    distill,
    train_autoencoder,
    train_controlnet,
    train_denoiser,
)
from netdiff_ray.pretraining.windows import read_windows

_OF_LATER_STAGES = {
    "autoencoder": ("denoiser", "controlnet", "distill", "distill_schedules"),
    "decoder": ("denoiser", "controlnet", "distill", "distill_schedules"),
    "denoiser": ("controlnet", "distill", "distill_schedules"),
    "controlnet": ("distill", "distill_schedules"),
    "distill": ("controlnet",),
}
"""Fields of PretrainConfig that a stage does not depend on, but others do."""


def print_json(values: dict[str, object]) -> None:
    """Print one line of JSON."""
    print(json.dumps(values), flush=True)


def pretrain(config: PretrainConfig, report: ReportStep = print_json) -> Path:
    """Run the requested stages as far as they are not finished, and return the base's directory.

    Args:
        config: of the pretraining.
        report: called with the progress of the stages.

    Raises:
        NetdiffError: captures cannot be read, `work` holds another run, the loss is not finite,
            or memory does not suffice.
    """
    work = config.work or config.out.with_name(config.out.name + ".work")
    windows = _read(config.data, config)
    heldout = _read(config.heldout, config)
    report({"windows": len(windows), "heldout": len(heldout), "labels": sorted(set(windows.label))})
    if not (config.out / "model_index.json").is_file():
        build(config.out, config.sizes, config.seed)
    training_set = None
    for stage in sorted(config.stages, key=STAGES.index):
        identity = identity_of(config, windows, stage)
        finished = work / stage / "done.json"
        if finished.is_file() and finished.read_text() == identity:
            continue
        base = load_base(
            BaseSettings(
                base=str(config.out), device=config.device, dtype="float32",
                attention="math" if config.autocast else "auto",
            )
        )  # fmt: skip
        run = StageRun(stage, config, work, identity, report)
        if stage in ("autoencoder", "decoder"):
            _run_autoencoder(base, windows, heldout, run)
        else:
            if training_set is None:
                training_set = pretraining_set(base, windows, config)
            _run_denoiser(base, training_set, run)
        finished.write_text(identity)
    num_bytes = sum(path.stat().st_size for path in config.out.rglob("*.safetensors"))
    report({"out": str(config.out), "weights_bytes": num_bytes})
    return config.out


def _read(folder: Path, config: PretrainConfig) -> LabelledWindows:
    return read_windows(
        folder, layout_named(config.layout), config.max_height,
        per_label=config.per_label, leave_out=config.leave_out,
    )  # fmt: skip


def _run_autoencoder(
    base: Base, windows: LabelledWindows, heldout: LabelledWindows, run: StageRun
) -> None:
    """Run the stage `autoencoder` or `decoder`, save its result, and report its accuracy."""
    train_autoencoder(base, windows, run)
    save_half(base.vae, run.config.out / "vae")
    saved = load_base(base.settings)
    run.report({"stage": run.stage, **header_accuracy(saved, heldout.nprint)})


def _run_denoiser(base: Base, training_set: PretrainingSet, run: StageRun) -> None:
    """Run the stage `denoiser`, `controlnet` or `distill`, and save its result."""
    out = run.config.out
    if run.stage == "controlnet":
        train_controlnet(base, training_set, run)
        save_half(base.controlnet, out / "controlnet")
        return
    teacher = run.work / "denoiser" / "transformer"
    if run.stage == "denoiser":
        train_denoiser(base, training_set, run)
        base.scheduler.register_to_config(shift=run.config.shift)
        base.scheduler.save_pretrained(out / "scheduler")
        save_half(base.controlnet, out / "controlnet")
        save_half(base.transformer, teacher)
    else:
        if teacher.is_dir():
            base.transformer = type(base.transformer).from_pretrained(teacher).to(base.device)
            use_exact_gelu(base.transformer)
        distill(base, training_set, run)
    save_half(base.transformer, out / "transformer")


def save_half(model: torch.nn.Module, directory: Path) -> None:
    """Write a model in float16, whole or not at all."""
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy.deepcopy(model).half().save_pretrained(partial)
    path = partial / "config.json"
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)  # where it was loaded from
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def identity_of(config: PretrainConfig, windows: LabelledWindows, stage: Stage) -> str:
    """Return a text that changes with anything that changes the result of a stage."""
    total = hashlib.sha256()
    for nprint, label in zip(windows.nprint, windows.label, strict=True):
        total.update(f"{label} {len(nprint)}\n".encode())
        total.update(nprint.tobytes())
    run = {
        name: value
        for name, value in content_of(config).items()
        if name not in _OF_LATER_STAGES[stage]
    }
    return json.dumps({**run, "stage": stage, "windows": total.hexdigest()}, sort_keys=True)


def main() -> None:
    """Run the command line."""
    try:
        pretrain(tyro.cli(Annotated[PretrainConfig, tyro.conf.arg(name="")], description=__doc__))
    except NetdiffError as error:
        sys.exit(f"error: {error}")
