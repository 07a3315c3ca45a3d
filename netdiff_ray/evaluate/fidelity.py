"""Distances between the distributions of two sources, beside those within one of them.

Every label counts the same, whatever its share of the flows.

Shape letters: L labels, W rows of weights, D outcomes, V variables, R replicates,
S splits, F features.
"""

from collections import Counter

import numpy as np

from netdiff_ray.evaluate.divergence import (
    MEASURES,
    divergences,
    earth_movers,
    interval,
    kolmogorov_smirnov,
)
from netdiff_ray.evaluate.flow_statistics import FEATURES
from netdiff_ray.evaluate.flow_view import VIEW
from netdiff_ray.evaluate.report_section import not_available, section, table
from netdiff_ray.evaluate.summary import (
    NUM_REPLICATES,
    NUM_SPLITS,
    VARIABLES,
    Sample,
    Summary,
    halves,
)

HEADLINE = ("jsd", "jsd_floor", "tvd", "hellinger", "repair_distance")
_KINDS = {"bit": "packet bits", "field": "field values", "feature": "flow features"}
_FIRST_SPLIT = 1 + NUM_REPLICATES


def fidelity(real: Summary, synthetic: Summary, drawn: Summary | None = None) -> dict:
    """Return the fidelity section.

    `headline` {jsd, jsd_floor, tvd, hellinger}: means over the bits of the view, then over
    the labels that both sources have; the floor is that between random halves of the real
    flows, which are half as many and so lie a little further apart than two whole sources
    would. repair_distance: mean over the synthetic flows of the share of bits that repair
    corrected, None if their source does not record it.

    Args:
        drawn: the nprints as the model drew them, before repair.
    """
    labels = sorted(set(real.labels) & set(synthetic.labels))
    if not labels:
        return not_available("no label is in both sources", HEADLINE)
    after = measure(real, synthetic, labels)
    floor = self_distance(real, labels)
    headline = {name: after[name][0, :, VARIABLES.of_kind("bit")].mean() for name in MEASURES}
    headline["jsd_floor"] = _mean(floor["jsd"][..., VARIABLES.of_kind("bit")])
    repaired = synthetic.num_repaired
    headline["repair_distance"] = synthetic.repair_distance / repaired if repaired else None
    tables = [_means(after, floor), _by_label(labels, real, synthetic, after, floor)]
    notes = []
    if drawn is not None:
        drawn_labels = [label for label in labels if label in drawn.num_flows]
        if drawn_labels:
            tables.insert(1, _before_and_after(real, synthetic, drawn, drawn_labels))
        else:
            notes.append("before repair: not available; the drawn flows share no label")
    tables.append(_by_variable("field", after, floor))
    tables.append(_by_variable("feature", after, floor))
    by_label = _distances_by_label(real.sample, synthetic.sample, labels)
    tables += _continuous(by_label)
    if repaired:
        tables += [_repair(synthetic), _dialogues(synthetic)]
    fields = VARIABLES.of_kind("field")
    return section(
        {name: headline[name] for name in HEADLINE},
        tables=tables,
        notes=notes,
        field_divergence={
            "labels": labels,
            "fields": list(VIEW.fields),
            "jsd": after["jsd"][0][:, fields],
        },
        feature_distances=by_label,
    )


def measure(a: Summary, b: Summary, labels: list[str]) -> dict[str, np.ndarray]:
    """Return {measure: (1 + R, L, V)} between two sources: estimate, then replicates."""
    by_label = [
        divergences(
            a.outcome_counts[label][:_FIRST_SPLIT],
            b.outcome_counts[label][:_FIRST_SPLIT],
            VARIABLES.starts,
        )
        for label in labels
    ]
    return {name: np.stack([d[name] for d in by_label], axis=1) for name in MEASURES}


