"""Drawing: noise to rasters to nprints.

What is drawn for a sample is a function of (run seed, label, index, window), of base,
adapter and settings; it does not depend on what else is in the batch. To that end every
sample has its own noise, made on the CPU, and every batch of one kind has one shape:
matrix products of another shape may add up in another order. So may those that several threads
share: a batch is drawn by one thread, and several threads draw several batches.

Shape letters: N samples, H x W pixels, C x h x w latents, T text tokens, D, E their widths.
"""

import contextlib
import inspect
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import diffusers
import numpy as np
import torch
from diffusers import SchedulerMixin

from netdiff_ray.config.diffusion import BaseSettings, DrawSettings, Lora
from netdiff_ray.diffusion.adapter import Adapter, check_base
from netdiff_ray.diffusion.base import (
    Base,
    Condition,
    check_size,
    decode_latents,
    encode_control,
    load_base,
    velocity,
)
from netdiff_ray.diffusion.fetch import directory_of
from netdiff_ray.diffusion.optimization import is_out_of_memory
from netdiff_ray.diffusion.plan_constraints import held_present, held_vacant, planned_cells
from netdiff_ray.diffusion.token_pruning import (
    Kind,
    columns_taking_part,
    only_columns,
    transport_of,
    with_columns,
)
from netdiff_ray.errors import ModelError
from netdiff_ray.labels.flow_plan import Sample, seed_of
from netdiff_ray.labels.statistics import MAX_WINDOW_PROMPTS, LabelStatistics, most_option_octets
from netdiff_ray.nprint.layouts import Layout, layout_named
from netdiff_ray.raster import from_rgb

_ADAPTER = "adapter"
_PURE_NOISE = 1 - 1e-4
"""Noise levels above it are 1 but for rounding."""
_NOISES = 8
"""How many a shared first step is the mean of."""


@dataclass(frozen=True)
class Drawn:
    """One window, drawn."""

    sample: Sample
    """What was asked for."""
    nprint: np.ndarray
    """(H, W) int8 of 1, 0, -1; a wholly vacant row ends the flow."""
    distance: np.ndarray
    """(H, W) float32, how far each pixel was from its colour (see `raster.from_rgb`)."""


def load_for_drawing(adapter: Adapter, settings: BaseSettings, draw: DrawSettings) -> Base:
    """Load a base, and add an adapter and the LoRAs of `draw` to its weights.

    Args:
        adapter: what to draw with.
        settings: of the base that the adapter was trained on.
        draw: decides which LoRAs are stacked, and whether the ControlNet is loaded.

    Raises:
        ModelError: see `load_base` and `load_adapter`.
    """
    base = load_base(settings, with_controlnet=draw.control_scale > 0)
    load_adapter(base, adapter, draw.loras)
    return base


def load_adapter(base: Base, adapter: Adapter, loras: Sequence[Lora] = ()) -> None:
    """Nothing; adds an adapter's LoRA, and others stacked on it, to the base's weights for
    good. For another adapter, load the base again.

    Raises:
        ModelError: the adapter is of another base, or weights do not fit or cannot be had.
    """
    check_base(adapter.metadata, base.digest, base.settings.base)
    names, scales = [_ADAPTER], [1.0]
    _load_lora(base, str(adapter.directory), None, _ADAPTER)
    for k, lora in enumerate(loras):
        source = str(lora.source)
        if not source.endswith(".safetensors"):
            patterns = [lora.weight_name or "*.safetensors"]
            source = str(directory_of(source, lora.revision, (), files=patterns))
        _load_lora(base, source, lora.weight_name, f"lora_{k}")
        names.append(f"lora_{k}")
        scales.append(lora.scale)
    base.transformer.set_adapters(names, scales)
    base.transformer.fuse_lora(adapter_names=names)
    base.transformer.unload_lora()


def _load_lora(base: Base, source: str, weight_name: str | None, name: str) -> None:
    pipeline = diffusers.StableDiffusion3Pipeline
    try:
        weights, metadata = pipeline.lora_state_dict(
            source, weight_name=weight_name, local_files_only=True, return_lora_metadata=True
        )
        transformer = {k: v for k, v in weights.items() if k.startswith("transformer.")}
        if not transformer:
            raise ModelError(f"{source} holds no LoRA weights of an SD3 transformer")
        pipeline.load_lora_into_transformer(
            transformer, base.transformer, adapter_name=name, metadata=metadata
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{source}: these LoRA weights do not fit {base.settings.base} ({reason}); use the "
            "base that they were trained on"
        ) from None


