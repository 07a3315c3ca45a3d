"""The deployment that answers HTTP."""

import asyncio
import time
import urllib.request
from dataclasses import replace
from typing import NamedTuple

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatus, DeploymentStatusOverview

from netdiff_ray.config import ServeConfig
from netdiff_ray.distributed.metrics import observe_request, set_streams_open
from netdiff_ray.distributed.serve.bodies import CaptureBody, Drawer, DrawingBody
from netdiff_ray.distributed.serve.jobs import job_state, submit_job
from netdiff_ray.distributed.shortage import shortage
from netdiff_ray.generation.stream import flow_order
from netdiff_ray.serving.api import make_app
from netdiff_ray.serving.catalogue import Catalogue, OfferedAdapter
from netdiff_ray.serving.faults import Fault
from netdiff_ray.serving.outcome import Outcome
from netdiff_ray.serving.problems import Problem, unavailable
from netdiff_ray.serving.requests import FlowsRequest, JobRequest
from netdiff_ray.serving.streams import FlowStream, Streams

_FRESH_S = 2.0


class Replicas(NamedTuple):
    """What the replicas of a deployment need."""

    least: int
    cpus: float
    """Of each."""
    gpus: float
    """Of each."""


@serve.deployment
@serve.ingress()
class Endpoint:
    """Answers HTTP; its paths are those of `serving.api`.

    Args:
        needs: by deployment.
    """

    def __init__(
        self, denoiser: DeploymentHandle, repairer: DeploymentHandle, config: ServeConfig,
        needs: dict[str, Replicas],
    ):  # fmt: skip
        self.config = config
        self.streams = Streams(config.limits.streams)
        self._denoiser = denoiser
        self._repairer = repairer
        self._needs = needs
        self._catalogue = Catalogue(config.adapters)
        self._adapter_faults: dict[str, str] = {}
        self._faults: list[Fault] = []
        self._checked_at = -_FRESH_S
        self._checking = asyncio.Lock()
        self._app = serve.get_replica_context().app_name

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self)

    async def adapters(self) -> dict[str, OfferedAdapter]:
        """Return the adapters by name; those that could not draw with the reason."""
        adapters = await asyncio.to_thread(self._catalogue.adapters)
        return {
            name: replace(a, reason=a.reason or self._adapter_faults.get(a.digest, ""))
            for name, a in adapters.items()
        }

    async def faults(self) -> list[Fault]:
        """Return the reasons why nothing can be drawn; empty if flows can be."""
        async with self._checking:
            if time.monotonic() - self._checked_at >= _FRESH_S:
                self._faults = await asyncio.to_thread(self._check)
                self._checked_at = time.monotonic()
        return self._faults

    def _check(self) -> list[Fault]:
        """Return why deployments have no running replica, one fault each."""
        deployments = serve.status().applications[self._app].deployments
        return [
            _fault_of(name, needs, deployments[name]) if name in deployments
            else Fault("it is starting", f"the {name} is starting")
            for name, needs in self._needs.items()
            if needs.least
            and not (name in deployments and deployments[name].replica_states.get("RUNNING"))
        ]  # fmt: skip

    async def begin(
        self, adapter: OfferedAdapter, request: FlowsRequest
    ) -> tuple[FlowStream, bool]:
        """Start the answer to a request; see `Service`."""
        config = self.config
        drawer = Drawer(
            self._denoiser,
            adapter,
            seed=config.draw.seed if request.seed is None else request.seed,
            steps=request.steps or config.draw.steps,
            faults=self._adapter_faults,
        )
        flows = flow_order(request.labels, request.order, drawer.seed)
        is_archive = False
        if request.format in ("pcap", "pcapng"):
            body = CaptureBody(drawer, self._repairer, request)
        else:
            body = DrawingBody(drawer, request, flows)
            is_archive = body.is_archive
        stream = FlowStream(
            flows, body, ahead=2 * config.draw.batch_size, seconds=config.limits.seconds,
            streams=self.streams,
        )  # fmt: skip
        await stream.begin()
        return stream, is_archive

    async def submit(self, adapter: OfferedAdapter, request: JobRequest) -> str:
        """Submit a job and return its id; see `Service`."""
        if self.config.jobs_target is None:
            raise Problem(404, "the endpoint has no jobs_target, where jobs could write datasets")
        return await asyncio.to_thread(submit_job, self.config, adapter, request)

    async def job(self, id: str) -> dict | None:
        """Return state, progress and result of a job; None if no job has that id."""
        if self.config.jobs_target is None:
            return None
        return await asyncio.to_thread(job_state, self.config, id)

    def observe(self, route: str, outcome: Outcome, seconds: float) -> None:
        """Count the end of a request, by its path's template."""
        observe_request(route, outcome, seconds)
        set_streams_open(self.streams.open)

    async def metrics(self) -> bytes:
        """Return the metrics that this node exports for Prometheus."""
        return await asyncio.to_thread(_node_metrics)


def _fault_of(name: str, needs: Replicas, deployment: DeploymentStatusOverview) -> Fault:
    """Return why a deployment has no running replica."""
    if waits_for := shortage(needs.cpus, needs.gpus):
        return Fault("it waits for the cluster's resources", f"the {name} {waits_for}")
    if deployment.status in (DeploymentStatus.UNHEALTHY, DeploymentStatus.DEPLOY_FAILED):
        lines = deployment.message.strip().splitlines() or [deployment.status.value.lower()]
        return Fault("a part of it fails", f"the {name} fails: {lines[-1].strip()}")
    return Fault("it is starting", f"the {name} is starting")


def _node_metrics() -> bytes:
    """Return the metrics that this node exports for Prometheus.

    Raises:
        Problem: 503, it exports nothing.
    """
    node_id = ray.get_runtime_context().get_node_id()
    (node,) = [node for node in ray.nodes() if node["NodeID"] == node_id]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read()
    except OSError as error:
        raise unavailable(f"this node exports no metrics ({error})", 60) from None
