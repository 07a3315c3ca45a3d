"""Jobs that the endpoint submits to its cluster: datasets of any number of flows."""

import contextlib
import secrets
import shlex
import sys

import ray
from ray._private import ray_constants
from ray._raylet import GcsClient
from ray.job_submission import JobStatus, JobSubmissionClient

from netdiff_ray.config import ServeConfig
from netdiff_ray.config.generate import lora_text
from netdiff_ray.errors import NetdiffError
from netdiff_ray.serving.catalogue import OfferedAdapter
from netdiff_ray.serving.job_report import job_report
from netdiff_ray.serving.problems import Problem, unavailable
from netdiff_ray.serving.requests import JobRequest
from netdiff_ray.storage.manifest import PCAP_DATASET, open_dataset
from netdiff_ray.storage.store import open_store, public_uri

_JOB_PREFIX = "netdiff-"


def submit_job(config: ServeConfig, adapter: OfferedAdapter, request: JobRequest) -> str:
    """Submit a job that makes the requested dataset, and return its id.

    Raises:
        Problem: 429, too many jobs wait or run; 503, the cluster takes no jobs.
    """
    with _jobs_api() as client:
        active = [
            job for job in client.list_jobs()
            if (job.submission_id or "").startswith(_JOB_PREFIX)
            and not job.status.is_terminal()
        ]  # fmt: skip
        most = config.limits.jobs
        if len(active) >= most:
            raise Problem(
                429, f"{most} jobs wait or run, as many as there may be", {"Retry-After": "60"}
            )
        id = _JOB_PREFIX + secrets.token_hex(8)
        command = job_command(config, adapter, request, _dataset_uri(config, id))
        client.submit_job(entrypoint=shlex.join(command), submission_id=id)
    return id


def job_state(config: ServeConfig, id: str) -> dict | None:
    """Return state, progress and result of a job, see `job_report`; None if no job has that id.

    Raises:
        Problem: 503, the cluster does not answer.
    """
    with _jobs_api() as client:
        by_id = {job.submission_id: job for job in client.list_jobs()}
        if id not in by_id:
            return None
        job = by_id[id]
        # A job has no log before it runs.
        log = "" if job.status == JobStatus.PENDING else client.get_job_logs(id)
    uri = _dataset_uri(config, id)
    report = {
        "id": id,
        "dataset": public_uri(uri),
        **job_report(job.status.value.lower(), job.message or "", log),
    }
    if job.status.is_terminal():
        with contextlib.suppress(NetdiffError):
            dataset = open_dataset(open_store(uri), PCAP_DATASET)
            report["counts"] = dataset.manifest["counts"]
    return report


def job_command(
    config: ServeConfig, adapter: OfferedAdapter, request: JobRequest, target: str
) -> list[str]:
    """Return the command line of a job that makes the requested dataset at `target`."""
    draw = config.draw
    seed = draw.seed if request.seed is None else request.seed
    command = [
        sys.executable, "-m", "netdiff_ray.cli", "generate", adapter.uri, target,
        "--flows", request.num_flows(),
        "--mix", *(f"{label}={count}" for label, count in sorted(request.labels.items())),
        "--seed", seed, "--steps", request.steps or draw.steps,
        "--payload", request.payload, "--order", request.order,
        "--flows-per-second", request.flows_per_second, "--guidance", draw.guidance,
        "--hold-plan" if draw.hold_plan else "--no-hold-plan",
        "--shared-first-step" if draw.shared_first_step else "--no-shared-first-step",
        "--scheduler", draw.scheduler, "--control-scale", draw.control_scale,
        "--batch-size", draw.batch_size, "--dtype", config.dtype, "--address", "auto", "--json",
    ]  # fmt: skip
    for name, value in vars(request.pins()).items():
        if value not in (None, ()):
            values = value if isinstance(value, tuple) else (value,)
            command += [f"--{name.replace('_', '-')}", *values]
    if draw.shift is not None:
        command += ["--shift", draw.shift]
    if draw.loras:
        command += ["--loras", *map(lora_text, draw.loras)]
    if config.base:
        command += ["--base", config.base]
        command += ["--revision", config.revision] if config.revision else []
    if config.controlnet:
        command += ["--controlnet", config.controlnet]
        revision = config.controlnet_revision
        command += ["--controlnet-revision", revision] if revision else []
    command += ["--control-image", config.control_image, "--control-pixels", config.control_pixels]
    command += ["--slice-vae"] * config.slice_vae + ["--tile-vae"] * config.tile_vae
    return [str(word) for word in command]


def _dataset_uri(config: ServeConfig, id: str) -> str:
    """Return where a job writes its dataset."""
    path, mark, query = config.jobs_target.partition("?")
    return f"{path.rstrip('/')}/{id}{mark}{query}"


@contextlib.contextmanager
def _jobs_api():
    """Connect to the cluster's jobs API.

    Raises:
        Problem: 503, there is none, or it fails.
    """
    gcs = GcsClient(address=ray.get_runtime_context().gcs_address)
    address = gcs.internal_kv_get(
        ray_constants.DASHBOARD_ADDRESS.encode(),
        ray_constants.KV_NAMESPACE_DASHBOARD,
    )
    if not address:
        raise unavailable("the cluster has no dashboard, and so no jobs API", 60)
    try:
        yield JobSubmissionClient(f"http://{address.decode()}")
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise unavailable(f"the cluster's jobs API does not answer: {reason}", 60) from None
