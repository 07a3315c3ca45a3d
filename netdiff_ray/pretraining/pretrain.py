"""Pretrain a small base ("nano") on labelled captures: one command, resumable, seeded, any device.

    python jobs/pretrain.py --data samples/train --heldout samples/heldout --out nano

`--data` and `--heldout` hold a folder of captures for each label. The stages, each of which
goes on from its last checkpoint in `--work`:

1. `autoencoder`: cross-entropy over the three colours, with noise on the latents, so that it
   reads what a denoiser draws. Reports the accuracy on header bits of held-out captures.
2. `decoder`, not unless asked for: half of the autoencoder learns on, of latents as they are, so
   that what denoises them stays valid.
3. `denoiser`: transformer and ControlNet, flow matching, prompts of the labels; heights
   from 16 to `--max-height`; the ControlNet takes part in `--control-share` of the steps.
4. `few-steps`: the transformer learns to do in one step of a short schedule what it did in
   several (progressive distillation), all columns and packets counting alike, with control images
   in the same share of steps.

After each stage the base in `--out` is complete. A base that lies there already is what the
first of `--stages` begins with.
Labels given by `--leave-out` are not learnt: they are for fine-tuning.
"""

import copy
import dataclasses
import hashlib
import json
import shutil
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from netdiff_ray.config.diffusion import (
    BaseSettings,
    FlowMatchingSettings,
    LoopSettings,
    TrainSettings,
)
from netdiff_ray.diffusion.base import Base, load_base, use_exact_gelu
from netdiff_ray.diffusion.objective import TrainingBatch, flow_matching_loss
from netdiff_ray.diffusion.optimization import Loss, averaged, start_or_resume, steps
from netdiff_ray.diffusion.train import choose_batch, make_batch
from netdiff_ray.diffusion.training_set import TrainingSet, make_training_set
from netdiff_ray.errors import ModelError, NetdiffError
from netdiff_ray.flows import assemble_flows
from netdiff_ray.labels.flow_plan import seed_of
from netdiff_ray.labels.labelled_windows import LabelledWindows, check_windows
from netdiff_ray.nprint.codec import encode
from netdiff_ray.nprint.layouts import HEIGHTS, height_for, layout_named
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.container import has_capture_suffix
from netdiff_ray.packets.headers import header_rows
from netdiff_ray.pretraining.nano import NanoSizes, build
from netdiff_ray.pretraining.stages import (
    autoencoder_loss,
    distillation_loss,
    header_accuracy,
    normalise_latents,
)
from netdiff_ray.raster import to_rgb

STAGES = ("autoencoder", "decoder", "denoiser", "few-steps")
_TALLEST_FOR_AUTOENCODER = 64
_FACTORS_FROM = 256  # windows that latents are normalised on
_BATCH_ROWS = 32
_TEACHER_SUBSTEPS = 4


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain a small base on labelled captures."""

    data: Path
    """A folder of captures for each label."""
    heldout: Path
    """The like, for the autoencoder's accuracy."""
    out: Path
    """Becomes a diffusers SD3 directory."""
    work: Path | None = None
    """Checkpoints and reports of the stages; OUT.work unless given."""
    stages: tuple[Literal["autoencoder", "decoder", "denoiser", "few-steps"], ...] = (
        "autoencoder", "denoiser", "few-steps",
    )  # fmt: skip
    """What to run, as far as it is not done."""
    leave_out: tuple[str, ...] = ()
    """Labels that are not learnt."""
    layout: str = "timed"
    """Of the rasters."""
    max_height: int = 256
    """Rows of a full window."""
    per_label: int = 1000
    """Flows of a label that are used, at most."""
    device: str = "auto"
    """A torch device."""
    seed: int = 0
    """Of all weights and batches."""
    latent_noise: float = 0.1
    """Of the latents that the decoder learns to read, relative to their standard deviation."""
    shift: float = 6.0
    """Of noise levels, at training and in the base's scheduler. What all packets of a flow have
    alike shows through much noise: at 0.9 a window is known but for details, so that most must
    be learnt above it."""
    logit_mean: float = 0.0
    """Of the noise levels of the denoiser stage, as in FlowMatchingSettings."""
    logit_std: float = 1.5
    """Of the same."""
    few_steps: int = 0
    """Of the denoiser stage, likewise: drawing in so many steps is learnt before all."""
    emphasis: float = 4.0
    """Of directions, sizes and flags, likewise."""
    opening: float = 4.0
    """Of a window's first packets, likewise."""
    control_share: float = 0.5
    """Share of the steps that have control images, 0 to 1."""
    autocast: bool = False
    """bfloat16 autocast in the denoiser's forward passes, attention in two matrix products."""
    few: tuple[int, int] = (4, 8)
    """Fewest and most steps that the last stage tunes for."""
    balance: float = 0.5
    """A label of n windows is drawn in proportion to n to this power."""
    sizes: NanoSizes = field(default_factory=NanoSizes)
    """Of the components."""
    autoencoder: LoopSettings = field(
        default_factory=lambda: LoopSettings(
            steps=3000, batch_size=4, learning_rate=2e-3, warmup_steps=100, ema_decay=0.995
        )
    )
    """Steps of the first stage, and of the second."""
    denoiser: LoopSettings = field(
        default_factory=lambda: LoopSettings(
            steps=20_000, batch_size=16, learning_rate=6e-4, warmup_steps=500, ema_decay=0.999
        )
    )
    """Steps of the third."""
    distilling: LoopSettings = field(
        default_factory=lambda: LoopSettings(
            steps=3000, batch_size=16, learning_rate=1e-4, warmup_steps=100, ema_decay=0.998
        )
    )
    """Steps of the fourth."""

    def __post_init__(self) -> None:
        layout_named(self.layout)
        if self.max_height not in HEIGHTS:
            raise ModelError(f"--max-height {self.max_height}: it is one of {HEIGHTS}")
        self.objective()
        if not 1 <= self.few[0] <= self.few[1]:
            raise ModelError(f"--few {self.few}: fewest steps and most, from 1 up")

    def objective(self) -> FlowMatchingSettings:
        """Of the denoiser stage."""
        return FlowMatchingSettings(
            logit_mean=self.logit_mean, logit_std=self.logit_std, shift=self.shift,
            schedule_steps=self.few_steps, emphasis=self.emphasis, opening=self.opening,
            control_scale=1.0,
        )  # fmt: skip


