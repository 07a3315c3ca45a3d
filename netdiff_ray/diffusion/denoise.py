"""Draw windows: noise to rasters to nprints.

What is drawn for a sample is a function of run seed, label, index, window, base, adapter and
settings; it does not depend on the rest of its batch. To that end every sample has its own noise,
made on the CPU, and all batches of one kind have one shape: matrix products of another shape may
add up in another order. So may those that several threads share: a batch is drawn by one thread,
and several threads draw several batches.

Shape letters: N samples, H x W pixels, C x h x w latents, of which v columns have tokens, T text
tokens, D, E their widths.
"""

import contextlib
import inspect
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import diffusers
import numpy as np
import torch
from diffusers import SchedulerMixin

from netdiff_ray.config.diffusion import DrawSettings
from netdiff_ray.diffusion.adapter import Adapter
from netdiff_ray.diffusion.base import (
    Base,
    Condition,
    check_size,
    decode_latents,
    velocity,
)
from netdiff_ray.diffusion.control import control_latents
from netdiff_ray.diffusion.failures import describe_batch, in_words, require_finite
from netdiff_ray.diffusion.plan_constraints import constraints_of, planned_cells
from netdiff_ray.diffusion.token_pruning import (
    Kind,
    columns_with_tokens,
    replace_columns,
    select_columns,
    transport_of,
)
from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.flow_plan import PlannedWindow, seed_of
from netdiff_ray.labels.statistics import (
    MAX_WINDOW_PROMPTS,
    ServiceStatistics,
    most_option_octets,
    services_of,
)
from netdiff_ray.nprint.layouts import Layout, layout_named
from netdiff_ray.raster import BLUE, from_rgb

_PURE_NOISE = 1 - 1e-4
"""Noise levels above it are 1 but for rounding."""
_SHARED_NOISES = 8
"""Number of noises that a shared first step averages over."""
_BLUE_CHANNEL = 2


@dataclass(frozen=True)
class DrawnWindow:
    """A window as it was drawn."""

    sample: PlannedWindow
    """What was to be drawn."""
    nprint: np.ndarray
    """(H, W) int8 of 1, 0, -1; a wholly vacant row ends the flow."""
    distance: np.ndarray
    """(H, W) float32, how far each pixel was from its colour (see `raster.from_rgb`)."""


def scheduler_for(base: Base, name: str, shift: float | None, steps: int) -> SchedulerMixin:
    """Return a scheduler of diffusers' class `name`, configured as the base's, for `steps` steps.

    Where the class takes noise levels, they are evenly spaced from 1 to 1 / steps, and then
    shifted, as diffusers' pipeline of Flux does ("trailing", Lin et al., arXiv:2305.08891);
    those that diffusers chooses for SD3 end with a step that begins at nearly no noise.

    Raises:
        ConfigError: diffusers has no such flow-matching scheduler.
    """
    names = [n for n in dir(diffusers) if n.startswith("FlowMatch") and n.endswith("Scheduler")]
    if name not in names:
        raise ConfigError(f"scheduler is {name!r}; it must be one of {', '.join(names)}")
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


def noise_generator(seed: int, sample: PlannedWindow) -> torch.Generator:
    """Return the CPU generator of all randomness in denoising a sample."""
    purpose = f"noise {sample.window}"
    generator = torch.Generator()
    generator.manual_seed(seed_of(seed, sample.label, sample.index, purpose))
    return generator


