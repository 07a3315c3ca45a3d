"""From drawn nprints to packets and a report of what was changed.

Shape letters: N flows, P packets, B bits, F fields.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netdiff_ray.dialogue import Named
from netdiff_ray.fields import FIELDS
from netdiff_ray.nprint.codec import encode
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import Batch, gather, read
from netdiff_ray.repair.change_report import PRESENCE, VALUE, batch_states, change_report
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.duplicates import write_duplicates
from netdiff_ray.repair.plans import Plans, no_plans
from netdiff_ray.repair.repeat_runs import settle_repeats
from netdiff_ray.repair.repeats import read_repeats
from netdiff_ray.repair.rules import RULES
from netdiff_ray.repair.serialise import Buffers, Packets, serialise


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """Repaired flows: their rows, their packets, and what was changed."""

    batch: Batch
    """The repaired flows."""
    packets: Packets
    """Their packets, flow after flow, as they are captured."""
    first: np.ndarray
    """(N + 1,) int64: the first of them of each flow, and their number."""
    changed: np.ndarray
    """(N, 3, F) int32: cells changed in each flow, by kind (ASSIGNED, VALUE, PRESENCE)
    and field of FIELDS."""
    answerable: np.ndarray
    """(N,) int64: cells that the model answers for."""
    after_end: np.ndarray
    """(N,) int64: rows drawn after the vacant row that ended the flow; they are dropped."""
    rejected: tuple[tuple[int, str], ...]
    """Position and reason of each flow that is not in the batch."""
    sampled: tuple[str, ...]
    """What the layout lacks: `interarrival`, sampled from the label's weights, and `direction`,
    derived from the drawn ports and ICMP types."""

    @property
    def corrected(self) -> np.ndarray:
        """(N, F) int32: cells that the model drew wrong, by field."""
        return self.changed[:, VALUE] + self.changed[:, PRESENCE]

    @property
    def distance(self) -> np.ndarray:
        """(N,) float64: repair distance, corrected cells over answerable ones; 0 is valid
        as drawn."""
        return self.corrected.sum(axis=1) / self.answerable

    def corrected_by_rule(self) -> dict[str, np.ndarray]:
        """Return (N,) int64 cells corrected in each flow, by name of the rule that owns their
        field; `presence` has those that were vacant and should not be, or the reverse,
        outside the options, whose rule settles their length."""
        by_rule = {rule.name: self.changed[:, VALUE, rule.columns].sum(axis=1) for rule in RULES}
        options = [field.name for field in FIELDS].index("tcp_opt")
        by_rule["tcp_options"] += self.changed[:, PRESENCE, options]
        present = self.changed[:, PRESENCE].sum(axis=1) - self.changed[:, PRESENCE, options]
        return by_rule | {"presence": present}

    def nprint(self, layout: Layout) -> np.ndarray:
        """Return (P, B) int8: the repaired packets encoded again."""
        packets = self.batch.packets
        return encode(
            packets.rows,
            layout,
            direction=packets.direction,
            interarrival_ns=packets.interarrival_ns,
            state=batch_states(self.batch, layout),
        )


def repair(
    nprints: np.ndarray | Sequence[np.ndarray],
    layout: Layout,
    context: RepairContext,
    seeds: np.ndarray,
    numbers: np.ndarray | None = None,
    buffers: Buffers | None = None,
    plans: Plans | None = None,
    named: Sequence[Named | None] | None = None,
) -> Repaired:
    """Return the packets that drawn flows become, and the report of what was changed.

    A flow's result depends on its matrix, seed, number, plan and the context alone.

    Args:
        nprints: (N, R, B) int8, or N matrices of (R_n, B), values 1, 0, -1.
        layout: of every matrix.
        context: statistics of the label and choices of the user.
        seeds: (N,) uint64.
        numbers: (N,) uint64, below 2**37 and distinct within a capture: flows of different
            numbers differ in their client. Default: the seeds.
        buffers: memory to reuse from call to call.
        plans: of the N flows. What is planned is assigned: IP version, transport, whether a
            handshake opens the flow, ports, lifetimes, DF, traffic class, options and windows of
            the SYNs, and whether packets are captured twice. Default: nothing is planned.
        named: the host that each flow asks for or speaks to. Default: dialogues choose.

    Raises:
        ValueError: there are not as many seeds, numbers or plans as flows. Bad matrices raise
            nothing: they are in `rejected`.
    """
    drawn = gather(nprints, layout)
    seeds = np.asarray(seeds, np.uint64)
    numbers = seeds if numbers is None else np.asarray(numbers, np.uint64)
    num_flows = len(drawn.row_starts) - 1
    plans = no_plans(num_flows) if plans is None else plans
    if not len(seeds) == len(numbers) == len(plans.version) == num_flows:
        raise ValueError(
            f"{num_flows:,} nprints need as many seeds, numbers and plans; "
            f"there are {len(seeds):,}, {len(numbers):,} and {len(plans.version):,}"
        )
    batch, after_end, rejected = read(drawn, layout, seeds, numbers, plans)
    if layout.has_state and len(batch):
        settle_repeats(batch, context.profile.repeats)
        read_repeats(batch)
    # Empty arrays are contiguous, and numba would compile every kernel once more for them.
    for rule in RULES if len(batch) else ():
        rule.apply(batch, context, layout)
    packets, first = write_duplicates(batch, serialise(batch, context, buffers, named))
    changed, answerable = change_report(batch, layout)
    return Repaired(
        batch=batch,
        packets=packets,
        first=first,
        changed=changed,
        answerable=answerable,
        after_end=after_end,
        rejected=tuple(rejected),
        sampled=() if layout.needs_flow else ("direction", "interarrival"),
    )
