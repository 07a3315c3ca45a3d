"""Request bodies: their fields, and reading them within limits."""

import asyncio
import json
from typing import Annotated, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from netdiff_ray.config.pins import PlanPins
from netdiff_ray.config.serve import ServeLimits
from netdiff_ray.serving.problems import Problem, invalid

_EXAMPLE = {"labels": {"mqtt": 2, "dns": 1}, "seed": 7}
_Net = Annotated[str, Field(max_length=50, examples=["192.0.2.0/24"])]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]


class DrawRequest(BaseModel):
    """Flows to draw."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    labels: dict[str, Count] = Field(
        min_length=1, description="How many flows of each label.", examples=[_EXAMPLE["labels"]]
    )
    adapter: str | None = Field(
        None, max_length=200, description="Which adapter draws; may be left out if there is one."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="The same request and seed give the same bytes."
    )
    steps: int | None = Field(None, ge=1, le=10_000, description="Denoising steps.")
    service: str | None = Field(
        None, max_length=40, description="Service of all flows, as /v1/labels lists them."
    )
    ip_version: Literal[4, 6] | None = Field(None, description="IP version of all flows.")
    min_packets: int | None = Field(None, ge=1, description="Fewest packets of a flow.")
    max_packets: int | None = Field(None, ge=1, description="Most packets of a flow.")
    rtt_ms: str | None = Field(
        None, max_length=40, examples=["20:80"],
        description="Milliseconds that handshakes take, LOW:HIGH or one number.",
    )  # fmt: skip
    loss: str | None = Field(
        None, max_length=40, examples=["0.01:0.1"],
        description="Share of a flow's segments that are sent again, LOW:HIGH or one share.",
    )  # fmt: skip
    client_net: list[_Net] = Field([], max_length=64, description="Networks of the clients.")
    server_net: list[_Net] = Field([], max_length=64, description="Networks of the servers.")
    start: str | None = Field(
        None, max_length=40, examples=["2026-01-31T08:00:00Z"],
        description="When the first flow begins: ISO 8601, or seconds since 1970.",
    )  # fmt: skip
    payload: Literal["dialogue", "zeros", "random", "none"] = Field(
        "dialogue", description="What fills the drawn lengths."
    )
    order: Literal["sequential", "interleaved"] = Field(
        "sequential", description="Flows one after another, or overlapping as they would arrive."
    )
    flows_per_second: float = Field(
        10.0, gt=0, le=1e6, allow_inf_nan=False,
        description="Mean rate at which interleaved flows begin.",
    )  # fmt: skip

    def pins(self) -> PlanPins:
        """Return what all flows have in common.

        Raises:
            ConfigError: they contradict each other, or networks or the start are none.
        """
        return PlanPins(
            service=self.service, ip_version=self.ip_version, min_packets=self.min_packets,
            max_packets=self.max_packets, rtt_ms=self.rtt_ms, loss=self.loss,
            client_net=tuple(self.client_net), server_net=tuple(self.server_net), start=self.start,
        )  # fmt: skip

    def num_flows(self) -> int:
        """Return the number of flows of all labels."""
        return sum(self.labels.values())


class FlowsRequest(DrawRequest):
    """A capture to stream."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_EXAMPLE, "format": "pcap"}]})

    format: Literal["pcap", "pcapng", "nprint", "png"] = Field(
        "pcap",
        description="A capture, or the drawings before repair: one file of one flow, a ZIP "
        "archive of more.",
    )


class JobRequest(DrawRequest):
    """A dataset to make in a Ray job."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})


RequestT = TypeVar("RequestT", bound=DrawRequest)


def body_schema(kind: type[DrawRequest]) -> dict:
    """Return the requestBody of an OpenAPI operation."""
    content = {"application/json": {"schema": kind.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


async def read_request(
    http_request: Request, kind: type[RequestT], limits: ServeLimits
) -> RequestT:
    """Read and check a request's body.

    Raises:
        Problem: 415 for another content type, which also keeps pages of other sites from
            posting forms; 413 and 408 for a body too large or too slow; 400 if it is no JSON
            in UTF-8; 422 if it is not as described, or exceeds the limits.
    """
    content_type = http_request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Problem(415, "the body has to be JSON: Content-Type: application/json")
    try:
        async with asyncio.timeout(limits.body_seconds):
            body = await _read(http_request, limits.body_bytes)
    except TimeoutError:
        raise Problem(
            408, f"no body within {limits.body_seconds:g} s", {"Connection": "close"}
        ) from None
    try:
        fields = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise Problem(400, f"the body is not UTF-8 at byte {error.start:,}") from None
    except RecursionError:
        raise Problem(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    try:
        request = kind.model_validate(fields)
    except ValidationError as error:
        raise invalid(
            error.errors(include_url=False, include_context=False, include_input=False),
            "the body is not as described",
        ) from None
    if request.steps is not None and request.steps > limits.steps:
        raise Problem(422, f"/steps: {request.steps} are more than {limits.steps}, the most here")
    return request


async def _read(http_request: Request, most: int) -> bytes:
    too_large = Problem(413, f"the body is larger than {most:,} bytes", {"Connection": "close"})
    length = http_request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > most:
        raise too_large
    parts, size = [], 0
    async for part in http_request.stream():
        size += len(part)
        if size > most:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
