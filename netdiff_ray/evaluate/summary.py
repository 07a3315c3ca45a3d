"""The summary of a flow source: sums and a sample, both mergeable.

`merge(summarise(a), summarise(b))` equals `summarise` of both at once, in any order, so
that blocks can be summed up anywhere. What is random (bootstrap weights, halves, the
sample) derives from the hash of each flow's id, not from the order of arrival.

Shape letters: N flows, P packets, C columns, F features, D outcomes of all variables,
V variables, R replicates, S splits, W rows of weights (1 + R + S).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from netdiff_ray.evaluate.flow_arrays import FlowArrays, joined_arrays, ranges
from netdiff_ray.evaluate.flow_blocks import FlowBlock
from netdiff_ray.evaluate.flow_statistics import FEATURES
from netdiff_ray.evaluate.flow_view import VIEW
from netdiff_ray.fields import FIELD_NAMED
from netdiff_ray.nprint import VACANT

NUM_REPLICATES = 40
"""Bootstrap replicates, by Poisson(1) weights a flow (Hanley and MacGibbon, 2006)."""
NUM_SPLITS = 8
"""Random halvings of a source, for its distance to itself."""
SAMPLE_PACKETS = 32
"""Packets of a flow in the sample."""
MAX_FLOWS = 2_000
"""Flows in the sample."""

_HASHED_VALUES = 256
_LEVELS = 256
_LEVELS_PER_OCTAVE = 8
_TIME_UNIT_S = 1e-6


@dataclass(frozen=True)
class Variables:
    """The variables whose distributions are counted, and where their outcomes lie."""

    kind: tuple[str, ...]
    """bit, field or feature, of each."""
    name: tuple[str, ...]
    """Column of the view, field, or feature."""
    starts: np.ndarray
    """(V,) int64: first outcome of each."""
    width: int
    """Outcomes of all."""

    def of_kind(self, kind: str) -> slice:
        """Return where the variables of a kind stand, which are adjacent."""
        return slice(self.kind.index(kind), self.kind.index(kind) + self.kind.count(kind))


def _all_variables() -> Variables:
    sizes = [("bit", name, 3) for name in VIEW.column_names]
    for name in VIEW.fields:
        sizes.append(("field", name, min(2 ** FIELD_NAMED[name].width, _HASHED_VALUES) + 2))
    sizes += [("feature", name, _LEVELS) for name in FEATURES]
    ends = np.cumsum([size for _, _, size in sizes])
    return Variables(
        tuple(kind for kind, _, _ in sizes), tuple(name for _, name, _ in sizes),
        np.concatenate([[0], ends[:-1]]), int(ends[-1]),
    )  # fmt: skip


VARIABLES = _all_variables()
"""A bit has three outcomes; a field its values, then vacant, then vacant in part. Values of
fields wider than eight bits are hashed into 256, which can only lower a divergence; a
feature has 256 levels, eight an octave."""


Sample = FlowArrays
"""At most MAX_FLOWS flows with SAMPLE_PACKETS packets each: of each label those of least key.

Labels fill up evenly: all flows of a small label, as many of each larger one."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A flow source, summed up."""

    outcome_counts: dict[str, np.ndarray]
    """(W, D) int64 counts of outcomes by label: all flows, then each replicate, then the
    first half of each split."""
    num_flows: Counter
    """By label."""
    num_packets: int
    """Of all flows, those behind the first MAX_PACKETS too."""
    sample: Sample
    addresses: frozenset[bytes]
    has_addresses: bool
    keys: frozenset[int]
    """Keys of all flows."""
    contents: Counter
    """Flows by content."""
    sequences: Counter
    """Flows by the sequence of their sizes and directions, but the short ones."""
    num_repaired: int
    """Flows whose source records what repair changed."""
    repair_distance: float
    """Sum over them."""
    corrected: Counter
    """Bits by field."""
    answerable: int
    dialogues: Counter = field(default_factory=Counter)
    """Flows by label, what they were to speak and whether they do."""
    notes: frozenset[str] = field(default=frozenset())

    @property
    def labels(self) -> list[str]:
        """The labels, sorted."""
        return sorted(self.num_flows)

    @property
    def total_flows(self) -> int:
        """Flows of all labels."""
        return self.num_flows.total()


