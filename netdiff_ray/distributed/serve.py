"""The endpoint on Ray Serve: an ingress, and two deployments that scale on their own.

request -> draw (denoisers: base and adapters, windows of many requests in batches alike)
        -> repair (on CPUs) -> the ingress, which streams flows in order

A flow is a function of adapter, seed and settings alone, so one whose replica died is made
again by another, and nobody notices.
"""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shlex
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import ray
from pydantic import TypeAdapter, ValidationError
from ray import serve
from ray._private import ray_constants
from ray._raylet import GcsClient
from ray.exceptions import RayActorError
from ray.job_submission import JobSubmissionClient
from ray.serve.api import RunTarget
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from netdiff_ray.config import ServeConfig
from netdiff_ray.config.diffusion import BaseSettings
from netdiff_ray.config.generate import lora_text
from netdiff_ray.diffusion.adapter import adapter_digest, unpack_adapter
from netdiff_ray.distributed.cluster import cluster_address, connected, reachable_resources
from netdiff_ray.distributed.metrics import (
    count_flows,
    count_quarantined,
    observe_drawing,
    observe_repair,
    observe_request,
    observe_stage,
    set_queue_length,
    set_streams_open,
)
from netdiff_ray.errors import ConfigError, ModelError, NetdiffError
from netdiff_ray.generation.adapter_files import read_adapter_files
from netdiff_ray.generation.shard_builder import compile_kernels
from netdiff_ray.generation.shard_plan import ShardSettings, flow_id, pack_cells, unpack_cells
from netdiff_ray.generation.stream import (
    CaptureStream,
    DrawingStream,
    MadeFlow,
    flow_order,
    make_flow,
)
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.labels.flow_plan import Sample, plan_flow, seed_of
from netdiff_ray.nprint.layouts import HEIGHTS, layout_named
from netdiff_ray.serving.api import Outcome, make_app
from netdiff_ray.serving.batcher import Batcher
from netdiff_ray.serving.catalogue import Catalogue, Known
from netdiff_ray.serving.problems import Problem, unavailable
from netdiff_ray.serving.requests import FlowsRequest, JobRequest
from netdiff_ray.serving.streams import Account, FlowStream, Streams
from netdiff_ray.storage.manifest import PCAP_DATASET, open_dataset, reason_kind
from netdiff_ray.storage.store import open_store

APP = "netdiff"
_ADAPTERS_PER_REPLICA = 3
"""Adapters that a denoiser holds, each with its base; the one unused longest goes."""
_TRIES = 3
_FRESH_S = 2.0
_HEALTH_PERIOD_S = 2.0
_JOB_PREFIX = "netdiff-"


@dataclass
class _Model:
    """A base with an adapter in it."""

    base: object
    adapter: object


@serve.deployment
class Denoiser:
    """Draws flows with the adapters it is asked for, which it loads when it is."""

    def __init__(self, config: ServeConfig, gpus: float):
        from netdiff_ray.diffusion import base, denoise  # noqa: F401 - long to load

        if not gpus:
            _give_way()
        self._config = config
        self._gpus = gpus
        self._batcher = Batcher(self._work, config.draw.batch_size)

    async def draw(
        self, samples: Sequence[Sample], seed: int, steps: int, owner: str
    ) -> tuple[bytes, str]:
        """The windows of a flow (see `pack_cells`), or why the adapter cannot draw them.

        Args:
            owner: the request that it is for; requests take turns.
        """
        from netdiff_ray.diffusion.denoise import kind_of

        model_id = serve.get_multiplexed_model_id()
        try:
            model = await self.model(model_id)
            windows = [
                self._batcher((model_id, *kind_of(sample), steps), (model, sample, seed), owner)
                for sample in samples
            ]
            return pack_cells(await asyncio.gather(*windows)), ""
        except NetdiffError as error:
            return b"", str(error)

    @serve.multiplexed(max_num_models_per_replica=_ADAPTERS_PER_REPLICA)
    async def model(self, model_id: str) -> _Model:
        """The model of an adapter's digest and URI, `:` between them."""
        digest, _, uri = model_id.partition(":")
        return await asyncio.to_thread(self._load, uri, digest)

    def _load(self, uri: str, digest: str) -> _Model:
        from netdiff_ray.diffusion.lora import load_for_drawing

        config = self._config
        files = read_adapter_files(open_store(uri))
        if adapter_digest(files) != digest:
            raise ModelError(f"{uri} is changing; ask again when it is written")
        adapter = unpack_adapter(files)
        settings = BaseSettings(
            base=config.base or adapter.metadata.base,
            revision=config.revision if config.base else adapter.metadata.revision,
            device="cuda" if self._gpus else "cpu", dtype=config.dtype,
        )  # fmt: skip
        return _Model(load_for_drawing(adapter, settings, config.draw), adapter)

    def _work(self, kind: tuple[str, int, str, int], items: list) -> list[np.ndarray]:
        """The drawn nprint of each (model, sample, seed) of one model, kind and steps."""
        from netdiff_ray.diffusion.denoise import draw_batch
        from netdiff_ray.raster import from_rgb

        models, samples, seeds = zip(*items, strict=True)
        settings = replace(self._config.draw, steps=kind[-1])
        model = models[0]
        began = time.monotonic()
        rasters = draw_batch(model.base, model.adapter, samples, settings, seeds)
        observe_drawing(time.monotonic() - began, [len(items) / settings.batch_size])
        set_queue_length("denoiser", len(self._batcher))
        return [from_rgb(raster)[0] for raster in rasters]


