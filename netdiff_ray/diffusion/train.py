"""LoRA fine-tuning of a base on labelled windows; its result is an adapter.

Shape letters: N windows, C x h x w latents, T text tokens, D, E their widths.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from netdiff_ray import __version__
from netdiff_ray.diffusion.adapter import Embeddings, write_adapter
from netdiff_ray.diffusion.base import Base, check_size, encode_control, encode_rasters
from netdiff_ray.diffusion.control import control_images
from netdiff_ray.diffusion.facts import (
    Facts,
    LabelFacts,
    LabelledWindows,
    check_windows,
    describe,
    seed_of,
)
from netdiff_ray.diffusion.loop import averaged, start_or_resume, steps
from netdiff_ray.diffusion.objective import Batch, flow_matching_loss
from netdiff_ray.diffusion.prompts import embed_texts, prompt_for
from netdiff_ray.diffusion.settings import TrainSettings
from netdiff_ray.diffusion.sheet import draw_sheet
from netdiff_ray.errors import UsageError
from netdiff_ray.nprint.layouts import HEIGHTS, height_for
from netdiff_ray.raster import to_rgb

_LORA = "default"
_ENCODED_AT_ONCE = 8

Report = Callable[[dict[str, float | int | str]], None]
"""Takes what there is to tell: step, loss and so on, by name."""


@dataclass(frozen=True)
class Latents:
    """All windows of one height, encoded once."""

    clean: torch.Tensor
    """(N, C, h, w) float16, on the CPU."""
    label: np.ndarray
    """(N,) int64 index of the label."""
    prompt: np.ndarray
    """(N,) int64 index of the prompt."""
    weight: np.ndarray
    """(N,) float64 how often a window is drawn, relative to others."""


@dataclass(frozen=True)
class Prepared:
    """What batches are made of, on the base's device but for the latents."""

    by_height: dict[int, Latents]
    """Windows by the height of their raster, ascending."""
    prompts: torch.Tensor
    """(prompts, T, D), the empty one last."""
    pooled: torch.Tensor
    """(prompts, E), likewise."""
    control: dict[int, torch.Tensor]
    """Height to (labels, C, h, w) latents of control images; empty without ControlNet."""


def train(
    base: Base, windows: LabelledWindows, directory: Path, settings: TrainSettings, report: Report
) -> Path:
    """The adapter directory, trained from its last checkpoint on.

    Args:
        base: its transformer carries the LoRA during training and not after.
        windows: what to learn.
        directory: becomes the adapter; checkpoints lie in its `checkpoints`.
        settings: how.
        report: called with the loss, and with the bit error when a contact sheet is drawn.

    Raises:
        UsageError: windows, settings and base do not go together (before anything is
            written), the loss is not finite or memory does not suffice (the last checkpoint
            stays), or the directory holds another run.
    """
    directory = Path(directory)
    check_windows(windows, settings.max_height)
    labels = describe(windows)
    heights = _check(base, windows, labels, settings)
    identity = _identity(base, windows, settings)
    controls = {
        label: control_images(nprints, heights, windows.layout.width)
        for label, nprints in by_label(windows).items()
    }
    embeddings = embed_labels(base, settings.prompt, labels)
    prepared = prepare(base, windows, labels, embeddings, controls, settings)
    parameters = add_lora(base, settings)
    try:
        training = start_or_resume(parameters, settings.loop, directory / "checkpoints", identity)

        def loss_of(step: int, micro: int) -> tuple[torch.Tensor, int]:
            return window_loss(base, prepared, settings, step, micro)

        for progress in steps(training, loss_of):
            if progress.step % settings.loop.report_every == 0:
                report(
                    {
                        "step": progress.step,
                        "loss": progress.loss,
                        "lr": progress.learning_rate,
                    }
                )
            if settings.sheet_every and progress.step % settings.sheet_every == 0:
                with averaged(training):
                    path = directory / "sheets" / f"step-{progress.step:08d}.png"
                    error = draw_sheet(base, windows, embeddings, settings, path)
                report({"step": progress.step, "bit_error": error, "sheet": str(path)})
        with averaged(training):
            save_lora(base, directory)
    finally:
        base.transformer.unload_lora()
        base.transformer.disable_gradient_checkpointing()
    facts = Facts(
        base=base.settings.base, revision=base.settings.revision, base_digest=base.digest,
        layout=windows.layout.name, max_height=settings.max_height, prompt=settings.prompt,
        control_heights=heights, labels=labels, version=__version__,
        trained={
            "steps": training.step, "rank": settings.rank, "alpha": settings.alpha,
            "loss": training.loss,
        },
    )  # fmt: skip
    write_adapter(directory, facts, embeddings, controls)
    return directory


