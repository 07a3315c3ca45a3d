"""How many flows the labels of a dataset lack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.profile import MIN_FLOWS_DISCLOSED


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """What labels lack."""

    goal: int
    """Flows that each label is to have."""
    lacking: dict[str, int]
    """Flows to draw, by label; labels that lack none are not in it."""
    too_few: dict[str, int]
    """Flows of the labels that have too few for statistics, so that none can be drawn."""

    def words(self) -> list[str]:
        """Return what there is to say of labels that nothing is drawn for, a line each."""
        return [
            f"label {label!r} has {count:,} flow{'s' * (count != 1)}, too few for statistics that "
            f"tell nothing of a single flow (at least {MIN_FLOWS_DISCLOSED}): none is drawn for it"
            for label, count in self.too_few.items()
        ]


def shortfall(
    counts: Mapping[str, int], flows: int | None = None, labels: Sequence[str] = ()
) -> Shortfall:
    """Return what labels lack.

    Args:
        counts: flows of each label.
        flows: that each is to have; those of the most frequent label unless given.
        labels: to draw for; all unless given.

    Raises:
        ConfigError: a label is not among them, or there is nothing to draw.
    """
    unknown = sorted(set(labels) - set(counts))
    if unknown:
        raise ConfigError(
            f"the dataset has no label {unknown[0]!r}; it has {', '.join(sorted(counts))}"
        )
    goal = max(counts.values(), default=0) if flows is None else flows
    missing = {
        label: goal - count
        for label, count in sorted(counts.items())
        if count < goal and (not labels or label in labels)
    }
    too_few = {label: counts[label] for label in missing if counts[label] < MIN_FLOWS_DISCLOSED}
    found = Shortfall(
        goal=goal, lacking={k: n for k, n in missing.items() if k not in too_few}, too_few=too_few
    )
    if not found.lacking:
        reasons = found.words() or [f"no label has fewer than {goal:,} flows"]
        raise ConfigError(f"there is nothing to draw: {'; '.join(reasons)}")
    return found
