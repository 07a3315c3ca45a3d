"""The endpoint's paths: their parameters, checks and answers."""

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from typing import Protocol

from fastapi import FastAPI, Request, Security
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import netdiff_ray
from netdiff_ray.config import ServeConfig
from netdiff_ray.config.serve import Role
from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.addresses import plan_addresses
from netdiff_ray.labels.pins import pin_metadata
from netdiff_ray.serving.auth import admit, is_admitted
from netdiff_ray.serving.catalogue import OfferedAdapter
from netdiff_ray.serving.faults import Fault, health_of
from netdiff_ray.serving.outcome import Outcome, outcome_of
from netdiff_ray.serving.problems import (
    PROBLEM_SCHEMA,
    PROBLEM_TYPE,
    Problem,
    answer_with_problems,
    unavailable,
)
from netdiff_ray.serving.requests import (
    DrawRequest,
    FlowsRequest,
    JobRequest,
    body_schema,
    read_request,
)
from netdiff_ray.serving.streams import FlowResponse, FlowStream, Streams

MEDIA_TYPES = {
    "pcap": "application/vnd.tcpdump.pcap",
    "pcapng": "application/x-pcapng",
    "nprint": "text/plain; charset=utf-8",
    "png": "image/png",
}
_BEARER = [Security(HTTPBearer(auto_error=False))]
_JSON_ANSWER = {"content": {"application/json": {"schema": {"type": "object"}}}}


class Service(Protocol):
    """The work behind the paths."""

    config: ServeConfig
    streams: Streams

    async def adapters(self) -> dict[str, OfferedAdapter]:
        """Return the adapters by name, unusable ones too."""

    async def faults(self) -> list[Fault]:
        """Return the reasons why nothing can be drawn; empty if flows can be."""

    async def begin(
        self, adapter: OfferedAdapter, request: FlowsRequest
    ) -> tuple[FlowStream, bool]:
        """Start the answer to a checked request, and return it with its first bytes ready, and
        whether it is an archive.

        Raises:
            Problem: 429 or 503.
        """

    async def submit(self, adapter: OfferedAdapter, request: JobRequest) -> str:
        """Submit a job and return its id.

        Raises:
            Problem: 404 without a store for datasets, 429 or 503.
        """

    async def job(self, id: str) -> dict | None:
        """Return state, progress and result of a job; None if no job has that id."""

    async def metrics(self) -> bytes:
        """Return the metrics that Prometheus scrapes."""

    def observe(self, route: str, outcome: Outcome, seconds: float) -> None:
        """Count the end of a request, by its path's template."""


class _Observed:
    """An ASGI application that reports the end of each request to `observe`."""

    def __init__(self, app: ASGIApp, observe: Callable[[str, Outcome, float], None]):
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        outcome: Outcome = "server_error"
        try:
            await self._app(scope, receive, send_noting_status)
            outcome = outcome_of(status)
        except asyncio.CancelledError:
            outcome = "gone"
            raise
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._observe(route, outcome, time.monotonic() - began)


def make_app(service: Service) -> FastAPI:
    """Return the ASGI application of an endpoint."""
    app = FastAPI(
        title="netdiff", version=netdiff_ray.__version__, docs_url=None, redoc_url=None,
        description="Synthetic, labelled, protocol-valid network traffic.",
    )  # fmt: skip
    answer_with_problems(app)
    app.add_middleware(_Observed, observe=service.observe)
    roles = service.config.roles()
    _add_page(app)
    _add_status(app, service, roles)
    _add_descriptions(app, service, roles)
    _add_flows(app, service, roles)
    _add_jobs(app, service, roles)
    return app


def _add_page(app: FastAPI) -> None:
    page, policy = _page()

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={
            "Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
        })  # fmt: skip


def _add_status(app: FastAPI, service: Service, roles: Mapping[str, Role]) -> None:
    @app.get(
        "/healthz", dependencies=_BEARER, responses={200: _JSON_ANSWER, 503: _JSON_ANSWER}
    )  # fmt: skip
    async def healthz(http_request: Request) -> JSONResponse:
        """Say whether flows can be drawn, and if not, or not with every adapter, why: in detail
        to who may draw."""
        health = health_of(await service.faults(), (await service.adapters()).values())
        reasons = health.reasons(in_detail=is_admitted(http_request, "draw", roles))
        content = {"status": health.status, "reasons": reasons}
        if health.can_draw:
            return JSONResponse(content)
        return JSONResponse(content, 503, {"Retry-After": "5"})

    @app.get("/metrics", dependencies=_BEARER, responses=_problems(401, 403, 503))
    async def metrics(http_request: Request) -> Response:
        """Return the metrics of this node's Ray and of the endpoint, as Prometheus reads them."""
        admit(http_request, "draw", roles)
        return Response(await service.metrics(), media_type="text/plain; version=0.0.4")


