"""Checks that several jobs' configurations share."""

import dataclasses
import os

from netdiff_ray.errors import ConfigError
from netdiff_ray.nprint.layouts import HEIGHTS

LAYOUT_METAVAR = "{nprint,nprint-1088,stateful}"


def require(holds: bool, name: str, value: object, right: str) -> None:
    """Raise ConfigError unless a field's value is right.

    Args:
        holds: whether it is.
        name: of the field.
        value: of the field.
        right: which values are.
    """
    if not holds:
        raise ConfigError(f"{name} is {value!r}; it must be {right}")


def paths_as_text(config: object) -> None:
    """Replace path objects in the fields of a configuration, whose paths are text, in place."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, os.PathLike):
            object.__setattr__(config, field.name, os.fspath(value))


def require_at_least_1(config: object, *names: str) -> None:
    """Raise ConfigError unless the fields of these names are at least 1."""
    for name in names:
        value = getattr(config, name)
        require(value >= 1, name, value, "at least 1")


def require_min_max(config: object, name: str) -> None:
    """Raise ConfigError unless the field of this name is a least and a most number of workers."""
    least, most = value = getattr(config, name)
    holds = 0 <= least <= most and most >= 1
    require(holds, name, value, "the fewest, 0 or more, and the most, 1 or more and no fewer")


def check_share(name: str, share: float) -> None:
    """Raise ConfigError unless the field of this name is a share."""
    require(0 <= share <= 1, name, share, "a share, from 0 to 1")


def check_flow_settings(idle_timeout_s: float, height: int) -> None:
    """Raise ConfigError unless flows can be cut with these."""
    require(0 < idle_timeout_s <= 1e9, "idle_timeout_s", idle_timeout_s, "above 0 seconds")
    require(height in HEIGHTS, "height", height, f"one of {', '.join(map(str, HEIGHTS))}")
