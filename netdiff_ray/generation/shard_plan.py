"""Drawn windows to shards of a pcap dataset: what is drawn for which shard, and what then.

A shard is a function of the adapter's facts, the run's seed and settings and its plan alone,
whichever machine makes it, and whatever it made before.

Shape letters: R rows of all windows, B bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from netdiff_ray.generation.shard_builder import build_shard
from netdiff_ray.labels.adapter_metadata import AdapterMetadata, label_statistics
from netdiff_ray.labels.flow_plan import Sample, plan_flow, seed_of
from netdiff_ray.labels.statistics import LabelStatistics
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.repair import RepairContext, repair
from netdiff_ray.repair.context import PayloadMode
from netdiff_ray.storage.shards import Shard

_CLIENTS = 1 << 37


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
    """What becomes of drawn flows."""

    seed: int
    """Of the run."""
    payload: PayloadMode
    order: str
    """See `arrange`."""
    flows_per_second: float


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """`total` divided in proportion to weights, the largest remainders rounded up; of equal
    ones the first label's."""
    whole = sum(weights.values())
    exact = {label: total * weight / whole for label, weight in weights.items()}
    counts = {label: int(share) for label, share in exact.items()}
    by_remainder = sorted(exact, key=lambda label: (counts[label] - exact[label], label))
    for label in by_remainder[: total - sum(counts.values())]:
        counts[label] += 1
    return counts


def plan_shards(counts: Mapping[str, int], flows_per_shard: int) -> list[ShardPlan]:
    """The shards of a run, label after label.

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


def flows_of(facts: AdapterMetadata, plan: ShardPlan, seed: int) -> list[list[Sample]]:
    """The windows to draw of each flow of a shard.

    Raises:
        ModelError: the adapter does not know the label.
    """
    indices = range(plan.first, plan.first + plan.count)
    return [plan_flow(facts, plan.label, seed, index) for index in indices]


def pack_cells(nprints: Sequence[np.ndarray]) -> bytes:
    """Nprints (R_n, B) int8 one after another, two bits a cell; `unpack_cells` restores them."""
    cells = np.concatenate(nprints)
    planes = np.stack([cells != VACANT, cells == 1])
    return np.packbits(planes).tobytes()


def unpack_cells(packed: bytes, width: int) -> np.ndarray:
    """(R, B) int8 of 1, 0, -1 that was packed."""
    planes = np.unpackbits(np.frombuffer(packed, np.uint8)).view(np.int8).reshape(2, -1, width)
    return planes[0] + planes[1] + np.int8(VACANT)


def label_context(facts: LabelStatistics, label: str, payload: PayloadMode) -> RepairContext:
    """What repair may know of a label.

    Server ports and lifetimes are those that were seen; times are weighted as they were seen,
    of both directions together. A port that only one flow had is not among them. The profile is
    the label's.
    """
    weights = np.zeros(256)
    for _, _, level, packets in facts.profile.levels:
        weights[level] += packets
    return RepairContext(
        label=label,
        server_ports=_seen(facts.server_ports),
        lifetimes=_seen(facts.lifetimes),
        interarrival_weights=tuple(weights.tolist()) if weights.any() else (),
        profile=facts.profile,
        payload=payload,
    )


def _seen(counts: Mapping[str, Mapping[str, int]]) -> tuple[int, ...]:
    """The values counted under any key, but for 0."""
    return tuple(sorted({int(value) for own in counts.values() for value in own} - {0}))


def shard_of(
    facts: AdapterMetadata, plan: ShardPlan, drawn: np.ndarray, settings: ShardSettings
) -> Shard:
    """The shard that drawn windows become: those of a flow joined, repaired, arranged.

    Args:
        drawn: (R, B) int8, the windows of `flows_of`, in order, each of its full height.
    """
    flows = flows_of(facts, plan, settings.seed)
    ends = np.cumsum([0, *(sum(sample.height for sample in flow) for flow in flows)])
    assert ends[-1] == len(drawn)
    return _shard([drawn[a:b] for a, b in pairwise(ends)], facts, plan, settings)


def quarantined_shard(
    facts: AdapterMetadata, plan: ShardPlan, reason: str, settings: ShardSettings
) -> Shard:
    """The shard of a plan none of whose flows could be made: all in quarantine for `reason`."""
    shard = _shard([], facts, plan, settings)
    for index in range(plan.first, plan.first + plan.count):
        own_id = flow_id(settings.seed, plan.label, index)
        shard.quarantine.append(
            {"label": plan.label, "shard": plan.number, "flow_id": own_id, "reason": reason}
        )
    return shard


def _shard(
    nprints: list[np.ndarray], facts: AdapterMetadata, plan: ShardPlan, settings: ShardSettings
) -> Shard:
    indices = range(plan.first, plan.first + len(nprints))
    flow_ids = [flow_id(settings.seed, plan.label, index) for index in indices]
    seeds = [_seed(settings.seed, plan.label, index) for index in indices]
    # A client of its own for each flow of a label; labels begin anywhere among the clients.
    clients = seed_of(settings.seed, plan.label, 0, "clients")
    repaired = repair(
        nprints,
        layout_named(facts.layout),
        label_context(label_statistics(facts, plan.label), plan.label, settings.payload),
        np.array(seeds, np.uint64),
        np.array([(clients + index) % _CLIENTS for index in indices], np.uint64),
    )
    return build_shard(
        repaired, number=plan.number, label=plan.label, flow_ids=flow_ids,
        order=settings.order, flows_per_second=settings.flows_per_second,
        seed=seed_of(settings.seed, plan.label, plan.first, "arrivals"),
    )  # fmt: skip


def _seed(run_seed: int, label: str, index: int) -> int:
    """What every draw of repair for the flow depends on."""
    return seed_of(run_seed, label, index, "repair")


def flow_id(run_seed: int, label: str, index: int) -> str:
    """The id of a flow of a run."""
    return f"{_seed(run_seed, label, index):016x}"
