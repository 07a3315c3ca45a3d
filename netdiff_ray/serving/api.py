"""The endpoint's paths: what each takes, checks and answers."""

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Callable
from importlib import resources
from typing import Literal, Protocol

from fastapi import FastAPI, Request, Security
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import netdiff_ray
from netdiff_ray.config import ServeConfig
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.serving.auth import admit
from netdiff_ray.serving.catalogue import Known
from netdiff_ray.serving.problems import (
    PROBLEM_SCHEMA,
    PROBLEM_TYPE,
    Problem,
    answer_with_problems,
    unavailable,
)
from netdiff_ray.serving.requests import FlowsRequest, JobRequest, body_schema, read_asked
from netdiff_ray.serving.streams import FlowResponse, FlowStream, Streams

MEDIA_TYPES = {
    "pcap": "application/vnd.tcpdump.pcap",
    "pcapng": "application/x-pcapng",
    "nprint": "text/plain; charset=utf-8",
    "png": "image/png",
}
_JSON_ANSWER = {"content": {"application/json": {"schema": {"type": "object"}}}}


Outcome = Literal["ok", "client_error", "rejected", "server_error", "gone"]
"""How a request ended: 2xx; 4xx; 429; 5xx, or cut off by us; the client went away."""


class Service(Protocol):
    """What the paths need done."""

    config: ServeConfig
    streams: Streams

    async def adapters(self) -> dict[str, Known]:
        """The adapters by name, those that cannot be used too."""

    async def faults(self) -> list[str]:
        """Why nothing can be drawn; empty if flows can be."""

    async def begin(self, known: Known, asked: FlowsRequest) -> tuple[FlowStream, bool]:
        """The answer to a request that was checked, its first bytes there; and whether it is
        an archive.

        Raises:
            Problem: 429 or 503.
        """

    async def submit(self, known: Known, asked: JobRequest) -> str:
        """The id of a job that was submitted.

        Raises:
            Problem: 404 without a place for datasets, 429 or 503.
        """

    async def job(self, id: str) -> dict | None:
        """State and result of a job; None if there is none of that id."""

    async def metrics(self) -> bytes:
        """What Prometheus scrapes."""

    def observe(self, route: str, outcome: Outcome, seconds: float) -> None:
        """Note the end of a request, by its path's template."""


class _Observed:
    """An ASGI application each of whose requests is told to `observe`."""

    def __init__(self, app: ASGIApp, observe: Callable[[str, Outcome, float], None]):
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        outcome: Outcome = "server_error"
        try:
            await self._app(scope, receive, noted)
            outcome = _outcome(status)
        except asyncio.CancelledError:
            outcome = "gone"
            raise
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._observe(route, outcome, time.monotonic() - began)


def _outcome(status: int) -> Outcome:
    if status == 429:
        return "rejected"
    return "ok" if status < 400 else "client_error" if status < 500 else "server_error"


