"""What `jobs/pretrain.py` takes."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from netdiff_ray.config.content import Execution, Input
from netdiff_ray.config.diffusion import FlowMatchingSettings, OptimizationSettings
from netdiff_ray.errors import ConfigError
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, HEIGHTS, layout_named
from netdiff_ray.pretraining.nano import NanoSizes

Stage = Literal["autoencoder", "decoder", "denoiser", "controlnet", "distill"]
STAGES: tuple[Stage, ...] = ("autoencoder", "decoder", "denoiser", "controlnet", "distill")
"""In the order in which they run."""


_decaying = partial(OptimizationSettings, decay_share=1.0)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain a small base on labelled captures."""

    data: Input[Path]
    """A folder with a folder of captures for each label."""
    heldout: Execution[Path]
    """Another such folder, to measure the autoencoder's accuracy on."""
    out: Execution[Path]
    """Becomes a diffusers SD3 directory."""
    work: Execution[Path | None] = None
    """Checkpoints and reports of the stages; OUT.work unless given."""
    stages: Execution[tuple[Stage, ...]] = ("autoencoder", "denoiser", "distill")
    """Stages to run, unless they are finished."""
    leave_out: Input[tuple[str, ...]] = ()
    """Labels to leave out, such as those to fine-tune on."""
    layout: str = DEFAULT_LAYOUT
    """Layout of the rasters."""
    max_height: int = 256
    """Rows of a full window."""
    per_label: Input[int] = 1000
    """Most flows of a label."""
    device: Execution[str] = "auto"
    """A torch device."""
    seed: int = 0
    """Seed of all weights and batches."""
    latent_noise: float = 0.1
    """Noise on the latents that the decoder learns to read, relative to their standard
    deviation."""
    shift: float = 6.0
    """Shift of the noise levels, in training and in the base's scheduler. What all packets of a
    flow have in common shows through much noise: at 0.9 a window is recognisable but for details,
    so that most must be learnt above."""
    logit_mean: float = 0.0
    """For the denoiser, as in FlowMatchingSettings."""
    logit_std: float = 1.5
    """For the denoiser, as in FlowMatchingSettings."""
    schedule_steps: int = 0
    """For the denoiser, as in FlowMatchingSettings."""
    emphasis: float = 4.0
    """For the denoiser, as in FlowMatchingSettings."""
    opening: float = 4.0
    """For the denoiser, as in FlowMatchingSettings."""
    control_share: float = 0.5
    """Share of the denoiser's steps that have control images, 0 to 1."""
    random_stacks: bool = True
    """Give windows random hosts and paths, for all stages from the denoiser on."""
    autocast: bool = False
    """Use bfloat16 autocast in the denoiser's forward passes, with attention as two matrix
    products."""
    distill_schedules: tuple[int, int] = (4, 8)
    """Fewest and most steps of the schedules that the base is distilled for."""
    balance: float = 0.5
    """A label of n windows is trained on in proportion to n to this power."""
    sizes: NanoSizes = field(default_factory=NanoSizes)
    """Sizes of the components."""
    autoencoder: OptimizationSettings = field(
        default_factory=partial(
            _decaying,
            steps=3000,
            batch_size=4,
            learning_rate=2e-3,
            warmup_steps=100,
            ema_decay=0.995,
        )
    )
    """Optimisation of the autoencoder, and of the decoder."""
    denoiser: OptimizationSettings = field(
        default_factory=partial(
            _decaying,
            steps=20_000,
            batch_size=16,
            learning_rate=6e-4,
            warmup_steps=500,
            ema_decay=0.999,
        )
    )
    """Optimisation of the denoiser."""
    controlnet: OptimizationSettings = field(
        default_factory=partial(
            _decaying,
            steps=3000,
            batch_size=16,
            learning_rate=5e-4,
            warmup_steps=100,
            ema_decay=0.998,
        )
    )
    """Optimisation of the ControlNet alone."""
    distill: OptimizationSettings = field(
        default_factory=partial(
            _decaying,
            steps=3000,
            batch_size=16,
            learning_rate=1e-4,
            warmup_steps=100,
            ema_decay=0.998,
        )
    )
    """Optimisation of the distillation."""

    def __post_init__(self) -> None:
        layout = layout_named(self.layout)
        if self.random_stacks and not layout.needs_flow:
            raise ConfigError(
                f"layout {self.layout!r} does not say who sends a packet, as random_stacks needs; "
                f"choose {DEFAULT_LAYOUT}, or switch random_stacks off"
            )
        if self.max_height not in HEIGHTS:
            raise ConfigError(f"max_height is {self.max_height}; it must be one of {HEIGHTS}")
        self.objective()
        fewest, most = self.distill_schedules
        if not 1 <= fewest <= most:
            raise ConfigError(
                f"distill_schedules is {self.distill_schedules}; it must be the fewest and the "
                "most steps, from 1 up"
            )

    def objective(self) -> FlowMatchingSettings:
        """Return the denoiser's loss."""
        return FlowMatchingSettings(
            logit_mean=self.logit_mean, logit_std=self.logit_std, shift=self.shift,
            schedule_steps=self.schedule_steps, emphasis=self.emphasis, opening=self.opening,
            control_scale=1.0,
        )  # fmt: skip
