"""Checks that several jobs' configurations share."""

import tyro

from netdiff_ray.errors import ConfigError
from netdiff_ray.nprint.layouts import HEIGHTS

LAYOUT_METAVAR = "{nprint,nprint-1088,timed}"
NO_DEFAULT_SHOWN = tyro.conf.arg(help_behavior_hint="")
"""Of a field whose default is empty, which its docstring explains."""


def check_share(share: float) -> None:
    """Raise ConfigError unless this is an allowed share."""
    if not 0 <= share <= 1:
        raise ConfigError(f"--max-quarantined-share {share}: a share, 0 to 1")


def check_flow_settings(idle_timeout_s: float, height: int) -> None:
    """Raise ConfigError unless flows can be cut with these."""
    if not 0 < idle_timeout_s <= 1e9:
        raise ConfigError(f"--idle-timeout-s {idle_timeout_s}: more than 0 seconds are needed")
    if height not in HEIGHTS:
        raise ConfigError(f"--height {height}: one of {', '.join(map(str, HEIGHTS))}")