def read_windows(folder: Path, config: PretrainConfig) -> LabelledWindows:
    """The windows of the captures in `folder`, a folder a label; of each label at most
    `per_label` flows, the first by name of capture.

    Raises:
        ModelError: there is no label's folder with captures in it.
        CaptureError: a capture is none.
    """
    layout = layout_named(config.layout)
    columns: dict[str, list] = {"nprint": [], "label": [], "flow": [], "window": []}
    for place in sorted(p for p in folder.glob("*") if p.is_dir()):
        flows: set[str] = set()
        captures = sorted(p for p in place.rglob("*") if p.is_file() and has_capture_suffix(p.name))
        for path in captures if place.name not in config.leave_out else ():
            reader = CaptureReader(path)
            rows = (header_rows(table) for table in reader)
            for part in assemble_flows(rows, reader.fingerprint, height=config.max_height):
                nprint = encode(
                    part.rows, layout, direction=part.direction,
                    interarrival_ns=part.interarrival_ns,
                )  # fmt: skip
                spans = pairwise(part.first.tolist())
                rows_of = zip(part.flow_id, part.window.tolist(), spans, strict=True)
                for flow, window, (begin, end) in rows_of:
                    if flow not in flows and len(flows) >= config.per_label:
                        continue
                    flows.add(flow)
                    columns["nprint"].append(nprint[begin:end].copy())
                    columns["label"].append(place.name)
                    columns["flow"].append(flow)
                    columns["window"].append(window)
    windows = LabelledWindows(**columns, layout=layout)
    if not len(windows):
        raise ModelError(f"{folder} holds no folder of captures for a label that is to be learnt")
    check_windows(windows, config.max_height)
    return windows


def say(**facts: object) -> None:
    """Nothing; prints one line of JSON."""
    print(json.dumps(facts), flush=True)


def run_stage(
    stage: str,
    work: Path,
    identity: str,
    parameters: dict[str, torch.nn.Parameter],
    settings: LoopSettings,
    loss_of: Loss,
) -> dict[str, torch.Tensor]:
    """The averaged parameters after all steps of a stage."""
    training = start_or_resume(parameters, settings, work / stage, identity)
    total = 0.0
    for progress in steps(training, loss_of):
        total += progress.loss
        if progress.step % settings.report_every == 0:
            mean = total / settings.report_every
            say(stage=stage, step=progress.step, loss=mean, lr=progress.learning_rate)
            total = 0.0
    with averaged(training):
        return {name: p.detach().clone() for name, p in parameters.items()}