def scheduler_for(base: Base, name: str, shift: float | None, steps: int) -> SchedulerMixin:
    """A scheduler of diffusers' class `name`, configured as the base's, about to take `steps`.

    Where the class takes noise levels, they are evenly spaced from 1 to 1 / steps, and then
    shifted, as diffusers' pipeline of Flux does ("trailing", Lin et al., arXiv:2305.08891);
    those that diffusers chooses for SD3 end with a step that begins at nearly no noise.

    Raises:
        ModelError: diffusers has no such flow-matching scheduler.
    """
    known = [n for n in dir(diffusers) if n.startswith("FlowMatch") and n.endswith("Scheduler")]
    if name not in known:
        raise ModelError(f"scheduler {name!r} is not a flow-matching one: {', '.join(known)}")
    config = dict(base.scheduler.config)
    config["use_dynamic_shifting"] = False
    config["shift"] = base.shift if shift is None else shift
    kind = getattr(diffusers, name)
    accepted = inspect.signature(kind.__init__).parameters
    scheduler = kind(**{key: value for key, value in config.items() if key in accepted})
    if "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), device=base.device)
    else:
        scheduler.set_timesteps(steps, device=base.device)
    return scheduler


def noise_generator(seed: int, sample: Sample) -> torch.Generator:
    """The CPU generator of all randomness in denoising one sample."""
    purpose = f"noise {sample.window}"
    generator = torch.Generator()
    generator.manual_seed(seed_of(seed, sample.label, sample.index, purpose))
    return generator


@torch.no_grad()
def denoise(
    base: Base,
    condition: Condition,
    empty: Condition | None,
    samples: Sequence[Sample],
    width: int,
    settings: DrawSettings,
    seeds: Sequence[int] | None = None,
) -> torch.Tensor:
    """The latents of samples of one kind.

    Args:
        base: with the adapter's LoRA in it.
        condition: of N samples, with the columns that have tokens.
        empty: of N empty prompts, for guidance; None without.
        samples: N of one kind (see `kind_of`).
        width: W of the rasters.
        settings: how to draw.
        seeds: N, of the run of each sample; that of `settings` unless given.

    Returns:
        (N, C, h, w) float32 on the base's device.
    """
    height, _ = kind = kind_of(samples[0])
    assert all(kind_of(sample) == kind for sample in samples)
    columns = condition.columns
    seeds = [settings.seed] * len(samples) if seeds is None else seeds
    generators = [noise_generator(*pair) for pair in zip(seeds, samples, strict=True)]
    shape = base.latent_shape(height, width)
    noise = only_columns(_noise(base, shape, generators), columns)
    scheduler = scheduler_for(base, settings.scheduler, settings.shift, settings.steps)
    extra = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        extra["generator"] = generators
    held = bounds = None
    if settings.hold_plan:
        mask, whole = held_vacant(base, samples, width)
        held = only_columns(mask, columns), only_columns(whole, columns)
        bounds = held_present(base, samples, width)
        bounds = bounds and [only_columns(one, columns) for one in bounds]
    latents = noise
    for timestep in scheduler.timesteps:
        sigmas = (timestep / scheduler.config.num_train_timesteps).expand(len(samples))
        if settings.shared_first_step and sigmas[0] > _PURE_NOISE and settings.steps > 1:
            predicted = noise - _expected(base, condition, empty, samples, noise.shape, settings)
        else:
            predicted = _guided(base, latents, sigmas, condition, empty, settings.guidance)
        if bounds is not None:
            sigma = sigmas.to(latents.device).view(-1, 1, 1, 1)
            predicted = (latents - (latents - sigma * predicted).clamp(*bounds)) / sigma
        latents = scheduler.step(predicted, timestep, latents, return_dict=False, **extra)[0]
        if held is not None:
            mask, vacant = held
            sigma = scheduler.sigmas[scheduler.step_index].to(latents.device)
            latents = torch.where(mask, (1 - sigma) * vacant + sigma * noise, latents)
    if bounds is not None:
        low, high = bounds
        settled = torch.where(latents > (low + high) / 2, high, low)
        latents = torch.where(torch.isfinite(low), settled, latents)
    return latents if columns is None else with_columns(whole, latents, columns)


