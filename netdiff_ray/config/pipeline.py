"""Configuration of `netdiff pipeline`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from netdiff_ray.config.checks import paths_as_text, require_at_least_1
from netdiff_ray.config.content import Execution, Input
from netdiff_ray.config.diffusion import (
    EMBEDDED_BASE,
    EMBEDDED_BASE_HEIGHT,
    EMBEDDED_BASE_LEARNING_RATE,
    EMBEDDED_BASE_STEPS,
    LEARNING_RATE,
    BaseSettings,
    DrawSettings,
    OptimizationSettings,
    TrainSettings,
)
from netdiff_ray.config.encode import EncodeConfig
from netdiff_ray.config.evaluate import EvaluateConfig
from netdiff_ray.config.generate import GenerateConfig
from netdiff_ray.config.labels import LabelSettings
from netdiff_ray.config.train import TrainConfig
from netdiff_ray.flows import DEFAULT_HEIGHT

PIPELINE_FOLDERS = ("encoded", "adapter", "dataset", "report")
"""Of OUT, in the order they are made."""
_MOST_KEPT = 20_000
"""Flows of a dataset that keeps what was drawn before repair."""


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """The whole way on Ray: encode captures, train an adapter, generate flows, evaluate them.

    OUT gets encoded/, adapter/, dataset/ and report/. Running it again does what is missing,
    and nothing when all is there. The verbs of the same names have more choices; run one by
    one on the same folders, they do the same.
    """

    captures: Input[Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURES")]]
    """A folder, a glob or one capture; a path or a URI (s3://, gs://)."""
    target: Execution[Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]]
    """Folder or URI of all that is made."""
    heldout: Input[str | None] = None
    """Captures that the model does not learn from, to judge the flows against; a folder, a
    glob or a dataset. Without them there is no report."""
    labels: tuple[str, ...] = ()
    """Labels to learn and to draw; all unless given."""
    labels_csv: Input[str | None] = None
    """CSV with columns capture and label. Unless given, the innermost folder called
    label=<label> names the label, else the parent folder."""
    flow_labels: Input[Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE")]] = ()
    """Files of labels of flows, see netdiff labels; held-out flows are then those of an encoded
    dataset. Unless given, flows have the label of their capture."""
    label_settings: Annotated[LabelSettings, tyro.conf.OmitArgPrefixes] = field(
        default_factory=LabelSettings
    )
    """How those files are read."""
    height: int | None = None
    """Most packets of one window; a longer flow has several. 256 with nano, which draws no
    more, and 1,024 with other bases, unless given."""
    base: str = EMBEDDED_BASE
    """Base model: nano, a diffusers SD3-family directory, or a hub name."""
    revision: str | None = None
    """The commit of a base on the hub."""
    train_steps: int = 1000
    """Most optimiser steps; fewer where held-out windows stop gaining."""
    train_minutes: float | None = None
    """Most minutes of them; no limit unless given. Where they end the training, the result depends
    on the machine."""
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
    flows: int | None = None
    """Flows to draw of each label; as many as it was trained on unless given."""
    flows_per_shard: int = 500
    """Flows of one output file."""
    draw_steps: int | None = None
    """Denoising steps: 4 with nano, and 28 with other bases, unless given."""
    guidance: float = 1.0
    """Scale of classifier-free guidance; 1 is none and costs half."""
    seed: int = 0
    """Seed of the training and of the drawing."""
    max_quarantined_share: Execution[float] = 0.05
    """Share of the captures, and of the flows, that may be quarantined before the
    pipeline stops."""
    address: Execution[str | None] = None
    """Ray cluster to run on; a local one unless given."""
    json: Execution[bool] = False
    """Print the results as JSON, a line a job."""

    def __post_init__(self):
        paths_as_text(self)
        require_at_least_1(self, "train_steps")
        if self.draw_steps is not None:
            require_at_least_1(self, "draw_steps")
        self.encode()
        self.train()
        self.generate({"label": 1})

    def encode(self) -> EncodeConfig:
        """Return the configuration that encodes the captures to OUT/encoded."""
        return EncodeConfig(
            source=self.captures, target=self.folder("encoded"), labels_csv=self.labels_csv,
            labels=self.flow_labels, label_settings=self.label_settings,
            height=self.window_height(), max_quarantined_share=self.max_quarantined_share,
            address=self.address, json=self.json,
        )  # fmt: skip

    def window_height(self) -> int:
        """Return the most packets of a window."""
        if self.height is None:
            return EMBEDDED_BASE_HEIGHT if self.base == EMBEDDED_BASE else DEFAULT_HEIGHT
        return self.height

    def train(self) -> TrainConfig:
        """Return the configuration that trains on OUT/encoded to OUT/adapter."""
        optimization = OptimizationSettings(
            steps=self.train_steps, minutes=self.train_minutes, batch_size=self.batch_size,
            seed=self.seed, learning_rate=self.peak_learning_rate(),
            warmup_steps=min(50, self.train_steps // 10),
        )  # fmt: skip
        return TrainConfig(
            source=self.folder("encoded"), target=self.folder("adapter"), labels=self.labels,
            workers=self.workers, gpus_per_worker=self.gpus_per_worker, address=self.address,
            json=self.json, base=BaseSettings(base=self.base, revision=self.revision),
            settings=TrainSettings(
                rank=self.rank, alpha=float(self.rank), optimization=optimization
            ),
        )  # fmt: skip

    def peak_learning_rate(self) -> float:
        """Return the peak of the learning rate."""
        if self.learning_rate is None:
            return EMBEDDED_BASE_LEARNING_RATE if self.base == EMBEDDED_BASE else LEARNING_RATE
        return self.learning_rate

    def generate(self, trained_on: Mapping[str, int]) -> GenerateConfig:
        """Return the configuration that draws with OUT/adapter to OUT/dataset.

        Small datasets keep what was drawn, for the report.

        Args:
            trained_on: flows that each label was trained on.
        """
        flows, mix = self.flows, ()
        if flows is None:
            flows = sum(trained_on.values())
            mix = tuple(f"{label}={count}" for label, count in trained_on.items())
        keep_drawn = flows * (1 if mix else len(trained_on)) <= _MOST_KEPT
        return GenerateConfig(
            adapter=self.folder("adapter"), target=self.folder("dataset"), flows=flows, mix=mix,
            flows_per_shard=self.flows_per_shard, max_quarantined_share=self.max_quarantined_share,
            keep_drawn=keep_drawn, address=self.address, json=self.json,
            draw=DrawSettings(
                seed=self.seed, steps=self.denoising_steps(), guidance=self.guidance
            ),
        )  # fmt: skip

    def denoising_steps(self) -> int:
        """Return the steps that flows are drawn in."""
        if self.draw_steps is None:
            return EMBEDDED_BASE_STEPS if self.base == EMBEDDED_BASE else DrawSettings().steps
        return self.draw_steps

    def evaluate(self) -> EvaluateConfig | None:
        """Return the configuration that judges OUT/dataset against the held-out captures, to
        OUT/report; None without those captures."""
        if self.heldout is None:
            return None
        return EvaluateConfig(
            real=self.heldout, synthetic=self.folder("dataset"),
            train=self.folder("encoded") if self.flow_labels else self.captures,
            train_labels_csv=self.labels_csv, adapter=self.folder("adapter"),
            out=self.folder("report"), address=self.address, json=self.json,
        )  # fmt: skip

    def folder(self, name: str) -> str:
        """Return a folder of OUT."""
        return folder_in(self.target, name)


def folder_in(target: str, name: str) -> str:
    """Return a folder in a path or URI, which may carry a query."""
    folder, question, query = target.partition("?")
    return f"{folder.rstrip('/')}/{name}{question}{query}"
