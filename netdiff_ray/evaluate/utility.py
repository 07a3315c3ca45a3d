"""Classifiers trained on synthetic flows and tested on real ones.

Esteban et al., arXiv:1706.02633 (2017): train on synthetic, test on real (TSTR), against
train on real, test on real (TRTR); also train on real, test on synthetic (TRTS), and few
real flows with synthetic ones added to them.

Shape letters: N flows, L labels.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from netdiff_ray.evaluate.models import (
    MODELS,
    balanced_accuracy,
    confusion,
    first_packets,
    fit_and_predict,
    over_seeds,
)
from netdiff_ray.evaluate.packet_views import header_values, sizes_and_times
from netdiff_ray.evaluate.report_section import not_available, section, table
from netdiff_ray.evaluate.summary import NUM_REPLICATES, Sample, Summary, flow_weights

HEADLINE = ("tstr", "trtr", "ratio", "ratio_error", "gain_10", "gain_10_error")
VIEWS = (
    "bits of 3 packets", "bits of 8 packets", "bits of 32 packets", "sizes and times",
    "header values", "flow statistics",
)  # fmt: skip
"""What a model sees: bits of the first packets; sizes, directions and times of the first 20;
values of header fields of the first 8; statistics of the whole flow, as NFStream defines them."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Synthetic flows among the training flows; 0 is TRTR, 1 is TSTR."""
FEW = (10, 30, 100)
"""Real flows of a label to which synthetic ones are added."""
_REPEATS_OF_FEW = 3
"""Choices of the few real flows, for each seed: what they are matters more than the forest's."""
_AUGMENTED_VIEWS = VIEWS[3:]
_MIXED_VIEW = "bits of 8 packets"
_TEST_SHARE = 0.3
_LEAST_FLOWS = 4


@dataclass(frozen=True)
class Task:
    """One model to be trained and tested; its score derives from these fields alone."""

    view: str
    model: str
    share: float | None
    """One of SHARES, or None for synthetic flows on top of the real ones: as many, or all of
    them where `few` limits the real ones."""
    seed: int
    few: int | None = None
    """Real flows of each label; as many as there are unless given."""
    on_synthetic: bool = False
    """Whether it is tested on the synthetic flows (TRTS)."""


TaskResult = tuple[Task, np.ndarray]
"""A task and its (W, L, L) confusion matrices on real test flows: of all, and of each replicate,
in which a test flow weighs the same for all tasks."""


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


def split_of_source(split: UtilitySplit, source: Summary) -> UtilitySplit | str:
    """Return what to train on the flows of another source instead of the synthetic ones, and to
    test on the same real flows; or why that cannot be."""
    missing = sorted(set(split.labels) - _labels_with(source.sample, 2))
    if missing:
        return f"fewer than 2 flows of {', '.join(missing)}"
    chosen = np.flatnonzero(np.isin(source.sample.label, split.labels))
    return replace(split, synthetic=source.sample.take(chosen))


def _labels_with(sample: Sample, least: int) -> set[str]:
    labels, counts = np.unique(sample.label, return_counts=True)
    return set(labels[counts >= least].tolist())


def tasks(num_seeds: int) -> list[Task]:
    """Return the tasks, each independent of the others; those of a view, model and share
    adjoin.

    Mixtures are those of one view, augmented sets and tests on synthetic flows those of the
    views of few columns; forests alone are trained on them.
    """
    chosen = []
    for view in VIEWS:
        for model in MODELS:
            is_mixed = view == _MIXED_VIEW and model == "forest"
            is_augmented = view in _AUGMENTED_VIEWS and model == "forest"
            for share in (*SHARES, None):
                kinds = []
                if share in (0.0, 1.0) or is_mixed:
                    kinds.append(partial(Task, view, model, share))
                if is_augmented and share in (0.0, None):
                    kinds += [partial(Task, view, model, share, few=few) for few in FEW]
                if is_augmented and share == 0.0:
                    kinds.append(partial(Task, view, model, share, on_synthetic=True))
                for kind in kinds:
                    repeats = _REPEATS_OF_FEW if kind.keywords.get("few") == FEW[0] else 1
                    chosen += [kind(seed=seed) for seed in range(repeats * num_seeds)]
    return chosen


def source_tasks(num_seeds: int) -> list[Task]:
    """Return those of the tasks that train on the flows of a source alone (TSTR)."""
    return [task for task in tasks(num_seeds) if task.share == 1.0]


def run_tasks(split: UtilitySplit, chosen: Sequence[Task], *, jobs: int = 1) -> list[TaskResult]:
    """Return each task with its confusion matrices, in the order given, by `jobs` threads."""
    samples = [split.pool, split.synthetic, *([split.test] if split.test is not None else [])]
    classes = [np.searchsorted(split.labels, sample.label) for sample in samples]
    matrices = {
        view: [view_matrix(sample, view) for sample in samples]
        for view in dict.fromkeys(task.view for task in chosen)
    }
    weights = [flow_weights(sample.key, 0)[: 1 + NUM_REPLICATES] for sample in samples]
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(
            lambda task: _run(task, matrices[task.view], classes, weights, len(split.labels)),
            chosen,
        )
        return list(zip(chosen, results, strict=True))


