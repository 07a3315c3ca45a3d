"""Whether a classifier trained on synthetic flows recognises real ones.

Esteban et al., arXiv:1706.02633 (2017): train on synthetic, test on real (TSTR), against
train on real, test on real (TRTR).

Shape letters: N flows, L labels.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from netdiff_ray.evaluate.models import (
    MODELS,
    balanced_accuracy,
    confusion,
    feature_matrix,
    first_packets,
    fit_and_predict,
    over_seeds,
)
from netdiff_ray.evaluate.report_section import not_available, part, table
from netdiff_ray.evaluate.summary import Sample, Summary

HEADLINE = ("tstr", "trtr", "ratio")
VIEWS = ("first 3 packets", "first 8 packets", "first 32 packets", "flow features")
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Synthetic flows among the training flows; 0 is TRTR, 1 is TSTR."""
HEADLINE_VIEW = "first 8 packets"
HEADLINE_MODEL = "forest"
_TEST_SHARE = 0.3
_LEAST_FLOWS = 4


@dataclass(frozen=True)
class Task:
    """One model to be trained and tested; its score derives from these fields alone."""

    view: str
    model: str
    share: float | None
    """One of SHARES, or None for all real training flows and as many synthetic ones on top."""
    seed: int


Done = tuple[Task, np.ndarray]
"""A task and its (L, L) confusion matrix on real test flows."""


@dataclass(frozen=True)
class Arena:
    """Flows that the tasks draw from, and their classes."""

    labels: tuple[str, ...]
    pool: Sample
    """Real flows to train on."""
    test: Sample | None
    """Real flows to test on; None if each seed holds some of the pool out."""
    synthetic: Sample
    left_out: tuple[str, ...]
    """Labels that one side at least has too few flows of."""


def arena(real: Summary, synthetic: Summary, train: Summary | None) -> Arena | str:
    """What to train and test on, or why that cannot be.

    With training flows beside real ones that they do not hold, models train on the former
    and are tested on the latter; else each seed holds a part of the real flows out.
    """
    pool, test = real.sample, None
    if train is not None:
        apart = train.sample.take(np.flatnonzero(~np.isin(train.sample.key, real.sample.key)))
        if len(apart) >= len(train.sample) / 2:
            pool, test = apart, real.sample
    sides = [(s, _LEAST_FLOWS if s is pool and test is None else 2) for s in (pool,)]
    sides += [(synthetic.sample, 2)] + ([(test, 1)] if test is not None else [])
    shared = set.intersection(*(_labels_with(side, least) for side, least in sides))
    if len(shared) < 2:
        return (
            f"{len(shared)} labels have enough flows on both sides; at least 2 labels with "
            f"{_LEAST_FLOWS} real and 2 synthetic flows each are needed"
        )

    def kept(side: Sample) -> Sample:
        return side.take(np.flatnonzero(np.isin(side.label, list(shared))))

    return Arena(
        labels=tuple(sorted(shared)),
        pool=kept(pool),
        test=kept(test) if test else None,
        synthetic=kept(synthetic.sample),
        left_out=tuple(sorted({*real.labels, *synthetic.labels} - shared)),
    )


def _labels_with(side: Sample, least: int) -> set[str]:
    labels, counts = np.unique(side.label, return_counts=True)
    return set(labels[counts >= least].tolist())


def tasks(num_seeds: int) -> list[Task]:
    """Everything that is trained, each independent of the others.

    Boosting, which costs several times as much, is trained on one mixture only.
    """
    shares = {"forest": (*SHARES, None), "boosting": (0.0, 0.5, 1.0)}
    return [
        Task(view, model, share, seed)
        for view in VIEWS
        for model in MODELS
        for share in shares[model]
        for seed in range(num_seeds)
    ]


def run_tasks(flows: Arena, chosen: Sequence[Task], *, jobs: int = 1) -> list[Done]:
    """Each task with its confusion matrix, in the order given, on `jobs` threads."""
    sides = [flows.pool, flows.synthetic, *([flows.test] if flows.test is not None else [])]
    classes = [np.searchsorted(flows.labels, side.label) for side in sides]
    matrices = {
        view: [view_matrix(side, view) for side in sides]
        for view in dict.fromkeys(task.view for task in chosen)
    }
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(
            lambda task: _run(task, matrices[task.view], classes, len(flows.labels)), chosen
        )
        return list(zip(chosen, results, strict=True))