def make_app(service: Service) -> FastAPI:
    """The ASGI application of an endpoint."""
    app = FastAPI(
        title="netdiff", version=netdiff_ray.__version__, docs_url=None, redoc_url=None,
        description="Synthetic, labelled, protocol-valid network traffic.",
    )  # fmt: skip
    answer_with_problems(app)
    app.add_middleware(_Observed, observe=service.observe)
    roles = service.config.roles()
    page, policy = _page()
    bearer = [Security(HTTPBearer(auto_error=False))]

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={
            "Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
        })  # fmt: skip

    @app.get("/healthz", responses={200: _JSON_ANSWER, 503: _JSON_ANSWER})
    async def healthz() -> JSONResponse:
        """Whether flows can be drawn, and if not, or not of every adapter, why."""
        known = (await service.adapters()).values()
        faults = await service.faults()
        missing = [one.reason for one in known if one.reason]
        if not any(one.facts for one in known):
            faults = [*faults, "there is no adapter to draw with"]
        state = "unavailable" if faults else "degraded" if missing else "ok"
        return JSONResponse({"status": state, "reasons": [*faults, *missing]},
            503 if faults else 200, {"Retry-After": "5"} if faults else None)  # fmt: skip

    @app.get("/metrics", dependencies=bearer, responses=_problems(401, 403, 503))
    async def metrics(request: Request) -> Response:
        """Metrics of this node's Ray, the endpoint's among them, as Prometheus reads them."""
        admit(request, "draw", roles)
        return Response(await service.metrics(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/labels", dependencies=bearer, responses={200: _JSON_ANSWER, **_problems(401)})
    async def labels(request: Request) -> dict:
        """What can be drawn: the labels of each adapter."""
        admit(request, "draw", roles)
        return {"adapters": [_labels(one) for one in (await service.adapters()).values()]}

    @app.get("/v1/model", dependencies=bearer, responses={200: _JSON_ANSWER, **_problems(401)})
    async def model(request: Request) -> dict:
        """What it is drawn with: adapters, their bases, defaults and limits."""
        admit(request, "draw", roles)
        draw = service.config.draw
        return {
            "version": netdiff_ray.__version__,
            "adapters": [_model(one) for one in (await service.adapters()).values()],
            "defaults": {"seed": draw.seed, "steps": draw.steps},
            "draw": {"guidance": draw.guidance, "scheduler": draw.scheduler,
                     "control_scale": draw.control_scale, "batch_size": draw.batch_size},
            "limits": vars(service.config.limits),
            "jobs": service.config.jobs_target is not None,
        }  # fmt: skip

    @app.post(
        "/v1/flows", dependencies=bearer, openapi_extra=body_schema(FlowsRequest),
        responses={
            200: {
                "description": "The capture, as it is made.",
                "content": {kind: {} for kind in (*MEDIA_TYPES.values(), "application/zip")},
                "headers": {"Netdiff-Stream": {"schema": {"type": "string"},
                    "description": "Id of its account at /v1/streams/{id}."}},
            },
            **_problems(400, 401, 404, 408, 413, 415, 421, 422, 429, 503),
        },
    )  # fmt: skip
    async def flows(request: Request) -> Response:
        """Stream a capture of drawn flows. An answer that is cut off has failed; its account
        at /v1/streams/{id} says why, and lists the flows that were set aside."""
        admit(request, "draw", roles)
        service.streams.check_room()
        asked = await read_asked(request, FlowsRequest, service.config.limits)
        if asked.num_flows() > service.config.limits.flows:
            raise Problem(
                422, f"/labels: {asked.num_flows():,} flows are more than "
                f"{service.config.limits.flows:,}, the most of one request; submit a job",
            )  # fmt: skip
        known = _chosen(await service.adapters(), asked.adapter)
        _check_labels(known.facts, asked.labels)
        if faults := await service.faults():
            raise unavailable(" ".join(faults))
        stream, archive = await service.begin(known, asked)
        form = "zip" if archive else asked.format
        media_type = "application/zip" if archive else MEDIA_TYPES[form]
        return FlowResponse(stream, media_type, f"flows.{form}")

    @app.get(
        "/v1/streams/{id}", dependencies=bearer,
        responses={200: _JSON_ANSWER, **_problems(401, 404)},
    )  # fmt: skip
    async def stream(request: Request, id: str) -> dict:
        """How far a streamed capture is, which flows were set aside, and why it failed."""
        admit(request, "draw", roles)
        found = service.streams.account(id)
        if found is None:
            raise Problem(404, "no such stream is remembered here")
        return found

    @app.post(
        "/v1/jobs", dependencies=bearer, openapi_extra=body_schema(JobRequest), status_code=202,
        responses={202: _JSON_ANSWER, **_problems(400, 401, 404, 408, 413, 415, 422, 429, 503)},
    )  # fmt: skip
    async def submit(request: Request) -> JSONResponse:
        """Submit a Ray job that makes a dataset of any number of flows."""
        admit(request, "submit", roles)
        asked = await read_asked(request, JobRequest, service.config.limits)
        known = _chosen(await service.adapters(), asked.adapter)
        _check_labels(known.facts, asked.labels)
        id = await service.submit(known, asked)
        return JSONResponse({"id": id}, 202, {"Location": f"/v1/jobs/{id}"})

    @app.get(
        "/v1/jobs/{id}", dependencies=bearer,
        responses={200: _JSON_ANSWER, **_problems(401, 404, 503)},
    )  # fmt: skip
    async def job(request: Request, id: str) -> dict:
        """A job's state and, when it is done, its dataset and counts."""
        admit(request, "draw", roles)
        found = await service.job(id) if re.fullmatch(r"netdiff-[0-9a-f]{16}", id) else None
        if found is None:
            raise Problem(404, "there is no such job")
        return found

    return app


def _problems(*statuses: int) -> dict:
    """The problem answers of an OpenAPI operation."""
    content = {PROBLEM_TYPE: {"schema": PROBLEM_SCHEMA}}
    return {status: {"content": content} for status in (*statuses, 403, 421)}


def _chosen(adapters: dict[str, Known], name: str | None) -> Known:
    """The adapter to draw with.

    Raises:
        Problem: 404 if there is none of that name, 422 if none is named of several, 503 if it
            is not there now.
    """
    if name is None:
        if len(adapters) > 1:
            raise Problem(422, f"/adapter: name one of {', '.join(adapters)}")
        if not adapters:
            raise unavailable("the endpoint has no adapters")
        (known,) = adapters.values()
    elif name not in adapters:
        raise Problem(404, f"there is no adapter of that name; there are: {', '.join(adapters)}")
    else:
        known = adapters[name]
    if known.facts is None:
        raise unavailable(known.reason)
    return known


def _check_labels(facts: AdapterMetadata, labels: dict[str, int]) -> None:
    unknown = [label for label in labels if label not in facts.labels]
    if unknown:
        raise Problem(
            404, f"the adapter does not know label {unknown[0]!r}; it knows "
            f"{', '.join(facts.labels)}",
        )  # fmt: skip


def _labels(known: Known) -> dict:
    if known.facts is None:
        return {"name": known.name, "reason": known.reason, "labels": []}
    labels = [
        {
            "label": label,
            "fewest_packets": own.fewest_packets,
            "most_packets": own.most_packets,
        }
        for label, own in known.facts.labels.items()
    ]
    return {"name": known.name, "labels": labels}


def _model(known: Known) -> dict:
    if known.facts is None:
        return {"name": known.name, "reason": known.reason}
    facts = known.facts
    return {
        "name": known.name, "sha256": known.digest, "layout": facts.layout,
        "max_height": facts.max_height,
        "base": {"name": facts.base, "revision": facts.revision, "sha256": facts.base_digest},
    }  # fmt: skip


def _page() -> tuple[str, str]:
    """The page, and the Content-Security-Policy that lets its own style and script run only."""
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
