"""Classifiers that tell synthetic flows from real ones, and what gives the flows away.

The classifier two-sample test (Lopez-Paz and Oquab, ICLR 2017): accuracy 0.5 is perfect.

Shape letters: N flows, X columns, G folds.
"""

import numpy as np

from netdiff_ray.evaluate.flow_view import FEATURES, VIEW
from netdiff_ray.evaluate.models import (
    MODELS,
    feature_matrix,
    field_of_columns,
    first_packets,
    fit_and_predict,
)
from netdiff_ray.evaluate.report_section import not_available, section, table
from netdiff_ray.evaluate.summary import Sample, Summary, halves, mixed

HEADLINE = ("accuracy",)
NUM_PACKETS = 8
_FOLDS = 5
_LEAST_FLOWS = 10


def discrimination(real: Summary, synthetic: Summary, *, seed: int = 0) -> dict:
    """Return the discrimination section; `headline` {accuracy: that of the better classifier}.

    Both sources give as many flows of each label, so that the labels tell nothing.
    """
    a, b = as_many_of_each(real.sample, synthetic.sample)
    if len(a) < _LEAST_FLOWS:
        return not_available(
            f"{len(a)} flows of labels that both sources have; at least {_LEAST_FLOWS} from "
            "each are needed",
            HEADLINE,
        )
    x, y, folds = _stacked(a, b, seed)
    rows, scores = [], {}
    for model in MODELS:
        right = np.concatenate(list(cross_validated(model, x, y, folds, seed)))
        scores[model] = float(right.mean())
        rows.append([f"{model}, on packet bits and flow features", *_with_interval(right)])
    in_half = halves(real.sample.key, 0, 0)
    split = (real.sample.take(np.flatnonzero(some)) for some in (in_half, ~in_half))
    first_half, second_half = as_many_of_each(*split)
    if len(first_half) >= _LEAST_FLOWS:
        half = _stacked(first_half, second_half, seed)
        right = np.concatenate(list(cross_validated("forest", *half, seed)))
        rows.append(["forest, one half of the real flows against the other",
                     *_with_interval(right)])  # fmt: skip
    ranked = telling(x, y, folds)
    return section(
        {"accuracy": max(scores.values())},
        tables=[
            table(
                "Real or synthetic?", ["judge", "accuracy", "95 % interval"], rows,
                f"{_FOLDS}-fold cross-validation over {len(a):,} real and as many synthetic flows, "
                f"label by label; bits of the first {NUM_PACKETS} packets. 0.5 is perfect; copies "
                "always lie in one fold.",
            ),
            table(
                "What gives it away",
                ["field or feature", "accuracy by it alone", "95 % interval"],
                ranked,
                "A decision tree that sees this and nothing else.",
            ),
        ],
    )  # fmt: skip


def as_many_of_each(a: Sample, b: Sample) -> tuple[Sample, Sample]:
    """Return as many flows of each label from both; labels of only one of them are left out."""
    chosen: tuple[list, list] = ([], [])
    for label in np.intersect1d(a.label, b.label):
        members = [np.flatnonzero(sample.label == label) for sample in (a, b)]
        least = min(map(len, members))
        for into, some in zip(chosen, members, strict=True):
            into.append(some[:least])
    first, second = (np.concatenate([np.empty(0, np.int64), *some]) for some in chosen)
    return a.take(first), b.take(second)


def _stacked(a: Sample, b: Sample, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (N, X) float32 columns, (N,) 0 real and 1 synthetic, (N,) fold by content."""
    x = np.concatenate(
        [
            np.concatenate([first_packets(s, NUM_PACKETS), feature_matrix(s)], axis=1, dtype="f4")
            for s in (a, b)
        ]
    )
    y = np.repeat([0, 1], [len(a), len(b)])
    content = np.concatenate([a.content, b.content])
    return x, y, (mixed(content, seed) % np.uint64(_FOLDS)).astype(np.int64)


def cross_validated(model: str, x: np.ndarray, y: np.ndarray, folds: np.ndarray, seed: int):
    """Yield for each fold whether a model trained on the others is right.

    That is (n,) float64 of 0 and 1, 0.5 for a tie.

    Args:
        model: one of MODELS.
        x: (N, X) columns.
        y: (N,) 0 or 1.
        folds: (N,) fold of each flow.
        seed: of the model.
    """
    for fold in np.unique(folds):
        held_out = folds == fold
        if len(np.unique(y[~held_out])) < 2:
            continue
        _, shares = fit_and_predict(model, x[~held_out], y[~held_out], x[held_out], seed)
        yield _right(shares[:, 1], y[held_out])


def _right(share: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (N,) 1 where a probability of class 1 points to `y`, 0 where not, 0.5 if even."""
    even = np.abs(share - 0.5) < 1e-9
    return np.where(even, 0.5, (share > 0.5) == (y == 1))


def telling(x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> list[list]:
    """Return [field or feature, accuracy, interval] of a tree on each alone, best first."""
    from sklearn.tree import DecisionTreeClassifier

    fields = field_of_columns(NUM_PACKETS)
    groups = [(name, np.flatnonzero(fields == k)) for k, name in enumerate(VIEW.fields)]
    groups += [(name, np.array([len(fields) + k])) for k, name in enumerate(FEATURES)]
    rows = []
    for name, columns in groups:
        chosen_x = x[:, columns]
        if not chosen_x.std(axis=0).any():
            continue
        right = []
        for fold in np.unique(folds):
            held_out = folds == fold
            if len(np.unique(y[~held_out])) < 2:
                continue
            tree = DecisionTreeClassifier(max_depth=8, min_samples_leaf=5, random_state=0)
            tree.fit(chosen_x[~held_out], y[~held_out])
            right.append(_right(tree.predict_proba(chosen_x[held_out])[:, 1], y[held_out]))
        rows.append([name, *_with_interval(np.concatenate(right))])
    return sorted(rows, key=lambda row: -row[1])


def _with_interval(right: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the mean of (N,) and its 95 % interval by the normal approximation."""
    mean = float(right.mean())
    error = 1.96 * float(right.std() / np.sqrt(len(right)))
    return mean, (max(mean - error, 0.0), min(mean + error, 1.0))
