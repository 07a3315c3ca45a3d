"""What users fix of the flows' plans."""

from dataclasses import dataclass
from typing import Literal

from netdiff_ray.config.checks import require


@dataclass(frozen=True, kw_only=True)
class PlanPins:
    """What all drawn flows have in common; the rest is drawn as the label's flows have it."""

    service: str | None = None
    """Service of the flows, as `netdiff info ADAPTER` lists them: tcp-443, udp-53, icmp, ..."""
    ip_version: Literal[4, 6] | None = None
    """IP version of the flows."""
    min_packets: int | None = None
    """Fewest packets of a flow."""
    max_packets: int | None = None
    """Most packets of a flow."""

    def __post_init__(self):
        least = 1 if self.min_packets is None else self.min_packets
        require(least >= 1, "min_packets", least, "at least 1")
        if self.max_packets is not None:
            require(
                self.max_packets >= least, "max_packets", self.max_packets, f"at least {least:,}"
            )
