"""Leave out the tokens of headers and options that a flow does not have.

Where a latent stands for one pixel, a token of the transformer is a few rows of a few columns of
the raster. All packets of a flow have one IP version and one transport header; the columns of the
others (of the other version, of TCP with its options, UDP, ICMP) stay vacant whatever is drawn.
Nearly all packets leave the last octets of TCP options vacant too (see
`labels.statistics.most_option_octets`); the few that do not are learnt, and drawn, without them.
The tokens of all these columns need no work. Autoencoders that mix columns need all tokens.

Shape letters: N samples, C x h x w latents, of which v columns take part.
"""

import contextlib
from collections.abc import Collection, Iterator
from contextvars import ContextVar
from functools import partial

import numpy as np
import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel
from torch import nn

from netdiff_ray.fields import HEADERS
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import Layout

VERSIONS = ("ipv4", "ipv6")
TRANSPORTS = ("tcp", "udp", "icmp")
ANY = ""
"""The transport of windows whose headers differ or are unknown: no token is left out."""

Kind = tuple[int, str]
"""The height of a raster and the transport of its packets; a batch is of one kind."""

_columns_in_use: ContextVar[torch.Tensor | None] = ContextVar("columns_in_use", default=None)


def transport_of(headers: Collection[str]) -> str:
    """Return the transport among the headers of a flow's packets.

    ANY unless they are of exactly one transport over exactly one IP version.
    """
    transports = [name for name in TRANSPORTS if name in headers]
    versions = [name for name in VERSIONS if name in headers]
    return transports[0] if len(transports) == len(versions) == 1 else ANY


def headers_in(nprint: np.ndarray, layout: Layout) -> tuple[str, ...]:
    """Return the headers that packets of a window have.

    Args:
        nprint: (H, W) int8 of 1, 0, -1.
        layout: of W columns.
    """
    occupied = (nprint != VACANT).any(0)
    return tuple(name for name in HEADERS[1:] if occupied[layout.columns_of([name])].any())


def columns_with_tokens(
    layout: Layout, transport: str, option_octets: int, vae_scale: int, patch_size: int
) -> torch.Tensor | None:
    """Return the columns of latents that have tokens in flows of a transport.

    Args:
        layout: of the rasters.
        transport: one of TRANSPORTS, or ANY.
        option_octets: octets of TCP options that take part, from the first.
        vae_scale: pixels along the side of a latent.
        patch_size: latents along the side of a token.

    Returns:
        (2, w) bool, v of each row, for flows over each of VERSIONS; None if all take part. The
        other version is left out where both have as many tokens, so that a batch may hold both.
    """
    if transport == ANY or vae_scale != 1:
        return None
    others = [name for name in TRANSPORTS if name != transport]
    with_tokens = []
    for lacked in ([*others, "ipv6"], [*others, "ipv4"], others):
        vacant = layout.columns_of(lacked)
        options = layout.columns("tcp_opt")
        vacant[options.start + 8 * option_octets : options.stop] = True
        tokens = torch.from_numpy(~vacant).unflatten(0, (-1, patch_size)).any(1)
        with_tokens.append(tokens.repeat_interleave(patch_size))
    ipv4, ipv6, either = with_tokens
    return torch.stack([ipv4, ipv6] if ipv4.sum() == ipv6.sum() else [either, either])


def select_columns(latents: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
    """Return the latents (N, C, h, v) of each sample's columns.

    Args:
        latents: (N, C, h, w), or with 1 for N.
        columns: (N, w) bool, v of each row; None for all.
    """
    if columns is None:
        return latents
    latents = latents.expand(len(columns), -1, -1, -1)
    index = _indices(columns).to(latents.device)[:, None, None]
    return latents.gather(3, index.expand(*latents.shape[:3], -1))


def replace_columns(
    whole: torch.Tensor, latents: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Return `whole` for each sample, with the sample's columns taken from `latents`.

    Args:
        whole: (1, C, h, w).
        latents: (N, C, h, v).
        columns: (N, w) bool, v of each row.

    Returns:
        (N, C, h, w).
    """
    index = _indices(columns).to(latents.device)[:, None, None]
    return whole.repeat(len(latents), 1, 1, 1).scatter(3, index.expand(latents.shape), latents)


def _indices(columns: torch.Tensor) -> torch.Tensor:
    """Return the indices (N, v) int64 of what is true in (N, w) bool, v of each row."""
    return columns.nonzero()[:, 1].view(len(columns), -1)


@contextlib.contextmanager
def pruned_to(
    model: SD3Transformer2DModel | SD3ControlNetModel, columns: torch.Tensor | None
) -> Iterator[None]:
    """Let this thread give a transformer or a ControlNet latents of `columns`, (N, w) bool, alone.

    The tokens keep the positions that they have among all w columns. None: all columns.
    """
    if columns is None:
        yield
        return
    embedding = model.pos_embed
    if embedding is not None and "cropped_pos_embed" not in vars(embedding):
        embedding.cropped_pos_embed = partial(_positions, embedding)
    before = _columns_in_use.set(columns)
    try:
        yield
    finally:
        _columns_in_use.reset(before)


@torch.compiler.disable
def _positions(embedding: nn.Module, height: int, width: int) -> torch.Tensor:
    """Return what diffusers' `PatchEmbed.cropped_pos_embed` does, for the columns in use.

    Returns:
        (1, tokens, D), or (N, tokens, D) where columns differ by sample.
    """
    cropped = type(embedding).cropped_pos_embed
    columns = _columns_in_use.get()
    if columns is None:
        return cropped(embedding, height, width)
    positions = cropped(embedding, height, columns.shape[1])
    grid = positions.unflatten(1, (height // embedding.patch_size, -1))[0]
    index = _indices(columns[:, :: embedding.patch_size]).to(grid.device)
    return grid[:, index].transpose(0, 1).flatten(1, 2)
