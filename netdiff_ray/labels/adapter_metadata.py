"""The content of `adapter.json`: what an adapter was trained on, and its labels' statistics."""

import functools
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from netdiff_ray.errors import ConfigError, ModelError
from netdiff_ray.labels.sessions import SessionStatistics
from netdiff_ray.labels.statistics import LabelStatistics, ServiceStatistics
from netdiff_ray.nprint.layouts import layout_named


@dataclass(frozen=True, kw_only=True)
class AdapterMetadata:
    """The content of `adapter.json`."""

    base: str
    """Directory or hub name that the LoRA was trained on."""
    revision: str | None
    """Its commit."""
    base_digest: str
    """Hex sha256 of its weights, which decides whether the adapter fits a base."""
    layout: str
    """Of the rasters."""
    max_height: int
    """Rows of a full window."""
    prompt: str
    """Template of the prompts."""
    labels: dict[str, LabelStatistics]
    """By label, sorted."""
    sessions: SessionStatistics = field(default_factory=SessionStatistics)
    """How flows of all labels follow each other at their clients."""
    trained: dict[str, int | float | str]
    """Settings and result of the training: steps, rank, loss, why it stopped and more."""
    version: str
    """Of netdiff_ray."""


def metadata_to_json(metadata: AdapterMetadata) -> dict:
    """Return `metadata` as JSON types."""
    return _metadata_type().dump_python(metadata)


def metadata_from_json(text: str | bytes, where: str) -> AdapterMetadata:
    """Return the metadata in the text of an `adapter.json`.

    Raises:
        ModelError: it is no JSON, a key is missing, unknown or of another type, or the layout is
            not known; `where` names the file.
    """
    try:
        metadata = _metadata_type().validate_json(text, strict=True, extra="forbid")
        layout_named(metadata.layout)
        return metadata
    except ConfigError as error:
        raise ModelError(f"{where}: {error}. Train the adapter again") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        reason = f"{key}: {first['msg']}" if key else first["msg"]
        raise ModelError(
            f"{where} is not an adapter.json of this version: {reason}. Train the adapter again"
        ) from None


@functools.cache
def _metadata_type() -> TypeAdapter:
    return TypeAdapter(AdapterMetadata)


def label_statistics(metadata: AdapterMetadata, label: str) -> LabelStatistics:
    """Return the statistics of `label`.

    Raises:
        ConfigError: the adapter has no such label.
    """
    if label not in metadata.labels:
        raise ConfigError(
            f"the adapter does not know label {label!r}; it knows {', '.join(metadata.labels)}"
        )
    return metadata.labels[label]


def service_statistics(metadata: AdapterMetadata, label: str, service: str) -> ServiceStatistics:
    """Return the statistics of a label's service.

    Raises:
        ConfigError: the adapter has no such label, or the label no such service.
    """
    services = label_statistics(metadata, label).services
    if service not in services:
        raise ConfigError(
            f"label {label!r} has no service {service!r}; it has {', '.join(services)}"
        )
    return services[service]