class Sides(NamedTuple):
    """The summaries that a report compares, each with its salt of `evaluation.SALTS`."""

    real: Summary
    """Real flows that the model was not trained on."""
    synthetic: Summary
    train: Summary | None = None
    """Flows that the model was trained on."""
    drawn: Summary | None = None
    """What the model drew, before repair."""
    random: Summary | None = None
    """The baseline: random bits under the plans and the repair of the synthetic flows."""

    def named(self) -> dict[str, Summary]:
        """Return those that there are, by name."""
        return {name: summary for name, summary in self._asdict().items() if summary is not None}


def summarise(blocks: Iterable[FlowBlock], *, salt: int = 0) -> Summary:
    """Return the summary of a source.

    Args:
        blocks: its flows, which are read one block at a time.
        salt: another number for each source, so that their replicates are independent.
    """
    total = summarise_block(FlowBlock.empty(), salt=salt)
    for block in blocks:
        total = merge(total, summarise_block(block, salt=salt))
    return total


def merge(a: Summary, b: Summary) -> Summary:
    """Return the summary of the flows of both."""
    outcome_counts = dict(a.outcome_counts)
    for label, counts in b.outcome_counts.items():
        outcome_counts[label] = (
            outcome_counts[label] + counts if label in outcome_counts else counts
        )
    return Summary(
        outcome_counts=outcome_counts,
        num_flows=a.num_flows + b.num_flows,
        num_packets=a.num_packets + b.num_packets,
        sample=_trimmed(Sample(**joined_arrays([a.sample, b.sample]))),
        addresses=a.addresses | b.addresses,
        has_addresses=a.has_addresses or b.has_addresses,
        keys=a.keys | b.keys,
        contents=a.contents + b.contents,
        sequences=a.sequences + b.sequences,
        num_repaired=a.num_repaired + b.num_repaired,
        repair_distance=a.repair_distance + b.repair_distance,
        corrected=a.corrected + b.corrected,
        answerable=a.answerable + b.answerable,
        dialogues=a.dialogues + b.dialogues,
        notes=a.notes | b.notes,
    )


def summarise_block(block: FlowBlock, *, salt: int) -> Summary:
    """Return the summary of a block."""
    weights = flow_weights(block.key, salt)
    flows = Sample(**joined_arrays([block]))
    outcomes = _outcomes(block)
    outcome_counts = {}
    labels, of_label = np.unique(block.label, return_inverse=True)
    for k, label in enumerate(labels.tolist()):
        chosen = np.flatnonzero(of_label == k)
        outcome_counts[label] = _count_outcomes(block, outcomes, chosen, weights[:, chosen])
    return Summary(
        outcome_counts=outcome_counts,
        num_flows=Counter(block.label.tolist()),
        num_packets=int(block.features[:, FEATURES.index("packets")].sum()),
        sample=_trimmed(flows.shortened(SAMPLE_PACKETS)),
        addresses=block.addresses,
        has_addresses=block.has_addresses,
        keys=frozenset(block.key.tolist()),
        contents=Counter(block.content.tolist()),
        sequences=Counter(block.sequence[block.sequence > 0].tolist()),
        num_repaired=block.num_repaired,
        repair_distance=block.repair_distance,
        corrected=block.corrected,
        answerable=block.answerable,
        dialogues=block.dialogues,
        notes=frozenset(block.notes),
    )


