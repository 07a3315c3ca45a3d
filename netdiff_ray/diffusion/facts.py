"""What an adapter says of its labels: aggregates of their windows, and draws from them.

Nothing here is a single flow's: a server port that only one flow has is counted as 0.
Neither torch nor diffusers is loaded. Shape letters: N windows, P packets, B bits.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numba
import numpy as np

from netdiff_ray.errors import UsageError
from netdiff_ray.nprint.codec import decode
from netdiff_ray.nprint.layouts import Layout, height_for
from netdiff_ray.nprint.timecode import level_of
from netdiff_ray.packets.headers import HEADER_ROW

MAX_WINDOW_PROMPTS = 8
"""Windows of a flow that have prompts of their own; later ones share the last."""

_EXACT_LENGTHS = 32
_BINS_PER_OCTAVE = 8
_FEWEST_SHARING = 2


@dataclass(frozen=True, kw_only=True)
class LabelledWindows:
    """Windows to learn from."""

    nprint: Sequence[np.ndarray]
    """N matrices (P, B) int8 of 1, 0, -1, each with its own P."""
    label: Sequence[str]
    """N labels."""
    flow: Sequence[str]
    """N ids of the flows that the windows are of."""
    window: Sequence[int]
    """N numbers of the windows in their flows, from 0."""
    layout: Layout
    """Whose columns B are."""
    direction: Sequence[np.ndarray] | None = None
    """N arrays (P,) uint8, 0 from the client; wanted where the layout lacks it."""
    interarrival_ns: Sequence[np.ndarray] | None = None
    """N arrays (P,) int64; like `direction`."""

    def __len__(self) -> int:
        return len(self.nprint)


@dataclass(frozen=True, kw_only=True)
class LabelFacts:
    """Aggregates of one label. Keys of mappings are strings of the numbers, as in JSON."""

    num_flows: int
    """Flows seen."""
    num_windows: int
    """Windows of them."""
    num_prompts: int
    """Windows that have a prompt of their own, at most MAX_WINDOW_PROMPTS."""
    lengths: list[list[int]]
    """Packets a flow: [fewest, most, flows], both bounds inclusive."""
    heights: dict[str, int] = field(default_factory=dict)
    """Windows by the height of their raster."""
    server_ports: dict[str, dict[str, int]] = field(default_factory=dict)
    """`tcp` and `udp`: flows by the server's port; 0 stands for ports of one flow each."""
    lifetimes: dict[str, dict[str, int]] = field(default_factory=dict)
    """`client` and `server`: windows by the TTL or hop limit of that side's first packet."""
    interarrivals: dict[str, dict[str, int]] = field(default_factory=dict)
    """`client` and `server`: packets by level of the time before them (see timecode)."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What `adapter.json` holds."""

    base: str
    """Directory or hub name that the LoRA was trained on."""
    revision: str | None
    """Its commit."""
    base_digest: str
    """Hex sha256 of its weights; what counts for whether the adapter fits."""
    layout: str
    """Of the rasters."""
    max_height: int
    """Rows of a full window."""
    prompt: str
    """Template of the prompts."""
    control_heights: list[int]
    """Heights that have control images."""
    labels: dict[str, LabelFacts]
    """By label, sorted."""
    trained: dict[str, float]
    """Settings and result of the training that a reader may ask for: steps, rank, loss."""
    version: str
    """Of netdiff_ray."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One window to draw."""

    label: str
    """What to draw."""
    index: int
    """Number of the flow in the run, within its label."""
    window: int
    """Number of the window in its flow, from 0."""
    height: int
    """Rows of the raster."""
    length: int
    """Packets of the window, at most `height`."""


def facts_to_json(facts: Facts) -> dict:
    """`facts` as JSON types."""
    return asdict(facts)


