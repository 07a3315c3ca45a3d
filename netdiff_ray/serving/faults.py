"""Why an endpoint cannot draw: in a few words for anybody, in detail for who may draw."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from netdiff_ray.serving.catalogue import OfferedAdapter

Summary = Literal[
    "it is starting",
    "it waits for the cluster's resources",
    "a part of it fails",
    "there is no adapter to draw with",
    "an adapter cannot be used",
]


class Fault(NamedTuple):
    """A reason why flows cannot be drawn, or not with an adapter."""

    summary: Summary
    """For anybody: it names neither places nor numbers."""
    detail: str
    """For who may draw: it may name adapters, paths and resources."""


class Health(NamedTuple):
    """Whether an endpoint can draw."""

    status: Literal["ok", "degraded", "starting", "unavailable"]
    """`degraded` if only some adapters cannot be used; with the last two nothing can be drawn."""
    faults: tuple[Fault, ...]
    """Empty if it is ok."""

    @property
    def can_draw(self) -> bool:
        """Whether flows can be drawn, if not with each adapter."""
        return self.status in ("ok", "degraded")

    def reasons(self, *, in_detail: bool) -> list[str]:
        """Return the reasons why it is not ok, each once."""
        texts = (fault.detail if in_detail else fault.summary for fault in self.faults)
        return list(dict.fromkeys(texts))


def health_of(faults: Sequence[Fault], adapters: Iterable[OfferedAdapter]) -> Health:
    """Return the health of an endpoint.

    Args:
        faults: those that keep all flows from being drawn.
        adapters: those that it offers.
    """
    adapters = list(adapters)
    faults = list(faults)
    unusable = [
        Fault("an adapter cannot be used", adapter.reason) for adapter in adapters if adapter.reason
    ]
    if not any(adapter.metadata for adapter in adapters):
        text = "there is no adapter to draw with"
        faults.append(Fault(text, text))
    if not faults:
        return Health("degraded" if unusable else "ok", tuple(unusable))
    is_starting = all(fault.summary == "it is starting" for fault in faults)
    return Health("starting" if is_starting else "unavailable", (*faults, *unusable))