def _run(
    task: Task,
    x: list[np.ndarray],
    y: list[np.ndarray],
    weights: list[np.ndarray],
    num_labels: int,
) -> np.ndarray:
    """Return the (W, L, L) confusion matrices of a task.

    Args:
        x: matrices of the real pool, the synthetic flows and, if given, the real test flows.
        y: classes of the same.
        weights: (W, N) of the same.
    """
    random = np.random.default_rng([task.seed, 7])
    pool, held_out = _split(y[0], random)
    at = 1 if task.on_synthetic else 2 if len(x) == 3 else 0
    tested = slice(None) if at else held_out
    x_test, y_test, test_weights = x[at][tested], y[at][tested], weights[at][:, tested]
    from_real, from_synthetic = _mix(task, y[0], pool, y[1], random)
    x_train = np.concatenate([x[0][from_real], x[1][from_synthetic]])
    y_train = np.concatenate([y[0][from_real], y[1][from_synthetic]])
    predicted, _ = fit_and_predict(task.model, x_train, y_train, x_test, task.seed)
    counts = [confusion(y_test, predicted, num_labels, some) for some in test_weights]
    return np.rint(counts).astype(np.int64)


def view_matrix(sample: Sample, view: str) -> np.ndarray:
    """Return the matrix of one of VIEWS, a row a flow."""
    if view.startswith("bits of "):
        return first_packets(sample, int(view.split()[2]))
    if view == "sizes and times":
        return sizes_and_times(sample)
    if view == "header values":
        return header_values(sample)
    return sample.statistics.astype(np.float32)


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
    task: Task,
    y_real: np.ndarray,
    pool: np.ndarray,
    y_synthetic: np.ndarray,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of the real and the synthetic flows to train on.

    Each class has as many flows as the pool has of it, but no more than the synthetic flows
    have of their most frequent class, so that neither trains on more. A class of which fewer
    are synthetic has those; every class has at least one.
    """
    most = int(np.bincount(y_synthetic).max())
    real, synthetic = [], []
    for label in np.unique(y_real[pool]):
        ours = random.permutation(pool[y_real[pool] == label])[: task.few or most]
        theirs = random.permutation(np.flatnonzero(y_synthetic == label))
        if task.share is None:
            num_real, num_synthetic = len(ours), len(theirs) if task.few else len(ours)
        else:
            num_synthetic = round(task.share * len(ours))
            num_real = len(ours) - num_synthetic
        if task.share == 1.0:
            num_synthetic = max(num_synthetic, 1)
        real.append(ours[:num_real])
        synthetic.append(theirs[:num_synthetic])
    return np.concatenate(real), np.concatenate(synthetic)


def utility_section(split: UtilitySplit | str, results: list[TaskResult]) -> dict:
    """Return the utility section from the confusion matrices of all tasks.

    `headline` {tstr, trtr, ratio: of the view and model with the least ratio; ratio_error: what
    chance alone, by the number of flows tested, may take from it; gain_10: what
    synthetic flows add to the balanced accuracy of a forest trained on 10 real flows of each
    label, in the view where that is least at most, chance allowed for; gain_10_error: what chance
    may make of it, by the choice of the 10 flows and by the flows tested}.

    Args:
        split: from `utility_split`; text is the reason that nothing could be trained.
        results: from `run_tasks`.
    """
    if isinstance(split, str):
        return not_available(split, HEADLINE)
    matrices: dict[Task, list[np.ndarray]] = {}
    for task, of_task in results:
        matrices.setdefault(replace(task, seed=0), []).append(of_task)
    scores = {kind: [balanced_accuracy(m[0]) for m in some] for kind, some in matrices.items()}
    rows = _trained_rows(scores)
    worst = min(rows, key=lambda row: (row[6] is None, row[6]))
    augmented = _augmented_rows(matrices)
    of_10 = [row for row in augmented if row[1] == FEW[0]]
    least = min(of_10, key=lambda row: row[4] + row[5], default=None)
    tested = "flows that no model saw" if split.test else "held-out parts of the real flows"
    left_out = ", ".join(split.left_out)
    notes = [f"labels left out for want of flows: {left_out}"] if left_out else []
    trtr, tstr = (
        sum(m[0] for m in matrices[Task(worst[0], worst[1], share, 0)]) for share in (0.0, 1.0)
    )
    recognised = [
        [label, *(matrix[k, k] / max(matrix[k].sum(), 1) for matrix in (trtr, tstr))]
        for k, label in enumerate(split.labels)
    ]
    return section(
        {"tstr": worst[4], "trtr": worst[2], "ratio": worst[6],
         "ratio_error": _ratio_error(worst[4], worst[2], len(_tested(split))),
         "gain_10": least[4] if least else None, "gain_10_error": least[5] if least else None},
        notes=notes,
        tables=[
            table(
                "Balanced accuracy on real flows",
                ["trained on", "model", "real", "95 % interval", "synthetic", "95 % interval",
                 "ratio", "trained on real, tested on synthetic"],
                rows,
                f"Mean over seeds, with intervals; tested on {tested}. "
                f"{len(split.labels)} labels, so that chance is {1 / len(split.labels):.3f}; both "
                "train on equal numbers of flows. Models see no addresses, ports, identifiers, "
                f"checksums or sequence numbers. The headline is the worst row: the {worst[1]} "
                f"on {worst[0]}.",
            ),
            table(
                "Few real flows, alone and with all synthetic ones",
                ["trained on", "real flows of a label", "alone", "with synthetic ones", "gain",
                 "its error"],
                augmented,
                "Balanced accuracy of a forest on real flows; a label that has fewer gives all "
                "of them. The error is what chance may make of a gain, 19 times in 20: by the "
                f"choice of the real flows ({_REPEATS_OF_FEW} for each seed at {FEW[0]}), and by "
                f"the flows tested. The headline is the gain at {FEW[0]} that is least, its error "
                "allowed for.",
            ),
            table(
                f"Recognised by label: the {worst[1]} on {worst[0]}",
                ["label", "trained on real", "trained on synthetic"], recognised,
                "Share of the label's real flows.",
            ),
            table(
                "Real and synthetic flows mixed",
                ["trained on", "model",
                 *(f"{s:.0%} synthetic" for s in SHARES), "all real and as many synthetic"],
                _mixed_rows(scores),
                "The training flows are as many in each column but the last.",
            ),
        ],
        worst={"view": worst[0], "model": worst[1], "gain_view": least[0] if least else None},
        trained=[[row[0], row[1], row[2], row[4], row[6]] for row in rows],
        confusion={"labels": list(split.labels), "trtr": trtr, "tstr": tstr},
    )  # fmt: skip


def _tested(split: UtilitySplit) -> Sample:
    """Return the real flows that are tested, by one seed or, in part by each, by several."""
    return split.pool if split.test is None else split.test


def _ratio_error(tstr: float, trtr: float, num_tested: int) -> float | None:
    """Return 1.96 standard errors of the difference of two accuracies, as a share of TRTR."""
    if not trtr:
        return None
    return 1.96 * float(np.sqrt((tstr * (1 - tstr) + trtr * (1 - trtr)) / num_tested)) / trtr


Scores = dict[Task, list[float]]
"""Balanced accuracy of each seed, by task with seed 0."""


def trained_rows(results: list[TaskResult]) -> list[list]:
    """Return [view, model, balanced accuracy on real flows] of models that `source_tasks` trains.

    Args:
        results: of these tasks.
    """
    scores: Scores = {}
    for task, matrices in results:
        scores.setdefault(replace(task, seed=0), []).append(balanced_accuracy(matrices[0]))
    return [[task.view, task.model, _mean(of_task)] for task, of_task in scores.items()]


def _trained_rows(scores: Scores) -> list[list]:
    """Return [view, model, TRTR, interval, TSTR, interval, ratio, TRTS] rows."""
    rows = []
    for view, model in dict.fromkeys((task.view, task.model) for task in scores):
        real, synthetic = (over_seeds(scores[Task(view, model, share, 0)]) for share in (0.0, 1.0))
        ratio = synthetic[0] / real[0] if real[0] else None
        reverse = _mean(scores.get(Task(view, model, 0.0, 0, on_synthetic=True)))
        rows.append([view, model, *real, *synthetic, ratio, reverse])
    return rows


def _augmented_rows(matrices: dict[Task, list[np.ndarray]]) -> list[list]:
    """Return [view, real flows of a label, alone, with synthetic ones, gain, its error] rows.

    Args:
        matrices: (W, L, L) of each seed, by task with seed 0.
    """
    rows = []
    for task, alone in matrices.items():
        if task.few is not None and task.share == 0.0:
            scores = np.array(
                [
                    [[balanced_accuracy(m) for m in of_seed] for of_seed in some]
                    for some in (alone, matrices[replace(task, share=None)])
                ]
            )
            mean_alone, mean_both = scores[:, :, 0].mean(axis=1)
            gains = scores[1] - scores[0]
            row = [mean_alone, mean_both, mean_both - mean_alone, error_of_gain(gains)]
            rows.append([task.view, task.few, *row])
    return rows


def error_of_gain(gains: np.ndarray) -> float:
    """Return 1.96 standard errors of a mean gain.

    Args:
        gains: (seeds, W): of all test flows, then of each replicate of them.
    """
    of_choice = float(np.var(gains[:, 0], ddof=1)) / len(gains) if len(gains) > 1 else 0.0
    of_tested = float(np.nanvar(gains[:, 1:].mean(axis=0), ddof=1))
    return 1.96 * float(np.sqrt(of_choice + of_tested))


def _mixed_rows(scores: Scores) -> list[list]:
    """Return [view, model, balanced accuracy by share] of the view that has mixtures."""
    kinds = [Task(_MIXED_VIEW, "forest", share, 0) for share in (*SHARES, None)]
    if kinds[0] not in scores:
        return []
    return [[_MIXED_VIEW, "forest", *(_mean(scores.get(kind)) for kind in kinds)]]


def _mean(scores: list[float] | None) -> float | None:
    return float(np.mean(scores)) if scores else None
