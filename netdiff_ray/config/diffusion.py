"""What a user can choose for loading, training and drawing, as frozen records.

Each checks itself when made and raises ConfigError; none loads torch.
"""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from netdiff_ray.errors import ConfigError
from netdiff_ray.nprint.layouts import HEIGHTS

EMBEDDED_BASE = "nano"
"""Name of the base that the package ships."""
EMBEDDED_BASE_HEIGHT = 256
"""Most rows of the rasters that it has learnt to draw."""

_COMMIT_LENGTH = 40


def _require(holds: bool, name: str, value: object, right: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value!r}; it must be {right}")


def is_commit(revision: str | None) -> bool:
    """Whether `revision` is a full commit hash, which can never point elsewhere."""
    return (
        revision is not None
        and len(revision) == _COMMIT_LENGTH
        and all(c in "0123456789abcdef" for c in revision)
    )


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """Which base, and how it is held in memory."""

    base: str
    """A diffusers SD3-family directory, or a hub name such as
    `stabilityai/stable-diffusion-3-medium-diffusers`."""
    revision: str | None = None
    """The commit of a hub name, 40 hex digits; required for one."""
    controlnet: str | None = None
    """An SD3 ControlNet directory or hub name; the base's own `controlnet` folder, if it
    has one, unless given."""
    controlnet_revision: str | None = None
    """The commit of a hub ControlNet."""
    device: str = "auto"
    """A torch device, or `auto`: the GPU if there is one, else the CPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; `auto` is bfloat16 on a GPU and float32 elsewhere. An autoencoder
    whose config asks for `force_upcast` stays float32."""
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = "auto"
    """Backend of torch's scaled dot product attention."""
    compile: bool = False
    """torch.compile for the transformer and the ControlNet."""
    slice_vae: bool = False
    """Encode and decode one raster at a time, for little memory."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """Optimiser steps."""

    steps: int = 1000
    """Optimiser steps in all."""
    batch_size: int = 8
    """Windows in one forward pass."""
    accumulate: int = 1
    """Forward passes whose gradients make one step."""
    learning_rate: float = 1e-4
    """Peak, reached after the warm-up; a cosine brings it to 0 at the last step."""
    optimiser: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised momentum (Jordan et al., 2024, kellerjordan.github.io/posts/muon) for
    the matrices of transformer blocks, its steps as long as AdamW's, and AdamW for the rest."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """The optimiser's, decoupled."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    ema_decay: float = 0.99
    """Of the moving average of the weights that the result holds; 0 for none."""
    seed: int = 0
    """All randomness of a step is a function of it and the step's number."""
    report_every: int = 20
    """Steps between reports of the loss."""
    checkpoint_every: int = 200
    """Steps between checkpoints; the last step always makes one."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "report_every", "checkpoint_every"):
            value = getattr(self, name)
            _require(value >= 1, name, value, "at least 1")
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "above 0")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "from 0 to below 1")
        _require(self.seed >= 0, "seed", self.seed, "0 or more")

    @property
    def windows_per_step(self) -> int:
        """Windows in one optimiser step, over all workers."""
        return self.batch_size * self.accumulate


@dataclass(frozen=True, kw_only=True)
class FlowMatchingSettings:
    """The training objective of SD3 (Esser et al., 2024, arXiv:2403.03206)."""

    logit_mean: float = 0.0
    """Mean of the normal whose sigmoid is the noise level, before the shift."""
    logit_std: float = 1.0
    """Its standard deviation."""
    shift: float | None = None
    """Of noise levels towards 1, as at drawing; the base scheduler's unless given."""
    few_steps: int = 0
    """Steps of a schedule to be learnt for: `few_share` of windows have a noise level at which it
    takes a step after its first. 0: all levels are logit-normal."""
    few_share: float = 0.7
    """That share."""
    prompt_dropout: float = 0.1
    """Share of windows trained on the empty prompt, which guidance needs."""
    control_scale: float = 0.0
    """Weight of the ControlNet, which is not trained; 0 leaves it out."""
    emphasis: float = 4.0
    """Weight in the loss of the columns of directions, sizes and flags, which tell flows
    apart, relative to those of other fields, and of these relative to ports and flow labels
    (of times: see `cell_weights`); 1 with an `opening` of 1 is the plain loss."""
    opening: float = 4.0
    """Weight in the loss of a window's first eight packets relative to later ones."""

    def __post_init__(self) -> None:
        _require(self.emphasis > 0, "emphasis", self.emphasis, "above 0")
        _require(self.opening > 0, "opening", self.opening, "above 0")
        _require(self.logit_std > 0, "logit_std", self.logit_std, "above 0")
        few = self.few_steps
        _require(few == 0 or few > 1, "few_steps", few, "0 or above 1")
        _require(0 <= self.few_share <= 1, "few_share", self.few_share, "from 0 to 1")
        _require(self.shift is None or self.shift > 0, "shift", self.shift, "above 0")
        dropout = self.prompt_dropout
        _require(0 <= dropout < 1, "prompt_dropout", dropout, "from 0 to below 1")


