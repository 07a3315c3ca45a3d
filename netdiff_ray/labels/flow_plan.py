"""Plan flows: draw what holds for a whole flow from its label's statistics."""

import hashlib
from dataclasses import dataclass

import numpy as np

from netdiff_ray.labels.adapter_metadata import AdapterMetadata, label_statistics
from netdiff_ray.nprint.layouts import height_for


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One window to draw."""

    label: str
    """What to draw."""
    index: int
    """Number of the flow in the run, within its label."""
    window: int
    """Number of the window in its flow, from 0."""
    height: int
    """Rows of the raster."""
    length: int
    """Packets of the window, at most `height`."""
    headers: tuple[str, ...] = ()
    """Those that most packets have, as in `("ipv6", "udp")`; () where they are not known. With TCP
    `tcp_opt` is among them if most packets have options, SYNs not counted, as with timestamps
    (RFC 7323); resets often lack them."""


def seed_of(seed: int, label: str, index: int, purpose: str) -> int:
    """63 bits that are a function of the arguments alone, on every machine."""
    text = f"{seed}\x1f{label}\x1f{index}\x1f{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def plan_flow(facts: AdapterMetadata, label: str, seed: int, index: int) -> list[Sample]:
    """The windows of one flow to draw, its headers and its length drawn from the label's
    distribution.

    A function of the adapter's facts, the run's seed, the label and the index alone.

    Raises:
        ModelError: the adapter does not know the label.
    """
    known = label_statistics(facts, label)
    rng = np.random.default_rng(seed_of(seed, label, index, "length"))
    bins = [(headers, *own) for headers, some in known.lengths.items() for own in some]
    weights = np.array([flows for *_, flows in bins])
    headers, low, high, _ = bins[rng.choice(len(bins), p=weights / weights.sum())]
    packets = int(rng.integers(low, high + 1))
    samples = []
    for first in range(0, packets, facts.max_height):
        length = min(packets - first, facts.max_height)
        samples.append(
            Sample(
                label=label, index=index, window=first // facts.max_height,
                height=height_for(length), length=length, headers=tuple(headers.split()),
            )
        )  # fmt: skip
    return samples
