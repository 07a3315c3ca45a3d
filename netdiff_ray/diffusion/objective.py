"""The flow-matching loss of SD3 (Esser et al., 2024, arXiv:2403.03206).

Shape letters: N windows, C x h x w latents (of the columns that have tokens), T text tokens, D
their width, E the pooled width.
"""

from dataclasses import dataclass

import torch

from netdiff_ray.config.diffusion import FlowMatchingSettings
from netdiff_ray.diffusion.base import Base, Condition, velocity
from netdiff_ray.diffusion.token_pruning import select_columns
from netdiff_ray.nprint.layouts import layout_of_width

EMPHASISED = (
    "flow_retransmission", "flow_sequence_hole", "flow_acknowledged", "flow_same_length",
    "flow_same_window", "flow_direction", "ipv4_tl", "ipv6_len", "udp_len", "tcp_fin", "tcp_syn",
    "tcp_rst", "tcp_psh", "tcp_ackf", "tcp_cwr", "tcp_ece",
)  # fmt: skip
"""Fields whose columns have more weight (see `cell_weights`)."""
CHANCE = ("tcp_sprt", "tcp_dprt", "udp_sport", "udp_dport", "ipv6_fl")
"""Fields whose columns have less weight: a label decides little of them, chance the rest, and
repair knows the label's ports."""
LONG, SHORT = slice(0, 12), slice(18, 24)
"""Columns of `flow_interarrival` that give the time to two octaves, and those that give it within
half an octave, much of which is chance (see `nprint.timecode`)."""
OPENING_ROWS = 8
"""Packets at the beginning of a window that have more weight."""


@dataclass(frozen=True)
class TrainingBatch:
    """Windows of one height and transport, ready for the transformer."""

    latents: torch.Tensor
    """(N, C, h, w) clean latents."""
    prompt: torch.Tensor
    """(N, T, D)."""
    pooled: torch.Tensor
    """(N, E)."""
    empty_prompt: torch.Tensor
    """(T, D) of the empty text, for prompt dropout."""
    empty_pooled: torch.Tensor
    """(E,) of the empty text."""
    control: torch.Tensor | None = None
    """(N, C, h, w) latents of control images, or None."""
    columns: torch.Tensor | None = None
    """(N, w) bool, columns of the latents that have tokens (see `token_pruning`); None for
    all."""


def noise_levels(
    count: int, settings: FlowMatchingSettings, shift: float, rng: torch.Generator
) -> torch.Tensor:
    """Draw noise levels, (count,) float32.

    From a logit-normal distribution, or for `schedule_share` of them from the steps of a schedule
    of `schedule_steps` after its first; then shifted towards 1 as at drawing.
    """
    normal = torch.randn(count, generator=rng)
    level = torch.sigmoid(settings.logit_mean + settings.logit_std * normal)
    if settings.schedule_steps > 1:
        step = torch.randint(1, settings.schedule_steps, (count,), generator=rng)
        scheduled = torch.rand(count, generator=rng) < settings.schedule_share
        level = torch.where(scheduled, step / settings.schedule_steps, level)
    return shift * level / (1 + (shift - 1) * level)


def cell_weights(
    height: int, width: int, vae_scale: int, settings: FlowMatchingSettings
) -> torch.Tensor:
    """Return the weight of each latent in the loss, (h, w) float32.

    Directions, sizes and flags make less than a fifth of the plain loss; times, windows, flow
    labels and ports, of which much is chance, most of it (`docs/experiments.md`). The first
    packets, by which labels differ most, are an eighth of a window of 64 rows. Of times, the
    coarse part has more weight (LONG), and the fine part less (SHORT).

    Args:
        height: H of the rasters.
        width: W of the rasters.
        vae_scale: pixels along the side of a latent.
        settings: whose `emphasis` and `opening` are taken.
    """
    layout = layout_of_width(width)
    columns = torch.ones(width)
    for names, weight in ((EMPHASISED, settings.emphasis), (CHANCE, 1 / settings.emphasis)):
        for name in set(names) & set(layout.fields):
            columns[layout.columns(name)] = weight
    if "flow_interarrival" in layout.fields:
        times = columns[layout.columns("flow_interarrival")]
        times[LONG], times[SHORT] = settings.emphasis**0.5, 1 / settings.emphasis
    rows = torch.ones(height)
    rows[:OPENING_ROWS] = settings.opening
    by_column, by_row = (w.unflatten(0, (-1, vae_scale)).mean(1) for w in (columns, rows))
    return by_row[:, None] * by_column


def flow_matching_loss(
    base: Base,
    batch: TrainingBatch,
    settings: FlowMatchingSettings,
    rng: torch.Generator,
    part: slice = slice(None),
) -> torch.Tensor:
    """Return the weighted mean squared error of the predicted velocity, a scalar.

    Args:
        base: predicts; its ControlNet takes part if the batch has control images.
        batch: on the base's device.
        settings: noise levels, prompt dropout and weights (see `cell_weights`).
        rng: a CPU generator; the loss is a function of its state on any device.
        part: the windows to compute. The others count as if they had no error, so that the losses
            of the parts of a batch add up to the loss of the batch.
    """
    count = len(batch.latents)
    shift = base.shift if settings.shift is None else settings.shift
    sigmas = noise_levels(count, settings, shift, rng)[part]
    noise = torch.randn(batch.latents.shape, generator=rng)[part]
    dropped = (torch.rand(count, generator=rng) < settings.prompt_dropout)[part]
    latents = batch.latents[part]
    noise, dropped = noise.to(latents.device), dropped.to(latents.device)
    condition = Condition(
        prompt=torch.where(dropped[:, None, None], batch.empty_prompt, batch.prompt[part]),
        pooled=torch.where(dropped[:, None], batch.empty_pooled, batch.pooled[part]),
        control=None if batch.control is None else batch.control[part],
        control_scale=settings.control_scale,
        columns=None if batch.columns is None else batch.columns[part],
    )
    at = sigmas.to(latents.device).view(-1, 1, 1, 1)
    predicted = velocity(base, (1 - at) * latents + at * noise, sigmas, condition)
    columns = batch.columns
    height, width = latents.shape[2:]
    width = width if columns is None else columns.shape[1]
    scale = base.vae_scale
    weight = cell_weights(scale * height, scale * width, scale, settings).to(latents.device)
    weight = select_columns(weight[None, None], columns)
    weight = weight / weight.mean()
    error = (predicted - (noise - latents)) ** 2 * (weight if columns is None else weight[part])
    return error.mean() * (len(latents) / count)
