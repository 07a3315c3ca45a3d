"""Configuration of `netdiff train`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from netdiff_ray.config.checks import paths_as_text, require, require_at_least_1
from netdiff_ray.config.content import Execution, Input
from netdiff_ray.config.diffusion import BaseSettings, TrainSettings


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fine-tune a LoRA adapter on an encoded dataset, with one or many workers on Ray.

    OUT becomes the adapter. Running it again goes on from the last checkpoint, and does
    nothing when the adapter is finished.
    """

    source: Input[Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENCODED")]]
    """Folder or URI of the encoded dataset."""
    target: Execution[Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]]
    """Folder or URI of the adapter; its checkpoints lie in OUT/run."""
    labels: tuple[str, ...] = ()
    """Labels to learn; all of the dataset's unless given."""
    workers: Execution[Annotated[tuple[int, ...], tyro.conf.arg(metavar="N | MIN MAX")]] = (1,)
    """Processes that train together; MIN MAX for as many as the cluster has, changing while it
    runs. Their number does not change the adapter, but for the last bits of floating point."""
    gpus_per_worker: Execution[Literal[0, 1]] = 0
    """1 to train on GPUs."""
    cpus_per_worker: Execution[int | None] = None
    """CPUs of each worker; unless given, an equal share of this machine's, or 1 on a cluster."""
    max_failures: Execution[int] = 3
    """How often dead workers are replaced before the job gives up."""
    address: Execution[str | None] = None
    """Ray cluster to run on; a local one unless given."""
    json: Execution[bool] = False
    """Print the result, and lines of progress, as JSON."""
    base: Annotated[BaseSettings, tyro.conf.OmitArgPrefixes] = field(
        default_factory=lambda: BaseSettings(base="nano")
    )
    """What is fine-tuned."""
    settings: Annotated[TrainSettings, tyro.conf.OmitArgPrefixes] = field(
        default_factory=TrainSettings
    )
    """How it is trained."""

    def __post_init__(self):
        paths_as_text(self)
        holds = len(self.workers) in (1, 2) and 1 <= self.workers[0] <= self.workers[-1]
        require(holds, "workers", self.workers, "a number from 1 up, or the fewest and the most")
        if self.cpus_per_worker is not None:
            require_at_least_1(self, "cpus_per_worker")
        require(self.max_failures >= 0, "max_failures", self.max_failures, "0 or more")
