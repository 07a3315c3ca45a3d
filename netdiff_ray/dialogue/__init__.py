"""Application messages that answer each other, a module a protocol."""

from netdiff_ray.dialogue.exchange import Exchange, Named
from netdiff_ray.dialogue.kinds import (
    BINARY,
    KINDS,
    OPAQUE,
    OPAQUE_KINDS,
    TEXT,
    port_kinds,
    write_messages,
)

__all__ = [
    "BINARY", "KINDS", "OPAQUE", "OPAQUE_KINDS", "TEXT", "Exchange", "Named", "port_kinds",
    "write_messages",
]  # fmt: skip
