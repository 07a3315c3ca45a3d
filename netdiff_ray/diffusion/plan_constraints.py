"""Holding a raster to a flow's plan: which cells are to be vacant, which occupied.

Shape letters: N samples, H x W pixels, C x h x w latents.
"""

from collections.abc import Sequence

import numpy as np
import torch

from netdiff_ray.diffusion.base import Base, encode_once
from netdiff_ray.fields import HEADERS
from netdiff_ray.labels.flow_plan import Sample
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import layout_of_width

_CHEQUERED_ROWS = 8
_ROOM = 0.25
"""Of the distance between the latents of 0 and of 1 in a chequered raster, how far beyond these
others may lie. Without it ones, drawn too low, became zeros, and large packets small."""
_SYNS = 2
"""Packets at the beginning of a TCP flow that have options of their own."""
_STAMP_BITS = 96
"""Of two NOPs and a timestamp option (RFC 7323, appendix A), the least that other packets have."""


def planned_cells(samples: Sequence[Sample], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Which cells, (N, H, W) bool, are to be vacant: after a sample's length, in headers that it
    lacks, or in TCP options after the handshake where only that has them; and which are to be
    occupied: direction, time and its headers within its length."""
    layout = layout_of_width(width)
    vacant = np.zeros((len(samples), samples[0].height, width), bool)
    occupied = vacant.copy()
    for k, sample in enumerate(samples):
        vacant[k, sample.length :] = True
        occupied[k, : sample.length, layout.columns_of(["flow"])] = True
        if sample.headers:
            lacked = [header for header in HEADERS[1:] if header not in sample.headers]
            vacant[k, :, layout.columns_of(lacked)] = True
            own = layout.columns_of(sample.headers, options=False)
            occupied[k, : sample.length, own] = True
        if "tcp" in sample.headers and "tcp_opt" not in sample.headers:
            opening = 0 if sample.window else _SYNS
            vacant[k, opening:, layout.columns("tcp_opt")] = True
    return vacant, occupied


def held_vacant(
    base: Base, samples: Sequence[Sample], width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which latents stand for cells that are all to be vacant (see `planned_cells`), (N, 1, h, w)
    bool, and the latents (1, C, h, w) of a vacant raster, which they are to become."""
    nothing = np.full((1, width), VACANT, np.int8)
    vacant = encode_once(base, nothing, samples[0].height)
    cells = torch.from_numpy(planned_cells(samples, width)[0])
    scale = base.vae_scale
    mask = cells.unflatten(2, (-1, scale)).unflatten(1, (-1, scale)).all(4).all(2)
    return mask[:, None].to(base.device), vacant


def held_present(
    base: Base, samples: Sequence[Sample], width: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The least and the greatest value, (N, C, h, w) each, that clean latents may have so that
    packets within a sample's length have its headers: in the columns of direction and time and
    of those headers' fields they lie between about the latents of 0 and of 1, and so does the room
    of timestamps where most packets have options (resets, which mostly lack them, then have it
    too).
    None where a latent stands for more than one pixel, whose colours together are not so bounded.
    """
    if base.vae_scale != 1:
        return None
    height = samples[0].height
    by_headers = {}
    for headers in {sample.headers for sample in samples}:
        by_headers[headers] = _bounds(base, ("flow", *headers), width)
    bounds = torch.stack([by_headers[sample.headers] for sample in samples], dim=1)
    lengths = torch.tensor([sample.length for sample in samples])
    there = (torch.arange(height)[None, :] < lengths[:, None])[:, None, :, None].to(base.device)
    low, high = bounds[:, :, :, None]
    return torch.where(there, low, -torch.inf), torch.where(there, high, torch.inf)


def _bounds(base: Base, headers: Sequence[str], width: int) -> torch.Tensor:
    """(2, C, w) the least and the greatest latents of cells that are 0 or 1 in the columns of
    the headers, with room for what the cells around make of them; without bounds in others."""
    layout = layout_of_width(width)
    columns = layout.columns_of(headers, options=False)
    if "tcp_opt" in headers:
        first = layout.columns("tcp_opt").start
        columns[first : first + _STAMP_BITS] = True
    bits = np.full((_CHEQUERED_ROWS, width), VACANT, np.int8)
    bits[::2, columns], bits[1::2, columns] = 0, 1
    chequered = encode_once(base, bits, 2 * _CHEQUERED_ROWS)[0]
    middle = chequered[:, _CHEQUERED_ROWS // 2 :][:, :2]
    free = ~torch.from_numpy(columns).to(base.device)
    low, high = middle.amin(1), middle.amax(1)
    room = _ROOM * (high - low)
    low, high = low - room, high + room
    return torch.stack([low.masked_fill(free, -torch.inf), high.masked_fill(free, torch.inf)])
