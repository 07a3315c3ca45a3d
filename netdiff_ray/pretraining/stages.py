"""The stages of pretraining: each trains components of a base from its last checkpoint on."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from netdiff_ray.config.diffusion import OptimizationSettings
from netdiff_ray.diffusion.base import Base
from netdiff_ray.diffusion.objective import flow_matching_loss
from netdiff_ray.diffusion.optimization import Loss, averaged, start_or_resume, steps
from netdiff_ray.labels.flow_plan import seed_of
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.nprint.layouts import height_for
from netdiff_ray.pretraining.batches import PretrainingSet, batch_at
from netdiff_ray.pretraining.config import PretrainConfig, Stage
from netdiff_ray.pretraining.losses import (
    autoencoder_loss,
    distillation_loss,
    normalise_latents,
)
from netdiff_ray.raster import to_rgb

ReportStep = Callable[[dict[str, object]], None]
"""Takes the stage, the step, the loss and so on, by name."""

_TALLEST_FOR_AUTOENCODER = 64
_NORMALISED_ON = 256
"""Windows that the latents are normalised on."""
_TEACHER_SUBSTEPS = 4


@dataclasses.dataclass(frozen=True)
class StageRun:
    """One run of a stage."""

    stage: Stage
    config: PretrainConfig
    work: Path
    """Holds a folder of checkpoints for each stage."""
    identity: str
    """Identifies the run; checkpoints of another are refused."""
    report: ReportStep

    def train(
        self, settings: OptimizationSettings, loss_of: Loss, *models: torch.nn.Module
    ) -> None:
        """Train models to the end, and leave them with their averaged weights, frozen."""
        parameters = _trainable(models)
        state = start_or_resume(parameters, settings, self.work / self.stage, self.identity)
        total = 0.0
        for result in steps(state, loss_of):
            total += result.loss
            if result.step % settings.report_every == 0:
                mean = total / settings.report_every
                self.report(
                    {
                        "stage": self.stage,
                        "step": result.step,
                        "loss": mean,
                        "lr": result.learning_rate,
                    }
                )
                total = 0.0
        with averaged(state):
            values = {name: p.detach().clone() for name, p in parameters.items()}
        for name, parameter in parameters.items():
            parameter.data.copy_(values[name])
            parameter.requires_grad_(False)

    def generator(self, step: int, micro: int) -> torch.Generator:
        """Return the CPU generator of the noise of a micro-batch."""
        rng = torch.Generator()
        rng.manual_seed(seed_of(self.config.seed, "pretrain", step, str(micro)))
        return rng

    def autocast(self, base: Base) -> torch.autocast:
        """Return the context of a forward pass.

        With autocast, attention as two matrix products in bfloat16 trains twice as fast on a CPU
        as torch's fused attention.
        """
        enabled = self.config.autocast
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(enabled)
        return torch.autocast(base.device.type, dtype=torch.bfloat16, enabled=enabled)


def _trainable(models: tuple[torch.nn.Module, ...]) -> dict[str, torch.nn.Parameter]:
    """Make the parameters of models trainable, and return them by model index and name."""
    parameters = {}
    for k, model in enumerate(models):
        model.requires_grad_(True)
        parameters |= {f"{k}.{name}": parameter for name, parameter in model.named_parameters()}
    return parameters


def train_autoencoder(base: Base, windows: LabelledWindows, run: StageRun) -> None:
    """Train the autoencoder of `base` and normalise its latents, or train its decoder alone."""
    config = run.config
    settings = config.autoencoder
    by_height: dict[int, list[int]] = {}
    for i, nprint in enumerate(windows.nprint):
        height = min(height_for(len(nprint)), _TALLEST_FOR_AUTOENCODER)
        by_height.setdefault(height, []).append(i)
    heights = sorted(by_height)
    weight = np.array([len(by_height[height]) for height in heights], float)

    def loss_of(step: int, micro: int) -> tuple[torch.Tensor, int]:
        rng = np.random.default_rng((config.seed, step, micro))
        height = heights[rng.choice(len(heights), p=weight / weight.sum())]
        rasters = []
        for i in rng.choice(by_height[height], settings.batch_size):
            nprint = windows.nprint[i]
            first = rng.integers(0, max(len(nprint) - height, 0) + 1)
            rasters.append(to_rgb(nprint[first : first + height], height))
        loss = autoencoder_loss(
            base.vae, np.stack(rasters), config.latent_noise, run.generator(step, micro)
        )
        return loss, height

    base.vae.train()
    run.train(settings, loss_of, base.vae.decoder if run.stage == "decoder" else base.vae)
    base.vae.eval()
    if run.stage == "autoencoder":
        chosen = np.random.default_rng(config.seed).permutation(len(windows))[:_NORMALISED_ON]
        normalise_latents(base, [windows.nprint[i] for i in chosen])


def train_denoiser(base: Base, windows: PretrainingSet, run: StageRun) -> None:
    """Train the transformer and the ControlNet of `base`."""
    settings, config = run.config.denoiser, run.config
    run.train(
        settings, _flow_matching(base, windows, run, config, settings.batch_size),
        base.transformer, base.controlnet,
    )  # fmt: skip


def train_controlnet(base: Base, windows: PretrainingSet, run: StageRun) -> None:
    """Train the ControlNet of `base` alone, always with control images."""
    settings, config = run.config.controlnet, dataclasses.replace(run.config, control_share=1.0)
    base.transformer.requires_grad_(False)
    run.train(
        settings, _flow_matching(base, windows, run, config, settings.batch_size), base.controlnet
    )


def _flow_matching(
    base: Base, windows: PretrainingSet, run: StageRun, config: PretrainConfig, size: int
) -> Loss:
    """Return the flow-matching loss of a step's batch of `size`."""
    objective = config.objective()

    def loss_of(step: int, micro: int) -> tuple[torch.Tensor, int]:
        batch, height = batch_at(base, windows, config, size, (step, micro))
        with run.autocast(base):
            loss = flow_matching_loss(base, batch, objective, run.generator(step, micro))
        return loss, height

    return loss_of


def distill(base: Base, windows: PretrainingSet, run: StageRun) -> None:
    """Distill the transformer of `base` for schedules of few steps; the ControlNet stays."""
    config = run.config
    teacher = copy.deepcopy(base.transformer)
    fewest, most = config.distill_schedules

    def loss_of(step: int, micro: int) -> tuple[torch.Tensor, int]:
        size = config.distill.batch_size
        batch, height = batch_at(base, windows, config, size, (step, micro))
        rng = run.generator(step, micro)
        schedule_steps = int(torch.randint(fewest, most + 1, (), generator=rng))
        with run.autocast(base):
            loss = distillation_loss(base, teacher, batch, schedule_steps, _TEACHER_SUBSTEPS, rng)
        return loss, height

    run.train(config.distill, loss_of, base.transformer)