def _add_descriptions(app: FastAPI, service: Service, roles: Mapping[str, Role]) -> None:
    @app.get("/v1/labels", dependencies=_BEARER, responses={200: _JSON_ANSWER, **_problems(401)})
    async def labels(http_request: Request) -> dict:
        """List what can be drawn: the labels of each adapter."""
        admit(http_request, "draw", roles)
        return {"adapters": [_labels(adapter) for adapter in (await service.adapters()).values()]}

    @app.get("/v1/model", dependencies=_BEARER, responses={200: _JSON_ANSWER, **_problems(401)})
    async def model(http_request: Request) -> dict:
        """Describe adapters, their bases, defaults and limits."""
        admit(http_request, "draw", roles)
        draw = service.config.draw
        return {
            "version": netdiff_ray.__version__,
            "adapters": [_model(adapter) for adapter in (await service.adapters()).values()],
            "defaults": {"seed": draw.seed, "steps": draw.steps},
            "draw": {"guidance": draw.guidance, "scheduler": draw.scheduler,
                     "control_scale": draw.control_scale, "batch_size": draw.batch_size},
            "limits": vars(service.config.limits),
            "jobs": service.config.jobs_target is not None,
        }  # fmt: skip


def _add_flows(app: FastAPI, service: Service, roles: Mapping[str, Role]) -> None:
    @app.post(
        "/v1/flows", dependencies=_BEARER, openapi_extra=body_schema(FlowsRequest),
        responses={
            200: {
                "description": "The capture, as it is made.",
                "content": {kind: {} for kind in (*MEDIA_TYPES.values(), "application/zip")},
                "headers": {"Netdiff-Stream": {"schema": {"type": "string"},
                    "description": "Id of its report at /v1/streams/{id}."}},
            },
            **_problems(400, 401, 404, 408, 413, 415, 421, 422, 429, 503),
        },
    )  # fmt: skip
    async def flows(http_request: Request) -> Response:
        """Stream a capture of drawn flows. An answer that is cut off has failed; its report
        at /v1/streams/{id} says why, and lists the flows that were quarantined."""
        admit(http_request, "draw", roles)
        service.streams.check_room()
        request = await read_request(http_request, FlowsRequest, service.config.limits)
        if request.num_flows() > service.config.limits.flows:
            raise Problem(
                422, f"/labels: {request.num_flows():,} flows are more than "
                f"{service.config.limits.flows:,}, the most of one request; submit a job",
            )  # fmt: skip
        chosen = _chosen(await service.adapters(), request)
        adapter = await asyncio.to_thread(_pinned, chosen, request, service.config.draw.seed)
        if faults := await service.faults():
            raise unavailable("; ".join(fault.detail for fault in faults))
        stream, is_archive = await service.begin(adapter, request)
        form = "zip" if is_archive else request.format
        media_type = "application/zip" if is_archive else MEDIA_TYPES[form]
        return FlowResponse(stream, media_type, f"flows.{form}")

    @app.get(
        "/v1/streams/{id}", dependencies=_BEARER,
        responses={200: _JSON_ANSWER, **_problems(401, 404)},
    )  # fmt: skip
    async def stream(http_request: Request, id: str) -> dict:
        """Report how far a streamed capture is, which flows were quarantined, and why it failed."""
        admit(http_request, "draw", roles)
        report = service.streams.report(id)
        if report is None:
            raise Problem(404, "no such stream is remembered here")
        return report


