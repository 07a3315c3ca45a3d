"""Application messages that answer each other, a module a protocol."""

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.kinds import KINDS, OPAQUE, kind_of_port, write_messages

__all__ = ["KINDS", "OPAQUE", "Exchange", "kind_of_port", "write_messages"]
