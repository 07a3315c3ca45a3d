"""Tokens that are left out: those of transport headers that a flow does not have.

Where a latent stands for one pixel, a token of the transformer is a few rows of a few columns of
the raster. All packets of a flow have one transport header; the columns of the others (of TCP
with its options, UDP, ICMP) stay vacant whatever is drawn, so that their tokens, two thirds of
all in UDP flows, need no work. Autoencoders that mix columns need them all.

Shape letters: N samples, C x h x w latents, of which v columns take part.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import partial

import numpy as np
import torch
from diffusers import SD3Transformer2DModel
from torch import nn

from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import Layout

TRANSPORTS = ("tcp", "udp", "icmp")
ANY = ""
"""The transport of windows that have several, or none that is known: nothing is left out."""

Kind = tuple[int, str]
"""The height of a raster and the transport of its packets; a batch is of one kind."""

_taking_part: ContextVar[torch.Tensor | None] = ContextVar("taking_part", default=None)


def transport_of(headers: Sequence[str]) -> str:
    """The transport header among those of a flow's packets, or ANY."""
    own = [header for header in headers if header in TRANSPORTS]
    return own[0] if len(own) == 1 else ANY


def transport_in(nprint: np.ndarray, layout: Layout) -> str:
    """The one transport header that a window's packets have, or ANY.

    Args:
        nprint: (H, W) int8 of 1, 0, -1.
        layout: of W columns.
    """
    there = (nprint != VACANT).any(0)
    return transport_of([name for name in TRANSPORTS if there[layout.columns_of([name])].any()])


def columns_taking_part(
    layout: Layout, transport: str, vae_scale: int, patch_size: int
) -> torch.Tensor | None:
    """(w,) bool, which columns of latents have tokens in flows of a transport; None if all."""
    if transport == ANY or vae_scale != 1:
        return None
    lacked = layout.columns_of([name for name in TRANSPORTS if name != transport])
    by_token = torch.from_numpy(~lacked).unflatten(0, (-1, patch_size))
    return by_token.any(1).repeat_interleave(patch_size)


@contextlib.contextmanager
def only_tokens_of(transformer: SD3Transformer2DModel, columns: torch.Tensor | None) -> Iterator:
    """Latents that the transformer is given in this context, by this thread, are those of
    `columns`, (w,) bool with v True; their tokens keep the positions they have among all w."""
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
    """`PatchEmbed.cropped_pos_embed` of diffusers, (1, tokens, D), for the columns that take
    part."""
    cropped = type(embedding).cropped_pos_embed
    columns = _taking_part.get()
    if columns is None:
        return cropped(embedding, height, width)
    positions = cropped(embedding, height, len(columns))
    grid = positions.unflatten(1, (height // embedding.patch_size, -1))
    return grid[:, :, columns[:: embedding.patch_size].to(grid.device)].flatten(1, 2)
