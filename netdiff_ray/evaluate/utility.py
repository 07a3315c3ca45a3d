"""Classifiers trained on synthetic flows and tested on real ones.

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
from netdiff_ray.evaluate.report_section import not_available, section, table
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


TaskResult = tuple[Task, np.ndarray]
"""A task and its (L, L) confusion matrix on real test flows."""


@dataclass(frozen=True)
class UtilitySplit:
    """Flows to train on and to test on, and their classes."""

    labels: tuple[str, ...]
    pool: Sample
    """Real flows to train on."""
    test: Sample | None
    """Real flows to test on; None if each seed holds out some of the pool."""
    synthetic: Sample
    left_out: tuple[str, ...]
    """Labels of which a source has too few flows."""


def utility_split(real: Summary, synthetic: Summary, train: Summary | None) -> UtilitySplit | str:
    """Return what to train and test on, or why that cannot be.

    If training flows are given and are not the real flows, models train on the former and
    are tested on the latter; else each seed holds out some of the real flows.
    """
    pool, test = real.sample, None
    if train is not None:
        apart = train.sample.take(np.flatnonzero(~np.isin(train.sample.key, real.sample.key)))
        if len(apart) >= len(train.sample) / 2:
            pool, test = apart, real.sample
    needed = [(pool, _LEAST_FLOWS if test is None else 2), (synthetic.sample, 2)]
    needed += [(test, 1)] if test is not None else []
    shared = set.intersection(*(_labels_with(sample, least) for sample, least in needed))
    if len(shared) < 2:
        return (
            f"{len(shared)} labels have enough flows in both sources; at least 2 labels with "
            f"{_LEAST_FLOWS} real and 2 synthetic flows each are needed"
        )

    def of_shared(sample: Sample) -> Sample:
        return sample.take(np.flatnonzero(np.isin(sample.label, list(shared))))

    return UtilitySplit(
        labels=tuple(sorted(shared)),
        pool=of_shared(pool),
        test=of_shared(test) if test else None,
        synthetic=of_shared(synthetic.sample),
        left_out=tuple(sorted({*real.labels, *synthetic.labels} - shared)),
    )


def _labels_with(sample: Sample, least: int) -> set[str]:
    labels, counts = np.unique(sample.label, return_counts=True)
    return set(labels[counts >= least].tolist())


def tasks(num_seeds: int) -> list[Task]:
    """Return the tasks, each independent of the others.

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


def run_tasks(split: UtilitySplit, chosen: Sequence[Task], *, jobs: int = 1) -> list[TaskResult]:
    """Return each task with its confusion matrix, in the order given, by `jobs` threads."""
    samples = [split.pool, split.synthetic, *([split.test] if split.test is not None else [])]
    classes = [np.searchsorted(split.labels, sample.label) for sample in samples]
    matrices = {
        view: [view_matrix(sample, view) for sample in samples]
        for view in dict.fromkeys(task.view for task in chosen)
    }
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(
            lambda task: _run(task, matrices[task.view], classes, len(split.labels)), chosen
        )
        return list(zip(chosen, results, strict=True))


def _run(task: Task, x: list[np.ndarray], y: list[np.ndarray], num_labels: int) -> np.ndarray:
    """Return the (L, L) confusion matrix of a task.

    Args:
        x: matrices of the real pool, the synthetic flows and, if given, the real test flows.
        y: classes of the same.
    """
    random = np.random.default_rng([task.seed, 7])
    pool, held_out = _split(y[0], random)
    x_test, y_test = (x[0][held_out], y[0][held_out]) if len(x) == 2 else (x[2], y[2])
    from_real, from_synthetic = _mix(task.share, y[0], pool, y[1], random)
    x_train = np.concatenate([x[0][from_real], x[1][from_synthetic]])
    y_train = np.concatenate([y[0][from_real], y[1][from_synthetic]])
    predicted, _ = fit_and_predict(task.model, x_train, y_train, x_test, task.seed)
    return confusion(y_test, predicted, num_labels)


def view_matrix(sample: Sample, view: str) -> np.ndarray:
    """Return the matrix of one of VIEWS, a row a flow."""
    if view == "flow features":
        return feature_matrix(sample).astype(np.float32)
    return first_packets(sample, int(view.split()[1]))


def _split(y: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of flows to train on and to hold out, at least one of each class."""
    train, held_out = [], []
    for label in np.unique(y):
        members = random.permutation(np.flatnonzero(y == label))
        cut = max(round(len(members) * _TEST_SHARE), 1)
        held_out.append(members[:cut])
        train.append(members[cut:])
    return np.concatenate(train), np.concatenate(held_out)


def _mix(
    share: float | None,
    y_real: np.ndarray,
    pool: np.ndarray,
    y_synthetic: np.ndarray,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of the real and the synthetic flows to train on.

    Each class has as many flows as the pool has of it, or fewer if synthetic ones are
    fewer; every class has at least one.
    """
    real, synthetic = [], []
    for label in np.unique(y_real[pool]):
        ours = random.permutation(pool[y_real[pool] == label])
        theirs = random.permutation(np.flatnonzero(y_synthetic == label))
        num_synthetic = len(ours) if share is None else round(share * len(ours))
        num_real = len(ours) if share is None else len(ours) - num_synthetic
        if share == 1.0:
            num_synthetic = max(num_synthetic, 1)
        real.append(ours[:num_real])
        synthetic.append(theirs[:num_synthetic])
    return np.concatenate(real), np.concatenate(synthetic)


def _mean(scores: list[float] | None) -> float | None:
    return float(np.mean(scores)) if scores else None


def utility_section(split: UtilitySplit | str, results: list[TaskResult]) -> dict:
    """Return the utility section from the confusion matrices of all tasks.

    Args:
        split: from `utility_split`; text is the reason that nothing could be trained.
        results: from `run_tasks`.
    """
    if isinstance(split, str):
        return not_available(split, HEADLINE)
    scores: dict[tuple, list[float]] = {}
    matrices: dict[tuple, np.ndarray] = {}
    for task, matrix in results:
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
    tested = "flows that no model saw" if split.test else "held-out parts of the real flows"
    left_out = ", ".join(split.left_out)
    notes = [f"labels left out for want of flows: {left_out}"] if left_out else []
    return section(
        {"tstr": tstr, "trtr": trtr, "ratio": tstr / trtr if trtr else None},
        notes=notes,
        tables=[
            table(
                "Balanced accuracy on real flows",
                ["trained on", "model", "real", "95 % interval", "synthetic", "95 % interval",
                 "ratio"],
                rows,
                f"Mean over seeds, with intervals; tested on {tested}. "
                f"{len(split.labels)} labels, so that chance is {1 / len(split.labels):.3f}. "
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
            "labels": list(split.labels),
            "trtr": matrices[HEADLINE_VIEW, HEADLINE_MODEL, 0.0],
            "tstr": matrices[HEADLINE_VIEW, HEADLINE_MODEL, 1.0],
        },
    )  # fmt: skip
