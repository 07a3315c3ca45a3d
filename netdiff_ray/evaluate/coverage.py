"""Precision, recall, density and coverage of synthetic flows among real ones.

Precision and recall (Kynkäänniemi et al., NeurIPS 2019), density and coverage (Naeem et
al., ICML 2020), in the space of `distances`, label by label.

Shape letters: N real flows, M synthetic flows.
"""

import numpy as np

from netdiff_ray.evaluate.distances import distances, pack
from netdiff_ray.evaluate.report_section import not_available, section, table
from netdiff_ray.evaluate.summary import Summary, halves

HEADLINE = ("precision", "recall", "density", "coverage", "duplicates")
NEIGHBOURS = 5
_MEASURES = HEADLINE[:4]


def prdc(
    real_real: np.ndarray, synthetic_synthetic: np.ndarray, real_synthetic: np.ndarray
) -> dict[str, float]:
    """Return {"precision", "recall", "density", "coverage"} of synthetic flows.

    A flow's ball reaches to its NEIGHBOURS-th neighbour in its source (the farthest, where
    the source has fewer) and includes its surface, so that copies lie in it.

    Args:
        real_real: (N, N) distances, N at least 2.
        synthetic_synthetic: (M, M), M at least 2.
        real_synthetic: (N, M).
    """
    real_radius = _radius(real_real)
    in_real = real_synthetic <= real_radius[:, None]
    in_synthetic = real_synthetic <= _radius(synthetic_synthetic)[None, :]
    neighbours = min(NEIGHBOURS, len(real_real) - 1)
    return {
        "precision": float(in_real.any(axis=0).mean()),
        "recall": float(in_synthetic.any(axis=1).mean()),
        "density": float(in_real.sum(axis=0).mean() / neighbours),
        "coverage": float(in_real.any(axis=1).mean()),
    }


def _radius(within: np.ndarray) -> np.ndarray:
    """Return the (N,) distances of flows to their NEIGHBOURS-th neighbour."""
    neighbours = min(NEIGHBOURS, len(within) - 1)
    return np.partition(within, neighbours, axis=1)[:, neighbours]  # itself is the nearest


def coverage(real: Summary, synthetic: Summary) -> dict:
    """Return the coverage section.

    `headline`: means over the labels that both sources have, and the share of all synthetic
    flows that copy an earlier one.
    """
    rows, floors = [], []
    for label in sorted(set(real.labels) & set(synthetic.labels)):
        a, b = (s.take(np.flatnonzero(s.label == label)) for s in (real.sample, synthetic.sample))
        if min(len(a), len(b)) < 2:
            continue
        a_packed, b_packed = pack(a), pack(b)
        within = distances(a_packed, a_packed)
        measures = prdc(within, distances(b_packed, b_packed), distances(a_packed, b_packed))
        floors.append(_halves(within, halves(a.key, 0, 0)))
        rows.append([label, len(a), len(b), *measures.values(), floors[-1].get("coverage")])
    if not rows:
        return not_available("no label has 2 flows in both sources", HEADLINE)
    means = np.array([row[3:7] for row in rows]).mean(axis=0)
    floor = [_mean_of([f[name] for f in floors if f]) for name in _MEASURES]
    copied = duplicates(synthetic)
    return section(
        {**dict(zip(_MEASURES, means, strict=True)), "duplicates": copied},
        tables=[
            table(
                "Precision, recall, density, coverage",
                ["flows", *_MEASURES, "exact duplicates"],
                [
                    ["synthetic", *means, copied],
                    ["real, one half against the other", *floor, duplicates(real)],
                ],
                "Precision: synthetic flows that lie among real ones. Recall: real flows that lie "
                "among synthetic ones. Coverage: real flows that have a synthetic one near. 1 is "
                "best, and a density of 1 or more. Duplicates: flows whose bits are those of an "
                "earlier flow of their source.",
            ),
            table(
                "By label",
                ["label", "real flows", "synthetic flows", *_MEASURES, "coverage of real halves"],
                rows,
                f"On the samples; {NEIGHBOURS} neighbours.",
            ),
        ],
    )


def _halves(within: np.ndarray, first: np.ndarray) -> dict[str, float]:
    """Return `prdc` of the second half of real flows against the first; {} if too few."""
    a, b = np.flatnonzero(first), np.flatnonzero(~first)
    if min(len(a), len(b)) < 2:
        return {}
    return prdc(within[np.ix_(a, a)], within[np.ix_(b, b)], within[np.ix_(a, b)])


def _mean_of(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def duplicates(source: Summary) -> float:
    """Return the share of flows whose bits are those of an earlier flow of the source."""
    return 1 - len(source.contents) / source.total_flows
