"""Backends of torch's scaled dot product attention."""

import contextlib
from collections.abc import Iterator

import torch
from diffusers import SD3Transformer2DModel
from torch.nn.attention import SDPBackend, sdpa_kernel

from netdiff_ray.errors import ConfigError

_ATTENTION = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def check_attention(transformer: SD3Transformer2DModel, backend: str) -> None:
    """Raise ConfigError unless torch has the attention backend for heads, dtype and device."""
    shape = (1, 1, 16, transformer.config.attention_head_dim)
    probe = torch.zeros(shape, device=transformer.device, dtype=transformer.dtype)
    try:
        with attention_by(backend), torch.no_grad():
            torch.nn.functional.scaled_dot_product_attention(probe, probe, probe)
    except RuntimeError:
        raise ConfigError(
            f"attention backend {backend!r} does not work on {transformer.device} with "
            f"{transformer.dtype}; use auto"
        ) from None


@contextlib.contextmanager
def attention_by(backend: str) -> Iterator[None]:
    """Use a backend, `auto` or one of _ATTENTION, in a block."""
    if backend == "auto":
        yield
        return
    with sdpa_kernel(_ATTENTION[backend]):
        yield
