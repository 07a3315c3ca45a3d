"""Tokens that are left out: those of headers and options that a flow does not have.

Where a latent stands for one pixel, a token of the transformer is a few rows of a few columns of
the raster. All packets of a flow have one IP version and one transport header; the columns of the
others (of the other version, of TCP with its options, UDP, ICMP) stay vacant whatever is drawn.
Nearly all packets leave the last octets of TCP options vacant too (see
`facts.most_option_octets`); the few that do not are learnt, and drawn, without them. The tokens of
all these need no work. Autoencoders that mix columns need them all.

Shape letters: N samples, C x h x w latents, of which v columns take part.
"""

import contextlib
from collections.abc import Collection, Iterator
from contextvars import ContextVar
from functools import partial

import numpy as np
import torch
from diffusers import SD3Transformer2DModel
from torch import nn

from netdiff_ray.fields import HEADERS
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import Layout

VERSIONS = ("ipv4", "ipv6")
TRANSPORTS = ("tcp", "udp", "icmp")
ANY = ""
"""The transport of windows whose headers differ or are not known: nothing is left out."""

Kind = tuple[int, str]
"""The height of a raster and the transport of its packets; a batch is of one kind."""

_taking_part: ContextVar[torch.Tensor | None] = ContextVar("taking_part", default=None)


def transport_of(headers: Collection[str]) -> str:
    """The transport header among those of a flow's packets; ANY unless there is one, over one
    version of IP."""
    transports = [name for name in TRANSPORTS if name in headers]
    versions = [name for name in VERSIONS if name in headers]
    return transports[0] if len(transports) == len(versions) == 1 else ANY


def headers_in(nprint: np.ndarray, layout: Layout) -> tuple[str, ...]:
    """The headers that packets of a window have.

    Args:
        nprint: (H, W) int8 of 1, 0, -1.
        layout: of W columns.
    """
    there = (nprint != VACANT).any(0)
    return tuple(name for name in HEADERS[1:] if there[layout.columns_of([name])].any())


def columns_taking_part(
    layout: Layout, transport: str, option_octets: int, vae_scale: int, patch_size: int
) -> torch.Tensor | None:
    """Which columns of latents have tokens in flows of a transport.

    Args:
        layout: of the rasters.
        transport: one of TRANSPORTS, or ANY.
        option_octets: of TCP options that take part, from the first.
        vae_scale: pixels a latent stands for, along each side.
        patch_size: latents of a token, along each side.

    Returns:
        (2, w) bool, v of each row, of flows over each of VERSIONS; None if all take part. The
        other version is left out where both have as many tokens, so that a batch may hold both.
    """
    if transport == ANY or vae_scale != 1:
        return None
    others = [name for name in TRANSPORTS if name != transport]
    over = []
    for lacked in ([*others, "ipv6"], [*others, "ipv4"], others):
        vacant = layout.columns_of(lacked)
        options = layout.columns("tcp_opt")
        vacant[options.start + 8 * option_octets : options.stop] = True
        tokens = torch.from_numpy(~vacant).unflatten(0, (-1, patch_size)).any(1)
        over.append(tokens.repeat_interleave(patch_size))
    ipv4, ipv6, both = over
    return torch.stack([ipv4, ipv6] if ipv4.sum() == ipv6.sum() else [both, both])


def only_columns(latents: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
    """The latents (N, C, h, v) of each sample's own columns.

    Args:
        latents: (N, C, h, w), or with 1 for N.
        columns: (N, w) bool, v of each row; None for all.
    """
    if columns is None:
        return latents
    latents = latents.expand(len(columns), -1, -1, -1)
    own = _numbers(columns).to(latents.device)[:, None, None]
    return latents.gather(3, own.expand(*latents.shape[:3], -1))


def _numbers(columns: torch.Tensor) -> torch.Tensor:
    """(N, v) int64, the numbers of the columns that are true in (N, w) bool, v of each row."""
    return columns.nonzero()[:, 1].view(len(columns), -1)


def with_columns(whole: torch.Tensor, latents: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The latents (N, C, h, w) of which `latents`, (N, C, h, v), are the samples' own columns and
    `whole`, (1, C, h, w), the others."""
    own = _numbers(columns).to(latents.device)[:, None, None]
    return whole.repeat(len(latents), 1, 1, 1).scatter(3, own.expand(latents.shape), latents)


@contextlib.contextmanager
def only_tokens_of(transformer: SD3Transformer2DModel, columns: torch.Tensor | None) -> Iterator:
    """Latents that the transformer is given in this context, by this thread, are those of
    `columns`, (N, w) bool; their tokens keep the positions they have among all w."""
    if columns is None:
        yield
        return
    embedding = transformer.pos_embed
    if "cropped_pos_embed" not in vars(embedding):
        embedding.cropped_pos_embed = partial(_positions, embedding)
    before = _taking_part.set(columns)
    try:
        yield
    finally:
        _taking_part.reset(before)


@torch.compiler.disable
def _positions(embedding: nn.Module, height: int, width: int) -> torch.Tensor:
    """`PatchEmbed.cropped_pos_embed` of diffusers, (1, tokens, D), or (N, tokens, D) for the
    columns that take part."""
    cropped = type(embedding).cropped_pos_embed
    columns = _taking_part.get()
    if columns is None:
        return cropped(embedding, height, width)
    positions = cropped(embedding, height, columns.shape[1])
    grid = positions.unflatten(1, (height // embedding.patch_size, -1))[0]
    own = _numbers(columns[:, :: embedding.patch_size]).to(grid.device)
    return grid[:, own].transpose(0, 1).flatten(1, 2)
