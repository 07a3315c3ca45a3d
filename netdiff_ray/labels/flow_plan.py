"""Plan flows: draw what holds for a whole flow from its label's statistics."""

import hashlib
from dataclasses import dataclass

import numpy as np

from netdiff_ray.labels.adapter_metadata import (
    AdapterMetadata,
    label_statistics,
    service_statistics,
)
from netdiff_ray.labels.service import LabelService
from netdiff_ray.nprint.layouts import height_for


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One window to draw."""

    label: str
    """What to draw."""
    service: str
    """Of the label, see `LabelService`."""
    index: int
    """Number of the flow in the run, within its label."""
    window: int
    """Number of the window in its flow, from 0."""
    height: int
    """Rows of the raster."""
    length: int
    """Packets of the window, at most `height`."""
    headers: tuple[str, ...] = ()
    """Those that most packets have, as in `("ipv6", "udp")`; () if most have others. With TCP,
    `tcp_opt` is among them if most packets have options, SYNs not counted, as with timestamps
    (RFC 7323); resets often lack them."""

    @property
    def label_service(self) -> LabelService:
        """The service with its label."""
        return LabelService(self.label, self.service)


def seed_of(seed: int, label: str, index: int, purpose: str) -> int:
    """Return 63 bits that depend on the arguments alone, on every machine."""
    text = f"{seed}\x1f{label}\x1f{index}\x1f{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def plan_service(metadata: AdapterMetadata, label: str, seed: int, index: int) -> str:
    """Return the service of a flow, drawn in proportion to the label's training flows.

    It depends on the arguments alone.

    Raises:
        ConfigError: the adapter has no such label.
    """
    services = label_statistics(metadata, label).services
    flows = np.cumsum([statistics.num_flows for statistics in services.values()])
    draw = seed_of(seed, label, index, "service") % int(flows[-1])
    return list(services)[int(np.searchsorted(flows, draw, side="right"))]


def plan_flow(metadata: AdapterMetadata, label: str, seed: int, index: int) -> list[Sample]:
    """Return the windows to draw of one flow, its service, headers and length drawn from the
    label's distribution.

    They depend on the adapter's metadata, the run's seed, the label and the index alone.

    Raises:
        ConfigError: the adapter has no such label.
    """
    service = plan_service(metadata, label, seed, index)
    statistics = service_statistics(metadata, label, service)
    rng = np.random.default_rng(seed_of(seed, label, index, "length"))
    bins = [(headers, length) for headers, some in statistics.lengths.items() for length in some]
    weights = np.array([length.flows for _, length in bins])
    headers, length = bins[rng.choice(len(bins), p=weights / weights.sum())]
    packets = int(rng.integers(length.fewest, length.most + 1))
    samples = []
    for first in range(0, packets, metadata.max_height):
        num_rows = min(packets - first, metadata.max_height)
        samples.append(
            Sample(
                label=label, service=service, index=index,
                window=first // metadata.max_height, height=height_for(num_rows),
                length=num_rows, headers=tuple(headers.split()),
            )
        )  # fmt: skip
    return samples
