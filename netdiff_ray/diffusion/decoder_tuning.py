"""Fine-tune an autoencoder's decoder for the three colours of rasters.

The encoder stays as it is, and with it the latents that adapters are trained on; so the decoder
can be exchanged under an adapter that exists.

Shape letters: N rasters, H x W pixels, C x h x w latents.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from netdiff_ray.diffusion.base import Base, encode_rasters
from netdiff_ray.errors import ModelError
from netdiff_ray.raster import to_rgb

_VACANT_CHANNEL = 2
_SHARPNESS = 4.0
"""Factor of channels from -1 to 1 that makes them the logits of the three colours."""
_WARMUP_SHARE = 0.05
_LONGEST_GRADIENT = 1.0
_REPORTS = 20
_DIGEST = "base_sha256"
_PARTS = ("decoder.", "post_quant_conv.")

Report = Callable[[int, float], None]
"""Called with the step, from 1, and its loss."""


def tune_decoder(
    base: Base,
    windows: Mapping[int, Sequence[np.ndarray]],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    report: Report = lambda step, loss: None,
) -> None:
    """Train the base's decoder to give rasters back.

    The loss is the squared error of the pixels and the cross-entropy of their colours, in which
    vacant cells and the others have half of the weight each.

    Args:
        base: its decoder is changed.
        windows: (P, W) int8 nprints by the height of their rasters.
        steps: of AdamW; the learning rate rises over the first twentieth, then falls to 0.
        batch_size: rasters of a step, which are of one height.
        learning_rate: its peak.
        seed: of the choice of windows.
        report: see Report.

    Raises:
        ModelError: the loss is not a finite number.
    """
    dtype = base.vae.dtype
    if dtype != torch.float32:
        base.vae.float()
    latents = {height: _latents(base, some, height, batch_size) for height, some in windows.items()}
    parameters = [p for name, p in base.vae.named_parameters() if name.startswith(_PARTS)]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share(step, steps))
    heights = sorted(windows)
    weights = np.array([len(windows[height]) for height in heights], float)
    random = np.random.default_rng(seed)
    try:
        for step in range(1, steps + 1):
            height = heights[random.choice(len(heights), p=weights / weights.sum())]
            chosen = random.choice(len(windows[height]), batch_size).tolist()
            rgb = np.stack([to_rgb(windows[height][k], height) for k in chosen])
            loss = _loss(base, latents[height][chosen].to(base.device), rgb)
            if not torch.isfinite(loss):
                raise ModelError(
                    f"the loss of the decoder is not a finite number in step {step}: use a lower "
                    "learning rate, or dtype float32"
                )
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, _LONGEST_GRADIENT)
            optimiser.step()
            schedule.step()
            if step % max(steps // _REPORTS, 1) == 0 or step == steps:
                report(step, float(loss.detach()))
    finally:
        base.vae.requires_grad_(False)
        if dtype != torch.float32:
            base.vae.to(dtype)


def _share(step: int, steps: int) -> float:
    """Return the share of the peak learning rate in a step, counted from 0."""
    rising = max(int(steps * _WARMUP_SHARE), 1)
    return min((step + 1) / rising, (steps - step) / max(steps - rising, 1))


def _latents(base: Base, windows: Sequence[np.ndarray], height: int, size: int) -> torch.Tensor:
    """Return (N, C, h, w) float32 latents of windows, in the computer's memory."""
    parts = []
    for first in range(0, len(windows), size):
        rgb = np.stack([to_rgb(nprint, height) for nprint in windows[first : first + size]])
        parts.append(encode_rasters(base, rgb).cpu())
    return torch.cat(parts)


def _loss(base: Base, latents: torch.Tensor, rgb: np.ndarray) -> torch.Tensor:
    """Return the loss of latents (N, C, h, w) that are to become rasters (N, H, W, 3) uint8."""
    config = base.vae.config
    given = latents / config.scaling_factor + (config.shift_factor or 0.0)
    pixels = base.vae.decode(given).sample
    wanted = torch.from_numpy(rgb).to(base.device).permute(0, 3, 1, 2).float() / 127.5 - 1
    colour = wanted.argmax(1)
    errors = ((pixels - wanted) ** 2).mean(1)
    errors = errors + F.cross_entropy(_SHARPNESS * pixels, colour, reduction="none")
    is_vacant = colour == _VACANT_CHANNEL
    halves = [errors[some].mean() for some in (is_vacant, ~is_vacant) if some.any()]
    return torch.stack(halves).mean()


def decoder_file(base: Base) -> bytes:
    """Return the content of DECODER_FILE: the decoder's weights in float32, with the base's
    digest."""
    tensors = {
        name: tensor.float().cpu().contiguous()
        for name, tensor in base.vae.state_dict().items()
        if name.startswith(_PARTS)
    }
    return save(tensors, {_DIGEST: base.digest})


def load_decoder(base: Base, path: Path) -> None:
    """Exchange the base's decoder for one that was tuned.

    Raises:
        ModelError: it was tuned on another base, or is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            digest = (file.metadata() or {}).get(_DIGEST, "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if digest != base.digest:
        raise ModelError(
            f"{path} was tuned on another base (sha256 {digest[:12]}) than {base.settings.base} "
            f"(sha256 {base.digest[:12]}); tune it again with check-base, or delete it"
        )
    missing = {name for name in base.vae.state_dict() if name.startswith(_PARTS)} - set(tensors)
    if missing:
        raise ModelError(f"{path} lacks weights, such as {min(missing)}; tune it again")
    base.vae.load_state_dict(tensors, strict=False)
