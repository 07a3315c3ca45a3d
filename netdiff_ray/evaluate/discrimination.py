"""Classifiers that tell synthetic flows from real ones, and what gives the flows away.

The classifier two-sample test (Lopez-Paz and Oquab, ICLR 2017): accuracy 0.5 is perfect. Real
flows of a capture lie in one fold, so that what tells hosts apart (a TTL, an option) tells
nothing here. Beside every judge stands its floor: what it makes of real flows in the place
of the synthetic ones.

Shape letters: N flows, X columns, G folds.
"""

from collections import defaultdict

import numpy as np

from netdiff_ray.evaluate.flow_statistics import FEATURES
from netdiff_ray.evaluate.flow_view import VIEW
from netdiff_ray.evaluate.models import (
    feature_matrix,
    field_of_columns,
    first_packets,
    fit_and_predict,
)
from netdiff_ray.evaluate.packet_views import header_values, sizes_and_times
from netdiff_ray.evaluate.report_section import not_available, section, table
from netdiff_ray.evaluate.summary import Sample, Summary, halves, label_room, mixed

HEADLINE = ("accuracy", "accuracy_floor", "beyond_floor")
NUM_PACKETS = 8
_FOLDS = 5
_LEAST_FLOWS = 10
_MOST_FLOWS = 1_000
_LEAST_CAPTURES = 4
_RANKED = 30
_BITS = "packet bits and flow features"
_JUDGES = (
    ("forest", _BITS), ("boosting", _BITS), ("forest", "sizes and times"),
    ("forest", "header values"), ("forest", "flow statistics"),
)  # fmt: skip

Pair = tuple[Sample, Sample, np.ndarray]
"""As many flows of each label of two sources, and the (2 N,) fold of each."""


def discrimination(
    real: Summary, synthetic: Summary, train: Summary | None = None, *, seed: int = 0
) -> dict:
    """Return the discrimination section.

    `headline` {accuracy: that of the judge that is farthest beyond its floor; accuracy_floor:
    its accuracy where real flows stand for the synthetic ones, at least 0.5; beyond_floor:
    the difference}. Both sources give as many flows of each label, so that the labels tell
    nothing.

    Args:
        train: flows that the model was trained on. If they are not among the real flows, they
            are another floor beside halves of the real flows; the lower one counts.
    """
    pair = _pair(real.sample, synthetic.sample, seed)
    if len(pair[0]) < _LEAST_FLOWS:
        return not_available(
            f"{len(pair[0])} flows of labels that both sources have; at least {_LEAST_FLOWS} from "
            "each are needed",
            HEADLINE,
        )
    floors = _floors(real.sample, train, pair[0], seed)
    judged = []
    for model, view in _JUDGES:
        right = _judged(model, view, pair, seed)
        by_floor = [float(_judged(model, view, floor, seed).mean()) for floor in floors.values()]
        floor = max(min(by_floor, default=0.5), 0.5)
        mean, interval = _with_interval(right)
        judged.append([f"{model}, on {view}", mean, interval, *by_floor, mean - floor])
    worst = max(judged, key=lambda row: row[-1])
    return section(
        {"accuracy": worst[1], "accuracy_floor": worst[1] - worst[-1], "beyond_floor": worst[-1]},
        tables=[
            table(
                "Real or synthetic?",
                ["judge", "accuracy", "95 % interval", *floors, "beyond the floor"],
                judged,
                f"{_FOLDS}-fold cross-validation over {len(pair[0]):,} real and as many synthetic "
                f"flows, label by label, flows of a capture in one fold; bits of the first "
                f"{NUM_PACKETS} packets. 0.5 is perfect. The floor is the least of the columns "
                "with real flows, but at least 0.5.",
            ),
            table(
                "What gives it away",
                ["field or feature", "accuracy by it alone", "95 % interval", "floor",
                 "beyond the floor"],
                telling(pair, list(floors.values())),
                "A decision tree that sees this and nothing else, ranked by how far it is beyond "
                "what it makes of real flows against real ones.",
            ),
        ],
        worst={"judge": worst[0]},
    )  # fmt: skip


def _floors(real: Sample, train: Summary | None, judged: Sample, seed: int) -> dict[str, Pair]:
    """Return pairs of real flows, by what they are; none with fewer than _LEAST_FLOWS each."""
    in_half = _capture_halves(real)
    first, second = (real.take(np.flatnonzero(some)) for some in (in_half, ~in_half))
    floors = {"half of the real flows against the other": _pair(first, second, seed)}
    if train is not None:
        apart = train.sample.take(np.flatnonzero(~np.isin(train.sample.key, real.key)))
        shared = apart.take(np.flatnonzero(np.isin(apart.label, np.unique(judged.label))))
        floors["training flows against the real ones"] = _pair(real, shared, seed)
    return {words: pair for words, pair in floors.items() if len(pair[0]) >= _LEAST_FLOWS}


def _capture_halves(real: Sample) -> np.ndarray:
    """Return (N,) bool: half of the captures of each label, or of its flows where it has few."""
    chosen = halves(real.key, 0, 0)
    for label in np.unique(real.label):
        members = np.flatnonzero(real.label == label)
        captures = np.unique(real.capture[members])
        if len(captures) >= _LEAST_CAPTURES:
            order = captures[np.argsort(mixed(captures, 0))]
            chosen[members] = np.isin(real.capture[members], order[::2])
    return chosen