def mixed(key: np.ndarray, salt: int) -> np.ndarray:
    """Return (N,) uint64 keys hashed with a salt (Steele et al., SplitMix64, OOPSLA 2014)."""
    z = key + np.uint64(0x9E3779B97F4A7C15 * (salt + 1) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def halves(key: np.ndarray, split: int, salt: int) -> np.ndarray:
    """Return (N,) bool: whether flows lie in the first half of a split."""
    return (mixed(key, 1000 * salt + split) >> np.uint64(63)).astype(np.bool_)


_POISSON = np.cumsum(np.exp(-1) / np.cumprod([1, 1, 2, 3, 4, 5, 6, 7]))


def flow_weights(key: np.ndarray, salt: int) -> np.ndarray:
    """Return the (W, N) float64 weights of flows in all, each replicate, each first half."""
    weights = np.ones((1 + NUM_REPLICATES + NUM_SPLITS, len(key)))
    for r in range(NUM_REPLICATES):
        uniform = mixed(key, 1000 * salt + 500 + r) / 2.0**64
        weights[1 + r] = np.searchsorted(_POISSON, uniform, side="right")
    for s in range(NUM_SPLITS):
        weights[1 + NUM_REPLICATES + s] = halves(key, s, salt)
    return weights


def feature_levels(features: np.ndarray) -> np.ndarray:
    """Return (N, F) int64 FEATURES on a log scale, eight levels an octave.

    Level 0 is below the unit: a microsecond for times, else 1.
    """
    units = np.array([_TIME_UNIT_S if name.endswith("_s") else 1.0 for name in FEATURES])
    octaves = np.log2(np.maximum(features / units, 1.0))
    levels = 1 + (octaves * _LEVELS_PER_OCTAVE + 1e-9).astype(np.int64)
    return np.where(features < units, 0, np.minimum(levels, _LEVELS - 1))


def _outcomes(block: FlowBlock) -> np.ndarray:
    """Return (P, fields) int64: the outcome of each field in each packet, an index into D."""
    of_fields = VARIABLES.of_kind("field")
    result = np.empty((len(block.bits), len(VIEW.fields)), np.int64)
    for k, name in enumerate(VIEW.fields):
        cells = block.bits[:, VIEW.columns(name)]
        width = cells.shape[1]
        if width <= 8:
            value = (cells == 1) @ (1 << np.arange(width - 1, -1, -1))
        else:
            terms = mixed(np.arange(width, dtype=np.uint64), k)
            value = (mixed((cells == 1) @ terms, k) % np.uint64(_HASHED_VALUES)).astype(np.int64)
        size = min(2**width, _HASHED_VALUES)
        vacant = (cells == VACANT).sum(axis=1)
        value[vacant > 0] = size + 1
        value[vacant == width] = size
        result[:, k] = value + VARIABLES.starts[of_fields][k]
    return result


def _count_outcomes(
    block: FlowBlock, outcomes: np.ndarray, chosen: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the (W, D) int64 weighted counts of outcomes of the flows `chosen`."""
    from scipy import sparse

    counts = np.diff(block.first)[chosen]
    begins = np.cumsum(counts) - counts
    packets = ranges(block.first[:-1][chosen], counts)
    bits = block.bits[packets]
    per_flow = [np.add.reduceat(bits == state, begins, axis=0, dtype=np.int32) for state in (1, -1)]
    ones, vacant = (weights @ counted for counted in per_flow)
    packets_in = weights @ counts
    outcome_count = np.zeros((len(weights), VARIABLES.width), np.int64)
    by_bit = np.stack([ones, packets_in[:, None] - ones - vacant, vacant], axis=2)
    outcome_count[:, : 3 * VIEW.width] = np.rint(by_bit).astype(np.int64).reshape(len(weights), -1)

    num_fields = outcomes.shape[1]
    rows = np.repeat(np.repeat(np.arange(len(chosen)), counts), num_fields)
    levels = feature_levels(block.features[chosen])
    levels = levels + VARIABLES.starts[VARIABLES.of_kind("feature")]
    rows = np.concatenate([rows, np.repeat(np.arange(len(chosen)), levels.shape[1])])
    columns = np.concatenate([outcomes[packets].ravel(), levels.ravel()])
    shape = (len(chosen), VARIABLES.width)
    incidence = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    outcome_count += np.rint((incidence.T @ weights.T).T).astype(np.int64)
    return outcome_count


def _trimmed(sample: Sample) -> Sample:
    """Return at most MAX_FLOWS flows, in order of label and key.

    Trimming repeatedly gives the same as trimming all at once: the room of a label only
    shrinks as flows come in.
    """
    order = np.lexsort((sample.key, sample.label))
    labels, counts = np.unique(sample.label, return_counts=True)
    room = label_room(counts, MAX_FLOWS)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = order[rank < room] if len(labels) else order
    if len(chosen) == len(sample) and (chosen == np.arange(len(chosen))).all():
        return sample
    return sample.take(chosen)


def label_room(counts: np.ndarray, most: int) -> int:
    """Return the most flows a label may have for all to have at most `most` together."""
    low, high = 1, int(counts.max(initial=1))
    while low < high:
        middle = (low + high + 1) // 2
        if np.minimum(counts, middle).sum() <= most:
            low = middle
        else:
            high = middle - 1
    return low
