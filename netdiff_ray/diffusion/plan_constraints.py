"""Hold rasters to the plans of their flows: which cells are vacant, and what others hold.

Shape letters: N samples, H x W pixels, C x h x w latents, of which v columns have tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from netdiff_ray.diffusion.base import Base, encode_once
from netdiff_ray.diffusion.token_pruning import select_columns
from netdiff_ray.fields import HEADERS
from netdiff_ray.labels.flow_plan import PlannedWindow
from netdiff_ray.labels.planned_cells import OPEN, planned_values, syn_options
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import Layout, layout_of_width

_CHEQUERED_ROWS = 8
_MARGIN = 0.25
"""How far latents may lie beyond those of 0 and of 1 in a chequered raster, relative to the
distance between these. Without it ones that were drawn too low became zeros, and large packets
small."""
_SYNS = 2
"""Packets at the beginning of a TCP flow that have options of their own."""
_TIMESTAMP_BITS = 96
"""Two NOPs and a timestamp option (RFC 7323, appendix A), the fewest option bits of later
packets."""


def planned_cells(samples: Sequence[PlannedWindow], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells that the samples' plans decide.

    Vacant are rows after a sample's length, headers that it lacks, TCP options after the handshake
    where only the handshake has options, and those behind the planned ones of a SYN. Occupied are
    direction, time and the sample's headers in the rows of its length, and planned options.

    Returns:
        vacant: (N, H, W) bool.
        occupied: (N, H, W) bool.
    """
    layout = layout_of_width(width)
    vacant = np.zeros((len(samples), samples[0].height, width), bool)
    occupied = vacant.copy()
    for k, sample in enumerate(samples):
        vacant[k, sample.length :] = True
        occupied[k, : sample.length, layout.columns_of(["flow"])] = True
        if sample.headers:
            lacked = [header for header in HEADERS[1:] if header not in sample.headers]
            vacant[k, :, layout.columns_of(lacked)] = True
            present = layout.columns_of(sample.headers, options=False)
            occupied[k, : sample.length, present] = True
        if "tcp" in sample.headers and "tcp_opt" not in sample.headers:
            opening = 0 if sample.window else _SYNS
            vacant[k, opening:, layout.columns("tcp_opt")] = True
        for row, options in enumerate(syn_options(sample)):
            if options is not None:
                columns = layout.columns("tcp_opt")
                end = columns.start + 8 * len(options)
                occupied[k, row, columns.start : end] = True
                vacant[k, row, end : columns.stop] = True
    return vacant, occupied


