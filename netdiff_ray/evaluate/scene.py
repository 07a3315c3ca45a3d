"""The scene section of a report: what the hosts of a network do together, in time.

Captures less than JOINED_S apart are one recording (the shards of a dataset are); flows are
compared within recordings. Every difference is between 0 and 1.

Shape letters: N flows, V values.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from netdiff_ray.evaluate.divergence import kolmogorov_smirnov
from netdiff_ray.evaluate.report_section import not_available, section, table
from netdiff_ray.evaluate.scene_flows import SceneFlows
from netdiff_ray.evaluate.scene_names import NO_NAME

HEADLINE = ("scene_difference", "scene_difference_floor", "scene_measures", "measures_beyond")
TOLERANCE = 0.1
"""A measure differs if it does by more than this beyond its floor."""
JOINED_S = 60.0
LOOKUP_S = 10.0
"""How long before a connection its lookup may be."""
MIN_VALUES = 10
"""Fewest values of a source for a measure to be compared."""
_NUM_HALVES = 10
_BINS_SHOWN = 60
_S_NS = 10**9
_NOTES_SHOWN = 10

DISTRIBUTIONS = (
    "flows open when a flow begins", "flows of a client", "servers of a client",
    "seconds between flows", "seconds between flows of a client",
    "flows that a client has open", "connections that a client has open to a server",
)  # fmt: skip
SHARES = (
    f"connections at most {LOOKUP_S:.0f} s after a lookup by the client",
    "of these, where names can be read: the lookup named what the connection names",
    "of these, where addresses were told: the server's is among them",
)
VARIATION = "coefficient of variation of bytes a second"


class Measured(NamedTuple):
    """A measure of a source."""

    values: np.ndarray
    """(V,) float64: observations; 0 or 1 each of a share; bytes of each second for VARIATION."""
    figure: float
    """Their median, share, or coefficient of variation; NaN without values."""


def measure_scene(flows: SceneFlows) -> dict[str, Measured]:
    """Return the measures of a source by name: DISTRIBUTIONS, SHARES, VARIATION."""
    recording = recordings(flows)
    order = np.lexsort((flows.start_ns, recording))
    flows, recording = flows.chosen(order), recording[order]
    _, client = np.unique(np.stack([recording.astype(np.uint64), flows.client]), axis=1,
                          return_inverse=True)  # fmt: skip
    _, pair = np.unique(np.stack([client.astype(np.uint64), flows.server]), axis=1,
                        return_inverse=True)  # fmt: skip
    connects = flows.is_connection
    values = (
        _num_open(flows, recording),
        np.bincount(client.ravel()),
        np.bincount(client.ravel()[np.unique(pair, return_index=True)[1]]),
        _gaps_s(flows, recording),
        _gaps_s(flows, client.ravel()),
        _num_open(flows, client.ravel()),
        _num_open(flows.chosen(connects), pair.ravel()[connects]),
    )
    measured = {
        name: Measured(v.astype(np.float64), float(np.median(v)) if len(v) else float("nan"))
        for name, v in zip(DISTRIBUTIONS, values, strict=True)
    }
    for name, is_true in zip(SHARES, _after_lookups(flows), strict=True):
        share = float(is_true.mean()) if len(is_true) else float("nan")
        measured[name] = Measured(is_true.astype(np.float64), share)
    per_second = np.concatenate([np.empty(0), *_bytes_per_second(flows).values()])
    measured[VARIATION] = Measured(per_second, _variation(per_second))
    return measured


def recordings(flows: SceneFlows) -> np.ndarray:
    """Return the (N,) int64 recording of each flow: captures that lie less than JOINED_S apart."""
    names, inverse = np.unique(flows.capture, return_inverse=True)
    first = np.full(len(names), np.iinfo(np.int64).max)
    last = np.full(len(names), np.iinfo(np.int64).min)
    np.minimum.at(first, inverse, flows.start_ns)
    np.maximum.at(last, inverse, flows.end_ns)
    order = np.argsort(first, kind="stable")
    reached = np.maximum.accumulate(last[order])
    begins = np.append(True, first[order][1:] > reached[:-1] + int(JOINED_S * _S_NS))
    number = np.empty(len(names), np.int64)
    number[order] = np.cumsum(begins[: len(names)]) - 1
    return number[inverse]


def _num_open(flows: SceneFlows, group: np.ndarray) -> np.ndarray:
    """Return for each flow how many of its group are open when it begins, itself included."""
    result = np.empty(len(flows), np.int64)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    for chosen in np.split(order, starts[1:]) if len(order) else ():
        begin_ns = flows.start_ns[chosen]
        begun = np.searchsorted(np.sort(begin_ns), begin_ns, side="right")
        ended = np.searchsorted(np.sort(flows.end_ns[chosen]), begin_ns, side="left")
        result[chosen] = begun - ended
    return result


def _gaps_s(flows: SceneFlows, group: np.ndarray) -> np.ndarray:
    """Return the seconds between consecutive starts of the same group."""
    order = np.lexsort((flows.start_ns, group))
    same = group[order][1:] == group[order][:-1]
    return np.diff(flows.start_ns[order])[same] / _S_NS


def _after_lookups(flows: SceneFlows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return bool arrays: which connections follow a lookup, of those with names to compare which
    names are equal, of those with addresses told which server is among them."""
    asked = _by_host(flows.asker, flows.asked_ns, flows.asked)
    told = _by_host(flows.told_to, flows.told_ns, flows.told)
    follows, is_named, is_told = [], [], []
    for k in np.flatnonzero(flows.is_connection).tolist():
        host, end_ns = int(flows.client[k]), int(flows.start_ns[k])
        names = _within(asked.get(host), end_ns)
        follows.append(bool(len(names)))
        if len(names) and flows.name[k] != NO_NAME and (names != NO_NAME).any():
            is_named.append(bool((names == flows.name[k]).any()))
        addresses = _within(told.get(host), end_ns)
        if len(names) and len(addresses):
            is_told.append(bool((addresses == flows.server[k]).any()))
    return tuple(np.array(v, np.bool_) for v in (follows, is_named, is_told))