def trainable(*models: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters of models, by number of the model and name, made trainable."""
    found = {}
    for k, model in enumerate(models):
        model.requires_grad_(True)
        found |= {f"{k}.{name}": parameter for name, parameter in model.named_parameters()}
    return found


def adopt(parameters: dict[str, torch.nn.Parameter], values: dict[str, torch.Tensor]) -> None:
    """Nothing; gives parameters new values, and makes them constants."""
    for name, parameter in parameters.items():
        parameter.data.copy_(values[name])
        parameter.requires_grad_(False)


def train_autoencoder(
    base: Base,
    windows: LabelledWindows,
    config: PretrainConfig,
    work: Path,
    identity: str,
    stage: str,
) -> None:
    """Nothing; trains `base.vae`, or its decoder alone, and sets its factors unless that."""
    settings = config.autoencoder
    rasters: dict[int, list[int]] = {}
    for i, nprint in enumerate(windows.nprint):
        height = min(height_for(len(nprint)), _TALLEST_FOR_AUTOENCODER)
        rasters.setdefault(height, []).append(i)
    heights = sorted(rasters)
    share = np.array([len(rasters[height]) for height in heights], float)

    def loss_of(step: int, micro: int) -> tuple[torch.Tensor, int]:
        rng = np.random.default_rng((config.seed, step, micro))
        height = heights[rng.choice(len(heights), p=share / share.sum())]
        pictures = []
        for i in rng.choice(rasters[height], settings.batch_size):
            nprint = windows.nprint[i]
            first = rng.integers(0, max(len(nprint) - height, 0) + 1)
            pictures.append(to_rgb(nprint[first : first + height], height))
        return autoencoder_loss(
            base.vae, np.stack(pictures), config.latent_noise, generator(config, step, micro)
        ), height

    parameters = trainable(base.vae if stage == "autoencoder" else base.vae.decoder)
    base.vae.train()
    adopt(parameters, run_stage(stage, work, identity, parameters, settings, loss_of))
    base.vae.eval()
    if stage == "decoder":
        return
    chosen = np.random.default_rng(config.seed).permutation(len(windows))[:_FACTORS_FROM]
    normalise_latents(base, [windows.nprint[i] for i in chosen])


def generator(config: PretrainConfig, step: int, micro: int) -> torch.Generator:
    """The CPU generator of a micro-batch's noise."""
    rng = torch.Generator()
    rng.manual_seed(seed_of(config.seed, "pretrain", step, str(micro)))
    return rng


def prepared_windows(base: Base, windows: LabelledWindows, config: PretrainConfig) -> TrainingSet:
    """Latents, prompts and control images of all windows."""
    settings = TrainSettings(
        balance=config.balance, max_height=config.max_height, loop=config.denoiser,
        objective=FlowMatchingSettings(control_scale=1.0),
    )  # fmt: skip
    return make_training_set(base, [windows], settings)


def batch_at(
    base: Base, training_set: TrainingSet, config: PretrainConfig, size: int, step: int, micro: int
) -> tuple[TrainingBatch, int]:
    """A step's batch and its height, with control images or without.

    `size` windows of _BATCH_ROWS rows, so many more or fewer of other heights that all steps
    cost about the same.
    """
    key = (config.seed, step, micro)
    kind, _ = choose_batch(training_set.by_kind, 1, key)
    height, _ = kind
    alike = {kind: training_set.by_kind[kind]}
    _, chosen = choose_batch(alike, max(1, size * _BATCH_ROWS // height), key)
    batch = make_batch(base, training_set, kind, chosen)
    if np.random.default_rng((*key, 1)).random() >= config.control_share:
        batch = dataclasses.replace(batch, control=None)
    return batch, height


def bfloat16(base: Base, config: PretrainConfig) -> torch.autocast:
    """The context of a forward pass. Two matrix products in bfloat16 train twice as fast on a
    CPU as its fused attention."""
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(config.autocast)
    return torch.autocast(base.device.type, dtype=torch.bfloat16, enabled=config.autocast)


def train_denoiser(
    base: Base, training_set: TrainingSet, config: PretrainConfig, work: Path, identity: str
) -> None:
    """Nothing; trains the transformer and the ControlNet of `base`."""
    objective = config.objective()

    def loss_of(step: int, micro: int) -> tuple[torch.Tensor, int]:
        size = config.denoiser.batch_size
        batch, height = batch_at(base, training_set, config, size, step, micro)
        with bfloat16(base, config):
            loss = flow_matching_loss(base, batch, objective, generator(config, step, micro))
        return loss, height

    parameters = trainable(base.transformer, base.controlnet)
    adopt(
        parameters,
        run_stage("denoiser", work, identity, parameters, config.denoiser, loss_of),
    )


def tune_for_few_steps(
    base: Base, training_set: TrainingSet, config: PretrainConfig, work: Path, identity: str
) -> None:
    """Nothing; tunes the transformer of `base`; the ControlNet stays."""
    teacher = copy.deepcopy(base.transformer)

    def loss_of(step: int, micro: int) -> tuple[torch.Tensor, int]:
        size = config.distilling.batch_size
        batch, height = batch_at(base, training_set, config, size, step, micro)
        rng = generator(config, step, micro)
        few = int(torch.randint(config.few[0], config.few[1] + 1, (), generator=rng))
        with bfloat16(base, config):
            loss = distillation_loss(base, teacher, batch, few, _TEACHER_SUBSTEPS, rng)
        return loss, height

    parameters = trainable(base.transformer)
    adopt(
        parameters,
        run_stage("few-steps", work, identity, parameters, config.distilling, loss_of),
    )


def save_half(model: torch.nn.Module, directory: Path) -> None:
    """Nothing; writes a model in float16, whole or not at all."""
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy.deepcopy(model).half().save_pretrained(partial)
    config = partial / "config.json"
    facts = json.loads(config.read_text())
    facts.pop("_name_or_path", None)  # where it was loaded from
    config.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def identity_of(config: PretrainConfig, windows: LabelledWindows, stage: str) -> str:
    """A text that changes with anything that changes the stage's result."""
    total = hashlib.sha256()
    for nprint, label in zip(windows.nprint, windows.label, strict=True):
        total.update(f"{label} {len(nprint)}\n".encode())
        total.update(nprint.tobytes())
    what = dataclasses.asdict(config)
    kept = (
        "layout",
        "max_height",
        "seed",
        "latent_noise",
        "shift",
        "logit_mean",
        "logit_std",
        "few_steps",
        "emphasis",
        "opening",
        "control_share",
        "autocast",
        "balance",
        "sizes",
    )
    run = {name: what[name] for name in kept}
    loops = ("autoencoder", "denoiser", "distilling")[: max(STAGES.index(stage), 1)]
    for name in loops:
        run[name] = {k: v for k, v in what[name].items() if not k.endswith("_every")}
    if stage == "few-steps":
        run["few"] = what["few"]
    return json.dumps({**run, "stage": stage, "windows": total.hexdigest()}, sort_keys=True)


def pretrain(config: PretrainConfig) -> Path:
    """The base's directory, after the stages up to the wanted one.

    Raises:
        NetdiffError: captures cannot be read, `work` holds another run, the loss is not finite,
            or memory does not suffice.
    """
    work = config.work or config.out.with_name(config.out.name + ".work")
    windows = read_windows(config.data, config)
    heldout = read_windows(config.heldout, config)
    say(windows=len(windows), heldout=len(heldout), labels=sorted(set(windows.label)))
    if not (config.out / "model_index.json").is_file():
        build(config.out, config.sizes, config.seed)
    training_set = None
    for stage in sorted(config.stages, key=STAGES.index):
        identity = identity_of(config, windows, stage)
        done = work / stage / "done.json"
        if done.is_file() and done.read_text() == identity:
            continue
        base = load_base(
            BaseSettings(
                base=str(config.out), device=config.device, dtype="float32",
                attention="math" if config.autocast else "auto",
            )
        )  # fmt: skip
        if stage in ("autoencoder", "decoder"):
            train_autoencoder(base, windows, config, work, identity, stage)
            save_half(base.vae, config.out / "vae")
            base = load_base(base.settings)
            say(stage=stage, **header_accuracy(base, heldout.nprint))
        else:
            if training_set is None:
                training_set = prepared_windows(base, windows, config)
            if stage == "denoiser":
                train_denoiser(base, training_set, config, work, identity)
                base.scheduler.register_to_config(shift=config.shift)
                base.scheduler.save_pretrained(config.out / "scheduler")
                save_half(base.controlnet, config.out / "controlnet")
                save_half(base.transformer, work / stage / "transformer")
            else:
                teacher = work / "denoiser" / "transformer"
                if teacher.is_dir():
                    kind = type(base.transformer)
                    base.transformer = kind.from_pretrained(teacher).to(base.device)
                    use_exact_gelu(base.transformer)
                tune_for_few_steps(base, training_set, config, work, identity)
            save_half(base.transformer, config.out / "transformer")
        done.write_text(identity)
    weights = sum(path.stat().st_size for path in config.out.rglob("*.safetensors"))
    say(out=str(config.out), weights_bytes=weights)
    return config.out


def main() -> None:
    """Nothing; the command line."""
    try:
        pretrain(tyro.cli(Annotated[PretrainConfig, tyro.conf.arg(name="")], description=__doc__))
    except NetdiffError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