def _noise(base: Base, shape: Sequence[int], generators: Sequence[torch.Generator]) -> torch.Tensor:
    """(N, *shape) float32 normal noise on the base's device, of N generators on the CPU."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(base.device)


def _expected(
    base: Base,
    condition: Condition,
    empty: Condition | None,
    samples: Sequence[Sample],
    shape: torch.Size,
    settings: DrawSettings,
) -> torch.Tensor:
    """The clean latents (N, C, h, v) that pure noise lets the base expect of each sample: the
    mean of its predictions from eight noises, the same for all that are conditioned alike, made
    once. `shape` is that of the result, other arguments as of `denoise`.
    """
    count = len(samples)
    found = []
    for k, sample in enumerate(samples):
        columns = None if condition.columns is None else condition.columns[k]
        key = (
            sample.label, min(sample.window, MAX_WINDOW_PROMPTS - 1), shape,
            columns is not None and columns.numpy().tobytes(), settings.guidance,
            settings.control_scale,
        )  # fmt: skip
        if key not in base.expected:
            alike = condition.repeated(k)
            predictions = []
            for first in range(0, _NOISES, count):
                generators = [torch.Generator().manual_seed(first + i) for i in range(count)]
                noise = _noise(base, shape[1:], generators)
                predicted = _guided(base, noise, torch.ones(count), alike, empty, settings.guidance)
                predictions.append(noise - predicted)
            base.expected[key] = torch.cat(predictions)[:_NOISES].mean(0)
        found.append(base.expected[key])
    return torch.stack(found)


def own_columns(
    base: Base, layout: Layout, labels: Mapping[str, LabelStatistics], samples: Sequence[Sample]
) -> torch.Tensor | None:
    """(N, w) bool, the columns of latents that have tokens (see `tokens`), or None: all.

    Args:
        base: what draws.
        layout: of the rasters.
        labels: the facts of all that the adapter knows.
        samples: N of one kind.
    """
    _, transport = kind_of(samples[0])
    octets = most_option_octets(labels)
    patch_size = base.transformer.config.patch_size
    columns = columns_taking_part(layout, transport, octets, base.vae_scale, patch_size)
    return None if columns is None else columns[[int("ipv6" in s.headers) for s in samples]]


def kind_of(sample: Sample) -> Kind:
    """The height and the transport of a sample; those of one kind are drawn together."""
    return sample.height, transport_of(sample.headers)


def _guided(
    base: Base,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    condition: Condition,
    empty: Condition | None,
    guidance: float,
) -> torch.Tensor:
    """The velocity, led away from that of the empty prompt (Ho and Salimans,
    arXiv:2207.12598); both in one batch."""
    if empty is None:
        return velocity(base, latents, sigmas, condition)
    control = condition.control
    columns = condition.columns
    both = Condition(
        prompt=torch.cat([empty.prompt, condition.prompt]),
        pooled=torch.cat([empty.pooled, condition.pooled]),
        control=None if control is None else torch.cat([control, control]),
        control_scale=condition.control_scale,
        columns=None if columns is None else torch.cat([columns, columns]),
    )
    without, with_prompt = velocity(
        base, torch.cat([latents, latents]), torch.cat([sigmas, sigmas]), both
    ).chunk(2)
    return without + guidance * (with_prompt - without)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Operations of the thread that enters, and of those it starts, run on one thread each.
    (OpenMP counts threads by thread, MKL for all.)"""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def draw_batch(
    base: Base,
    adapter: Adapter,
    samples: Sequence[Sample],
    settings: DrawSettings,
    seeds: Sequence[int] | None = None,
) -> np.ndarray:
    """The rasters of at most `batch_size` samples of one kind (see `kind_of`).

    Args:
        base: with `load_adapter` done.
        adapter: for prompts and control images.
        samples: N windows to draw.
        settings: how.
        seeds: N, of the run of each sample, where they are of several runs; that of
            `settings` unless given.

    Returns:
        (N, H, W, 3) uint8.

    Raises:
        ModelError: the adapter does not know a label or height, the base cannot draw that
            size, or memory does not suffice (says what to lower).
    """
    assert 0 < len(samples) <= settings.batch_size
    height, width = samples[0].height, layout_named(adapter.metadata.layout).width
    check_size(base, height, width)
    num_missing = settings.batch_size - len(samples)
    filled = [*samples, *[samples[-1]] * num_missing]
    if seeds is not None:
        seeds = [*seeds, *[seeds[-1]] * num_missing]
    try:
        with _one_thread():
            condition = _condition(base, adapter, filled, settings)
            empty = _empty(base, adapter, len(filled)) if settings.guidance > 1 else None
            latents = denoise(base, condition, empty, filled, width, settings, seeds)
            rasters = decode_latents(base, latents)[: len(samples)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"out of memory drawing {settings.batch_size} rasters of {height} x {width}: lower "
            "batch_size, set slice_vae, or train the adapter with a lower max_height"
        ) from None
    if settings.hold_plan:
        vacant, occupied = planned_cells(samples, width)
        rasters[vacant] = (0, 0, 255)
        rasters[occupied, 2] = 0
    return rasters