def _give_way() -> None:
    """Nothing; this process gets the CPUs that no other wants, and leaves them at once to one
    that does: who only asks, or is refused, does not wait for those that draw."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.setpriority(os.PRIO_PROCESS, 0, 19)


@serve.deployment
class Repairer:
    """Makes packets of what was drawn."""

    def __init__(self):
        compile_kernels()

    async def flow(
        self, facts: AdapterMetadata, label: str, index: int, cells: bytes, settings: ShardSettings
    ) -> MadeFlow:
        """A flow out of its windows; see `make_flow`."""
        drawn = unpack_cells(cells, layout_named(facts.layout).width)
        began = time.monotonic()
        made = await asyncio.to_thread(make_flow, facts, label, index, drawn, settings)
        observe_stage("repair", time.monotonic() - began)
        if made.reason:
            count_quarantined("repair", [reason_kind({"reason": made.reason})])
        else:
            count_flows("repair", label, flows=1, packets=len(made.caplen))
            observe_repair(label, [made.distance])
        return made


@serve.deployment
@serve.ingress()
class Endpoint:
    """Answers HTTP; the paths are those of `web.api`."""

    def __init__(
        self, denoiser: DeploymentHandle, repairer: DeploymentHandle, config: ServeConfig,
        needs: dict[str, tuple[int, float, float]],
    ):  # fmt: skip
        self.config = config
        self.streams = Streams(config.limits.streams)
        self._denoiser = denoiser
        self._repairer = repairer
        self._needs = needs
        self._catalogue = Catalogue(config.adapters)
        self._troubles: dict[str, str] = {}
        self._faults: list[str] = []
        self._looked = -_FRESH_S
        self._looking = asyncio.Lock()
        self._app = serve.get_replica_context().app_name

    def __serve_build_asgi_app__(self):
        return make_app(self)

    async def adapters(self) -> dict[str, Known]:
        found = await asyncio.to_thread(self._catalogue.adapters)
        return {
            name: replace(known, reason=known.reason or self._troubles.get(known.digest, ""))
            for name, known in found.items()
        }

    async def faults(self) -> list[str]:
        async with self._looking:
            if time.monotonic() - self._looked >= _FRESH_S:
                self._faults = await asyncio.to_thread(self._look)
                self._looked = time.monotonic()
        return self._faults

    def _look(self) -> list[str]:
        """Which deployments have no replica that runs, and what each replica needs."""
        deployments = serve.status().applications[self._app].deployments
        faults = []
        for name, (least, cpus, gpus) in self._needs.items():
            states = deployments[name].replica_states if name in deployments else {}
            if least and not states.get("RUNNING"):
                there = ray.cluster_resources()
                faults.append(
                    f"no {name} is running: each needs {cpus:g} CPUs and {gpus:g} GPUs; the "
                    f"cluster has {there.get('CPU', 0):g} and {there.get('GPU', 0):g} in all."
                )
        return faults

    async def begin(self, known: Known, asked: FlowsRequest) -> tuple[FlowStream, bool]:
        config = self.config
        seed = config.draw.seed if asked.seed is None else asked.seed
        steps = asked.steps or config.draw.steps
        owner = secrets.token_hex(8)
        layout = layout_named(known.facts.layout)
        flows = flow_order(asked.labels, asked.order, seed)
        archive = False
        if asked.format in ("pcap", "pcapng"):
            settings = ShardSettings(
                seed=seed, payload=asked.payload, order=asked.order,
                flows_per_second=asked.flows_per_second,
            )  # fmt: skip
            capture = CaptureStream(
                asked.format, order=asked.order, flows_per_second=asked.flows_per_second,
                seed=seed_of(seed, min(asked.labels), 0, "arrivals"),
            )  # fmt: skip

            async def make(label: str, index: int) -> MadeFlow:
                samples = plan_flow(known.facts, label, seed, index)
                cells = await self._drawn(known, samples, seed, steps, owner)
                own = replace(known.facts, labels={label: known.facts.labels[label]})
                return await self._tried(self._repairer.flow, own, label, index, cells, settings)

            def add(label: str, made: MadeFlow, account: Account) -> bytes:
                if made.reason:
                    account.set_aside.append(
                        {"label": label, "flow_id": made.flow_id, "reason": made.reason}
                    )
                return capture.add(made)

            end = capture.end
        else:
            plan = [s for flow in flows[:2] for s in plan_flow(known.facts, flow[0], seed, flow[1])]
            archive = len(flows) > 1 or sum(s.height for s in plan) > HEIGHTS[-1]
            drawings = DrawingStream(asked.format, layout, archive=archive)

            async def make(label: str, index: int) -> tuple[str, np.ndarray]:
                samples = plan_flow(known.facts, label, seed, index)
                cells = await self._drawn(known, samples, seed, steps, owner)
                return flow_id(seed, label, index), unpack_cells(cells, layout.width)

            def add(label: str, made: tuple[str, np.ndarray], _account: Account) -> bytes:
                return drawings.add(label, *made)

            end = drawings.end
        stream = FlowStream(
            flows, make, add, end, ahead=2 * config.draw.batch_size,
            seconds=config.limits.seconds, streams=self.streams,
        )  # fmt: skip
        await stream.begin()
        return stream, archive

    async def _drawn(
        self, known: Known, samples: list[Sample], seed: int, steps: int, owner: str
    ) -> bytes:
        """The windows of a flow.

        Raises:
            Problem: 503, the adapter cannot draw them.
        """
        draw = self._denoiser.options(multiplexed_model_id=f"{known.digest}:{known.uri}").draw
        cells, fault = await self._tried(draw, samples, seed, steps, owner)
        if fault:
            self._troubles[known.digest] = fault
            raise unavailable(fault)
        self._troubles.pop(known.digest, None)
        return cells

    async def _tried(self, method: DeploymentHandle, *arguments: object):
        """What a replica answers, another one if it dies; cancelled with its caller.

        Raises:
            Problem: 503, each died.
        """
        for _ in range(_TRIES):
            response = method.remote(*arguments)
            try:
                return await response
            except RayActorError:
                continue
            except DeploymentUnavailableError as error:
                raise unavailable(str(error)) from None
            except asyncio.CancelledError:
                response.cancel()
                raise
        raise unavailable(f"{_TRIES} replicas died of this request, or while it waited")

    async def submit(self, known: Known, asked: JobRequest) -> str:
        if self.config.jobs_target is None:
            raise Problem(404, "the endpoint has no jobs_target, where jobs could write datasets")
        return await asyncio.to_thread(self._submit, known, asked)

    def _submit(self, known: Known, asked: JobRequest) -> str:
        with _jobs_api() as client:
            active = [
                job for job in client.list_jobs()
                if (job.submission_id or "").startswith(_JOB_PREFIX)
                and not job.status.is_terminal()
            ]  # fmt: skip
            most = self.config.limits.jobs
            if len(active) >= most:
                raise Problem(
                    429, f"{most} jobs wait or run, as many as there may be", {"Retry-After": "60"}
                )
            id = _JOB_PREFIX + secrets.token_hex(8)
            command = job_command(self.config, known, asked, self._target(id))
            client.submit_job(entrypoint=shlex.join(command), submission_id=id)
        return id

    def _target(self, id: str) -> str:
        path, mark, query = self.config.jobs_target.partition("?")
        return f"{path.rstrip('/')}/{id}{mark}{query}"

    async def job(self, id: str) -> dict | None:
        return None if self.config.jobs_target is None else await asyncio.to_thread(self._job, id)

    def _job(self, id: str) -> dict | None:
        with _jobs_api() as client:
            by_id = {job.submission_id: job for job in client.list_jobs()}
            if id not in by_id:
                return None
            state = by_id[id].status
            found = {"id": id, "state": state.value.lower(), "dataset": self._target(id)}
            if state.is_terminal():
                said = client.get_job_logs(id).splitlines()
                found["reasons"] = [
                    line.removeprefix("netdiff: ") for line in said if line.startswith("netdiff: ")
                ]
                with contextlib.suppress(NetdiffError):
                    dataset = open_dataset(open_store(found["dataset"]), PCAP_DATASET)
                    found["counts"] = dataset.manifest["counts"]
        return found

    def observe(self, route: str, outcome: Outcome, seconds: float) -> None:
        observe_request(route, outcome, seconds)
        set_streams_open(self.streams.open)

    async def metrics(self) -> bytes:
        return await asyncio.to_thread(_node_metrics)


@contextlib.contextmanager
def _jobs_api():
    """A client of the cluster's jobs API.

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