@dataclass(frozen=True)
class PlanConstraints:
    """What the plans of N samples demand of their latents, in the v columns that have tokens."""

    vacant_raster: torch.Tensor
    """(1, C, h, w) latents of a vacant raster, in all columns."""
    vacant: torch.Tensor
    """(N or 1, C, h, v) the latents of a vacant raster."""
    vacant_mask: torch.Tensor
    """(N, 1, h, v) bool, latents whose cells are all planned vacant."""
    bounds: tuple[torch.Tensor, torch.Tensor] | None
    """The least and the greatest clean latents, see `_bounds`."""

    def bound_velocity(
        self, predicted: torch.Tensor, latents: torch.Tensor, sigmas: torch.Tensor
    ) -> torch.Tensor:
        """Return the predicted velocity, changed so that the clean latents keep the bounds.

        Args:
            predicted: (N, C, h, v) velocities.
            latents: (N, C, h, v) at noise levels `sigmas`.
            sigmas: (N,), above 0.
        """
        if self.bounds is None:
            return predicted
        sigma = sigmas.to(latents.device).view(-1, 1, 1, 1)
        return (latents - (latents - sigma * predicted).clamp(*self.bounds)) / sigma

    def hold(self, latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return latents at noise level `sigma`, a scalar, with vacant cells held vacant."""
        sigma = sigma.to(latents.device)
        return torch.where(self.vacant_mask, (1 - sigma) * self.vacant + sigma * noise, latents)

    def settle(self, latents: torch.Tensor) -> torch.Tensor:
        """Return clean latents, each with bounds moved to the nearer of them."""
        if self.bounds is None:
            return latents
        low, high = self.bounds
        settled = torch.where(latents > (low + high) / 2, high, low)
        return torch.where(torch.isfinite(low), settled, latents)


def constraints_of(
    base: Base, samples: Sequence[PlannedWindow], width: int, columns: torch.Tensor | None
) -> PlanConstraints:
    """Return what the plans of samples of one kind demand of their latents.

    Args:
        base: what draws.
        samples: N.
        width: W of the rasters.
        columns: (N, w) bool, columns that have tokens, v of each sample; None for all.
    """
    nothing = np.full((1, width), VACANT, np.int8)
    vacant_raster = encode_once(base, nothing, samples[0].height)
    cells = torch.from_numpy(planned_cells(samples, width)[0])
    scale = base.vae_scale
    mask = cells.unflatten(2, (-1, scale)).unflatten(1, (-1, scale)).all(4).all(2)
    bounds = None
    if scale == 1:
        low, high = _bounds(base, samples, width)
        bounds = select_columns(low, columns), select_columns(high, columns)
    return PlanConstraints(
        vacant_raster=vacant_raster,
        vacant=select_columns(vacant_raster, columns),
        vacant_mask=select_columns(mask[:, None].to(base.device), columns),
        bounds=bounds,
    )


def _bounds(
    base: Base, samples: Sequence[PlannedWindow], width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return bounds of clean latents within which packets are as their plans say, of a base whose
    latents stand for a pixel each; the colours of several could not be bounded so.

    In the rows of a sample's length, and the columns of direction, time and the sample's headers,
    latents lie about between those of 0 and of 1. So do the columns of a timestamp option where
    most packets have options; resets, which mostly lack them, then have one too. So do planned
    options of SYNs. Where the value is planned (see `planned_values`) it is the only one.

    Returns:
        The least and the greatest value, (N, C, h, w) each, infinite where anything is allowed.
    """
    height = samples[0].height
    layout = layout_of_width(width)
    shape = (2, len(samples), base.latent_shape(height, width)[0], height, width)
    levels = torch.full(shape, torch.inf)
    levels[0] = -torch.inf
    values = np.stack([planned_values(sample, layout) for sample in samples])
    for k, sample in enumerate(samples):
        columns = _occupied_columns(sample.headers, layout)
        levels[:, k, :, : sample.length] = _levels(base, columns)[:, :, None]
        for row, options in enumerate(syn_options(sample)):
            if options is not None:
                of_row = _levels(base, layout.columns_of(("flow", *sample.headers)))
                within = slice(0, layout.columns("tcp_opt").start + 8 * len(options))
                levels[:, k, :, row, within] = of_row[:, :, within]
    zero, one = levels.to(base.device)
    planned = torch.from_numpy(values)[:, None].to(base.device)
    value = torch.where(planned == 1, one, zero)
    low = torch.where(planned == OPEN, torch.minimum(zero, one), value)
    high = torch.where(planned == OPEN, torch.maximum(zero, one), value)
    return low, high


def _occupied_columns(headers: Sequence[str], layout: Layout) -> np.ndarray:
    """Return (W,) bool: the columns in which packets with the headers are never vacant."""
    columns = layout.columns_of(("flow", *headers), options=False)
    if "tcp_opt" in headers:
        first = layout.columns("tcp_opt").start
        columns[first : first + _TIMESTAMP_BITS] = True
    return columns


def _levels(base: Base, columns: np.ndarray) -> torch.Tensor:
    """Return the latents of 0 and of 1 in some columns, (W,) bool, each beyond it by a margin.

    Measured on a chequered raster; the margin is for the influence of the cells around.

    Returns:
        (2, C, w) on the CPU, infinite in other columns.
    """
    bits = np.full((_CHEQUERED_ROWS, len(columns)), VACANT, np.int8)
    bits[::2, columns], bits[1::2, columns] = 0, 1
    chequered = encode_once(base, bits, 2 * _CHEQUERED_ROWS)[0].cpu()
    zero, one = chequered[:, _CHEQUERED_ROWS // 2 :][:, :2].unbind(1)
    margin = _MARGIN * (one - zero)
    free = ~torch.from_numpy(columns)
    return torch.stack(
        [(zero - margin).masked_fill(free, -torch.inf), (one + margin).masked_fill(free, torch.inf)]
    )
