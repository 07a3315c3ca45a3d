"""A connection to Ray: a local one unless an address is given."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from netdiff_ray.errors import UsageError


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A Ray to work on; one that was started here is stopped at the end.

    Args:
        address: of a running cluster (`auto`, `host:port`, `ray://host:port`), None for a
            local Ray on this machine's CPUs. Where Ray is connected already, that is used.

    Raises:
        UsageError: no cluster answers there.
    """
    if ray.is_initialized():
        yield
        return
    # Ray's own progress would stand between the lines that the jobs print.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    for name in ("ray", "ray.data", "ray._private.authentication.authentication_token_setup"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        ray.init(
            address=address or "local", include_dashboard=False, logging_level=logging.ERROR,
            log_to_driver=False,
        )  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"no Ray cluster answers at {address}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def require_cpus(wanted: float) -> None:
    """Raise UsageError, with the numbers, unless the cluster has so many CPUs."""
    there = ray.cluster_resources().get("CPU", 0)
    if there < wanted:
        raise UsageError(
            f"the job needs {wanted:g} CPUs at a time; the cluster has {there:g}. Add nodes, or "
            "ask for less"
        )