LORA_TARGETS = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    "ff.net.0.proj", "ff.net.2", "norm1.linear",
)  # fmt: skip
"""The linear layers of joint attention, as in diffusers' train_dreambooth_lora_sd3.py, and of the
image's tokens the feed-forward layers and their modulation by prompt and noise level, without which
a new label is learnt less well (`docs/experiments.md`)."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """LoRA fine-tuning."""

    rank: int = 16
    """Of the LoRA matrices."""
    alpha: float = 16.0
    """Their product is scaled by alpha / rank."""
    target_modules: tuple[str, ...] = LORA_TARGETS
    """Ends of the names of the transformer's modules that get LoRA; text encoders get none."""
    prompt: str = "pixelated network data for {label} application traffic"
    """Template of the prompts."""
    balance: float = 0.5
    """A label of n windows is drawn in proportion to n to this power: 1 as in the data,
    0 all alike."""
    max_height: int = 1024
    """Rows of a full window, one of HEIGHTS; flows of more packets have several."""
    autocast: bool = False
    """bfloat16 autocast in the forward pass."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, for less memory."""
    sample_grid_every: int = 0
    """Steps between sample grids and bit errors of drawn rasters; 0 for none."""
    sample_grid_steps: int = 20
    """Denoising steps of a sample grid."""
    loop: LoopSettings = LoopSettings()
    """Optimiser steps."""
    objective: FlowMatchingSettings = FlowMatchingSettings()
    """What is minimised."""

    def __post_init__(self) -> None:
        _require(self.rank >= 1, "rank", self.rank, "at least 1")
        _require(self.alpha > 0, "alpha", self.alpha, "above 0")
        _require("{label}" in self.prompt, "prompt", self.prompt, "a text with {label} in it")
        _require(0 <= self.balance <= 1, "balance", self.balance, "from 0 to 1")
        _require(self.max_height in HEIGHTS, "max_height", self.max_height, f"one of {HEIGHTS}")
        _require(
            self.sample_grid_every >= 0, "sample_grid_every", self.sample_grid_every, "0 or more"
        )
        _require(
            self.sample_grid_steps >= 1, "sample_grid_steps", self.sample_grid_steps, "at least 1"
        )

    def what_decides(self) -> dict:
        """The settings, as JSON types, that the adapter is a function of."""
        settings = json.loads(json.dumps(asdict(self)))
        for name in ("sample_grid_every", "sample_grid_steps"):
            del settings[name]
        for name in ("report_every", "checkpoint_every"):
            del settings["loop"][name]
        return settings


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Published LoRA weights to stack on an adapter, such as one for few steps."""

    source: str
    """A file or directory that diffusers' `load_lora_weights` takes, or a hub name."""
    revision: str | None = None
    """The commit of a hub name; required for one."""
    weight_name: str | None = None
    """The file in the directory or repository, where there are several."""
    scale: float = 1.0
    """Weight of it."""


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """Drawing. With the base, the adapter, the seed, the label and the index it decides
    every drawn bit."""

    seed: int = 0
    """Of the run."""
    steps: int = 28
    """Denoising steps."""
    guidance: float = 1.0
    """Scale of classifier-free guidance; 1 is none and costs half."""
    shift: float | None = None
    """Of the noise levels; the base scheduler's unless given."""
    scheduler: str = "FlowMatchEulerDiscreteScheduler"
    """A flow-matching scheduler, by diffusers' class name."""
    control_scale: float = 0.0
    """Weight of the ControlNet; 0 leaves it out."""
    batch_size: int = 8
    """Rasters in one forward pass. Shorter batches are filled up to it, so that all run in
    one shape; a batch larger or smaller may differ in the last bits of floating point."""
    hold_plan: bool = True
    """Keep to a flow's planned length and headers while denoising, and in the raster: the rows
    after it, the headers that it lacks and TCP options after the handshake that it lacks vacant,
    its headers occupied. While denoising, latents that stand for several pixels are held where all
    are to be vacant; where a latent is a pixel, the headers of other transports have no tokens
    (see `tokens`)."""
    shared_first_step: bool = False
    """Take the first step, which begins with pure noise, once for all samples of a label, window,
    height and headers, and not for each: pure noise says nothing of a sample. A single step is
    never shared. Not for bases and LoRAs distilled for few steps, which make one sample of one
    noise."""
    loras: tuple[Lora, ...] = ()
    """LoRAs stacked on the adapter's."""

    def __post_init__(self) -> None:
        _require(self.steps >= 1, "steps", self.steps, "at least 1")
        _require(self.guidance >= 1, "guidance", self.guidance, "at least 1, which is none")
        _require(self.shift is None or self.shift > 0, "shift", self.shift, "above 0")
        _require(self.control_scale >= 0, "control_scale", self.control_scale, "0 or more")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