def _add_jobs(app: FastAPI, service: Service, roles: Mapping[str, Role]) -> None:
    @app.post(
        "/v1/jobs", dependencies=_BEARER, openapi_extra=body_schema(JobRequest), status_code=202,
        responses={202: _JSON_ANSWER, **_problems(400, 401, 404, 408, 413, 415, 422, 429, 503)},
    )  # fmt: skip
    async def submit(http_request: Request) -> JSONResponse:
        """Submit a Ray job that makes a dataset of any number of flows."""
        admit(http_request, "submit", roles)
        request = await read_request(http_request, JobRequest, service.config.limits)
        adapter = _chosen(await service.adapters(), request)
        await asyncio.to_thread(_pinned, adapter, request, service.config.draw.seed)
        id = await service.submit(adapter, request)
        return JSONResponse({"id": id}, 202, {"Location": f"/v1/jobs/{id}"})

    @app.get(
        "/v1/jobs/{id}", dependencies=_BEARER,
        responses={200: _JSON_ANSWER, **_problems(401, 404, 503)},
    )  # fmt: skip
    async def job(http_request: Request, id: str) -> dict:
        """Report a job's state, how far it is, what it waits for, and what it has made."""
        admit(http_request, "draw", roles)
        state = await service.job(id) if re.fullmatch(r"netdiff-[0-9a-f]{16}", id) else None
        if state is None:
            raise Problem(404, "there is no such job")
        return state


def _problems(*statuses: int) -> dict:
    """Return the problem answers of an OpenAPI operation."""
    content = {PROBLEM_TYPE: {"schema": PROBLEM_SCHEMA}}
    return {status: {"content": content} for status in (*statuses, 403, 421)}


def _chosen(adapters: Mapping[str, OfferedAdapter], request: DrawRequest) -> OfferedAdapter:
    """Return the adapter to draw with.

    Raises:
        Problem: 404 if no adapter has that name, or it lacks a label; 422 if none is named of
            several; 503 if it is not usable now.
    """
    name = request.adapter
    if name is None:
        if len(adapters) > 1:
            raise Problem(422, f"/adapter: name one of {', '.join(adapters)}")
        if not adapters:
            raise unavailable("the endpoint has no adapters")
        (adapter,) = adapters.values()
    elif name not in adapters:
        raise Problem(404, f"there is no adapter of that name; there are: {', '.join(adapters)}")
    else:
        adapter = adapters[name]
    if adapter.metadata is None:
        raise unavailable(adapter.reason)
    unknown = [label for label in request.labels if label not in adapter.metadata.labels]
    if unknown:
        raise Problem(
            404, f"the adapter has no label {unknown[0]!r}; it has "
            f"{', '.join(adapter.metadata.labels)}",
        )  # fmt: skip
    return adapter


def _pinned(adapter: OfferedAdapter, request: DrawRequest, default_seed: int) -> OfferedAdapter:
    """Return an adapter with only the flows of the requested labels that are as requested.

    Raises:
        Problem: 422 if a label has none, or networks do not fit the flows.
    """
    assert adapter.metadata
    seed = default_seed if request.seed is None else request.seed
    try:
        pins = request.pins()
        metadata = pin_metadata(adapter.metadata, request.labels, pins)
        plan_addresses(metadata, request.labels, pins, seed)
    except ConfigError as error:
        raise Problem(422, str(error)) from None
    return replace(adapter, metadata=metadata)


def _labels(adapter: OfferedAdapter) -> dict:
    """Return an adapter's entry of /v1/labels."""
    if adapter.metadata is None:
        return {"name": adapter.name, "reason": adapter.reason, "labels": []}
    labels = [
        {
            "label": label,
            "fewest_packets": statistics.fewest_packets,
            "most_packets": statistics.most_packets,
            "services": {service: own.num_flows for service, own in statistics.services.items()},
        }
        for label, statistics in adapter.metadata.labels.items()
    ]
    return {"name": adapter.name, "labels": labels}


def _model(adapter: OfferedAdapter) -> dict:
    """Return an adapter's entry of /v1/model."""
    if adapter.metadata is None:
        return {"name": adapter.name, "reason": adapter.reason}
    metadata = adapter.metadata
    return {
        "name": adapter.name, "sha256": adapter.digest, "layout": metadata.layout,
        "max_height": metadata.max_height,
        "base": {"name": metadata.base, "revision": metadata.revision,
                 "sha256": metadata.base_digest},
    }  # fmt: skip


def _page() -> tuple[str, str]:
    """Return the page, and the Content-Security-Policy that lets only its style and script run."""
    page = resources.files("netdiff_ray.serving").joinpath("index.html").read_text("utf-8")
    hashes = {}
    for tag in ("style", "script"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = hashlib.sha256(inline.encode()).digest()
        hashes[tag] = f"'sha256-{base64.b64encode(digest).decode()}'"
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; "
        "connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return page, policy