@torch.no_grad()
def denoise(
    base: Base,
    condition: Condition,
    empty: Condition | None,
    samples: Sequence[PlannedWindow],
    width: int,
    settings: DrawSettings,
    seeds: Sequence[int] | None = None,
) -> torch.Tensor:
    """Denoise samples of one kind, and return their latents.

    Args:
        base: with the adapter's LoRA in it.
        condition: of N samples; names the columns that have tokens, which needs `hold_plan`.
        empty: of N empty prompts, for guidance; None without guidance.
        samples: N of one kind (see `kind_of`).
        width: W of the rasters.
        settings: of the drawing.
        seeds: N run seeds, one a sample; that of `settings` unless given.

    Returns:
        (N, C, h, w) float32 on the base's device.

    Raises:
        ModelError: what the base predicts is not finite.
    """
    height, _ = kind = kind_of(samples[0])
    assert all(kind_of(sample) == kind for sample in samples)
    assert settings.hold_plan or condition.columns is None
    seeds = [settings.seed] * len(samples) if seeds is None else seeds
    generators = [noise_generator(*pair) for pair in zip(seeds, samples, strict=True)]
    noise = _noise(base, base.latent_shape(height, width), generators)
    noise = select_columns(noise, condition.columns)
    scheduler = scheduler_for(base, settings.scheduler, settings.shift, settings.steps)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": generators} if takes_generator else {}
    constraints = None
    if settings.hold_plan:
        constraints = constraints_of(base, samples, width, condition.columns)
    shares_first = settings.shared_first_step and settings.steps > 1 and condition.control is None
    latents, finite = noise, []
    for timestep in scheduler.timesteps:
        sigmas = (timestep / scheduler.config.num_train_timesteps).expand(len(samples))
        if shares_first and sigmas[0] > _PURE_NOISE:
            predicted = noise - _expected(base, condition, empty, samples, noise.shape, settings)
        else:
            predicted = _guided(base, latents, sigmas, condition, empty, settings.guidance)
        finite.append(torch.isfinite(predicted).all())
        if constraints is not None:
            predicted = constraints.bound_velocity(predicted, latents, sigmas)
        latents = scheduler.step(predicted, timestep, latents, return_dict=False, **extra)[0]
        if constraints is not None:
            latents = constraints.hold(latents, noise, scheduler.sigmas[scheduler.step_index])
    require_finite(finite, describe_batch(base, samples, width, settings))
    if constraints is not None:
        latents = constraints.settle(latents)
    if condition.columns is None:
        return latents
    return replace_columns(constraints.vacant_raster, latents, condition.columns)


def _noise(base: Base, shape: Sequence[int], generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Return normal noise (N, *shape) float32 of N CPU generators, on the base's device."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(base.device)


def _expected(
    base: Base,
    condition: Condition,
    empty: Condition | None,
    samples: Sequence[PlannedWindow],
    shape: torch.Size,
    settings: DrawSettings,
) -> torch.Tensor:
    """Return the clean latents (N, C, h, v) that the base expects of pure noise.

    The mean of its predictions from eight noises, the same for all samples with the same
    condition, and computed once. `shape` is that of the result; the other arguments are as in
    `denoise`.
    """
    count = len(samples)
    expected = []
    for k, sample in enumerate(samples):
        columns = None if condition.columns is None else condition.columns[k]
        key = (
            sample.label_service, min(sample.window, MAX_WINDOW_PROMPTS - 1), shape,
            columns is not None and columns.numpy().tobytes(), settings.guidance,
        )  # fmt: skip
        if key not in base.expected:
            alike = condition.repeated(k)
            predictions = []
            for first in range(0, _SHARED_NOISES, count):
                generators = [torch.Generator().manual_seed(first + i) for i in range(count)]
                noise = _noise(base, shape[1:], generators)
                predicted = _guided(base, noise, torch.ones(count), alike, empty, settings.guidance)
                predictions.append(noise - predicted)
            base.expected[key] = torch.cat(predictions)[:_SHARED_NOISES].mean(0)
        expected.append(base.expected[key])
    return torch.stack(expected)


def token_columns(
    base: Base,
    layout: Layout,
    services: Iterable[ServiceStatistics],
    samples: Sequence[PlannedWindow],
) -> torch.Tensor | None:
    """Return the columns of latents that have tokens (see `token_pruning`).

    Args:
        base: what draws.
        layout: of the rasters.
        services: statistics of all services of the adapter.
        samples: N of one kind.

    Returns:
        (N, w) bool; None if all columns have tokens.
    """
    _, transport = kind_of(samples[0])
    octets = most_option_octets(services)
    patch_size = base.transformer.config.patch_size
    columns = columns_with_tokens(layout, transport, octets, base.vae_scale, patch_size)
    return None if columns is None else columns[[int("ipv6" in s.headers) for s in samples]]


def kind_of(sample: PlannedWindow) -> Kind:
    """Return the height and the transport of a sample; samples of one kind are drawn together."""
    return sample.height, transport_of(sample.headers)


def _guided(
    base: Base,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    condition: Condition,
    empty: Condition | None,
    guidance: float,
) -> torch.Tensor:
    """Return the velocity, led away from that of the empty prompt; both in one batch.

    Ho and Salimans, arXiv:2207.12598.
    """
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
    """Run torch operations on one thread each, in this thread and in those that it starts.

    OpenMP counts threads for each thread, MKL for all.
    """
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
    samples: Sequence[PlannedWindow],
    settings: DrawSettings,
    seeds: Sequence[int] | None = None,
) -> np.ndarray:
    """Draw at most `batch_size` samples of one kind (see `kind_of`), and return their rasters.

    Args:
        base: with the adapter loaded (see `lora.load_adapter`).
        adapter: for prompts.
        samples: N windows to draw.
        settings: of the drawing.
        seeds: N run seeds, one a sample, where they belong to several runs; that of `settings`
            unless given.

    Returns:
        (N, H, W, 3) uint8.

    Raises:
        ConfigError: the adapter does not know a label.
        ModelError: the base cannot draw rasters of that size, it has no ControlNet though
            `control_scale` asks for it, memory does not suffice, or what is drawn is not finite
            (says what to change).
    """
    assert 0 < len(samples) <= settings.batch_size
    height, width = samples[0].height, layout_named(adapter.metadata.layout).width
    check_size(base, height, width)
    num_missing = settings.batch_size - len(samples)
    filled = [*samples, *[samples[-1]] * num_missing]
    if seeds is not None:
        seeds = [*seeds, *[seeds[-1]] * num_missing]
    batch = describe_batch(base, filled, width, settings)
    with _one_thread(), in_words(f"{len(filled)} rasters of {height} x {width}", batch):
        condition = condition_of(base, adapter, filled, settings)
        empty = _empty(base, adapter, len(filled)) if settings.guidance > 1 else None
        latents = denoise(base, condition, empty, filled, width, settings, seeds)
        rasters = decode_latents(base, latents)[: len(samples)]
    if settings.hold_plan:
        vacant, occupied = planned_cells(samples, width)
        rasters[vacant] = BLUE
        rasters[occupied, _BLUE_CHANNEL] = 0
    return rasters


