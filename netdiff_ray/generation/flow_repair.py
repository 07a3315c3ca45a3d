"""Drawn flows of a run to repaired flows: seeds, ids, clients and context of each.

A flow is a function of the adapter's metadata, the run's seed and payload mode, its label, its
index and its drawing alone, whichever flows it is repaired with.

Shape letters: P packets, R rows, B bits.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from netdiff_ray.labels.adapter_metadata import AdapterMetadata, service_statistics
from netdiff_ray.labels.addresses import AddressPair, AddressPlan, flow_addresses
from netdiff_ray.labels.flow_plan import plan_flow, seed_of
from netdiff_ray.labels.statistics import ServiceStatistics
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, layout_named
from netdiff_ray.repair import RepairContext, Repaired, plans_of, repair
from netdiff_ray.repair.context import PayloadMode
from netdiff_ray.scenes.names import with_question
from netdiff_ray.scenes.planner import SceneFlow

_NUM_CLIENTS = 1 << 37


@dataclass(frozen=True, kw_only=True)
class RepairedFlow:
    """A flow's packets and metadata, or why it was quarantined."""

    flow_id: str
    reason: str = ""
    """Why it was quarantined; empty for a flow with packets."""
    distance: float = 0.0
    """Share of the drawn cells that repair corrected."""
    data: np.ndarray
    """uint8 that holds the packets, one after another."""
    caplen: np.ndarray
    """(P,) int64 bytes of each."""
    wirelen: np.ndarray
    """(P,) int64 bytes of each on the wire."""
    relative_ns: np.ndarray
    """(P,) int64 times since the first, increasing."""


def flow_id(run_seed: int, label: str, index: int) -> str:
    """Return the id of a flow of a run."""
    return f"{_repair_seed(run_seed, label, index):016x}"


def _repair_seed(run_seed: int, label: str, index: int) -> int:
    """Return the seed of every draw of repair for the flow."""
    return seed_of(run_seed, label, index, "repair")


def service_context(
    statistics: ServiceStatistics, label: str, payload: PayloadMode
) -> RepairContext:
    """Return what repair may know of a label's service.

    Times are weighted as in the training flows, both directions together.
    """
    ports = {row.server_port for row in statistics.stacks if row.server_port > 0}
    weights = np.zeros(256)
    for row in statistics.profile.levels:
        weights[row.level] += row.packets
    return RepairContext(
        label=label,
        server_ports=tuple(sorted(ports)),
        interarrival_weights=tuple(weights.tolist()) if weights.any() else (),
        profile=statistics.profile,
        payload=payload,
    )


class RepairedGroup(NamedTuple):
    """Repaired flows of one service."""

    positions: tuple[int, ...]
    """Of the flows that were handed to repair, among those of all groups."""
    service: str
    """Of the flows; empty if it is not known."""
    repaired: Repaired


def repair_flows(
    metadata: AdapterMetadata,
    label: str,
    first: int,
    nprints: Sequence[np.ndarray],
    *,
    seed: int,
    payload: PayloadMode,
    addresses: Sequence[AddressPair] | None = None,
    of_scene: Sequence[SceneFlow] | None = None,
) -> list[RepairedGroup]:
    """Repair consecutive flows of a label, service by service.

    Args:
        first: index within the label of the first flow.
        nprints: (R_n, B) int8 of each flow, its windows joined.
        seed: of the run.
        payload: see `RepairContext`.
        addresses: of each flow's hosts; those of the default networks unless given.
        of_scene: the flows as a scene has them, which decides plans, addresses and ports.
    """
    if of_scene is not None:
        addresses = [flow.addresses for flow in of_scene]
        plans = [flow.repaired_plan for flow in of_scene]
        numbers = [flow.number for flow in of_scene]
        questions = [flow.question for flow in of_scene]
    else:
        plans = [plan_flow(metadata, label, seed, first + k) for k in range(len(nprints))]
        # Ports of clients follow each other; labels begin anywhere among them.
        clients = seed_of(seed, label, 0, "clients")
        numbers = [clients + first + k for k in range(len(nprints))]
        questions = [0] * len(nprints)
    if addresses is None:
        hosts = flow_addresses(metadata, label, seed, first, AddressPlan())
        addresses = list(itertools.islice(hosts, len(nprints)))
    positions: dict[tuple[str, int], list[int]] = {}
    for k, plan in enumerate(plans):
        positions.setdefault((plan.service, questions[k]), []).append(k)
    groups = []
    for (service, question), members in sorted(positions.items()):
        indices = [first + k for k in members]
        repaired = repair(
            [nprints[k] for k in members],
            layout_named(metadata.layout),
            service_context(
                _of_question(service_statistics(metadata, label, service), question), label, payload
            ),
            np.array([_repair_seed(seed, label, index) for index in indices], np.uint64),
            np.array([numbers[k] % _NUM_CLIENTS for k in members], np.uint64),
            plans=plans_of(
                [plans[k].stack for k in members],
                [addresses[k] for k in members],
                [plans[k].path for k in members],
                [plans[k].pace for k in members],
                [plans[k].kind for k in members],
                [plans[k].loss for k in members],
                [plans[k].duplicates for k in members],
            ),
            named=None if of_scene is None else [of_scene[k].named for k in members],
        )
        groups.append(RepairedGroup(tuple(members), service, repaired))
    return groups


def _of_question(statistics: ServiceStatistics, question: int) -> ServiceStatistics:
    """Return the statistics with the payloads of flows whose first question has so many bytes; 0
    for any."""
    if not question:
        return statistics
    return replace(statistics, profile=with_question(statistics.profile, question))


def repair_flow(
    metadata: AdapterMetadata,
    label: str,
    index: int,
    nprint: np.ndarray,
    *,
    seed: int,
    payload: PayloadMode,
    addresses: AddressPair | None = None,
) -> RepairedFlow:
    """Repair a flow by itself: its packets are those that a shard with this flow has.

    Args:
        nprint: (R, B) int8, the flow's windows joined.
        index, seed, payload: see `repair_flows`.
        addresses: of its hosts; those of the default networks unless given.
    """
    (group,) = repair_flows(
        metadata, label, index, [nprint], seed=seed, payload=payload,
        addresses=None if addresses is None else [addresses],
    )  # fmt: skip
    repaired = group.repaired
    packets, ts_ns = repaired.packets, repaired.packets.ts_ns
    reason = repaired.rejected[0][1] if repaired.rejected else ""
    return RepairedFlow(
        flow_id=flow_id(seed, label, index),
        reason=reason,
        distance=0.0 if reason else float(repaired.distance[0]),
        data=packets.data[packets.starts[0] : packets.starts[-1]],
        caplen=np.diff(packets.starts),
        wirelen=packets.wirelen,
        relative_ns=ts_ns - ts_ns[0] if len(ts_ns) else ts_ns,
    )


def compile_kernels() -> None:
    """Compile the kernels, or load them, before they are needed, by repairing a flow of noise."""
    layout = layout_named(DEFAULT_LAYOUT)
    noise = np.random.default_rng(0).integers(0, 2, (8, layout.width), np.int8)
    repair([noise], layout, RepairContext(label=""), np.ones(1, np.uint64))