def job_command(config: ServeConfig, known: Known, asked: JobRequest, target: str) -> list[str]:
    """The command line of a job that makes a dataset of what was asked for."""
    draw = config.draw
    seed = draw.seed if asked.seed is None else asked.seed
    command = [
        sys.executable, "-m", "netdiff_ray.cli", "generate", known.uri, target,
        "--flows", asked.num_flows(),
        "--mix", *(f"{label}={count}" for label, count in sorted(asked.labels.items())),
        "--seed", seed, "--steps", asked.steps or draw.steps,
        "--payload", asked.payload, "--order", asked.order,
        "--flows-per-second", asked.flows_per_second, "--guidance", draw.guidance,
        "--hold-plan" if draw.hold_plan else "--no-hold-plan",
        "--shared-first-step" if draw.shared_first_step else "--no-shared-first-step",
        "--scheduler", draw.scheduler, "--control-scale", draw.control_scale,
        "--batch-size", draw.batch_size, "--dtype", config.dtype, "--address", "auto", "--json",
    ]  # fmt: skip
    if draw.shift is not None:
        command += ["--shift", draw.shift]
    if draw.loras:
        command += ["--loras", *map(lora_text, draw.loras)]
    if config.base:
        command += ["--base", config.base]
        command += ["--revision", config.revision] if config.revision else []
    return [str(word) for word in command]