def condition_of(
    base: Base, adapter: Adapter, samples: Sequence[PlannedWindow], settings: DrawSettings
) -> Condition:
    """Return the prompts, control images and columns with tokens of samples of one kind.

    Arguments and errors as in `draw_batch`.
    """
    pairs = [adapter.embedding(sample.label_service, sample.window) for sample in samples]
    columns = control = None
    if settings.hold_plan:
        layout = layout_named(adapter.metadata.layout)
        services = services_of(adapter.metadata.labels).values()
        columns = token_columns(base, layout, services, samples)
    if settings.control_scale:
        width = layout_named(adapter.metadata.layout).width
        control = select_columns(control_latents(base, samples, width), columns)
    return Condition(
        prompt=torch.from_numpy(np.stack([prompt for prompt, _ in pairs])).to(base.device),
        pooled=torch.from_numpy(np.stack([pooled for _, pooled in pairs])).to(base.device),
        control=control,
        control_scale=settings.control_scale,
        columns=columns,
    )


def _empty(base: Base, adapter: Adapter, count: int) -> Condition:
    """Return the condition of `count` empty prompts."""
    prompt = torch.from_numpy(adapter.embeddings.empty_prompt).to(base.device)
    pooled = torch.from_numpy(adapter.embeddings.empty_pooled).to(base.device)
    return Condition(prompt.expand(count, -1, -1), pooled.expand(count, -1))


def draw(
    base: Base, adapter: Adapter, samples: Sequence[PlannedWindow], settings: DrawSettings
) -> Iterator[DrawnWindow]:
    """Draw samples in batches of one kind (see `kind_of`), low rasters first, and yield each.

    On a CPU as many batches are drawn at a time as torch has threads (`torch.get_num_threads`),
    which has a single one until the last sample is drawn.

    Arguments and errors as in `draw_batch`, but any number of samples of any heights.
    """

    def draw_windows(batch: Sequence[PlannedWindow]) -> list[DrawnWindow]:
        rasters = draw_batch(base, adapter, batch, settings)
        pairs = zip(batch, rasters, strict=True)
        return [DrawnWindow(sample, *from_rgb(rgb)) for sample, rgb in pairs]

    at_once = torch.get_num_threads() if base.device.type == "cpu" else 1
    with _one_thread(), ThreadPoolExecutor(at_once) as pool:
        pending = deque()
        for batch in batches(samples, settings.batch_size):
            pending.append(pool.submit(draw_windows, batch))
            if len(pending) > at_once:
                yield from pending.popleft().result()
        for future in pending:
            yield from future.result()


def batches(samples: Sequence[PlannedWindow], batch_size: int) -> Iterator[Sequence[PlannedWindow]]:
    """Yield the batches that samples are drawn in: each of one kind, low rasters first."""
    by_kind: dict[Kind, list[PlannedWindow]] = defaultdict(list)
    for sample in samples:
        by_kind[kind_of(sample)].append(sample)
    for _, alike in sorted(by_kind.items()):
        for first in range(0, len(alike), batch_size):
            yield alike[first : first + batch_size]
