"""What `adapter.json` holds: what an adapter was trained on, and the statistics of its labels."""

import functools
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from netdiff_ray.errors import ConfigError, ModelError
from netdiff_ray.labels.statistics import LabelStatistics


@dataclass(frozen=True, kw_only=True)
class AdapterMetadata:
    """What `adapter.json` holds."""

    base: str
    """Directory or hub name that the LoRA was trained on."""
    revision: str | None
    """Its commit."""
    base_digest: str
    """Hex sha256 of its weights; what counts for whether the adapter fits."""
    layout: str
    """Of the rasters."""
    max_height: int
    """Rows of a full window."""
    prompt: str
    """Template of the prompts."""
    control_heights: list[int]
    """Heights that have control images."""
    labels: dict[str, LabelStatistics]
    """By label, sorted."""
    trained: dict[str, int | float]
    """Settings and result of the training that a reader may ask for: steps, rank, loss."""
    version: str
    """Of netdiff_ray."""


def metadata_to_json(facts: AdapterMetadata) -> dict:
    """`facts` as JSON types."""
    return asdict(facts)


def metadata_from_json(text: str | bytes, where: str) -> AdapterMetadata:
    """The facts in the text of an `adapter.json`.

    Raises:
        ModelError: it is no JSON, or a key is missing, unknown or of another type; `where` names
            the file.
    """
    try:
        return _facts_type().validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise ModelError(f"{where} is not an adapter.json of this version: {reason}") from None


@functools.cache
def _facts_type() -> TypeAdapter:
    return TypeAdapter(AdapterMetadata)


def label_statistics(facts: AdapterMetadata, label: str) -> LabelStatistics:
    """The facts of `label`.

    Raises:
        ModelError: the adapter does not know it.
    """
    if label not in facts.labels:
        raise ConfigError(
            f"the adapter does not know label {label!r}; it knows {', '.join(facts.labels)}"
        )
    return facts.labels[label]
