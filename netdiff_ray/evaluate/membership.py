"""Attacks that tell training flows from held-out ones by the synthetic flows.

The families of Synth-MIA (Ward et al., arXiv:2509.18014), of which the strongest counts:

- distance to the nearest synthetic flow (Chen et al., GAN-Leaks, CCS 2020);
- density of the synthetic flows around a flow, against that of reference flows (van Breugel
  et al., DOMIAS, AISTATS 2023);
- a classifier trained to tell synthetic flows from reference flows (Hayes et al., LOGAN,
  PoPETs 2019).

The attacker of the last two has real flows for reference: half of the held-out flows, while
the attack is judged on the other half, and the other way round.

Shape letters: N synthetic flows, T training flows, H held-out flows.
"""

import numpy as np

from netdiff_ray.evaluate.distances import Packed, distances, pack
from netdiff_ray.evaluate.models import fit_and_predict
from netdiff_ray.evaluate.packet_views import header_values, sizes_and_times
from netdiff_ray.evaluate.summary import Sample, mixed

ATTACKS = {
    "distance": "distance to the nearest synthetic flow",
    "density": "density of synthetic flows against reference flows",
    "classifier": "classifier of synthetic against reference flows",
}
FALSE_ALARMS = 0.01
"""Share of held-out flows that an attack may take for training flows."""
_LEAST_WIDTH = 1e-3

Scores = tuple[np.ndarray, np.ndarray]
"""(T,) and (H,) float64: higher for what an attack takes for training flows."""


def attack_scores(synthetic: Sample, members: Sample, others: Sample) -> dict[str, Scores]:
    """Return the scores of each of ATTACKS.

    Args:
        synthetic: what the attacker sees.
        members: training flows.
        others: held-out flows, at least 2.
    """
    drawn, ours, theirs = pack(synthetic), pack(members), pack(others)
    nearest = [distances(flows, drawn).min(axis=1) for flows in (ours, theirs)]
    halves = [_halves(members), _halves(others)]
    result = {"distance": (-nearest[0], -nearest[1])}
    judges = {"density": _density_judge(drawn, theirs), "classifier": _trained_judge}
    for name, judge in judges.items():
        scores = np.zeros(len(members)), np.zeros(len(others))
        for half in (False, True):
            reference = np.flatnonzero(halves[1] != half)
            judged = [np.flatnonzero(of_flow == half) for of_flow in halves]
            if name == "density":
                found = [judge(flows.take(k), reference)
                         for flows, k in zip((ours, theirs), judged, strict=True)]  # fmt: skip
            else:
                flows = [members.take(judged[0]), others.take(judged[1])]
                found = judge(synthetic, others.take(reference), flows)
            for into, k, some in zip(scores, judged, found, strict=True):
                into[k] = some
        result[name] = scores
    return result


def _halves(sample: Sample) -> np.ndarray:
    """Return (N,) bool such that half of the flows of each label are set."""
    order = np.lexsort((mixed(sample.key, 11), sample.label))
    in_half = np.zeros(len(sample), np.bool_)
    in_half[order[::2]] = True
    return in_half


def _density_judge(drawn: Packed, theirs: Packed):
    """Return a function that scores flows by the logarithm of the ratio of two densities.

    Densities are means of exp(-distance / width); the width is a tenth of the median distance
    of a held-out flow to its nearest other, so that a copy weighs more than its neighbours.
    """
    among = distances(theirs, theirs)
    np.fill_diagonal(among, np.inf)
    width = max(float(np.median(among.min(axis=1))) / 10, _LEAST_WIDTH)

    def score(flows: Packed, reference: np.ndarray) -> np.ndarray:
        by_source = [
            np.exp(-distances(flows, source) / width).mean(axis=1) + np.finfo(np.float32).tiny
            for source in (drawn, theirs.take(reference))
        ]
        return np.log(by_source[0]) - np.log(by_source[1])

    return score


def _trained_judge(synthetic: Sample, reference: Sample, judged: list[Sample]) -> list[np.ndarray]:
    """Return for each of `judged` the probability that its flows are synthetic."""
    x = np.concatenate([_matrix(synthetic), _matrix(reference)])
    y = np.repeat([0, 1], [len(synthetic), len(reference)])
    tested = np.concatenate([_matrix(sample) for sample in judged])
    _, shares = fit_and_predict("forest", x, y, tested, 0)
    return np.split(shares[:, 0], [len(judged[0])])


def _matrix(sample: Sample) -> np.ndarray:
    return np.concatenate(
        [sizes_and_times(sample), header_values(sample), sample.statistics],
        axis=1,
        dtype=np.float32,
    )


def caught(scores: Scores) -> float:
    """Return the share of training flows caught at FALSE_ALARMS, ties with them not counted."""
    members, others = scores
    return float((members > np.quantile(others, 1 - FALSE_ALARMS)).mean())


def attribute_accuracy(
    flows: Sample, synthetic: Sample, attribute: np.ndarray, drawn: np.ndarray
) -> float | None:
    """Return how often an attacker guesses an attribute of flows whose packets it has seen.

    The guess is the attribute of the nearest synthetic flow. None if no flow has the attribute.

    Args:
        flows: whose attribute is guessed.
        synthetic: what the attacker sees.
        attribute: (flows,) of the former.
        drawn: (N,) of the latter.
    """
    known = attribute > 0
    if not known.any() or not (drawn > 0).any():
        return None
    nearest = distances(pack(flows), pack(synthetic)).argmin(axis=1)
    return float((drawn[nearest] == attribute)[known].mean())