def _node_metrics() -> bytes:
    """What this node exports for Prometheus.

    Raises:
        Problem: 503, it exports nothing.
    """
    own = ray.get_runtime_context().get_node_id()
    (node,) = [node for node in ray.nodes() if node["NodeID"] == own]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read()
    except OSError as error:
        raise unavailable(f"this node exports no metrics ({error})", 60) from None


def build(args: Mapping[str, object]) -> serve.Application:
    """The application, for `import_path: netdiff_ray.distributed.serve:build` with `args:`.

    Args:
        args: fields of `ServeConfig`; those of the connection (host, port, address) are
            Serve's own there.

    Raises:
        ClusterError: a field is unknown or not as it should be.
    """
    try:
        config = TypeAdapter(ServeConfig).validate_python(dict(args))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"args: {where}: {first['msg']}") from None
    unknown = set(args) - set(ServeConfig.__dataclass_fields__)
    if unknown:
        raise ConfigError(f"args: unknown: {', '.join(sorted(unknown))}")
    return application(config)


def application(config: ServeConfig) -> serve.Application:
    """The application of a configuration, for the cluster that Ray is connected to."""
    config = replace(
        config,
        adapters=tuple(_absolute(source) for source in config.adapters),
        base=os.path.abspath(config.base) if config.base and os.path.exists(config.base)
        else config.base,
        jobs_target=_absolute(config.jobs_target) if config.jobs_target else None,
    )  # fmt: skip
    gpus = config.gpus_per_denoiser
    if gpus is None:
        gpus = 1.0 if ray.is_initialized() and reachable_resources()["GPU"] else 0.0
    batch = config.draw.batch_size
    denoiser = Denoiser.options(
        ray_actor_options={"num_cpus": config.cpus_per_denoiser, "num_gpus": gpus},
        autoscaling_config=_scaling(config.denoisers, batch),
        max_ongoing_requests=4 * batch,
        health_check_period_s=_HEALTH_PERIOD_S,
    )
    repairer = Repairer.options(
        ray_actor_options={"num_cpus": config.cpus_per_repairer},
        autoscaling_config=_scaling(config.repairers, 2),
        max_ongoing_requests=4,
        health_check_period_s=_HEALTH_PERIOD_S,
    )
    # What the ingress answers at once must not wait behind streams.
    endpoint = Endpoint.options(
        ray_actor_options={"num_cpus": 0}, max_ongoing_requests=config.limits.streams + 200,
        max_queued_requests=200, backpressure_config={"status_code": 429, "retry_after_s": 5},
        health_check_period_s=_HEALTH_PERIOD_S,
    )  # fmt: skip
    needs = {
        "Denoiser": (config.denoisers[0], config.cpus_per_denoiser, gpus),
        "Repairer": (config.repairers[0], config.cpus_per_repairer, 0.0),
    }
    return endpoint.bind(denoiser.bind(config, gpus), repairer.bind(), config, needs)


