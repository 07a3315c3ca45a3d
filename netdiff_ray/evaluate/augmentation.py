"""What synthetic flows add to the real flows that a classifier is trained on, for all labels.

Unlike the curve of the utility section, it takes labels that have no synthetic flows too, as where
flows were drawn of rare labels alone.

Shape letters: L labels.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from netdiff_ray.evaluate.models import balanced_accuracy
from netdiff_ray.evaluate.report_section import not_available, section, table
from netdiff_ray.evaluate.summary import Summary
from netdiff_ray.evaluate.utility import (
    FEW,
    Task,
    TaskResult,
    UtilitySplit,
    error_of_gain,
    run_tasks,
)

HEADLINE = ("gain", "gain_error", "rare_recall_gain")
VIEWS = ("sizes and times", "header values", "flow statistics")
ALL = 1 << 30
"""Real flows of a label, where all are taken."""
_LEAST_TRAINED, _LEAST_TESTED = 4, 1


def augmentation_section(real: Summary, synthetic: Summary, train: Summary | None, seeds: int):
    """Return the section: forests trained on real flows alone, and on them and all synthetic ones.

    `headline` {gain: what the synthetic flows add to the balanced accuracy where all real training
    flows are taken, in the view where that is least at most, chance allowed for; gain_error: what
    chance may make of it; rare_recall_gain: the mean change of the share of recognised flows of
    the labels that have synthetic flows, in that view}.

    Args:
        real: held-out flows, to test on.
        synthetic: flows to add.
        train: real flows to train on.
        seeds: forests of each kind.
    """
    if train is None:
        return not_available("there are no training flows to add synthetic ones to", HEADLINE)
    split = augmentation_split(real, synthetic, train)
    if isinstance(split, str):
        return not_available(split, HEADLINE)
    chosen = [
        Task(view, "forest", share, seed, few=few)
        for view in VIEWS
        for few in (*FEW, ALL)
        for share in (0.0, None)
        for seed in range(seeds)
    ]
    return _section(split, run_tasks(split, chosen))


def augmentation_split(real: Summary, synthetic: Summary, train: Summary) -> UtilitySplit | str:
    """Return the flows to train on, to add and to test on, or why that cannot be."""
    enough = _labels_with(train, _LEAST_TRAINED) & _labels_with(real, _LEAST_TESTED)
    added = enough & _labels_with(synthetic, 1)
    if len(enough) < 2 or not added:
        return (
            f"{len(enough)} labels have {_LEAST_TRAINED} training flows and a held-out one, and "
            f"{len(added)} of them synthetic flows; at least 2 and 1 are needed"
        )
    pool, test, drawn = (
        of.sample.take(np.flatnonzero(np.isin(of.sample.label, list(enough))))
        for of in (train, real, synthetic)
    )
    left_out = tuple(sorted({*real.labels, *synthetic.labels} - enough))
    return UtilitySplit(tuple(sorted(enough)), pool, test, drawn, left_out)


def _labels_with(source: Summary, least: int) -> set[str]:
    labels, counts = np.unique(source.sample.label, return_counts=True)
    return set(labels[counts >= least].tolist())


def _section(split: UtilitySplit, results: Sequence[TaskResult]) -> dict:
    matrices: dict[Task, list[np.ndarray]] = {}
    for task, of_task in results:
        matrices.setdefault(replace(task, seed=0), []).append(of_task)
    rows = []
    for view in VIEWS:
        for few in (*FEW, ALL):
            alone, both = (
                np.array([[balanced_accuracy(m) for m in some] for some in matrices[task]])
                for task in (Task(view, "forest", share, 0, few=few) for share in (0.0, None))
            )
            gains = both - alone
            means = alone[:, 0].mean(), both[:, 0].mean(), gains[:, 0].mean()
            rows.append([view, "all" if few == ALL else few, *means, error_of_gain(gains)])
    worst = min((row for row in rows if row[1] == "all"), key=lambda row: row[4] + row[5])
    recalls = _recalls(split, matrices, worst[0])
    changes = [row[4] - row[3] for row in recalls if row[2]]
    left_out = ", ".join(split.left_out)
    return section(
        {"gain": worst[4], "gain_error": worst[5], "rare_recall_gain": float(np.mean(changes))},
        notes=[f"labels left out for want of flows: {left_out}"] if left_out else [],
        tables=[
            table(
                "Real flows alone, and with all synthetic ones",
                ["trained on", "real flows of a label", "alone", "with synthetic ones", "gain",
                 "its error"],
                rows,
                "Balanced accuracy of a forest on held-out real flows of all labels, those without "
                "synthetic flows too. Each run takes seven tenths of the real training flows, of "
                "each label at most so many. The error is what chance may make of a gain, 19 "
                "times in 20. The headline is the gain with all real flows that is least, its "
                "error allowed for.",
            ),
            table(
                f"Recognised by label, with all real flows, by {worst[0]}",
                ["label", "real training flows", "synthetic flows", "alone",
                 "with synthetic ones"],
                recalls, "Share of the label's held-out flows.",
            ),
        ],
        view=worst[0],
    )  # fmt: skip


def _recalls(split: UtilitySplit, matrices: dict[Task, list[np.ndarray]], view: str) -> list[list]:
    """Return [label, real flows, synthetic flows, recall without and with them] rows."""
    alone, both = (
        sum(of_seed[0] for of_seed in matrices[Task(view, "forest", share, 0, few=ALL)])
        for share in (0.0, None)
    )
    rows = []
    for k, label in enumerate(split.labels):
        flows = [int((of.label == label).sum()) for of in (split.pool, split.synthetic)]
        rows.append([label, *flows, *(m[k, k] / max(m[k].sum(), 1) for m in (alone, both))])
    return rows
