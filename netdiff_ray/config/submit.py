"""Configuration of `netdiff submit`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from netdiff_ray.errors import ConfigError

_MOST_NAMED = 3
CLUSTER_LACKS_PACKAGE = (
    "the cluster lacks the package: give working_dir, a checkout of this project, to send it "
    "along, or install it on the cluster's machines"
)
"""What is said of a job that did not find this package."""


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """Run a verb as a job on a Ray cluster, and follow its log.

    VERB is encode, train, generate, evaluate, pipeline, verify or info, with its own flags:
    netdiff submit generate ADAPTER OUT --flows 1000000 --address http://head:8265. Paths are
    those that the cluster's machines see. The exit code is the job's; Ctrl-C leaves it running.
    """

    verb: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="VERB [FLAGS ...]", help_behavior_hint="(required)"),
    ]
    """What to run."""
    address: str | None = None
    """Dashboard of the cluster, as in http://head:8265; unless given, that of
    RAY_API_SERVER_ADDRESS, or of the Ray that runs on this machine."""
    working_dir: str | None = None
    """Folder to send along, which the job runs in, such as a checkout of this project; unless
    given, the job runs what is installed on the cluster."""

    def too_large(self, sizes: dict[str, int]) -> str:
        """Return what is said of a working_dir that is larger than a cluster takes.

        Args:
            sizes: bytes of each of its files and folders, without what is excluded already.
        """
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:_MOST_NAMED]
        named = ", ".join(f"{name} ({sizes[name] / 1e6:,.0f} MB)" for name in largest)
        return (
            f"working_dir {self.working_dir}: {sum(sizes.values()) / 1e6:,.0f} MB are more than "
            f"the cluster takes. Its largest parts are {named}: exclude what the job does not need "
            f"in {self.working_dir}/.rayignore, whose lines are those of a .gitignore"
        )

    def __post_init__(self):
        if not self.verb:
            raise ConfigError("submit: name a verb, as in netdiff submit encode CAPTURES OUT")