def _by_host(
    host: np.ndarray, ts_ns: np.ndarray, value: np.ndarray
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return {host: (times in order, values)}."""
    order = np.lexsort((ts_ns, host))
    begins = np.flatnonzero(np.diff(host[order], prepend=host[order][:1] ^ np.uint64(1)))
    parts = np.split(order, begins[1:]) if len(order) else []
    return {int(host[p[0]]): (ts_ns[p], value[p]) for p in parts}


def _within(messages: tuple[np.ndarray, np.ndarray] | None, end_ns: int) -> np.ndarray:
    """Return the values of messages in the LOOKUP_S up to a time."""
    if messages is None:
        return np.empty(0, np.uint64)
    ts_ns, values = messages
    bounds = [end_ns - int(LOOKUP_S * _S_NS), end_ns]
    begin, end = np.searchsorted(ts_ns, bounds[0]), np.searchsorted(ts_ns, bounds[1], "right")
    return values[begin:end]


def _bytes_per_second(flows: SceneFlows) -> dict[int, np.ndarray]:
    """Return {recording: bytes of each of its seconds}, as shares of the recording's mean.

    Of a longer silence JOINED_S count.
    """
    names, index = np.unique(flows.capture, return_index=True)
    of_capture = dict(zip(names.tolist(), recordings(flows)[index].tolist(), strict=True))
    seconds: dict[int, dict[int, int]] = {}
    for (capture, _), volume in flows.volume.items():
        if capture in of_capture:
            own = seconds.setdefault(of_capture[capture], {})
            for second, num_bytes in volume.items():
                own[second] = own.get(second, 0) + num_bytes
    result = {}
    for number, own in seconds.items():
        times = np.sort(np.array(list(own)))
        at = np.append(0, np.cumsum(np.minimum(np.diff(times), int(JOINED_S))))
        series = np.zeros(at[-1] + 1)
        series[at] = [own[second] for second in times.tolist()]
        result[number] = series / max(series.mean(), 1e-9)
    return result


def _variation(series: np.ndarray) -> float:
    return float(series.std() / series.mean()) if len(series) and series.any() else float("nan")


def difference(name: str, ours: Measured, theirs: Measured) -> float:
    """Return how far a measure of two sources is apart, 0 to 1; NaN where one has no values.

    Distributions: Kolmogorov-Smirnov. Shares: their difference. Coefficients of variation: their
    difference over their sum.
    """
    if name in DISTRIBUTIONS:
        return kolmogorov_smirnov(ours.values, theirs.values)
    apart = abs(ours.figure - theirs.figure)
    return apart / max(ours.figure + theirs.figure, 1e-12) if name == VARIATION else apart


def floors(flows: SceneFlows) -> dict[str, float]:
    """Return by measure the largest difference between halves of real flows: random halves of the
    clients, and the earlier against the later half; NaN where halves have too few values."""
    recording = recordings(flows)
    halves = []
    for number in range(_NUM_HALVES):
        mixed = (flows.client ^ np.uint64(number)) * np.uint64(0x9E3779B97F4A7C15)
        halves.append((mixed >> np.uint64(40)) & np.uint64(1) == 1)
    order = np.lexsort((flows.start_ns, recording))
    first = np.searchsorted(recording[order], recording)
    count = np.bincount(recording)[recording]
    rank = np.empty(len(flows), np.int64)
    rank[order] = np.arange(len(flows))
    halves.append(rank - first >= count // 2)
    result: dict[str, float] = {}
    for half in halves:
        ours, theirs = (measure_scene(flows.chosen(which)) for which in (half, ~half))
        for name in ours:
            if min(len(ours[name].values), len(theirs[name].values)) >= MIN_VALUES:
                apart = difference(name, ours[name], theirs[name])
                result[name] = max(result.get(name, 0.0), apart)
    result[VARIATION] = _floor_of_variation(flows)
    return result


def _floor_of_variation(flows: SceneFlows) -> float:
    """Return how far the variation of the earlier and of the later seconds of recordings is
    apart."""
    series = list(_bytes_per_second(flows).values())
    halves = [np.concatenate([np.empty(0), *(s[k::2] for s in series)]) for k in range(2)]
    halves += [np.concatenate([np.empty(0), *(s[: len(s) // 2] for s in series)]),
               np.concatenate([np.empty(0), *(s[len(s) // 2 :] for s in series)])]  # fmt: skip
    apart = [
        difference(VARIATION, *(Measured(h, _variation(h)) for h in pair))
        for pair in (halves[:2], halves[2:])
    ]
    return float(np.nanmax([0.0, *apart]))


def scene_section(real: SceneFlows | str, synthetic: SceneFlows | str) -> dict:
    """Return the section.

    Args:
        real: flows of the real source, or why it has none.
        synthetic: the same of the synthetic source.
    """
    reasons = [source for source in (real, synthetic) if isinstance(source, str)]
    for name, flows in (("real", real), ("synthetic", synthetic)):
        if not reasons and len(flows) < MIN_VALUES:
            reasons.append(f"the {name} captures have fewer than {MIN_VALUES} flows")
    if reasons:
        return not_available("; ".join(reasons), HEADLINE)
    ours, theirs, floor = measure_scene(real), measure_scene(synthetic), floors(real)
    rows = {name: _compared(name, ours[name], theirs[name], floor.get(name)) for name in ours}
    usable = {name: row for name, row in rows.items() if row["difference"] is not None}
    worst = max(usable, key=lambda name: usable[name]["difference"] - (usable[name]["floor"] or 0))
    return section(
        {
            "scene_difference": usable[worst]["difference"],
            "scene_difference_floor": usable[worst]["floor"] or 0.0,
            "measures_beyond": sum(row["differs"] for row in usable.values()),
            "scene_measures": len(usable),
        },
        notes=sorted(real.notes | synthetic.notes)[:_NOTES_SHOWN],
        tables=[_table(rows)],
        worst={"measure": worst},
        measures=rows,
        volume={"real": volume_shown(real), "synthetic": volume_shown(synthetic)},
    )


def _compared(name: str, ours: Measured, theirs: Measured, floor: float | None) -> dict:
    """Return what a page says of a measure."""
    apart = None
    if min(len(ours.values), len(theirs.values)) >= MIN_VALUES:
        apart = difference(name, ours, theirs)
        apart = None if np.isnan(apart) else apart
    return {
        "real": ours.figure, "synthetic": theirs.figure, "difference": apart, "floor": floor,
        "differs": apart is not None and apart > (floor or 0.0) + TOLERANCE,
        "real_values": len(ours.values), "synthetic_values": len(theirs.values),
    }  # fmt: skip


def _table(rows: Mapping[str, Mapping]) -> dict:
    columns = ["measure", "real", "synthetic", "difference", "floor", "real values",
               "synthetic values"]  # fmt: skip
    keys = ("real", "synthetic", "difference", "floor", "real_values", "synthetic_values")
    return table(
        "Hosts together, in time", columns,
        [[name, *(row[key] for key in keys)] for name, row in rows.items()],
        "Medians of distributions, shares, and a coefficient of variation. Differences: "
        "Kolmogorov-Smirnov; of shares; over their sum. The floor is the largest difference "
        "between random halves of the real clients, and the earlier and the later half. Not "
        f"compared where a source has fewer than {MIN_VALUES} values.",
    )  # fmt: skip


def volume_shown(flows: SceneFlows) -> dict:
    """Return {seconds: of a bin, labels: {label: bytes of each bin}} of the recording with most
    flows."""
    names, index = np.unique(flows.capture, return_index=True)
    recording = recordings(flows)
    largest = int(np.argmax(np.bincount(recording)))
    shown = {n for n, k in zip(names.tolist(), index, strict=True) if recording[k] == largest}
    volumes = {key: v for key, v in flows.volume.items() if key[0] in shown and v}
    first = min(min(v) for v in volumes.values())
    bin_s = -(-(max(max(v) for v in volumes.values()) - first + 1) // _BINS_SHOWN)
    labels: dict[str, list[int]] = {}
    for (_, label), volume in sorted(volumes.items()):
        bins = labels.setdefault(label, [0] * _BINS_SHOWN)
        for second, num_bytes in volume.items():
            bins[(second - first) // bin_s] += num_bytes
    return {"seconds": bin_s, "labels": labels}