def self_distance(source: Summary, labels: list[str]) -> dict[str, np.ndarray]:
    """Return {measure: (S, L, V)} between random halves of a source; NaN for an empty half."""
    by_label = []
    for label in labels:
        half = source.outcome_counts[label][_FIRST_SPLIT:]
        rest = source.outcome_counts[label][0] - half
        by_label.append(divergences(half, rest, VARIABLES.starts))
    return {name: np.stack([d[name] for d in by_label], axis=1) for name in MEASURES}


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _estimate(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return estimate and interval of (1 + R, ...), averaged over all but the first axis."""
    means = np.array([_mean(v) for v in values])
    return means[0], interval(means[0], means[1:])


def _means(after: dict, floor: dict) -> dict:
    rows = []
    for kind, words in _KINDS.items():
        chosen = VARIABLES.of_kind(kind)
        row: list = [words]
        for name in MEASURES:
            row += [*_estimate(after[name][..., chosen]), _mean(floor[name][..., chosen])]
        rows.append(row)
    columns = ["distribution of"]
    for name in ("Jensen-Shannon", "total variation", "Hellinger"):
        columns += [name, "95 % interval", "floor"]
    return table(
        "Mean distances", columns, rows,
        "0 is the same, 1 has nothing in common. The floor is the distance between random "
        "halves of the real flows, which is chance alone; halves being smaller than a source, it "
        "can lie above the distance where flows are few.",
    )  # fmt: skip


def _before_and_after(real: Summary, synthetic: Summary, drawn: Summary, labels: list[str]) -> dict:
    rows = []
    for words, summary in (("before repair", drawn), ("after repair", synthetic)):
        distances = measure(real, summary, labels)
        row: list = [words]
        for kind in _KINDS:
            row += _estimate(distances["jsd"][..., VARIABLES.of_kind(kind)])
        rows.append(row)
    columns = ["flows"]
    for words in _KINDS.values():
        columns += [words, "95 % interval"]
    return table(
        "Jensen-Shannon divergence before and after repair", columns, rows,
        "What repair gained is not the model's merit.",
    )  # fmt: skip


def _by_label(labels: list[str], real: Summary, synthetic: Summary, after: dict, floor: dict):
    rows = []
    for k, label in enumerate(labels):
        row: list = [label, real.num_flows[label], synthetic.num_flows[label]]
        for kind in _KINDS:
            chosen = VARIABLES.of_kind(kind)
            row += [*_estimate(after["jsd"][:, k, chosen]), _mean(floor["jsd"][:, k, chosen])]
        rows.append(row)
    columns = ["label", "real flows", "synthetic flows"]
    for words in _KINDS.values():
        columns += [words, "95 % interval", "floor"]
    return table("Jensen-Shannon divergence by label", columns, rows)


def _by_variable(kind: str, after: dict, floor: dict) -> dict:
    chosen = range(len(VARIABLES.kind))[VARIABLES.of_kind(kind)]
    rows = []
    for v in chosen:
        row: list = [VARIABLES.name[v]]
        for name in MEASURES:
            row += [*_estimate(after[name][..., v]), _mean(floor[name][..., v])]
        if kind == "field":
            at = VIEW.columns(VARIABLES.name[v])
            row.append(_mean(after["jsd"][0, :, at]))
        rows.append(row)
    rows.sort(key=lambda row: -row[1] if np.isfinite(row[1]) else 0)
    columns = [kind]
    for name in ("Jensen-Shannon", "total variation", "Hellinger"):
        columns += [name, "95 % interval", "floor"]
    if kind == "field":
        columns.append("mean over its bits")
    return table(f"Distances by {kind}", columns, rows, "Mean over the labels, largest first.")


def _distances_by_label(real: Sample, synthetic: Sample, labels: list[str]) -> dict[str, dict]:
    """Return distances of flow features by label.

    The floor is the distance between random halves of the real flows, the mean over splits, by as
    much as it is smaller between as many flows as are compared: both distances fall with the root
    of the numbers of flows.

    Returns:
        {real_flows, synthetic_flows, features: {name: {ks, ks_floor, emd, emd_floor}}} by label,
        the earth mover's distance (emd) in the feature's unit.
    """
    found = {}
    for label in labels:
        ours = real.take(np.flatnonzero(real.label == label))
        theirs = synthetic.features[synthetic.label == label]
        scale = np.sqrt((len(ours) + len(theirs)) / (4 * len(theirs)))
        splits = [halves(ours.key, split, 0) for split in range(NUM_SPLITS)]
        features = {}
        for k, name in enumerate(FEATURES):
            values = ours.features[:, k]
            pairs = [(values[h], values[~h]) for h in splits]
            distances = {}
            for short, distance in (("ks", kolmogorov_smirnov), ("emd", earth_movers)):
                distances[short] = distance(values, theirs[:, k])
                floors = np.array([distance(x, y) for x, y in pairs])
                distances[f"{short}_floor"] = _mean(floors) * scale
            features[name] = distances
        found[label] = {
            "real_flows": len(ours), "synthetic_flows": len(theirs), "features": features
        }  # fmt: skip
    return found


def _continuous(by_label: dict[str, dict]) -> list[dict]:
    """Return tables of Kolmogorov-Smirnov and earth mover's distances of the samples."""
    keys = ("ks", "ks_floor", "emd", "emd_floor")
    rows = []
    for name in FEATURES:
        of_labels = [[of["features"][name][key] for key in keys] for of in by_label.values()]
        rows.append([name, *(_mean(np.array(column)) for column in zip(*of_labels, strict=True))])
    labelled = [
        [label, name, of["real_flows"], of["synthetic_flows"], distances["ks"],
         distances["ks_floor"], distances["ks"] - distances["ks_floor"]]
        for label, of in by_label.items() for name, distances in of["features"].items()
    ]  # fmt: skip
    labelled.sort(key=lambda row: -row[-1] if np.isfinite(row[-1]) else 0)
    return [
        table(
            "Continuous features",
            ["feature", "Kolmogorov-Smirnov", "floor", "earth mover's", "floor"],
            rows,
            "Mean over the labels; earth mover's distance in the feature's unit. Floors are those "
            "of as many flows as are compared.",
        ),
        table(
            "Kolmogorov-Smirnov distance by label",
            ["label", "feature", "real flows", "synthetic flows", "distance", "floor",
             "beyond the floor"],
            labelled,
            "Farthest beyond the floor first.",
        ),
    ]  # fmt: skip


def _repair(synthetic: Summary) -> dict:
    total = synthetic.corrected.total()
    rows = [
        [name, count, count / synthetic.answerable if synthetic.answerable else None]
        for name, count in sorted(synthetic.corrected.items(), key=lambda c: (-c[1], c[0]))
    ]
    note = (
        f"{total:,} of {synthetic.answerable:,} bits that the model answers for were corrected "
        f"in {synthetic.num_repaired:,} flows."
    )
    return table("What repair corrected", ["field", "bits", "share of all bits"], rows, note)


def _dialogues(synthetic: Summary) -> dict:
    flows: Counter = Counter()
    spoken: Counter = Counter()
    for (label, kind, has_dialogue), number in synthetic.dialogues.items():
        if kind:
            flows[label, kind] += number
            spoken[label, kind] += number * has_dialogue
    rows = [
        [label, kind, number, number - spoken[label, kind]]
        for (label, kind), number in sorted(flows.items(), key=lambda f: (f[0][0], -f[1], f[0][1]))
    ]
    total, silent = flows.total(), flows.total() - spoken.total()
    return table(
        "What flows speak", ["label", "kind", "flows", "opaque"], rows,
        f"The payloads of {silent:,} of {total:,} flows mean nothing: their kind is opaque, or no "
        "dialogue of it has the drawn order and lengths.",
    )  # fmt: skip