def _condition(
    base: Base, adapter: Adapter, samples: Sequence[Sample], settings: DrawSettings
) -> Condition:
    pairs = [adapter.embedding(sample.label, sample.window) for sample in samples]
    columns = control = None
    if settings.hold_plan:
        layout = layout_named(adapter.metadata.layout)
        columns = own_columns(base, layout, adapter.metadata.labels, samples)
    if settings.control_scale:
        height = samples[0].height
        labels = sorted({sample.label for sample in samples})
        latents = {
            label: encode_control(base, adapter.control_image(label, height)[None])[0]
            for label in labels
        }
        control = torch.stack([latents[sample.label] for sample in samples])
        control = only_columns(control, columns)
    return Condition(
        prompt=torch.from_numpy(np.stack([prompt for prompt, _ in pairs])).to(base.device),
        pooled=torch.from_numpy(np.stack([pooled for _, pooled in pairs])).to(base.device),
        control=control,
        control_scale=settings.control_scale,
        columns=columns,
    )


def _empty(base: Base, adapter: Adapter, count: int) -> Condition:
    prompt = torch.from_numpy(adapter.embeddings.empty_prompt).to(base.device)
    pooled = torch.from_numpy(adapter.embeddings.empty_pooled).to(base.device)
    return Condition(prompt.expand(count, -1, -1), pooled.expand(count, -1))


def draw(
    base: Base, adapter: Adapter, samples: Sequence[Sample], settings: DrawSettings
) -> Iterator[Drawn]:
    """Each sample, drawn, in batches of one kind (see `kind_of`), low ones first.

    On a CPU as many batches at a time as torch has threads (`torch.get_num_threads`), which has
    one until the last sample is drawn.

    Arguments and errors as of `draw_batch`, but any number of samples of any heights.
    """

    def drawn(batch: Sequence[Sample]) -> list[Drawn]:
        rasters = draw_batch(base, adapter, batch, settings)
        pairs = zip(batch, rasters, strict=True)
        return [Drawn(sample, *from_rgb(rgb)) for sample, rgb in pairs]

    at_once = torch.get_num_threads() if base.device.type == "cpu" else 1
    with _one_thread(), ThreadPoolExecutor(at_once) as pool:
        waiting = deque()
        for batch in batches(samples, settings.batch_size):
            waiting.append(pool.submit(drawn, batch))
            if len(waiting) > at_once:
                yield from waiting.popleft().result()
        for one in waiting:
            yield from one.result()


def batches(samples: Sequence[Sample], batch_size: int) -> Iterator[Sequence[Sample]]:
    """The batches in which samples are drawn: each of one kind (see `kind_of`), low ones first."""
    by_kind: dict[Kind, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_kind[kind_of(sample)].append(sample)
    for _, alike in sorted(by_kind.items()):
        for first in range(0, len(alike), batch_size):
            yield alike[first : first + batch_size]
