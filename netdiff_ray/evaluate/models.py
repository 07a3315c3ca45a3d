"""Flows as rows for a classifier, and the two classifiers that classifier them.

Shape letters: N flows, K packets, C columns of the view, X columns of a matrix, L labels.
"""

from collections.abc import Sequence

import numpy as np

from netdiff_ray.evaluate.flow_arrays import rank_in_flow
from netdiff_ray.evaluate.flow_statistics import FEATURES
from netdiff_ray.evaluate.flow_view import VIEW
from netdiff_ray.evaluate.summary import Sample
from netdiff_ray.nprint import VACANT

MODELS = ("forest", "boosting")
"""Random forest (Breiman, Machine Learning 45, 2001) and histogram gradient boosting (Ke et
al., LightGBM, NeurIPS 2017), as scikit-learn has them."""
MAX_COLUMNS = 256
"""Columns that boosting is shown, whose cost grows with them."""
_TREES, _CHOOSING_TREES = 60, 15
_COLUMNS_A_SPLIT = 128
_ROUNDS = 20
_MAX_BINS = 63  # boosting's cost grows with them, also where bits need three


def first_packets(sample: Sample, num_packets: int) -> np.ndarray:
    """Return (N, K * C) int8: the bits of each flow's first packets, -1 past its end."""
    of_flow = np.repeat(np.arange(len(sample)), np.diff(sample.first))
    rank = rank_in_flow(sample.first)
    near = rank < num_packets
    matrix = np.full((len(sample), num_packets, VIEW.width), VACANT, np.int8)
    matrix[of_flow[near], rank[near]] = sample.bits[near]
    return matrix.reshape(len(sample), num_packets * VIEW.width)


def field_of_columns(num_packets: int) -> np.ndarray:
    """Return (K * C,) int64: the number in the view of the field of each column."""
    number = np.empty(VIEW.width, np.int64)
    for k, name in enumerate(VIEW.fields):
        number[VIEW.columns(name)] = k
    return np.tile(number, num_packets)


def distinct_columns(x: np.ndarray) -> np.ndarray:
    """Return the numbers, ascending, of the distinct columns that vary.

    Most bits of packets behind a flow's end, or of headers that come and go together, say
    the same; a model that picks columns at random would see little else.

    Args:
        x: (N, X) numbers.
    """
    columns = np.ascontiguousarray(x.T)
    whole = columns.view(np.dtype((np.void, columns.strides[0]))).ravel()
    _, first = np.unique(whole, return_index=True)
    first.sort()
    return first[(columns[first] != columns[first, :1]).any(axis=1)]


def fit_and_predict(
    model: str, x: np.ndarray, y: np.ndarray, x_test: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Predict labels for `x_test` by a classifier trained on `x` and `y`.

    Classes are weighted to count the same.

    Args:
        model: one of MODELS.
        x: (N, X) numbers.
        y: (N,) class numbers.
        x_test: (M, X).
        seed: of the classifier.

    Returns:
        (M,) class numbers, and (M, L) float64 probabilities in the order of np.unique(y).
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    assert model in MODELS
    classes = np.unique(y)
    columns = distinct_columns(x)
    if len(classes) == 1 or not len(columns):
        shares = np.array([np.mean(y == c) for c in classes])
        return np.full(len(x_test), classes[shares.argmax()]), np.tile(shares, (len(x_test), 1))

    if model == "forest":
        classifier = _forest(_TREES, len(columns), seed)
    else:
        if len(columns) > MAX_COLUMNS:  # those that a small forest made most use of
            chooser = _forest(_CHOOSING_TREES, len(columns), seed)
            gains = chooser.fit(x[:, columns], y).feature_importances_
            columns = np.sort(columns[np.argsort(-gains, kind="stable")[:MAX_COLUMNS]])
        classifier = HistGradientBoostingClassifier(
            max_iter=_ROUNDS, max_bins=min(_MAX_BINS, len(np.unique(x[:, columns]))),
            max_leaf_nodes=15, min_samples_leaf=5, learning_rate=0.2,
            early_stopping=False, class_weight="balanced", random_state=seed,
        )  # fmt: skip
    with threadpool_limits(1):  # boosting's threads spin where they share cores with others
        classifier.fit(x[:, columns], y)
        shares = classifier.predict_proba(x_test[:, columns])
    return classes[shares.argmax(axis=1)], shares


def _forest(trees: int, num_columns: int, seed: int):
    """Return an untrained random forest."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(
        trees, min_samples_leaf=2, class_weight="balanced", random_state=seed,
        max_features=min(_COLUMNS_A_SPLIT, num_columns),
    )  # fmt: skip


def confusion(
    y: np.ndarray, predicted: np.ndarray, num_labels: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Return (L, L) counts of flows by true (row) and predicted (column) class.

    Args:
        y: (N,) true class numbers.
        predicted: (N,) of the same.
        num_labels: L.
        weights: (N,) of the flows; each counts as 1 unless given.
    """
    counts = np.bincount(y * num_labels + predicted, weights, minlength=num_labels**2)
    return counts.reshape(num_labels, num_labels)


def balanced_accuracy(matrix: np.ndarray) -> float:
    """Return the mean over classes of the share recognised (Brodersen et al., ICPR 2010).

    Args:
        matrix: from `confusion`.
    """
    present = matrix.sum(axis=1) > 0
    if not present.any():
        return float("nan")
    return float((np.diag(matrix)[present] / matrix.sum(axis=1)[present]).mean())


def over_seeds(scores: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Return the mean of scores and its 95 % interval by Student's t, inside 0 and 1."""
    from scipy import stats

    mean = float(np.mean(scores))
    if len(scores) < 2:
        return mean, (float("nan"), float("nan"))
    error = stats.t.ppf(0.975, len(scores) - 1) * np.std(scores, ddof=1) / np.sqrt(len(scores))
    return mean, (max(mean - float(error), 0.0), min(mean + float(error), 1.0))


def feature_matrix(sample: Sample) -> np.ndarray:
    """Return the (N, F) float64 logarithms of FEATURES."""
    units = np.array([1e-6 if name.endswith("_s") else 1.0 for name in FEATURES])
    return np.log2(1.0 + np.maximum(sample.features, 0) / units)
