"""Configuration of `netdiff augment`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from netdiff_ray.config.checks import check_share, paths_as_text, require_at_least_1
from netdiff_ray.config.content import Execution, Input
from netdiff_ray.config.diffusion import EMBEDDED_BASE
from netdiff_ray.config.evaluate import EvaluateConfig
from netdiff_ray.config.generate import GenerateConfig
from netdiff_ray.config.pipeline import PipelineConfig, folder_in
from netdiff_ray.config.train import TrainConfig
from netdiff_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Draw what rare labels of an encoded dataset lack, and write real and drawn flows together.

    OUT gets adapter/ unless one is given, dataset/ with the captures of the drawn flows,
    augmented/ and, with held-out captures, report/. In augmented/, an encoded dataset, the
    column synthetic says which windows are drawn. Running it again does what is missing.
    """

    source: Input[Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENCODED")]]
    """Folder or URI of the encoded dataset."""
    target: Execution[Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]]
    """Folder or URI of all that is made."""
    to_balance: bool = False
    """Draw for each label what it lacks to the flows of the most frequent one."""
    flows: int | None = None
    """Draw for each label what it lacks to so many flows."""
    labels: tuple[str, ...] = ()
    """Labels to draw for; all unless given."""
    adapter: Input[str | None] = None
    """Folder or URI of the adapter that draws; one is trained on ENCODED unless given."""
    heldout: Input[str | None] = None
    """Real flows that are not in ENCODED, to judge the drawn ones against: captures, or a
    dataset. Without them there is no report."""
    base: str = EMBEDDED_BASE
    """Base model to train an adapter of: nano, a diffusers SD3-family directory, or a hub name."""
    revision: str | None = None
    """The commit of a base on the hub."""
    train_steps: int = 1000
    """Most optimiser steps; fewer where held-out windows stop gaining."""
    train_minutes: float | None = None
    """Most minutes of them; no limit unless given."""
    batch_size: int = 8
    """Windows of one optimiser step."""
    learning_rate: float | None = None
    """Peak of the learning rate: 0.001 with nano, and 0.0001 with other bases, unless given."""
    rank: int = 16
    """Rank of the LoRA matrices."""
    workers: Execution[Annotated[tuple[int, ...], tyro.conf.arg(metavar="N | MIN MAX")]] = (1,)
    """Processes that train together."""
    gpus_per_worker: Execution[Literal[0, 1]] = 0
    """1 to train on GPUs. Drawing takes the GPUs of the cluster."""
    flows_per_shard: int = 500
    """Flows of one output file."""
    draw_steps: int | None = None
    """Denoising steps: 4 with nano, and 28 with other bases, unless given."""
    guidance: float = 1.0
    """Scale of classifier-free guidance; 1 is none and costs half."""
    seed: int = 0
    """Seed of the training and of the drawing."""
    max_quarantined_share: Execution[float] = 0.05
    """Share of the drawn flows that may be quarantined before the exit code says so."""
    address: Execution[str | None] = None
    """Ray cluster to run on; a local one unless given."""
    json: Execution[bool] = False
    """Print the results as JSON, a line a job."""

    def __post_init__(self):
        paths_as_text(self)
        if self.to_balance == (self.flows is not None):
            raise ConfigError("choose how many flows a label is to have: to_balance or flows")
        if self.flows is not None:
            require_at_least_1(self, "flows")
        check_share("max_quarantined_share", self.max_quarantined_share)
        self.train()
        self.generate({"label": 1}, self.base)

    def train(self) -> TrainConfig:
        """Return the configuration that trains on ENCODED to OUT/adapter."""
        return replace(self._pipeline(self.base).train(), source=self.source)

    def generate(self, counts: Mapping[str, int], base: str) -> GenerateConfig:
        """Return the configuration that draws to OUT/dataset.

        Args:
            counts: flows to draw, by label.
            base: of the adapter.
        """
        drawing = self._pipeline(base).generate(counts)
        return replace(drawing, adapter=self.adapter or drawing.adapter)

    def evaluate(self) -> EvaluateConfig | None:
        """Return the configuration that judges the drawn flows, to OUT/report; None without
        held-out flows."""
        if self.heldout is None:
            return None
        return EvaluateConfig(
            real=self.heldout, synthetic=self.folder("dataset"), train=self.source,
            adapter=self.adapter or self.folder("adapter"), augments=True,
            out=self.folder("report"),
            address=self.address, json=self.json,
        )  # fmt: skip

    def folder(self, name: str) -> str:
        """Return a folder of OUT."""
        return folder_in(self.target, name)

    def _pipeline(self, base: str) -> PipelineConfig:
        """Return the pipeline whose jobs train and draw with these settings."""
        return PipelineConfig(
            captures=self.source, target=self.target, base=base, revision=self.revision,
            train_steps=self.train_steps, train_minutes=self.train_minutes,
            batch_size=self.batch_size, learning_rate=self.learning_rate, rank=self.rank,
            workers=self.workers, gpus_per_worker=self.gpus_per_worker,
            flows_per_shard=self.flows_per_shard, draw_steps=self.draw_steps,
            guidance=self.guidance, seed=self.seed,
            max_quarantined_share=self.max_quarantined_share, address=self.address, json=self.json,
        )  # fmt: skip