def _run(task: Task, x: list[np.ndarray], y: list[np.ndarray], num_labels: int) -> np.ndarray:
    """(L, L) confusion matrix of one task, from the matrices and classes of the real pool,
    the synthetic flows and, if there are any, the real test flows."""
    random = np.random.default_rng([task.seed, 7])
    pool, held = _split(y[0], random)
    x_test, y_test = (x[0][held], y[0][held]) if len(x) == 2 else (x[2], y[2])
    from_real, from_synthetic = _mix(task.share, y[0], pool, y[1], random)
    x_train = np.concatenate([x[0][from_real], x[1][from_synthetic]])
    y_train = np.concatenate([y[0][from_real], y[1][from_synthetic]])
    predicted, _ = fit_and_predict(task.model, x_train, y_train, x_test, task.seed)
    return confusion(y_test, predicted, num_labels)


def view_matrix(sample: Sample, view: str) -> np.ndarray:
    """The matrix of one of VIEWS, a row a flow."""
    if view == "flow features":
        return feature_matrix(sample).astype(np.float32)
    return first_packets(sample, int(view.split()[1]))


def _split(y: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of flows to train on and to hold out, by class, one of each at least."""
    train, held = [], []
    for label in np.unique(y):
        members = random.permutation(np.flatnonzero(y == label))
        cut = max(round(len(members) * _TEST_SHARE), 1)
        held.append(members[:cut])
        train.append(members[cut:])
    return np.concatenate(train), np.concatenate(held)


def _mix(
    share: float | None,
    y_real: np.ndarray,
    pool: np.ndarray,
    y_synthetic: np.ndarray,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the real and the synthetic flows to train on.

    Each class has as many flows as the pool has of it, or fewer where there are not as
    many synthetic ones; every class has at least one.
    """
    real, synthetic = [], []
    for label in np.unique(y_real[pool]):
        ours = random.permutation(pool[y_real[pool] == label])
        theirs = random.permutation(np.flatnonzero(y_synthetic == label))
        drawn = len(ours) if share is None else round(share * len(ours))
        kept = len(ours) if share is None else len(ours) - drawn
        if share == 1.0:
            drawn = max(drawn, 1)
        real.append(ours[:kept])
        synthetic.append(theirs[:drawn])
    return np.concatenate(real), np.concatenate(synthetic)


def _mean(scores: list[float] | None) -> float | None:
    return float(np.mean(scores)) if scores else None


def report(flows: Arena | str, done: list[Done]) -> dict:
    """The utility part from the confusion matrices of all tasks.

    Args:
        flows: from `arena`; text says why there is nothing to report.
        done: from `run_tasks`.
    """
    if isinstance(flows, str):
        return not_available(flows, HEADLINE)
    scores: dict[tuple, list[float]] = {}
    matrices: dict[tuple, np.ndarray] = {}
    for task, matrix in done:
        key = task.view, task.model, task.share
        scores.setdefault(key, []).append(balanced_accuracy(matrix))
        matrices[key] = matrices.get(key, 0) + matrix
    trtr, _ = over_seeds(scores[HEADLINE_VIEW, HEADLINE_MODEL, 0.0])
    tstr, _ = over_seeds(scores[HEADLINE_VIEW, HEADLINE_MODEL, 1.0])
    rows, mixes = [], []
    for view, model in dict.fromkeys((v, m) for v, m, _ in scores):
        real, synthetic = (over_seeds(scores[view, model, s]) for s in (0.0, 1.0))
        rows.append([view, model, *real, *synthetic, synthetic[0] / real[0] if real[0] else None])
        shares = (*SHARES, None)
        mixes.append([view, model, *(_mean(scores.get((view, model, s))) for s in shares)])
    tested = "flows that no model saw" if flows.test else "held-out parts of the real flows"
    left_out = ", ".join(flows.left_out)
    notes = [f"labels left out for want of flows: {left_out}"] if left_out else []
    return part(
        {"tstr": tstr, "trtr": trtr, "ratio": tstr / trtr if trtr else None},
        notes=notes,
        tables=[
            table(
                "Balanced accuracy on real flows",
                ["trained on", "model", "real", "95 % interval", "synthetic", "95 % interval",
                 "ratio"],
                rows,
                f"Mean over seeds, with intervals; tested on {tested}. "
                f"{len(flows.labels)} labels, so that chance is {1 / len(flows.labels):.3f}. "
                "Models see no addresses, ports, identifiers, checksums or sequence numbers. "
                f"The headline is the {HEADLINE_MODEL} on the {HEADLINE_VIEW}.",
            ),
            table(
                "Real and synthetic flows mixed",
                ["trained on", "model",
                 *(f"{s:.0%} synthetic" for s in SHARES), "all real and as many synthetic"],
                mixes,
                "The training flows are as many in each column but the last.",
            ),
        ],
        confusion={
            "labels": list(flows.labels),
            "trtr": matrices[HEADLINE_VIEW, HEADLINE_MODEL, 0.0],
            "tstr": matrices[HEADLINE_VIEW, HEADLINE_MODEL, 1.0],
        },
    )  # fmt: skip