def _scaling(replicas: tuple[int, int], target: float) -> AutoscalingConfig:
    least, most = replicas
    return AutoscalingConfig(
        min_replicas=least, max_replicas=most, target_ongoing_requests=target,
        upscale_delay_s=10.0, downscale_delay_s=120.0,
    )  # fmt: skip


def _absolute(source: str) -> str:
    return source if "://" in source else os.path.abspath(source)


def listen(host: str, port: int, *, everywhere: bool = False) -> None:
    """Nothing; Serve listens on the connected Ray, on its head or on every node."""
    serve.start(
        proxy_location="EveryNode" if everywhere else "HeadOnly",
        http_options={"host": host, "port": port},
    )


def run(applications: Mapping[str, tuple[str, serve.Application]]) -> None:
    """Nothing; applications, by name, with their route prefixes, are being started, whether or
    not the cluster has the resources now."""
    targets = [
        RunTarget(target=own, name=name, route_prefix=prefix)
        for name, (prefix, own) in applications.items()
    ]
    serve.run_many(targets, wait_for_applications_running=False)


def serve_until_stopped(config: ServeConfig, say: Callable[[str], None]) -> None:
    """Nothing; runs the endpoint until KeyboardInterrupt, and says how it is.

    Raises:
        ClusterError: the port is taken, or no cluster answers.
    """
    is_own = cluster_address(config.address) is None
    if is_own:
        _check_port(config)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # A loaded machine takes longer than the 5 s after which Serve starts a proxy anew.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    with connected(config.address, dashboard=True):
        try:
            listen(config.host, config.port, everywhere=not is_own)
            run({APP: ("/", application(config))})
            url = f"http://{config.host}:{config.port}/"
            say(f"{url} is starting; Ctrl-C ends it")
            before = None
            while True:
                health = _health(config)
                if health != before:
                    reasons = "".join(f"; {reason}" for reason in health["reasons"])
                    say(f"{url} {health['status']}{reasons}")
                before = health
                time.sleep(_FRESH_S)
        finally:
            if is_own:
                serve.shutdown()
            else:
                serve.delete(APP)


def _check_port(config: ServeConfig) -> None:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, config.port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {config.host} port {config.port}: {error.strerror}; choose another "
            "with --port"
        ) from None


def _health(config: ServeConfig) -> dict:
    """What /healthz says, asked on this machine."""
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    host = f"[{host}]" if ":" in host else host
    try:
        with urllib.request.urlopen(f"http://{host}:{config.port}/healthz", timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with contextlib.suppress(ValueError):
            return {"status": "starting", "reasons": [], **json.load(error)}
        return {"status": "starting", "reasons": []}
    except OSError:
        return {"status": "starting", "reasons": []}
