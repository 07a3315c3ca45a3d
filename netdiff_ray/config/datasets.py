"""Configurations of `netdiff info` and `netdiff verify`."""

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Tell what a path is: a pipeline's folder, dataset, adapter, report, base or capture."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """Folder, file or URI; or nano, the embedded base."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check a dataset: hashes and counts against its manifest, packets against its index."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """Folder or URI of the dataset."""
