"""Which flows each shard of a run holds, and which windows to draw for them.

Shape letters: R rows of all windows, B bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from netdiff_ray.config.pins import DEFAULT_START_NS
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.labels.addresses import AddressPlan
from netdiff_ray.labels.flow_plan import PlannedWindow, plan_flow
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.repair.context import PayloadMode
from netdiff_ray.scenes.planner import GROUP_INDICES, SceneFlow, ScenePlanner
from netdiff_ray.scenes.scene import Scene
from netdiff_ray.storage.shards import PCAP


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """Which flows a shard holds."""

    number: int
    """Position of the shard in its dataset, from 0."""
    label: str
    first: int
    """Index of its first flow within the label."""
    count: int
    """Flows."""


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """What decides a shard, beyond its plan and its drawings."""

    seed: int
    """Of the run."""
    payload: PayloadMode
    order: str
    """See `schedule_packets`."""
    flows_per_second: float
    start_ns: int = DEFAULT_START_NS
    """When the shard's first flow begins, in nanoseconds since 1970-01-01 UTC."""
    addresses: AddressPlan = field(default_factory=AddressPlan)
    """Where hosts have their addresses."""
    keep_drawn: bool = False
    """Whether the shard keeps what was drawn, too."""
    form: str = PCAP
    """Of the captures: PCAP or PCAPML."""
    scene: Scene | None = None
    """What the flows are of; it decides hosts, addresses and times, and `order`,
    `flows_per_second`, `start_ns` and `addresses` do not."""


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Divide `total` in proportion to weights, the largest remainders rounded up; of equal
    remainders, the first label's."""
    sum_of_weights = sum(weights.values())
    exact = {label: total * weight / sum_of_weights for label, weight in weights.items()}
    counts = {label: int(share) for label, share in exact.items()}
    by_remainder = sorted(exact, key=lambda label: (counts[label] - exact[label], label))
    for label in by_remainder[: total - sum(counts.values())]:
        counts[label] += 1
    return counts


def plan_shards(counts: Mapping[str, int], flows_per_shard: int) -> list[ShardPlan]:
    """Return the plans of a run's shards, label after label.

    Args:
        counts: flows by label.
    """
    spans = [
        (label, first, min(flows_per_shard, count - first))
        for label, count in sorted(counts.items())
        for first in range(0, count, flows_per_shard)
    ]
    return [
        ShardPlan(number=number, label=label, first=first, count=count)
        for number, (label, first, count) in enumerate(spans)
    ]


def plan_scene_shards(
    counts: Mapping[str, Mapping[int, int]], flows_per_shard: int
) -> list[ShardPlan]:
    """Return the plans of the shards of a scene, each of a label and of one group of hosts.

    Args:
        counts: flows by label and group.
    """
    spans = [
        (label, group * GROUP_INDICES + first, min(flows_per_shard, count - first))
        for label, groups in sorted(counts.items())
        for group, count in sorted(groups.items())
        for first in range(0, count, flows_per_shard)
    ]
    return [
        ShardPlan(number=number, label=label, first=first, count=count)
        for number, (label, first, count) in enumerate(spans)
    ]


def scene_flows(
    metadata: AdapterMetadata, plan: ShardPlan, seed: int, scene: Scene
) -> list[SceneFlow]:
    """Return the flows of a shard of a scene."""
    return ScenePlanner(metadata, scene, seed).flows(plan.label, plan.first, plan.count)


def windows_to_draw(
    metadata: AdapterMetadata, plan: ShardPlan, seed: int, scene: Scene | None = None
) -> list[list[PlannedWindow]]:
    """Return the windows to draw of each flow of a shard.

    Args:
        seed: of the run.
        scene: that the flows are of, if they are of one.

    Raises:
        ModelError: the adapter has no such label.
    """
    if scene is not None:
        return [flow.plan.samples for flow in scene_flows(metadata, plan, seed, scene)]
    indices = range(plan.first, plan.first + plan.count)
    return [plan_flow(metadata, plan.label, seed, index).samples for index in indices]


def pack_cells(nprints: Sequence[np.ndarray]) -> bytes:
    """Pack nprints (R_n, B) int8, one after another, two bits a cell."""
    cells = np.concatenate(nprints)
    planes = np.stack([cells != VACANT, cells == 1])
    return np.packbits(planes).tobytes()


def unpack_cells(packed: bytes, width: int) -> np.ndarray:
    """Return the (R, B) int8 of 1, 0, -1 that `pack_cells` packed."""
    planes = np.unpackbits(np.frombuffer(packed, np.uint8)).view(np.int8).reshape(2, -1, width)
    return planes[0] + planes[1] + np.int8(VACANT)
