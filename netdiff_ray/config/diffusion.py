"""Settings for loading, training and drawing, as frozen records; none loads torch.

Each raises ConfigError when it is made with a value that is out of range.
"""

from dataclasses import dataclass, replace
from typing import Literal

from netdiff_ray.config.checks import paths_as_text, require
from netdiff_ray.config.content import Execution
from netdiff_ray.nprint.layouts import HEIGHTS

EMBEDDED_BASE = "nano"
"""Name of the base that the package ships."""
EMBEDDED_BASE_HEIGHT = 256
"""Rows of the highest rasters that it has learnt to draw."""
EMBEDDED_BASE_STEPS = 4
"""Denoising steps that it has learnt to draw in."""
LEARNING_RATE = 1e-4
"""Peak learning rate of fine-tuning."""
EMBEDDED_BASE_LEARNING_RATE = 1e-3
"""That of the base that the package ships, whose weights are few."""

NEW_CONTROLNET = "base"
"""What `TrainSettings.controlnet_from` names for a new ControlNet."""

_COMMIT_LENGTH = 40


def is_commit(revision: str | None) -> bool:
    """Return whether `revision` is a full commit hash, which can never point elsewhere."""
    return (
        revision is not None
        and len(revision) == _COMMIT_LENGTH
        and all(c in "0123456789abcdef" for c in revision)
    )


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """The base, and how it is held in memory."""

    base: str
    """A diffusers SD3-family directory, or a hub name such as
    `stabilityai/stable-diffusion-3-medium-diffusers`."""
    revision: str | None = None
    """The commit of a hub name, 40 hex digits; required for a hub name."""
    variant: str | None = None
    """Variant of the weights to load where components have it, such as fp16; a component that has a
    single variant and no plain weights is loaded as that."""
    transformer_file: str | None = None
    """A .safetensors file with the transformer's weights, in the format of Stability's own releases
    or of diffusers, in place of those in the base's directory, whose config says the sizes."""
    controlnet: str | None = None
    """An SD3 ControlNet directory or hub name; unless given, the `controlnet` folder of the base,
    if it has one."""
    controlnet_revision: str | None = None
    """The commit of a hub ControlNet."""
    control_image: Literal["plan", "edges"] = "plan"
    """What the ControlNet takes: the picture of a flow's plan, as nano's does, or the Canny edges
    of that picture, as ControlNets that were trained on edges do."""
    control_pixels: Literal["auto", "normalised", "sd3.5-large-canny"] = "auto"
    """Pixels that the ControlNet takes: normalised, from -1 to 1, or those of SD3.5 Large's Canny
    ControlNet, from 0.5 to 128; `auto` is what a table has for its config and its images."""
    device: Execution[str] = "auto"
    """A torch device, or `auto`: the GPU if there is one, else the CPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; `auto` is bfloat16 on a GPU and float32 elsewhere. An autoencoder
    whose config asks for `force_upcast` stays float32."""
    attention: Execution[Literal["auto", "flash", "efficient", "cudnn", "math"]] = "auto"
    """Backend of torch's scaled dot product attention."""
    compile: Execution[bool] = False
    """Compile the transformer and the ControlNet with torch.compile."""
    slice_vae: Execution[bool] = False
    """Encode and decode one raster at a time, to save memory."""
    tile_vae: bool = False
    """Encode and decode rasters in tiles that overlap, to save memory; the result differs a
    little."""

    def __post_init__(self) -> None:
        paths_as_text(self)


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """Optimiser steps."""

    steps: int = 1000
    """Most optimiser steps."""
    minutes: float | None = None
    """Most minutes that the steps take; no limit unless given. Where they end a training, the
    result depends on the machine."""
    batch_size: int = 8
    """Windows in one forward pass."""
    accumulate: int = 1
    """Forward passes whose gradients make one step."""
    learning_rate: float = LEARNING_RATE
    """Peak learning rate, after the warm-up."""
    optimiser: Literal["adamw", "muon"] = "adamw"
    """`muon` is orthogonalised momentum (Jordan et al., 2024, kellerjordan.github.io/posts/muon)
    for the matrices of transformer blocks, its steps as long as AdamW's, and AdamW for the rest."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    decay_share: float = 0.4
    """Share of the steps, and of the minutes, in which the learning rate falls to 0 at the end; 1
    for all after the warm-up. Constant before a fall it does as well as a cosine (Hägele et al.,
    2024, arXiv:2405.18392), and the end need not be known from the beginning."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled down to this norm."""
    ema_decay: float = 0.99
    """Decay of the moving average of the weights, which becomes the result; 0 for none."""
    seed: int = 0
    """Seed of the training; the randomness of a step is a function of it and the step's number."""
    report_every: Execution[int] = 20
    """Steps between reports of the loss."""
    checkpoint_every: Execution[int] = 200
    """Steps between checkpoints; the last step always has one."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "report_every", "checkpoint_every"):
            value = getattr(self, name)
            require(value >= 1, name, value, "at least 1")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        require(self.minutes is None or self.minutes > 0, "minutes", self.minutes, "above 0")
        require(0 <= self.decay_share <= 1, "decay_share", self.decay_share, "from 0 to 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "above 0")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "from 0 to below 1")
        require(self.seed >= 0, "seed", self.seed, "0 or more")

    @property
    def windows_per_step(self) -> int:
        """Number of windows in one optimiser step, over all workers."""
        return self.batch_size * self.accumulate


@dataclass(frozen=True, kw_only=True)
class EvidenceSettings:
    """Held-out windows, which tell when a training stops and which of its weights are best."""

    heldout_share: float = 0.1
    """Share of the flows of each service that no step learns from, rounded to whole flows;
    statistics are of all flows. With 0, or where no service has enough flows, the steps or minutes
    end the training, and its last weights become the result."""
    heldout_windows: int = 128
    """Most windows of these flows that are measured."""
    heldout_every: int = 50
    """Steps between measurements of the held-out loss."""
    min_gain: float = 0.001
    """Share by which the held-out loss has to fall to count as a gain."""
    patience: int = 5
    """Measurements without a gain after which the learning rate begins to fall; if it is falling
    already, the training ends."""

    def __post_init__(self) -> None:
        share = self.heldout_share
        require(0 <= share <= 0.5, "heldout_share", share, "from 0 to 0.5")
        require(0 <= self.min_gain < 1, "min_gain", self.min_gain, "from 0 to below 1")
        for name in ("heldout_windows", "heldout_every", "patience"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


@dataclass(frozen=True, kw_only=True)
class FlowMatchingSettings:
    """The training objective of SD3 (Esser et al., 2024, arXiv:2403.03206)."""

    logit_mean: float = 0.0
    """Mean of the normal whose sigmoid is the noise level, before the shift."""
    logit_std: float = 1.0
    """Standard deviation of that normal."""
    shift: float | None = None
    """Shift of the noise levels towards 1, as at drawing; unless given, that of the base's
    scheduler."""
    schedule_steps: int = 0
    """Steps of a drawing schedule to favour: `schedule_share` of the windows get the noise level
    of a step after its first. With 0 all levels are logit-normal."""
    schedule_share: float = 0.7
    """Share of windows that get a noise level of that schedule."""
    prompt_dropout: float = 0.1
    """Share of windows trained on the empty prompt, which guidance needs."""
    control_scale: float = 0.0
    """Weight of the ControlNet; 0 leaves it out, but is 1 where one is trained. Its images are the
    pictures of flows' plans, see `netdiff_ray.diffusion.control`."""
    emphasis: float = 4.0
    """Weight in the loss of directions, sizes and flags, which tell flows apart, relative to other
    fields, and of these relative to ports and flow labels. 1 with an `opening` of 1 is the plain
    loss. See `netdiff_ray.diffusion.objective`."""
    opening: float = 4.0
    """Weight in the loss of a window's first eight packets relative to later ones."""

    def __post_init__(self) -> None:
        require(self.emphasis > 0, "emphasis", self.emphasis, "above 0")
        require(self.opening > 0, "opening", self.opening, "above 0")
        require(self.logit_std > 0, "logit_std", self.logit_std, "above 0")
        steps, share = self.schedule_steps, self.schedule_share
        require(steps == 0 or steps > 1, "schedule_steps", steps, "0 or above 1")
        require(0 <= share <= 1, "schedule_share", share, "from 0 to 1")
        require(self.shift is None or self.shift > 0, "shift", self.shift, "above 0")
        dropout = self.prompt_dropout
        require(0 <= dropout < 1, "prompt_dropout", dropout, "from 0 to below 1")