def facts_from_json(found: dict, where: str) -> Facts:
    """The facts of a parsed `adapter.json`.

    Raises:
        UsageError: a key is missing or unknown; `where` names the file.
    """
    try:
        labels = {name: LabelFacts(**facts) for name, facts in found["labels"].items()}
        return Facts(**{**found, "labels": labels})
    except (TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{where} is not an adapter.json of this version: {error}") from None


def check_windows(windows: LabelledWindows, max_height: int) -> None:
    """Nothing, if the windows can be learnt from.

    Raises:
        UsageError: there are none, columns disagree in number, a window is empty, too high
            or of another layout, or a label is empty; names the first.
    """
    num_windows = len(windows.nprint)
    if not num_windows:
        raise UsageError("there are no windows to train on; encode captures first")
    for name in ("label", "flow", "window", "direction", "interarrival_ns"):
        column = getattr(windows, name)
        if column is not None and len(column) != num_windows:
            raise UsageError(f"{num_windows:,} windows have {len(column):,} values of {name}")
    width = windows.layout.width
    for i, nprint in enumerate(windows.nprint):
        where = f"window {i} (flow {windows.flow[i]}, label {windows.label[i]!r})"
        if not str(windows.label[i]).strip():
            raise UsageError(f"{where} has an empty label; every window needs one")
        if nprint.ndim != 2 or nprint.shape[1] != width:
            raise UsageError(
                f"{where} is of shape {nprint.shape}; layout {windows.layout.name} has {width:,} "
                "columns: encode all captures with one layout"
            )
        if not 0 < len(nprint) <= max_height:
            raise UsageError(
                f"{where} has {len(nprint):,} rows; a window has 1 to {max_height:,}: encode with "
                "the height that you train with"
            )


def describe(windows: LabelledWindows) -> dict[str, LabelFacts]:
    """The facts of each label, by label, sorted."""
    labels = np.asarray(windows.label, dtype=object)
    return {
        str(label): _describe_label(windows, np.flatnonzero(labels == label))
        for label in sorted(set(windows.label))
    }


def _describe_label(windows: LabelledWindows, chosen: np.ndarray) -> LabelFacts:
    rows_per_window = [len(windows.nprint[i]) for i in chosen]
    packets: Counter[str] = Counter()
    for i, num_rows in zip(chosen, rows_per_window, strict=True):
        packets[windows.flow[i]] += num_rows
    rows, direction, interarrival_ns = _decoded(windows, chosen)
    window_of_row = np.repeat(np.arange(len(chosen)), rows_per_window)
    is_first_window = np.array([windows.window[i] == 0 for i in chosen])
    highest = max(int(windows.window[i]) for i in chosen)
    sides = {"client": direction == 0, "server": direction == 1}
    levels = _levels(interarrival_ns)
    lifetime = np.where(rows["version"] == 4, rows["network"][:, 8], rows["network"][:, 7])
    present = rows["version"] > 0
    return LabelFacts(
        num_flows=len(packets),
        num_windows=len(chosen),
        num_prompts=min(highest + 1, MAX_WINDOW_PROMPTS),
        lengths=_bin_lengths(packets.values()),
        heights=_counts([height_for(n) for n in rows_per_window]),
        server_ports=_server_ports(rows, direction, window_of_row, is_first_window),
        lifetimes={
            side: _counts(lifetime[_first_of_each(window_of_row, there & present)])
            for side, there in sides.items()
        },
        interarrivals={side: _counts(levels[there]) for side, there in sides.items()},
    )


@numba.njit(cache=True)
def _levels(interarrival_ns):
    levels = np.empty(len(interarrival_ns), np.int64)
    for i in range(len(interarrival_ns)):
        levels[i] = level_of(interarrival_ns[i])
    return levels


def _decoded(
    windows: LabelledWindows, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Header rows, direction and time of the chosen windows' packets, one after another."""
    rows, direction, interarrival_ns = decode(
        np.concatenate([windows.nprint[i] for i in chosen]), windows.layout
    )
    if windows.direction is not None:
        direction = np.concatenate([windows.direction[i] for i in chosen])
    if windows.interarrival_ns is not None:
        interarrival_ns = np.concatenate([windows.interarrival_ns[i] for i in chosen])
    return rows, direction, interarrival_ns


def _counts(values: Sequence[int] | np.ndarray) -> dict[str, int]:
    found, counts = np.unique(np.asarray(values, np.int64), return_counts=True)
    return {str(v): int(n) for v, n in zip(found, counts, strict=True)}


def _first_of_each(group: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of the first wanted row of each group that has one."""
    at = np.flatnonzero(wanted)
    return at[np.unique(group[at], return_index=True)[1]]


def _server_ports(
    rows: np.ndarray, direction: np.ndarray, window_of_row: np.ndarray, is_first: np.ndarray
) -> dict[str, dict[str, int]]:
    assert rows.dtype == HEADER_ROW
    octets = rows["transport"].astype(np.int64)
    source = octets[:, 0] * 256 + octets[:, 1]
    destination = octets[:, 2] * 256 + octets[:, 3]
    server = np.where(direction == 1, source, destination)
    found = {}
    for name, protocol in (("tcp", 6), ("udp", 17)):
        usable = (rows["protocol"] == protocol) & (rows["transport_len"] >= 4) & (server > 0)
        usable &= is_first[window_of_row]
        ports = server[_first_of_each(window_of_row, usable)]
        values, counts = np.unique(ports, return_counts=True)
        shared = counts >= _FEWEST_SHARING
        table = {str(v): int(n) for v, n in zip(values[shared], counts[shared], strict=True)}
        if not shared.all():
            table["0"] = int(counts[~shared].sum())
        if table:
            found[name] = table
    return found


def _bin_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """[fewest, most, flows] for lengths: exact up to 32 packets, then an eighth of an octave."""
    edges = [*range(1, _EXACT_LENGTHS + 1)]
    while edges[-1] <= max(lengths):
        edges.append(max(edges[-1] + 1, round(edges[-1] * 2 ** (1 / _BINS_PER_OCTAVE))))
    counts, _ = np.histogram(list(lengths), bins=[*edges, edges[-1] + 1])
    bounds = zip(edges, [*edges[1:], edges[-1] + 1], counts, strict=True)
    return [[low, high - 1, int(n)] for low, high, n in bounds if n]


def seed_of(seed: int, label: str, index: int, purpose: str) -> int:
    """63 bits that are a function of the arguments alone, on every machine."""
    text = f"{seed}\x1f{label}\x1f{index}\x1f{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def plan_flow(facts: Facts, label: str, seed: int, index: int) -> list[Sample]:
    """The windows of one flow to draw, its length drawn from the label's distribution.

    A function of the adapter's facts, the run's seed, the label and the index alone.

    Raises:
        UsageError: the adapter does not know the label.
    """
    known = label_facts(facts, label)
    rng = np.random.default_rng(seed_of(seed, label, index, "length"))
    bins = np.array(known.lengths)
    low, high, _ = bins[rng.choice(len(bins), p=bins[:, 2] / bins[:, 2].sum())]
    packets = int(rng.integers(low, high + 1))
    samples = []
    for first in range(0, packets, facts.max_height):
        length = min(packets - first, facts.max_height)
        samples.append(
            Sample(
                label=label, index=index, window=first // facts.max_height,
                height=height_for(length), length=length,
            )
        )  # fmt: skip
    return samples


def label_facts(facts: Facts, label: str) -> LabelFacts:
    """The facts of `label`.

    Raises:
        UsageError: the adapter does not know it.
    """
    if label not in facts.labels:
        raise UsageError(
            f"the adapter does not know label {label!r}; it knows {', '.join(facts.labels)}"
        )
    return facts.labels[label]
