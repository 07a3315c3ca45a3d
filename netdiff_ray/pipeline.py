"""The whole way as a function: captures are encoded, learnt from, drawn anew and evaluated."""

from collections.abc import Callable
from dataclasses import dataclass

from netdiff_ray.config import (
    EncodeConfig,
    EvaluateConfig,
    GenerateConfig,
    PipelineConfig,
    TrainConfig,
)
from netdiff_ray.distributed.cluster import one_ray
from netdiff_ray.distributed.encode import encode
from netdiff_ray.distributed.evaluate import evaluate
from netdiff_ray.distributed.generate import generate
from netdiff_ray.distributed.train import train
from netdiff_ray.evaluate.report import Report
from netdiff_ray.storage.manifest import Dataset


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
        generated = jobs.generate(config.generate())
        if generated.quarantined_share > config.max_quarantined_share:
            return PipelineResult(
                encoded=encoded, adapter=adapter, generated=generated, stopped_after="generate"
            )
        evaluation = config.evaluate()
        report = jobs.evaluate(evaluation) if evaluation is not None else None
    return PipelineResult(encoded=encoded, adapter=adapter, generated=generated, report=report)