def _check(
    base: Base, windows: LabelledWindows, labels: dict[str, LabelFacts], settings: TrainSettings
) -> list[int]:
    """The heights that may be drawn, once batch and raster sizes are known to do."""
    if len(windows) < settings.loop.batch_size:
        raise UsageError(
            f"{len(windows)} windows are fewer than a batch of {settings.loop.batch_size}: lower "
            "batch_size, or encode more captures"
        )
    most = max(bounds[1] for facts in labels.values() for bounds in facts.lengths)
    highest = height_for(min(most, settings.max_height))
    heights = [height for height in HEIGHTS if height <= highest]
    for height in heights:
        check_size(base, height, windows.layout.width)
    return heights


def by_label(windows: LabelledWindows) -> dict[str, list[np.ndarray]]:
    """The matrices of each label, labels sorted."""
    found: dict[str, list[np.ndarray]] = {label: [] for label in sorted(set(windows.label))}
    for nprint, label in zip(windows.nprint, windows.label, strict=True):
        found[label].append(nprint)
    return found


def _identity(base: Base, windows: LabelledWindows, settings: TrainSettings) -> str:
    """A text that changes with anything that changes the result."""
    total = hashlib.sha256()
    columns = zip(windows.nprint, windows.label, windows.flow, windows.window, strict=True)
    for nprint, *rest in columns:
        total.update(json.dumps([str(value) for value in rest]).encode())
        total.update(np.ascontiguousarray(nprint, np.int8).tobytes())
    what = asdict(settings)
    for name in ("sheet_every", "sheet_steps"):
        del what[name]
    for name in ("report_every", "checkpoint_every"):
        del what["loop"][name]
    run = {
        "settings": what,
        "base": base.digest,
        "dtype": str(base.dtype),
        "layout": windows.layout.name,
        "windows": total.hexdigest(),
    }
    return json.dumps(run, sort_keys=True)


def embed_labels(base: Base, template: str, labels: dict[str, LabelFacts]) -> Embeddings:
    """The embeddings of every prompt of every label, and of the empty text."""
    keys = [(label, k) for label, facts in labels.items() for k in range(facts.num_prompts)]
    texts = [prompt_for(template, label, window) for label, window in keys]
    prompts, pooled = embed_texts(base, [*texts, ""])
    return Embeddings(
        prompt=dict(zip(keys, prompts, strict=False)),
        pooled=dict(zip(keys, pooled, strict=False)),
        empty_prompt=prompts[-1],
        empty_pooled=pooled[-1],
    )


def prepare(
    base: Base,
    windows: LabelledWindows,
    labels: dict[str, LabelFacts],
    embeddings: Embeddings,
    controls: dict[str, dict[int, np.ndarray]],
    settings: TrainSettings,
) -> Prepared:
    """Latents of all windows, by height, with what else batches need.

    A window of a label that has n of them has weight n ** (balance - 1), so that the label
    as a whole has n ** balance.

    Raises:
        UsageError: control images are wanted and the base has no ControlNet.
    """
    keys = list(embeddings.prompt)
    label_number = {label: k for k, label in enumerate(labels)}
    prompt_number = {key: k for k, key in enumerate(keys)}
    of_height: dict[int, list[int]] = {}
    for i, nprint in enumerate(windows.nprint):
        of_height.setdefault(height_for(len(nprint)), []).append(i)
    by_height = {}
    for height, chosen in sorted(of_height.items()):
        names = [windows.label[i] for i in chosen]
        prompt = [
            prompt_number[name, min(int(windows.window[i]), labels[name].num_prompts - 1)]
            for i, name in zip(chosen, names, strict=True)
        ]
        counts = np.array([labels[name].num_windows for name in names], np.float64)
        by_height[height] = Latents(
            clean=encode_all(base, [windows.nprint[i] for i in chosen], height),
            label=np.array([label_number[name] for name in names]),
            prompt=np.array(prompt),
            weight=counts ** (settings.balance - 1),
        )
    control = {}
    if settings.objective.control_scale:
        for height in by_height:
            images = np.stack([controls[label][height] for label in labels])
            control[height] = encode_control(base, images)
    prompts = [*embeddings.prompt.values(), embeddings.empty_prompt]
    pooled = [*embeddings.pooled.values(), embeddings.empty_pooled]
    return Prepared(
        by_height=by_height,
        prompts=torch.from_numpy(np.stack(prompts)).to(base.device).float(),
        pooled=torch.from_numpy(np.stack(pooled)).to(base.device).float(),
        control=control,
    )


