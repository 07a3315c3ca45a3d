"""From drawn nprints to packets and their account.

Shape letters: N flows, P packets, B bits, F fields.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netdiff_ray.fields import FIELDS
from netdiff_ray.nprint.codec import encode
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import Batch, gather, read
from netdiff_ray.repair.change_report import PRESENCE, VALUE, account
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.rules import RULES
from netdiff_ray.repair.serialise import Buffers, Packets, serialise


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """Repaired flows: their rows, their packets, and what was changed."""

    batch: Batch
    """The repaired flows."""
    packets: Packets
    """Their packets, flow after flow."""
    changed: np.ndarray
    """(N, 3, F) int32: cells changed in each flow, by kind (ASSIGNED, VALUE, PRESENCE)
    and field of FIELDS."""
    answerable: np.ndarray
    """(N,) int64: cells that the model answers for."""
    after_end: np.ndarray
    """(N,) int64: rows drawn after the vacant row that ended the flow, and dropped."""
    rejected: tuple[tuple[int, str], ...]
    """Position and reason of each flow that is not in the batch."""
    sampled: tuple[str, ...]
    """What the layout lacks: `interarrival`, drawn from the label's weights, and `direction`,
    told from the drawn ports and ICMP types."""

    @property
    def corrected(self) -> np.ndarray:
        """(N, F) int32: cells that the model got wrong, by field."""
        return self.changed[:, VALUE] + self.changed[:, PRESENCE]

    @property
    def distance(self) -> np.ndarray:
        """(N,) float64: repair distance, corrected cells over answerable ones; 0 is valid
        as drawn."""
        return self.corrected.sum(axis=1) / self.answerable

    def corrected_by_rule(self) -> dict[str, np.ndarray]:
        """(N,) int64 cells corrected in each flow, by name of the rule that settles their
        field; `presence` has those that were vacant and should not be, or the reverse,
        outside the options, whose rule settles their length."""
        by_rule = {rule.name: self.changed[:, VALUE, rule.columns].sum(axis=1) for rule in RULES}
        options = [field.name for field in FIELDS].index("tcp_opt")
        by_rule["tcp_options"] += self.changed[:, PRESENCE, options]
        present = self.changed[:, PRESENCE].sum(axis=1) - self.changed[:, PRESENCE, options]
        return by_rule | {"presence": present}

    def nprint(self, layout: Layout) -> np.ndarray:
        """(P, B) int8: the repaired packets encoded again."""
        return encode(
            self.batch.rows,
            layout,
            direction=self.batch.direction,
            interarrival_ns=self.batch.interarrival_ns,
        )


def repair(
    nprints: np.ndarray | Sequence[np.ndarray],
    layout: Layout,
    context: RepairContext,
    seeds: np.ndarray,
    numbers: np.ndarray | None = None,
    buffers: Buffers | None = None,
) -> Repaired:
    """The packets that drawn flows become, and the account of what was changed.

    A flow's result depends on its matrix, seed, number and the context alone.

    Args:
        nprints: (N, R, B) int8, or N matrices of (R_n, B), values 1, 0, -1.
        layout: of every matrix.
        context: facts of the label and choices of the user.
        seeds: (N,) uint64.
        numbers: (N,) uint64, below 2**37 and each once in what is captured together: it
            gives the flow a client of its own. The seeds unless given.
        buffers: to be reused from call to call.

    Raises:
        ValueError: seeds or numbers are not one a flow. Bad matrices raise nothing: they
            are in `rejected`.
    """
    drawn = gather(nprints, layout)
    seeds = np.asarray(seeds, np.uint64)
    numbers = seeds if numbers is None else np.asarray(numbers, np.uint64)
    num_flows = len(drawn.row_starts) - 1
    if len(seeds) != num_flows or len(numbers) != num_flows:
        raise ValueError(
            f"{num_flows:,} nprints need as many seeds and numbers; "
            f"there are {len(seeds):,} and {len(numbers):,}"
        )
    batch, after_end, rejected = read(drawn, layout, seeds, numbers)
    # For arrays without rows numba would compile every kernel once more: they are contiguous.
    for rule in RULES if len(batch) else ():
        rule.apply(batch, context, layout)
    packets = serialise(batch, context, buffers)
    changed, answerable = account(batch, layout)
    return Repaired(
        batch=batch,
        packets=packets,
        changed=changed,
        answerable=answerable,
        after_end=after_end,
        rejected=tuple(rejected),
        sampled=() if layout.needs_flow else ("direction", "interarrival"),
    )
