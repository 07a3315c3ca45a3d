"""Repair: make drawn nprints into packets that real tools accept, and count every change."""

from netdiff_ray.repair.change_report import ASSIGNED, PRESENCE, VALUE
from netdiff_ray.repair.context import PAYLOAD_MODES, RepairContext
from netdiff_ray.repair.engine import Repaired, repair
from netdiff_ray.repair.plans import Plans, plans_of
from netdiff_ray.repair.rules import RULES, Rule
from netdiff_ray.repair.serialise import Buffers, Packets

__all__ = [
    "ASSIGNED",
    "PAYLOAD_MODES",
    "PRESENCE",
    "RULES",
    "VALUE",
    "Buffers",
    "Packets",
    "Plans",
    "RepairContext",
    "Repaired",
    "Rule",
    "plans_of",
    "repair",
]
