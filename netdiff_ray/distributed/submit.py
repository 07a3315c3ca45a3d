"""A verb as a job of a cluster, through its dashboard."""

import asyncio
import os
import shlex
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp
from ray._private.runtime_env.packaging import _dir_travel
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from netdiff_ray.config import SubmitConfig
from netdiff_ray.config.submit import CLUSTER_LACKS_PACKAGE
from netdiff_ray.errors import ClusterError, ConfigError

_FAILED, _LEFT = 2, 130
_TOO_LARGE = ("exceeds the maximum size", "status code 413")
"""What an error says of a folder that Ray does not take for its size."""
_NO_PACKAGE = "No module named 'netdiff_ray"
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_BEGIN = 60.0


def submit(config: SubmitConfig) -> int:
    """Submit a verb and print the job's log as it is written; return its exit code, 130 if
    Ctrl-C left it running.

    Raises:
        ClusterError: no cluster answers, it refuses, or the folder to send cannot be sent.
    """
    client = _client(config.address)
    command = shlex.join(["python", "-m", "netdiff_ray.cli", *config.verb])
    environment = {"working_dir": config.working_dir} if config.working_dir else {}
    try:
        job = _submitted(client, command, environment)
    except (RuntimeError, ValueError, OSError) as error:
        if config.working_dir and any(words in str(error) for words in _TOO_LARGE):
            raise ConfigError(config.too_large(_sizes(Path(config.working_dir)))) from None
        raise ClusterError(f"the job was not taken: {_reason(error)}") from None
    except KeyboardInterrupt:
        print(
            "\nnetdiff: the cluster may have taken the job. See with: ray job list --address "
            f"{client.get_address()}",
            file=sys.stderr,
        )
        return _LEFT
    address = client.get_address()
    try:
        print(f"job {job} on {address}: {command}", file=sys.stderr)
        details, lacks_package = asyncio.run(_follow(client, job))
    # asyncio.run lets CancelledError out if Ctrl-C comes while it begins.
    except (KeyboardInterrupt, asyncio.CancelledError):
        where = f"--address {address} {job}"
        print(
            f"\nnetdiff: the job goes on. Follow it with: ray job logs {where} --follow\n"
            f"netdiff: stop it with: ray job stop {where}",
            file=sys.stderr,
        )
        return _LEFT
    except (RuntimeError, OSError, aiohttp.ClientError) as error:
        raise ClusterError(
            f"the log of job {job} broke off ({_reason(error)}); the job may go on: "
            f"ray job status --address {address} {job}"
        ) from None
    if details.status != JobStatus.SUCCEEDED:
        print(f"netdiff: job {job}: {details.status}: {details.message}", file=sys.stderr)
        if lacks_package:
            raise ClusterError(CLUSTER_LACKS_PACKAGE)
    if details.driver_exit_code is not None:
        return details.driver_exit_code
    return 0 if details.status == JobStatus.SUCCEEDED else _FAILED


def _client(address: str | None) -> JobSubmissionClient:
    """Connect to a dashboard.

    Raises:
        ClusterError: none answers there, or it wants a token.
    """
    if address is not None and not address.startswith(("http://", "https://")):
        raise ConfigError(f"address {address}: give a dashboard's, as in http://head:8265")
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ClusterError(
            f"{address or 'the cluster'} wants a token: put the cluster's into RAY_AUTH_TOKEN, or "
            "its file into RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token "
            f"({_reason(error)})"
        ) from None
    except (ConnectionError, RuntimeError, OSError, ValueError) as error:
        where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or "this machine"
        raise ClusterError(
            f"no dashboard of a Ray cluster answers at {where} ({_reason(error)}); give the "
            "head's address, as in http://head:8265"
        ) from None


def _submitted(client: JobSubmissionClient, command: str, environment: dict) -> str:
    """Submit a job and return its id; wait for a cluster that has just started, whose dashboard
    answers before its nodes take jobs.

    Raises:
        RuntimeError: it refuses the job.
    """
    until = time.monotonic() + _SECONDS_TO_BEGIN
    while True:
        try:
            return client.submit_job(entrypoint=command, runtime_env=environment)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(_SECONDS_BETWEEN_LOOKS)


async def _follow(client: JobSubmissionClient, job: str) -> tuple[JobDetails, bool]:
    """Print the log of a job until it ends; return its details, and whether it lacked this
    package."""
    lacks_package = False
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)
        lacks_package = lacks_package or _NO_PACKAGE in lines
    while not (details := client.get_job_info(job)).status.is_terminal():
        await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
    return details, lacks_package


def _sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each file and folder in a folder, as Ray would send them: without what
    its .gitignore and .rayignore exclude."""
    sizes: Counter[str] = Counter()

    def add(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(folder).parts[0]] += path.stat().st_size

    _dir_travel(folder, [], add, include_gitignore=True)
    return sizes


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