def encode_all(base: Base, nprints: Sequence[np.ndarray], height: int) -> torch.Tensor:
    """(N, C, h, w) float16 latents, on the CPU, of windows drawn at one height."""
    parts = []
    for first in range(0, len(nprints), _ENCODED_AT_ONCE):
        rgb = [to_rgb(nprint, height) for nprint in nprints[first : first + _ENCODED_AT_ONCE]]
        parts.append(encode_rasters(base, np.stack(rgb)).half().cpu())
    return torch.cat(parts)


def window_loss(
    base: Base, prepared: Prepared, settings: TrainSettings, step: int, micro: int
) -> tuple[torch.Tensor, int]:
    """The loss of one micro-batch, and the height of its rasters.

    A function of the weights, the seed, the step and the micro-batch's number.
    """
    loop = settings.loop
    height, chosen = choose_batch(prepared.by_height, loop.batch_size, (loop.seed, step, micro))
    batch = make_batch(base, prepared, height, chosen)
    rng = torch.Generator()
    rng.manual_seed(seed_of(loop.seed, "loss", step, str(micro)))
    with torch.autocast(base.device.type, dtype=torch.bfloat16, enabled=settings.autocast):
        return flow_matching_loss(base, batch, settings.objective, rng), height


def choose_batch(
    by_height: dict[int, Latents], batch_size: int, key: tuple[int, ...]
) -> tuple[int, np.ndarray]:
    """A height and (batch_size,) numbers of windows of it, drawn with replacement by their
    weights; a function of `key`."""
    rng = np.random.default_rng(key)
    heights = list(by_height)
    share = np.array([by_height[height].weight.sum() for height in heights])
    height = heights[rng.choice(len(heights), p=share / share.sum())]
    weight = by_height[height].weight
    return height, rng.choice(len(weight), size=batch_size, p=weight / weight.sum())


def make_batch(base: Base, prepared: Prepared, height: int, chosen: np.ndarray) -> Batch:
    """The chosen windows of a height, on the base's device."""
    latents = prepared.by_height[height]
    prompt = torch.from_numpy(latents.prompt[chosen]).to(base.device)
    control = None
    if height in prepared.control:
        control = prepared.control[height][torch.from_numpy(latents.label[chosen]).to(base.device)]
    return Batch(
        latents=latents.clean[torch.from_numpy(chosen)].to(base.device).float(),
        prompt=prepared.prompts[prompt],
        pooled=prepared.pooled[prompt],
        empty_prompt=prepared.prompts[-1],
        empty_pooled=prepared.pooled[-1],
        control=control,
    )


def add_lora(base: Base, settings: TrainSettings) -> dict[str, torch.nn.Parameter]:
    """The float32 LoRA parameters, by name, put into the base's transformer.

    Raises:
        UsageError: the transformer has no module of the wanted names.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.target_modules),
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(settings.loop.seed, "lora", 0, "weights"))
        try:
            base.transformer.add_adapter(config, adapter_name=_LORA)
        except ValueError as error:
            raise UsageError(
                f"target_modules {', '.join(settings.target_modules)}: "
                f"{str(error).strip().splitlines()[0]}"
            ) from None
    if settings.gradient_checkpointing:
        base.transformer.enable_gradient_checkpointing()
    found = {}
    for name, parameter in base.transformer.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            found[name] = parameter
    return found


def save_lora(base: Base, directory: Path) -> None:
    """Nothing; writes the transformer's LoRA as diffusers does."""
    StableDiffusion3Pipeline.save_lora_weights(
        directory,
        transformer_lora_layers=get_peft_model_state_dict(base.transformer, adapter_name=_LORA),
        transformer_lora_adapter_metadata=base.transformer.peft_config[_LORA].to_dict(),
    )
