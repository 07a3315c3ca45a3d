"""LoRA fine-tuning of a base on labelled windows; its result is an adapter.

The same functions serve one process (`train`) and several ranks that hold a share of the
windows each (`fine_tune`). Which windows a step takes, its noise levels and its noise are drawn
for the whole batch, by a function of the seed and the step; each rank computes its slice of
every micro-batch, and the sum of the ranks' gradients is that of the batch. So the adapter
does not depend on how many ranks there are, but for the order in which floats are added.

Shape letters: N windows, C x h x w latents.
"""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from netdiff_ray import __version__
from netdiff_ray.config.diffusion import TrainSettings
from netdiff_ray.diffusion.adapter import write_adapter
from netdiff_ray.diffusion.base import Base
from netdiff_ray.diffusion.objective import Batch, flow_matching_loss
from netdiff_ray.diffusion.optimization import (
    TrainState,
    averaged,
    is_out_of_memory,
    save_checkpoint,
    start_or_resume,
    steps,
)
from netdiff_ray.diffusion.process_group import SINGLE_PROCESS, ProcessGroup
from netdiff_ray.diffusion.sample_grid import draw_sample_grid
from netdiff_ray.diffusion.token_pruning import Kind, only_columns
from netdiff_ray.diffusion.training_set import Latents, Prepared, prepare
from netdiff_ray.errors import ModelError
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.labels.flow_plan import Sample, seed_of
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.statistics import LabelStatistics

_LORA = "default"

Report = Callable[[dict[str, float | int | str]], None]
"""Takes what there is to tell: step, loss and so on, by name."""


def train(
    base: Base, windows: LabelledWindows, directory: Path, settings: TrainSettings, report: Report
) -> Path:
    """The adapter directory, trained from its last checkpoint on.

    Args:
        base: its transformer carries the LoRA during training and not after.
        windows: what to learn.
        directory: becomes the adapter; checkpoints lie in its `checkpoints`.
        settings: how.
        report: called with the loss, and with the bit error when a sample grid is drawn.

    Raises:
        ModelError: windows, settings and base do not go together (before anything is
            written), the loss is not finite or memory does not suffice (the last checkpoint
            stays), or the directory holds another run.
    """
    directory = Path(directory)
    fine_tune(base, [windows], directory, directory / "checkpoints", settings, report)
    return directory


def fine_tune(
    base: Base,
    parts: Iterable[LabelledWindows],
    directory: Path,
    checkpoints: Path,
    settings: TrainSettings,
    report: Report,
    process_group: ProcessGroup = SINGLE_PROCESS,
    save: Callable[[TrainState], object] = save_checkpoint,
) -> None:
    """Nothing; rank 0 writes the adapter to `directory`.

    Args:
        base: its transformer carries the LoRA during training and not after.
        parts: this rank's share of the windows, see `prepare`.
        directory: becomes the adapter.
        checkpoints: where the last checkpoint lies, if there is one.
        settings: how.
        report: called by all ranks, equally often.
        process_group: who takes part.
        save: called by all ranks when a checkpoint is due.

    Raises:
        ModelError: see `train`.
    """
    try:
        prepared = prepare(base, parts, settings, process_group)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            "out of memory while windows are encoded: set slice_vae, or encode captures with a "
            "lower height"
        ) from None
    parameters = add_lora(base, settings)
    try:
        identity = _identity(base, prepared, settings)
        training = start_or_resume(parameters, settings.loop, checkpoints, identity)

        def loss_of(step: int, micro: int) -> tuple[torch.Tensor, int]:
            return window_loss(base, prepared, settings, step, micro, process_group)

        reported_step, reported_at = training.step, time.monotonic()
        for progress in steps(training, loss_of, process_group, save):
            last = progress.step == settings.loop.steps
            if last or progress.step % settings.loop.report_every == 0:
                seconds = time.monotonic() - reported_at
                windows = (progress.step - reported_step) * settings.loop.windows_per_step
                report(
                    {
                        "step": progress.step,
                        "loss": progress.loss,
                        "lr": progress.learning_rate,
                        "windows_per_s": windows / seconds,
                    }
                )
                reported_step, reported_at = progress.step, time.monotonic()
            if settings.sample_grid_every and progress.step % settings.sample_grid_every == 0:
                report(_sample_grid(base, training, prepared, directory, settings, process_group))
        if process_group.rank == 0:
            with averaged(training):
                save_lora(base, directory)
    finally:
        base.transformer.unload_lora()
        base.transformer.disable_gradient_checkpointing()
    if process_group.rank == 0:
        facts = AdapterMetadata(
            base=base.settings.base, revision=base.settings.revision, base_digest=base.digest,
            layout=prepared.layout.name, max_height=settings.max_height, prompt=settings.prompt,
            control_heights=prepared.heights, labels=prepared.labels, version=__version__,
            trained={
                "steps": training.step, "rank": settings.rank, "alpha": settings.alpha,
                "loss": training.loss,
            },
        )  # fmt: skip
        write_adapter(directory, facts, prepared.embeddings, prepared.control_images)


