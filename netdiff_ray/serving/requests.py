"""What clients may ask for, read from a request's body within limits."""

import asyncio
import json
from typing import Annotated, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from netdiff_ray.config.serve import ServeLimits
from netdiff_ray.serving.problems import Problem, invalid

_EXAMPLE = {"labels": {"web": 2, "dns": 1}, "seed": 7}
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]


class _Asked(BaseModel):
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
    payload: Literal["framed", "zeros", "random", "none"] = Field(
        "framed", description="What fills the drawn lengths."
    )
    order: Literal["sequential", "interleaved"] = Field(
        "sequential", description="Flows one after another, or overlapping as they would arrive."
    )
    flows_per_second: float = Field(
        10.0, gt=0, le=1e6, allow_inf_nan=False,
        description="Mean rate at which interleaved flows begin.",
    )  # fmt: skip

    def num_flows(self) -> int:
        """Flows of all labels."""
        return sum(self.labels.values())


class FlowsRequest(_Asked):
    """A capture to stream."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_EXAMPLE, "format": "pcap"}]})

    format: Literal["pcap", "pcapng", "nprint", "png"] = Field(
        "pcap",
        description="A capture, or the drawings before repair: one file of one flow, a ZIP "
        "archive of more.",
    )


class JobRequest(_Asked):
    """A dataset to make in a Ray job."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})


AskedT = TypeVar("AskedT", bound=_Asked)


def body_schema(kind: type[_Asked]) -> dict:
    """The requestBody of an OpenAPI operation."""
    content = {"application/json": {"schema": kind.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


async def read_asked(request: Request, kind: type[AskedT], limits: ServeLimits) -> AskedT:
    """What a request's body asks for.

    Raises:
        Problem: 415 for another content type, which also keeps pages of other sites from
            asking unseen; 413 and 408 for a body too large or too slow; 400 if it is no JSON
            in UTF-8; 422 if it is not as described, or asks for more than the limits.
    """
    kind_of_content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind_of_content != "application/json":
        raise Problem(415, "the body has to be JSON: Content-Type: application/json")
    try:
        async with asyncio.timeout(limits.body_seconds):
            body = await _read(request, limits.body_bytes)
    except TimeoutError:
        raise Problem(408, f"no body within {limits.body_seconds:g} s") from None
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise Problem(400, f"the body is not UTF-8 at byte {error.start:,}") from None
    except RecursionError:
        raise Problem(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    try:
        asked = kind.model_validate(found)
    except ValidationError as error:
        raise invalid(
            error.errors(include_url=False, include_context=False, include_input=False),
            "the body is not as described",
        ) from None
    if asked.steps is not None and asked.steps > limits.steps:
        raise Problem(422, f"/steps: {asked.steps} are more than {limits.steps}, the most here")
    return asked


async def _read(request: Request, most: int) -> bytes:
    too_large = Problem(413, f"the body is larger than {most:,} bytes", {"Connection": "close"})
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > most:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
