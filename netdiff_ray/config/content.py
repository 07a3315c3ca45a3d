"""Which settings of a configuration decide what its job makes.

A field is *content* unless its type says otherwise: `Execution[...]` for how, where and how
loudly the job runs, `Input[...]` for where its data lie. `run_identity` is the record of all
content settings and of the input data; two runs with equal records make the same files.
"""

import dataclasses
import enum
import json
from collections.abc import Mapping
from typing import Annotated, TypeVar, get_type_hints

FieldT = TypeVar("FieldT")


class FieldKind(enum.Enum):
    """What a field means for the files that a job makes."""

    CONTENT = "content"
    """Another value makes other files."""
    EXECUTION = "execution"
    """Another value makes the same files, but for the last bits of floating point."""
    INPUT = "input"
    """Names data. The job's identity has a digest of the data, not their name."""


Execution = Annotated[FieldT, FieldKind.EXECUTION]
Input = Annotated[FieldT, FieldKind.INPUT]


def field_kinds(config_class: type) -> dict[str, FieldKind]:
    """Return the kind of each field of a configuration class, by name."""
    hints = get_type_hints(config_class, include_extras=True)
    kinds = {}
    for field in dataclasses.fields(config_class):
        marks = getattr(hints[field.name], "__metadata__", ())
        declared = [mark for mark in marks if isinstance(mark, FieldKind)]
        kinds[field.name] = declared[0] if declared else FieldKind.CONTENT
    return kinds


def content_of(config: object) -> dict:
    """Return the content settings of a configuration, nested ones included, as JSON types."""
    return json.loads(json.dumps(_content_value(config)))


def run_identity(job: str, config: object, inputs: Mapping[str, object] | None = None) -> dict:
    """Return the record of what decides the files of a job, as JSON types.

    Args:
        job: name of the job.
        config: its configuration, with defaults that depend on the input filled in.
        inputs: what stands for the data that the input fields name, such as digests, by
            name; not given where each part of the result has a digest of its input.
    """
    identity = {"job": job, **content_of(config)}
    return identity if inputs is None else {**identity, "inputs": dict(inputs)}


def _content_value(value: object) -> object:
    if dataclasses.is_dataclass(value):
        kinds = field_kinds(type(value))
        return {
            name: _content_value(getattr(value, name))
            for name, kind in kinds.items()
            if kind is FieldKind.CONTENT
        }
    if isinstance(value, tuple | list):
        return [_content_value(item) for item in value]
    return value