def _pair(a: Sample, b: Sample, seed: int) -> Pair:
    """Return as many flows of each label from both, at most _MOST_FLOWS, and their folds."""
    a, b = as_many_of_each(a, b, _MOST_FLOWS)
    return a, b, _folds(a, b, seed)


def as_many_of_each(a: Sample, b: Sample, most: int | None = None) -> tuple[Sample, Sample]:
    """Return as many flows of each label from both; labels of only one of them are left out.

    Args:
        most: flows of each source in all; any number unless given.
    """
    members = [
        [np.flatnonzero(sample.label == label) for sample in (a, b)]
        for label in np.intersect1d(a.label, b.label)
    ]
    least = np.array([min(map(len, of_label)) for of_label in members], np.int64)
    if most is not None and len(least):
        least = np.minimum(least, label_room(least, most))
    chosen = [
        np.concatenate([np.empty(0, np.int64), *(of_label[k][:n] for of_label, n in
                                                 zip(members, least, strict=True))])
        for k in (0, 1)
    ]  # fmt: skip
    return a.take(chosen[0]), b.take(chosen[1])


def _folds(a: Sample, b: Sample, seed: int) -> np.ndarray:
    """Return the (2 N,) folds of the flows of `a`, then of `b`.

    Flows of `a` from one capture lie in one fold, where its label has several captures. Of
    each label a fold has as many flows of `b` as of `a`: copies of flows of `a` with these, the
    rest in order of their captures.
    """
    folds = np.empty((2, len(a)), np.int64)
    for label in np.unique(a.label):
        ours, theirs = (np.flatnonzero(sample.label == label) for sample in (a, b))
        groups = a.capture[ours]
        if len(np.unique(groups)) == 1:
            groups = a.content[ours]
        folds[0, ours] = _spread(groups, seed)
        free = defaultdict(list)
        for content, fold in zip(a.content[ours].tolist(), folds[0, ours].tolist(), strict=True):
            free[content].append(fold)
        rest = []
        order = np.lexsort((b.content[theirs], mixed(b.capture[theirs], seed)))
        for k in theirs[order].tolist():
            if free[int(b.content[k])]:
                folds[1, k] = free[int(b.content[k])].pop()
            else:
                rest.append(k)
        folds[1, rest] = sorted(fold for some in free.values() for fold in some)
    return folds.ravel()


def _spread(groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the (n,) folds of flows such that groups stay together and folds fill up evenly."""
    names, of_group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    filled = np.zeros(_FOLDS, np.int64)
    fold = np.empty(len(names), np.int64)
    for k in np.lexsort((mixed(names, seed), -counts)):
        fold[k] = filled.argmin()
        filled[fold[k]] += counts[k]
    return fold[of_group]


def _judged(model: str, view: str, pair: Pair, seed: int) -> np.ndarray:
    """Return (2 N,) float64: whether a judge is right on each flow of a pair, 0.5 for a tie."""
    a, b, folds = pair
    x = np.concatenate([_matrix(sample, view) for sample in (a, b)])
    y = np.repeat([0, 1], [len(a), len(b)])
    return np.concatenate(list(cross_validated(model, x, y, folds, seed)))


def _matrix(sample: Sample, view: str) -> np.ndarray:
    """Return the (N, X) float32 columns that a judge sees."""
    if view == "sizes and times":
        return sizes_and_times(sample)
    if view == "header values":
        return header_values(sample)
    if view == "flow statistics":
        return sample.statistics.astype(np.float32)
    bits = first_packets(sample, NUM_PACKETS)
    return np.concatenate([bits, feature_matrix(sample)], axis=1, dtype=np.float32)


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


def telling(pair: Pair, floors: list[Pair]) -> list[list]:
    """Return [field or feature, accuracy, interval, floor, accuracy beyond it] of a tree on each
    alone, the farthest beyond its floor first.

    The floor is the least accuracy in `floors`, but at least 0.5. It is worked out for the
    _RANKED most accurate, which alone are returned.
    """
    rows = sorted(_alone(pair, None), key=lambda row: -row[1])[:_RANKED]
    names = {row[0] for row in rows}
    by_floor = [{row[0]: row[1] for row in _alone(floor, names)} for floor in floors]
    ranked = []
    for name, accuracy, interval in rows:
        floor = max(min((known.get(name, 0.5) for known in by_floor), default=0.5), 0.5)
        ranked.append([name, accuracy, interval, floor, accuracy - floor])
    return sorted(ranked, key=lambda row: -row[4])


def _alone(pair: Pair, names: set[str] | None) -> list[list]:
    """Return [field or feature, accuracy, interval] of a tree on each of `names`, or on all."""
    from sklearn.tree import DecisionTreeClassifier

    a, b, folds = pair
    x = np.concatenate([_matrix(sample, _BITS) for sample in (a, b)])
    y = np.repeat([0, 1], [len(a), len(b)])
    fields = field_of_columns(NUM_PACKETS)
    groups = [(name, np.flatnonzero(fields == k)) for k, name in enumerate(VIEW.fields)]
    groups += [(name, np.array([len(fields) + k])) for k, name in enumerate(FEATURES)]
    rows = []
    for name, columns in groups:
        chosen_x = x[:, columns]
        if (names is not None and name not in names) or not chosen_x.std(axis=0).any():
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
    return rows


def _with_interval(right: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the mean of (N,) and its 95 % interval by the normal approximation."""
    mean = float(right.mean())
    error = 1.96 * float(right.std() / np.sqrt(len(right)))
    return mean, (max(mean - error, 0.0), min(mean + error, 1.0))