LORA_TARGETS = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    "ff.net.0.proj", "ff.net.2", "norm1.linear",
)  # fmt: skip
"""The linear layers of joint attention, as in diffusers' train_dreambooth_lora_sd3.py; and for the
tokens of the image the feed-forward layers and their modulation by prompt and noise level, without
which a new label is learnt less well (`docs/experiments.md`)."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """LoRA fine-tuning."""

    rank: int = 16
    """Rank of the LoRA matrices."""
    alpha: float = 16.0
    """The product of the LoRA matrices is scaled by alpha / rank."""
    target_modules: tuple[str, ...] = LORA_TARGETS
    """Modules of the transformer that get LoRA, by the ends of their names; text encoders get
    none."""
    prompt: str = "pixelated network data for {service} {label}"
    """Template of the prompts, with {label} and {service} (such as tcp-443) in it. The service
    stands first, since nano's tokenizers cut prompts after 24 tokens, a letter each."""
    t5: Literal["none"] | int = 256
    """Tokens of a prompt for T5, at most as many as its tokenizer takes; most of them are padding.
    `none` goes without T5, whose encoder is then neither needed nor loaded. Fewer tokens train and
    draw faster."""
    balance: float = 0.5
    """A label of n windows is trained on in proportion to n to this power: 1 as in the data,
    0 all labels alike."""
    controlnet_from: str | None = None
    """Train a ControlNet on the pictures of flows' plans beside the LoRA: `base` for a new one, of
    the first half of the base's blocks, or the directory or hub name of one to go on from. It lies
    in `controlnet` of the result."""
    max_height: int = 1024
    """Rows of a full window, one of HEIGHTS; flows of more packets have several windows."""
    autocast: bool = False
    """Use bfloat16 autocast in the forward pass."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, to save memory."""
    sample_grid_every: Execution[int] = 0
    """Steps between sample grids and bit errors of drawn rasters; 0 for none."""
    sample_grid_steps: Execution[int] = 20
    """Denoising steps of the rasters in a sample grid."""
    optimization: OptimizationSettings = OptimizationSettings()
    """The optimisation."""
    evidence: EvidenceSettings = EvidenceSettings()
    """When to stop."""
    objective: FlowMatchingSettings = FlowMatchingSettings()
    """The loss."""

    def __post_init__(self) -> None:
        paths_as_text(self)
        if self.controlnet_from is not None and not self.objective.control_scale:
            object.__setattr__(self, "objective", replace(self.objective, control_scale=1.0))
        require(self.rank >= 1, "rank", self.rank, "at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "above 0")
        has_both = "{label}" in self.prompt and "{service}" in self.prompt
        require(has_both, "prompt", self.prompt, "a text with {label} and {service} in it")
        fits = self.t5 == "none" or (type(self.t5) is int and 1 <= self.t5 <= 512)
        require(fits, "t5", self.t5, "from 1 to 512 tokens, or none")
        require(0 <= self.balance <= 1, "balance", self.balance, "from 0 to 1")
        require(self.max_height in HEIGHTS, "max_height", self.max_height, f"one of {HEIGHTS}")
        require(
            self.sample_grid_every >= 0, "sample_grid_every", self.sample_grid_every, "0 or more"
        )
        require(
            self.sample_grid_steps >= 1, "sample_grid_steps", self.sample_grid_steps, "at least 1"
        )


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Published LoRA weights to stack on an adapter, such as a LoRA for drawing in few steps."""

    source: str
    """A file or directory that diffusers' `load_lora_weights` takes, or a hub name."""
    revision: str | None = None
    """The commit of a hub name, 40 hex digits; required for a hub name."""
    weight_name: str | None = None
    """The file, where the directory or repository has several."""
    scale: float = 1.0
    """Weight of the LoRA."""


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """Drawing. Settings, base, adapter, label and index of a flow decide every drawn bit."""

    seed: int = 0
    """Seed of the run."""
    steps: int = 28
    """Denoising steps."""
    guidance: float = 1.0
    """Scale of classifier-free guidance; 1 is no guidance and costs half."""
    shift: float | None = None
    """Shift of the noise levels; unless given, that of the base's scheduler."""
    scheduler: str = "FlowMatchEulerDiscreteScheduler"
    """Class name of a flow-matching scheduler of diffusers."""
    control_scale: float = 0.0
    """Weight of the ControlNet, which sees the plan of each flow; 0 leaves it out."""
    batch_size: int = 8
    """Rasters in one forward pass. Shorter batches are filled up, so that all have one shape; with
    another batch size the last bits of floating point may differ."""
    hold_plan: bool = True
    """Keep to a flow's plan while denoising and in the raster: rows after its length, and headers
    and later TCP options that it lacks, are vacant; its headers are occupied. See
    `netdiff_ray.diffusion.plan_constraints`."""
    shared_first_step: bool = False
    """Take the first step, from pure noise, once for all samples of a label, window, height and
    headers: pure noise says nothing about a sample. A single step is never shared, nor are those
    with ControlNet, whose image says much of a sample. Not for bases and LoRAs distilled for few
    steps, which turn each noise into one sample."""
    loras: tuple[Lora, ...] = ()
    """Published LoRAs to stack on the adapter."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        require(self.guidance >= 1, "guidance", self.guidance, "at least 1, which is no guidance")
        require(self.shift is None or self.shift > 0, "shift", self.shift, "above 0")
        require(self.control_scale >= 0, "control_scale", self.control_scale, "0 or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
