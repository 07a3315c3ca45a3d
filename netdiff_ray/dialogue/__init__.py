"""Application messages that answer each other, a module a protocol."""

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.kinds import KINDS, OPAQUE, port_kinds, write_messages

__all__ = ["KINDS", "OPAQUE", "Exchange", "port_kinds", "write_messages"]
