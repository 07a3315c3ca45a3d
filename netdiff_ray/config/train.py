"""Configuration of `netdiff train`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from netdiff_ray.config.checks import NO_DEFAULT_SHOWN, paths_as_text
from netdiff_ray.config.content import Execution, Input
from netdiff_ray.config.diffusion import BaseSettings, TrainSettings
from netdiff_ray.errors import ConfigError


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
    labels: Annotated[tuple[str, ...], NO_DEFAULT_SHOWN] = ()
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
    """How."""

    def __post_init__(self):
        paths_as_text(self)
        if len(self.workers) not in (1, 2) or not 1 <= self.workers[0] <= self.workers[-1]:
            workers = " ".join(map(str, self.workers))
            raise ConfigError(
                f"--workers {workers}: a number from 1 up, or the fewest and the most"
            )
        if self.cpus_per_worker is not None and self.cpus_per_worker < 1:
            raise ConfigError(f"--cpus-per-worker {self.cpus_per_worker}: at least 1")
        if self.max_failures < 0:
            raise ConfigError(f"--max-failures {self.max_failures}: 0 or more")
