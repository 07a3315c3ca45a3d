"""The whole way as a function: captures are encoded, learnt from, drawn anew and evaluated."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from netdiff_ray.config import (
    EncodeConfig,
    EvaluateConfig,
    GenerateConfig,
    PipelineConfig,
    TrainConfig,
)
from netdiff_ray.config.diffusion import EMBEDDED_BASE
from netdiff_ray.distributed.cluster import cluster_address, one_ray
from netdiff_ray.distributed.encode import encode
from netdiff_ray.distributed.evaluate import evaluate
from netdiff_ray.distributed.generate import generate
from netdiff_ray.distributed.train import train
from netdiff_ray.evaluate.report import Report
from netdiff_ray.progress import duration
from netdiff_ray.storage.manifest import Dataset

_CPU_SECONDS_OF_A_ROW = 2 / (18.3 * 4 * 64)
"""CPU seconds of a denoising step of nano, a row of the raster (benchmarks/RESULTS.md, nano.py)."""
_TRAINING_TO_DRAWING = 3
"""Cost of a training step to that of a denoising step: there is a backward pass, too."""


def estimate(config: PipelineConfig) -> str:
    """Return how long training and drawing will take at most, as far as that can be known before
    the captures are read, as text."""
    if cluster_address(config.address) is not None or config.base != EMBEDDED_BASE:
        return "how long it takes depends on the base and the machines; each job says its time left"
    cpus = os.cpu_count() or 1
    height = config.window_height()
    of_step = height * _CPU_SECONDS_OF_A_ROW / cpus
    training = config.train_steps * config.batch_size * _TRAINING_TO_DRAWING * of_step
    if config.train_minutes is not None:
        training = min(training, 60 * config.train_minutes)
    drawing = 1000 * config.denoising_steps() * of_step
    return (
        f"on {cpus} CPUs about {duration(training)} to train and {duration(drawing)} for each "
        f"1,000 flows to draw, if all have windows of {height} packets; less if they are shorter. "
        "What is finished is not made again"
    )


@dataclass(frozen=True, kw_only=True)
class PipelineJobs:
    """The jobs of a pipeline; replace them to show progress or results as they come."""

    encode: Callable[[EncodeConfig], Dataset] = encode
    train: Callable[[TrainConfig], dict] = train
    generate: Callable[[GenerateConfig], Dataset] = generate
    evaluate: Callable[[EvaluateConfig], Report] = evaluate


@dataclass(frozen=True, kw_only=True)
class PipelineResult:
    """What a pipeline has made; None for what it did not come to."""

    encoded: Dataset
    adapter: dict | None = None
    """The content of adapter.json."""
    generated: Dataset | None = None
    report: Report | None = None
    """None without held-out captures too."""
    stopped_after: str = ""
    """The job, encode or generate, after which more was quarantined than the configuration
    allows; empty if the pipeline came to its end."""


def run_pipeline(config: PipelineConfig, jobs: PipelineJobs | None = None) -> PipelineResult:
    """Encode captures, train an adapter, generate flows and evaluate them.

    What an earlier run has finished is not made again. All jobs use the same Ray. The pipeline
    stops after a job that quarantines more than `config.max_quarantined_share` of its input.

    Args:
        jobs: what to call for each job; the jobs themselves unless given.

    Raises:
        NetdiffError: a job cannot be carried out.
    """
    jobs = jobs or PipelineJobs()
    with one_ray():
        encoded = jobs.encode(config.encode())
        if encoded.quarantined_share > config.max_quarantined_share:
            return PipelineResult(encoded=encoded, stopped_after="encode")
        adapter = jobs.train(config.train())
        counts = encoded.manifest["counts"]["labels"]
        trained_on = {label: counts[label]["flows"] for label in adapter["labels"]}
        generated = jobs.generate(config.generate(trained_on))
        if generated.quarantined_share > config.max_quarantined_share:
            return PipelineResult(
                encoded=encoded, adapter=adapter, generated=generated, stopped_after="generate"
            )
        evaluation = config.evaluate()
        report = jobs.evaluate(evaluation) if evaluation is not None else None
    return PipelineResult(encoded=encoded, adapter=adapter, generated=generated, report=report)
