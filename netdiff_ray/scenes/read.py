"""Read a scene from the TOML that users write."""

import dataclasses
import datetime
import tomllib
import types
from typing import Union, get_args, get_origin, get_type_hints

from netdiff_ray.errors import ConfigError
from netdiff_ray.scenes.scene import Incident, Scene, Site, Weights

_TABLES = {"sites": Site, "incidents": Incident}


def read_scene(content: bytes, where: str) -> Scene:
    """Return the scene that the content of a SCENE.toml says.

    Args:
        where: names the file in errors.

    Raises:
        ConfigError: it is no TOML, a key is unknown or missing, or a value is not right; the text
            names the key and what would be right.
    """
    try:
        values = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{where} is no TOML: {error}") from None
    try:
        for name, kind in _TABLES.items():
            if name in values:
                rows = values[name]
                if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                    raise ConfigError(f"{name} must be tables: begin each with [[{name}]]")
                values[name] = tuple(_record(kind, row, f"[[{name}]]") for row in rows)
        return _record(Scene, values, "a scene")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _record(kind: type, values: dict, what: str) -> object:
    """Return a record of the values of a table."""
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{what} has no key {unknown[0]!r}; it has {', '.join(fields)}")
    required = [
        name
        for name, field in fields.items()
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(f"{what} lacks the key {missing[0]!r}; it needs {', '.join(required)}")
    return kind(**{name: _value(name, values[name], hints[name]) for name in values})


def _value(name: str, value: object, hint: object) -> object:
    """Return a value of TOML as a field's type has it."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    if name in _TABLES:
        return value
    if hint == Weights:
        holds = isinstance(value, dict) and all(map(_is_number, value.values()))
        _require(holds, name, value, "a table of weights, as in { web = 3, dns = 1 }")
        return tuple(sorted((label, float(weight)) for label, weight in value.items()))
    if get_origin(hint) is tuple:
        _require(isinstance(value, list), name, value, "a list")
        return tuple(_value(name, item, get_args(hint)[0]) for item in value)
    return _single(name, value, hint)


def _single(name: str, value: object, kind: object) -> object:
    """Return a number or a text; times of TOML as text."""
    if kind is float:
        _require(_is_number(value), name, value, "a number")
        return float(value)
    if kind is int:
        _require(isinstance(value, int) and _is_number(value), name, value, "a whole number")
        return value
    if name == "start" and isinstance(value, datetime.datetime):
        return value.isoformat()
    _require(isinstance(value, str), name, value, "a text")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(holds: bool, name: str, value: object, right: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value!r}; it must be {right}")