def _sample_grid(
    base: Base,
    training: TrainState,
    prepared: Prepared,
    directory: Path,
    settings: TrainSettings,
    process_group: ProcessGroup,
) -> dict[str, float | int | str]:
    """What rank 0 tells of the sample grid that it has drawn; of others, the step."""
    if process_group.rank:
        return {"step": training.step}
    path = directory / "sample_grids" / f"step-{training.step:08d}.png"
    samples = {label: _middle_window(label, facts) for label, facts in prepared.labels.items()}
    with averaged(training):
        error = draw_sample_grid(base, prepared, samples, settings, path)
    return {"step": training.step, "bit_error": error, "sample_grid": str(path)}


def _middle_window(label: str, facts: LabelStatistics) -> Sample:
    """A full window of the label's middle height, with the headers of most of its flows."""
    heights = sorted(int(height) for height, n in facts.heights.items() for _ in range(n))
    height = heights[len(heights) // 2]
    flows = {headers: sum(own[-1] for own in bins) for headers, bins in facts.lengths.items()}
    headers = tuple(max(flows, key=flows.__getitem__).split())
    return Sample(
        label=label, index=0, window=0, height=height, length=height, headers=headers
    )  # fmt: skip


def _identity(base: Base, prepared: Prepared, settings: TrainSettings) -> str:
    """A text that changes with anything that changes the result."""
    run = {
        "settings": settings.what_decides(),
        "base": base.digest,
        "dtype": str(base.dtype),
        "layout": prepared.layout.name,
        "windows": prepared.digest,
    }
    return json.dumps(run, sort_keys=True)


def window_loss(
    base: Base,
    prepared: Prepared,
    settings: TrainSettings,
    step: int,
    micro: int,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[torch.Tensor, int]:
    """This rank's share of the loss of one micro-batch, and the height of its rasters.

    A function of the weights, the seed, the step and the micro-batch's number. A rank for
    which no window is left has a loss of 0, without gradients.
    """
    loop = settings.loop
    kind, chosen = choose_batch(prepared.by_kind, loop.batch_size, (loop.seed, step, micro))
    height, _ = kind
    batch = make_batch(base, prepared, kind, chosen, process_group)
    part = process_group.part_of(loop.batch_size)
    if part.start == part.stop:
        return torch.zeros(()), height
    rng = torch.Generator()
    rng.manual_seed(seed_of(loop.seed, "loss", step, str(micro)))
    with torch.autocast(base.device.type, dtype=torch.bfloat16, enabled=settings.autocast):
        return flow_matching_loss(base, batch, settings.objective, rng, part), height


def choose_batch(
    by_kind: dict[Kind, Latents], batch_size: int, key: tuple[int, ...]
) -> tuple[Kind, np.ndarray]:
    """A kind and (batch_size,) numbers of windows of it, drawn with replacement by their
    weights; a function of `key`."""
    rng = np.random.default_rng(key)
    kinds = list(by_kind)
    share = np.array([by_kind[kind].weight.sum() for kind in kinds])
    kind = kinds[rng.choice(len(kinds), p=share / share.sum())]
    weight = by_kind[kind].weight
    return kind, rng.choice(len(weight), size=batch_size, p=weight / weight.sum())


def make_batch(
    base: Base,
    prepared: Prepared,
    kind: Kind,
    chosen: np.ndarray,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> Batch:
    """The chosen windows of a kind, on the base's device, whichever ranks hold them.

    Each rank puts in the latents that it holds; the sum over the ranks is the batch. That
    is one exchange of the size of the batch, and needs no more memory than it.
    """
    height, _ = kind
    found = prepared.by_kind[kind]
    columns = None
    if found.columns is not None:
        columns = found.columns[torch.from_numpy(found.version[chosen])]
    row = found.row[chosen]
    latents = torch.zeros((len(chosen), *found.clean.shape[1:]))
    latents[torch.from_numpy(row >= 0)] = found.clean[torch.from_numpy(row[row >= 0])].float()
    latents = only_columns(latents, columns)
    prompt = torch.from_numpy(found.prompt[chosen]).to(base.device)
    control = None
    if height in prepared.control:
        control = prepared.control[height][torch.from_numpy(found.label[chosen]).to(base.device)]
        control = only_columns(control, columns)
    return Batch(
        latents=process_group.all_reduce(latents.to(base.device)),
        prompt=prepared.prompts[prompt],
        pooled=prepared.pooled[prompt],
        empty_prompt=prepared.prompts[-1],
        empty_pooled=prepared.pooled[-1],
        control=control,
        columns=columns,
    )


def add_lora(base: Base, settings: TrainSettings) -> dict[str, torch.nn.Parameter]:
    """The float32 LoRA parameters, by name, put into the base's transformer.

    Raises:
        ModelError: the transformer has no module of the wanted names.
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
            raise ModelError(
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
